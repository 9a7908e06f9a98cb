"""What a training run reports, to a JSON lines file and to wandb."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Any, Protocol

import torch
import wandb

from prismatic.overwatch import initialize_overwatch

overwatch = initialize_overwatch(__name__)


class Tracker(Protocol):
    def write_hyperparameters(self) -> None: ...

    def write(self, global_step: int, metrics: dict[str, float]) -> None: ...

    def finalize(self) -> None: ...


class JSONLinesTracker:
    def __init__(self, run_id: str, run_dir: Path, hparams: dict[str, Any]) -> None:
        self.run_id, self.run_dir, self.hparams = run_id, run_dir, hparams

    @overwatch.rank_zero_only
    def write_hyperparameters(self) -> None:
        line = json.dumps({"run_id": self.run_id, "hparams": self.hparams}, sort_keys=True)
        (self.run_dir / "run-metrics.jsonl").write_text(line + "\n")

    @overwatch.rank_zero_only
    def write(self, _: int, metrics: dict[str, float]) -> None:
        with (self.run_dir / f"{self.run_id}.jsonl").open("a") as file:
            file.write(json.dumps(metrics, sort_keys=True) + "\n")

    def finalize(self) -> None:
        return


class WeightsBiasesTracker:
    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        hparams: dict[str, Any],
        project: str = "prismatic",
        entity: str | None = None,
        group: str = "align",
    ) -> None:
        self.run_id, self.run_dir, self.hparams = run_id, run_dir, hparams
        self.project, self.entity, self.group = project, entity, group
        self.initialize()

    @overwatch.rank_zero_only
    def initialize(self) -> None:
        wandb.init(name=self.run_id, config=self.hparams, project=self.project, entity=self.entity, group=self.group)

    @overwatch.rank_zero_only
    def write_hyperparameters(self) -> None:
        wandb.config = self.hparams

    @overwatch.rank_zero_only
    def write(self, global_step: int, metrics: dict[str, float]) -> None:
        wandb.log(metrics, step=global_step)

    @staticmethod
    def finalize() -> None:
        if overwatch.is_rank_zero():
            wandb.finish()


class VLAMetrics:
    def __init__(
        self,
        active_trackers: tuple[str, ...],
        run_id: str,
        run_dir: Path,
        hparams: dict[str, Any],
        wandb_project: str = "openvla",
        wandb_entity: str | None = "stanford-voltron",
        grad_accumulation_steps: int = 1,
        window_size: int = 1,
        resume_step: int | None = None,
        resume_epoch: int | None = None,
    ) -> None:
        self.run_id, self.run_dir, self.hparams = run_id, run_dir, hparams
        self.trackers: list[Tracker] = []
        for kind in active_trackers:
            if kind == "jsonl":
                tracker: Tracker = JSONLinesTracker(run_id, run_dir, hparams)
            elif kind == "wandb":
                tracker = WeightsBiasesTracker(
                    run_id, run_dir, hparams, project=wandb_project, entity=wandb_entity, group="vla-train"
                )
            else:
                raise ValueError(f"tracker {kind!r} is none of jsonl, wandb")
            tracker.write_hyperparameters()
            self.trackers.append(tracker)
        self.global_step, self.epoch = resume_step or 0, resume_epoch or 0
        self.start_time = self.step_start_time = time.time()
        windows = {"loss_raw": grad_accumulation_steps}
        names = ("loss_raw", "loss", "l1_loss", "action_accuracy", "step_time", "lr")
        self.state = {name: deque(maxlen=windows.get(name, window_size)) for name in names}
        self.dataset_trackers: dict[str, VLAMetrics] = defaultdict(lambda: VLAMetrics((), "", Path(), {}))

    def log(self, global_step: int, metrics: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.write(global_step, metrics)

    def get_status(self, loss: float | None = None) -> str:
        lr = self.state["lr"][-1] if self.state["lr"] else 0
        said = f"epoch {self.epoch:03d} step {self.global_step:06d} lr {lr:.6f}"
        return said if loss is None else f"{said} loss {loss:.4f}"

    def commit(
        self,
        *,
        global_step: int | None = None,
        epoch: int | None = None,
        lr: float | None = None,
        update_step_time: bool = False,
        **kwargs: torch.Tensor,
    ) -> None:
        self.global_step = self.global_step if global_step is None else global_step
        self.epoch = self.epoch if epoch is None else epoch
        if not overwatch.is_rank_zero():
            return
        if lr is not None:
            self.state["lr"].append(lr)
        if update_step_time:
            now = time.time()
            self.state["step_time"].append(now - self.step_start_time)
            self.step_start_time = now
        for key, value in kwargs.items():
            for name in ("loss_raw", "loss") if key == "loss" else (key,):
                self.state[name].append(value.detach())

    def commit_for_dataset(self, dataset_name: str, **kwargs: torch.Tensor) -> None:
        self.dataset_trackers[dataset_name].commit(**kwargs)

    def _mean(self, name: str) -> float:
        return sum(float(value) for value in self.state[name]) / len(self.state[name])

    @overwatch.rank_zero_only
    def push(self) -> str:
        loss = self._mean("loss")
        status = self.get_status(loss)
        dataset_metrics = {}
        for name, tracker in self.dataset_trackers.items():
            dataset_metrics[f"{name}/L1 Loss"] = tracker._mean("l1_loss")
            dataset_metrics[f"{name}/Action Token Accuracy"] = tracker._mean("action_accuracy")
        prefix = "VLA Train"
        self.log(
            self.global_step,
            metrics={
                f"{prefix}/Step": self.global_step,
                f"{prefix}/Epoch": self.epoch,
                f"{prefix}/Loss": loss,
                f"{prefix}/L1 Loss": self._mean("l1_loss"),
                f"{prefix}/Action Token Accuracy": self._mean("action_accuracy"),
                f"{prefix}/Loss (Raw)": self._mean("loss_raw"),
                f"{prefix}/Learning Rate": self.state["lr"][-1],
                f"{prefix}/Step Time": self._mean("step_time"),
                **dataset_metrics,
            },
        )
        return status

    def finalize(self) -> None:
        for tracker in self.trackers:
            tracker.finalize()
