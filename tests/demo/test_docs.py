"""What the documents promise exists: links, make targets, verbs, switches, exit codes, and the example pack loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graft.cli import parser
from graft.errors import Exit
from graft.lock import Lock
from graft.pack import load_pack

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (*READMES, "THIRD_PARTY.md", "envs/cpu-shims/README.md")
PAGES += ("docs/adding-a-method.md", "docs/launching.md", "docs/supervise.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", read(name))
    missing = [
        link for link in links if not link.startswith("https://") and not (ROOT / name).parent.joinpath(link).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_and_every_verb_exists(name: str) -> None:
    text = read(name)
    targets = set(re.findall(r"(?m)^([a-z-]+):", read("Makefile")))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", text)) - {"virtual"} <= targets
    verbs = set(next(action for action in parser()._actions if action.dest == "verb").choices or ())
    names = set(Lock.load(ROOT).names)
    # Inside code only: a sentence may go on after the bare command.
    code = "\n".join(re.findall(r"`[^`\n]+`|(?m:^    .+$)", text))
    assert set(re.findall(r"apply\.py ([A-Za-z][\w-]*)", code)) <= verbs | names


@pytest.mark.parametrize("name", READMES)
def test_the_exit_codes_are_those_of_the_engine(name: str) -> None:
    assert [int(code) for code in re.findall(r"(?m)^\| (\d) \|", read(name))] == [int(code) for code in Exit]


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_packs_is_that_of_the_lock_with_all_its_switches(name: str) -> None:
    rows = {
        (cells[1].strip(), cells[2].strip(" `")): set(re.findall(r"`(\w+)`", cells[3]))
        for cells in (line.replace(r"\|", "").split("|") for line in read(name).splitlines())
        if len(cells) == 6 and cells[2].strip().startswith("`")
    }
    upstreams = Lock.load(ROOT).upstreams
    assert set(rows) == {(upstream.name, pack) for upstream in upstreams for pack in upstream.packs}
    fields = re.findall(
        r"(?m)^    (\w+): .*= field\(", read("overlays/LLaMA-Factory/src/llamafactory/hsa/arguments.py")
    )
    assert rows["LLaMA-Factory", "hsa"] == set(fields)
    fields = re.findall(r"(\w+): \w+ = field\(", read("patches/LLaMA-Factory/feedback.py"))
    assert rows["LLaMA-Factory", "feedback"] == set(fields)


def test_both_languages_give_the_same_commands() -> None:
    commands = [
        [line.split("#")[0].strip() for line in read(name).splitlines() if line.startswith("    ")][:5]
        for name in READMES
    ]
    assert commands[0] == commands[1]
    assert commands[0][:2] == ["make demo", "make test"]


def test_both_languages_have_the_same_sections_and_lead_to_all_pages() -> None:
    sections = [re.findall(r"(?m)^(#{1,3}) ", read(name)) for name in READMES]
    assert sections[0] == sections[1]
    for name in READMES:
        assert {"docs/launching.md", "docs/supervise.md"} <= set(re.findall(r"\]\(([^)\s]+)\)", read(name)))


def test_the_example_pack_loads(tmp_path: Path) -> None:
    text = read("docs/adding-a-method.md")
    example = text[text.index("    from graft.pack import") : text.index("An anchor names")]
    file = tmp_path / "patches" / "LLaMA-Factory" / "mymethod.py"
    file.parent.mkdir(parents=True)
    file.write_text(re.sub(r"(?m)^    ", "", example), encoding="utf-8")
    pack, _ = load_pack(tmp_path, "LLaMA-Factory", "mymethod")
    assert (pack.name, pack.upstream) == ("mymethod", "LLaMA-Factory")


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    assert re.search(r"(?m)^    make test\b", read("README.md"))
    assert re.search(r"(?m)^make test ", read(".ci/run"))
