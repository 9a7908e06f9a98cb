"""Trains a framework: ``python starVLA/training/train_starvla.py --config_yaml FILE [--KEY VALUE ...]``."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wandb
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_scheduler

from starVLA.dataloader import build_dataloader
from starVLA.model.framework.base_framework import build_framework
from starVLA.model.framework.share_tools import apply_config_compat
from starVLA.training.trainer_utils.config_tracker import wrap_config
from starVLA.training.trainer_utils.trainer_tools import TrainerUtils, build_param_lr_groups, normalize_dotlist_args

accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def setup_directories(cfg) -> Path:
    cfg.output_dir = os.path.join(cfg.run_root_dir, cfg.run_id)
    (Path(cfg.output_dir) / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Path(cfg.output_dir)


def prepare_data(cfg, accelerator, output_dir) -> DataLoader:
    return build_dataloader(cfg=cfg, dataset_py=cfg.datasets.vla_data.dataset_py)


def setup_optimizer_and_scheduler(model, cfg) -> tuple:
    wanted = cfg.trainer.optimizer
    optimizer = torch.optim.AdamW(
        build_param_lr_groups(model=model, cfg=cfg),
        lr=cfg.trainer.learning_rate.base,
        betas=tuple(wanted.betas),
        weight_decay=wanted.weight_decay,
        eps=wanted.eps,
    )
    lr_scheduler = get_scheduler(
        name=cfg.trainer.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=cfg.trainer.num_warmup_steps,
        num_training_steps=cfg.trainer.max_train_steps,
        scheduler_specific_kwargs=dict(cfg.trainer.scheduler_specific_kwargs.items()),
    )
    return optimizer, lr_scheduler


class VLATrainer(TrainerUtils):
    def __init__(self, cfg, model, vla_train_dataloader, optimizer, lr_scheduler, accelerator):
        self.config, self.model, self.vla_train_dataloader = cfg, model, vla_train_dataloader
        self.optimizer, self.lr_scheduler, self.accelerator = optimizer, lr_scheduler, accelerator
        self.completed_steps = 0

    def prepare_training(self) -> None:
        set_seed(self.config.seed + self.accelerator.process_index)
        self._save_config()
        self._init_checkpointing()
        self.model = self.freeze_backbones(self.model, getattr(self.config.trainer, "freeze_modules", None))
        self.print_trainable_parameters(self.model)
        self.model, self.optimizer, self.vla_train_dataloader = self.setup_distributed_training(
            self.accelerator, self.model, self.optimizer, self.vla_train_dataloader
        )
        if self.accelerator.is_main_process:
            wandb.init(name=self.config.run_id, project=self.config.wandb_project, entity=self.config.wandb_entity)

    def _save_config(self) -> None:
        if self.accelerator.is_main_process:
            self.config.save_accessed_config(Path(self.config.output_dir) / "config.yaml", use_original_values=False)
            OmegaConf.save(self.config.unwrap(), Path(self.config.output_dir) / "config.full.yaml")

    def _init_checkpointing(self) -> None:
        """Goes on from this run's last checkpoint, or begins from another run's."""
        self.checkpoint_dir = os.path.join(self.config.output_dir, "checkpoints")
        checkpoint = getattr(self.config.trainer, "pretrained_checkpoint", None)
        if getattr(self.config.trainer, "is_resume", False):
            latest, self.completed_steps = self._get_latest_checkpoint(self.checkpoint_dir)
            checkpoint = latest or checkpoint
        if checkpoint:
            reload_modules = getattr(self.config.trainer, "reload_modules", None)
            self.model = self.load_pretrained_backbones(self.model, checkpoint, reload_modules=reload_modules)
        for _ in range(self.completed_steps):
            self.lr_scheduler.step()

    def _state(self, path: str) -> None:
        state = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            torch.save(state, path)

    def _save_checkpoint(self) -> None:
        self._state(os.path.join(self.checkpoint_dir, f"steps_{self.completed_steps}_pytorch_model.pt"))
        if self.accelerator.is_main_process:
            with open(os.path.join(self.config.output_dir, "summary.jsonl"), "a") as file:
                file.write(json.dumps({"steps": self.completed_steps}) + "\n")
        self._save_config()

    def _log_metrics(self, metrics: dict[str, Any]) -> None:
        if self.completed_steps % self.config.trainer.logging_frequency == 0 and self.accelerator.is_main_process:
            for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                metrics[f"learning_rate/{group['name']}"] = rate
            wandb.log(metrics, step=self.completed_steps)

    def _get_next_batch(self):
        try:
            return next(self.vla_iter)
        except StopIteration:
            self.vla_iter, self.epochs = self._reset_dataloader(self.vla_train_dataloader, self.epochs)
            return next(self.vla_iter)

    def train(self) -> None:
        self.vla_iter, self.epochs = iter(self.vla_train_dataloader), 0
        last = self.config.trainer.max_train_steps
        progress_bar = tqdm(total=last, initial=self.completed_steps, disable=not self.accelerator.is_main_process)
        while self.completed_steps < last:
            started = time.perf_counter()
            batch_vla = self._get_next_batch()
            loaded = time.perf_counter()
            step_metrics = self._train_step(batch_vla)
            if self.accelerator.sync_gradients:
                progress_bar.update(1)
                self.completed_steps += 1
            if self.completed_steps % self.config.trainer.eval_interval == 0:
                step_metrics = self.eval_action_model(step_metrics)
            step_metrics["timing/data"] = loaded - started
            step_metrics["timing/model"] = time.perf_counter() - loaded
            self._log_metrics(step_metrics)
            if self.completed_steps % self.config.trainer.save_interval == 0:
                self._save_checkpoint()
        self._finalize_training()

    def eval_action_model(self, step_metrics: dict) -> dict:
        examples = self._get_next_batch()
        actions = np.array([example["action"] for example in examples])
        found = self.accelerator.unwrap_model(self.model).predict_action(examples=examples)["normalized_actions"]
        step_metrics["mse_score"] = self.euclidean_distance(found, actions) / actions.size
        return step_metrics

    def _train_step(self, batch_vla, batch_vlm=None):
        with self.accelerator.accumulate(self.model):
            self.optimizer.zero_grad()
            output_dict = self.model.forward(batch_vla)
            action_loss = output_dict["action_loss"]
            total_loss = action_loss
            self.accelerator.backward(total_loss)
            if self.config.trainer.gradient_clipping is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.trainer.gradient_clipping)
            self.optimizer.step()
            if self.accelerator.sync_gradients:
                self.lr_scheduler.step()
        return {
            "action_dit_loss": action_loss.item(),
        }

    def _finalize_training(self) -> None:
        folder = Path(self.config.output_dir) / "final_model"
        folder.mkdir(exist_ok=True)
        self._state(str(folder / "pytorch_model.pt"))
        if self.accelerator.is_main_process:
            wandb.finish()
        self.accelerator.wait_for_everyone()


def main(cfg) -> None:
    cfg = wrap_config(cfg)
    output_dir = setup_directories(cfg=cfg)
    vla = build_framework(cfg)
    vla_train_dataloader = prepare_data(cfg=cfg, accelerator=accelerator, output_dir=output_dir)
    optimizer, lr_scheduler = setup_optimizer_and_scheduler(model=vla, cfg=cfg)
    trainer = VLATrainer(
        cfg=cfg,
        model=vla,
        vla_train_dataloader=vla_train_dataloader,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        accelerator=accelerator,
    )
    trainer.prepare_training()
    trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config_yaml", type=str, required=True)
    args, clipargs = parser.parse_known_args()
    cfg = OmegaConf.load(args.config_yaml)
    cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist(normalize_dotlist_args(clipargs)))
    cfg = apply_config_compat(cfg)
    cfg.config_yaml = args.config_yaml
    main(cfg)
