"""What bench/forgetting.py keeps: an arm's curve is read again while nothing that it depends on has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench import forgetting, forgetting_run
from bench.forgetting import ARMS, figures_of
from bench.forgetting_run import RATE, Arm, Curve, digest_of, kept_run, options_of
from runners import openvla_arms

THREE: dict[str, Arm] = {name: ARMS[name] for name in ("baseline", "method", "input_guard")}


class Bench:
    """`kept_run` over a run that trains nothing: a curve tells arm, seed, and how many runs there were before."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.keep = root, root / "keep"
        self.ran: list[str] = []
        self.stops_at = ""
        self.meanwhile = lambda: None
        self.code = root / "code"
        (self.code / "below").mkdir(parents=True)
        (self.code / "below" / "run.py").write_text("one", encoding="utf-8")
        monkeypatch.setattr(forgetting_run, "CODE", (self.code,))
        monkeypatch.setattr(forgetting_run, "seed_run", self.seed_run)

    def seed_run(self, seed: int, arms: Mapping[str, Arm], home: Path) -> Iterator[tuple[str, Curve]]:
        for name in arms:
            if name == self.stops_at:
                raise KeyboardInterrupt
            self.ran.append(name)
            self.meanwhile()
            yield name, [(0, 1.0, 0.0), (20, seed + len(self.ran) / 100, len(name) / 1000)]

    def run(self, arms: Mapping[str, Arm] = THREE, seed: int = 0) -> tuple[list[str], dict[str, Curve]]:
        """The arms that really ran, and all curves."""
        self.ran.clear()
        curves = kept_run(seed, arms, self.root / "home", self.keep)
        assert list(curves) == list(arms)
        return list(self.ran), curves


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_what_is_kept_is_read_and_not_run_again(bench: Bench) -> None:
    ran, curves = bench.run()
    assert ran == list(THREE)
    assert bench.run() == ([], curves)
    # One arm more, or fewer, or in another order is no change of the others.
    ran, more = bench.run({"random_subspace": ARMS["random_subspace"], **THREE})
    assert ran == ["random_subspace"]
    assert {name: more[name] for name in THREE} == curves
    assert bench.run({"input_guard": THREE["input_guard"]}) == ([], {"input_guard": curves["input_guard"]})


@pytest.mark.parametrize(
    "changed",
    [
        ("vulnerability", {"surgery.hsw": False, "surgery.input_guard": 0.95, "learning_rate": 10 * RATE}),
        ("vulnerability", {"surgery.hsw": False, "surgery.input_guard": 0.99, "learning_rate": 5 * RATE}),
        ("random", ARMS["input_guard"][1]),
    ],
)
def test_a_changed_arm_runs_again_and_no_other(bench: Bench, changed: Arm) -> None:
    _, curves = bench.run()
    ran, others = bench.run({**THREE, "input_guard": changed})
    assert ran == ["input_guard"]
    assert {name for name in THREE if others[name] != curves[name]} == {"input_guard"}
    # Back again, the first is there still, and the other is not taken for it.
    assert bench.run() == ([], curves)


def test_another_seed_common_setting_version_or_code_is_another_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    assert bench.run(seed=1)[0] == list(THREE)
    for name, value in (("STEPS", 400), ("BATCH", 8), ("RANK", 16)):
        with monkeypatch.context() as patch:
            patch.setattr(forgetting_run, name, value)
            assert bench.run()[0] == list(THREE), name
    with monkeypatch.context() as patch:
        patch.setattr(forgetting_run, "SURGERY", {**forgetting_run.SURGERY, "log_every": 10})
        assert bench.run()[0] == ["method", "input_guard"]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: f"{name} of tomorrow")
        assert bench.run()[0] == list(THREE)
    with monkeypatch.context() as patch:
        patch.setattr(forgetting_run, "machine", lambda: "another")
        assert bench.run()[0] == list(THREE)
    assert bench.run()[0] == []
    (bench.code / "below" / "run.py").write_text("two", encoding="utf-8")
    assert bench.run()[0] == list(THREE)
    (bench.code / "new.py").write_text("", encoding="utf-8")
    assert bench.run()[0] == list(THREE)


def test_the_code_that_counts_is_there_and_holds_what_runs() -> None:
    assert all(place.exists() for place in forgetting_run.CODE if place.name != "common")
    files = {file for place in forgetting_run.CODE for file in ([place] if place.is_file() else place.rglob("*.py"))}
    root = Path(forgetting.__file__).parents[1]
    for name in (
        "bench/forgetting_run.py",
        "overlays/openvla/research/hooks/input_guard.py",
        "patches/openvla/gradient_surgery.py",
        "graft/rewrite.py",
        "tests/standins/grafted.py",
        "tests/standins/openvla/vla-scripts/finetune.py",
    ):
        assert root / name in files


def test_a_stopped_run_goes_on_where_it_was(bench: Bench) -> None:
    bench.stops_at = "input_guard"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    bench.stops_at = ""
    assert bench.run()[0] == ["input_guard"]


def test_a_curve_under_another_ones_name_is_not_read_and_a_broken_one_is_named(bench: Bench) -> None:
    bench.run()
    (mine,) = bench.keep.glob("seed-0-method-*.json")
    (other,) = bench.keep.glob("seed-0-baseline-*.json")
    shutil.copy(other, mine)
    ran, curves = bench.run()
    assert ran == ["method"]
    assert bench.run() == ([], curves)
    mine.write_text('{"digest": "', encoding="utf-8")
    with pytest.raises(ValueError, match=f"{mine.name}.*delete it"):
        bench.run()


def test_a_curve_of_code_that_changed_while_it_ran_is_not_kept(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.meanwhile = lambda: (bench.code / "new.py").write_text("x", encoding="utf-8")
    assert bench.run()[0] == list(THREE)
    assert "not kept" in capsys.readouterr().err
    assert not bench.keep.exists()
    bench.meanwhile = lambda: None
    assert bench.run()[0] == list(THREE)


def test_without_a_folder_nothing_is_kept(bench: Bench) -> None:
    for _ in range(2):
        bench.ran.clear()
        kept_run(0, THREE, bench.root, None)
        assert bench.ran == list(THREE)


def test_the_recorded_line_and_the_kept_file_have_each_arms_own_settings(bench: Bench) -> None:
    _, curves = bench.run()
    line = json.loads(json.dumps(figures_of([curves], THREE)))
    guard = line["arms"]["input_guard"]
    assert (guard["rank_by"], guard["options"]["surgery.input_guard"]) == ("vulnerability", 0.99)
    assert (guard["options"]["learning_rate"], line["arms"]["baseline"]["options"]["learning_rate"]) == (5e-3, 5e-4)
    assert not [key for key in line["arms"]["baseline"]["options"] if key.startswith("surgery")]
    (kept,) = (json.loads(file.read_text(encoding="utf-8")) for file in bench.keep.glob("seed-0-input_guard-*.json"))
    assert {key: kept[key] for key in guard} == guard
    assert (kept["seed"], kept["digest"]) == (0, digest_of(0, THREE["input_guard"]))


def test_the_runner_compares_at_the_rate_that_was_measured_here() -> None:
    arms = openvla_arms.ARMS
    for name in ("input_guard", "higher_rate"):
        assert options_of(ARMS[name])["learning_rate"] == pytest.approx(RATE * arms[name].rate)
        assert (ARMS[name][0] is None) == (arms[name].rank_by is None)
    assert float(arms["input_guard"].surgery["input_guard"]) == ARMS["input_guard"][1]["surgery.input_guard"]
    assert {arm.rate for name, arm in arms.items() if name not in ("input_guard", "higher_rate")} == {1.0}


def test_the_method_is_run_at_other_rates_and_otherwise_the_same() -> None:
    for name, times in (("method_3x", 3), ("method_10x", 10)):
        assert ARMS[name][0] == ARMS["method"][0]
        assert options_of(ARMS[name]) == {**options_of(ARMS["method"]), "learning_rate": pytest.approx(times * RATE)}


def test_an_earlier_run_is_shown_without_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = [[[0, 1.0, 0.0], [20, 0.5, 1.0]], [[0, 1.0, 0.0], [20, 0.2, 1.0]]]
    kept = [[[0, 1.0, 0.0], [20, 1.0, 1.0]], [[0, 1.0, 0.0], [20, 0.4, 1.0]]]
    curves = [{"baseline": a, "input_guard": b} for a, b in zip(lost, kept, strict=True)]
    file = tmp_path / "figures.jsonl"
    file.write_text(json.dumps({"curves": curves}), encoding="utf-8")

    def shown(*more: str) -> list[str]:
        assert forgetting.main(["--read", str(file), *more]) == 0
        said = capsys.readouterr().out.splitlines()
        return [said[0][:7], *(line.split()[2] for line in said if line.startswith("input_guard"))]

    # At any reach the guard keeps all of the loss with seed 0 and a quarter with seed 1.
    assert shown() == ["2 seeds", "62.5%", "62.5%", "62.5%"]
    assert shown("--without", "0") == ["1 seeds", "25.0%", "25.0%", "25.0%"]
    for wrong in ("2", "0,1", "x"):
        with pytest.raises(SystemExit):
            forgetting.main(["--read", str(file), "--without", wrong])
    with pytest.raises(SystemExit):
        forgetting.main(["--without", "0"])
    assert "--without belongs to --read" in capsys.readouterr().err
