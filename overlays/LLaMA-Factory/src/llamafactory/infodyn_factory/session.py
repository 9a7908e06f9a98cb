"""One training run under a dynamic schedule: what is decided, measured, logged and saved."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ..extras import logging
from ..infodyn.dynamic_scheduler import DynamicScheduler
from ..infodyn.pi import validation_surprise
from ..infodyn.routing_history import RoutingHistory
from ..infodyn.schedule_config import ScheduleConfig
from ..infodyn.subset import choose_samples
from ..infodyn.task_metrics import TaskHistory, TaskMetrics, record
from .arguments import ScheduleOptions
from .measure import ForwardMeter, StepMeter, summed_over_ranks
from .refusals import strategy_of
from .schedule_log import ScheduleLog, as_lists, as_tensors

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
        self.forward = ForwardMeter(self._rows_that_count)
        self.steps = StepMeter(options.pi_alpha, options.pi_gamma)
        self.memory = RoutingHistory(weight=options.routing_memory) if options.routing_memory > 0 else None
        self.tokens: dict[str, torch.Tensor] = {}
        self.training = False
        self.log = ScheduleLog(trainer.args.output_dir, trainer.is_world_process_zero())
        self._handle: Any = None
        self._resumed = False

    @property
    def chunk_size(self) -> int:
        """Samples a chunk, over all ranks and micro-batches."""
        args = self.trainer.args
        per_step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        return self.options.chunk_steps * per_step

    def begin(self) -> None:
        """Training begins, or goes on from a checkpoint whose state was loaded."""
        self.training = True
        self._handle = self.forward.attach(self.trainer.model)
        self.steps.watch_clipping(self.trainer.accelerator)
        if self.memory is not None:
            self.memory.watch(self.trainer.model)

        self.log.begin(self.scheduler, self.options.chunk_steps)

    def end(self) -> None:
        self.training = False
        if self._handle is not None:
            self._handle.remove()

        if self.memory is not None:
            self.memory.close()

    def catch_up(self) -> None:
        """Do what a checkpoint at a chunk's end does not hold: ``save_strategy: steps`` saves before the epoch ends."""
        resumed, self._resumed = self._resumed, False
        step = self.trainer.state.global_step
        if not resumed or step % self.options.chunk_steps:
            return

        self.end_chunk()
        if strategy_of(self.trainer.args) == "epoch" and not self._evaluated_at(step):
            self.trainer.evaluate()

    def _evaluated_at(self, step: int) -> bool:
        return any(entries and entries[-1].step == step for entries in self.task_history.values())

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

    def end_step(self) -> None:
        self.steps.end_step(self.forward.take_training(), self.trainer.model)

    def end_chunk(self) -> None:
        if self.memory is not None:
            self.memory.end_epoch()

    def _rows_that_count(self, rows: int) -> int:
        state = self.trainer.accelerator.gradient_state
        if not (self.trainer.args.world_size > 1 and state.end_of_dataloader and state.remainder > 0):
            return rows

        return min(rows, max(0, state.remainder - self.trainer.args.process_index * rows))

    def end_of_task(self, task: str) -> None:
        """The forward passes of an evaluation on ``task`` are done."""
        self.tokens[task] = self.forward.take_evaluation(self.trainer.args.device)

    def end_of_evaluation(self) -> dict[str, float]:
        """Record all tasks; metrics for the Trainer's log. A second evaluation at the same step is not recorded."""
        state = self.trainer.state
        if self._evaluated_at(state.global_step):
            self.tokens.clear()
            return {}

        train_pi, train_steps = self.steps.take()
        metrics: dict[str, float] = {}
        for task in self.scheduler.get_all_tasks():
            loss, entropy, right, tokens = summed_over_ranks(self.tokens.pop(task)).tolist()
            own = task == self.task
            entry = record(
                self.task_history,
                task,
                step=state.global_step,
                epoch=float(state.epoch or 0),
                accuracy=right / max(tokens, 1),
                epsilon=loss / max(tokens, 1),
                tau=entropy / max(tokens, 1),
                surprise=self._surprise(task),
                tokens=int(tokens),
                alpha=self.options.pi_alpha,
                gamma=self.options.pi_gamma,
                train_pi=train_pi if own else None,
                train_steps=train_steps if own else 0,
            )
            metrics |= {f"eval_{task}_{name}": value for name, value in _logged(entry).items()}
            self.log.append({"task": task, "metrics": entry.to_dict()})

        if self.scheduler.finished:
            logger.info_rank0(f"All tasks are grokked at step {state.global_step}: the schedule ends the training.")
            self.trainer.control.should_training_stop = True

        return metrics

    def _surprise(self, task: str) -> float:
        """Of the same samples at every evaluation; computed on each rank and taken from the first."""
        dataset, args = self.trainer.eval_dataset[task], self.trainer.args
        chosen = choose_samples(len(dataset), self.options.surprise_samples, self.scheduler.config.seed)
        size = args.per_device_eval_batch_size
        batches = (
            self.trainer._prepare_inputs(self.trainer.data_collator([dataset[i] for i in chosen[start : start + size]]))
            for start in range(0, len(chosen), size)
        )
        with self.forward.paused():
            found = torch.tensor(
                validation_surprise(self.trainer.model, batches), dtype=torch.float64, device=args.device
            )

        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(found, 0)

        return found.item()

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON types, equal on all ranks but for what the routing memory has summed in the chunk under way."""
        return {
            "scheduler": self.scheduler.state_dict(),
            "task": self.task,
            "chunk": self.chunk,
            "drawn": dict(self.drawn),
            "chunk_size": self.chunk_size,
            "rows": {task: len(rows) for task, rows in self.rows.items()},
            "steps": [step.tolist() for step in self.steps.steps],
            "memory": None if self.memory is None else as_lists(self.memory.state_dict()),
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
        device = self.trainer.args.device
        self.steps.steps = [torch.tensor(step, dtype=torch.float64, device=device) for step in state["steps"]]
        if (self.memory is None) != (state["memory"] is None):
            raise ValueError("the checkpoint was made with another `routing_memory`: resume with the same.")

        if self.memory is not None:
            saved = {name: as_tensors(state["memory"][name]) for name in ("epochs", "sums")}
            if self.trainer.args.process_index > 0:  # the file has the first rank's sums
                saved["sums"] = {}

            self.memory.load_state_dict(saved)

    @property
    def pi(self) -> float:
        """The current task's at its last evaluation; 1 before any, which leaves routing alone."""
        history = self.task_history[self.task] if self.task else []
        return history[-1].avg_pi if history else 1.0


def _logged(entry: TaskMetrics) -> dict[str, float]:
    found = {
        "accuracy": entry.avg_accuracy,
        "entropy": entry.avg_entropy,
        "surprise": entry.surprise,
        "pi": entry.avg_pi,
    }
    return found | ({} if entry.train_pi is None else {"train_pi": entry.train_pi})
