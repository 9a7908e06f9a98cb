"""Run by test_surgery_ranks.py in processes of their own: gradient surgery on the ranks of a gloo group.

python surgery_ranks.py RANK SIZE FOLDER      writes FOLDER/RANK.pt: what each scenario came to on this rank

Four ranks shard by pairs and replicate over them, as upstream's train.py does over nodes; one and two do all the rest.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import surgery_models as tiny
import torch
import torch.distributed as dist
from research.hooks.hsw_hook import Damping, HSWHooks
from research.probe.batch import ProbeBatch
from research.probe.hidden_and_mask import pooled_states
from research.ranks import Ranks
from research.recorder import MetricsFile, NormRecorder
from research.surgery import Surgery
from research.thermostat import thermostat as module
from research.thermostat.thermostat import Thermostat
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

LAYERS, STEPS, BETA, GAMMA = (1, 3), 3, 0.5, 0.1
LIMITS = (0.2, 0.8, 0.0, 0.2)
"""The least and largest beta, the least and largest gamma."""


SHARDING = {
    "grad": ShardingStrategy.SHARD_GRAD_OP,
    "full": ShardingStrategy.FULL_SHARD,
    "hybrid": ShardingStrategy.HYBRID_SHARD,
}


@functools.cache
def pairs() -> tuple[Any, Any]:
    """This rank's group to shard in and its group to replicate over, of four ranks."""
    shard, replicate = (dist.new_subgroups_by_enumeration(ranks) for ranks in ([[0, 1], [2, 3]], [[0, 2], [1, 3]]))
    return shard[0], replicate[0]


def checkpointed(model: Any) -> None:
    wrapper = functools.partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    apply_activation_checkpointing(
        model, checkpoint_wrapper_fn=wrapper, check_fn=lambda part: isinstance(part, tiny.Block)
    )


def wrapped(kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model as an engine wraps it, and its blocks as hooks find them; ``alone`` is the bare model."""
    model = tiny.TinyVLA().to(dtype)
    if kind == "alone":
        return model, list(model.language_model.model.layers)
    if kind.startswith("ddp"):
        if "checkpoint" in kind:
            checkpointed(model)
        blocks = list(model.language_model.model.layers)
        if kind == "ddp_checkpoint_inside":
            # As transformers does it: the hooked module runs inside the checkpointed function.
            blocks = [block._checkpoint_wrapped_module for block in blocks]
        return DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True), blocks
    _, sharding, *_ = kind.split("_")
    model = FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({tiny.Block}),
        sharding_strategy=SHARDING[sharding],
        process_group=pairs() if sharding == "hybrid" else None,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    if "checkpoint" in kind:
        checkpointed(model)
    return model, list(model.module.language_model.model.layers)


def weights(model: Any) -> dict[str, torch.Tensor]:
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return {clean(name): p.detach().clone() for name, p in model.named_parameters()}
    return {clean(name): p.detach().clone() for name, p in model.named_parameters()}


def clean(name: str) -> str:
    for part in ("module.", "_fsdp_wrapped_", "_checkpoint_wrapped_"):
        name = name.replace(part, "")
    return name


class Counting(HSWHooks):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fired: list[int] = []

    def _on_gradient(self, number: int, gradient: torch.Tensor) -> torch.Tensor | None:
        self.fired.append(number)
        return super()._on_gradient(number, gradient)


def run(kind: str, share: Sequence[int], dtype: torch.dtype = torch.float64, surgery: Any = None) -> Any:
    """Train for some steps, each on the micro-batches of ``share``; ``surgery(model, blocks)`` makes what they call."""
    model, blocks = wrapped(kind, dtype)
    attached = surgery(model, blocks) if surgery else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        for micro in share:
            loss = model(**tiny.batch(2, 100 * step + micro, dtype))["loss"] / len(share)
            loss.backward()
            losses.append(loss.item())
        if attached is not None:
            attached.before_step(step)
        optimizer.step()
        optimizer.zero_grad()
    return losses, weights(model), attached


def hooks_only(rank: int, folder: Path, model: Any, blocks: Any) -> Surgery:
    basis = tiny.bases(LAYERS)
    damping, recorder = Damping(BETA, GAMMA), NormRecorder(basis)
    hooks = Counting({n: blocks[n] for n in basis}, basis, damping, recorder)
    log = MetricsFile(folder / "metrics.jsonl", main=False, settings={})
    surgery = Surgery(damping, hooks, recorder, None, log, Ranks.of(model), folder, {}, 2)
    surgery.install()
    surgery.lines = []  # type: ignore[attr-defined]
    log.write = surgery.lines.append  # type: ignore[attr-defined, method-assign]
    return surgery


def probe(indices: Any, dtype: torch.dtype) -> ProbeBatch:
    rows = [tiny.batch(1, 1000 + index, dtype) for index in indices]
    size, length = len(rows), 6
    mask = torch.zeros(size, tiny.PATCHES + length, dtype=torch.bool)
    mask[:, tiny.PATCHES + 2 : tiny.PATCHES + 5] = True
    return ProbeBatch(
        torch.cat([row["input_ids"] for row in rows]),
        torch.ones(size, length, dtype=torch.bool),
        torch.cat([row["pixel_values"] for row in rows]),
        mask,
        torch.full((size,), tiny.PATCHES + length - 1),
        [str(index) for index in indices],
    )


def measuring(limits: tuple[float, float, float, float], folder: Path, model: Any, blocks: Any) -> Surgery:
    """Hooks and a thermostat on seven probe samples that measures at every step."""
    basis, dtype = tiny.bases(LAYERS), torch.float32
    teacher = pooled_states(tiny.TinyVLA().to(dtype), probe(range(7), dtype), LAYERS)
    damping, recorder, ranks = Damping(limits[1], limits[3]), NormRecorder(basis), Ranks.of(model)
    config = module.ThermostatConfig(
        every=1, samples=5, batch_size=2, cold_start=0, smoothing=0.5, drift_low=0.0, drift_high=0.5,
        beta_min=limits[0], beta_max=limits[1], gamma_min=limits[2], gamma_max=limits[3],
    )  # fmt: skip

    def states(indices: Any) -> Any:
        return pooled_states(model, probe(indices, dtype), LAYERS)

    thermostat = Thermostat(config, teacher, states, ranks, seed=7)
    hooks = HSWHooks({n: blocks[n] for n in basis}, basis, damping, recorder)
    log = MetricsFile(folder / "metrics.jsonl", main=False, settings={})
    surgery = Surgery(damping, hooks, recorder, thermostat, log, ranks, folder, {}, 2)
    surgery.install()
    surgery.lines = []  # type: ignore[attr-defined]
    log.write = surgery.lines.append  # type: ignore[attr-defined, method-assign]
    return surgery


def disagreeing(kind: str, rank: int, folder: Path) -> Any:
    """Ranks whose arithmetic differs: each would come to its own drift, and to its own factors."""
    honest = module.covariance_distance
    module.covariance_distance = lambda a, b: tuple(value * (1 + rank) for value in honest(a, b))
    try:
        _, found, surgery = run(kind, [rank], torch.float32, functools.partial(measuring, LIMITS, folder))
    finally:
        module.covariance_distance = honest
    return {"lines": surgery.lines, "state": surgery.thermostat.state_dict(), "weights": found}


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found: dict[str, Any] = {}
    hooks = functools.partial(hooks_only, rank, folder)
    measured = ["ddp", "fsdp_grad_checkpoint", "fsdp_full_checkpoint"] if size < 4 else ["fsdp_hybrid_checkpoint"]
    shares = {kind: [rank] for kind in measured}
    if size < 4:
        shares.update(ddp_checkpoint=[rank], ddp_checkpoint_inside=[rank], ddp_accumulate=[rank, 10 + rank])
    for kind, share in shares.items():
        _, trained, surgery = run(kind, share, surgery=hooks)
        found[kind] = {"weights": trained, "fired": surgery.hooks.fired, "lines": surgery.lines}
    for kind in measured:
        plain = run(kind, [rank], torch.float32)
        with_probe = run(kind, [rank], torch.float32, functools.partial(measuring, (1.0, 1.0, 1.0, 1.0), folder))
        found[f"{kind}_probe"] = {"plain": plain[:2], "probe": with_probe[:2], "lines": with_probe[2].lines}
        _, trained, surgery = run(kind, [rank], torch.float32, functools.partial(measuring, LIMITS, folder))
        found[f"{kind}_steering"] = {"weights": trained, "lines": surgery.lines}
    found["disagreeing"] = disagreeing(measured[0], rank, folder)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
