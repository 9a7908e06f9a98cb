"""The chapter on openvla, step by step: which tree, model and data, the runner with both arms, and what they left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.openvla_tree import DATASET, OFFLINE, Tree, make_materials, real_tree, standin_tree, why_not_real
from demo.runs import RunFailed
from demo.trees import graft_of
from runners.digests import commit_of
from runners.openvla_facts import trace_in

RUNNER = "openvla-gradient-surgery"
REPORT = "openvla-report.html"
"""The runner's own report, beside the demo's."""
STEPS, PROBE = 60, 24
SETTINGS = (
    # Of so few episodes hardly any frame is held out.
    "probe.split=train",
    *("surgery.log_every=1", "surgery.thermostat.every=5", "surgery.thermostat.samples=8"),
    "surgery.thermostat.cold_start=3",
)
ARMS = ("baseline", "method")
STAGES = ("probe", "icsm/vulnerability", "train/baseline/seed0", "train/method/seed0")
"""Their folders below the comparison's."""
TAIL = 45


def command_of(tree: Tree, home: Path) -> list[str]:
    """The runner's command line: both arms, one seed, no evaluation."""
    materials = materials_of(tree, home)
    options = {
        "--vla-path": materials / tree.model,
        "--data-root": materials / tree.data,
        "--dataset-name": DATASET,
        "--checkout": tree.checkout,
        "--libero": tree.libero,
        "--python": tree.python,
        "--work": home / "work",
        "--cache": home / "cache",
        "--name": work_of(tree, home).name,
        "--report": home.parent / REPORT,
        "--arms": ",".join(ARMS),
        "--max-steps": STEPS,
        "--probe-n": PROBE,
        "--gl": "none",
        "--stages": "probe,icsm,baseline,method,report",
    }
    settings = [word for one in (*tree.settings, *SETTINGS) for word in ("--set", one)]
    given = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "runners", RUNNER, "--cpu", *given, *settings]


def materials_of(tree: Tree, home: Path) -> Path:
    return (home / "materials" / ("real" if tree.real else "standin")).absolute()


def work_of(tree: Tree, home: Path) -> Path:
    return home / "work" / ("real" if tree.real else "standin")


def run(command: list[str], log: Path) -> None:
    """Runs the runner with its output in `log`, and shows which stages are done as it says so.

    Raises RunFailed with the part of the log that says what failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WANDB_DIR")}
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, **OFFLINE, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        for line in process.stdout or ():
            out.write(line)
            if re.search(r": (kept \(|done in )", line):
                print(line.rstrip(), flush=True)
    if process.returncode:
        tail = tail_of(log.read_text(encoding="utf-8"))
        raise RunFailed(f"{RUNNER} ended with {process.returncode}; the whole log is {log}\n{tail}")


def tail_of(text: str) -> str:
    """What to show of the runner's output: from the first stage that failed on, else the end."""
    lines = text.splitlines()
    failed = next((number for number, line in enumerate(lines) if re.match(r" +\S+: failed: ", line)), None)
    return "\n".join(lines[-TAIL:] if failed is None else lines[failed : failed + TAIL])


def losses(tree: Tree, folder: Path) -> list[list[float]]:
    """The [step, loss] pairs that finetune.py logged, as the environment's own wandb reads them.

    Raises RunFailed.
    """
    command = [str(tree.python), "demo/openvla_losses.py", str(folder)]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if said.returncode:
        raise RunFailed(f"{' '.join(command)} ended with {said.returncode}\n{said.stderr[-2000:]}")
    return [[float(step), float(loss)] for step, loss in json.loads(said.stdout.splitlines()[-1])]


def of_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def gather(tree: Tree, home: Path) -> dict[str, Any]:
    """The facts that `openvla_chapter.chapter` wants.

    Raises RunFailed where an arm logged nothing.
    """
    work = work_of(tree, home)
    trained = {arm: work / "train" / arm / "seed0" for arm in ARMS}
    records = {name: of_json(work / name / "stage.json") for name in STAGES}
    return {
        "real": tree.real,
        "why": tree.why,
        **graft_of(tree.checkout),
        "icsm": of_json(work / "icsm" / "vulnerability" / "icms_vulnerability" / "meta.json"),
        "trace": trace_in(trained["method"] / "runs"),
        "losses": {arm: losses(tree, folder) for arm, folder in trained.items()},
        "stages": [
            {"name": name, "command": record["command"], "seconds": record["seconds"]}
            for name, record in records.items()
        ],
        "report": REPORT,
    }


def facts_of(report: Mapping[str, Any] | None, home: Path, standin_python: Path) -> dict[str, Any]:
    """Runs all of it and returns the facts; `report` is openvla's entry in the JSON of `status`.

    Raises RunFailed.
    """
    home.mkdir(parents=True, exist_ok=True)
    why = why_not_real(report)
    tree = standin_tree(home, standin_python, why) if why else real_tree()
    print(
        f"    {'the stand-in, because ' + why if why else 'the real openvla, ' + commit_of(tree.checkout)[0]}",
        flush=True,
    )
    make_materials(tree, materials_of(tree, home))
    run(command_of(tree, home), home / "runner.log")
    return gather(tree, home)
