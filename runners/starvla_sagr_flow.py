"""SA-GR Flow on starVLA in four stages: alignment, dynamics, imitation, correction.

    python -m runners starvla-sagr-flow --config-yaml RUN.yaml --base-vlm MODEL --data-root DATA \\
        --data-mix libero_goal_next --backend depth --steps 2000,5000,30000,10000

Needs `make starvla`, a vision-language model and LeRobot data sets. Every stage is upstream's own
starVLA/training/train_starvla.py with other arguments, and starts from the weights that the stage before left.
To resume, run the same command again: a stage that is done is skipped while nothing that it depends on has changed,
and one that was stopped begins anew, its checkpoints moved aside to STAGE.before-1. With --resume-inside it goes on
from its last checkpoint, not exactly as in one go. To do so after it began anew, remove STAGE and rename the folder
aside to STAGE. One folder a stage is kept aside; remove it to free its room.
Below --work lies a folder named with --name, with a folder a stage (its log.txt, its record stage.json, upstream's run
below runs/).
Exit codes: 0 all done, 1 a stage failed, 2 bad options, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys

from look.words import default_language
from runners import table
from runners.digests import Digests
from runners.hub import not_checked
from runners.places import Refused, resolve
from runners.places_options import add_options
from runners.processes import Busy, sole
from runners.progress import View
from runners.stage import BLOCKED, FAILED, Outcome
from runners.stage_room import need_room
from runners.stages import Engine
from runners.starvla_options import add_run_options, plan_of, with_state
from runners.starvla_plan import Plan, all_stages, losses_of
from runners.work_folder import claim

NAME = "starvla_sagr_flow"


def parser() -> argparse.ArgumentParser:
    options = table.parser(NAME, __doc__)
    add_run_options(options)
    add_options(options, NAME)
    return options


def run(plan: Plan, engine: Engine, wanted: set[str]) -> list[Outcome]:
    """Runs the stages in order, and says how the loss of each went."""
    outcomes = []
    told = False
    for stage in all_stages(plan):
        left_out = "" if stage.name in wanted else " (left out by --stages: kept where it holds)"
        engine.say(f"==> {stage.name}{left_out}")
        if not told:
            for variable in stage.exported():
                engine.say(f"    export {variable}")
            told = True
        outcome = engine.run(stage, wanted=stage.name in wanted)
        outcomes.append(outcome)
        losses = losses_of(plan, stage.name) if outcome.good else []
        if losses:
            engine.say(f"    loss: {losses[0]:.4g} at the first logging step, {losses[-1]:.4g} at the last")
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        plan = plan_of(options, resolve(options, NAME))
        names = list(plan.steps)
        wanted = set(names) if options.stages == "all" else set(options.stages.split(","))
        if unknown := sorted(wanted - set(names)):
            raise Refused(f"--stages: {', '.join(unknown)}; there are {', '.join(names)}")
        if options.dry_run:
            run(plan, Engine(Digests(), dry=True), wanted)
            return 0
        claim(plan.home)
        with sole(plan.home) as lock, View(plan.home.name, lang=default_language(), stages=len(names)) as view:
            digests = Digests(plan.home / "digests.json")
            plan = with_state(plan, digests)
            engine = Engine(digests, lock=lock, view=view)
            if plan.size is None:
                engine.say(not_checked(plan.base_vlm))
            need_room(engine, [stage for stage in all_stages(plan) if stage.name in wanted])
            outcomes = run(plan, engine, wanted)
    except (Refused, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: run the same command again; stages that are done are kept, this one begins anew, or with "
            "--resume-inside goes on from its last checkpoint",
            file=sys.stderr,
        )
        return 130
    bad = [
        outcome.stage.name
        for outcome in outcomes
        if outcome.state in (FAILED, BLOCKED) and outcome.stage.name in wanted
    ]
    if bad:
        print(f"error: did not end well: {', '.join(bad)}", file=sys.stderr)
        return 1
    if outcomes[-1].good:
        print(f"==> weights\n    {plan.final(names[-1])}")
    return 0
