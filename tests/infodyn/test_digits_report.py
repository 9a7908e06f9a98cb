"""What the runs on digits come to, and the page that shows it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from digits_made_up import digits, run_of  # noqa: F401

from look.words import LANGUAGES, Words
from runners import infodyn_digits
from runners.digests import write_whole
from runners.digits import keep as keeping
from runners.digits.data import TASKS
from runners.digits.drawn import Picture
from runners.digits.probing import PROBE, analysed, pictures_in, probed_run
from runners.digits.report import in_words, page
from runners.digits.results import ARMS, DECIDED, Results, apart, course, decided, final, forgetting, used, worst
from runners.digits.training import Settings
from runners.intervals import Mean
from runners.oid.estimate import Result, Value
from runners.oid.estimate import Settings as Analysed
from runners.oid.table import csv_text
from runners.processes import sole
from runners.work_folder import MARK
from tests.browser import Browser
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
    assert len(results().comparisons()) == 9 + 12


def test_what_a_scheduler_did_by_hand() -> None:
    assert decided(run_of("dynamic")) == {
        **{"grokked": 3, "grokked_at_end": 2, "handed_over": 3, "reviews": 1, "cycles": 2, "floor": 1},
    }
    assert set(decided(run_of("rounds")).values()) == {0}
    figures = infodyn_digits.figures_of(results())["decided"]
    assert list(figures) == [f"{s}, {r}" for s in ("need", "dynamic") for r in ("linear", "gaussian", "memory")]
    assert figures["dynamic, memory"]["handed_over"] == [3, 3]


def test_a_course_has_the_interval_of_each_place() -> None:
    found = course([0.0, 4.0], [[0.1, 0.2], [0.1, 0.6]])
    assert [(place, mean.mean) for place, mean in found] == [(0.0, pytest.approx(0.1)), (4.0, pytest.approx(0.4))]
    # t(0.975, 1) = 12.7062 times 0.2828 / sqrt(2).
    assert [mean.half for _, mean in found] == [pytest.approx(0.0, abs=1e-9), pytest.approx(2.5412, abs=1e-4)]


def test_a_mean_in_words() -> None:
    assert in_words(Mean(0.1234, 0.05, 5), "final") == "12.3 ± 5.0 %"
    assert in_words(Mean(-0.5, None, 1), "pi", signed=True) == "-0.50"
    assert in_words(Mean(0.5, 0.25, 5), "forgetting", signed=True) == "+50.0 ± 25.0 %"


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="10" height="10"/></svg>'


def test_the_page_is_whole_and_says_what_is_missing() -> None:
    html = page(results(), [Picture("synergy & more", SVG)], ["<b>not</b> analysed"])
    check_whole(html)
    reader = Reader(html)
    names = [f"{schedule}, {router}" for schedule, router in ARMS]
    ends = [row for row in reader.rows if row[0] in names]
    assert [row[0] for row in ends[: len(ARMS)]] == names
    assert ends[0][1].startswith("55.0 ±")
    assert "data:image/svg+xml;base64," in html
    assert "&lt;b&gt;not&lt;/b&gt; analysed" in html
    assert 'class="review series3" title="rotated, review: rotated &amp; &lt;more&gt;"' in html
    assert ["schedule, routing", *DECIDED.values()] in reader.rows
    assert "Not analysed in this run" in page(results())


def test_courses_say_what_they_are_and_have_their_intervals() -> None:
    html = page(results())
    assert html.count('class="band') == 2 * 4 * len(ARMS)
    # PI is drawn where every arm has it, after choices 0, 2 and 4 of the five that were validated.
    assert html.count("PI over choices, dynamic, memory") == 1
    drawn = html.split("PI over choices, dynamic, memory")[1].split("</svg>")[0]
    assert [path.count("L") for path in re.findall(r'class="line [^"]*" d="([^"]*)"', drawn)] == [2] * 4
    assert ">accuracy</text>" in html
    assert ">PI</text>" in html
    assert ">mean over seeds</text>" not in html
    alone = Results({ARMS[0]: {0: run_of(*ARMS[0])}}, SHORT)
    assert 'class="band' not in page(alone)


def test_the_experts_of_every_seed_are_shown() -> None:
    html = page(results())
    for schedule, router in ARMS:
        for seed in (0, 1):
            assert f"Percent of choices by task and expert, {schedule}, {router}, seed {seed}" in html


@needs_chromium
def test_a_browser_draws_it_in_both_languages(browser: Browser, tmp_path: Path) -> None:
    pages = {lang: page(results(), [Picture("SYN", SVG)], words=Words(lang)) for lang in LANGUAGES}
    check_drawn(browser, pages, tmp_path, "digits")


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
    runs = {"blocks, memory": tmp_path / "blocks", "dynamic, memory": tmp_path / "dynamic"}
    for run_dir, largest in zip(runs.values(), (0.5, 2.0), strict=True):
        results = []
        for epoch in (10, 2):
            values = {kind: Value(0.25, 0.0, 0.1, 0.25, None, 0.0, 0.5) for kind in ("Syn", "Red")}
            values["Syn"] = replace(values["Syn"], value=largest)
            results.append(Result(epoch, "mlp.experts.3", "mlp.experts.11", "norm", values=values))
        write_whole(run_dir / "oid_plots" / PROBE / "atoms.csv", csv_text(results, Analysed(4)))
    pictures = pictures_in(runs)
    assert [picture.caption for picture in pictures] == [
        f"{name}: {word}, after {number} choices"
        for name in runs
        for number in (2, 10)
        for word in ("synergy", "redundancy")
    ]
    first, second = pictures[0].svg, pictures[4].svg
    # Once on the scale, and a pair's two squares: 0.5 is a quarter of the other run's 2.
    assert [drawn.count('class="more" fill-opacity="0.250"') for drawn in (first, second)] == [3, 1]
    # The scale of either is that of both, and says its unit; so does the title.
    for drawn in (first, second):
        assert drawn.count(">nats, surrogates subtracted</text>") == 1
        assert all(f">{tick}</text>" in drawn for tick in (-2, -1, 0, 1, 2))
        assert ">Syn after 2 choices (nats)</text>" in drawn
        assert drawn.index(">3</text>") < drawn.index(">11</text>")
    with pytest.raises(FileNotFoundError, match=r"atoms\.csv"):
        pictures_in({"none": tmp_path / "none"})


def test_without_omegaid_or_files_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runners.digits import probing

    monkeypatch.setattr(probing, "find_spec", lambda name: None)
    assert "omegaid is not installed" in (analysed(ARMS[0], tmp_path, 1) or "")
    monkeypatch.setattr(probing, "find_spec", lambda name: object())
    assert "exit code 2" in (analysed(ARMS[0], tmp_path, 1) or "")


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
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "report.html").write_text("mine", encoding="utf-8")
    words = ["--json", "--seeds", "2", "--choices", "4", "--steps", "1", "--no-probes", "--out"]
    arms = ["--arms", "blocks, linear", "blocks, memory"]
    assert infodyn_digits.main([*words, str(foreign), *arms]) == 2
    assert "holds files that no run of this kind wrote" in capsys.readouterr().err
    assert (foreign / "report.html").read_text(encoding="utf-8") == "mine"
    tmp_path /= "work"
    with sole(tmp_path):
        (tmp_path / MARK).touch()
        assert infodyn_digits.main([*words, str(tmp_path), *arms]) == 2
    assert "is in use by the run with process id" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
    assert infodyn_digits.main([*words, str(tmp_path), *arms]) == 0
    printed = capsys.readouterr()
    assert "    infodyn-digits: run 4 of 4 (100 %), ended after 0:" in printed.err
    said = printed.out.strip().splitlines()
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
