"""The command: exit codes, the table, the page and its pictures."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from runners import analyze_oid, table
from runners.oid import estimate as estimating
from runners.oid import report as reporting
from runners.oid.charts import limit_of
from runners.oid.decomposition import NAMES, SUMS
from runners.oid.estimate import Result, Settings, Value, estimate
from runners.oid.kept import FILE, Kept, key_of
from runners.oid.table import csv_text, read_csv
from runners.progress import View
from tests.browser import Browser
from tests.oid.gaussian_atoms import atoms_of
from tests.oid.oid_runs import EXPERTS, TARGET, content, task, write
from tests.oid.test_oid_known_systems import on_axes
from tests.pages import Reader, check_drawn, check_whole, needs_chromium

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--surrogates", "10", "--rank", "1", "--jobs", "1"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    for epoch in (1, 2, 10):
        write(run, content(epoch))
    assert analyze_oid.main(["--run-dir", str(run), "--top-n-experts", "3", *QUICK]) == 0
    return run


def test_the_table_has_every_atom_of_every_pair_and_epoch(analysed: Path) -> None:
    rows = rows_of(analysed / "oid_plots" / "moe" / "atoms.csv")
    chosen = [f"{EXPERTS}.{i}" for i in (0, 2, 3)]
    pairs = [(chosen[0], chosen[1]), (chosen[0], chosen[2]), (chosen[1], chosen[2])]
    found = [(int(row["epoch"]), row["expert_i"], row["expert_j"], row["atom"]) for row in rows]
    assert found == [(epoch, *pair, name) for epoch in (1, 2, 10) for pair in pairs for name in NAMES]
    for row in rows:
        assert (row["target"], row["unit"], row["basis"], row["used_rows"]) == (
            TARGET,
            "nats",
            "dense evaluation",
            "300",
        )
        raw, mean, value = (float(row[name]) for name in ("raw", "surrogate_mean", "value"))
        assert value == pytest.approx(raw - mean, abs=1e-12)
        assert float(row["low"]) <= value <= float(row["high"])
        assert 0.3 < float(row["explained_i"]) <= 1
        if float(row["surrogate_sd"]):
            assert float(row["z"]) == pytest.approx(value / float(row["surrogate_sd"]))


def test_processes_do_not_change_the_numbers(analysed: Path, tmp_path: Path) -> None:
    words = ("--top-n-experts", 3, "--surrogates", 10, "--rank", 1, "--jobs", 2)
    command = table.command("analyze-oid", "--run-dir", analysed, "--out", tmp_path, *words, python=sys.executable)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    again = (tmp_path / "moe" / "atoms.csv").read_bytes()
    assert again == (analysed / "oid_plots" / "moe" / "atoms.csv").read_bytes()
    assert "    moe: pair 9 of 9 (100 %), ended after 0:" in done.stderr
    assert "\x1b" not in done.stderr
    assert "9 of 9 computed, 0 with a singular covariance, 0 files skipped" in done.stdout


def test_pairs_are_counted_as_they_are_done(
    analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int]] = []
    update = View.update

    def told(view: View, step: int | None = None, total: int | None = None, **values: float) -> None:
        seen.append((step or 0, total or 0))
        update(view, step, total, **values)

    monkeypatch.setattr(View, "update", told)
    words = ["--run-dir", str(analysed), "--out", str(tmp_path), "--top-n-experts", "3", "--lang", "zh"]
    assert analyze_oid.main([*words, *QUICK]) == 0
    assert seen == [(done, 9) for done in range(10)]
    said = capsys.readouterr()
    assert "moe: 第 9/9 对 (100 %)" in said.err
    assert "第 9/9 对" not in said.out


def test_the_page_is_whole_and_every_picture_is_a_file(analysed: Path) -> None:
    folder = analysed / "oid_plots" / "moe"
    page = (folder / "report.html").read_text(encoding="utf-8")
    check_whole(page)
    reader = Reader(page)
    files = sorted(path.name for path in folder.glob("*.svg"))
    # Three epochs of two maps and three pairs; three pairs of sums and four courses; two scales are on the page only.
    assert len(files) == 3 * (2 + 3) + 3 * 5
    assert reader.tags.count("svg") == len(files) + 2
    assert {"epoch_1_syn.svg", "epoch_10_red.svg", "epoch_2_atoms_0_3.svg", "course_2_3.svg"} <= set(files)
    for name in files:
        drawing = ElementTree.parse(folder / name).getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        said = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
        # A file stands alone: its title is the first of its texts, and a map brings scale and unit.
        assert said[0] == drawing.get("aria-label")
        assert ("nats, surrogates subtracted" in said) == name.startswith("epoch_")
        assert name.startswith("course_") or said[0].endswith(" (nats)")
    rows = {row["atom"]: row for row in rows_of(folder / "atoms.csv") if row["epoch"] == "10"}
    assert f"{float(rows['Syn']['value']):+.3f}" in (folder / "epoch_10_syn.svg").read_text(encoding="utf-8")


def test_courses_come_first_and_earlier_epochs_are_folded(analysed: Path) -> None:
    page = (analysed / "oid_plots" / "moe" / "report.html").read_text(encoding="utf-8")
    courses, maps, atoms = (page.index(f"<h3>{words}") for words in ("Course over", "Synergy and", "Atoms of each"))
    assert courses < maps < atoms
    shown, folded = page[maps:atoms].split("<details><summary>Before: epochs 1, 2</summary>")
    assert [shown.count(f"epoch {epoch} (nats)</h4>") for epoch in (1, 2, 10)] == [0, 0, 2]
    assert [folded.count(f"epoch {epoch} (nats)</h4>") for epoch in (1, 2, 10)] == [2, 2, 0]


def test_a_singular_pair_does_not_pale_the_others() -> None:
    def result(value: float, singular: bool) -> Result:
        return Result(0, "a", "b", "t", singular=singular, values={"Syn": Value(value, 0, 1, value, None, 0, 1)})

    assert limit_of([result(-2, False), result(50, True)], ["Syn"]) == 2
    assert limit_of([result(50, True)], ["Syn"]) == 50
    assert limit_of([Result(0, "a", "b", "t", problem="none")], ["Syn"]) == 1


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((300, 4)) for _ in range(3)]
    settings = Settings(1, surrogates=10)
    written = [estimate(task(*noise), settings), estimate(task(*noise), replace(settings, min_samples=301))]
    written[1] = replace(written[1], epoch=1)
    (tmp_path / "atoms.csv").write_text(csv_text(written, settings), encoding="utf-8")
    # NaN is no equal of itself, its words are.
    assert repr(read_csv(tmp_path / "atoms.csv")) == repr(written)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("analyse", "interrupted: nothing was written for moe"),
        ("report", "interrupted: nothing was written for moe"),
        ("write", "may hold files of two analyses, each whole: run it again"),
    ],
)
def test_an_interruption_says_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, words: str
) -> None:
    write(tmp_path, content(0))
    folder = tmp_path / "oid_plots" / "moe"
    folder.mkdir(parents=True)
    for name in ("atoms.csv", "report.html", "epoch_9_syn.svg"):
        (folder / name).write_text("of before")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    module, name = {
        "analyse": (estimating, "estimate"),
        "report": (reporting, "document"),
        "write": (Path, "replace"),
    }[where]
    monkeypatch.setattr(module, name, stop)
    assert analyze_oid.main(["--run-dir", str(tmp_path), "--top-n-experts", "2", *QUICK]) == 130
    assert words in capsys.readouterr().err
    for name in ("atoms.csv", "report.html", "epoch_9_syn.svg"):
        assert (folder / name).read_text() == "of before"


def test_an_analysis_that_is_killed_goes_on_with_the_pairs_that_are_left(analysed: Path, tmp_path: Path) -> None:
    """SIGKILL of the real command after a few pairs: the same table, and those pairs are not computed again."""
    command = [
        sys.executable,
        "-m",
        "runners",
        "--here",
        "analyze-oid",
        "--run-dir",
        str(analysed),
        "--out",
        str(tmp_path),
    ]
    command += ["--top-n-experts", "3", *QUICK]
    kept = tmp_path / "moe" / FILE
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not kept.exists() or kept.read_text().count("epoch") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert not (tmp_path / "moe" / "atoms.csv").exists()
    with kept.open("a") as file:
        file.write('{"epoch": 1, "fir')  # cut short
    pairs = kept.read_text().count('"first"')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"moe: {pairs} pairs are kept of an analysis that was stopped" in done.stderr
    assert (tmp_path / "moe" / "atoms.csv").read_bytes() == (analysed / "oid_plots" / "moe" / "atoms.csv").read_bytes()
    assert not kept.exists()


def test_pairs_of_another_analysis_are_not_taken_over(analysed: Path, tmp_path: Path) -> None:
    probes, made = analysed / "probes" / "moe", {"rank": "1", "jobs": "1"}
    key = key_of(probes, made)
    assert key == key_of(probes, made | {"jobs": "8"})
    assert key != key_of(probes, made | {"rank": "2"})
    result = Result(
        1, "a", "b", "t", values={"Syn": Value(1.0, 0.1, 0.2, 0.9, None, 0.5, 1.3)}, explained=(0.5, 0.25, 1.0)
    )
    Kept(tmp_path / FILE, key).add(result)
    again = Kept(tmp_path / FILE, key)
    assert repr(again.known) == repr({(1, "a", "b", "t"): result})
    again.add(replace(result, epoch=2))
    assert sorted(Kept(tmp_path / FILE, key).known) == [(1, "a", "b", "t"), (2, "a", "b", "t")]
    other = Kept(tmp_path / FILE, "0" * 64)
    assert other.known == {}
    other.add(result)
    assert Kept(tmp_path / FILE, key).known == {}


def test_intervals_of_a_run_at_the_default_rank(tmp_path: Path) -> None:
    """64 features, rank 4: each epoch is a draw of one system with a closed form, which 95 % of intervals should hold.

    Four of six causes of a source are kept, the fourth and the fifth of alike strength: which axes are found varies.
    """
    rng = np.random.default_rng(3)
    strengths = np.array([5.0, 4.2, 3.5, 2.9, 2.6, 1.2])
    ways = [np.linalg.qr(rng.standard_normal((64, 8)))[0].T for _ in range(3)]
    x = np.concatenate([np.eye(6), np.zeros((6, 6))]) * strengths
    y = np.concatenate([0.4 * np.eye(6), np.sqrt(1 - 0.16) * np.eye(6)]) * strengths
    t = np.concatenate([np.eye(6, 8), 0.7 * np.eye(6, 8, 1)]) * np.geomspace(4, 2.2, 8)
    loadings = [np.pad(x, ((0, 0), (0, 2))) @ ways[0], np.pad(y, ((0, 0), (0, 2))) @ ways[1], t @ ways[2]]
    joined = np.concatenate(loadings, axis=1)
    covariance = on_axes(joined.T @ joined + 0.25 * np.eye(192), (64, 64, 64))
    kept = [*range(4), *range(64, 68), *(128 + np.array([0, 3, 4, 7])), *(128 + np.array([1, 2, 5, 6]))]
    by_atom = atoms_of(covariance[np.ix_(kept, kept)], (4,) * 4)
    expected = dict(zip(NAMES, [*by_atom.ravel(), *by_atom.sum(axis=1), by_atom.sum()], strict=True))
    for epoch in range(8):
        causes = rng.standard_normal((1000, 12))
        held = [
            torch.tensor(causes @ each + 0.5 * rng.standard_normal((1000, 64)), dtype=torch.float32)
            for each in loadings
        ]
        made = content(epoch, rows=1000, experts=2)
        made["source_activations"] = dict(zip(made["source_activations"], held[:2], strict=True))
        made["target_activations"] = {TARGET: held[2]}
        write(tmp_path, made)
    assert analyze_oid.main(["--run-dir", str(tmp_path), "--surrogates", "20", "--jobs", "1"]) == 0
    results = read_csv(tmp_path / "oid_plots" / "moe" / "atoms.csv")
    assert [result.rank for result in results] == [4] * 8
    held_by = {
        name: sum(result.values[name].low <= number <= result.values[name].high for result in results)
        for name, number in expected.items()
    }
    # Of 8 at 95 %, fewer than 6 come once in 170 times.
    assert min(held_by[name] for name in (*SUMS, "total")) >= 6, held_by
    assert sum(held_by.values()) >= 0.9 * 8 * len(NAMES), held_by


@needs_chromium
def test_a_browser_draws_it_in_both_languages(analysed: Path, browser: Browser, tmp_path: Path) -> None:
    pages = {"en": (analysed / "oid_plots" / "moe" / "report.html").read_text(encoding="utf-8")}
    command = ["--run-dir", str(analysed), "--top-n-experts", "3", "--lang", "zh", "--out", str(tmp_path), *QUICK]
    assert analyze_oid.main(command) == 0
    pages["zh"] = (tmp_path / "moe" / "report.html").read_text(encoding="utf-8")
    check_drawn(browser, pages, tmp_path, "oid")
    drawn = (tmp_path / "moe" / "epoch_1_syn.svg").read_text(encoding="utf-8")
    assert "专家 i" in drawn


def test_bad_files_are_skipped_and_pictures_of_before_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, content(0))
    broken = write(tmp_path, content(1))
    broken.write_bytes(broken.read_bytes()[:-100])
    folder = tmp_path / "oid_plots" / "moe"
    folder.mkdir(parents=True)
    (folder / "epoch_9_syn.svg").write_text("old")
    (folder / "mine.svg").write_text("mine")
    assert analyze_oid.main(["--run-dir", str(tmp_path), "--top-n-experts", "2", *QUICK]) == 3
    assert f"skipped: {broken} cannot be read" in capsys.readouterr().err
    assert not (folder / "epoch_9_syn.svg").exists()
    assert (folder / "mine.svg").exists()
    assert "Skipped files" in (folder / "report.html").read_text(encoding="utf-8")


def test_pairs_that_never_meet_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, content(0, rows=900))
    command = ["--run-dir", str(tmp_path), "--top-n-experts", "3", "--rows", "routed", *QUICK]
    assert analyze_oid.main(command) == 0
    said = "epoch 0, layers.1.experts.2 and layers.1.experts.3: too few common samples: 0 (routed to both), 256"
    assert said in capsys.readouterr().err
    folder = tmp_path / "oid_plots" / "moe"
    rows = rows_of(folder / "atoms.csv")
    assert len(rows) == 2 * len(NAMES) + 1
    assert {row["used_rows"] for row in rows if row["atom"]} == {"300"}
    assert "too few common samples: 0" in next(row["not_computed"] for row in rows if not row["atom"])
    assert "not</text>" in (folder / "epoch_0_syn.svg").read_text(encoding="utf-8")
    assert analyze_oid.main([*command, "--min-samples", "301"]) == 1


def test_a_source_that_another_copies_is_flagged(tmp_path: Path) -> None:
    made = content(0)
    made["source_activations"][f"{EXPERTS}.2"] = 2 * made["source_activations"][f"{EXPERTS}.0"]
    write(tmp_path, made)
    assert analyze_oid.main(["--run-dir", str(tmp_path), "--top-n-experts", "3", *QUICK]) == 0
    folder = tmp_path / "oid_plots" / "moe"
    flagged = {
        (row["expert_i"][-1], row["expert_j"][-1]) for row in rows_of(folder / "atoms.csv") if row["singular"] == "1"
    }
    assert flagged == {("0", "2")}
    assert 'class="flag"' in (folder / "epoch_0_atoms_0_2.svg").read_text(encoding="utf-8")
    assert 'class="flag"' not in (folder / "epoch_0_atoms_0_3.svg").read_text(encoding="utf-8")


def test_sources_that_no_router_counts_are_pairs_too(tmp_path: Path) -> None:
    made = content(0)
    made["metadata"]["expert_activation_counts"] = {}
    del made["metadata"]["rows"]
    write(tmp_path, made)
    assert analyze_oid.main(["--run-dir", str(tmp_path), "--top-n-experts", "2", *QUICK]) == 0
    page = (tmp_path / "oid_plots" / "moe" / "report.html").read_text(encoding="utf-8")
    assert "no source is an expert of a router that was counted" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--probe-name", "other"], "no probe other to analyse: there are moe"),
        (["--kind", "discrete", "--rank", "5"], "give at most 4"),
        (["--max-samples", "100"], "--max-samples is less than --min-samples"),
    ],
)
def test_bad_options_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    write(tmp_path, content(0, rows=10))
    assert analyze_oid.main(["--run-dir", str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "oid_plots").exists()


def test_a_run_without_probes_or_with_one_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze_oid.main(["--run-dir", str(tmp_path)]) == 2
    assert "holds none" in capsys.readouterr().err
    made = content(1, rows=10, experts=2, probe="alone")
    del made["source_activations"][f"{EXPERTS}.1"]
    made["metadata"]["source_modules"] = [f"{EXPERTS}.0"]
    write(tmp_path, made)
    assert analyze_oid.main(["--run-dir", str(tmp_path), "--probe-name", "alone"]) == 2
    assert "a pair needs two sources, there is 1" in capsys.readouterr().err
