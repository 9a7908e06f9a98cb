"""What a run under a schedule measures: each step, and at each evaluation every task."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ..infodyn.pi import validation_surprise
from ..infodyn.subset import choose_samples
from ..infodyn.task_metrics import TaskHistory, TaskMetrics, record
from .arguments import ScheduleOptions
from .measure import ForwardMeter, StepMeter, summed_over_ranks
from .schedule_log import ScheduleLog

if TYPE_CHECKING:
    from transformers import Trainer


class Recorder:
    """Fills the tasks' history from the Trainer's own passes, and from gradients on a few validation samples.

    Args:
        trainer: whose steps and evaluations are measured.
        history: filled at each evaluation.
        options: the run's.
        seed: chooses the samples of the validation surprise.
        log: gets a line for each task at each evaluation.
    """

    def __init__(
        self, trainer: "Trainer", history: TaskHistory, options: ScheduleOptions, seed: int, log: ScheduleLog
    ) -> None:
        self.trainer, self.history, self.options, self.seed, self.log = trainer, history, options, seed, log
        self.forward = ForwardMeter(self._rows_that_count)
        self.steps = StepMeter(options.pi_alpha, options.pi_gamma)
        self.tokens: dict[str, torch.Tensor] = {}
        self._handle: Any = None

    def begin(self) -> None:
        self._handle = self.forward.attach(self.trainer.model)
        self.steps.watch_clipping(self.trainer.accelerator)

    def end(self) -> None:
        if self._handle is not None:
            self._handle.remove()

    def end_step(self, task: str) -> None:
        self.steps.end_step(task, self.forward.take_training(), self.trainer.model)

    def end_of_task(self, task: str) -> None:
        """The forward passes of an evaluation on ``task`` are done."""
        self.tokens[task] = self.forward.take_evaluation(self.trainer.args.device)

    def end_of_evaluation(self) -> dict[str, float]:
        """Record all tasks; metrics for the Trainer's log. A second evaluation at the same step is not recorded."""
        state = self.trainer.state
        if self.evaluated_at(state.global_step):
            self.tokens.clear()
            return {}

        metrics: dict[str, float] = {}
        for task in self.history:
            loss, entropy, right, tokens = summed_over_ranks(self.tokens.pop(task)).tolist()
            train_pi, train_steps, left_out = self.steps.take(task)
            entry = record(
                self.history,
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
                train_pi=train_pi,
                train_steps=train_steps,
                train_left_out=left_out,
            )
            metrics |= {f"eval_{task}_{name}": value for name, value in _logged(entry).items()}
            self.log.append({"task": task, "metrics": entry.to_dict()})

        return metrics

    def evaluated_at(self, step: int) -> bool:
        return any(entries and entries[-1].step == step for entries in self.history.values())

    def _rows_that_count(self, rows: int) -> int:
        state = self.trainer.accelerator.gradient_state
        if not (self.trainer.args.world_size > 1 and state.end_of_dataloader and state.remainder > 0):
            return rows

        return min(rows, max(0, state.remainder - self.trainer.args.process_index * rows))

    def _surprise(self, task: str) -> float:
        """Of the same samples at every evaluation; computed on each rank and taken from the first.

        Samples go one by one: the result is that of any split, and in evaluation mode no gradient checkpointing bounds
        what a batch keeps.
        """
        dataset, args = self.trainer.eval_dataset[task], self.trainer.args
        chosen = choose_samples(len(dataset), self.options.surprise_samples, self.seed)
        batches = (self.trainer._prepare_inputs(self.trainer.data_collator([dataset[i]])) for i in chosen)
        with self.forward.paused():
            found = torch.tensor(
                validation_surprise(self.trainer.model, batches), dtype=torch.float64, device=args.device
            )

        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(found, 0)

        return found.item()


def _logged(entry: TaskMetrics) -> dict[str, float]:
    found = {
        "accuracy": entry.avg_accuracy,
        "entropy": entry.avg_entropy,
        "surprise": entry.surprise,
        "pi": entry.avg_pi,
    }
    return found | ({} if entry.train_pi is None else {"train_pi": entry.train_pi})
