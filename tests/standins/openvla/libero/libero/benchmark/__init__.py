"""One suite under each of LIBERO's names: the downstream tasks of the toy world, with fifty scenes a task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from toy_world.tasks import DOWNSTREAM, instruction_of

SCENES = 50


@dataclass(frozen=True)
class Task:
    name: str
    language: str
    problem: str
    problem_folder: str
    bddl_file: str
    init_states_file: str


class Benchmark:
    """Tasks by number; an initial state is the seed of a scene."""

    def __init__(self, task_order_index: int = 0) -> None:
        self.task_order_index = task_order_index
        self.n_tasks = len(DOWNSTREAM)

    def get_task(self, i: int) -> Task:
        language = instruction_of(i)
        name = language.replace(" ", "_")
        return Task(name, language, "Toy", "toy", f"{i}.bddl", f"{i}.init")

    def get_task_init_states(self, i: int) -> np.ndarray:
        return np.arange(SCENES)[:, None] + 1_000_000 * (i + 1)


def get_benchmark_dict(help: bool = False) -> dict[str, type[Benchmark]]:
    names = ("libero_spatial", "libero_object", "libero_goal", "libero_90", "libero_10")
    return dict.fromkeys(names, Benchmark)
