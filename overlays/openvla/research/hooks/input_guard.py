"""Input guard: what LoRA adds is kept silent on the inputs that the probe set makes.

    A <- A (I - U U^T)      after every optimizer step, for each LoRA pair whose branch is x -> B A x

U ``[D_in, k]`` spans the largest directions of the layer's inputs x on the probe set, with the teacher's own action
tokens behind each prompt, and holds a set share of their energy sum ||x||^2. On that span the branch is zero whatever B
becomes, so the old inputs meet the old layer. This is gradient projection memory (Saha, Garg and Roy, ICLR 2021,
arXiv 2103.09762) for LoRA: there the gradient is projected, here the weight, since AdamW's step leaves the gradients'
span. HSW damps the output side of a gradient; it cannot hold this (see docs/methods/gradient_surgery.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from ..probe.hidden_and_mask import ProbeBatch
from ..ranks import Ranks
from .guard_report import Held, report_of, warn_of_unseen
from .input_basis import ROOM, Answered, basis_of, groups_of, inputs_of, width_of


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that LoRA adds to, by name. Raises ``ValueError`` if there is none, or one that is neither linear nor
    an ungrouped convolution over pictures."""
    found = {}
    for name, module in model.named_modules():
        factors = getattr(module, "lora_A", None)
        if not isinstance(factors, nn.ModuleDict) or not factors:
            continue
        for factor in factors.values():
            if not isinstance(factor, nn.Linear) and not (isinstance(factor, nn.Conv2d) and factor.groups == 1):
                raise ValueError(
                    f"surgery.input_guard cannot hold LoRA's {type(factor).__name__} in {name}; leave it 0"
                )
        found[name] = module
    if not found:
        raise ValueError(
            "surgery.input_guard guards LoRA's factors, and this model has none; train with --use_lora True"
        )
    return found


class InputGuard:
    """Holds LoRA's input factors off the probe set's inputs.

    Args:
        held: each factor A ``[r, D_in]``, or a convolution's ``[r, C, kernel...]``, and its U ``[D_in, k]``, on one
            device.
        report: what the measurement came to, in plain types; empty on all ranks but the main one.
    """

    def __init__(self, held: list[tuple[nn.Parameter, torch.Tensor]], report: dict[str, Any] | None = None) -> None:
        self._held, self.report = held, report or {}
        self._handle: RemovableHandle | None = None

    @classmethod
    def measured(
        cls,
        model: nn.Module,
        batches: Callable[[], Iterable[ProbeBatch]],
        ranks: Ranks,
        share: float,
        actions: int,
        rows: int,
        seed: int,
        room: int = ROOM,
    ) -> InputGuard:
        """From a model that still is its teacher, LoRA's other factor being zero. Equal on all ranks.

        ``batches`` makes the probe set's batches anew; ``actions``: tokens of an answer; ``rows``: inputs that a layer
        takes of a batch, drawn by ``seed``; ``room``: bytes of Gram matrices at a time (see ``input_basis.py``).

        Raises ``ValueError`` for a model without LoRA; warns of layers that the probe set never runs.
        """
        began = time.perf_counter()
        while isinstance(model, DistributedDataParallel):
            model = model.module
        answered = Answered(model, batches, actions)
        held = []
        seen: dict[str, Held] = {}
        for group in groups_of(lora_layers(model), room):
            # On the main rank alone: the others' figures would differ in the last place, and so might their number.
            # The others wait for one group at a time: NCCL gives up after ten minutes.
            inputs = inputs_of(model, group, answered, rows, seed) if ranks.main else {}
            for name, layer in group.items():
                basis, others = torch.zeros(width_of(layer), 0), None
                if name in inputs:
                    one = inputs.pop(name)
                    basis, others = basis_of(one.gram, share).float(), one.checked(share)
                seen[name] = Held(basis.shape[1], basis.shape[0], others)
                width = int(ranks.from_main([float(basis.shape[1])])[0])
                if not ranks.main:
                    basis = basis.new_zeros(len(basis), width)
                basis = ranks.tensor_from_main(basis.to(ranks.device))
                held += [(factor.weight, basis) for factor in layer.lora_A.values()]
        if not ranks.main:
            return cls(held)
        warn_of_unseen(seen)
        return cls(held, report_of(seen, share, time.perf_counter() - began))

    def install(self) -> None:
        """Project now, and after each step of an optimizer that has one of the factors.

        Raises ``RuntimeError`` if that is so already.
        """
        if self._handle is not None:
            raise RuntimeError("surgery: the input guard is set already")
        self.project()
        mine = {id(factor) for factor, _ in self._held}

        def stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if any(id(one) in mine for group in optimizer.param_groups for one in group["params"]):
                self.project()

        self._handle = register_optimizer_step_post_hook(stepped)

    def remove(self) -> None:
        """Project no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @torch.no_grad()
    def project(self) -> None:
        """A <- A (I - U U^T), computed in U's float32."""
        for factor, basis in self._held:
            wide = factor.flatten(1).to(basis.dtype)
            factor.copy_((wide - (wide @ basis) @ basis.T).reshape(factor.shape))

    def widths(self) -> list[tuple[int, int]]:
        """``(k, D_in)`` of each factor."""
        return [(basis.shape[1], basis.shape[0]) for _, basis in self._held]
