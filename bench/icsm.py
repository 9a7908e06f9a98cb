"""Vulnerability of every direction of three layers: `fisher` against one full forward per direction and layer.

    python bench/icsm.py [--json] [--runs N]        in the environment of LLaMA-Factory

The model is a Llama of 6 layers with patches behind BOS, trained here for some seconds to follow instructions about
pictures, so that its vulnerabilities are as unequal as a trained model's. Both sides see the same probe set in the
same batches, whole: nothing is extrapolated. Afterwards the ranking is held against float64 finite differences, and so
is the ranking that comes out when, as in the public implementation, 1e-3 times a direction is added in bfloat16. The
last line is one JSON object.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "overlays" / "openvla")]

import torch  # noqa: E402
from research.icms.basis import pooled, principal  # noqa: E402
from research.icms.finite_difference import finite_difference  # noqa: E402
from research.icms.fisher import fisher  # noqa: E402
from research.icms.tasks import tasks  # noqa: E402
from research.icms.vulnerability import Directions, kl_divergence  # noqa: E402
from research.probe.batch import ProbeBatch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from bench.measure import arguments, finish, median, seconds  # noqa: E402

GOALS = {"speedup": 20.0, "spearman": 0.95}
PATCHES, HIDDEN, LAYERS, VERBS, COLOURS, ADVERBS, ANSWERS = 8, 96, 6, 4, 8, 24, 32
VOCABULARY = 4 + VERBS + PATCHES + ADVERBS + ANSWERS
CHOSEN, SAMPLES, BATCH, RANK, EPSILON, DRAWS, STEPS = (1, 2, 3), 96, 32, 64, 0.05, 4, 200


class Vision(nn.Module):
    """Pixels ``[B, P, colours]``, one colour a patch, to patch embeddings."""

    num_patches = PATCHES

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.place = nn.Linear(COLOURS, HIDDEN), nn.Parameter(torch.randn(PATCHES, HIDDEN) * 0.3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels) + self.place


class Policy(nn.Module):
    """The shape of ``OpenVLAForActionPrediction``."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_backbone = Vision()
        self.language_model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                intermediate_size=2 * HIDDEN,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
                pad_token_id=0,
                initializer_range=0.05,
            )
        )

    def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any, use_cache: bool = False) -> Any:
        text = self.language_model.get_input_embeddings()(input_ids)
        patches = self.vision_backbone(pixel_values)
        embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], 1)
        mask = torch.cat([attention_mask[:, :1], attention_mask.new_ones(patches.shape[:2]), attention_mask[:, 1:]], 1)
        decoded = self.language_model.model(inputs_embeds=embeddings, attention_mask=mask, use_cache=use_cache)
        return SimpleNamespace(logits=self.language_model.lm_head(decoded[0]))


def episodes(count: int, generator: torch.Generator) -> tuple[ProbeBatch, torch.Tensor]:
    """Pictures, instructions "verb place adverb adverb", and answers: the colour that is there, in the verb's manner.

    One answer in ten is drawn blindly, so that a trained policy stays as unsure as one trained on people's actions.
    """

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    colours = draw(COLOURS, count, PATCHES)
    verb, place, adverbs = draw(VERBS, count), draw(PATCHES, count), draw(ADVERBS, count, 2)
    fast = (adverbs < ADVERBS // 3).any(1).long()
    answer = colours[torch.arange(count), place] + COLOURS * (verb % 2) + 2 * COLOURS * fast
    answer = torch.where(draw(10, count) == 0, draw(ANSWERS, count), answer)
    first = 4
    words = [verb + first, place + first + VERBS, *(adverbs + first + VERBS + PATCHES).T]
    ones = torch.ones(count, dtype=torch.long)
    ids = torch.stack([ones, 2 * ones, *words, 3 * ones], 1)
    mask = torch.zeros(count, PATCHES + ids.shape[1], dtype=torch.bool)
    mask[:, PATCHES + 2 : PATCHES + 6] = True
    last = torch.full((count,), PATCHES + ids.shape[1] - 1)
    pixels = F.one_hot(colours, COLOURS).float()
    batch = ProbeBatch(ids, torch.ones_like(ids).bool(), pixels, mask, last, [str(i) for i in range(count)])
    return batch, answer + VOCABULARY - ANSWERS


def trained(device: str) -> tuple[Policy, float]:
    """The policy after ``STEPS`` steps, and its accuracy on new episodes."""
    torch.manual_seed(0)
    model, generator = Policy().to(device).train(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 30)
        batch, answer = episodes(64, generator)
        loss = F.cross_entropy(answers(model, batch.to(device)), answer.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    batch, answer = episodes(512, generator)
    with torch.no_grad():
        guess = answers(model, batch.to(device)).argmax(1).cpu()
    return model, (guess == answer).double().mean().item()


def answers(model: Policy, batch: ProbeBatch) -> torch.Tensor:
    """Logits ``[B, V]`` of the answer."""
    pixels = batch.pixel_values.to(next(model.parameters()).dtype)
    return model(batch.input_ids, batch.attention_mask, pixels).logits[:, -1]


@torch.no_grad()
def naive(model: Policy, batches: list[ProbeBatch], steps: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """One full forward per direction, layer and batch; ``steps[n]`` ``[k, D]`` are what is added."""
    plain = [answers(model, batch) for batch in batches]
    found = {}
    for n, rows in steps.items():
        means = []
        for row in rows:
            total = 0.0
            for batch, before in zip(batches, plain, strict=True):
                where = batch.instruction_mask.unsqueeze(-1)

                def hook(module: Any, args: Any, out: Any, row: Any = row, where: Any = where) -> Any:
                    state = out[0] if isinstance(out, tuple) else out
                    state = state + where * row.to(state.dtype)
                    return (state, *out[1:]) if isinstance(out, tuple) else state

                handle = model.language_model.model.layers[n].register_forward_hook(hook)
                total += kl_divergence(before[:, None], answers(model, batch)[:, None]).sum().item()
                handle.remove()
            means.append(total / SAMPLES)
        found[n] = torch.tensor(means, dtype=torch.float64)
    return found


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    def rank(values: torch.Tensor) -> torch.Tensor:
        return values.argsort().argsort().double()

    return torch.corrcoef(torch.stack([rank(a), rank(b)]))[0, 1].item()


def bench() -> int:
    options = arguments(__doc__.splitlines()[0], runs=2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, accuracy = trained(device)
    whole, _ = episodes(SAMPLES, torch.Generator().manual_seed(2))
    batches = [whole.slice(start, start + BATCH).to(device) for start in range(0, SAMPLES, BATCH)]
    _, states = pooled(model, batches, [*CHOSEN])
    directions = {n: Directions(principal(states[n].states, RANK).basis, states[n].rms) for n in CHOSEN}
    steps = {n: (d.basis.T * d.delta(EPSILON)).to(device, torch.float32) for n, d in directions.items()}

    def fast() -> dict[int, torch.Tensor]:
        found = fisher(model, tasks(model, batches, 1), directions, epsilon=EPSILON, draws=DRAWS)
        return {n: one.mean for n, one in found.items()}

    fast()
    times: dict[str, list[float]] = {"fisher_s": [], "naive_s": []}
    for _ in range(options.runs):
        times["naive_s"].append(seconds(lambda: naive(model, batches, steps)))
        times["fisher_s"].append(seconds(fast))
    began = time.perf_counter()
    slow = finite_difference(
        model, tasks(model, batches, 1), directions, epsilon=EPSILON, dtype=torch.float64, rows=16 * BATCH
    )
    reference = time.perf_counter() - began
    ours = fast()
    model.to(torch.bfloat16)
    public = naive(model, batches, {n: 1e-3 * d.basis.T.to(device) for n, d in directions.items()})
    figures = {name: median(values) for name, values in times.items()}
    agree = {n: spearman(ours[n], slow[n].mean) for n in CHOSEN}
    noise = {n: spearman(public[n], slow[n].mean) for n in CHOSEN}
    spread = {n: (slow[n].mean.max() / slow[n].mean.median()).item() for n in CHOSEN}
    ratio = torch.cat([ours[n] / slow[n].mean for n in CHOSEN]).mean().item()
    speedup = median([a / b for a, b in zip(times["naive_s"], times["fisher_s"], strict=True)])
    found = {
        "bench": "icsm",
        "speedup": speedup,
        "spearman": round(min(agree.values()), 4),
        "spearman_by_layer": {n: round(value, 4) for n, value in agree.items()},
        "mean_ratio": round(ratio, 4),
        "public_bf16_spearman_by_layer": {n: round(value, 4) for n, value in noise.items()},
        "largest_over_median": {n: round(value, 1) for n, value in spread.items()},
        **figures,
        "finite_difference_float64_s": round(reference, 2),
        "forwards_of_naive": len(CHOSEN) * RANK * len(batches),
        "extrapolated": False,
        "goal": GOALS,
        "met": speedup >= GOALS["speedup"] and min(agree.values()) >= GOALS["spearman"],
        "accuracy": round(accuracy, 3),
        "what": f"{RANK} directions of layers {CHOSEN} of {LAYERS}, width {HIDDEN}, {SAMPLES} probe samples of "
        f"{PATCHES + whole.input_ids.shape[1]} positions, batches of {BATCH}, {DRAWS} draws, epsilon {EPSILON}, "
        f"float32 against float64 finite differences; {STEPS} training steps",
    }
    lines = [
        f"one full forward per direction and layer  {figures['naive_s']:8.2f} s",
        f"fisher                                    {figures['fisher_s']:8.2f} s, {speedup:.1f} times as fast "
        f"(goal {GOALS['speedup']:.0f})",
        f"rank correlation with float64 finite differences {found['spearman']:.4f} (goal {GOALS['spearman']}), "
        f"mean ratio {ratio:.3f}; of 1e-3 added in bfloat16 {min(noise.values()):.2f}",
    ]
    finish(options, found, lines)
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(bench())
