"""HSA attention against plain SDPA with an explicit mask: forward and backward of a small decoder, S = 1024.

    python bench/hsa.py [--json]        in the environment of LLaMA-Factory, on the grafted checkout

Three models with the same weights run in one process, in turn, on the same batch: plain SDPA under a finished causal
4D mask, HSA as grafted, and a naive HSA that builds its bias in every layer. The order changes from round to round
and the figures are medians of paired ratios. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import itertools
import json
import os
import platform
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SRC = Path(os.environ.get("GRAFT_LLAMAFACTORY_SRC") or ROOT / "upstreams" / "LLaMA-Factory" / "src")
GOAL = 1.05
LENGTH, LAYERS, HIDDEN, HEADS = 1024, 4, 256, 8


def machine() -> str:
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{name}, {device}, torch {torch.__version__}"


def build(implementation: str) -> Any:
    """A random Llama, the same for every implementation, with gradients, in training mode."""
    import torch
    from llamafactory.hsa.arguments import HSAArguments
    from llamafactory.model.hsa_patch import apply_hsa_patch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=LENGTH,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    if implementation == "hsa":
        apply_hsa_patch(model, HSAArguments(use_hsa=True), is_trainable=True)
    elif implementation == "naive":
        model.set_attn_implementation("naive_hsa")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def register_naive() -> None:
    """The bias in every layer: distances, types and mask anew, in float32 for every head."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def naive(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, semantic_ids: Any, **kwargs: Any
    ) -> Any:
        size = query.shape[2]
        place = torch.arange(size, device=query.device)
        distance = (place[:, None] - place[None, :]).abs().float()[None]
        kind = semantic_ids[:, None, :]
        bias = torch.where(kind == 1, -0.001 * distance, torch.zeros_like(distance))
        noise = torch.where(distance <= 50, -0.5 * distance, torch.finfo(torch.float32).min)
        bias = torch.where(kind == 2, noise, bias)
        bias = bias.masked_fill(place[None, :, None] < place[None, None, :], torch.finfo(torch.float32).min)
        bias = bias[:, None].expand(-1, query.shape[1], -1, -1).contiguous().to(query.dtype)
        return sdpa_attention_forward(module, query, key, value, bias, **kwargs)

    AttentionInterface.register("naive_hsa", naive)
    AttentionMaskInterface.register("naive_hsa", sdpa_mask)


def measure(rounds: int) -> dict[str, Any]:
    import torch

    register_naive()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(256, (1, LENGTH), generator=generator).to(device)
    kinds = torch.randint(3, (1, LENGTH // 32), generator=generator).repeat_interleave(32, 1).to(device)
    lowest = torch.finfo(torch.float32).min
    causal = torch.full((LENGTH, LENGTH), lowest, device=device).triu(1)[None, None]
    given = {
        "sdpa": {"attention_mask": causal},
        "hsa": {"attention_mask": torch.ones_like(ids), "semantic_ids": kinds},
        "naive": {"attention_mask": torch.ones_like(ids), "semantic_ids": kinds},
    }
    models = {name: build(name) for name in given}

    def once(name: str) -> float:
        models[name].zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        models[name](input_ids=ids, labels=ids, use_cache=False, **given[name]).loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    names = list(given)
    for name in names:
        once(name)
        once(name)
    taken: dict[str, list[float]] = {name: [] for name in names}
    orders = list(itertools.permutations(names))
    for number in range(rounds):
        for name in orders[number % len(orders)]:
            taken[name].append(once(name))

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[name], taken["sdpa"], strict=True))

    return {
        "bench": "hsa",
        "ratio": round(ratio("hsa"), 4),
        "goal": GOAL,
        "met": ratio("hsa") <= GOAL,
        "naive_ratio": round(ratio("naive"), 4),
        "seconds": {name: round(statistics.median(times), 4) for name, times in taken.items()},
        "what": f"forward and backward, S={LENGTH}, {LAYERS} layers, width {HIDDEN}, {HEADS} heads, batch 1, float32",
        "machine": machine(),
        "runs": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--runs", type=int, default=24, help="rounds, each of all three ways (24)")
    options = parser.parse_args()
    if not (SRC / "llamafactory" / "hsa").is_dir():
        sys.exit(f"no patched LLaMA-Factory at {SRC}: run `python apply.py LLaMA-Factory`")
    sys.path.insert(0, str(SRC))
    if importlib.util.find_spec("torchaudio") is None:
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", loader=None)
        sys.modules["torchaudio"] = stub
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    found = measure(options.runs)
    if not options.json:
        for name, seconds in found["seconds"].items():
            print(f"{name:6} {1000 * seconds:8.1f} ms")
        print(
            f"HSA takes {found['ratio']:.3f}x the time of plain SDPA (goal {GOAL}); the bias built in every layer ",
            end="",
        )
        print(f"takes {found['naive_ratio']:.3f}x")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
