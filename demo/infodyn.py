"""The chapter on information dynamics, step by step: the runner on the grafted LLaMA-Factory, and what it left."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.infodyn_off import compare
from demo.openvla import of_json
from demo.runs import RunFailed, logged
from demo.trees import OFFLINE
from look.words import default_language
from runners.digests import Digests, checkout_state, commit_of, write_whole
from runners.versions import versions_of

CHECKOUT, ANALYST = Path("upstreams/LLaMA-Factory"), Path(".venvs/infodyn/bin/python")
RUNNER, COUNTS = ("-m", "runners", "infodyn-llamafactory"), Path("demo/infodyn_counts.py")
RUN = ("demo/infodyn_off.py", "runners/infodyn_llamafactory.py", "runners/infodyn_toy.py")
RUN += ("runners/analyze_oid.py", "runners/oid")
CODE = (COUNTS, *map(Path, RUN))
STAMP = "graft-environment.json"
"""What envs/build.py leaves in an environment that it made."""
STEPS = 280
"""Enough for every reason to choose; the runner's own 480 take twice as long."""
SHOWN = ("Syn", "Red")
TAIL = 45


def run(python: Path, home: Path) -> dict[str, Any]:
    """Trains, probes and analyses in `home`/work, and compares off with upstream in `home`/off.

    What was done before with the same tree, code and environments is kept. Returns command, seconds, counts, off and
    versions. Raises RunFailed with the end of what the runner said.
    """
    work, record, digests = home / "work", home / "run.json", Digests()
    command = [str(python), *RUNNER, str(work), "--steps", str(STEPS)]
    stamps = [each.parent.parent / STAMP for each in (python, ANALYST)]
    parts = [digests.of(path) if path.exists() else "" for path in (*CODE, *stamps)]
    key = " ".join([*command, str(ANALYST.exists()), checkout_state(CHECKOUT, digests), *parts, default_language()])
    if record.exists() and (known := of_json(record))["key"] == key:
        print(f"    kept in {work} ({known['seconds']:.0f} s then)", flush=True)
        return known
    shutil.rmtree(work, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    print(f"    {' '.join(command)}", flush=True)
    began, environment = time.monotonic(), {**os.environ, **OFFLINE}
    said = logged(command, home / "runner.log", lines=TAIL, environment=environment)
    seconds = time.monotonic() - began
    print(f"    {said.count(' computed, ')} probes analysed, in {seconds:.0f} s; now switched off", flush=True)
    counts = logged(
        [str(python), str(COUNTS), str(work / "run")], home / "counts.log", lines=TAIL, environment=environment
    )
    versions = versions_of(str(python), ("torch", "transformers", "llamafactory"))
    if ANALYST.exists():
        versions |= versions_of(str(ANALYST), ("omegaid",))
    made = {
        "key": key,
        "command": " ".join(command),
        "seconds": seconds,
        "counts": json.loads(counts.splitlines()[-1]),
        "off": compare(python, CHECKOUT, work / "train.yaml", home),
        "versions": versions,
    }
    write_whole(record, json.dumps(made))
    return made


def course(log: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """What `schedule.jsonl` holds: the choices with their steps, and by task its evaluations."""
    choices, evaluations = [], {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "choice" in entry:
            choices.append({**entry["choice"], "step": entry["step"]})
        else:
            evaluations.setdefault(entry["task"], []).append(entry["metrics"])
    return choices, evaluations


def analysis(folder: Path, page: str) -> dict[str, Any]:
    """What `analyze_oid.py` left in `folder`: its pictures by epoch and kind, and the sums of each pair.

    `page` is what to call the folder in a link. Raises RunFailed where pictures and table do not fit together.
    """
    pairs: dict[tuple[str, ...], dict[str, Any]] = {}
    with (folder / "atoms.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            pair = tuple(row[name] for name in ("epoch", "expert_i", "expert_j", "target"))
            found = pairs.setdefault(
                pair,
                {
                    **dict(zip(("epoch", "i", "j", "target"), pair, strict=True)),
                    "rows": row["used_rows"],
                    "singular": row["singular"] == "1",
                    "problem": row["not_computed"],
                    "values": {},
                },
            )
            if row["atom"] in SHOWN:
                value = {name: float(row[name]) for name in ("value", "low", "high")}
                found["values"][row["atom"]] = {**value, "unit": row["unit"]}
    maps = {}
    for epoch in dict.fromkeys(epoch for epoch, *_ in pairs):
        drawn = {kind: folder / f"epoch_{epoch}_{kind.lower()}.svg" for kind in SHOWN}
        if absent := [path for path in drawn.values() if not path.is_file()]:
            raise RunFailed(f"atoms.csv has epoch {epoch}, but {absent[0]} is not there")
        maps[epoch] = {kind: path.read_text(encoding="utf-8") for kind, path in drawn.items()}
    return {"page": f"{page}/report.html", "pairs": list(pairs.values()), "maps": maps}


def gather(made: Mapping[str, Any], home: Path, proven: bool) -> dict[str, Any]:
    """The facts that `infodyn_chapter.chapter` wants. Raises RunFailed where nothing was decided."""
    run_dir = home / "work" / "run"
    choices, evaluations = course(run_dir / "schedule.jsonl")
    if not choices or not evaluations:
        raise RunFailed(f"{run_dir / 'schedule.jsonl'} has {len(choices)} choices and {len(evaluations)} tasks")
    probes = {name.rpartition(".")[2]: name for name in made["counts"]}
    plots = run_dir / "oid_plots"
    return {
        "commit": commit_of(CHECKOUT)[0],
        "proven": proven,
        "choices": choices,
        "evaluations": evaluations,
        "counts": {task: made["counts"][name] for task, name in probes.items()},
        "oid": {
            task: analysis(plots / name, f"{home.name}/work/run/oid_plots/{name}")
            for task, name in probes.items()
            if plots.is_dir()
        },
        **{name: made[name] for name in ("command", "seconds", "off", "versions")},
    }


def facts_of(report: Mapping[str, Any] | None, home: Path, python: Path) -> dict[str, Any]:
    """Runs all of it and returns the facts; `report` is LLaMA-Factory's entry in the JSON of `status`.

    It always runs on the real tree, which the demo has: there is no stand-in. Raises RunFailed.
    """
    return gather(run(python, home), home, report is not None and report["tree_proven"])
