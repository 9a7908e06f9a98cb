"""The textual tools, each beside the same command run by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graft.history import History
from graft.textual import APPLY, PATCH, THREE_WAY, TOOLS, Textual
from tests.graft.histories import TRAIN, Upstream
from tests.graft.repositories import sh

EDITED = TRAIN.replace("    model = wrap(model, cfg)\n", "    model = wrap(model, cfg)\n    attach(model)\n")


def by_hand(upstream: Upstream, commit: str, diff: str, folder: Path) -> dict[str, bool]:
    """The three tools in checkouts of their own."""
    ends = {}
    for number, words in enumerate((["git", "apply"], ["git", "apply", "--3way"], ["patch", "-p1", "-F3", "-f"])):
        place = folder / f"{commit[:8]}-{number}"
        sh("clone", "-q", str(upstream.place), str(place), cwd=folder)
        sh("checkout", "-q", commit, cwd=place)
        ends[TOOLS[number]] = not subprocess.run(words, cwd=place, input=diff.encode(), capture_output=True).returncode
    return ends


def test_each_tool_ends_as_it_does_by_hand(tmp_path: Path) -> None:
    upstream = Upstream(tmp_path / "tool")
    commits = {
        "the pin": upstream.first,
        "elsewhere in the file": upstream.change("import os\n", "import os\nimport sys\n", "elsewhere"),
        "context changed": upstream.change("model = build(cfg)", "model = make(cfg)", "context"),
        "anchor changed": upstream.change("model = wrap(model, cfg)", "model = wrap(model)", "anchor"),
        "file gone": upstream.move("src/train.py", "src/loop.py", "moved"),
    }
    with (
        History(upstream.place) as history,
        Textual(history, upstream.first, {"src/train.py": EDITED.encode()}) as textual,
    ):
        assert textual.paths == ("src/train.py",)
        ends = {name: textual.at(commit) for name, commit in commits.items()}
        applied = {name: {tool: files is not None for tool, files in end.items()} for name, end in ends.items()}
        for name, commit in commits.items():
            assert applied[name] == by_hand(upstream, commit, textual.diff, tmp_path), name
    assert ends["the pin"] == {tool: {"src/train.py": EDITED.encode()} for tool in TOOLS}
    assert applied["context changed"] == {APPLY: False, THREE_WAY: True, PATCH: True}
    assert set(applied["file gone"].values()) == {False}
    patched = ends["anchor changed"][PATCH]
    assert patched is not None
    assert b"attach(model)" in patched["src/train.py"]  # it applies where the statement that it belongs to is gone


@pytest.mark.parametrize("setting", ["apply.ignoreWhitespace=change", "apply.whitespace=error", "core.autocrlf=true"])
def test_a_users_settings_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    key, value = setting.split("=")
    for name, text in (("COUNT", "1"), ("KEY_0", key), ("VALUE_0", value)):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", text)
    upstream = Upstream(tmp_path / "tool")
    spaced = upstream.change("model = build(cfg)", "model =  build(cfg)", "white space in the context")
    with (
        History(upstream.place) as history,
        Textual(
            history, upstream.first, {"src/train.py": EDITED.replace("attach(model)", "attach(model) ").encode()}
        ) as textual,
    ):
        assert [files is not None for files in textual.at(upstream.first).values()] == [True, True, True]
        assert textual.at(spaced)[APPLY] is None
