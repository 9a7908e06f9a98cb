"""A run with activation probes, and the Omega-ID analysis of what they kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from infodyn.probe import ActivationProbe
from torch import nn

from look.words import ENGLISH, Words
from runners import table
from runners.digits.data import Samples, Task
from runners.digits.drawn import Picture
from runners.digits.keep import Arm
from runners.digits.model import BLOCKS
from runners.digits.results import name_of
from runners.digits.training import Settings, train

PROBE, KEPT = "last_experts", 512
PATIENCE = 900.0


def probed_run(arm: Arm, seed: int, settings: Settings, run_dir: Path, times: int = 3) -> None:
    """Trains ``arm`` and probes its last block's experts at ``times`` places evenly over the run, the end among them.

    Source: each expert on every kept token; target: the tokens that the classifier averages. Files as the probes write
    them, in ``run_dir/probes``.
    """
    every = max(1, settings.choices // times)
    spec = {"name": PROBE, "source_modules": [f"blocks.{BLOCKS - 1}.mlp.experts.*"], "target_modules": ["norm"]}
    probe = ActivationProbe(
        [spec],
        run_dir,
        "digits: validation images of all tasks",
        validation_subset_size=KEPT,
        save_every_n_epochs=every,
    )

    def look(number: int, model: nn.Module, tasks: dict[str, Task]) -> None:
        if number == 0 or not probe.due(number):
            return
        parts = [task.validation for task in tasks.values()]
        joined = Samples(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
        loader = [(joined.images[at : at + 128], joined.labels[at : at + 128]) for at in range(0, len(joined), 128)]
        with torch.no_grad(), probe.watch(model, number, samples=len(joined)) as watch:
            for images, _ in watch.batches(loader):
                model(images)

    train(*arm, seed, settings, after_choice=look)


def analysed(arm: Arm, run_dir: Path, jobs: int, lang: str = "en") -> str | None:
    """Analyses ``run_dir``; returns why not, where it could not be done."""
    if find_spec("omegaid") is None:
        return f"{name_of(arm)}: probed, not analysed: omegaid is not installed here (make infodyn, .venvs/infodyn)"
    words = ("--run-dir", run_dir, "--probe-name", PROBE, "--top-n-experts", 4, "--jobs", jobs, "--max-samples", 1024)
    command = table.command("analyze-oid", *words, "--surrogates", 20, "--lang", lang, python=sys.executable)
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE
    )
    if run.returncode:
        said = " ".join(run.stderr.split()) or "no message"
        return f"{name_of(arm)}: analyze-oid ended with exit code {run.returncode}: {said[-600:]}"
    return None


def pictures_in(runs: Mapping[str, Path], words: Words = ENGLISH) -> list[Picture]:
    """Synergy and redundancy of all pairs, choice by choice, of the analysed run folders by name.

    Colours have one limit in all of them. Raises FileNotFoundError naming the table that a folder lacks.
    """
    # Late: a comparison without probes needs no scipy.
    from runners.oid.charts import expert_map, limit_of, scale, standalone
    from runners.oid.decomposition import UNITS
    from runners.oid.experts import by_number, short_names
    from runners.oid.table import read_csv

    found = {name: read_csv(run_dir / "oid_plots" / PROBE / "atoms.csv") for name, run_dir in runs.items()}
    limit = limit_of([result for results in found.values() for result in results], ["Syn", "Red"])
    unit = words(UNITS["gaussian"])
    legend = scale(limit, unit, 220, words)
    pictures = []
    for name, results in found.items():
        experts = {path for result in results for path in (result.first, result.second)}
        names, _ = short_names(sorted(experts, key=by_number))
        for number in sorted({result.epoch for result in results}):
            shown = [result for result in results if result.epoch == number]
            for kind, word in (("Syn", "synergy"), ("Red", "redundancy")):
                title = words("{kind} after {count} choices ({unit})", kind=kind, count=number, unit=unit)
                drawn = expert_map(shown, kind, names, limit, title, words)
                caption = words("{name}: {what}, after {count} choices", name=name, what=words(word), count=number)
                pictures.append(Picture(caption, standalone(drawn, legend)))
    return pictures
