"""LIBERO's demonstrations, replayed in the simulator, as a LeRobot data set with depth. Imports MuJoCo when it begins.

As openvla made the data that starVLA trains on: the first state, objects coming to rest, then the actions without those
that move nothing; what does not end in success is dropped. Other than there, fixtures stand as in the demonstration.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from look.words import default_language
from runners import lerobot
from runners.libero_world.dataset import FEATURES, cells, conclude, folder_of, write_table, written
from runners.libero_world.demonstrations import (
    Demonstration,
    check_robot,
    files_of,
    in_data,
    names_of,
    no_op,
    number_of,
    read,
)
from runners.libero_world.task import CONTROL_HZ, GROWS, RESOLUTION, SEED, LiberoTask, suite_of
from runners.places import Refused
from runners.progress import View
from runners.room import need
from runners.work_folder import same_settings

PROGRESS = "progress.jsonl"


def record(options: argparse.Namespace, work: Path, standins: int) -> int:
    """Records what `work` does not hold yet, and moves the whole data set to its place.

    Returns the exit code: 1 where no replay was a success. Raises Refused for options and files that do not fit.
    """
    tasks = tasks_of(options)
    files = files_of(options.demos, options.suite, tasks)
    wanted = {task: names_of(file)[: options.limit] for task, file in files.items()}
    check_all(files, wanted)
    # A part of a file's demonstrations has that part of its size.
    parts = [file.stat().st_size * len(wanted[task]) / len(names_of(file)) for task, file in files.items()]
    need(options.out, int(GROWS * sum(parts)), "the data set", "--data-root")
    folder = folder_of(options.out, options.suite)
    settings: dict[str, Any] = {"suite": options.suite, "tasks": list(tasks), "limit": options.limit}
    settings |= {"keep_failures": options.keep_failures, "resolution": RESOLUTION, "asset_standins": standins}
    settings["files"] = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files.values()]
    if folder.exists():
        done = written(folder, settings)
    else:
        same_settings(work, settings, "--out")
        done = known(work)
        with View(work.name, lang=default_language()) as view:
            view.stage(options.suite, sum(map(len, wanted.values())), "demonstration")
            shown(view, done)
            for task, file in files.items():
                before = {(row["task"], row["demo"]) for row in done}
                todo = [name for name in wanted[task] if (task, name) not in before]
                if todo:
                    replay_task(options, task, file, todo, work, done, view)
        if not any(row["episode"] is not None for row in done):
            print(f"none of {len(done)} replays ended in success: no data set was written. See {work / PROGRESS}")
            return 1
        conclude(work / "set", folder, settings, done)
    print(summary(done, options.keep_failures))
    print(folder)
    return 0


def tasks_of(options: argparse.Namespace) -> dict[int, str]:
    """Names by number of the tasks asked for. Raises Refused for one that the suite does not have."""
    suite = suite_of(options.suite)
    asked = options.tasks or list(range(suite.n_tasks))
    if outside := [task for task in asked if not 0 <= task < suite.n_tasks]:
        raise Refused(f"task {outside[0]}: {options.suite} has tasks 0 to {suite.n_tasks - 1}")
    return {task: str(suite.get_task(task).name) for task in sorted(set(asked))}


def check_all(files: Mapping[int, Path], wanted: Mapping[int, Sequence[str]]) -> None:
    """Before anything is replayed. Raises Refused for the first that cannot be."""
    ours = controller()
    for task, file in files.items():
        check_robot(file, ours)
        for name in wanted[task]:
            read(file, name)


def controller() -> dict[str, Any]:
    """What LIBERO configures by default."""
    from robosuite import load_controller_config

    return dict(load_controller_config(default_controller="OSC_POSE"))


def known(work: Path) -> list[dict[str, Any]]:
    """What became of each demonstration that was replayed before, up to the first whose episode is not there now."""
    place, found = work / PROGRESS, []
    for line in place.read_text(encoding="utf-8").splitlines() if place.exists() else []:
        row = json.loads(line)
        if row["episode"] is not None and not (work / "set" / lerobot.data_file(row["episode"])).exists():
            break
        found.append(row)
    return found


def shown(view: View, done: Sequence[Mapping[str, Any]]) -> None:
    """Tells `view` of the demonstrations so far."""
    successes = sum(row["success"] for row in done)
    view.update(len(done), **({"success": successes / len(done)} if done else {}))


def replay_task(
    options: argparse.Namespace,
    task: int,
    file: Path,
    names: Sequence[str],
    work: Path,
    done: list[dict[str, Any]],
    view: View,
) -> None:
    """Replays demonstrations of one task; each is in `done` and in the folder's progress once it is written."""
    scene = LiberoTask(options.suite, task, masks=True)
    try:
        for name in names:
            view.note(f"{file.name}, {name}")
            kept = [row for row in done if row["episode"] is not None]
            number, begin = len(kept), sum(row["length"] for row in kept)
            place = work / "set" / lerobot.data_file(number)
            # Of a run that was stopped after it had written this file, and before it had said so.
            place.unlink(missing_ok=True)
            rows, left_out = replayed(scene, read(file, name))
            keep = bool(rows) and (scene.success or options.keep_failures)
            if keep:
                instructions = list(dict.fromkeys([*(row["instruction"] for row in kept), scene.instruction]))
                numbers = {"number": number, "begin": begin, "task": instructions.index(scene.instruction)}
                write_table(place, lerobot.episode_table(rows, FEATURES, fps=CONTROL_HZ, **numbers))
            row = {"task": task, "demo": name, "instruction": scene.instruction, "named": scene.named}
            row |= {"success": scene.success, "no_ops": left_out, "length": len(rows)}
            done.append({**row, "episode": number if keep else None})
            lerobot.write_lines(work / PROGRESS, done)
            view.say(json.dumps(done[-1]))
            shown(view, done)
    finally:
        scene.close()


def replayed(scene: LiberoTask, demonstration: Demonstration) -> tuple[list[dict[str, Any]], int]:
    """A row of cells a control step, and how many actions were left out; `scene.success` says how it ended."""
    bodies = [fixture.root_body for fixture in scene.env.env.fixtures_dict.values()]
    try:
        scene.settle(demonstration.states[0], SEED + number_of(demonstration.name), demonstration.fixtures(bodies))
    except ValueError as error:
        raise Refused(f"{demonstration.file}, {demonstration.name}: {error}") from error
    rows: list[dict[str, Any]] = []
    before: NDArray[np.float64] | None = None
    for action in demonstration.actions:
        if no_op(action, before):
            continue
        rows.append(cells(scene.observe(), scene.named_masks(), scene.touching(), in_data(action)))
        scene.act(action)
        before = action
    return rows, len(demonstration.actions) - len(rows)


def summary(done: Sequence[Mapping[str, Any]], keep_failures: bool) -> str:
    kept = [row for row in done if row["episode"] is not None]
    lost = [f"task {row['task']} {row['demo']}" for row in done if not row["success"]]
    became = f", and were {'kept' if keep_failures else 'dropped'}: {', '.join(lost)}" if lost else ""
    return (
        f"{len(kept)} of {len(done)} demonstrations, {sum(row['length'] for row in kept)} steps; "
        f"{sum(row['no_ops'] for row in done)} actions that move nothing were left out; "
        f"{len(lost)} replays did not end in success{became}"
    )
