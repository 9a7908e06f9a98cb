"""The runner's options, what they have to satisfy before anything runs, and the plan that they make."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

from runners.digests import Digests, checkout_state, commit_of
from runners.hub import model_size
from runners.openvla_arms import arms_of
from runners.openvla_checks import check, check_evaluation, folder, refuse_guard_of_new_task
from runners.openvla_plan import KINDS, OWNED, Plan
from runners.places import Places, Refused
from runners.versions import versions_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "peft", "timm", "tensorflow", "tensorflow-cpu", "mujoco", "robosuite", "numpy")
"""Packages whose version changes what a stage computes."""

UPSTREAM_RATE = 5e-4
"""`learning_rate` of the pinned upstream's FinetuneConfig, which a test holds against it."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is compared")
    what.add_argument("--vla-path", required=True, metavar="MODEL", help="a folder, or a name on the hub")
    what.add_argument("--dataset-name", required=True, metavar="NAME", help="the RLDS data set to fine-tune on")
    what.add_argument("--suite", metavar="SUITE", help="the downstream suite; default: the data set's name")
    what.add_argument("--general-suites", default="", metavar="A,B", help="suites on which forgetting is measured")
    what.add_argument(
        "--general-command",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a general suite of another kind: COMMAND measures {checkpoint} and writes {results} as the eval pack "
        "does; {python} and {checkout} are filled in too; may be repeated",
    )
    what.add_argument("--arms", default="baseline,method", metavar="A,B", help="names with commas, or all")
    what.add_argument("--seeds", default="0", metavar="0,1,2")
    what.add_argument("--max-steps", type=int, default=5000, metavar="N", help="optimizer steps; default %(default)s")
    what.add_argument("--no-image-aug", action="store_true", help="train without augmentation, evaluate without crop")
    probe = parser.add_argument_group("probe set", "take it from what must not be forgotten")
    probe.add_argument("--probe-n", type=int, default=500, metavar="N", help="samples; default %(default)s")
    probe.add_argument(
        "--probe-dataset",
        metavar="NAME",
        help="an RLDS data set below --data-root; default: the frames of --dataset-name that are held out of training",
    )
    probe.add_argument("--probe-jsonl", metavar="FILE", help="take it from here and not from a data set")
    probe.add_argument("--probe-images", metavar="DIR", help="the images that --probe-jsonl names")
    probe.add_argument(
        "--guard-new-task",
        action="store_true",
        help="let the arm input_guard hold LoRA off the inputs of --dataset-name itself, where it keeps nothing else",
    )
    score = parser.add_argument_group("evaluation")
    score.add_argument("--num-trials", type=int, default=50, metavar="N", help="episodes a task; default %(default)s")
    score.add_argument("--num-tasks", type=int, metavar="N", help="only the first N tasks of each suite")
    score.add_argument("--gl", choices=("auto", "egl", "osmesa", "glx", "none"), default="auto")
    score.add_argument(
        "--statistics",
        action="append",
        default=[],
        metavar="FILE",
        help="a dataset_statistics.json with the action statistics of suites that the model lacks; may be repeated",
    )
    score.add_argument(
        "--asset-standins", action="store_true", help="let plain shapes stand in for assets that --libero lacks"
    )
    how = parser.add_argument_group("how it runs")
    how.add_argument("--checkout", default=str(ROOT / "upstreams" / "openvla"), metavar="DIR")
    how.add_argument("--libero", default=str(ROOT / "upstreams" / "LIBERO"), metavar="DIR")
    how.add_argument(
        "--python",
        default=str(ROOT / ".venvs" / "openvla" / "bin" / "python"),
        metavar="FILE",
        help="interpreter of the openvla environment; default .venvs/openvla/bin/python",
    )
    how.add_argument("--cpu", action="store_true", help="run on the processor, through runners/openvla_on_cpu.py")
    how.add_argument("--nproc", type=int, default=1, metavar="K", help="GPUs to train on; default %(default)s")
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.KEY=VALUE",
        help="an option of a native command, as in finetune.batch_size=2; finetune.learning_rate is that of every arm, "
        f"times the arm's own factor; GROUP is one of {', '.join(OWNED)}",
    )
    how.add_argument("--stages", default="all", metavar="A,B", help=f"only these of {', '.join(KINDS)}")
    how.add_argument("--name", help="of this comparison, its folder below --work; default: model+data set")
    how.add_argument("--report", metavar="FILE", help="default: report.html in the comparison's folder")
    how.add_argument("--dry-run", action="store_true", help="print every command and run none")


def plan_of(options: argparse.Namespace, places: Places) -> Plan:
    """The plan of `options`; writes nothing.

    Raises Refused naming the option to change, or UnknownArm.
    """
    arms = arms_of(options.arms)
    seeds = numbers(options.seeds, "--seeds")
    kinds = [] if options.stages == "all" else options.stages.split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise Refused(f"--stages: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    for name in ("max_steps", "probe_n", "num_trials", "nproc"):
        if getattr(options, name) < 1:
            raise Refused(f"--{name.replace('_', '-')} has to be at least 1")
    extra = extras(options.set)
    suite = options.suite or options.dataset_name.removesuffix("_no_noops")
    commands = general_commands(options.general_command)
    general = [*(name for name in options.general_suites.split(",") if name), *commands]
    if suite in general:
        raise Refused(f"--general-suites: {suite} is the downstream suite, on which nothing is forgotten")
    if (options.probe_jsonl is None) != (options.probe_images is None):
        raise Refused("--probe-jsonl and --probe-images belong together: give both or none")
    if options.probe_jsonl and options.probe_dataset:
        raise Refused("--probe-dataset and --probe-jsonl: the probe set comes from one place, give either")
    model = Path(options.vla_path).expanduser()
    vla_path = str(model.absolute()) if model.is_dir() else options.vla_path
    name = options.name or f"{vla_path.rstrip('/').split('/')[-1]}+{options.dataset_name}"
    plan = Plan(
        home=places.work / name,
        checkout=folder(options.checkout, "--checkout", "run `python apply.py openvla` first"),
        libero=folder(options.libero, "--libero", "run `python apply.py LIBERO` first"),
        python=str(Path(options.python).expanduser().absolute()),
        vla_path=vla_path,
        dataset_name=options.dataset_name,
        data_root=places.data_root,
        suite=suite,
        general_suites=general,
        general_commands=commands,
        arms=arms,
        seeds=seeds,
        max_steps=options.max_steps,
        learning_rate=learning_rate(extra["finetune"].pop("learning_rate", None)),
        cpu=options.cpu,
        nproc=options.nproc,
        size=model_size(vla_path, places.hub),
        probe_n=options.probe_n,
        probe_dataset=options.probe_dataset or options.dataset_name,
        probe_jsonl=_absolute(options.probe_jsonl),
        probe_images=_absolute(options.probe_images),
        num_tasks=options.num_tasks,
        num_trials=options.num_trials,
        image_aug=not options.no_image_aug,
        asset_standins=options.asset_standins,
        statistics=[Path(path).expanduser().absolute() for path in options.statistics],
        extra=extra,
        environment=places.environment(),
    )
    if not options.guard_new_task:
        refuse_guard_of_new_task(plan)
    check(plan, places)
    if not kinds or "eval" in kinds:
        check_evaluation(plan, places)
    return plan


def _absolute(path: str | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between, each once.

    Raises Refused.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise Refused(f"{option}: {text!r} are not different whole numbers with commas between")
    return [int(part) for part in parts]


def learning_rate(text: str | None) -> float:
    """The learning rate that arms have a factor on; upstream's default where none is given.

    Raises Refused.
    """
    try:
        rate = UPSTREAM_RATE if text is None else float(text)
    except ValueError:
        rate = math.nan
    if not 0.0 < rate < math.inf:
        raise Refused(f"--set finetune.learning_rate={text}: a learning rate is a number above 0")
    return rate


def general_commands(pairs: list[str]) -> dict[str, str]:
    """`--general-command NAME=COMMAND` by name.

    Raises Refused for a command that lacks a placeholder, or has one that is not filled in.
    """
    found = {}
    for pair in pairs:
        name, _, command = pair.partition("=")
        try:
            filled = command.format(python="", checkout="", checkpoint="<1>", results="<2>")
        except (KeyError, IndexError, ValueError) as error:
            raise Refused(f"--general-command {pair}: {type(error).__name__}: {error}") from None
        if not name or "/" in name or "<1>" not in filled or "<2>" not in filled:
            raise Refused(f"--general-command {pair}: it is NAME=COMMAND with {{checkpoint}} and {{results}} in it")
        found[name] = command
    return found


def extras(pairs: list[str]) -> dict[str, dict[str, str]]:
    """`--set GROUP.KEY=VALUE` by group.

    Raises Refused for an unknown group, and for a key that the runner sets by an option of its own or by the arm.
    """
    found: dict[str, dict[str, str]] = {group: {} for group in OWNED}
    for pair in pairs:
        left, equals, value = pair.partition("=")
        group, _, key = left.partition(".")
        if not equals or not key or group not in OWNED:
            raise Refused(f"--set {pair}: it is GROUP.KEY=VALUE with one of {', '.join(OWNED)} as GROUP")
        if group == "finetune" and key.startswith("surgery."):
            raise Refused(f"--set {pair}: that is the method's, which not every arm has; --set {key}={value}")
        if key in OWNED[group]:
            raise Refused(f"--set {pair}: the runner sets {key} itself ({OWNED[group][key]})")
        found[group][key] = value
    return found


def state_of(plan: Plan, digests: Digests) -> tuple[Plan, dict[str, str]]:
    """The plan with what its stages depend on, and what the report says that they were made with.

    Raises Refused where the interpreter does not run or git cannot read a checkout.
    """
    versions = versions_of(plan.python, PACKAGES)
    try:
        openvla, libero = checkout_state(plan.checkout, digests), checkout_state(plan.libero, digests)
    except OSError as error:
        raise Refused(f"{error}; name another checkout with --checkout or --libero") from None
    launchers = {name: digests.of(ROOT / "runners" / name) for name in launcher_files(plan)}
    state = {"checkout": openvla, "versions": json.dumps(versions, sort_keys=True), **launchers}
    made_with = {
        **versions,
        "openvla": f"commit {commit_of(plan.checkout)[0] or 'none'}, state {openvla}",
        "LIBERO": f"commit {commit_of(plan.libero)[0] or 'none'}, state {libero}",
        "runner": f"Python {sys.version.split()[0]}",
    }
    return dataclasses.replace(plan, state=state, eval_state={"LIBERO": libero}), made_with


def launcher_files(plan: Plan) -> list[str]:
    """Files of this project that run inside the commands."""
    return ["seeded.py", "openvla_on_cpu.py"] if plan.cpu else ["seeded.py"]
