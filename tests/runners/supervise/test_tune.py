"""Trials: what counts as better, and the list of changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.supervise.changes import BadChanges, read
from runners.supervise.command import Command, families, recognise
from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.row import Row
from runners.supervise.tune import Score, lower, score_of, slug

HERE = Path(__file__).resolve().parent


def curve(values: list[float], name: str = "loss", first: int = 1) -> Curve:
    made = Curve()
    made.add([Row(first + index, {name: value}) for index, value in enumerate(values)])
    return made


def test_the_difference_is_welchs() -> None:
    new, old = Score("loss", (2.0, 2.1, 1.9, 2.05, 1.95)), Score("loss", (2.3, 2.2, 2.5, 2.25, 2.35))
    better, difference, half = lower(new, old)
    assert better
    # scipy 1.17: t.ppf(0.975, 7) times the standard error, 7 being Welch and Satterthwaite's 7.087 rounded down.
    assert difference == pytest.approx(-0.32, abs=1e-12)
    assert half == pytest.approx(0.14767073718161247, rel=1e-6)
    assert not lower(old, new)[0]


def test_a_difference_within_the_noise_is_none() -> None:
    assert not lower(Score("loss", (2.0, 2.4, 1.7, 2.2, 1.9)), Score("loss", (2.1, 2.4, 1.8, 2.2, 2.0)))[0]


def test_without_noise_lower_is_lower() -> None:
    flat = Score("loss", (1.0,) * 5)
    assert lower(Score("loss", (0.5,) * 5), flat) == (True, -0.5, 0.0)
    assert not lower(flat, flat)[0]


def test_a_score_is_of_the_last_third_in_five_blocks() -> None:
    score = score_of(curve([9.0] * 60 + [float(value) for value in range(30)]))
    assert score is not None
    assert score.name == "loss"
    assert score.means == (2.5, 8.5, 14.5, 20.5, 26.5)


def test_a_score_counts_only_what_came_after_the_start() -> None:
    score = score_of(curve([9.0] * 50 + [1.0] * 12), since=50)
    assert score is not None
    assert score.means == (1.0,) * 5
    assert score_of(curve([9.0] * 50 + [1.0] * 9), since=50) is None


def test_evaluations_count_for_more_than_batches() -> None:
    both = curve([1.0] * 30)
    both.add([Row(40 + index, {"eval_loss": 2.0}) for index in range(10)])
    score = score_of(both)
    assert score is not None
    assert (score.name, score.mean) == ("eval_loss", 2.0)


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
