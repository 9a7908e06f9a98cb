"""Gaussian routing in place of the linear gates of a transformers model (Qwen3-MoE and those that route alike).

A linear gate's posterior is softmax_e(w_e . x). With one sigma for all experts a Gaussian one's is

    softmax_e(mu_e . x / sigma^2 - ||mu_e||^2 / (2 sigma^2)),

so mu_e = sigma^2 (w_e + v) is right up to -sigma^2 ||w_e + v||^2 / 2, where v may be any vector: it adds the same
v . x to all experts. The v for which all w_e + v are equally long makes that term common too, and the posteriors equal.
It is minus the centre of a sphere through the rows: 2 (w_e - w_mean) . v = mean ||w||^2 - ||w_e||^2, a linear system
that has a solution whenever the rows are affinely independent, as E <= D + 1 rows of a trained gate are. Where there is
none, the least-squares solution is taken. What remains is reported, in nats, from the means as they are stored: in
bfloat16 their rounding is most of it, and changes the choice of experts that are nearly as likely.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .memory_gaussian_moe import GaussianRouting

MARK = "moe_router"
"""In the model's config, and so in config.json: "gaussian" where the gates were replaced."""


@dataclass(frozen=True)
class GaussianGate:
    """A gate that was replaced: its module path, and by how many nats its logits differ from the linear gate's: root
    mean square over tokens of independent features of variance 1, of the expert where it is largest, from the stored
    parameters; what all experts share is left out. None where it was restored from a checkpoint.
    """

    name: str
    remains: float | None


def equidistant(rows: Tensor) -> Tensor:
    """``rows [E, D]`` shifted by one common vector so that all are equally long, or as nearly as can be; float64 on the
    CPU. The shift is the shortest that does it.
    """
    rows = rows.detach().cpu().double()
    centred = rows - rows.mean(0)
    half = 0.5 * rows.square().sum(-1)
    # Rows that are nearly dependent would ask for a shift so large that float32 rounds the routing away.
    return rows + torch.linalg.pinv(centred, rtol=1e-4) @ (half.mean() - half)


def difference(rows: Tensor, mean: Tensor, log_sigma: Tensor) -> float:
    """``GaussianGate.remains``: of Gaussians that share one sigma, from the linear gate ``rows``; all ``[E, D]``.

    Logits differ by offset_e + slope_e . x, in float64, both centred over experts; the mean square over such x is
    offset_e^2 + ||slope_e||^2.
    """
    rows, mean, log_sigma = (part.detach().cpu().double() for part in (rows, mean, log_sigma))
    precision = torch.exp(-2 * log_sigma)
    slope = precision * mean - rows
    offset = -0.5 * (precision * mean.square()).sum(-1) - log_sigma.sum(-1)
    slope, offset = slope - slope.mean(0), offset - offset.mean()
    return float((offset.square() + slope.square().sum(-1)).sqrt().max())


def use_gaussian_routing(
    model: nn.Module, *, top_k: int | None = None, sigma: float = 1.0, checkpoint: str | Path | None = None
) -> list[GaussianGate]:
    """Replaces every softmax top-k gate of ``model`` by Gaussian routing, in place, before the optimizer is made.

    Each gate stays where it is and returns the same three tensors; its ``weight`` now holds the means, and
    ``log_sigma [E, D]`` is new. ``save_pretrained`` and ``state_dict`` carry both, the config is marked. A model that
    ``from_pretrained`` read from such a checkpoint has the means already (transformers names ``log_sigma`` as
    unexpected): the call then reads ``log_sigma`` from there.

    Args:
        top_k: experts a token; None: as the gates have it. Otherwise the model's config says it too.
        sigma: of all experts at first. The routing begins the same for any; with a larger one it follows a change of
            the means less.
        checkpoint: folder of a model that was saved with Gaussian routing; None: where the model was loaded from.

    Raises ValueError where there is no such gate, a gate routes by another rule, its weight is not in memory, or the
    checkpoint lacks what it should have.
    """
    if sigma <= 0:
        raise ValueError(f"gaussian routing: sigma is {sigma}; it must be above 0")
    gates = _gates(model)
    if top_k is not None:
        _check_top_k(gates, top_k)
    config = getattr(model, "config", None)
    restore = getattr(config, MARK, None) == "gaussian"
    saved = _saved(Path(checkpoint or getattr(config, "_name_or_path", "")), list(gates)) if restore else {}
    found = [_replace(name, gate, sigma, saved.get(name)) for name, gate in gates.items()]
    if config is not None:
        setattr(config, MARK, "gaussian")
    if top_k is not None:
        _set_top_k(model, gates, top_k)
    return found


def _gates(model: nn.Module) -> dict[str, nn.Module]:
    gates = {}
    for name, module in model.named_modules():
        if isinstance(module, GaussianRouting):
            raise ValueError(f"gaussian routing: {name} is a Gaussian router already; call this once")
        weight = getattr(module, "weight", None)
        says = hasattr(module, "top_k") and hasattr(module, "num_experts")
        if says and isinstance(weight, Tensor) and weight.ndim == 2:
            if weight.is_meta or not weight.numel():
                raise ValueError(
                    f"gaussian routing: the weight of {name} is not in memory (meta device, or sharded by ZeRO-3); "
                    "load the model whole, and shard it afterwards (FSDP, or ZeRO up to stage 2)"
                )
            _check_rule(name, module)
            gates[name] = module
    if not gates:
        raise ValueError(
            f"gaussian routing: {type(model).__name__} has no gate with weight, top_k and num_experts; it is for "
            "transformers' mixture-of-experts models whose router is a module of its own, as Qwen3-MoE's"
        )
    return gates


@torch.no_grad()
def _check_rule(name: str, gate: nn.Module) -> None:
    """Tries the gate on a few tokens: many models have a class of this kind, and not all mean the same by it."""
    weight = gate.weight
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    output = gate(tokens)
    expected = (tokens @ weight.T).float().softmax(-1)
    if isinstance(output, tuple) and len(output) == 3 and output[0].shape == expected.shape:
        weights = expected.gather(-1, output[2])
        if getattr(gate, "norm_topk_prob", False):
            weights = weights / weights.sum(-1, keepdim=True)
        near = 1e-5 if weight.dtype in (torch.float32, torch.float64) else 0.05
        if (output[0] - expected).abs().max() < near and (output[1] - weights).abs().max() < near:
            return
    raise ValueError(
        f"gaussian routing: {name} ({type(gate).__name__}) does not route by softmax, then top-k, as Qwen3-MoE does; "
        "its experts would be weighted by another rule"
    )


@functools.cache
def _gaussian_class(linear: type[nn.Module]) -> type[nn.Module]:
    # A subclass: transformers records router logits, and initialises gates, by the gate's class.
    return type(f"Gaussian{linear.__name__}", (GaussianRouting, linear), {"__module__": __name__})


@torch.no_grad()
def _replace(name: str, gate: nn.Module, sigma: float, saved: Tensor | None) -> GaussianGate:
    weight, remains = gate.weight, None
    log_sigma = torch.full_like(weight, sigma).log_()
    if saved is None:
        rows = weight.clone()
        # By the sigma that is stored: rounded, it would scale all logits.
        weight.copy_(equidistant(rows) * torch.exp(2 * log_sigma.cpu().double()))
        remains = difference(rows, weight, log_sigma)
    elif saved.shape != log_sigma.shape:
        raise ValueError(f"gaussian routing: log_sigma of {name} is {list(saved.shape)}, not {list(log_sigma.shape)}")
    else:
        log_sigma.copy_(saved)
    gate.__class__ = _gaussian_class(type(gate))
    gate.norm_topk_prob = bool(getattr(gate, "norm_topk_prob", False))
    gate.register_parameter("log_sigma", nn.Parameter(log_sigma, requires_grad=weight.requires_grad))
    return GaussianGate(name, remains)


def _saved(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """``log_sigma`` of the gates from the safetensors files of a checkpoint."""
    from safetensors import safe_open

    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    wanted = {f"{name}.log_sigma": name for name in names}
    if index.is_file():
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    elif whole.is_file():
        with safe_open(whole, framework="pt") as source:
            files = dict.fromkeys(source.keys(), whole.name)
    else:
        raise ValueError(
            f"gaussian routing: the config says {MARK}: gaussian, but {str(folder)!r} has no model.safetensors "
            "or model.safetensors.index.json; give the checkpoint's folder as `checkpoint`"
        )
    if missing := [key for key in wanted if key not in files]:
        near = [key for key in files if key.endswith("log_sigma")]
        raise ValueError(f"gaussian routing: {folder} has no {missing[0]} (it has {near[:3] or 'no log_sigma at all'})")
    found: dict[str, Tensor] = {}
    for key, name in wanted.items():
        with safe_open(folder / files[key], framework="pt") as source:
            found[name] = source.get_tensor(key)
    return found


def _check_top_k(gates: dict[str, nn.Module], top_k: int) -> None:
    for name, gate in gates.items():
        if not 1 <= top_k <= gate.num_experts:
            raise ValueError(f"gaussian routing: top_k is {top_k}, but {name} has {gate.num_experts} experts")


def _set_top_k(model: nn.Module, gates: dict[str, nn.Module], top_k: int) -> None:
    for gate in gates.values():
        gate.top_k = top_k
    # The load-balancing loss and the next from_pretrained read it elsewhere.
    holders: list[Any] = [model, *model.modules()]
    holders += [config for module in model.modules() if (config := getattr(module, "config", None)) is not None]
    for holder in holders:
        if isinstance(getattr(holder, "num_experts_per_tok", None), int):
            holder.num_experts_per_tok = top_k
