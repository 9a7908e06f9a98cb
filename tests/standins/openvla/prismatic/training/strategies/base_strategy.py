"""The training loop of the training script; how a model is spread over processes is a subclass's matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from prismatic.models.vlms import PrismaticVLM
from prismatic.overwatch import initialize_overwatch
from prismatic.training.metrics import VLAMetrics
from prismatic.util.data_utils import PaddedCollatorForActionPrediction
from prismatic.util.torch_utils import DEVICE
from prismatic.vla.action_tokenizer import ActionTokenizer

overwatch = initialize_overwatch(__name__)


class TrainingStrategy(ABC):
    def __init__(
        self,
        vlm: PrismaticVLM,
        device_id: int,
        stage: str,
        epochs: int,
        max_steps: int | None,
        global_batch_size: int,
        per_device_batch_size: int,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float,
        lr_scheduler_type: str,
        warmup_ratio: float,
        enable_gradient_checkpointing: bool = True,
        enable_mixed_precision_training: bool = True,
        reduce_in_full_precision: bool = False,
        mixed_precision_dtype: torch.dtype = torch.bfloat16,
        worker_init_fn: Callable[[int], None] | None = None,
        **_: str,
    ) -> None:
        self.vlm, self.device_id, self.stage = vlm, device_id, stage
        self.all_module_keys, self.trainable_module_keys = vlm.all_module_keys, vlm.trainable_module_keys
        self.llm_transformer_layer_cls = vlm.llm_backbone.transformer_layer_cls
        self.epochs, self.max_steps = epochs, max_steps
        self.global_batch_size, self.per_device_batch_size = global_batch_size, per_device_batch_size
        self.learning_rate, self.weight_decay, self.max_grad_norm = learning_rate, weight_decay, max_grad_norm
        self.lr_scheduler_type, self.warmup_ratio = lr_scheduler_type, warmup_ratio
        self.enable_gradient_checkpointing = enable_gradient_checkpointing
        self.enable_mixed_precision_training = enable_mixed_precision_training
        self.reduce_in_full_precision, self.mixed_precision_dtype = reduce_in_full_precision, mixed_precision_dtype
        self.worker_init_fn = worker_init_fn
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.grad_accumulation_steps = global_batch_size // per_device_batch_size // overwatch.world_size()

    @abstractmethod
    def save_checkpoint(
        self,
        run_dir: Path,
        global_step: int,
        epoch: int,
        train_loss: float | None = None,
        only_trainable: bool = True,
    ) -> None: ...

    @abstractmethod
    def run_setup(self, run_dir: Path, n_train_examples: int) -> None: ...

    @abstractmethod
    def clip_grad_norm(self) -> None: ...

    def run_training(
        self,
        dataset: Any,
        collator: Any,
        metrics: Any,
        stage: str = "finetune",
        batch_construction_strategy: str = "split-modality",
        seed: int = 7,
    ) -> None:
        """Training on pictures and text without actions: another loop with the same statements, which the stand-in
        keeps so that an edit that is not scoped to its function is noticed."""
        dataloader = DataLoader(dataset, batch_size=self.per_device_batch_size, collate_fn=collator)
        self.vlm.train()
        self.optimizer.zero_grad()
        for batch in dataloader:
            loss = self.vlm(**batch).loss
            metrics.commit(loss=loss)
            loss.backward()
            self.clip_grad_norm()
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
            metrics.commit(global_step=metrics.global_step + 1, lr=self.lr_scheduler.get_last_lr()[0])
            metrics.push()
            if self.max_steps is not None and metrics.global_step >= self.max_steps:
                self.save_checkpoint(metrics.run_dir, metrics.global_step, 0, loss.item())
                dist.barrier()
                return
        if self.max_steps is None:
            self.save_checkpoint(metrics.run_dir, metrics.global_step, self.epochs, loss.item())
            dist.barrier()

    def run_vla_training(
        self,
        vla_dataset: IterableDataset,
        collator: PaddedCollatorForActionPrediction,
        action_tokenizer: ActionTokenizer,
        metrics: VLAMetrics,
        save_interval: int = 2500,
        save_full_model: bool = True,
    ) -> None:
        """Trains until ``max_steps`` on a data set without end; every process sees steps of its own."""
        assert isinstance(vla_dataset, IterableDataset), "VLA training expects an IterableDataset"
        assert self.grad_accumulation_steps == 1, "VLA training does not accumulate gradients"
        dataloader = DataLoader(
            vla_dataset,
            batch_size=self.per_device_batch_size,
            sampler=None,
            collate_fn=collator,
            num_workers=0,
            worker_init_fn=self.worker_init_fn,
        )
        with tqdm(total=self.max_steps, leave=False, disable=not overwatch.is_rank_zero()) as progress:
            self.vlm.train()
            self.optimizer.zero_grad()
            for batch in dataloader:
                with torch.autocast(
                    DEVICE, dtype=self.mixed_precision_dtype, enabled=self.enable_mixed_precision_training
                ):
                    output = self.vlm(
                        input_ids=batch["input_ids"],
                        attention_mask=batch["attention_mask"],
                        pixel_values=batch["pixel_values"],
                        labels=batch["labels"],
                    )
                    loss = output.loss
                metrics.commit(loss=loss)
                loss.backward()

                predicted = output.logits[:, self.vlm.vision_backbone.num_patches : -1].argmax(dim=2)
                expected = batch["labels"][:, 1:].to(predicted.device)
                mask = expected > action_tokenizer.action_token_begin_idx
                accuracy = (predicted == expected)[mask].float().mean()
                decode = action_tokenizer.decode_token_ids_to_actions
                distance = decode(predicted[mask].cpu().numpy()) - decode(expected[mask].cpu().numpy())
                l1_loss = torch.tensor(abs(distance).mean())
                metrics.commit(action_accuracy=accuracy, l1_loss=l1_loss, update_step_time=True)

                self.clip_grad_norm()
                self.optimizer.step()
                self.lr_scheduler.step()
                self.optimizer.zero_grad()

                epoch = (metrics.global_step + 1) // (len(vla_dataset) // self.global_batch_size)
                metrics.commit(global_step=metrics.global_step + 1, epoch=epoch, lr=self.lr_scheduler.get_last_lr()[0])
                status = metrics.push()
                terminate = self.max_steps is not None and metrics.global_step >= self.max_steps
                if terminate or metrics.global_step % save_interval == 0:
                    self.save_checkpoint(
                        metrics.run_dir, metrics.global_step, epoch, loss.item(), only_trainable=not save_full_model
                    )
                    dist.barrier()
                    if terminate:
                        return
                progress.update()
                progress.set_description(status)
