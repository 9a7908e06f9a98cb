"""The chapter on starVLA, step by step: which tree, model and data, its trainer off and on, and what they left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.openvla import of_json
from demo.runs import RunFailed
from demo.starvla_tree import OFFLINE, Tree, make_materials, real_tree, standin_tree, why_not_real
from demo.trees import graft_of
from runners.digests import Digests, checkout_state, commit_of, write_whole

FRAMEWORK = "MapAnythingLlava3DPI"
SCRIPT = Path("demo/starvla_run.py")
CODE = (SCRIPT, Path("demo/starvla_act.py"), Path("tests/starvla_real"), Path("tests/standins/starVLA"))
STAMP = "graft-environment.json"
"""What envs/build.py leaves in an environment that it made."""
OFF_STEPS = 4
STEPS = {"alignment": 30, "dynamics": 60, "imitation": 30, "correction": 30}
"""Few: the demo shows that every stage trains what it is to train, and needs no accuracy."""
SETTINGS = (
    *("sagr.geometry.backend=depth", "sagr.dim=32", "sagr.anchor.slots=4", "sagr.anchor.heads=4"),
    *("sagr.world.layers=2", "sagr.world.hidden=64", "sagr.world.heads=4", "sagr.guidance.enabled=true"),
)
VERSIONS = ("torch", "transformers", "accelerate", "numpy")


def plan_of(tree: Tree, home: Path) -> dict[str, Any]:
    """What starvla_run.py is told."""
    options = [
        *(f"--framework.{setting}" for setting in SETTINGS),
        f"--framework.sagr.geometry.patch={tree.patch}",
        f"--datasets.vla_data.data_mix={tree.mixture}",
        "--datasets.vla_data.past_offset=4",
        "--datasets.vla_data.per_device_batch_size=8",
        "--trainer.learning_rate.base=3e-3",
    ]
    return {
        "real": tree.real,
        "grafted": str(tree.checkout),
        "pristine": str(tree.pristine),
        "materials": str(materials_of(tree, home)),
        "work": str(work_of(tree, home)),
        "framework": FRAMEWORK,
        "off_steps": OFF_STEPS,
        "steps": STEPS,
        "options": options,
        "preload": list(tree.preload),
        "versions": [*VERSIONS, *(["deepspeed"] if tree.real else [])],
    }


def materials_of(tree: Tree, home: Path) -> Path:
    return (home / "materials" / ("real" if tree.real else "standin")).absolute()


def work_of(tree: Tree, home: Path) -> Path:
    return (home / "work" / ("real" if tree.real else "standin")).absolute()


def run(tree: Tree, home: Path) -> dict[str, Any]:
    """Runs starvla_run.py unless it was run before on the same tree, plan and code; what it wrote.

    Raises RunFailed with the end of what it said.
    """
    plan, work, digests = plan_of(tree, home), work_of(tree, home), Digests()
    environment_stamp = tree.python.parent.parent / STAMP
    code = [*CODE, *([environment_stamp] if environment_stamp.exists() else [])]
    state = [json.dumps(plan), checkout_state(tree.checkout, digests), *(digests.of(path) for path in code)]
    stamp, facts = work / "made-with.txt", work / "facts.json"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == "\n".join(state):
        print(f"    kept in {work}", flush=True)
        return of_json(facts)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_whole(work / "plan.json", json.dumps(plan, indent=1))
    command = [str(tree.python), str(SCRIPT), str(work / "plan.json"), str(facts)]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WANDB_DIR")}
    environment = {**kept, **OFFLINE, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise RunFailed(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-6000:]}")
    write_whole(stamp, "\n".join(state))
    return of_json(facts)


def gather(tree: Tree, made: dict[str, Any]) -> dict[str, Any]:
    """The facts that `starvla_chapter.chapter` wants.

    Raises RunFailed where the framework, switched off, is not what upstream is: nothing else would count then.
    """
    first, second = ({key: made["off"][name][key] for key in ("loss", "weights")} for name in ("upstream", "grafted"))
    if first != second or len(first["loss"]) != OFF_STEPS:
        raise RunFailed(f"switched off, {FRAMEWORK} is not QwenPI: upstream {first}, grafted {second}")
    return {
        **made,
        "real": tree.real,
        "why": tree.why,
        **graft_of(tree.checkout),
    }


def facts_of(report: Mapping[str, Any] | None, home: Path, standin_python: Path) -> dict[str, Any]:
    """Runs all of it and returns the facts; `report` is starVLA's entry in the JSON of `status`.

    Raises RunFailed.
    """
    home.mkdir(parents=True, exist_ok=True)
    why = why_not_real(report)
    tree = standin_tree(home, standin_python, why) if why else real_tree(home)
    print(
        f"    {'the stand-in, because ' + why if why else 'the real starVLA, ' + commit_of(tree.checkout)[0]}",
        flush=True,
    )
    make_materials(tree, materials_of(tree, home))
    return gather(tree, run(tree, home))
