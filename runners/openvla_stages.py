"""The pipeline's stages and their commands: upstream's own scripts and the grafted modules, run in the checkout's name.

Every command runs in its stage's folder with the checkout on PYTHONPATH, so that what upstream writes into the working
folder (videos, wandb) lands there and not in the checkout.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from runners.openvla_arms import Arm
from runners.openvla_checkpoint import trained_in, view
from runners.openvla_plan import HERE, KINDS, Plan
from runners.openvla_scores import results_in, why_unusable
from runners.stage import Stage
from runners.table import command

EVAL = "experiments/robot/libero/run_libero_eval.py"
CACHES = ("dataset_statistics_*.json",)
"""What upstream's RLDS pipeline leaves in a data set's folder when it first reads it."""


def flags(*groups: Mapping[str, str]) -> list[str]:
    """`--key value` for every pair; a later group wins."""
    merged: dict[str, str] = {}
    for group in groups:
        merged |= group
    return [part for key, value in merged.items() for part in (f"--{key}", value)]


def probe_stage(plan: Plan) -> Stage:
    own = {"out": str(plan.probe), "n": str(plan.probe_n)}
    inputs: dict[str, Path] = {}
    if plan.probe_jsonl is not None and plan.probe_images is not None:
        own |= {"jsonl": str(plan.probe_jsonl), "images": str(plan.probe_images)}
        inputs = {"probe list": plan.probe_jsonl, "probe images": plan.probe_images}
    else:
        own |= {"data_root_dir": str(plan.data_root), "dataset_name": plan.probe_dataset}
        own |= {"split": "held_out" if plan.probe_dataset == plan.dataset_name else "train"}
        own |= image_size(plan.local_model())
        inputs = _data(plan, plan.probe_dataset)
    return Stage(
        name="probe",
        kind="probe",
        folder=plan.home / "probe",
        command=[plan.python, "-m", "research.probe.probe_dataset", *flags(own, plan.extra.get("probe", {}))],
        outputs=[plan.probe],
        inputs=inputs,
        options=plan.state,
        caches=CACHES,
        environment={**plan.environment, **plan.paths()},
        anew="a probe set is written when it is whole",
        remedy="mend what the log says and run the same command again; of a data set with few episodes nothing is held "
        "out: name another with --probe-dataset, or take frames that are trained on with --set probe.split=train",
    )


def image_size(model: Path | None) -> dict[str, str]:
    """The size to which finetune.py resizes pictures for this model; the probe's own default for one on the hub."""
    config = None if model is None else model / "config.json"
    if config is None or not config.is_file():
        return {}
    sizes = json.loads(config.read_text(encoding="utf-8")).get("image_sizes") or []
    return {"image_size": str(sizes[0])} if sizes else {}


def _data(plan: Plan, name: str) -> dict[str, Path]:
    return {} if plan.data_root is None else {"data set": plan.data_root / name}


def icsm_stage(plan: Plan, rank_by: str) -> Stage:
    own = {
        "vla_path": plan.vla_path,
        "probe": str(plan.probe),
        "out": str(plan.subspaces(rank_by)),
        "rank_by": rank_by,
    }
    return Stage(
        name=f"icsm/{rank_by}",
        kind="icsm",
        folder=plan.home / "icsm" / rank_by,
        command=[plan.python, "-m", "research.icms.offline_icms", *flags(own, plan.extra.get("icsm", {}))],
        outputs=[plan.subspaces(rank_by), plan.subspaces(rank_by) / "meta.json"],
        inputs={"probe set": plan.probe, **plan.model_input()},
        options=plan.state,
        caches=CACHES,
        environment={**plan.environment, **plan.paths()},
        needs=["probe"],
        anew="subspaces are written when they all are found",
    )


def train_stage(plan: Plan, arm: Arm, seed: int) -> Stage:
    runs = plan.runs(arm.name, seed)
    own = {
        "vla_path": plan.vla_path,
        "data_root_dir": str(plan.data_root),
        "dataset_name": plan.dataset_name,
        "run_root_dir": str(runs),
        "adapter_tmp_dir": str(runs.parent / "adapters"),
        "max_steps": str(plan.max_steps),
        "learning_rate": plan.rate(arm),
        "save_steps": str(plan.max_steps),
        "image_aug": str(plan.image_aug),
        "run_id_note": f"{arm.name}-seed{seed}",
    }
    inputs, needs, surgery = {**_data(plan, plan.dataset_name), **plan.model_input()}, [], {}
    if arm.rank_by is not None:
        surgery = {
            "enabled": "True",
            "subspace_dir": str(plan.subspaces(arm.rank_by)),
            "probe_dir": str(plan.probe),
            "seed": str(seed),
            **plan.extra.get("surgery", {}),
            **arm.surgery,
        }
        inputs |= {"subspaces": plan.subspaces(arm.rank_by), "probe set": plan.probe}
        needs = ["probe", f"icsm/{arm.rank_by}"]
    named = {f"surgery.{key}": value for key, value in surgery.items()}
    return Stage(
        name=f"{arm.name}/seed{seed}",
        kind=arm.kind,
        folder=runs.parent,
        command=[
            *plan.script("vla-scripts/finetune.py", seed, ranks=True),
            *flags(own, plan.extra.get("finetune", {}), named),
        ],
        outputs=[runs],
        inputs=inputs,
        space=plan.size,
        options={**plan.state, "learning rate": plan.rate(arm)},
        caches=CACHES,
        environment={**plan.environment, **plan.paths()},
        needs=needs,
        metrics=["runs/*/metrics.jsonl", "wandb/offline-run-*/*.wandb"],
        total=plan.max_steps,
        anew="finetune.py saves neither the optimizer's state nor the data loader's: it cannot go on (see --help)",
        check=functools.partial(_no_checkpoint, runs),
    )


def _no_checkpoint(runs: Path) -> str | None:
    try:
        trained_in(runs)
    except OSError as error:
        return str(error)
    return None


def assets_stage(plan: Plan) -> Stage:
    maker = command("libero-assets", "--checkout", plan.libero, "--out", plan.assets, python=sys.executable)
    return Stage(
        name="assets",
        kind="eval",
        folder=plan.home / "assets",
        command=maker,
        outputs=[plan.assets],
        inputs={"maker": HERE / "libero_assets.py"},
        options=plan.eval_state,
    )


def eval_stage(plan: Plan, arm: str, seed: int | None, suite: str) -> Stage:
    """One suite by one model; `seed` None is the model before fine-tuning."""
    folder = plan.evaluation(arm, seed, suite)
    local = plan.local_model()
    checkpoint = str(folder / "checkpoint") if seed is not None or local is not None else plan.vla_path
    note = arm if seed is None else f"{arm}-seed{seed}"
    other = plan.general_commands.get(suite)
    command = other_command(plan, other, folder, checkpoint) if other else libero_command(plan, note, suite, checkpoint)

    def prepare() -> None:
        (folder / "logs").mkdir()
        model = local if seed is None else trained_in(plan.runs(arm, seed))
        if model is not None:
            view(model, folder / "checkpoint", None if other else suite, plan.statistics)

    inputs = plan.model_input() if seed is None else {"checkpoint": plan.runs(arm, seed)}
    inputs |= {f"statistics {number}": path for number, path in enumerate(plan.statistics)}
    inputs |= {word: Path(word) for word in shlex.split(other or "") if Path(word).is_file()}
    if plan.asset_standins:
        inputs["asset stand-ins"] = plan.assets
    return Stage(
        name=f"eval/{arm}/{suite}" if seed is None else f"eval/{arm}/seed{seed}/{suite}",
        kind="eval",
        folder=folder,
        command=command,
        outputs=[folder / "logs"],
        inputs=inputs,
        options={**plan.state, **plan.eval_state},
        # LIBERO keeps absolute paths in a file: in the stage's own folder, where the command runs, it cannot be stale.
        environment={**plan.environment, **plan.eval_environment, **plan.paths(), "LIBERO_CONFIG_PATH": "libero-paths"},
        needs=[*(["assets"] if plan.asset_standins else []), *([] if seed is None else [f"{arm}/seed{seed}"])],
        before=prepare,
        resume=None if other else functools.partial(going_on, plan, command, folder / "logs"),
        anew="nothing is known of how its command would go on" if other else "",
        figures=functools.partial(played, folder / "logs"),
        unit="episode",
        check=lambda: why_unusable(results_in(folder / "logs")),
    )


def going_on(plan: Plan, command: list[str], logs: Path) -> list[str] | None:
    """The evaluation that keeps the tasks that an interrupted one has finished; None where none was, or the checkout's
    pack is of before it could.
    """
    earlier = results_in(logs)
    if earlier is None or "resume_results" not in (plan.checkout / EVAL).read_text(encoding="utf-8"):
        return None
    return [*command, "--resume_results", str(earlier)]


def played(logs: Path) -> dict[str, float]:
    """What an evaluation's account says while it goes on: episodes played, episodes in all, rate of success."""
    path = results_in(logs)
    if path is None:
        return {}
    result = json.loads(path.read_text(encoding="utf-8"))
    known = {"step": result["episodes"]}
    if {"num_tasks", "num_trials_per_task"} <= result.keys():
        known["total"] = result["num_tasks"] * result["num_trials_per_task"]
    rate = result.get("success_rate_completed")
    return known if rate is None else known | {"success": rate}


def libero_command(plan: Plan, note: str, suite: str, checkpoint: str) -> list[str]:
    """Upstream's evaluation on LIBERO; its log and the result go to `logs` in the folder where it runs."""
    own = {
        "model_family": "openvla",
        "pretrained_checkpoint": checkpoint,
        "task_suite_name": suite,
        "num_trials_per_task": str(plan.num_trials),
        "center_crop": str(plan.image_aug),
        "local_log_dir": "logs",
        "run_id_note": note,
    }
    if plan.num_tasks is not None:
        own["num_tasks"] = str(plan.num_tasks)
    return [*plan.script(EVAL), *flags(own, plan.extra.get("eval", {}))]


def other_command(plan: Plan, command: str, folder: Path, checkpoint: str) -> list[str]:
    """A general suite's own command, split as a shell would, its placeholders filled in word by word."""
    known = {"python": plan.python, "checkout": str(plan.checkout), "checkpoint": checkpoint}
    known["results"] = str(folder / "logs" / "results.json")
    return [word.format(**known) for word in shlex.split(command)]


def all_stages(plan: Plan) -> list[Stage]:
    """Every stage in the order in which they run: all of one kind before the next."""
    ranks = list(dict.fromkeys(arm.rank_by for arm in plan.arms if arm.rank_by is not None))
    trained = sorted(plan.arms, key=lambda arm: KINDS.index(arm.kind))
    return [
        *([probe_stage(plan)] if ranks else []),
        *(icsm_stage(plan, rank_by) for rank_by in ranks),
        *(train_stage(plan, arm, seed) for arm in trained for seed in plan.seeds),
        *([assets_stage(plan)] if plan.asset_standins else []),
        *(eval_stage(plan, "before", None, suite) for suite in plan.general_suites),
        *(
            eval_stage(plan, arm.name, seed, suite)
            for arm in trained
            for seed in plan.seeds
            for suite in (plan.suite, *plan.general_suites)
        ),
    ]
