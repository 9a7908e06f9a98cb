"""One probe of a run: which experts, all tasks, all results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runners.oid.common_rows import DENSE, ROUTED, common_rows
from runners.oid.estimate import Result, Settings, Task
from runners.oid.experts import by_number, most_active, pairs_of
from runners.oid.kept import Kept
from runners.oid.outcome import Analysis
from runners.oid.parallel import estimates
from runners.oid.probe_files import Epoch, Unreadable, files_of, read

STREAM = 7
"""Tells the random numbers that choose rows from those of the surrogates."""


KEPT = 1 << 30
"""Bytes of activations that are kept from the survey for the analysis; files beyond are read a second time."""


class Nothing(Exception):
    """There is nothing to analyse; the message says why, `skipped` what was passed over."""

    def __init__(self, message: str, skipped: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.skipped = list(skipped)


@dataclass(frozen=True)
class Choice:
    """What of the files is analysed: how many experts, on which rows, on how many of them, in how many processes."""

    experts: int = 4
    basis: str = "auto"
    max_rows: int = 4096
    jobs: int = 1


@dataclass
class Survey:
    """What all files of a probe hold."""

    files: dict[Path, Epoch | None]
    """None for those whose activations were too many to be kept."""
    skipped: list[str]
    datasets: list[str]
    counts: list[dict[str, int]]
    targets: list[str]
    guessed: bool
    """No source is an expert: all count as active wherever they were recorded."""
    left_out: list[str]
    basis: str


def survey(run_dir: Path, probe: str, choice: Choice) -> Survey:
    """Reads every file of a probe once. Raises Nothing where none can be read."""
    found, skipped = files_of(run_dir, probe)
    files: dict[Path, Epoch | None] = {}
    epochs_counts, sources, kept = [], [], 0
    datasets: dict[str, None] = {}
    targets: dict[str, None] = {}
    dense = True
    for path in found:
        try:
            epoch = read(path)
        except Unreadable as error:
            skipped.append(str(error))
            continue
        kept += sum(values.nbytes for side in (epoch.sources, epoch.targets) for values in side.values())
        files[path] = epoch if kept <= KEPT else None
        datasets[epoch.dataset] = None
        targets.update(dict.fromkeys(epoch.targets))
        epochs_counts.append(epoch.counts)
        sources.append({name: _recorded(epoch, name) for name in epoch.sources})
        dense = dense and (epoch.dense or not epoch.routed)
    if not files:
        raise Nothing(f"{run_dir / 'probes' / probe} holds no probe file that can be read", skipped)
    guessed = not any(epochs_counts)
    counts = sources if guessed else epochs_counts
    known = {name for each in counts for name in each}
    left_out = sorted({name for each in sources for name in each} - known, key=by_number)
    basis = choice.basis if choice.basis != "auto" else DENSE if dense else ROUTED
    return Survey(files, skipped, list(datasets), counts, list(targets), guessed, left_out, basis)


def _recorded(epoch: Epoch, name: str) -> int:
    return int(np.isfinite(epoch.sources[name]).all(axis=1).sum())


def analyse(
    run_dir: Path,
    probe: str,
    choice: Choice,
    settings: Settings,
    kept: Kept | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Analysis:
    """All pairs of the most active experts, in every epoch, about every target; those in `kept` are not computed again.
    `told` hears how many pairs are done, and of how many.

    Raises Nothing where no file can be read, or less than two sources are there.
    """
    found = survey(run_dir, probe, choice)
    experts = most_active(found.counts, choice.experts)
    if len(experts) < 2:
        raise Nothing(
            f"probe {probe}: a pair needs two sources, there is {len(experts)}; name more in source_modules, or raise "
            "--top-n-experts",
            found.skipped,
        )
    pairs = pairs_of(experts)
    results: list[Result] = []
    total = len(found.files) * len(pairs) * len(found.targets)

    def add(result: Result) -> None:
        results.append(result)
        told(len(results), total)

    told(0, total)

    def tasks() -> Iterator[Task]:
        order = 0
        for path, known in found.files.items():
            epoch = known or read(path)
            found.files[path] = None
            for target in found.targets:
                for first, second in pairs:
                    order += 1
                    done = None if kept is None else kept.known.get((epoch.number, first, second, target))
                    if done is not None:
                        add(done)
                        continue
                    rng = np.random.default_rng([settings.seed, order, STREAM])
                    try:
                        rows = common_rows(
                            epoch, first, second, target, basis=found.basis, limit=choice.max_rows, rng=rng
                        )
                    except ValueError as error:
                        add(Result(epoch.number, first, second, target, problem=str(error)))
                        continue
                    sources = epoch.sources[first][rows.index], epoch.sources[second][rows.index]
                    yield Task(
                        epoch.number,
                        (first, second, target),
                        *(*sources, epoch.targets[target][rows.index]),
                        *(rows.samples, rows.basis, rows.found, order),
                    )

    for result in estimates(tasks(), settings, choice.jobs):
        if kept is not None:
            kept.add(result)
        add(result)
    places = {pair: place for place, pair in enumerate(pairs)}
    results.sort(key=lambda r: (r.epoch, found.targets.index(r.target), places[r.first, r.second]))
    active: dict[str, int] = {}
    for counts in found.counts:
        for name, count in counts.items():
            active[name] = active.get(name, 0) + count
    return Analysis(
        probe=probe,
        datasets=found.datasets,
        counts=active,
        experts=experts,
        targets=found.targets,
        results=results,
        settings=settings,
        skipped=found.skipped,
        remarks=_remarks(found),
    )


def _remarks(found: Survey) -> list[str]:
    remarks = []
    if found.guessed:
        remarks.append("no source is an expert of a router that was counted: all are taken by their recorded rows")
    elif found.left_out:
        remarks.append(f"sources that are no experts are left out: {', '.join(found.left_out)}")
    return remarks
