"""HSW: the gradient of a layer's output hidden state, with its fragile and plastic components damped.

    g' = g_n + beta * g_p + gamma * g_f      with g_f = Uf Uf^T g,  g_p = Up Up^T g,  g_n = g - g_f - g_p

for every token, computed as g - (1 - gamma) g_f - (1 - beta) g_p. A forward hook on the block registers a tensor hook
on the hidden state that leaves it: that fires once a backward pass, also under DDP, FSDP, non-reentrant checkpointing
(where the forward hook runs twice, but no gradient reaches the recomputed tensor) and once a micro-batch under gradient
accumulation. Only parameters that feed the hooked layer (at or below it) feel the change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..anatomy import hidden_of

if TYPE_CHECKING:
    from ..recorder import NormRecorder

# Relative error of a sum of squares over a hidden state, and some, in units of its dtype's last place.
_SLACK = 64
_SAME_WIDTH = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


@dataclass
class Damping:
    """The two factors, in [0, 1], read by every hook at the moment it fires: plain floats, so nothing is copied."""

    beta: float
    gamma: float

    @property
    def identity(self) -> bool:
        return self.beta == 1.0 and self.gamma == 1.0


def damp(gradient: torch.Tensor, basis: torch.Tensor, fragile: int, beta: float, gamma: float) -> torch.Tensor:
    """g' = g_n + beta g_p + gamma g_f per token, never longer than g.

    Args:
        gradient: ``[..., D]``, any floating dtype; non-finite tokens come out non-finite.
        basis: ``[D, kf + kp]``, orthonormal columns, the fragile ones first; float32 (float64 for a float64 gradient).
        fragile: kf.
        beta, gamma: in [0, 1]. At 1 and 1 the gradient is returned itself.

    Returns:
        ``[..., D]`` in the gradient's dtype. Products are accumulated in the basis' dtype. For every token the
        Euclidean norm of the result, as stored, is at most that of the gradient.
    """
    if beta == 1.0 and gamma == 1.0:
        return gradient
    exact, exponent = _normalised(gradient, basis.dtype)
    flat = exact.reshape(-1, exact.shape[-1])
    parts = flat @ basis
    parts[:, :fragile] *= 1.0 - gamma
    parts[:, fragile:] *= 1.0 - beta
    damped = torch.addmm(flat, parts, basis.T, alpha=-1.0).reshape(exact.shape)
    return _no_longer(gradient, exact, damped, exponent)


def _normalised(gradient: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``gradient`` in ``dtype`` with each token divided by a power of two near its largest entry, and that power.

    A power of two changes no digit, and keeps the squares of the largest and the smallest gradients in range.
    """
    wide = gradient.to(dtype)
    exponent = torch.frexp(wide.abs().amax(dim=-1, keepdim=True)).exponent.clamp(-126, 126).to(dtype)
    return wide * torch.exp2(-exponent), torch.exp2(exponent)


def _no_longer(gradient: torch.Tensor, exact: torch.Tensor, damped: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """``damped`` in the gradient's dtype, with those tokens shortened that rounding would have lengthened."""
    rounded = _stored(damped, power, gradient.dtype)
    slack = _SLACK * torch.finfo(exact.dtype).eps
    limit = torch.linalg.vector_norm(exact, dim=-1, keepdim=True) * (1.0 - slack)
    seen = rounded.to(exact.dtype) / power
    changed = (rounded != gradient).any(dim=-1, keepdim=True)
    grown = changed & (torch.linalg.vector_norm(seen, dim=-1, keepdim=True) > limit)
    length = torch.linalg.vector_norm(damped, dim=-1, keepdim=True)
    shorter = damped * (limit / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp(max=1.0)
    return torch.where(grown, _toward_zero(shorter, power, gradient.dtype), rounded)


def _stored(scaled: torch.Tensor, power: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``scaled * power`` in ``dtype``; an entry too large for it becomes its largest, what is not finite stays so."""
    top = torch.finfo(dtype).max
    return torch.where(scaled.isfinite(), (scaled * power).clamp(-top, top), scaled).to(dtype)


def _toward_zero(scaled: torch.Tensor, power: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As ``_stored``, without any entry growing in magnitude by the rounding."""
    rounded = _stored(scaled, power, dtype)
    if dtype not in _SAME_WIDTH:
        return rounded
    # In sign-magnitude bits, one less is one step toward zero for either sign.
    over = rounded.to(scaled.dtype).abs() > (scaled * power).abs()
    return (rounded.view(_SAME_WIDTH[dtype]) - over.to(_SAME_WIDTH[dtype])).view(dtype)


def squared_norms(gradient: torch.Tensor, result: torch.Tensor, basis: torch.Tensor, fragile: int) -> torch.Tensor:
    """[5] float64 on the gradient's device: ||g||^2, ||g_f||^2, ||g_p||^2, ||g_n||^2, ||g'||^2, summed over tokens."""
    exact, power = _normalised(gradient, basis.dtype)
    flat = exact.reshape(-1, exact.shape[-1])
    parts = flat @ basis
    rest = torch.addmm(flat, parts, basis.T, alpha=-1.0)
    scale = power.reshape(-1).double().square()

    def total(vectors: torch.Tensor) -> torch.Tensor:
        return (torch.linalg.vector_norm(vectors, dim=-1).double().square() * scale).sum()

    after = (result.to(basis.dtype) / power).reshape(flat.shape)
    return torch.stack([total(v) for v in (flat, parts[:, :fragile], parts[:, fragile:], rest, after)])


class HSWHooks:
    """The hooks of one model, set by ``install`` and taken off by ``remove``.

    Args:
        layers: layer number to the module whose output is hooked (the outermost: FSDP or checkpoint wrapper and all).
        bases: layer number to ``(Uf [D, kf], Up [D, kp])``; float32, any device. Layers of a group may share tensors.
        damping: read whenever a hook fires.
        recorder: receives the squared norms of logging steps.
    """

    def __init__(
        self,
        layers: Mapping[int, nn.Module],
        bases: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
        damping: Damping,
        recorder: NormRecorder,
    ) -> None:
        self.damping, self.recorder, self._layers = damping, recorder, dict(layers)
        self._bases = {n: (torch.cat([of[0], of[1]], dim=1), of[0].shape[1]) for n, of in bases.items()}
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Set the hooks. Raises ``RuntimeError`` if they are set already: each would damp what the other has damped."""
        if self._handles:
            raise RuntimeError("surgery: the hooks are set already")
        for number in sorted(self._bases):
            self._handles.append(self._layers[number].register_forward_hook(self._on_output(number)))

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _on_output(self, number: int) -> Callable[..., None]:
        def on_output(module: nn.Module, arguments: Any, output: Any) -> None:
            hidden = hidden_of(output)
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: self._on_gradient(number, gradient))

        return on_output

    def _on_gradient(self, number: int, gradient: torch.Tensor) -> torch.Tensor | None:
        """None leaves the gradient as it is: the very same tensor goes on."""
        if self.damping.identity and not self.recorder.active:
            return None
        # A backward pass called under autocast would otherwise run the products in half precision.
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            basis, fragile = self._basis(number, gradient)
            result = damp(gradient, basis, fragile, self.damping.beta, self.damping.gamma)
            if self.recorder.active:
                self.recorder.add(number, squared_norms(gradient, result, basis, fragile))
        return None if result is gradient else result

    def _basis(self, number: int, gradient: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The layer's basis where and as wide as the gradient is; moved at the first backward pass and kept."""
        basis, fragile = self._bases[number]
        dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        if basis.device != gradient.device or basis.dtype != dtype:
            basis = basis.to(gradient.device, dtype)
            self._bases[number] = (basis, fragile)
        return basis, fragile
