"""Activation probes in finetune.py, which evaluates nothing: on held-out frames whenever it saves a checkpoint.

    python vla-scripts/finetune.py ... --probes probes.yaml

The frames are those that upstream's own pipeline holds out of training (the validation split, else the last 5 % of the
episodes), kept from the beginning. Without ``--probes`` no more than this file is imported, and nothing is read or run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .infodyn.sample_probe import SampleProbe

POOL = 8
"""Held-out frames that are looked at for each one that is kept: neighbours in an episode are much alike."""


class NoProbes:
    """The same method, which does nothing."""

    def after_step(self) -> None:
        """Nothing."""


class Probes:
    """Epoch N is the checkpoint of step ``N * save_steps`` as it is first saved, 0 the model before training.

    Args:
        vla: upstream's DDP wrapper.
        cfg: upstream's FinetuneConfig.
    """

    def __init__(self, samples: SampleProbe, vla: Any, cfg: Any) -> None:
        self.samples, self.vla, self.save_steps = samples, vla, cfg.save_steps
        # Upstream saves at a step's first micro-batch: behind its optimizer step where there is no other micro-batch.
        self.steps = -1 if cfg.grad_accumulation_steps == 1 else 0
        # What cannot be probed is refused here and not hours later.
        samples.evaluate(vla.module, 0)

    def after_step(self) -> None:
        """On every rank, after each optimizer step."""
        self.steps += 1
        if self.steps > 0 and self.steps % self.save_steps == 0:
            self.samples.evaluate(self.vla.module, self.steps // self.save_steps)


def attach_probes(vla: Any, cfg: Any, dataset: Any, collator: Any, run_dir: str | Path) -> Probes | NoProbes:
    """For finetune.py, when its loader is there.

    Args:
        vla: the DDP wrapper of the (LoRA-wrapped) OpenVLA model.
        cfg: upstream's FinetuneConfig; ``cfg.probes`` is JSON, or a YAML or JSON file.
        dataset: upstream's RLDSDataset for training, whose transform is used.
        collator: upstream's.
        run_dir: files go to ``<run_dir>/probes``.

    Raises:
        ValueError: options that cannot be meant, modules that are not there, or no frame that is held out.
    """
    if cfg.probes is None:
        return NoProbes()
    import torch

    from .infodyn.probe_options import as_mapping
    from .infodyn.sample_probe import SampleProbe

    def pick(number: int, seed: int) -> Sequence[Any]:
        return [dataset.batch_transform(frame) for frame in held_out(cfg, vla.module, number, seed)]

    def forward(model: Any, sample: Any) -> Any:
        batch, dtype = collator([sample]), model.dtype
        device = next(model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return model(
                input_ids=batch["input_ids"].to(device),
                attention_mask=batch["attention_mask"].to(device),
                pixel_values=batch["pixel_values"].to(dtype).to(device),
                labels=batch["labels"],
            )

    options = as_mapping("probes", cfg.probes)
    samples = SampleProbe(options, run_dir, f"{cfg.dataset_name}, held out", vla.module, pick, forward)
    return Probes(samples, vla, cfg)


def held_out(cfg: Any, model: Any, number: int, seed: int) -> list[Mapping[str, Any]]:
    """``number`` different frames that are not trained on, without augmentation, the same on all ranks.

    Seed and contents choose them, among the first ``POOL * number`` of upstream's validation pipeline. Where that is
    not all of them and they lie in several files, another run may find others: upstream opens files in any order.
    """
    import torch.distributed as dist

    found: list[list[Mapping[str, Any]] | None] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        found = [_chosen(cfg, model, number, seed)]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0] or []


def _chosen(cfg: Any, model: Any, number: int, seed: int) -> list[Mapping[str, Any]]:
    from .infodyn.module_paths import ProbeError
    from .vla.datasets import RLDSDataset

    pool = POOL * number
    try:
        frames = RLDSDataset(
            cfg.data_root_dir,
            cfg.dataset_name,
            lambda frame: frame,
            resize_resolution=tuple(model.config.image_sizes),
            shuffle_buffer_size=pool,
            train=False,
            image_aug=False,
        )
    except ValueError as error:
        raise ProbeError(
            f"{cfg.dataset_name} holds no frames out ({error}); give it a split named val, or more than ten episodes"
        ) from error
    by_key = {_key(frame, seed): frame for frame in islice(frames, pool)}
    return [by_key[key] for key in sorted(by_key)[:number]]


def _key(frame: Mapping[str, Any], seed: int) -> bytes:
    digest = hashlib.sha256(f"{seed}\0".encode())
    for part in (frame["task"]["language_instruction"], frame["observation"]["image_primary"], frame["action"]):
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.digest()
