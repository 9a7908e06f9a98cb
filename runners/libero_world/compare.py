"""Every arm, training seed, world and task of a comparison, their logs, and what comes out. Imports MuJoCo."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from look.words import ENGLISH, Words
from runners.libero_world.evaluate import completed, continued, run_episode, tally
from runners.libero_world.remote import PolicyGone, RemotePolicy
from runners.libero_world.report import page
from runners.libero_world.task import suite_of, target_of
from runners.libero_world.world import LiberoWorld
from runners.places import Refused
from runners.progress import View
from runners.reach_world.evaluate import read_log
from runners.reach_world.results import Results

CHILD = Path(__file__).resolve().parent / "policy.py"


class Failed(Exception):
    """No figures can be had: a policy that does not run."""


def compare(
    options: argparse.Namespace,
    arms: Mapping[str, Any],
    worlds: Sequence[str],
    standins: int,
    settings_of: Callable[[argparse.Namespace, list[int], int], dict[str, Any]],
) -> int:
    """Plays what is not logged yet, and writes results.json and report.html.

    Raises Refused for options that do not fit LIBERO, Failed for a policy that cannot be evaluated.
    """
    tasks, without = tasks_of(options)
    settings = settings_of(options, tasks, standins)
    runs = [(name, seed, file) for name, arm in arms.items() for seed, file in enumerate(getattr(options, arm.trained))]
    with View(options.work.name, lang=options.lang, stages=len(runs)) as view:
        for name, seed, checkpoint in runs:
            view.reach()
            play(options, name, arms[name], seed, checkpoint, tasks, worlds, view)
    logs = {
        name: {
            world: {
                seed: [e for task in tasks for e in read_log(log_of(options.work, name, seed, world, task))]
                for seed in range(len(getattr(options, arm.trained)))
            }
            for world in worlds
        }
        for name, arm in arms.items()
    }
    return conclude(options.work, arms, logs, settings, without, Words(options.lang))


def tasks_of(options: argparse.Namespace) -> tuple[list[int], list[int]]:
    """The tasks that are played, and those left out since they are about no loose object."""
    try:
        asked = options.tasks or list(range(suite_of(options.suite).n_tasks))
        targets = {task: target_of(options.suite, task) for task in asked}
    except ValueError as error:
        raise Refused(str(error)) from error
    tasks = [task for task, target in targets.items() if target is not None]
    if not tasks:
        raise Refused(f"none of the tasks {asked} of {options.suite} is about an object that could be moved")
    return tasks, [task for task in asked if task not in tasks]


def log_of(work: Path, arm: str, seed: int, world: str, task: int) -> Path:
    return work / "episodes" / arm / f"seed{seed}" / f"{world}-task{task}.jsonl"


def play(
    options: argparse.Namespace,
    name: str,
    arm: Any,
    seed: int,
    checkpoint: Path,
    tasks: Sequence[int],
    worlds: Sequence[str],
    view: View,
) -> None:
    """The episodes of one arm and seed that have no log yet; `view` shows how many, and the share of successes."""
    wanted = [
        (task, world)
        for task in tasks
        for world in worlds
        if not log_of(options.work, name, seed, world, task).exists()
    ]
    if not wanted:
        return
    view.stage(f"{name}, seed {seed}", len(wanted) * options.episodes, "episode")
    view.note(f"loads {checkpoint}")
    played: list[Mapping[str, Any]] = []
    given = {"checkpoint": str(checkpoint.resolve()), "replan": arm.replan, "guidance": dict(arm.guidance)}
    given |= {"execute_steps": options.execute_steps, "unnorm_key": options.unnorm_key}
    given["state"] = None if options.state is None else options.state == "yes"
    command = [str(options.policy_python), str(CHILD), json.dumps(given)]
    environment = {"PYTHONPATH": str(options.checkout.resolve()), "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if options.no_gpu else {}
    try:
        with RemotePolicy(command, environment, options.work / "policies" / f"{name}-seed{seed}.log") as policy:
            view.say(f"==> {name}, seed {seed}: {json.dumps(policy.hello)}")
            steps = agreed(options, policy.execute_steps, name)
            for task in dict.fromkeys(task for task, _ in wanted):
                world = LiberoWorld(options.suite, task, limit=options.limit)
                try:
                    if options.episodes > len(world.initial_states):
                        most = len(world.initial_states)
                        raise Refused(f"--episodes is {options.episodes}: task {task} has {most} initial states")
                    for kind in (kind for of, kind in wanted if of == task):
                        moved = move_step_of(options, steps) if kind == "moved" else None
                        view.note(f"task {task}, {kind}")

                        def one(episode: int, world: LiberoWorld = world, moved: int | None = moved) -> dict[str, Any]:
                            world.begin(episode, moved)
                            return run_episode(policy, world)

                        log = log_of(options.work, name, seed, kind, task)
                        episodes = continued(log, options.episodes, one, functools.partial(shown, view, played))
                        played += episodes
                        view.say(f"    task {task}, {kind}: {json.dumps(tally(episodes))}")
                finally:
                    world.close()
    except PolicyGone as error:
        raise Failed(f"{name}, seed {seed}, {checkpoint}: {error}") from error


def shown(view: View, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Tells `view` of the episodes of the worlds before and of this one."""
    episodes = [*before, *now]
    rate = tally(episodes)["success_rate_completed"]
    view.update(len(episodes), **({} if rate is None else {"success": rate}))


def agreed(options: argparse.Namespace, steps: int, name: str) -> int:
    """k of this arm, which must be that of the arms before it in this folder."""
    kept = options.work / "execute_steps"
    if not kept.exists():
        kept.write_text(f"{steps}\n", encoding="utf-8")
    before = int(kept.read_text(encoding="utf-8"))
    if before != steps:
        raise Refused(f"{name} executes {steps} actions of a chunk, the others {before}: say --execute-steps")
    return steps


def move_step_of(options: argparse.Namespace, steps: int) -> int:
    return options.move_step or 2 * steps + max(1, steps // 2)


def conclude(
    work: Path,
    arms: Mapping[str, Any],
    logs: Mapping[str, Any],
    settings: Mapping[str, Any],
    without: Sequence[int],
    words: Words = ENGLISH,
) -> int:
    """Writes the figures and the report. Raises Failed where a policy raised in all episodes of a world."""
    tallies = {a: {w: {s: tally(e) for s, e in of.items()} for w, of in worlds.items()} for a, worlds in logs.items()}
    kept = {
        a: {w: {s: completed(e) for s, e in of.items() if completed(e)} for w, of in worlds.items()}
        for a, worlds in logs.items()
    }
    says = {name: arm.says for name, arm in arms.items()}
    shown = {key: value for key, value in settings.items() if key != "arms"}
    results = Results(kept, says, shown, "anchor" if "anchor" in kept else "")
    remarks = remarks_of(tallies, settings, without)
    figures = {"settings": settings, "tasks_left_out": list(without), "episodes": tallies, "arms": results.plain()}
    (work / "results.json").write_text(json.dumps({**figures, "remarks": remarks}, indent=1) + "\n", encoding="utf-8")
    (work / "report.html").write_text(
        page(results, tallies, remarks_of(tallies, settings, without, words), words), encoding="utf-8"
    )
    print("\n".join([*remarks, str(work / "report.html")]))
    broken = [f"{a} in {w}, seed {s}" for a, ws in kept.items() for w, of in ws.items() for s in logs[a][w].keys() - of]
    if broken:
        raise Failed(f"the policy raised in every episode of {'; '.join(broken)}: see {work / 'policies'}")
    sys.stdout.flush()
    return 0


def remarks_of(
    tallies: Mapping[str, Any], settings: Mapping[str, Any], without: Sequence[int], words: Words = ENGLISH
) -> list[str]:
    """What a reader of the figures must know."""
    every = [found for worlds in tallies.values() for seeds in worlds.values() for found in seeds.values()]
    errors, unmoved = (sum(found[name] for found in every) for name in ("errors", "not_moved"))
    plain = """Plain shapes stood in for {count} of LIBERO's assets: these pictures are not LIBERO's, and success rates
    on them are not comparable with any."""
    still = """In {count} episodes of the world moved the target was not moved: no free place beside it, or the episode
    was over before."""
    about = "Tasks {tasks} are about no loose object, and were left out in every world."
    found = {
        words(plain, count=settings["asset_standins"]): settings["asset_standins"],
        words(
            "The policy raised in {errors} of {total} episodes: they are counted apart.",
            errors=errors,
            total=sum(found["episodes"] for found in every),
        ): errors,
        words(still, count=unmoved): unmoved,
        words(about, tasks=words.joined(list(map(str, without)))): without,
    }
    return [line for line, needed in found.items() if needed]
