"""A trained SA-GR policy on LIBERO, with depth, against what each of its parts adds; the target moved in mid-chunk.

    python -m runners starvla-libero --suite libero_goal \\
        --baseline A/final_model/pytorch_model.pt --anchor B/final_model/pytorch_model.pt

Needs `make openvla`, which has LIBERO, and `make starvla`, in which each policy is a process of its own. Several
checkpoints of an option are training seeds, in order. The arms guidance, replanning and replanning_alone play the
weights of --anchor. Below --work: results.json, report.html, and a log of each task's episodes, which is kept: to
resume, run the same command again.
Exit codes: 0 done, 1 a policy could not be loaded, died, or raised in each of its episodes, 2 bad options.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from look.words import add_option as add_language
from runners import places, places_options, room, table
from runners.drawing import NoBackend
from runners.libero_world.simulator import add_options, simulated
from runners.places import Refused
from runners.processes import Busy
from runners.work_folder import claim, same_settings

ROOT = Path(__file__).resolve().parents[1]
NAME = "starvla_libero"
LOGS = 256 << 20
"""Bytes that logs and a report take at most; a LIBERO with stand-ins is links."""

WORLDS = ("calm", "moved")


@dataclass(frozen=True)
class Arm:
    """`trained`: the option whose checkpoints it plays; `guidance`: what differs in `framework.sagr.guidance`."""

    says: str
    trained: str
    guidance: Mapping[str, Any] = field(default_factory=dict)
    replan: bool = False


PLAIN = {"enabled": False}
GUIDED = {"enabled": True, "step": "line_search", "eta": 1.0}
ARMS = {
    "baseline": Arm("flow matching on pictures (QwenPI)", "baseline"),
    "anchor": Arm("task tokens anchored in depth geometry", "anchor", PLAIN),
    "guidance": Arm("and residual guidance", "anchor", GUIDED),
    "replanning": Arm("and the queue is cleared above tau", "anchor", GUIDED, True),
    "feedback": Arm("and feedback tokens", "feedback", GUIDED, True),
    "replanning_alone": Arm("the anchor and replanning, without guidance", "anchor", PLAIN, True),
}


def parser() -> argparse.ArgumentParser:
    options = table.parser(NAME, __doc__)
    for trained in dict.fromkeys(arm.trained for arm in ARMS.values()):
        used = ", ".join(name for name, arm in ARMS.items() if arm.trained == trained)
        options.add_argument(
            f"--{trained}", type=Path, nargs="+", default=[], metavar="FILE", help=f"weights of {used}; one a seed"
        )
    options.add_argument("--suite", default="libero_goal", metavar="NAME")
    options.add_argument("--tasks", type=int, nargs="+", metavar="N", help="numbers of tasks; default: all")
    options.add_argument("--episodes", type=int, default=10, metavar="N", help="of each task; default %(default)s")
    options.add_argument("--limit", type=int, metavar="N", help="control steps of an episode; default: as upstream")
    options.add_argument("--execute-steps", type=int, metavar="K", help="default: as the checkpoint has it")
    options.add_argument("--move-step", type=int, metavar="N", help="default: in the middle of the third chunk")
    options.add_argument("--unnorm-key", metavar="NAME", help="for weights of several data sets: whose actions")
    options.add_argument(
        "--state", choices=("yes", "no"), help="whether policies see the robot's; default: as config.full.yaml has it"
    )
    add_options(options)
    options.add_argument("--checkout", type=Path, default=ROOT / "upstreams" / "starVLA", metavar="DIR")
    options.add_argument(
        "--policy-python", type=Path, default=ROOT / ".venvs" / "starVLA" / "bin" / "python", metavar="FILE"
    )
    places_options.add_options(options, NAME, data=False)
    add_language(options)
    return options


def check(options: argparse.Namespace) -> list[str]:
    """The arms that can be played. Raises Refused for options that cannot be."""
    arms = [name for name, arm in ARMS.items() if getattr(options, arm.trained)]
    if not arms:
        raise Refused("no checkpoint: give some with --baseline, --anchor, --feedback")
    files = [file for name in arms for file in getattr(options, ARMS[name].trained)]
    for file in [*files, options.policy_python, options.checkout / "starVLA" / "sagr" / "replan.py"]:
        if not file.is_file():
            raise Refused(f"{file} is not there: see --help, and docs/methods/sagr_flow.md for the checkout")
    if len({len(getattr(options, ARMS[name].trained)) for name in arms}) > 1:
        raise Refused("--baseline, --anchor and --feedback must name as many checkpoints each: one a training seed")
    for name in ("episodes", "limit", "execute_steps", "move_step"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise Refused(f"--{name.replace('_', '-')} is {getattr(options, name)}: wants 1 or more")
    return arms


def settings_of(options: argparse.Namespace, tasks: list[int], standins: int) -> dict[str, Any]:
    """What decides the episodes. Raises Refused where --work holds logs of other settings."""
    weights = {}
    for trained in ("baseline", "anchor", "feedback"):
        files = [file.resolve() for file in getattr(options, trained)]
        weights[trained] = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    names = ("suite", "episodes", "limit", "execute_steps", "move_step", "unnorm_key", "state")
    found = {name: getattr(options, name) for name in names}
    found |= {"tasks": tasks, "weights": weights, "asset_standins": standins}
    found = json.loads(json.dumps(found | {"arms": {name: asdict(arm) for name, arm in ARMS.items()}}))
    same_settings(options.work, found, "--work")
    return found


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        arms = check(options)
        here = places.resolve(options, NAME)
        room.refuse_below(here, {"--work": LOGS})
        room.need(here.work, LOGS, "the evaluation")
        # The policies are processes of their own, and take what this one has.
        os.environ.update(here.environment())
        options.work = here.work
        claim(options.work)
        with simulated(options, options.work) as standins:
            from runners.libero_world.compare import Failed, compare

            try:
                return compare(options, {name: ARMS[name] for name in arms}, WORLDS, standins, settings_of)
            except Failed as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
    except (Refused, Busy, NoBackend) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
