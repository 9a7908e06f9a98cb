"""The report on made-up facts: its figures against hand calculation, what it names, and that it loads nothing."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path

import pytest

from look.words import LANGUAGES, Words
from runners.means import in_words
from runners.openvla_arms import ARMS
from runners.openvla_pictures import FRAGILE, NULL, PLASTIC, split_of
from runners.openvla_report import page
from runners.openvla_scores import ArmScores, forgetting_of
from tests.browser import Browser
from tests.pages import Reader, check_drawn, check_whole, needs_chromium
from tests.runners import sample_facts
from tests.runners.sample_facts import BEFORE, GOAL, OBJECT, SUCCESS

NO_SCORES = ArmScores(None, None, {})
T = {2: 4.30265273}
"""Two-sided 95 % point of Student's t, from a printed table."""


@pytest.fixture(scope="module")
def html() -> str:
    return page(sample_facts.make())


def row(html: str, name: str) -> list[str]:
    return next(row for row in Reader(html).rows if row[0] == name and len(row) == 7)


def interval(values: list[float]) -> str:
    half = T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * statistics.fmean(values):.1f} % ± {100 * half:.1f} ({len(values)} seeds)"


@pytest.mark.parametrize("arm", ["baseline", "method"])
def test_success_and_forgetting_are_means_with_t_intervals(html: str, arm: str) -> None:
    lost = [
        ((BEFORE["libero_object"] - one) + (BEFORE["libero_goal"] - other)) / 2
        for one, other in zip(OBJECT[arm], GOAL[arm], strict=True)
    ]
    _, rate, success, forgetting, again, objects, goal = row(html, arm)
    assert rate == "0.0005"
    assert success == again == interval(SUCCESS[arm])
    assert forgetting == interval(lost)
    assert (objects, goal) == (interval(OBJECT[arm]), interval(GOAL[arm]))


def test_before_fine_tuning_is_a_row_of_its_own(html: str) -> None:
    assert row(html, "before fine-tuning")[1:] == ["", "", "", "not measured", "80.0 %", "70.0 %"]


def test_a_single_seed_says_that_it_has_no_interval(html: str) -> None:
    assert row(html, "no_hsw")[2] == "70.0 % (one seed: no interval)"
    alone = page(sample_facts.make([0]))
    assert "±" not in alone
    assert alone.count("one seed: no interval") == 3 * 5


def test_missing_and_failed_are_named_and_what_stood_in_comes_first(html: str) -> None:
    assert "no_hsw, seed 1, libero_spatial" in html
    assert "not asked for: no_icsm_rerank, no_thermostat, random_subspace, input_guard, higher_rate (--arms)" in html
    assert "eval/no_hsw/seed1: failed: exit code 1" in html
    assert html.index("What stood in") < html.index("Did not end well") < html.index("Success and forgetting")
    facts = dataclasses.replace(sample_facts.make(), scores={})
    with pytest.raises(KeyError):
        page(facts)
    empty = sample_facts.make([])
    assert row(page(empty), "method")[2:4] == ["missing", "missing"]


def test_an_arm_with_a_rate_of_its_own_shows_it() -> None:
    facts = sample_facts.make()
    arms, rates = [*facts.arms, ARMS["higher_rate"]], {**facts.rates, "higher_rate": "0.005"}
    html = page(dataclasses.replace(facts, arms=arms, rates=rates, scores={**facts.scores, "higher_rate": NO_SCORES}))
    assert row(html, "higher_rate")[1:3] == ["0.005 (10 times)", "missing"]
    assert row(html, "method")[1] == "0.0005"


def test_forgetting_needs_every_suite_before_and_after() -> None:
    before = {"a": sample_facts.score("a", 0.9), "b": sample_facts.score("b", 0.5)}
    after = {"a": sample_facts.score("a", 0.5), "b": sample_facts.score("b", 0.6)}
    assert forgetting_of(before, after, ["a", "b"]) == pytest.approx(0.15)
    assert forgetting_of(before, {"a": after["a"]}, ["a", "b"]) is None
    assert forgetting_of({"a": before["a"]}, after, ["a", "b"]) is None
    assert forgetting_of(before, after, []) is None


def test_without_general_suites_forgetting_is_not_zero_but_not_measured() -> None:
    facts = dataclasses.replace(sample_facts.make(), general=[])
    assert "no general suite" in page(facts)


def test_everything_is_closed_escaped_and_nothing_is_loaded(html: str) -> None:
    check_whole(html)
    assert "&lt;b&gt;" in html
    assert "no &lt;memory&gt;" in html


def test_the_split_follows_the_order_of_the_artifact() -> None:
    layer = {"fragile": 1, "plastic": 2, "order": [2, 0, 3, 1], "vulnerabilities": [0.3, 0.1, 0.9, 0.2]}
    assert split_of(layer) == {FRAGILE: [(2, 0.9)], PLASTIC: [(0, 0.3), (3, 0.2)], NULL: [(1, 0.1)]}


def test_every_direction_is_drawn(html: str) -> None:
    part = html[html.index('id="icsm"') : html.index('id="made"')]
    assert part.count("<circle") == 32 + 24


def test_a_random_basis_has_no_picture_and_says_so() -> None:
    facts = sample_facts.make()
    layer = {**sample_facts.layer(), "vulnerabilities": None}
    assert "A random basis" in page(dataclasses.replace(facts, icsm={"random": {"layers": {"8": layer}}}))


def test_in_words() -> None:
    assert in_words(None) == "missing"


@needs_chromium
def test_a_browser_draws_it_in_both_languages(browser: Browser, tmp_path: Path) -> None:
    long_path = "/srv/" + "very-long-folder-name/" * 12
    pages = {lang: page(sample_facts.make(), Words(lang)) for lang in LANGUAGES}
    pages = {lang: html.replace("python x.py", f"python {long_path}") for lang, html in pages.items()}
    check_drawn(browser, pages, tmp_path, "openvla")
