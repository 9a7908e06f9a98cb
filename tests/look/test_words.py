"""Labels in two languages: every label of every report has a Chinese one, and every Chinese one is of a label."""

from __future__ import annotations

import argparse
import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from look import words
from look.words import LANGUAGES, UnknownLabel, Words, catalogue, default_language, one_line

ROOT = Path(words.__file__).resolve().parents[1]
SOURCES = [path for name in ("look", "graft", "runners", "demo") for path in sorted((ROOT / name).rglob("*.py"))]
SOURCES += [ROOT / "bench" / "closed_loop.py", *sorted((ROOT / "overlays/starVLA/starVLA/sagr").glob("stages.py"))]
TABLES = {
    "runners/openvla_arms.py": ("Arm",),
    "runners/starvla_libero.py": ("Arm",),
    "bench/closed_loop.py": ("Arm",),
    "overlays/starVLA/starVLA/sagr/stages.py": ("says",),
}
"""Where labels are made that a report looks up: the calls that hold them, or the keyword."""
DICTIONARIES = {
    "runners/digits/results.py": ("SAYS", "WORDS", "DECIDED"),
    "runners/digits/report.py": ("SECTIONS",),
    "runners/oid/charts.py": ("SOURCES",),
    "runners/oid/target.py": ("HALVES",),
    "runners/oid/decomposition.py": ("UNITS",),
    "runners/reach_world/report.py": ("RATES",),
    "demo/infodyn_timeline.py": ("KINDS",),
    "graft/timeline.py": ("STATES",),
    "demo/report.py": ("POLICIES",),
}
"""Dictionaries whose values are labels."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def texts(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield one_line(each.value)


def labels() -> dict[str, str]:
    """Every label that the sources say, with where."""
    found: dict[str, str] = {}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called == "words" or called in TABLES.get(name, ()):
                    # An arm of openvla has its name first.
                    place = 1 if name == "runners/openvla_arms.py" and called == "Arm" else 0
                    found |= dict.fromkeys(list(texts(node.args[place]))[:1], f"{name}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg in TABLES.get(name, ()):
                found |= dict.fromkeys(texts(node.value), f"{name}:{node.value.lineno}")
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                target = getattr(node.targets[0], "id", "")
                if target in DICTIONARIES.get(name, ()):
                    for value in node.value.values:
                        found |= dict.fromkeys(texts(value), f"{name}:{value.lineno}")
    return found


def test_every_label_has_a_chinese_one() -> None:
    known, found = catalogue("zh"), labels()
    assert len(found) > 250
    missing = {label: where for label, where in found.items() if label not in known}
    assert missing == {}


def test_every_chinese_label_is_of_one_that_is_said_somewhere() -> None:
    said = {text for _, tree in trees() for text in texts(tree)}
    # What a pattern of the table of causes finds is shown under the name of its group.
    said |= set(re.findall(r"\(\?P<(\w+)>", (ROOT / "runners/supervise/causes.toml").read_text(encoding="utf-8")))
    assert sorted(set(catalogue("zh")) - said) == []


def test_a_translation_has_the_values_of_its_label() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    differ = {label: told for label, told in catalogue("zh").items() if fields(label) != fields(told)}
    assert differ == {}


def test_a_label_is_looked_up_whatever_its_line_breaks() -> None:
    assert Words("zh")("learning\n     rate") == "学习率"
    assert Words("en")("learning\n     rate") == "learning rate"
    assert Words("zh")("for {count} training runs", count=4) == "共 4 次训练"
    assert Words("en")("{a brace} stays") == "{a brace} stays"
    assert Words("zh").joined(["a", "b"]) == "a、b"
    assert Words("zh").of("what a program said") == "what a program said"


def test_an_unknown_label_is_an_error_that_names_label_and_file() -> None:
    with pytest.raises(UnknownLabel, match=r"no zh for the label 'no such label'.*look/zh/.*shared\.toml"):
        Words("zh")("no such label")
    with pytest.raises(ValueError, match="'fr' is not a language of reports: say en or zh"):
        Words("fr")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "en_US"}, "zh"),
        ({"GRAFT_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"GRAFT_LANG": "zh"}, "zh"),
        ({"GRAFT_LANG": "zh_CN.UTF-8", "LANG": "en_US"}, "zh"),
        ({"GRAFT_LANG": "EN-gb", "LANG": "zh_CN"}, "en"),
        ({"LANG": "zhx"}, "en"),
    ],
)
def test_the_default_is_the_variable_then_the_locale(environment: dict[str, str], expected: str) -> None:
    assert default_language(environment) == expected


def test_the_option_and_its_variable_take_known_languages_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parse(*arguments: str) -> str:
        parser = argparse.ArgumentParser()
        words.add_option(parser)
        return str(parser.parse_args(arguments).lang)

    monkeypatch.delenv("GRAFT_LANG", raising=False)
    assert [parse("--lang", lang) for lang in LANGUAGES] == list(LANGUAGES)
    assert [parse("--lang", tag) for tag in ("zh_CN", "zh-CN", "zh_CN.UTF-8", "zh@pinyin", "en_US")] == ["zh"] * 4 + [
        "en"
    ]
    monkeypatch.setenv("GRAFT_LANG", "zh-CN")
    assert parse() == "zh"
    monkeypatch.setenv("GRAFT_LANG", "fr")
    with pytest.raises(SystemExit):
        parse()
    assert "'fr' is not a language of reports: say en or zh" in capsys.readouterr().err


def test_a_catalogue_that_says_a_label_twice_differently_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "a.toml").write_text('"loss" = "损失"\n', encoding="utf-8")
    other = "[[paragraph]]\nen = '''\nloss\n'''\nzh = '''\n代\n价\n'''\n"
    (tmp_path / "zh" / "b.toml").write_text(other, encoding="utf-8")
    monkeypatch.setattr(words, "CATALOGUES", tmp_path)
    with pytest.raises(ValueError, match=r"b\.toml: 'loss' is '代价' here, and '损失' before"):
        catalogue.__wrapped__("zh")
