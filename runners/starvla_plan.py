"""What the four stages of SA-GR Flow are run with: one plan, and the stages that follow from it."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from runners.going_on import going_on
from runners.places import Refused
from runners.stage import Stage

HERE = Path(__file__).resolve().parent
SCRIPT = Path("starVLA", "training", "train_starvla.py")
RECIPES = Path("starVLA", "sagr", "stages.py")
CACHES = ("stats_gr00t*.json", "steps_data_index.*")
"""What upstream leaves in the `meta` of a data set when it first reads it."""

OWNED = {
    "run_root_dir": "--work",
    "run_id": "--work",
    "seed": "--seed",
    "framework.name": "always MapAnythingLlava3DPI",
    "framework.qwenvl.base_vlm": "--base-vlm",
    "framework.sagr.geometry.backend": "--backend",
    "framework.sagr.execute_steps": "--execute-steps",
    "framework.sagr.stage": "by the stage",
    "framework.action_model.enable_causal_feedback_token": "--feedback",
    "datasets.vla_data.data_root_dir": "--data-root",
    "datasets.vla_data.data_mix": "--data-mix",
    "datasets.vla_data.past_offset": "--feedback, --execute-steps",
    "datasets.vla_data.include_state": "always true",
    "trainer.max_train_steps": "--steps",
    "trainer.pretrained_checkpoint": "by the stage before, and --checkpoint",
    "trainer.is_resume": "--resume-inside",
}
"""Keys of upstream's configuration that the runner sets itself, and by which of its own options."""
LOST = "trainer.is_resume restores weights and step; the optimizer's state and the data's order began anew"
"""What going on inside a stage costs (`_get_latest_checkpoint` of upstream's trainer)."""


@dataclass(frozen=True)
class Plan:
    """Everything that the stages depend on. `python` is the interpreter of the starVLA environment."""

    home: Path
    checkout: Path
    python: str
    config_yaml: Path
    base_vlm: str
    data_root: Path
    data_mix: str
    steps: Mapping[str, int]
    """Optimizer steps by the name of the stage."""
    backend: str = "depth"
    seed: int = 42
    feedback: bool = False
    grounding: bool = False
    execute_steps: int = 4
    checkpoint: Path | None = None
    """Weights to begin with, in the first stage."""
    data_sets: Sequence[str] = ()
    """Folders below `data_root` that the mixture reads; none named: all of them count as input."""
    cpu: bool = False
    nproc: int = 1
    size: int | None = None
    """Bytes of the vision-language model, as far as they are known: a checkpoint is about of this size."""
    accelerate_config: Path | None = None
    inside: bool = False
    """Whether a stage that was stopped goes on from its last checkpoint, to other weights than in one go."""
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further dotted arguments, by the name of a stage; those under the empty name go to every stage."""
    state: Mapping[str, str] = field(default_factory=dict)
    """What all stages depend on beside files: the checkout's state, the environment's versions."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, stage: str) -> Path:
        """The run folder of upstream's trainer."""
        return self.home / stage / "runs" / stage

    def final(self, stage: str) -> Path:
        """The weights that a stage leaves, where `from_pretrained` finds configuration and statistics beside them."""
        return self.run(stage) / "final_model" / "pytorch_model.pt"

    def launcher(self) -> list[str]:
        """The command as far as upstream's script."""
        seeded = [str(HERE / "seeded.py"), str(self.seed)]
        if self.cpu:
            return [self.python, *seeded, str(HERE / "starvla_on_cpu.py"), str(self.checkout / SCRIPT)]
        launch = ["-m", "accelerate.commands.launch", "--num_processes", str(self.nproc)]
        if self.accelerate_config is not None:
            launch += ["--config_file", str(self.accelerate_config)]
        return [self.python, *launch, *seeded, str(self.checkout / SCRIPT)]


def recipes(checkout: Path) -> ModuleType:
    """`starVLA/sagr/stages.py` of the checkout, which needs nothing but the standard library.

    Raises Refused where the checkout carries no graft.
    """
    file = checkout / RECIPES
    if not file.is_file():
        raise Refused(f"{file} is not there: run `python apply.py starVLA` first, or name a checkout with --checkout")
    spec = importlib.util.spec_from_file_location("starvla_sagr_stages", file)
    if spec is None or spec.loader is None:
        raise Refused(f"{file} cannot be loaded")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_stages(plan: Plan) -> list[Stage]:
    """The four stages in the order in which they run; each starts from the weights of the one before."""
    made: list[Stage] = []
    known = recipes(plan.checkout)
    previous = plan.checkpoint
    for recipe in known.STAGES:
        overrides = known.overrides(
            recipe, str(previous) if previous else None, feedback=plan.feedback, grounding=plan.grounding
        )
        made.append(_stage(plan, recipe, overrides, previous, made[-1].name if made else None))
        previous = plan.final(recipe.name)
    return made


def _stage(plan: Plan, recipe: Any, overrides: list[str], previous: Path | None, needs: str | None) -> Stage:
    name, run = recipe.name, plan.run(recipe.name)
    own: dict[str, object] = {
        "run_root_dir": run.parent,
        "run_id": name,
        "seed": plan.seed,
        "framework.qwenvl.base_vlm": plan.base_vlm,
        "framework.sagr.geometry.backend": plan.backend,
        "framework.sagr.execute_steps": plan.execute_steps,
        "datasets.vla_data.data_root_dir": plan.data_root,
        "datasets.vla_data.data_mix": plan.data_mix,
        "datasets.vla_data.include_state": "true",
        "trainer.max_train_steps": plan.steps[name],
        "trainer.is_resume": "false",
    }
    if plan.feedback and recipe.feedback:
        # After a restart fewer actions have been executed than k.
        own["datasets.vla_data.past_offset"] = f"[{','.join(map(str, range(1, plan.execute_steps + 1)))}]"
    chosen = {**plan.extra.get("", {}), **plan.extra.get(name, {})}
    frozen = chosen.get("trainer.freeze_modules", ",".join(recipe.freeze))
    # What was said for a stage comes last, and wins over its recipe.
    arguments = [*overrides, *(f"--{key}={value}" for key, value in [*own.items(), *chosen.items()])]
    inputs = {"configuration": plan.config_yaml, **_data(plan)}
    if Path(plan.base_vlm).is_dir():
        inputs["base VLM"] = Path(plan.base_vlm)
    if previous is not None:
        inputs["weights to begin with"] = previous
    command = [*plan.launcher(), "--config_yaml", str(plan.config_yaml), *arguments]
    environment = {**plan.environment, "PYTHONPATH": str(plan.checkout)}
    return Stage(
        name=name,
        kind=name,
        folder=plan.home / name,
        command=command,
        outputs=[plan.final(name), run / "config.yaml", run / "dataset_statistics.json", run / "metrics.jsonl"],
        inputs=inputs,
        options=plan.state,
        space=space_of(plan, name, chosen.get("trainer.save_interval")),
        environment=environment,
        needs=[] if needs is None else [needs],
        caches=CACHES,
        metrics=[f"runs/{name}/metrics.jsonl"],
        total=plan.steps[name],
        resume=functools.partial(going_on, command, plan.home / name, environment, print) if plan.inside else None,
        inexact=LOST if plan.inside else "",
        remedy="mend what the log says and run the same command again: stages that are done are kept, and with "
        "--resume-inside this one goes on from its last checkpoint",
        anew="it has no whole checkpoint" if plan.inside else "upstream cannot go on exactly; --resume-inside keeps it",
        check=None if previous is None else functools.partial(why_unusable, plan, name, previous, frozen),
    )


def space_of(plan: Plan, stage: str, save_interval: str | None) -> int | None:
    """Bytes of a stage's checkpoints: one every so many steps, none of which upstream removes, and the final one."""
    if plan.size is None:
        return None
    configuration = yaml.safe_load(plan.config_yaml.read_text(encoding="utf-8")) or {}
    every = save_interval or (configuration.get("trainer") or {}).get("save_interval")
    return plan.size * (1 + (plan.steps[stage] // int(every) if every else 0))


def _data(plan: Plan) -> dict[str, Path]:
    if plan.data_sets:
        return {f"data set {name}": plan.data_root / name for name in plan.data_sets}
    return {"data sets": plan.data_root}


def why_unusable(plan: Plan, stage: str, previous: Path, frozen: str) -> str | None:
    """Why a stage that ended well did not do what it should: it began elsewhere, or trained what was to be frozen."""
    done = subprocess.run(
        [plan.python, "-m", "starVLA.sagr.stages", str(previous), str(plan.final(stage)), frozen],
        env={**os.environ, "PYTHONPATH": str(plan.checkout)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return None
    return done.stdout.strip() or f"its weights could not be looked at: {done.stderr.strip()[-600:]}"


def losses_of(plan: Plan, stage: str) -> list[float]:
    """The total loss of a stage at its logging steps, from what it wrote to metrics.jsonl."""
    rows = (plan.run(stage) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(row["loss/total"]) for row in map(json.loads, rows) if "loss/total" in row]
