"""What an evaluation on LIBERO counts and writes: errors apart from failures, and a machine-readable result.

Upstream's loop catches every exception inside an episode and counts the episode as a failure, so a broken policy reads
as a success rate of 0. Its own numbers and log lines stay as they are; this keeps the second account beside them.
"""

import json
import os
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

FORMAT = 1
STANDINS = "graft-asset-standins.json"  # left at the assets' root by runners/libero_assets.py


class EveryEpisodeErrored(RuntimeError):
    """No episode of an evaluation ran to its end: the success rate of 0 says nothing about the policy."""


def begin_evaluation(cfg: Any, model: Any, tasks_in_suite: int, log_file: TextIO) -> tuple["Evaluation", int]:
    """The account of an evaluation, and how many of the suite's tasks it runs.

    Args:
        cfg: upstream's GenerateConfig; ``num_tasks`` None means all tasks. ``resume_results`` names the result of an
            evaluation with the same settings that was interrupted, whose finished tasks are not played again.
        model: the policy; the attention that it was loaded with goes into the result.
        tasks_in_suite: number of tasks in the suite.
        log_file: upstream's log, open; the result is written beside it.

    Raises:
        ValueError: ``num_tasks`` is not between 1 and the suite's number of tasks, or ``resume_results`` is the result
            of an evaluation with other settings.
    """
    num_tasks = tasks_in_suite if cfg.num_tasks is None else cfg.num_tasks
    if not 1 <= num_tasks <= tasks_in_suite:
        raise ValueError(
            f"num_tasks is {num_tasks}, and {cfg.task_suite_name} has tasks 1 to {tasks_in_suite}: "
            "give a number between them, or leave num_tasks out for all"
        )
    standins = asset_standins()
    if standins:
        note = f"{standins} assets are stand-ins ({STANDINS}): images differ from LIBERO's, and so may success rates"
        print(note)
        log_file.write(note + "\n")
    settings = {
        "pretrained_checkpoint": str(cfg.pretrained_checkpoint),
        "task_suite_name": cfg.task_suite_name,
        "seed": cfg.seed,
        "num_tasks": num_tasks,
        "tasks_in_suite": tasks_in_suite,
        "num_trials_per_task": cfg.num_trials_per_task,
        "center_crop": cfg.center_crop,
        "unnorm_key": getattr(cfg, "unnorm_key", None),
        "attention": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "asset_standins": standins,
        "stood_in": f"plain shapes for {standins} of LIBERO's assets" if standins else "",
    }
    evaluation = Evaluation(settings, log_file)
    if cfg.resume_results is not None:
        evaluation.take_over(Path(cfg.resume_results))
    return evaluation, num_tasks


def asset_standins() -> int | None:
    """How many of LIBERO's assets are recorded as stand-ins; None where the assets' folder is not known."""
    import libero.libero

    places = [Path(folder) / "assets" for folder in libero.libero.__path__]
    if not any(place.is_dir() for place in places):
        return None
    manifests = [place / STANDINS for place in places if (place / STANDINS).is_file()]
    return sum(len(json.loads(manifest.read_text(encoding="utf-8"))["standins"]) for manifest in manifests)


class Evaluation:
    """Counts episodes, successes and errors by task; after each episode the result so far is on disk.

    Args:
        settings: what goes into the result as it is.
        log_file: upstream's log; ``NAME.txt`` gets ``NAME.results.json`` beside it.
    """

    def __init__(self, settings: dict[str, Any], log_file: TextIO) -> None:
        self.settings, self.log_file = settings, log_file
        self.path = Path(log_file.name).with_suffix(".results.json")
        self.tasks: dict[int, dict[str, Any]] = {}
        self.kinds: Counter = Counter()
        self.raised: BaseException | None = None
        self.complete = False
        self.taken_over: frozenset[int] = frozenset()

    def take_over(self, earlier: Path) -> None:
        """Takes the finished tasks of an interrupted evaluation for this one's.

        Those with errors are played again. LIBERO's environment is made and seeded anew for each task, so the others
        come out as they would without those before them. One task is always left to play: upstream divides by the
        number of its episodes.

        Args:
            earlier: its ``.results.json``.

        Raises:
            ValueError: it had other settings.
        """
        result = json.loads(earlier.read_text(encoding="utf-8"))
        for name, value in self.settings.items():
            if result.get(name) != value:
                raise ValueError(
                    f"{earlier} had {name} {result.get(name)!r}, this evaluation has {value!r}: leave resume_results "
                    "out to begin anew"
                )
        trials = self.settings["num_trials_per_task"]
        whole = [task for task in result["tasks"] if task["episodes"] == trials and not task["errors"]]
        if len(whole) == self.settings["num_tasks"]:
            whole.pop()
        self.tasks = {task["task_id"]: task for task in whole}
        self.taken_over = frozenset(self.tasks)
        self.say(
            f"{len(whole)} of {self.settings['num_tasks']} tasks are kept from {earlier}; the numbers below are "
            "without them, the result is with them"
        )
        # The interrupted one's counts are no more needed: from here on this result has them.
        self.write()

    def kept(self, task_id: int) -> bool:
        """Whether an interrupted evaluation has played all of the task's episodes."""
        return task_id in self.taken_over

    def error(self, exception: BaseException) -> bool:
        """Takes note of an exception that ended an episode, its traceback into the log.

        Returns:
            False: such an episode is not done, whatever an earlier step said.
        """
        self.raised = exception
        self.kinds[f"{type(exception).__name__}: {exception}"] += 1
        self.log_file.write("".join(traceback.format_exception(type(exception), exception, exception.__traceback__)))
        return False

    def episode(self, task_id: int, description: str, done: bool) -> None:
        """Counts an episode that has ended: by an error since the last call, by success, or by its last step."""
        task = self.tasks.setdefault(
            task_id, {"task_id": task_id, "task": description, "episodes": 0, "successes": 0, "errors": 0}
        )
        task["episodes"] += 1
        if self.raised is not None:
            task["errors"] += 1
            errors, episodes = self._sum("errors"), self._sum("episodes")
            self.say(f"# errors: {errors} of {episodes} episodes, which the numbers below count as failures")
        elif done:
            task["successes"] += 1
        self.raised = None
        self.write()

    def finish(self) -> None:
        """Writes the whole result.

        Raises:
            EveryEpisodeErrored: no episode ran to its end.
        """
        self.complete = True
        self.write()
        print(f"Results: {self.path}")
        episodes, errors = self._sum("episodes"), self._sum("errors")
        if errors and errors == episodes:
            kind, count = self.kinds.most_common(1)[0]
            raise EveryEpisodeErrored(
                f"each of the {episodes} episodes ended with an error, {count} of them with {kind!r}: "
                f"the tracebacks are in {self.log_file.name}"
            )

    def result(self) -> dict[str, Any]:
        """The account as a dictionary for JSON; rates are None where they have no episodes."""
        tasks: list[dict[str, Any]] = [self.tasks[task_id] for task_id in sorted(self.tasks)]
        episodes, successes, errors = (self._sum(word) for word in ("episodes", "successes", "errors"))
        return {
            "format": FORMAT,
            "complete": self.complete,
            **self.settings,
            "log": self.log_file.name,
            "episodes": episodes,
            "successes": successes,
            "errors": errors,
            "success_rate": successes / episodes if episodes else None,
            "success_rate_completed": successes / (episodes - errors) if episodes > errors else None,
            "error_kinds": dict(self.kinds.most_common()),
            "tasks": tasks,
        }

    def write(self) -> None:
        """Replaces the result on disk in one step."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.result(), indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def say(self, line: str) -> None:
        """One line on the terminal and in the log, as upstream says its own."""
        print(line)
        self.log_file.write(line + "\n")

    def _sum(self, word: str) -> int:
        return sum(task[word] for task in self.tasks.values())
