"""One thing, one name: what look/zh, the table of causes and the Chinese README must not say, and what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHINESE = [*sorted((ROOT / "look" / "zh").glob("*.toml")), ROOT / "README.zh-CN.md"]
CHINESE += [ROOT / "runners" / "supervise" / "causes.toml", ROOT / "runners" / "places.example.toml"]
REJECTED = {
    "色带": "阴影带 of an interval, 色条 of colours: it means a colour map",
    "挂钩": "注册了 hook 的层",
    "实验臂": "实验组: it is misread beside robot arms",
    "监护|照管|看护": "无人值守, 守护程序: it is said of patients",
    "模型中心|模型站点|模型枢纽": "Hub",
    "词元|令牌": "token",
    "优化步": "优化器步",
    "(?<!随机)种子": "随机种子",
    "底座模型": "基座模型",
    "本机代码": "原生代码",
    "补救办法": "补救措施",
}
"""Regular expressions of terms, with what is said for them."""


def said(path: Path) -> str:
    """A file's text, in which a line's end between Chinese letters is none, as the reader of catalogues has it."""
    return re.sub(r"(?<=[^\x00-\x7f])\n(?=[^\x00-\x7f])", "", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CHINESE, ids=lambda path: path.name)
def test_no_rejected_term_is_used(path: Path) -> None:
    text = said(path)
    assert re.search(r"[\u4e00-\u9fff]", text)
    found = {match[0]: instead for term, instead in REJECTED.items() for match in re.finditer(term, text)}
    assert found == {}, path


def test_the_chosen_terms_are_used_and_a_term_across_lines_is_seen(tmp_path: Path) -> None:
    everything = "\n".join(map(said, CHINESE))
    chosen = (
        "阴影带",
        "色条",
        "注册了 hook 的",
        "实验组",
        "无人值守",
        "守护程序",
        "Hub",
        "token",
        "优化器步",
        "随机种子",
        "补救措施",
    )
    assert [term for term in chosen if term not in everything] == []
    (tmp_path / "broken").write_text("随机\n种子与种\n子", encoding="utf-8")
    assert re.findall("(?<!随机)种子", said(tmp_path / "broken")) == ["种子"]
