"""Input guard: what LoRA adds is kept silent on the inputs that the probe set makes.

    A <- A (I - U U^T)      after every optimizer step, for each LoRA pair whose branch is x -> B A x

U ``[D_in, k]`` spans the largest directions of the layer's inputs x on the probe set, with the teacher's own action
tokens behind each prompt, and holds a set share of their energy sum ||x||^2. On that span the branch is zero whatever B
becomes, so the old inputs meet the old layer. This is gradient projection memory (Saha, Garg and Roy, ICLR 2021,
arXiv 2103.09762) for LoRA: there the gradient is projected, here the weight, since AdamW's step leaves the gradients'
span. HSW damps the output side of a gradient; it cannot hold this (see docs/methods/gradient_surgery.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import unfold
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from ..icms.quiet import quiet
from ..icms.replay import forward
from ..icms.tasks import tasks
from ..probe.hidden_and_mask import ProbeBatch
from ..ranks import Ranks


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


@torch.no_grad()
def inputs_of(
    model: nn.Module, layers: dict[str, nn.Module], batches: Iterable[ProbeBatch], actions: int, rows: int, seed: int
) -> dict[str, torch.Tensor]:
    """Inputs of ``layers`` on the probe set: for each ``[n, D_in]`` float32 on the CPU, n at most ``rows`` a batch.

    ``actions``: tokens of an action; the model's own greedy ones follow each prompt. Padding is left out. The rows are
    drawn by ``seed`` with a generator of their own, so that training's random numbers stay what they were.
    """
    found: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    draw = torch.Generator().manual_seed(seed)
    real: list[torch.Tensor] = []  # bool [B, S] of the batch at hand

    def taker(name: str) -> Any:
        def take(module: nn.Module, args: tuple[Any, ...]) -> None:
            states = _under_the_kernel(module, args[0].detach())
            kept = real[-1].to(states.device)
            # Vision layers have a sequence of their own, without padding.
            flat = states[kept] if states.shape[:2] == kept.shape else states.reshape(-1, states.shape[-1])
            chosen = torch.randperm(len(flat), generator=draw)[:rows]
            found[name].append(flat[chosen.to(flat.device)].float().cpu())

        return take

    for task in tasks(model, batches, actions):
        batch = task.batch
        patches = batch.instruction_mask.shape[1] - batch.input_ids.shape[1]
        shown = batch.attention_mask.bool()
        real.append(torch.cat([shown.new_ones(len(shown), patches), shown], dim=1))
        handles = [layer.register_forward_pre_hook(taker(name)) for name, layer in layers.items()]
        try:
            with quiet(model):
                forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items() if parts}


def _under_the_kernel(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """``[B, S, D_in]`` as it is; pictures ``[B, C, H, W]`` before a convolution as ``[B, places, C * kernel]``."""
    factor = next(iter(layer.lora_A.values()))
    if not isinstance(factor, nn.Conv2d):
        return states
    padding = factor.padding
    if isinstance(padding, str):
        raise ValueError(f"surgery.input_guard cannot hold a convolution with padding {padding!r}; leave it 0")
    return unfold(states, factor.kernel_size, factor.dilation, padding, factor.stride).transpose(1, 2)


def basis_of(inputs: torch.Tensor, share: float) -> torch.Tensor:
    """``[D_in, k]`` orthonormal: the fewest directions with ``share`` of ``sum ||x||^2`` of ``inputs [n, D_in]``."""
    _, sizes, directions = torch.linalg.svd(inputs.double(), full_matrices=False)
    energy = sizes.square().cumsum(0)
    count = int((energy < share * energy[-1]).sum()) + 1
    return directions[: min(count, len(sizes))].T.to(inputs.dtype).contiguous()


class InputGuard:
    """Holds LoRA's input factors off the probe set's inputs.

    Args:
        held: each factor A ``[r, D_in]``, or a convolution's ``[r, C, kernel...]``, and its U ``[D_in, k]``, on one
            device.
    """

    def __init__(self, held: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
        self._held = held
        self._handle: RemovableHandle | None = None

    @classmethod
    def measured(
        cls,
        model: nn.Module,
        batches: Iterable[ProbeBatch],
        ranks: Ranks,
        share: float,
        actions: int,
        rows: int,
        seed: int,
    ) -> InputGuard:
        """From a model that still is its teacher, LoRA's other factor being zero. Equal on all ranks.

        Raises ``ValueError`` for a model without LoRA.
        """
        while isinstance(model, DistributedDataParallel):
            model = model.module
        layers = lora_layers(model)
        # On the main rank alone: the others' figures would differ in the last place, and so might their number.
        inputs = inputs_of(model, layers, batches, actions, rows, seed) if ranks.main else {}
        held = []
        for name, layer in layers.items():
            factors = [factor.weight for factor in layer.lora_A.values()]
            basis = torch.zeros(factors[0][0].numel(), 0)
            if name in inputs:
                basis = basis_of(inputs.pop(name), share)
            width = int(ranks.from_main([float(basis.shape[1])])[0])
            if not ranks.main:
                basis = basis.new_zeros(len(basis), width)
            basis = ranks.tensor_from_main(basis.to(ranks.device))
            held += [(factor, basis) for factor in factors]
        return cls(held)

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
