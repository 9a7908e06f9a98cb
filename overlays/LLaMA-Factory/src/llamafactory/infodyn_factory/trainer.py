"""Puts schedules and probes on LLaMA-Factory's Trainer."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .arguments import as_mapping, schedule_options
from .probes import TrainerProbes
from .resume import restore_missing
from .sampler import ChunkSampler
from .session import ScheduleSession
from .sources import take_tasks

if TYPE_CHECKING:
    from transformers import Trainer

    from ..data.data_utils import DatasetModule
    from ..hparams import DataArguments, FinetuningArguments


def attach_infodyn(
    trainer: "Trainer",
    dataset_module: "DatasetModule",
    data_args: "DataArguments",
    finetuning_args: "FinetuningArguments",
) -> None:
    """Give ``trainer`` its schedule and its probes. Both off: nothing happens.

    The trainer is built already, by whatever class upstream chose; it becomes an instance of a subclass of that class,
    so that every override here goes on to upstream's own method.

    Raises:
        ValueError: an option out of range, or data without sources.
    """
    scheduled = finetuning_args.dynamic_schedule and trainer.args.do_train
    if not scheduled and finetuning_args.probes is None:
        return

    trainer.infodyn_schedule = trainer.infodyn_probes = None
    trainer.__class__ = type(f"Infodyn{type(trainer).__name__}", (InfodynMixin, type(trainer)), {})
    if scheduled:
        config, options = schedule_options(finetuning_args, data_args, trainer.args)
        rows = take_tasks(dataset_module, config.tasks, data_args.eval_dataset)
        trainer.train_dataset, trainer.eval_dataset = dataset_module["train_dataset"], dataset_module["eval_dataset"]
        trainer.infodyn_schedule = session = ScheduleSession(trainer, rows, config, options)
        trainer.add_callback(ScheduleCallback(session))
        if trainer.args.max_steps <= 0:  # an epoch becomes a chunk; as many samples as before are drawn
            samples = trainer.args.num_train_epochs * len(trainer.train_dataset)
            per_step = session.chunk_size // options.chunk_steps
            trainer.args.max_steps = max(1, -int(-samples // per_step))

    if finetuning_args.probes is not None:
        trainer.infodyn_probes = TrainerProbes(trainer, as_mapping("probes", finetuning_args.probes))


class InfodynMixin:
    """Overrides of a ``Trainer``'s methods; each calls the next one."""

    infodyn_schedule: ScheduleSession | None
    infodyn_probes: TrainerProbes | None
    infodyn_missing: list[str]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        session = self.infodyn_schedule
        if session is None:
            return super()._get_train_sampler(*args, **kwargs)

        return ChunkSampler(
            session.rows,
            session.chunk_size,
            session.next_chunk,
            session.scheduler.config.seed,
            shuffle=not getattr(self.finetuning_args, "disable_shuffling", False),
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.infodyn_missing = []
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_missing(self.model if model is None else model, resume_from_checkpoint, self.infodyn_missing)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self.infodyn_missing = list(load_result.missing_keys)
        super()._issue_warnings_after_load(load_result)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        kwargs["num_items_in_batch"] = num_items_in_batch
        session = self.infodyn_schedule
        if session is None or session.memory is None or not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)

        with session.memory.recording(session.task, inputs.get("attention_mask")):
            loss = super().compute_loss(model, inputs, *args, **kwargs)

        # `training_step` itself divides by the accumulation a loss that is not over all the step's tokens: that of any
        # model with a processor. What it does not divide is divided here.
        own = not self.model_accepts_loss_kwargs or num_items_in_batch is None
        share = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
        return loss + session.memory.loss(session.pi) / (1 if own and self.compute_loss_func is None else share)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as stack:
            if self.infodyn_schedule is not None:
                stack.enter_context(self.infodyn_schedule.saving())

            super()._save_checkpoint(*args, **kwargs)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.infodyn_probes is not None:
            self.infodyn_probes.begin_batch(inputs)

        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        target = self.eval_dataset if eval_dataset is None else eval_dataset
        session = self.infodyn_schedule if self.infodyn_schedule is not None and self.is_in_train else None
        if isinstance(target, dict):  # calls this method again for each of them
            metrics = super().evaluate(eval_dataset, *args, **kwargs)
            if session is not None:
                found = session.end_of_evaluation()
                if found:
                    self.log(dict(found))

                metrics.update(found)

            return metrics

        name = target if isinstance(target, str) else None
        with ExitStack() as stack:
            if self.infodyn_probes is not None:
                stack.enter_context(self.infodyn_probes.watching(target))

            metrics = super().evaluate(eval_dataset, *args, **kwargs)

        if session is not None and name is not None:
            session.recorder.end_of_task(name)

        return metrics


class ScheduleCallback(TrainerCallback, ExportableState):
    """Begins and ends the session with the training, and keeps its state in the checkpoint's ``trainer_state.json``."""

    def __init__(self, session: ScheduleSession) -> None:
        self.session = session

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self.session.state_dict()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > 0:
            saved = state.stateful_callbacks.get(type(self).__name__)
            if saved is None:
                raise ValueError(
                    "the checkpoint was made without `dynamic_schedule`: resume without it, or train anew."
                )

            self.session.load_state_dict(saved["attributes"])

        self.session.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.catch_up()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.recorder.end_step(self.session.task)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.end_chunk()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.end()
