"""One of two ranks that probe while they train: ``python probe_rank.py RANK STORE``, a line of JSON a wrapper.

Trains twice from the same weights, with probe forwards (before the first step, and between each backward and its
optimizer step) and without; says whether the two are the same to the bit, and the states those of the unwrapped model.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import probe_models as models
import torch
import torch.distributed as dist
from research.anatomy import anatomy
from research.probe.hidden_and_mask import pooled_states, run_to
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

STEPS, LAYERS = 4, [0, 2]
WRAPPERS = ["DDP", "FULL_SHARD", "SHARD_GRAD_OP", "SHARD_GRAD_OP+bf16+checkpoints"]


def plain() -> Any:
    model = models.make()
    model.vision_backbone.register_buffer("seen", torch.zeros(1))
    return model


def wrap(model: Any, wrapper: str) -> Any:
    if wrapper == "DDP":
        return DistributedDataParallel(model, find_unused_parameters=True)
    strategy, _, extra = wrapper.partition("+")
    precision = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16, buffer_dtype=torch.bfloat16)
    wrapped = FullyShardedDataParallel(
        model,
        auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer}),
        sharding_strategy=ShardingStrategy[strategy],
        mixed_precision=precision if extra else None,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    if extra:
        apply_activation_checkpointing(
            wrapped,
            checkpoint_wrapper_fn=partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT),
            check_fn=lambda module: isinstance(module, LlamaDecoderLayer),
        )
    return wrapped


def train(wrapper: str, rank: int, probing: bool) -> dict[str, Any]:
    model = wrap(plain(), wrapper)
    batch, probe = models.batch(2, seed=10 + rank), models.batch(3, seed=20 + rank)
    found: dict[str, Any] = {"exact": None, "blocks": 0, "probes": 0}
    if probing:
        states = run_to(model, probe, LAYERS)
        alone = run_to(plain().bfloat16() if "+" in wrapper else plain(), probe, LAYERS)
        found["exact"] = all(torch.equal(states[layer], alone[layer]) for layer in LAYERS)
        found["own"] = not torch.equal(states[0], run_to(model, models.batch(3, seed=21 - rank), LAYERS)[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    torch.manual_seed(rank)
    losses = []
    for step in range(STEPS):
        output = model(
            batch.input_ids, batch.attention_mask, batch.pixel_values, labels=batch.input_ids, use_cache=False
        )
        output.loss.backward()
        # In DDP's last step the second rank is alone: it must not wait for the first.
        if probing and not (wrapper == "DDP" and rank == 0 and step == STEPS - 1):
            found["probes"] += 1
            blocks = anatomy(model).layers
            counts = [
                block.register_forward_hook(lambda *call: found.update(blocks=found["blocks"] + 1)) for block in blocks
            ]
            pooled_states(model, probe, LAYERS)
            for handle in counts:
                handle.remove()
        if wrapper != "DDP":
            # The largest entry: until torch 2.5 FSDP sums in the order of the tensors' addresses, another in every run.
            model.clip_grad_norm_(0.01, norm_type=torch.inf)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    if wrapper == "DDP":
        weights = [parameter.detach() for parameter in model.parameters()]
    else:
        with FullyShardedDataParallel.summon_full_params(model):
            weights = [parameter.detach().clone() for parameter in model.parameters()]
    return {**found, "losses": losses, "sum": [weight.double().abs().sum().item() for weight in weights]}


def main() -> None:
    rank, store = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for wrapper in WRAPPERS:
        without, having = train(wrapper, rank, False), train(wrapper, rank, True)
        same = without["losses"] == having["losses"] and without["sum"] == having["sum"]
        learnt = len(set(having["losses"])) == STEPS
        said = {"same": same, "learnt": learnt, **{key: having[key] for key in ("exact", "own", "blocks", "probes")}}
        print(wrapper, json.dumps(said), flush=True)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
