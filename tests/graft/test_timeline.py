"""The page of `survive`: what each commit's cell says, and how a browser draws it in both languages."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from graft.history import Commit
from graft.textual import TOOLS
from graft.timeline import DENSE, page
from graft.trials import ASIDE, BROKEN, STANDS, Failure, Survival, Trial
from look.words import LANGUAGES, Words
from tests.browser import Browser
from tests.pages import Reader, check_drawn, needs_chromium

COUNT = 40
WHY = Failure("hook:2", "src/train.py", "train", "after `wrap(...)`", "missing", "found nowhere in the definition <b>")


def commit(number: int) -> Commit:
    day = datetime(2026, 1, 5, tzinfo=timezone.utc) + timedelta(days=4 * number)
    return Commit(f"{number + 1:010x}" + "0" * 30, (), day.isoformat(), "somebody", f"Change number {number + 1} <i>")


def survival(count: int = COUNT, pin: int = COUNT - 2) -> Survival:
    """The first two set aside, the last five broken; `git apply` applies a third, one in six of all lands elsewhere."""
    trials = []
    for number in range(count):
        verdict = ASIDE if number < 2 else BROKEN if number >= count - 5 else STANDS
        applies = {tool: (number + place) % 3 == 0 for place, tool in enumerate(TOOLS)}
        right = {tool: applies[tool] and number % 2 == 0 for tool in TOOLS}
        missing, failures = ("evaluate",) if verdict == ASIDE else (), (WHY,) if verdict == BROKEN else ()
        trials.append(Trial(commit(number), verdict, failures, missing, textual=applies, right=right))
    return Survival("Tool", "v1..main", commit(pin), trials, 1.5, TOOLS, 2.5)


def test_cells_and_shares_are_those_of_the_trials() -> None:
    html = page(survival())
    reader = Reader(html)
    assert reader.open == []
    assert [load for load in reader.loads if not load.startswith("data:")] == []
    lanes = re.findall(r'<code class="name">([^<]*)</code><div class="cells">(.*?)</div>', html)
    kinds = {name: re.findall(r'<i class="(\w+)"', cells) for name, cells in lanes}
    assert list(kinds) == ["graft", *TOOLS]
    assert kinds["graft"] == ["aside"] * 2 + ["ok"] * 33 + ["no"] * 5
    # Numbers 0, 6, 12, ... apply where they belong, 3, 9, 15, ... elsewhere.
    assert kinds[TOOLS[0]] == [{0: "ok", 3: "off"}.get(number % 6, "no") for number in range(COUNT)]
    # Of the 38 that are judged, 13 are divisible by 3 (3 to 39), 6 of these by 6.
    assert re.findall(r'<span class="rate">([^<]*)<small>([^<]*)<', html)[:2] == [
        ("86.8%", "of 38"),
        ("34.2%", "15.8% in place"),
    ]
    data = json.loads(re.findall(r"const DATA = (.*), START = 35;", html)[0])
    assert data[35]["why"] == [f"train {WHY}"]
    assert data[0]["why"] == ["in no file: evaluate"]
    assert data[0]["head"] == "0000000001, 2026-01-05, 1 of 40"
    assert [row[0] for row in reader.rows[1:]] == [commit(n).day for n in (0, 1, *range(35, 40))]
    assert "<i>" not in html.replace("&lt;i&gt;", "")


@pytest.mark.parametrize(("pin", "place"), [(4, 'pin" style="left:12.50%'), (38, 'pin late" style="right:2.50%')])
def test_the_word_of_the_pin_stands_where_there_is_room(pin: int, place: str) -> None:
    assert f'<span class="{place}">pin</span>' in page(survival(pin=pin))


def test_without_a_pin_or_tools_nothing_is_said_of_them() -> None:
    trials = [Trial(commit(number), STANDS) for number in range(3)]
    html = page(Survival("Tool", "v1..main", None, trials, 0.1))
    assert "each edit is located once" in html
    assert "diff made at the pin" not in html
    assert ">pin<" not in html
    assert html.count('class="cells"') == 1
    assert 'class="dense"' not in html
    assert 'class="dense"' in page(survival(DENSE + 1))


@needs_chromium
@pytest.mark.parametrize("pin", [4, 38])
def test_a_browser_draws_it_in_both_languages(browser: Browser, tmp_path: Path, pin: int) -> None:
    pages = {lang: page(survival(pin=pin), Words(lang)) for lang in LANGUAGES}
    check_drawn(browser, pages, tmp_path, f"survive-{pin}")


@needs_chromium
def test_keys_go_from_commit_to_commit(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(survival()), encoding="utf-8")
    browser.open(path)
    shown = "document.querySelector('#shown b').textContent"
    assert browser.evaluate(shown) == "Change number 36 <i>"
    browser.evaluate("dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
    assert browser.evaluate(shown) == "Change number 35 <i>"
    browser.evaluate("document.querySelectorAll('.cells')[1].children[0].click()")
    assert browser.evaluate(shown) == "Change number 1 <i>"
    assert browser.evaluate("document.querySelectorAll('.cells .at').length") == 4
    assert browser.complaints == []
