"""Trains all weights with FSDP: the stand-in's version of the upstream's script, with its steps and its options.

torchrun --standalone --nnodes 1 --nproc-per-node 2 vla-scripts/train.py --vla.base_vlm DIR --data_root_dir DIR ...
"""

import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the stand-in is never installed

import draccus
import torch
import torch.distributed as dist
import yaml
from prismatic.conf import VLAConfig, VLARegistry
from prismatic.models import load, load_vla
from prismatic.overwatch import initialize_overwatch
from prismatic.training import VLAMetrics, get_train_strategy
from prismatic.util import set_global_seed
from prismatic.util.torch_utils import DEVICE, begin_process_group
from prismatic.vla import get_vla_dataset_and_collator
from prismatic.vla.datasets.rlds.utils.data_utils import save_dataset_statistics

overwatch = initialize_overwatch(__name__)


@dataclass
class TrainConfig:
    vla: VLAConfig = field(default_factory=VLAConfig.get_choice_class(VLARegistry.DINOSIGLIP_224PX_MX_BRIDGE.vla_id))

    data_root_dir: Path = Path("datasets/open-x-embodiment")
    run_root_dir: Path = Path("runs")

    pretrained_checkpoint: Path | None = None  # a `step-....pt` to go on from
    is_resume: bool = True
    resume_step: int | None = None
    resume_epoch: int | None = None

    run_id: str | None = None
    run_id_note: str | None = None
    save_interval: int = 2500
    image_aug: bool = False
    seed: int = 7

    hf_token: str | Path = Path(".hf_token")  # nothing is fetched here

    trackers: tuple[str, ...] = ("jsonl", "wandb")
    wandb_project: str = "openvla"
    wandb_entity: str = "stanford-voltron"

    def __post_init__(self) -> None:
        for name in (
            *("epochs", "max_steps", "global_batch_size", "per_device_batch_size", "learning_rate", "weight_decay"),
            *("max_grad_norm", "lr_scheduler_type", "warmup_ratio", "train_strategy"),
        ):
            setattr(self, name, getattr(self.vla, name))
        expected, found = self.vla.expected_world_size, overwatch.world_size()
        assert expected == found, f"the recipe is for {expected} processes, and there are {found}"


def stage_of(vla: VLAConfig) -> str:
    if not vla.freeze_llm_backbone:
        return "vla-train" if vla.freeze_vision_backbone else "vla-full-train"
    assert vla.unfreeze_last_llm_layer, "with the language model frozen, at least its last layer must be trained"
    return "vla-last-layer-train" if vla.freeze_vision_backbone else "vla-sandwich-train"


@draccus.wrap()
def train(cfg: TrainConfig) -> None:
    begin_process_group()
    device_id = overwatch.local_rank()
    if DEVICE == "cuda":
        torch.cuda.set_device(device_id)

    vla_id = cfg.vla.vla_id
    cfg.run_id = (
        f"{vla_id}+n{cfg.vla.expected_world_size // 8}+b{cfg.per_device_batch_size}+x{cfg.seed}"
        if cfg.run_id is None
        else cfg.run_id
    )
    if cfg.run_id_note is not None:
        cfg.run_id += f"--{cfg.run_id_note}"
    if cfg.image_aug:
        cfg.run_id += "--image_aug"
    worker_init_fn = set_global_seed(cfg.seed, get_worker_init_fn=True)
    os.makedirs(run_dir := (cfg.run_root_dir / cfg.run_id), exist_ok=True)
    os.makedirs(cfg.run_root_dir / cfg.run_id / "checkpoints", exist_ok=True)
    if overwatch.is_rank_zero():
        with open(run_dir / "config.yaml", "w") as file:
            draccus.dump(cfg, file)
        plain = yaml.safe_load((run_dir / "config.yaml").read_text())
        (run_dir / "config.json").write_text(json.dumps(plain, indent=2))

    if cfg.pretrained_checkpoint is not None:
        if cfg.is_resume:
            name = cfg.pretrained_checkpoint.name
            assert int(re.search("step-(.+?)-", name).group(1)) == cfg.resume_step
            assert int(re.search("epoch-(.+?)-", name).group(1)) == cfg.resume_epoch
        vlm = load_vla(cfg.pretrained_checkpoint, load_for_training=True)
    else:
        vlm = load(cfg.vla.base_vlm, load_for_training=True)
    stage = stage_of(cfg.vla)
    vlm.freeze_backbones(stage)

    vla_dataset, action_tokenizer, collator = get_vla_dataset_and_collator(
        cfg.data_root_dir,
        cfg.vla.data_mix,
        image_transform=vlm.vision_backbone.get_image_transform(),
        tokenizer=vlm.llm_backbone.get_tokenizer(),
        prompt_builder_fn=vlm.llm_backbone.prompt_builder_fn,
        default_image_resolution=vlm.vision_backbone.default_image_resolution,
        shuffle_buffer_size=cfg.vla.shuffle_buffer_size,
        image_aug=cfg.image_aug,
    )
    if overwatch.is_rank_zero():
        save_dataset_statistics(vla_dataset.dataset_statistics, run_dir)

    train_strategy = get_train_strategy(
        train_strategy=cfg.train_strategy,
        vlm=vlm,
        device_id=device_id,
        stage=stage,
        epochs=cfg.epochs,
        max_steps=cfg.max_steps,
        global_batch_size=cfg.global_batch_size,
        per_device_batch_size=cfg.per_device_batch_size,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
        max_grad_norm=cfg.max_grad_norm,
        lr_scheduler_type=cfg.lr_scheduler_type,
        warmup_ratio=cfg.warmup_ratio,
        enable_gradient_checkpointing=cfg.vla.enable_gradient_checkpointing,
        enable_mixed_precision_training=cfg.vla.enable_mixed_precision_training,
        reduce_in_full_precision=cfg.vla.reduce_in_full_precision,
        worker_init_fn=worker_init_fn,
    )
    train_strategy.run_setup(run_dir=run_dir, n_train_examples=len(vla_dataset))
    metrics = VLAMetrics(
        cfg.trackers,
        cfg.run_id,
        run_dir,
        draccus.encode(cfg),
        wandb_project=cfg.wandb_project,
        wandb_entity=cfg.wandb_entity,
        resume_step=cfg.resume_step,
        resume_epoch=cfg.resume_epoch,
    )
    train_strategy.run_vla_training(
        vla_dataset,
        collator,
        action_tokenizer,
        metrics,
        save_interval=cfg.save_interval,
    )
    metrics.finalize()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    train()
