"""Parameters, gradients and optimizer state spread over the processes by torch's FSDP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.fsdp import FullStateDictConfig, MixedPrecision, ShardingStrategy, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.optim import AdamW
from transformers.optimization import get_constant_schedule, get_cosine_schedule_with_warmup

from prismatic.overwatch import initialize_overwatch
from prismatic.training.strategies.base_strategy import TrainingStrategy
from prismatic.util.torch_utils import DEVICE

overwatch = initialize_overwatch(__name__)

SHARDING = {"shard-grad-op": ShardingStrategy.SHARD_GRAD_OP, "full-shard": ShardingStrategy.FULL_SHARD}


class FSDPStrategy(TrainingStrategy):
    def __init__(
        self,
        *args: Any,
        sharding_strategy: str = "shard-grad-op",
        state_dict_type: StateDictType = StateDictType.FULL_STATE_DICT,
        **kwargs: Any,
    ) -> None:
        """``args``, ``kwargs``: as ``TrainingStrategy`` has them."""
        super().__init__(*args, **kwargs)
        self.fsdp_sharding_strategy = SHARDING[sharding_strategy]
        self.fsdp_state_dict_type = state_dict_type
        # On a CPU, torch 2.13 frees what it "moves": reading the state then crashes the process.
        self.fsdp_save_policy = FullStateDictConfig(offload_to_cpu=DEVICE == "cuda", rank0_only=True)

    def save_checkpoint(
        self,
        run_dir: Path,
        global_step: int,
        epoch: int,
        train_loss: float | None = None,
        only_trainable: bool = True,
    ) -> None:
        """Writes ``checkpoints/step-...-epoch-...-loss=....pt`` on rank 0: a state dictionary for each module."""
        with FSDP.state_dict_type(self.vlm, self.fsdp_state_dict_type, self.fsdp_save_policy):
            full = self.vlm.state_dict()
        if not overwatch.is_rank_zero():
            return
        keys = self.trainable_module_keys if only_trainable else self.all_module_keys
        split = {
            key: {name.removeprefix(f"{key}."): tensor for name, tensor in full.items() if name.startswith(f"{key}.")}
            for key in keys
        }
        loss = "inf" if train_loss is None else f"{train_loss:.4f}"
        name = f"step-{global_step:06d}-epoch-{epoch:02d}-loss={loss}.pt"
        torch.save({"model": split}, run_dir / "checkpoints" / name)

    def run_setup(self, run_dir: Path, n_train_examples: int) -> None:
        dtype = self.mixed_precision_dtype if self.enable_mixed_precision_training else torch.float32
        reduced = torch.float32 if self.reduce_in_full_precision else dtype
        self.vlm = FSDP(
            self.vlm,
            auto_wrap_policy=self.vlm.get_fsdp_wrapping_policy(),
            mixed_precision=MixedPrecision(param_dtype=dtype, reduce_dtype=reduced, buffer_dtype=reduced),
            sharding_strategy=self.fsdp_sharding_strategy,
            device_id=torch.cuda.current_device() if DEVICE == "cuda" else torch.device("cpu"),
            limit_all_gathers=True,
            use_orig_params=True,
        )
        if self.enable_gradient_checkpointing:
            wrapper = partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT)

            def check_fn(submodule: nn.Module) -> bool:
                return isinstance(submodule, self.llm_transformer_layer_cls)

            apply_activation_checkpointing(self.vlm, checkpoint_wrapper_fn=wrapper, check_fn=check_fn)
        dist.barrier()
        steps = self.max_steps or n_train_examples * self.epochs // self.global_batch_size
        self.optimizer = AdamW(self._groups(), lr=self.learning_rate)
        if self.lr_scheduler_type == "constant":
            self.lr_scheduler = get_constant_schedule(self.optimizer)
        elif self.lr_scheduler_type == "linear-warmup+cosine-decay":
            warmup = int(steps * self.warmup_ratio)
            self.lr_scheduler = get_cosine_schedule_with_warmup(self.optimizer, warmup, steps)
        else:
            raise ValueError(f"learning rate schedule {self.lr_scheduler_type!r} is not supported")
        overwatch.info(f"FSDP over {overwatch.world_size()} processes, {steps} steps")

    def _groups(self) -> list[dict[str, Any]]:
        """Weights that decay, and those that do not: everything of one dimension."""
        trained = [(name, p) for name, p in self.vlm.named_parameters() if p.requires_grad]
        plain = [p for name, p in trained if p.ndim <= 1 or name.endswith(".bias")]
        matrices = [p for name, p in trained if not (p.ndim <= 1 or name.endswith(".bias"))]
        return [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]

    def clip_grad_norm(self) -> None:
        self.vlm.clip_grad_norm_(max_norm=self.max_grad_norm)
