"""The first files of a pack: they apply as they are, in a known upstream and in one that is pinned on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.fsops import FileSystem
from graft.lock import Lock
from tests.standins.project import Project, everything
from tests.standins.upstream import make_upstream, sh

FIFTH = {
    "LICENSE": b"MIT License\n",
    "script.py": b"import os\n\n\ndef main():\n    value = os.getpid()\n    return value\n",
    "pkg/__init__.py": b"",
    "pkg/core.py": b"class A:\n    def run(self):\n        x = 1\n        x = 1\n        done(x)  # last\n",
}


@pytest.fixture
def fifth(tmp_path: Path) -> str:
    return make_upstream(tmp_path / "fifth", FIFTH).place.as_uri()


def test_a_pack_for_a_known_upstream_applies_as_it_is(applied: Project) -> None:
    lock = (applied.root / "upstream.lock").read_text()
    applied.ok("init-pack", "tool", "mine", "--in", "src/tool/model.py:Model.forward")
    assert (applied.root / "upstream.lock").read_text() == lock.replace(
        '["speed", "notes"]', '["speed", "notes", "mine"]'
    )
    applied.ok("apply", "tool")
    assert b"from .mine import attach_mine\n" in applied.read("tool/src/tool/model.py")
    assert b"        attach_mine()\n        return scaled\n" in applied.read("tool/src/tool/model.py")
    assert applied.read("tool/src/tool/mine/__init__.py").startswith(b'"""Say what the method is')


def test_a_fifth_upstream_is_pinned_on_the_way(applied: Project, fifth: str) -> None:
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert (
        (applied.root / "upstream.lock")
        .read_text()
        .endswith(
            f'[upstream.fifth]\nurl = "{fifth}"\nref = "main"\ncommit = "{_head(fifth)}"\n'
            f'tree = "{_head(fifth, "^{tree}")}"\nlicense = "MIT"\npath = "upstreams/fifth"\n'
            'python = ">=3.10"\npacks = ["ema"]\n'
        )
    )
    assert sh("ls-files", "--stage", "upstreams/fifth", cwd=applied.root).split()[:2] == ["160000", _head(fifth)]
    applied.ok("apply", "fifth")
    assert b"import os\nfrom ema import attach_ema\n" in applied.read("fifth/script.py")
    assert b"    attach_ema()\n    return value\n" in applied.read("fifth/script.py")
    applied.ok("revert", "fifth")
    assert applied.read("fifth/script.py") == FIFTH["script.py"]


def test_the_anchor_stands_once(applied: Project, fifth: str) -> None:
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "pkg/core.py:A.run")
    assert 'before("done(x)", add="attach_ema()"' in (applied.root / "patches/fifth/ema.py").read_text()
    applied.ok("apply", "fifth")
    assert applied.read("fifth/pkg/core.py").endswith(b"        attach_ema()\n        done(x)  # last\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nope", "p", "--in", "a.py:f"), "no upstream is called 'nope'"),
        (("tool", "../p", "--in", "src/tool/model.py:load"), "no plain name"),
        (("tool", "p", "--in", "../x.py:f"), "no path inside a checkout"),
        (("tool", "p", "--in", "src/none.py:f"), "there is no file src/none.py"),
        (("tool", "p", "--in", "src/tool/model.py:Model"), "is not one function there"),
        (("tool", "speed", "--in", "src/tool/model.py:load"), "is there already"),
        (("tool", "3d", "--in", "src/tool/model.py:load"), "'3d' is no identifier"),
        (("tool", "my-method", "--in", "src/tool/model.py:load"), "'my-method' is no identifier"),
        (("tool", "class", "--in", "src/tool/model.py:load"), "'class' is a keyword"),
        (("tool", "random", "--in", "src/tool/model.py:load"), "'random' is a module of Python's own library"),
        (
            ("tool", "config", "--in", "src/tool/model.py:load"),
            "the overlay src/tool/config/ and src/tool/config.py would be one module",
        ),
        (("new", "p", "--url", "ext::sh -c x", "--in", "a.py:f"), "url"),
        (("new", "p", "--url", "-x", "--in", "a.py:f"), "url"),
    ],
)
def test_bad_words_write_nothing(applied: Project, arguments: tuple[str, ...], says: str) -> None:
    before = everything(applied.root)
    ran = applied.run("init-pack", *arguments)
    assert ran.code != 0
    assert says in ran.said
    assert "Traceback" not in ran.said
    assert everything(applied.root) == before


def test_a_head_that_is_no_branch_is_pinned_by_its_id(applied: Project, fifth: str) -> None:
    sh("checkout", "-q", "--detach", cwd=Path(fifth.removeprefix("file://")))
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert Lock.load(applied.root).upstreams[-1].ref == _head(fifth)


def test_a_name_with_a_dot_is_quoted(applied: Project, tmp_path: Path) -> None:
    url = make_upstream(tmp_path / "small.cpp", FIFTH).place.as_uri()
    applied.ok("init-pack", "small.cpp", "ema", "--url", url, "--in", "pkg/core.py:A.run")
    assert '\n[upstream."small.cpp"]\n' in (applied.root / "upstream.lock").read_text()
    assert Lock.load(applied.root).names == ("tool", "other", "small.cpp")
    applied.ok("init-pack", "small.cpp", "other", "--in", "pkg/core.py:A.run")
    applied.ok("apply", "small.cpp")
    text = applied.read("small.cpp/pkg/core.py")
    assert text.endswith(b"        attach_ema()\n        attach_other()\n        done(x)  # last\n")


def test_a_comment_that_names_a_table_is_no_table(applied: Project) -> None:
    lock = applied.root / "upstream.lock"
    text = lock.read_text().replace("[upstream.other]", '[upstream."other"] # the second')
    text = text.replace("format = 1\n", "format = 1\n# [upstream.other] and [upstream.tool] are stand-ins\n")
    lock.write_text(text)
    applied.ok("init-pack", "other", "mine", "--in", "other/core.py:start")
    assert lock.read_text() == text.replace('["tiny"]', '["tiny", "mine"]')
    applied.ok("apply", "other")


SCRIPTS = {
    "run.py": b"import ema_pytorch\n\n\ndef main():\n    value = ema_pytorch.EMA()\n    return value\n",
    "other/run.py": b"def main():\n    attach_mine = 1\n    return attach_mine\n",
    "other/helper/data.txt": b"",
}


@pytest.mark.parametrize(
    ("pack", "place", "says"),
    [
        ("run", "run.py:main", "the overlay run/ and run.py would be one module"),
        ("helper", "other/run.py:main", "the overlay other/helper/ and other/helper would be one module"),
        ("Helper", "other/run.py:main", "the overlay other/Helper/ and other/helper would be one module"),
        ("ema_pytorch", "run.py:main", "run.py imports ema_pytorch, which the overlay ema_pytorch/ would hide"),
        ("mine", "other/run.py:main", "has a name attach_mine of its own"),
    ],
)
def test_an_overlay_hides_nothing(applied: Project, tmp_path: Path, pack: str, place: str, says: str) -> None:
    url = make_upstream(tmp_path / "scripts", SCRIPTS).place.as_uri()
    before = everything(applied.root)
    ran = applied.run("init-pack", "scripts", pack, "--url", url, "--in", place)
    assert ran.code != 0
    assert says in ran.said
    assert "Traceback" not in ran.said
    assert everything(applied.root) == before


def test_the_seam_stands_where_it_is_reached(applied: Project, tmp_path: Path) -> None:
    files = {"a.py": b"def f(x):\n    y = x[...]\n    z = y + 1\n    return z\n    print(z)\n"}
    url = make_upstream(tmp_path / "late", files).place.as_uri()
    applied.ok("init-pack", "late", "mine", "--url", url, "--in", "a.py:f")
    applied.ok("apply", "late")
    assert b"    attach_mine()\n    return z\n" in applied.read("late/a.py")


def test_a_busy_index_stops_it_before_anything_is_written(applied: Project, fifth: str) -> None:
    held = applied.root / ".git/index.lock"
    held.touch()
    before = everything(applied.root)
    ran = applied.run("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert ran.code == 1
    assert "index.lock: another git command is at work" in ran.said
    assert everything(applied.root) == before
    held.unlink()
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert _gitlink(applied) == _head(fifth)


@pytest.mark.parametrize(("renames", "whole"), [(0, False), (1, True), (4, True)])
def test_a_kill_leaves_all_of_it_or_nothing(
    applied: Project, fifth: str, monkeypatch: pytest.MonkeyPatch, renames: int, whole: bool
) -> None:
    """Killed after so many renames, the first of which puts the journal into place; the next command settles it."""
    real: Callable[..., None] = FileSystem.replace

    def stop(self: FileSystem, *args: Any) -> None:
        nonlocal renames
        renames -= 1
        if renames < 0:
            raise KeyboardInterrupt
        real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(FileSystem, "replace", stop)
        assert applied.run("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main").code == 130
    applied.ok("status", "tool")
    there = [
        "fifth" in Lock.load(applied.root).names,
        (applied.root / "patches/fifth/ema.py").exists(),
        (applied.root / "overlays/fifth/ema/__init__.py").exists(),
        (applied.root / ".gitmodules").exists(),
        _gitlink(applied) == _head(fifth),
    ]
    assert there == [whole] * 5


def test_what_an_older_run_left_half_done_is_finished(applied: Project, fifth: str) -> None:
    words = ("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    applied.ok(*words)
    sh("rm", "-q", "--cached", "upstreams/fifth", cwd=applied.root)
    before = everything(applied.root)
    assert applied.ok(*words, "--json").json["wrote"] == ["upstreams/fifth"]
    assert _gitlink(applied) == _head(fifth)
    assert everything(applied.root) == before
    ran = applied.run(*words)
    assert ran.code == 2
    assert "patches/fifth/ema.py: is there already" in ran.said


def test_a_known_upstream_needs_no_checkout(project: Project) -> None:
    project.ok("init-pack", "tool", "mine", "--in", "src/tool/model.py:halve")
    assert not project.at("tool").exists()
    project.ok("apply", "tool")
    assert b"    attach_mine()\n    return value / 2\n" in project.read("tool/src/tool/model.py")


def test_a_submodule_of_another_address_is_not_taken_over(applied: Project, fifth: str) -> None:
    applied.write(".gitmodules", '[submodule "x"]\n\tpath = upstreams/fifth\n\turl = https://h/x')
    ran = applied.run("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert ran.code == 2
    assert "upstreams/fifth is there with the url https://h/x" in ran.said
    assert not (applied.root / "patches/fifth").exists()
    applied.write(".gitmodules", f'[submodule "x"]\n\tpath = upstreams/x\n\turl = {fifth}')
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert sh("config", "-f", ".gitmodules", "submodule.upstreams/fifth.path", cwd=applied.root) == "upstreams/fifth"


def _gitlink(project: Project) -> str:
    return (sh("ls-files", "--stage", "upstreams/fifth", cwd=project.root).split() or ["", ""])[1]


def _head(url: str, suffix: str = "") -> str:
    return sh("rev-parse", f"HEAD{suffix}", cwd=Path(url.removeprefix("file://")))
