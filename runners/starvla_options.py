"""The runner's options, what they have to satisfy before anything runs, and the plan that they make."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from runners.digests import Digests, checkout_state
from runners.hub import model_size
from runners.places import Places, Refused
from runners.room import refuse_below
from runners.starvla_plan import OWNED, Plan, recipes
from runners.versions import versions_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "deepspeed", "omegaconf", "numpy", "pandas", "decord")
"""Packages whose version changes what a stage computes."""
DEEPSPEED = Path("starVLA", "config", "deepseeds", "deepspeed_zero2.yaml")
LAUNCHERS = ("seeded.py", "starvla_on_cpu.py")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is trained")
    what.add_argument("--config-yaml", required=True, metavar="FILE", help="a training configuration of starVLA")
    what.add_argument("--base-vlm", required=True, metavar="MODEL", help="a folder, or a name on the hub")
    what.add_argument(
        "--data-mix",
        required=True,
        metavar="NAME",
        help="a mixture with the next frame: a name of starVLA's with _next",
    )
    what.add_argument(
        "--data-sets", default="", metavar="A,B", help="folders that the mixture reads; default: all there"
    )
    what.add_argument("--backend", choices=("depth", "mapanything"), default="depth", help="where geometry comes from")
    what.add_argument("--feedback", action="store_true", help="train causal feedback tokens in the last two stages")
    what.add_argument(
        "--grounding", action="store_true", help="the data has observation.named_mask: teach the anchor where to look"
    )
    what.add_argument(
        "--execute-steps",
        type=int,
        default=4,
        metavar="K",
        help="actions of a chunk that are executed; default %(default)s",
    )
    what.add_argument("--checkpoint", metavar="FILE", help="weights to begin with, such as a trained QwenPI's")
    what.add_argument(
        "--steps",
        default="2000,5000,30000,10000",
        metavar="N[,N,N,N]",
        help="optimizer steps of the stages, or one for all",
    )
    what.add_argument("--seed", type=int, default=42, metavar="N")
    how = parser.add_argument_group("how it runs")
    how.add_argument("--checkout", default=str(ROOT / "upstreams" / "starVLA"), metavar="DIR")
    how.add_argument(
        "--python",
        default=str(ROOT / ".venvs" / "starVLA" / "bin" / "python"),
        metavar="FILE",
        help="interpreter of the starVLA environment; default .venvs/starVLA/bin/python",
    )
    how.add_argument("--cpu", action="store_true", help="run on the processor, through runners/starvla_on_cpu.py")
    how.add_argument("--nproc", type=int, default=1, metavar="K", help="GPUs to train on; default %(default)s")
    how.add_argument(
        "--accelerate-config", metavar="FILE", help=f"default: the checkout's {DEEPSPEED}; not used with --cpu"
    )
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[STAGE:]KEY=VALUE",
        help="a key of upstream's configuration, as in trainer.learning_rate.base=1e-4, for one stage or for all",
    )
    how.add_argument("--stages", default="all", metavar="A,B", help="only these; others are kept where they hold")
    how.add_argument(
        "--resume-inside",
        action="store_true",
        help="a stage that was stopped goes on from its last checkpoint (save_interval) instead of anew: with its "
        "weights and step, but a new optimizer state and order of data, so that it ends with other weights than in one "
        "go; its record says so",
    )
    how.add_argument("--name", default="run", help="of this run, its folder below --work; default %(default)s")
    how.add_argument("--dry-run", action="store_true", help="print every command and run none")


def plan_of(options: argparse.Namespace, places: Places) -> Plan:
    """The plan of `options`; writes nothing.

    Raises Refused naming the option to change.
    """
    checkout = _there(options.checkout, "--checkout", "run `python apply.py starVLA` first")
    names = [stage.name for stage in recipes(checkout).STAGES]
    if places.data_root is None:
        raise Refused("where are the LeRobot data sets? Name their folder with --data-root or GRAFT_DATA_ROOT")
    for option in ("execute_steps", "nproc"):
        if getattr(options, option) < 1:
            raise Refused(f"--{option.replace('_', '-')} has to be at least 1")
    if not Path(options.python).is_file():
        raise Refused(f"{options.python} is not there: build the environment of starVLA, or name another with --python")
    data_root = _there(str(places.data_root), "--data-root", "fetch the data")
    data_sets = [name for name in options.data_sets.split(",") if name]
    for name in data_sets:
        _there(str(data_root / name), "--data-sets", "fetch the data set")
    model = Path(options.base_vlm).expanduser()
    if not model.is_dir() and options.base_vlm.startswith(("/", ".", "~")):
        raise Refused(f"{options.base_vlm} is not there: name a folder or a model on the hub with --base-vlm")
    config = None if options.cpu else Path(options.accelerate_config or checkout / DEEPSPEED).absolute()
    base_vlm = str(model.absolute()) if model.is_dir() else options.base_vlm
    size = model_size(base_vlm, places.hub)
    plan = Plan(
        home=places.work / options.name,
        checkout=checkout,
        python=str(Path(options.python).expanduser().absolute()),
        config_yaml=_there(options.config_yaml, "--config-yaml", "write one as starVLA's examples have them"),
        base_vlm=base_vlm,
        data_root=data_root,
        data_mix=options.data_mix,
        steps=steps_of(options.steps, names),
        backend=options.backend,
        seed=options.seed,
        feedback=options.feedback,
        grounding=options.grounding,
        execute_steps=options.execute_steps,
        checkpoint=_there(options.checkpoint, "--checkpoint", "train it first") if options.checkpoint else None,
        data_sets=data_sets,
        cpu=options.cpu,
        nproc=options.nproc,
        size=size,
        accelerate_config=config,
        inside=options.resume_inside,
        extra=extras(options.set, names),
        environment=places.environment(),
    )
    refuse_below(places, {"--work": None} if size is not None else {"--work": None, "--hf-home": None})
    return plan


def _there(path: str, option: str, remedy: str) -> Path:
    found = Path(path).expanduser().absolute()
    if not found.exists():
        raise Refused(f"{found} is not there: {remedy}, or name another with {option}")
    return found


def steps_of(text: str, names: list[str]) -> dict[str, int]:
    """`--steps` by stage. Raises Refused unless there is one number, or one for each stage, all above 0."""
    numbers = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if len(numbers) == 1:
        numbers *= len(names)
    if len(numbers) != len(names) or min(numbers) < 1:
        raise Refused(f"--steps {text}: give one number above 0, or {len(names)} with commas ({', '.join(names)})")
    return dict(zip(names, numbers, strict=True))


def extras(pairs: list[str], names: list[str]) -> dict[str, dict[str, str]]:
    """`--set [STAGE:]KEY=VALUE` by stage, the empty name for all.

    Raises Refused for an unknown stage, and for a key that the runner sets by an option of its own.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in ("", *names)}
    for pair in pairs:
        left, equals, value = pair.partition("=")
        stage, _, key = left.rpartition(":")
        if not equals or not key or stage not in found:
            raise Refused(f"--set {pair}: it is KEY=VALUE or STAGE:KEY=VALUE with one of {', '.join(names)} as STAGE")
        if key in OWNED:
            raise Refused(f"--set {pair}: the runner sets {key} itself ({OWNED[key]})")
        found[stage][key] = value
    return found


def with_state(plan: Plan, digests: Digests) -> Plan:
    """The plan with what its stages depend on beside files: checkout, environment, launchers.

    Raises Refused where the interpreter does not run or git cannot read the checkout.
    """
    versions = versions_of(plan.python, PACKAGES)
    try:
        checkout = checkout_state(plan.checkout, digests)
    except OSError as error:
        raise Refused(f"{error}; name another checkout with --checkout") from None
    launchers = {name: digests.of(ROOT / "runners" / name) for name in LAUNCHERS}
    return dataclasses.replace(
        plan, state={"checkout": checkout, "versions": repr(sorted(versions.items())), **launchers}
    )
