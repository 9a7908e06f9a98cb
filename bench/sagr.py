"""predict_action of starVLA's layerwise flow head with residual guidance against the same call without.

    python bench/sagr.py [--json] [--runs N]       in starVLA's environment, or in LLaMA-Factory's on the stand-in

The head is upstream's own on the grafted checkout where its dependencies import (diffusers), and the stand-in's
otherwise; the output says which. 16 layers of 1024, which is less than half of the smallest that upstream ships (36 of
1024), so the share of guidance is about double a real run's. Four Euler steps on one sample of 256 context tokens; the
world predictor has the default sizes. A guided call pays for all that guidance adds: two predictions for the
reference, and four drifts. Both sides run on the same weights in one process, in turn, in alternating order, in
inference mode; the figures are medians of paired ratios. The last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import arguments, finish, median, seconds

ROOT = Path(__file__).resolve().parents[1]
UPSTREAM = Path(os.environ.get("GRAFT_STARVLA_SRC") or ROOT / "upstreams" / "starVLA")
GOAL = 1.6
WIDTH, LAYERS, CONTEXT, STEPS, HORIZON, ACTION, STATE = 1024, 16, 256, 4, 16, 7, 7
NEEDED = ("diffusers", "transformers", "omegaconf")


def tree(scratch: Path) -> tuple[Path, str]:
    """A grafted tree of starVLA and what it is: upstream's, or the stand-in's where a dependency is missing.

    Raises SystemExit, with the remedy, where the checkout is there but carries no graft.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing and (UPSTREAM / "starVLA").is_dir():
        if not (UPSTREAM / "starVLA" / "sagr").is_dir():
            raise SystemExit(f"{UPSTREAM} carries no graft: run `python apply.py starVLA`")
        return UPSTREAM, "upstream's head"
    sys.path.insert(0, str(ROOT))
    from tests.standins.starvla_project import StarVLAProject

    return StarVLAProject.make(scratch).patched, f"the stand-in's head (upstream's needs {', '.join(missing) or 'git'})"


def build(device: str) -> tuple[Any, list[Any], Any]:
    """The head in evaluation mode, one sample's context a layer, and its state."""
    import torch
    from omegaconf import OmegaConf
    from starVLA.model.modules.action_model.LayerwiseFM_ActionHeader import LayerwiseFlowmatchingActionHead

    shape = {"num_layers": LAYERS, "input_embedding_dim": WIDTH, "cross_attention_dim": WIDTH}
    transformer = {
        **shape,
        **{"attention_head_dim": 64, "num_attention_heads": WIDTH // 64, "dropout": 0.2, "final_dropout": True},
        **{"interleave_self_attention": True, "norm_type": "ada_norm", "positional_embeddings": None},
    }
    action_model = {
        **{"action_dim": ACTION, "state_dim": STATE, "action_horizon": HORIZON, "num_inference_timesteps": STEPS},
        **{"add_pos_embed": True, "max_seq_len": 1024, "num_target_vision_tokens": 32, "num_timestep_buckets": 1000},
        **{"noise_beta_alpha": 1.5, "noise_beta_beta": 1.0, "noise_s": 0.999, "diffusion_model_cfg": transformer},
    }
    torch.manual_seed(0)
    # Upstream's transformer prints its size; the last line here must be the figures.
    with contextlib.redirect_stdout(io.StringIO()):
        head = LayerwiseFlowmatchingActionHead(OmegaConf.create({"framework": {"action_model": action_model}}))
    context = [torch.randn(1, CONTEXT, WIDTH, device=device) for _ in range(LAYERS)]
    return head.eval().to(device), context, torch.randn(1, 1, STATE, device=device)


def measure(runs: int, scratch: Path) -> dict[str, Any]:
    place, kind = tree(scratch)
    sys.path.insert(0, str(place))
    import torch
    from starVLA.sagr.config import SagrConfig
    from starVLA.sagr.flow import FlowPass
    from starVLA.sagr.guidance import ResidualGuidance
    from starVLA.sagr.plan import Plan
    from starVLA.sagr.predictor import WorldPredictor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    head, context, state = build(device)
    config = SagrConfig()
    world, slots = config.world, config.anchor.slots
    predictor = WorldPredictor(config.dim, STATE, ACTION, HORIZON, world.layers, world.hidden, world.heads)
    # At zero, as it is made, its last layer would spare the backward pass nothing, but guide by nothing either.
    torch.nn.init.normal_(predictor.change[-1].weight, std=0.02)
    predictor = predictor.eval().to(device)
    guidance = ResidualGuidance(predictor, config.guidance)
    sizes = ((1, slots, config.dim), (1, 1, STATE), (1, HORIZON, ACTION))
    plan = Plan(*(torch.randn(size, device=device) for size in sizes), step=0)
    observed, executed = torch.randn_like(plan.tokens), config.executed(HORIZON)
    last: dict[str, Any] = {}

    @torch.inference_mode()
    def call(name: str) -> None:
        torch.manual_seed(0)
        flow = None
        if name == "guided":
            flow = FlowPass(guidance, plan.reference(predictor, observed, state, executed, config.guidance.reference))
        last[name] = head.predict_action(context, state, flow=flow)
        if device == "cuda":
            torch.cuda.synchronize()

    def once(name: str) -> tuple[float, float]:
        """Wall and processor seconds of a call."""
        began = time.process_time()
        wall = seconds(lambda: call(name))
        return wall, time.process_time() - began

    names = ["plain", "guided"]
    for name in (*names, *names):
        once(name)
    if torch.equal(last["plain"], last["guided"]):
        raise SystemExit("guidance changed nothing: what was measured is not guidance")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(runs):
        for name in names[:: 1 if number % 2 == 0 else -1]:
            taken[name].append(once(name))

    def ratios(clock: int) -> list[float]:
        return [a[clock] / b[clock] for a, b in zip(taken["guided"], taken["plain"], strict=True)]

    def millions(module: Any) -> float:
        return round(sum(weight.numel() for weight in module.parameters()) / 1e6, 1)

    ratio = median(ratios(0))
    return {
        "bench": "sagr",
        "ratio": ratio,
        "goal": GOAL,
        "met": ratio <= GOAL,
        "quartiles": [round(q, 4) for q in statistics.quantiles(ratios(0), n=4)[::2]],
        # On a machine that others use too, the processor's time says more than the clock on the wall.
        "processor_ratio": median(ratios(1)) if device == "cpu" else None,
        "seconds": {name: median([wall for wall, _ in times]) for name, times in taken.items()},
        "what": f"predict_action of {kind}, {LAYERS} layers of {WIDTH} ({millions(head)} M), {STEPS} Euler steps, "
        f"{CONTEXT} context tokens, chunk {HORIZON}x{ACTION}; predictor {world.layers} layers of {world.hidden} "
        f"({millions(predictor)} M), {slots} task tokens of {config.dim}; float32 on {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def main() -> None:
    options = arguments(__doc__ or "", runs=12)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(max(options.runs, 2), Path(scratch))
    lines = [found["what"], *(f"{name:8} {1000 * value:8.1f} ms" for name, value in found["seconds"].items())]
    lines.append(f"guided takes {found['ratio']:.3f}x plain (goal {GOAL}; quartiles {found['quartiles']})")
    finish(options, found, lines)


if __name__ == "__main__":
    main()
