"""Gradient surgery on openvla, from a probe set to LIBERO scores: probe, icsm, baseline, method, eval, report.

    python -m runners openvla-gradient-surgery --vla-path CHECKPOINT --data-root DATA \\
        --dataset-name libero_spatial_no_noops --general-suites libero_object --arms all --seeds 0,1,2 \\
        --probe-dataset libero_object_no_noops

Needs `make openvla`, an openvla model and RLDS data sets. Every stage is a native command of the grafted checkout. To
resume, run the same command again: a stage that is done is skipped while nothing that it depends on has changed, and an
evaluation that was stopped goes on at its next task. A training that was stopped loses its steps: finetune.py saves no
optimizer state, and is run to save at its end only; what it wrote is moved aside to NAME.before-1. Where --max-steps do
not fit into a limit of wall time, this runner cannot train: take the native command from --dry-run, lower its
--save_steps, and run it with `python -m runners supervise -- COMMAND`, which goes on from the weights of the last
checkpoint with a new optimizer state. What it trains is measured by hand; no comparison here takes it.
Below --work lies a folder named for model and data set, with a folder a stage (its log.txt, its record stage.json) and
report.html.
Exit codes: 0 all done, 1 a stage failed (the report names it), 2 bad options, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from look.words import Words
from look.words import add_option as add_language
from runners import table
from runners.digests import Digests, write_whole
from runners.drawing import NoBackend
from runners.headless import ORDER, Backend, backend_for
from runners.hub import not_checked
from runners.openvla_arms import ARMS, UnknownArm
from runners.openvla_facts import gather
from runners.openvla_options import add_run_options, plan_of, state_of
from runners.openvla_plan import KINDS, Plan
from runners.openvla_report import page
from runners.openvla_stages import all_stages
from runners.places import Refused, resolve
from runners.places_options import add_options
from runners.processes import Busy, sole
from runners.progress import View
from runners.stage import BLOCKED, FAILED, Outcome, Stage
from runners.stage_room import need_room
from runners.stages import Engine
from runners.work_folder import claim

NAME = "openvla_gradient_surgery"
GL = "gl.txt"


def drawing(plan: Plan, choice: str, engine: Engine, stack: contextlib.ExitStack) -> Plan:
    """The plan with a GL backend for its evaluations: `choice`, or with `auto` the first that draws.

    What was chosen before holds as long as no evaluation has to run.

    Raises NoBackend.
    """

    def chosen(backend: Backend) -> Plan:
        return dataclasses.replace(plan, eval_state={**plan.eval_state, "gl": backend.name})

    if choice == "none" or engine.dry:
        return plan
    memory = plan.home / GL
    if choice == "auto" and memory.exists():
        known = chosen(Backend(memory.read_text(encoding="utf-8").strip(), {}))
        if all(engine.holds(stage) for stage in all_stages(known) if stage.kind == "eval"):
            return known
    order = (choice,) if choice != "auto" else ORDER
    backend = backend_for(plan.python, order)
    for name, why in backend.refused.items():
        engine.say(f"    GL: {name} does not draw here: {why}")
    engine.say(f"    GL: {backend.name}")
    write_whole(memory, backend.name)
    environment = stack.enter_context(backend.environment())
    return dataclasses.replace(chosen(backend), eval_environment=environment)


def run(plan: Plan, engine: Engine, wanted: set[str], gl: str) -> list[Outcome]:
    """Runs the stages in order; a failure ends what depends on it and nothing else."""
    outcomes: list[Outcome] = []
    told: set[str] = set()
    with contextlib.ExitStack() as stack:
        for kind in KINDS[:-1]:
            stages = [stage for stage in all_stages(plan) if stage.kind == kind]
            engine.say(f"==> {kind}" + ("" if kind in wanted else " (left out by --stages: kept where it holds)"))
            if kind == "eval" and kind in wanted:
                try:
                    plan = drawing(plan, gl, engine, stack)
                except NoBackend as error:
                    engine.say(f"error: {error}")
                    outcomes += [Outcome(stage, FAILED, f"{error}\nor choose with --gl") for stage in stages]
                    continue
                stages = [stage for stage in all_stages(plan) if stage.kind == kind]
            for variable in (name for name in environment_of(stages) if name not in told):
                engine.say(f"    export {variable}")
                told.add(variable)
            outcomes += [engine.run(stage, wanted=kind in wanted) for stage in stages]
    return outcomes


def environment_of(stages: Sequence[Stage]) -> list[str]:
    """The variables that any of the stages is given, as a shell would take them."""
    return list(dict.fromkeys(variable for stage in stages for variable in stage.exported()))


def bad_stages(outcomes: list[Outcome], wanted: set[str]) -> list[Stage]:
    """The stages that were asked for and did not end well."""
    return [o.stage for o in outcomes if o.state in (FAILED, BLOCKED) and o.stage.kind in wanted]


def parser() -> argparse.ArgumentParser:
    options = table.parser(NAME, __doc__)
    options.epilog = "arms:\n" + "\n".join(f"  {arm.name}: {arm.says}" for arm in ARMS.values())
    add_run_options(options)
    add_options(options, NAME)
    add_language(options)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        places = resolve(options, NAME)
        plan = plan_of(options, places)
        wanted = set(KINDS) if options.stages == "all" else set(options.stages.split(","))
        if options.dry_run:
            run(plan, Engine(Digests(), dry=True), wanted, options.gl)
            return 0
        claim(plan.home)
        count = len(all_stages(plan))
        with sole(plan.home) as lock, View(plan.home.name, lang=options.lang, stages=count) as view:
            digests = Digests(plan.home / "digests.json")
            plan, made_with = state_of(plan, digests)
            engine = Engine(digests, lock=lock, view=view)
            if plan.size is None:
                engine.say(not_checked(plan.vla_path))
            need_room(engine, [stage for stage in all_stages(plan) if stage.kind in wanted])
            outcomes = run(plan, engine, wanted, options.gl)
            bad = bad_stages(outcomes, wanted)
            if "report" in wanted:
                target = Path(options.report or plan.home / "report.html")
                when = datetime.now().strftime("%Y-%m-%d %H:%M")
                words = Words(options.lang)
                write_whole(target, page(gather(plan, outcomes, when, made_with, words=words), words))
                engine.say(f"==> report\n    {os.path.relpath(target)}")
    except (Refused, UnknownArm, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: run the same command again; stages that are done are kept, evaluations go on, and a training "
            "begins anew",
            file=sys.stderr,
        )
        return 130
    if bad:
        print(f"error: did not end well: {', '.join(stage.name for stage in bad)}", file=sys.stderr)
        return 1
    return 0
