"""Trials: what counts as better, and the list of changes."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from runners.supervise.changes import ANEW, BadChanges, Change, read
from runners.supervise.checkpoint_names import Checkpoint
from runners.supervise.command import Command, families, recognise
from runners.supervise.compare import ALPHA, Difference, difference, interval
from runners.supervise.decisions import Decisions
from runners.supervise.loop import PAUSED, STOPPED, Result
from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.row import Row
from runners.supervise.tune import best_of, slug, tune

HERE = Path(__file__).resolve().parent


def curve(values: list[float], name: str = "loss", first: int = 1) -> Curve:
    made = Curve()
    made.add([Row(first + index, {name: value}) for index, value in enumerate(values)])
    return made


def noisy(seed: int, count: int = 200, level: float = 2.0, sigma: float = 0.1) -> list[float]:
    draw = random.Random(seed)
    return [level + sigma * draw.gauss(0, 1) for _ in range(count)]


def told(new: Curve, old: Curve, since: int = 0, until: int = 200, alpha: float = 0.05) -> Difference:
    found = difference(new, old, since, until, alpha)
    assert isinstance(found, Difference), found
    return found


def test_the_difference_is_that_of_the_second_half_with_its_noise() -> None:
    # +1, -1, -1, +1: no slope, no correlation to find, and nothing to clip.
    wave = [1.0, -1.0, -1.0, 1.0] * 50
    found = told(curve([1.7 + 0.1 * one for one in wave]), curve([2.0] * 200))
    assert (found.measure, found.rows) == ("loss", 100)
    assert (found.loss, found.against) == pytest.approx((1.7, 2.0))
    assert found.is_ == pytest.approx(-0.3, rel=1e-6)
    # phi a standard error above that of 200 values without any: 0.0707, or a little above as the pieces are short.
    phi = 1 / math.sqrt(200)
    plain = 0.1 * math.sqrt((1 + phi) / (1 - phi) / 100)
    assert 1.645 * plain < found.bound < 1.3 * 1.645 * plain
    assert found.better


def test_what_both_runs_saw_alike_is_no_noise() -> None:
    common = noisy(1, sigma=1.0)
    lower = [value - 0.02 + small for value, small in zip(common, noisy(2, level=0.0, sigma=0.02), strict=True)]
    assert told(curve(lower), curve(common)).better
    apart = [told(curve(noisy(seed, sigma=1.0)), curve(noisy(seed + 100, sigma=1.0))).better for seed in range(10, 110)]
    assert sum(apart) <= 10  # at 0.05 of each; 11 and more have a chance of 1 in 90 at the most


def test_unchanged_is_not_better_without_noise_either() -> None:
    same = curve(noisy(1))
    found = told(same, same)
    assert (found.is_, found.bound, found.better) == (0.0, 0.0, False)
    assert told(curve([0.5] * 200), curve([1.0] * 200)).better


def test_only_steps_that_both_logged_count_and_only_those_of_the_trial() -> None:
    lower = [2.0] * 100 + [1.0] * 100
    new, old = curve(lower), curve([2.0] * 200)
    assert told(new, old, since=100).is_ == pytest.approx(-1.0)
    assert told(new, old, since=0, until=100).is_ == 0.0
    assert told(new, old, since=0, until=100).rows == 50
    said = difference(new, curve([2.0] * 47), 0, 200, 0.05)
    assert said == "47 values of the loss at the same steps, of 48 that it takes"


def test_evaluations_count_for_more_than_batches() -> None:
    new, old = curve(noisy(1)), curve(noisy(2))
    for made, level in ((new, 1.0), (old, 2.0)):
        made.add([Row(1 + index, {"eval_loss": level + 0.01 * (index % 3)}, source="eval") for index in range(60)])
    assert told(new, old).measure == "eval_loss"
    assert told(new, old).better


def test_noise_that_remembers_itself_for_too_long_is_not_judged() -> None:
    walk, value, draw = [], 0.0, random.Random(3)
    for _ in range(60):
        value = 0.97 * value + draw.gauss(0, 1)
        walk.append(value)
    said = difference(curve(walk), curve([0.0] * 60), 0, 60, 0.05)
    assert isinstance(said, str)
    assert "--trial-steps" in said


def test_the_interval_is_that_of_the_newest_losses() -> None:
    assert interval([(1, 2.0), *((10 * step, 2.0) for step in range(1, 30))]) == 10
    assert interval([(1, 2.0)]) == math.inf


@pytest.fixture
def command(tmp_path: Path) -> Command:
    words = ["python3", str(HERE / "trainer.py"), "--output", str(tmp_path / "output"), "--rate", "0.2"]
    return recognise(words, tmp_path, {}, families(HERE / "trainer.toml"))


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "changes.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_value_with_an_x_multiplies(tmp_path: Path, command: Command) -> None:
    slow_one = '[[change]]\nname = "slow"\nrate = "x0.5"\n'
    text = slow_one + '[[change]]\nname = "big"\nbatch = "x2"\n[change.settings]\nnoise = 0.5\n'
    slow, big = read(listed(tmp_path, text), command)
    assert slow.on(command).get("rate") == "0.1"
    assert slow.rate_factor(command) == 0.5
    assert big.on(command).get("batch") == "16"
    assert big.on(command).setting("noise") == "0.5"
    assert big.rate_factor(command) == 1.0


@pytest.mark.parametrize(("text", "told"), [
    ("", r"expects \[\[change\]\]"),
    ("[[change]]\nrate = 1\n", "change 1: has no name"),
    ('[[change]]\nname = "a"\n', "changes nothing"),
    ('[[change]]\nname = "a"\nseed = 4\n', "seed: trainer has .*batch"),
    ('[[change]]\nname = "a"\nrate = 1\nbegin = "later"\n', "begin is 'on' or 'anew'"),
    ('[[change]]\nname = "a"\nrate = 1\n[[change]]\nname = "a"\nrate = 2\n', "two changes have one name"),
    ('[[change]]\nname = "a"\nrate = "xslow"\n', "could not convert"),
    ("change = \n", "changes.toml"),
])  # fmt: skip
def test_a_list_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, command: Command, text: str, told: str
) -> None:
    with pytest.raises(BadChanges, match=told):
        read(listed(tmp_path, text), command)


def test_a_name_as_a_folder() -> None:
    assert slug("Half the rate, twice!") == "half-the-rate-twice"
    assert slug("一半") != slug("两倍")
    assert slug("一半").startswith("change-")


class Trials:
    """Stands for supervised runs: a loss of `level` and the noise of `seed` for each, by the folder they run in."""

    def __init__(self, folder: Path, command: Command, levels: dict[str, float]) -> None:
        self.folder, self.levels, self.calls = folder, levels, []  # type: ignore[var-annotated]
        self.decisions = Decisions(folder)
        self.paused = Result(PAUSED, "", command, curve(noisy(0, 500)), Checkpoint(folder / "checkpoint-500", 500))

    def run(self, command: Command, home: Path, start: Checkpoint | None, until: int | None) -> Result:
        assert until is not None
        name = re.sub("-[0-9a-f]{6}(?=-control$|$)", "", home.name)
        first = start.step if start else 0
        self.calls.append((name, first, until))
        state = STOPPED if name == "dies" else PAUSED
        losses = noisy(len(self.calls), until - first, self.levels.get(name, 2.0))
        at = Checkpoint(home / f"checkpoint-{until}", until)
        return Result(state, "", command, curve(losses, first=first + 1), at)

    def tune(self, changes: list[Change], **more: Any) -> tuple[str, int]:
        best, _, ended = tune(self.paused, changes, self.folder, self.decisions, self.run, print, **more)
        assert ended is None
        assert best is not None
        return best.name, best.checkpoint.step

    def of(self, name: str) -> dict[str, Any]:
        return next(item for item in self.decisions.all if item["kind"] == "trial" and item["name"] == name)


SLOW, FAST, BIG = (Change(name, {"rate": rate}) for name, rate in (("slow", "x0.5"), ("fast", "x2"), ("big", "x4")))


def test_every_trial_has_a_control_over_the_same_steps(tmp_path: Path, command: Command) -> None:
    trials = Trials(tmp_path, command, {"fast": 1.5})
    assert trials.tune([SLOW, FAST, BIG], steps=100, total=1000) == ("fast", 800)
    assert trials.calls == [
        ("slow", 500, 600), ("slow-control", 500, 600),  # nothing gained: on from the control's end
        ("fast", 600, 700), ("fast-control", 600, 700),
        ("big", 700, 800), ("big-control", 700, 800),
    ]  # fmt: skip
    assert [trials.of(name)["better"] for name in ("slow", "fast", "big")] == [False, True, False]
    assert trials.of("big")["against"] == "fast"
    # The level is shared by the list: the same comparison at 0.05/3.
    bound = float(trials.of("slow")["why"].split("±")[1].split()[0])
    new, old = (curve(noisy(seed, 100), first=501) for seed in (1, 2))
    assert told(new, old, 500, 600, ALPHA / 3).bound == pytest.approx(bound, rel=0.05)
    assert told(new, old, 500, 600, ALPHA).bound < 0.9 * bound
    # What is the best can be told from decisions alone.
    record = next(item for item in trials.decisions.all if item["kind"] == "tuned")
    best = best_of(record, command)
    assert (best.command.get("rate"), best.checkpoint.step) == ("0.4", 800)
    assert best.command.output == trials.decisions.path.parent / "trials" / best.command.output.parent.name / "output"


def test_a_change_that_begins_anew_is_compared_with_the_runs_own_course(tmp_path: Path, command: Command) -> None:
    change = Change("rank", {"rank": "3"}, begin=ANEW)
    trials = Trials(tmp_path, command, {"rank": 1.5})
    assert trials.tune([change], steps=100, total=1000) == ("rank", 500)
    assert trials.calls == [("rank", 0, 500)]
    assert trials.of("rank")["opponent"] == pytest.approx(sum(noisy(0, 500)[250:]) / 250)


def test_what_cannot_be_judged_is_refused_before_it_runs(tmp_path: Path, command: Command) -> None:
    short = Change("short", {"rate": "x0.5"}, steps=47)
    trials = Trials(tmp_path, command, {"slow": 1.0})
    assert trials.tune([short, Change("dies", {"rate": "x3"}), SLOW], steps=100, total=590) == ("as given", 500)
    assert trials.calls == []
    why = "not tried: 47 steps give 47 values of the loss, of 48 that it takes: steps = 48"
    assert trials.of("short")["why"] == why
    assert "would end at step 600, and the run has 590" in trials.of("slow")["why"]
    # Without steps and a total, a trial is as long as a comparison takes.
    (tmp_path / "other").mkdir()
    other = Trials(tmp_path / "other", command, {})
    other.tune([SLOW])
    assert other.calls[0] == ("slow", 500, 548)


def test_a_trial_that_dies_needs_no_control_and_is_not_judged(tmp_path: Path, command: Command) -> None:
    trials = Trials(tmp_path, command, {})
    assert trials.tune([Change("dies", {"rate": "x3"})], steps=100) == ("as given", 500)
    assert [name for name, _, _ in trials.calls] == ["dies"]
    assert trials.of("dies")["why"].startswith("not judged: it was stopped")


def test_results_are_known_by_name_and_content(tmp_path: Path, command: Command) -> None:
    trials = Trials(tmp_path, command, {})
    trials.tune([SLOW, FAST], steps=100)
    trials.tune([SLOW, FAST], steps=100)
    assert len([item for item in trials.decisions.all if item["kind"] == "trial"]) == 2
    trials.tune([SLOW, Change("fast", {"rate": "x3"})], steps=100)
    assert [item["changes"] for item in trials.decisions.all if item["kind"] == "trial"] == [
        {"rate": "x0.5"}, {"rate": "x2"}, {"rate": "x3"},
    ]  # fmt: skip
