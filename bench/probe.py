"""An evaluation under an activation probe against the same evaluation without, and the memory that it takes.

    python bench/probe.py [--json] [--runs N]        in LLaMA-Factory's environment

A Qwen3-MoE of 4 layers, D = 256, 8 fused experts of which 2 are chosen, evaluates 512 texts of 128 tokens in batches
of 8. The probe has all 32 experts as sources and the final norm as target, and keeps an eighth of the texts, 4 tokens
of each. Both sides run on the same weights in one process, in turn, in alternating order; the figures are medians of
paired ratios. Gathering and writing the file, once an evaluation, is inside of the time that is compared.

Memory: the highest that a process of its own takes, without a probe, with the subset, and with 4 and 16 times its rows
(more tokens a text); what it grows by is set against the bytes that the file holds. The last line is one JSON object.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import arguments, finish, median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "overlays" / "common"))
GOAL = 1.05
TEXTS, TOKENS, BATCH, SUBSET, KEPT = 512, 128, 8, 64, 4
SPEC = {"name": "experts", "source_modules": ["**.mlp.experts.*"], "target_modules": ["model.norm"]}


def build() -> tuple[Any, list[dict[str, Any]]]:
    """The model, on the accelerator in bfloat16 if there is one, and its batches."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=1000,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    ids = torch.randint(0, config.vocab_size, (TEXTS, TOKENS))
    if torch.cuda.is_available():
        model, ids = model.to("cuda", torch.bfloat16), ids.to("cuda")
    mask = torch.ones_like(ids)
    return model, [
        {"input_ids": a, "attention_mask": b} for a, b in zip(ids.split(BATCH), mask.split(BATCH), strict=True)
    ]


def evaluate(model: Any, batches: list[dict[str, Any]], tokens: int, run: str) -> tuple[float, float]:
    """Wall and processor seconds of an evaluation; ``tokens`` of each text are kept, with 0 there is no probe."""
    import torch
    from infodyn.probe import ActivationProbe

    began, processor = time.perf_counter(), time.process_time()
    with torch.no_grad():
        if tokens:
            probe = ActivationProbe([SPEC], run, "texts", validation_subset_size=SUBSET, tokens_per_sample=tokens)
            with probe.watch(model, 0, TEXTS) as watch:
                for batch in watch.batches(batches):
                    model(**batch)
        else:
            for batch in batches:
                model(**batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - processor


def peak(tokens: int) -> tuple[int, int]:
    """In a process of its own: the highest resident memory (bytes), and the bytes of the activations in the file."""
    ran = subprocess.run(
        [sys.executable, __file__, "--peak", str(tokens)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    highest, held = json.loads(ran.stdout.splitlines()[-1])
    return highest, held


def report_peak(tokens: int) -> None:
    model, batches = build()
    with tempfile.TemporaryDirectory() as run:
        evaluate(model, batches, tokens, run)
        # Read afterwards: loading the file is no part of the evaluation.
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        held = 0
        if tokens:
            from infodyn.probe_file import probe_path, read_probe_file

            content = read_probe_file(probe_path(run, "experts", 0))
            sides = [*content["source_activations"].values(), *content["target_activations"].values()]
            held = sum(each.numel() * each.element_size() for each in sides)
    print(json.dumps([highest, held]))


def measure(runs: int) -> dict[str, Any]:
    import torch

    model, batches = build()
    taken: dict[int, list[tuple[float, float]]] = {0: [], KEPT: []}
    with tempfile.TemporaryDirectory() as run:
        for tokens in taken:
            evaluate(model, batches[:4] if not tokens else batches, tokens, run)
        for number in range(runs):
            for tokens in (0, KEPT) if number % 2 else (KEPT, 0):
                taken[tokens].append(evaluate(model, batches, tokens, run))

    def ratios(clock: int) -> list[float]:
        return [a[clock] / b[clock] for a, b in zip(taken[KEPT], taken[0], strict=True)]

    without, _ = peak(0)
    memory = []
    for times in (1, 4, 16):
        highest, held = peak(KEPT * times)
        mebibyte = 2**20
        memory.append({"held_mib": round(held / mebibyte, 1), "grown_mib": round((highest - without) / mebibyte, 1)})
    ratio = median(ratios(0))
    return {
        "bench": "probe",
        "ratio": ratio,
        "goal": GOAL,
        "met": ratio <= GOAL,
        "quartiles": [round(q, 4) for q in statistics.quantiles(ratios(0), n=4)[::2]],
        # On a machine that others use too, the processor's time says more than the clock on the wall.
        "processor_ratio": median(ratios(1)),
        "seconds": {name: median([wall for wall, _ in taken[n]]) for name, n in (("plain", 0), ("probe", KEPT))},
        "memory": memory,
        # Between the smallest and the largest subset, where what is loaded once falls out.
        "bytes_per_byte": round(
            (memory[-1]["grown_mib"] - memory[0]["grown_mib"]) / (memory[-1]["held_mib"] - memory[0]["held_mib"]), 3
        ),
        "what": f"Qwen3-MoE, 4 layers, D=256, 8 experts, {TEXTS} texts of {TOKENS} tokens, {SUBSET} x {KEPT} rows of "
        f"33 modules, {next(model.parameters()).dtype} on {next(model.parameters()).device.type}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        report_peak(int(sys.argv[2]))
        return
    options = arguments(__doc__ or "", runs=6)
    found = measure(max(options.runs, 2))
    lines = [f"{name:6} {value:8.2f} s" for name, value in found["seconds"].items()]
    lines.append(
        f"an evaluation with the probe takes {found['ratio']:.3f}x the one without (goal {GOAL}; quartiles "
        f"{found['quartiles']}; processor {found['processor_ratio']:.3f}x)"
    )
    for each in found["memory"]:
        lines.append(f"subset of {each['held_mib']:7.1f} MiB: peak memory + {each['grown_mib']:.1f} MiB")
    finish(options, found, lines)


if __name__ == "__main__":
    main()
