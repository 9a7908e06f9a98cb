"""What the runs on digits come to, and the page that shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from digits_made_up import digits, run_of  # noqa: F401

from runners import infodyn_digits
from runners.digits import keep as keeping
from runners.digits.data import TASKS
from runners.digits.probing import analysed, pictures_in, probed_run
from runners.digits.report import Picture, in_words, page
from runners.digits.results import ARMS, Results, apart, final, forgetting, used, worst
from runners.digits.training import Settings
from runners.intervals import Mean
from tests.pages import Reader, check_drawn, check_whole, needs_chromium

SHORT = Settings(choices=4, steps=1, batch=16, surprised=8, test_every=2)


def results() -> Results:
    return Results({arm: {seed: run_of(*arm, seed) for seed in (0, 1)} for arm in ARMS}, SHORT, {"torch": "2"})


def test_figures_by_hand() -> None:
    tests = {"low": [0.1, 0.9, 0.5], "high": [0.2, 0.3, 0.8], "rotated": [0.1, 0.6, 0.6], "inverted": [0.4, 0.2, 0.1]}
    run = run_of(test=tests)
    assert final(run) == pytest.approx(0.5)
    assert worst(run) == pytest.approx(0.1)
    # 0.4 lost, 0.5 gained, nothing, 0.3 lost.
    assert forgetting(run) == pytest.approx((0.4 - 0.5 + 0.0 + 0.3) / 4)
    assert used(run) == 2.0
    assert apart(run) == 0
    run["experts"] = {task: [[1.0, 0.0], [float(task == "low"), float(task != "low")]] for task in TASKS}
    # In the second of two blocks low stands against each of the three others: 3 of 6 pairs.
    assert apart(run) == pytest.approx(0.25)


def test_differences_are_taken_seed_by_seed() -> None:
    runs = {arm: {seed: run_of(*arm, seed) for seed in (0, 1, 2)} for arm in ARMS[:2]}
    for seed in (0, 1, 2):
        runs[ARMS[1]][seed]["test"] = {task: [0.1, 0.4 + 0.1 * seed] for task in TASKS}
    found = Results(runs, SHORT)
    # The seeds lie apart, the differences do not.
    assert found.mean(ARMS[0], "final").half == pytest.approx(0.2484, abs=1e-4)
    difference = found.difference(ARMS[1], ARMS[0], "final")
    assert (difference.mean, difference.half) == (pytest.approx(-0.1), pytest.approx(0.0, abs=1e-12))
    assert [words for words, _, _ in found.comparisons()] == ["gaussian against linear, blocks"]
    assert len(results().comparisons()) == 6 + 9


def test_a_mean_in_words() -> None:
    assert in_words(Mean(0.1234, 0.05, 5), "final") == "12.3 ± 5.0 %"
    assert in_words(Mean(-0.5, None, 1), "pi", signed=True) == "-0.50"
    assert in_words(Mean(0.5, 0.25, 5), "forgetting", signed=True) == "+50.0 ± 25.0 %"


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="10" height="10"/></svg>'


def test_the_page_is_whole_and_says_what_is_missing() -> None:
    html = page(results(), [Picture("synergy & more", SVG)], ["<b>not</b> analysed"])
    check_whole(html)
    reader = Reader(html)
    ends = [row for row in reader.rows if row[0] in {f"{s}, {r}" for s, r in ARMS}]
    assert len(ends) == len(ARMS)
    assert ends[0][1].startswith("55.0 ±")
    assert "data:image/svg+xml;base64," in html
    assert "&lt;b&gt;not&lt;/b&gt; analysed" in html
    assert 'title="low: because of low &amp; &lt;more&gt;"' in html
    assert "Not analysed in this run" in page(results())


@needs_chromium
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_is_drawn(width: int, tmp_path: Path) -> None:
    check_drawn(page(results(), [Picture("synergy", SVG)]), width, tmp_path)


@pytest.mark.usefixtures("digits")
def test_a_probed_run_leaves_files_that_say_what_they_hold(tmp_path: Path) -> None:
    from infodyn.probe_file import probe_files, read_probe_file

    probed_run(("rounds", "memory"), 0, SHORT, tmp_path, times=2)
    files = probe_files(tmp_path, "last_experts")
    assert [number for number, _ in files] == [2, 4]
    content = read_probe_file(files[-1][1])
    assert set(content["source_activations"]) == {f"blocks.1.mlp.experts.{number}" for number in range(8)}
    assert set(content["target_activations"]) == {"norm"}
    # Four validation sets of 240 images in all their four tokens, two experts each.
    (counts,) = content["metadata"]["expert_activation_counts"].values()
    assert sum(counts.values()) == 3 * 240 * 4 * 2
    assert content["labels"].max() == 9


def test_pictures_come_in_the_order_of_the_choices(tmp_path: Path) -> None:
    for name in ("epoch_10_syn", "epoch_2_syn", "epoch_2_red", "epoch_2_atoms_0_1", "course_0_1"):
        (tmp_path / f"{name}.svg").write_text(SVG, encoding="utf-8")
    captions = [picture.caption for picture in pictures_in(tmp_path, "dynamic, memory")]
    assert captions == [
        "dynamic, memory: redundancy, after 2 choices",
        "dynamic, memory: synergy, after 2 choices",
        "dynamic, memory: synergy, after 10 choices",
    ]
    with pytest.raises(FileNotFoundError, match="analyze_oid"):
        pictures_in(tmp_path / "none", "")


def test_without_omegaid_or_files_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runners.digits import probing

    monkeypatch.setattr(probing, "find_spec", lambda name: None)
    assert "omegaid is not installed" in (analysed(ARMS[0], tmp_path, 1)[1] or "")
    monkeypatch.setattr(probing, "find_spec", lambda name: object())
    pictures, why = analysed(ARMS[0], tmp_path, 1)
    assert pictures == []
    assert "exit code 2" in (why or "")


@pytest.mark.usefixtures("digits")
def test_the_command_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Here:
        """A pool without processes: the made-up digits are known in this one."""

        def __init__(self, jobs: int, initializer: object) -> None:
            self.map = map

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *error: object) -> None:
            return None

    monkeypatch.setattr(infodyn_digits, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(keeping.metadata, "version", lambda name: "1")
    words = ["--json", "--seeds", "2", "--choices", "4", "--steps", "1", "--no-probes", "--out", str(tmp_path)]
    arms = ["--arms", "blocks, linear", "blocks, memory"]
    assert infodyn_digits.main([*words, *arms]) == 0
    said = capsys.readouterr().out.strip().splitlines()
    figures = json.loads(said[-1])
    assert len(said) == 1
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == figures
    assert list(figures["arms"]) == ["blocks, linear", "blocks, memory"]
    assert len(figures["arms"]["blocks, memory"]["forgetting"]["values"]) == 2
    assert list(figures["against"]) == ["memory against linear, blocks"]
    assert len(list((tmp_path / "kept").iterdir())) == 4
    check_whole((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("wrong", [["--choices", "6"], ["--seeds", "0"], ["--arms", "blocks, other"]])
def test_options_that_cannot_be_meant(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        infodyn_digits.parse(wrong)
    assert ended.value.code == 2


def test_without_scikit_learn_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert infodyn_digits.main(["--seeds", "1"]) == 2
    assert "pip install scikit-learn==1.9.1" in capsys.readouterr().err
