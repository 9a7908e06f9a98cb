"""Make the subspace artifact of a teacher, once, before any fine-tuning:

    python -m research.icms.offline_icms --vla_path openvla/openvla-7b --probe artifacts/probe_openvla7b \\
        --layers 8,16,24 --groups "8:6-10;16:14-18;24:22-26" --out artifacts/icms_openvla7b

Per layer: pool the instruction's hidden states over the probe set, centre, take the principal directions, measure how
vulnerable the output is to each (``vulnerability``), rank by that and split: Fragile, Plastic, Null.
"""

# draccus reads the annotations as they stand, so they are classes here and not strings.
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import torch
from torch import nn

from ..anatomy import AnatomyError, anatomy
from ..probe.hidden_and_mask import ProbeBatch, Template, collate, template_of
from ..probe.probe_dataset import ProbeSet
from . import icsm
from .layers import LayerError, parse_groups, parse_layers
from .subspace import check_target
from .teacher import load_teacher, upstream_commit, versions

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@dataclass
class OfflineICMSConfig:
    """What the command takes. The figures are this project's unless a source is named."""

    # The teacher, what training starts from: finetune.py's vla_path (a folder or a name on the hub), train.py's
    # pretrained_checkpoint (a .pt of a run) or base VLM (a folder or one of upstream's names).
    vla_path: str = "openvla/openvla-7b"
    probe: Path = Path("artifacts/probe_openvla7b")  # a probe set, made by `python -m research.probe.probe_dataset`
    out: Path = Path("artifacts/icms_openvla7b")  # the artifact, written whole or not at all
    layers: str = "8,16,24"  # layers that get a subspace, from 0; or auto:N, the N most vulnerable ones
    groups: str = "none"  # which layers share a subspace: "8:6-10;16:14-18"; those not named share with nobody
    r: int = 128  # principal directions a layer (the method's authors)
    fragile: float = 0.25  # the share of the directions, the most vulnerable, that becomes Uf
    null: float = 0.25  # the share, the least vulnerable, that is left out; what is between becomes Up
    method: str = "fisher"  # or finite_difference, the reference, about r times as slow
    rank_by: str = "vulnerability"  # or singular_value, random (ablations)
    epsilon: float = 0.05  # length of the perturbation relative to a typical hidden state
    draws: int = 4  # fisher: random weightings a sample; the relative error of the figures is about sqrt(2 / (N draws))
    output_tokens: int = 1  # 1: the first action token's distribution; 7: the whole action's
    batch_size: int = 8  # samples a forward
    rows: int = 64  # finite_difference: perturbed samples at a time above a layer
    dtype: str = "bfloat16"  # of the teacher, as finetune.py loads it
    compute_dtype: str = "float32"  # above the perturbed layer; float64 for reference figures
    device: str = "auto"  # the first GPU that is there, else the CPU
    seed: int = 7

    def validate(self) -> icsm.Settings:
        """Raises ``ValueError``, naming the option, for what cannot be meant; before anything is loaded."""
        for name, known in {
            "method": ("fisher", "finite_difference"),
            "rank_by": ("vulnerability", "singular_value", "random"),
            "dtype": tuple(_DTYPES),
            "compute_dtype": ("float32", "float64"),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        for name in ("r", "draws", "output_tokens", "batch_size", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"--epsilon {self.epsilon}: a length relative to a hidden state, above 0 and at most 1")
        if not (self.fragile > 0 and self.null >= 0 and self.fragile + self.null < 1):
            raise ValueError(f"--fragile {self.fragile} --null {self.null}: shares with something left between them")
        layers = parse_layers(self.layers)
        # draccus makes the word None of an empty argument.
        groups = "" if self.groups.strip() in ("", "none", "None") else self.groups
        if isinstance(layers, int) and groups:
            raise LayerError(f"--groups {self.groups!r}: name the layers in --layers; auto:{layers} has not chosen yet")
        if not isinstance(layers, int):
            parse_groups(groups, layers)
        return icsm.Settings(
            layers=layers,
            groups=groups,
            r=self.r,
            fragile=self.fragile,
            null=self.null,
            method=self.method,
            rank_by=self.rank_by,
            epsilon=self.epsilon,
            draws=self.draws,
            output_tokens=self.output_tokens,
            rows=self.rows,
            compute_dtype=_DTYPES[self.compute_dtype],
            seed=self.seed,
        )


class ProbeBatches:
    """The probe set in batches on a device, in its order, as often as it is asked for."""

    def __init__(self, probe: ProbeSet, processor: Any, template: Template, model: nn.Module, size: int) -> None:
        self.probe, self.processor, self.template, self.size = probe, processor, template, size
        self.num_patches = anatomy(model).num_patches
        self.device = next(model.parameters()).device

    def __iter__(self) -> Iterator[ProbeBatch]:
        for start in range(0, len(self.probe), self.size):
            samples = self.probe.sub_batch(range(start, min(start + self.size, len(self.probe))))
            yield collate(samples, self.processor, self.template, self.num_patches).to(self.device)


def offline_icms(cfg: OfflineICMSConfig) -> Path:
    """Do what the module says; returns the artifact's folder.

    Raises ``ValueError`` (``LayerError``, ``SubspaceError``, and the probe set's own) naming option or file and remedy,
    with nothing written.
    """
    settings = cfg.validate()
    check_target(cfg.out)
    began = time.perf_counter()
    probe = ProbeSet.load(cfg.probe)
    device = torch.device(cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(cfg.vla_path, _DTYPES[cfg.dtype], device)
    template = template_of(teacher.prompt_builder_fn)
    batches = ProbeBatches(probe, teacher.processor, template, teacher.model, cfg.batch_size)
    found = icsm.make(teacher.model, batches, settings)
    found.meta["model"].update(path=cfg.vla_path, dtype=cfg.dtype)
    found.meta.update(
        upstream_commit=upstream_commit(),
        template=template.text,
        versions=versions(),
        device=device.type,
        seconds=round(time.perf_counter() - began, 1),
    )
    found.meta["probe"]["hash"] = probe.hash
    found.save(cfg.out)
    print(icsm.summary(found))
    print(f"[icms] wrote {cfg.out} after {found.meta['seconds']} s")
    return cfg.out


def main(args: list[str] | None = None) -> int:
    """The command; 2 for what the user can mend, with one line that says how."""
    try:
        offline_icms(draccus.parse(OfflineICMSConfig, args=args))
    except (ValueError, OSError, AnatomyError) as error:
        print(f"offline_icms: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
