"""Putting a run's parts together; what can be refused is refused before a hook is set or a file written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .anatomy import Anatomy, anatomy
from .checkpoint import ResumeError, load_adapter, read_state, state_name
from .config import SurgeryConfig
from .hooks.hsw_hook import Damping, HSWHooks
from .hooks.input_guard import InputGuard
from .icms.same_teacher import refuse_other_teacher
from .icms.subspace import Subspaces
from .probe.hidden_and_mask import ProbeBatch, Template, collate, pooled_states, prompt_builder_for, template_of
from .probe.probe_set import ProbeSet
from .ranks import Ranks
from .recorder import MetricsFile, NormRecorder
from .surgery import Surgery
from .thermostat.thermostat import Thermostat


def for_finetune(vla: nn.Module, cfg: Any, processor: Any, run_dir: Path) -> Surgery:
    """As ``surgery.attach``, with the method on."""
    settings: SurgeryConfig = cfg.surgery
    settings.validate()
    # With LoRA the model is its teacher still: a resumed adapter is loaded further down.
    fresh = settings.resume is None or hasattr(getattr(vla, "module", vla), "peft_config")
    start = str(cfg.vla_path) if fresh else None
    surgery = _assemble(vla, settings, processor, prompt_builder_for(cfg.vla_path), run_dir, start)
    if settings.resume is None:
        surgery.install()
        return surgery
    folder = Path(settings.resume)
    state = read_state(folder / state_name(), surgery.identity)
    inner = getattr(vla, "module", vla)
    if hasattr(inner, "peft_config"):
        load_adapter(inner, folder)
    elif Path(cfg.vla_path).resolve() != folder.resolve():
        raise ResumeError(
            f"surgery.resume={folder}: without LoRA the weights come from vla_path ({cfg.vla_path}); give both the same"
        )
    surgery.install()
    surgery.load_state(state, offset=int(state["steps"]))
    return surgery


def for_strategy(strategy: Any, cfg: Any, run_dir: Path) -> Surgery:
    """As ``surgery.attach_strategy``, with the method on."""
    cfg.surgery.validate()
    vlm = strategy.vlm
    processor = (vlm.llm_backbone.get_tokenizer(), vlm.vision_backbone.get_image_transform())
    if cfg.surgery.input_guard:
        raise ValueError("surgery.input_guard guards LoRA, which is finetune.py's; train.py trains without, leave it 0")
    if cfg.surgery.resume is not None:
        raise ResumeError("surgery.resume is finetune.py's; train.py resumes from pretrained_checkpoint, leave it out")

    def autocast() -> Any:
        kind = Ranks.of(vlm).device.type
        enabled = strategy.enable_mixed_precision_training
        return torch.autocast(kind, dtype=strategy.mixed_precision_dtype, enabled=enabled)

    resumes = cfg.pretrained_checkpoint is not None and cfg.is_resume
    start = None if resumes else str(cfg.pretrained_checkpoint or cfg.vla.base_vlm)
    surgery = _assemble(vlm, cfg.surgery, processor, vlm.llm_backbone.prompt_builder_fn, run_dir, start, autocast)
    if not resumes:
        surgery.install()
        return surgery
    try:
        state = read_state(Path(cfg.pretrained_checkpoint).parent / state_name(cfg.resume_step), surgery.identity)
    except ResumeError as error:
        raise ResumeError(f"{error}; --is_resume False begins the method with these weights") from error
    surgery.install()
    # Upstream's own count goes on from resume_step.
    surgery.load_state(state, offset=0)
    return surgery


def _assemble(
    model: nn.Module,
    settings: SurgeryConfig,
    processor: Any,
    prompt_builder_fn: Any,
    run_dir: Path,
    start: str | None,
    autocast: Callable[[], Any] = contextlib.nullcontext,
) -> Surgery:
    """``start``: the checkpoint that training starts from; None for a run that goes on, no longer being its teacher."""
    parts = anatomy(model)
    ranks = Ranks.of(model)
    subspaces = Subspaces.load(settings.subspace_dir)
    template = template_of(prompt_builder_fn)
    start = None if settings.allow_other_teacher else start
    probes = start is not None or settings.thermostat.enabled or settings.input_guard > 0
    probe = ProbeSet.load(settings.probe_dir) if probes else None
    subspaces.check(
        hidden_size=parts.hidden_size,
        num_layers=parts.num_layers,
        template=template.text,
        probe_hash=None if probe is None else probe.hash,
    )
    bases = {n: (of.Uf, of.Up) for of in subspaces.layers.values() for n in of.members} if settings.hsw else {}
    _refuse_idle(model, parts, bases)
    damping = Damping(settings.beta, settings.gamma)
    recorder = NormRecorder(bases)
    thermostat, guard = None, None
    if probe is not None:
        states = _student(model, probe, processor, template, parts, sorted(subspaces.layers))
        if start is not None:
            with autocast():
                refuse_other_teacher(states, subspaces, ranks, settings.thermostat.batch_size, start)
        if settings.thermostat.enabled:
            teacher = {n: of.pooled for n, of in subspaces.layers.items()}
            thermostat = Thermostat(settings.thermostat, teacher, states, ranks, settings.seed)
        if settings.input_guard:
            of_probe = (probe, processor, template, parts, settings.thermostat.batch_size, ranks.device)
            batches = functools.partial(_batches, *of_probe)
            sizes = (settings.input_guard, settings.guard_actions, settings.guard_rows, settings.seed)
            guard = InputGuard.measured(model, batches, ranks, *sizes)
    hooks = HSWHooks({n: parts.layers[n] for n in bases}, bases, damping, recorder) if bases else None
    files = json.dumps([subspaces.meta["files"], sorted(bases)], sort_keys=True)
    identity = {"subspaces": hashlib.sha256(files.encode()).hexdigest(), "settings": settings.settings()}
    further = {} if guard is None else {"input_guard": guard.report}
    log = MetricsFile(run_dir / "metrics.jsonl", ranks.main, settings.settings(), further)
    every = settings.log_every
    return Surgery(damping, hooks, recorder, thermostat, log, ranks, run_dir, identity, every, autocast, guard)


def _student(
    model: nn.Module,
    probe: ProbeSet,
    processor: Any,
    template: Template,
    parts: Anatomy,
    layers: Sequence[int],
) -> Callable[[Sequence[int]], Mapping[int, torch.Tensor]]:
    def states(indices: Sequence[int]) -> Mapping[int, torch.Tensor]:
        batch = collate(probe.sub_batch(indices), processor, template, parts.num_patches)
        return pooled_states(model, batch, layers)

    return states


def _batches(
    probe: ProbeSet, processor: Any, template: Template, parts: Anatomy, size: int, device: torch.device
) -> Iterator[ProbeBatch]:
    for first in range(0, len(probe), size):
        samples = probe.sub_batch(range(first, min(first + size, len(probe))))
        yield collate(samples, processor, template, parts.num_patches).to(device)


def _refuse_idle(model: nn.Module, parts: Anatomy, layers: Mapping[int, Any]) -> None:
    """Raise ``ValueError`` for a hooked layer that nothing trainable feeds: its hook could never change anything."""
    for number in sorted(layers):
        above = {id(p) for block in list(parts.layers)[number + 1 :] for p in block.parameters()}
        above.update(id(p) for part in (parts.norm, parts.lm_head) for p in part.parameters())
        if not any(p.requires_grad and id(p) not in above for p in model.parameters()):
            raise ValueError(
                f"surgery: nothing that is trained lies at or below layer {number}, so damping its gradient would "
                "change nothing; train lower layers, or make subspaces of higher ones"
            )
