"""From a teacher and a probe set to subspaces: pool, decompose, measure, rank, split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..anatomy import anatomy
from ..probe.hidden_and_mask import ProbeBatch
from .basis import Pooled, Principal, pooled, principal, random_basis
from .finite_difference import finite_difference
from .fisher import fisher
from .layers import LayerError, check_layers, parse_groups
from .subspace import LayerSubspace, Subspaces
from .tasks import tasks
from .vulnerability import Directions, Vulnerability


@dataclass(frozen=True)
class Settings:
    """What decides the subspaces, see ``offline_icms.OfflineICMSConfig``. ``layers`` is a list, or how many to
    choose."""

    layers: list[int] | int
    groups: str = ""
    r: int = 128
    fragile: float = 0.25
    null: float = 0.25
    method: str = "fisher"
    rank_by: str = "vulnerability"
    epsilon: float = 0.05
    draws: int = 4
    output_tokens: int = 1
    rows: int = 64
    compute_dtype: torch.dtype = torch.float32
    seed: int = 7


def make(model: nn.Module, batches: Iterable[ProbeBatch], settings: Settings) -> Subspaces:
    """The subspaces of ``model`` on a probe set that ``batches`` yields in order, anew each time it is gone through.

    The model is the teacher and is not changed: neither its parameters nor any flag. ``meta`` lacks what only the
    caller knows: the model's path, the template, the probe set's hash, versions.
    """
    parts = anatomy(model)
    choose = settings.layers if isinstance(settings.layers, int) else 0
    layers = list(range(parts.num_layers - 1)) if isinstance(settings.layers, int) else settings.layers
    if choose > len(layers):
        raise LayerError(
            f"--layers auto:{choose}: only {len(layers)} of the model's {parts.num_layers} layers can be had"
        )
    groups = parse_groups(settings.groups, layers)
    check_layers(groups, parts.num_layers)

    ids, states = pooled(model, batches, layers)
    bases = {n: principal(states[n].states, settings.r) for n in layers}
    vulnerabilities: dict[int, Vulnerability] = {}
    if choose or settings.rank_by != "random":
        given = {n: Directions(bases[n].basis, states[n].rms) for n in layers}
        work = tasks(model, batches, settings.output_tokens)
        common: dict[str, Any] = {"epsilon": settings.epsilon, "dtype": settings.compute_dtype}
        # Choosing looks at every layer, which only fisher does at no extra cost.
        if settings.method == "fisher" or choose:
            vulnerabilities = fisher(model, work, given, draws=settings.draws, seed=settings.seed, **common)
        if choose:
            totals = {n: float(vulnerabilities[n].mean.sum()) for n in layers}
            layers = sorted(sorted(layers, key=lambda n: -totals[n])[:choose])
            groups = {n: (n,) for n in layers}
        if settings.method == "finite_difference":
            work = tasks(model, batches, settings.output_tokens)
            chosen = {n: given[n] for n in layers}
            vulnerabilities = finite_difference(model, work, chosen, rows=settings.rows, **common)
    found, records = {}, {}
    for n in layers:
        one = vulnerabilities.get(n) if settings.rank_by != "random" else None
        found[n], records[str(n)] = _split(n, groups[n], ids, states[n], bases[n], one, settings)
    meta = {
        "model": {"hidden_size": parts.hidden_size, "num_layers": parts.num_layers, "family": parts.family},
        "probe": {"n": len(ids)},
        "settings": {
            name: str(value) if isinstance(value, torch.dtype) else value for name, value in vars(settings).items()
        },
        "layers": records,
    }
    return Subspaces(meta, found)


def _split(
    n: int,
    members: tuple[int, ...],
    ids: tuple[str, ...],
    states: Pooled,
    base: Principal,
    vulnerability: Vulnerability | None,
    settings: Settings,
) -> tuple[LayerSubspace, dict[str, Any]]:
    """One layer's subspace, and what ``meta.json`` says of it: every list in the order of the singular values."""
    k = len(base.singular_values)
    fragile, plastic = sizes(k, settings.fragile, settings.null)
    order = torch.arange(k)
    if settings.rank_by == "vulnerability" and vulnerability is not None:
        if not bool((vulnerability.mean > 0).any()):
            raise ValueError(f"layer {n}: no direction changes the output distribution at all; choose a lower layer")
        order = torch.argsort(vulnerability.mean, descending=True, stable=True)
    basis = base.basis
    if settings.rank_by == "random":
        basis = random_basis(len(basis), k, settings.seed, n)
    ranked = basis[:, order].float()
    layer = LayerSubspace(
        layer=n,
        members=members,
        Uf=ranked[:, :fragile].contiguous(),
        Up=ranked[:, fragile : fragile + plastic].contiguous(),
        mu=base.mean.float(),
        pooled=states.states,
        ids=ids,
    )
    record = {
        "rms": states.rms,
        "r": k,
        "fragile": fragile,
        "plastic": plastic,
        "order": order.tolist(),
        "singular_values": base.singular_values.tolist(),
        "vulnerabilities": None if vulnerability is None else vulnerability.mean.tolist(),
        "standard_errors": None if vulnerability is None or settings.draws == 1 else vulnerability.error.tolist(),
    }
    return layer, record


def sizes(k: int, fragile: float, null: float) -> tuple[int, int]:
    """How many of ``k`` ranked directions are fragile and how many plastic; each at least one."""
    top = min(max(round(fragile * k), 1), k - 1)
    return top, max(k - top - round(null * k), 1)


def summary(found: Subspaces) -> str:
    """A line a layer, for people."""
    lines = []
    for n, layer in found.layers.items():
        record = found.meta["layers"][str(n)]
        shared = ",".join(str(member) for member in layer.members)
        line = f"[icms] layer {n} (for {shared}): "
        line += f"{record['fragile']} fragile, {record['plastic']} plastic of {record['r']} directions"
        if record["vulnerabilities"] is not None:
            total = sum(record["vulnerabilities"])
            top = sum(record["vulnerabilities"][i] for i in record["order"][: record["fragile"]])
            line += f"; the fragile ones carry {top / total:.0%} of {total:.3g} nats"
        lines.append(line)
    return "\n".join(lines)
