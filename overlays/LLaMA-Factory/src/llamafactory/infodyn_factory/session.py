"""One training run under a dynamic schedule: what is decided, from when to when, and what a checkpoint holds of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ..extras import logging
from ..infodyn.dynamic_scheduler import DynamicScheduler
from ..infodyn.routing_history import RoutingHistory
from ..infodyn.schedule_config import ScheduleConfig
from ..infodyn.task_metrics import TaskHistory
from .arguments import ScheduleOptions
from .measure import summed_over_ranks
from .memory_state import as_lists, load_memory, sums_of_ranks
from .recorder import Recorder
from .refusals import strategy_of
from .schedule_log import ScheduleLog

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)


class ScheduleSession:
    """Asks the scheduler at the beginning of a chunk and tells it at each evaluation what came of it.

    Args:
        trainer: whose state says how many steps are done.
        rows: the training set's row numbers by task.
        config: the scheduler's.
        options: the run's.
    """

    def __init__(
        self, trainer: "Trainer", rows: dict[str, list[int]], config: ScheduleConfig, options: ScheduleOptions
    ) -> None:
        self.trainer, self.rows, self.options = trainer, rows, options
        self.task_history: TaskHistory = {}
        self.scheduler = DynamicScheduler(config, self.task_history)
        self.task: str | None = None
        self.chunk = -1
        self.drawn = dict.fromkeys(config.tasks, 0)
        self.memory = RoutingHistory(weight=options.routing_memory) if options.routing_memory > 0 else None
        self.log = ScheduleLog(trainer.args.output_dir, trainer.is_world_process_zero())
        self.recorder = Recorder(trainer, self.task_history, options, config.seed, self.log)
        self._sums: list[Any] | None = None
        self._resumed = False

    @property
    def chunk_size(self) -> int:
        """Samples a chunk, over all ranks and micro-batches."""
        args = self.trainer.args
        per_step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        return self.options.chunk_steps * per_step

    def begin(self) -> None:
        """Training begins, or goes on from a checkpoint whose state was loaded."""
        self.recorder.begin()
        if self.memory is not None:
            self.memory.watch(self.trainer.model)

        self.log.begin(self.scheduler, self.options.chunk_steps)

    def end(self) -> None:
        self.recorder.end()
        if self.memory is not None:
            self.memory.close()

    def catch_up(self) -> None:
        """Do what a checkpoint at a chunk's end does not hold: ``save_strategy: steps`` saves before the epoch ends."""
        resumed, self._resumed = self._resumed, False
        step = self.trainer.state.global_step
        if not resumed or step % self.options.chunk_steps:
            return

        self.end_chunk()
        if strategy_of(self.trainer.args) == "epoch" and not self.recorder.evaluated_at(step):
            self.trainer.evaluate()

    def next_chunk(self) -> tuple[str, int] | None:
        """The task of the chunk that the Trainer's step lies in, and how many of its samples were drawn before it.

        None where the schedule has ended, which a resumed run may find.
        """
        if self.scheduler.finished:
            return None

        chunk = self.trainer.state.global_step // self.options.chunk_steps
        if chunk != self.chunk or self.task is None:
            if self.task is not None:
                self.drawn[self.task] += self.chunk_size

            self.task = self.scheduler.select_next_task(self.task)
            self.chunk = chunk
            self._agree()
            choice = self.scheduler.choices[-1]
            self.log.append({"step": self.trainer.state.global_step, "choice": choice.__dict__})

        return self.task, self.drawn[self.task]

    def _agree(self) -> None:
        """Choices are computed on each rank from sums over all ranks; ranks that differ would train different tasks."""
        tasks = self.scheduler.get_all_tasks()
        own = torch.zeros(len(tasks), device=self.trainer.args.device)
        own[tasks.index(self.task)] = 1
        found = summed_over_ranks(own.clone()) / (dist.get_world_size() if dist.is_initialized() else 1)
        if not torch.equal(found, own):
            raise RuntimeError(
                f"ranks chose different tasks for chunk {self.chunk}; this one chose {self.task}. Are data and "
                "arguments the same on all of them?"
            )

    def end_chunk(self) -> None:
        if self.memory is not None:
            self.memory.end_epoch()

    def end_of_evaluation(self) -> dict[str, float]:
        """All tasks are evaluated; metrics for the Trainer's log."""
        metrics = self.recorder.end_of_evaluation()
        if self.scheduler.finished:
            step = self.trainer.state.global_step
            logger.info_rank0(f"All tasks are grokked at step {step}: the schedule ends the training.")
            self.trainer.control.should_training_stop = True

        return metrics

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A checkpoint is written inside, by one rank; it is to hold what the others' routing memory has summed too."""
        self._sums = None if self.memory is None else sums_of_ranks(self.memory)
        try:
            yield
        finally:
            self._sums = None

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON types, equal on all ranks inside ``saving``; outside the routing memory's sums are this rank's."""
        memory = None
        if self.memory is not None:
            found = as_lists(self.memory.state_dict())
            memory = {"epochs": found["epochs"], "sums": [found["sums"]] if self._sums is None else self._sums}

        return {
            "scheduler": self.scheduler.state_dict(),
            "task": self.task,
            "chunk": self.chunk,
            "drawn": dict(self.drawn),
            "chunk_size": self.chunk_size,
            "rows": {task: len(rows) for task, rows in self.rows.items()},
            "steps": as_lists(self.recorder.steps.steps),
            "memory": memory,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it belongs to other data, other tasks, or other sizes of batch and chunk.
        """
        own = {"chunk_size": self.chunk_size, "rows": {task: len(rows) for task, rows in self.rows.items()}}
        for name, value in own.items():
            if state[name] != value:
                raise ValueError(
                    f"the checkpoint's schedule has {name} {state[name]}, this run has {value}: resume with the same "
                    "data, batch size, gradient accumulation, number of ranks and `chunk_steps`."
                )

        self._resumed = True
        self.scheduler.load_state_dict(state["scheduler"])
        self.task, self.chunk, self.drawn = state["task"], state["chunk"], dict(state["drawn"])
        args = self.trainer.args
        self.recorder.steps.steps = {
            task: [torch.tensor(step, dtype=torch.float64, device=args.device) for step in steps]
            for task, steps in state["steps"].items()
        }
        if (self.memory is None) != (state["memory"] is None):
            raise ValueError("the checkpoint was made with another `routing_memory`: resume with the same.")

        if self.memory is not None:
            load_memory(self.memory, **state["memory"], rank=args.process_index, ranks=max(1, args.world_size))

    @property
    def pi(self) -> float:
        """The current task's at its last evaluation; 1 before any, which leaves routing alone."""
        history = self.task_history[self.task] if self.task else []
        return history[-1].avg_pi if history else 1.0
