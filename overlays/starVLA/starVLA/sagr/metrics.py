"""The method's metrics under their fixed names, read from what one pass left behind.

Nothing here waits for a GPU but `read`, which the trainer's hook calls on logging steps only. A metric whose term is
switched off (a loss of weight 0, a model that was not run) is absent, not zero. What each one is says the table in
docs/methods/sagr_flow.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .flow import FlowPass, Trace
from .guidance import Reference, ResidualGuidance
from .plan import Residual
from .timing import Timer

SPANS = {
    "train_vlm_t_ms": ("vlm_start", "vlm_end"),
    "train_temporal_sync_ms": ("sync_start", "sync_end"),
    "train_action_head_ms": ("head_start", "head_end"),
    "train_forward_total_ms": ("start", "end"),
}
"""Which marks of a training pass bound each timing."""


class GradientNorms:
    """L2 norms of the gradients that one backward pass gives to groups of parameters.

    They are taken as they arrive at the parameters: of this rank and this micro-batch, before reduction, clipping and
    the optimizer, and also where an engine (ZeRO) keeps no `.grad`.
    """

    def __init__(self, groups: Mapping[str, Iterable[nn.Parameter]]) -> None:
        self._squares: dict[str, list[Tensor]] = {name: [] for name in groups}
        self._handles = [
            parameter.register_hook(self._taker(name))
            for name, parameters in groups.items()
            for parameter in parameters
            if parameter.requires_grad
        ]

    def _taker(self, name: str):
        def take(gradient: Tensor) -> None:
            self._squares[name].append(gradient.detach().float().square().sum())

        return take

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def read(self) -> dict[str, float]:
        """Norm by group; 0 for one that got no gradient. Takes the hooks away."""
        self.remove()
        return {name: float(torch.stack(parts).sum().sqrt()) if parts else 0.0 for name, parts in self._squares.items()}


@dataclass
class Record:
    """What one training pass leaves for the log, still on its device."""

    timer: Timer
    gradients: GradientNorms
    losses: dict[str, Tensor] = field(default_factory=dict)
    monitors: dict[str, Tensor] = field(default_factory=dict)
    feedback_enabled: bool = False
    feedback_tokens: Tensor | None = None  # [B, Kf, width]
    feedback_delta: Tensor | None = None  # [B, D]: mean over slots of after - before
    feedback_valid: Tensor | None = None  # [B] bool

    def read(self) -> dict[str, float]:
        """Every metric of the pass that was measured. Waits for the device; call it after the backward pass."""
        found = {f"debug/timing/{name}": value for name, value in self._timings().items()}
        found |= {f"debug/sagr/{name}": float(value) for name, value in self.monitors.items()}
        found |= self._feedback()
        norms = self.gradients.read()
        found |= {f"debug/grad_norm/{name}_group_l2": value for name, value in norms.items()}
        if norms["cfm"] > 0:
            found["debug/grad_norm/geo_over_cfm_ratio_proxy"] = norms["geo"] / norms["cfm"]
        return found | {f"loss/{name}": float(value) for name, value in self.losses.items()}

    def _timings(self) -> dict[str, float]:
        found = {name: self.timer.ms(*span) for name, span in SPANS.items() if all(mark in self.timer for mark in span)}
        total, seeing = found["train_forward_total_ms"], found.get("train_vlm_t_ms")
        following = found.get("train_temporal_sync_ms")
        if following is not None:
            # The vision-language model is never shown the next frame: all that this costs is in the sync.
            found["train_vlm_tk_ms"] = 0.0
            found["temporal_sync_ratio"] = following / total
        if seeing is not None:
            found["train_vlm_total_ms"] = seeing
            found["vlm_forward_ratio"] = seeing / total
        if seeing is not None and following is not None:
            found["vlm_tk_over_vlm_t"] = found["train_vlm_tk_ms"] / seeing
        return found

    def _feedback(self) -> dict[str, float]:
        applied = self.feedback_tokens is not None
        number = self.feedback_tokens.shape[1] if applied else 0
        found = {
            "debug/causal_feedback/enabled": float(self.feedback_enabled),
            "debug/causal_feedback/applied": float(applied),
            "debug/causal_feedback/token_num": float(number),
            "debug/sagr/feedback_token_num": float(number),
        }
        if applied:
            rows = self.feedback_valid
            norm = float(_mean_norm(self.feedback_tokens.flatten(0, 1), None if rows is None else _each(rows, number)))
            found["debug/causal_feedback/token_norm_mean"] = found["debug/sagr/feedback_token_norm_mean"] = norm
            found["debug/causal_feedback/delta_z_norm_mean"] = float(_mean_norm(self.feedback_delta, rows))
        return found


def _each(rows: Tensor, times: int) -> Tensor:
    return rows.repeat_interleave(times)


def _mean_norm(vectors: Tensor, rows: Tensor | None) -> Tensor:
    """Mean of the norms of `vectors [N, D]` over the rows that are True; 0 where none is."""
    norms = torch.linalg.vector_norm(vectors.detach().float(), dim=-1)
    if rows is None:
        return norms.mean()
    return norms.masked_fill(~rows, 0.0).sum() / rows.sum().clamp_min(1)


class Observer:
    """Says whether the next training pass is to be recorded, and holds the record of the last. The first pass is.

    `stage` names the lines of `metrics.jsonl`.
    """

    def __init__(self, stage: str | None = None) -> None:
        self.stage, self.active = stage, True
        self.record: Record | None = None

    def begin(self, module: nn.Module, groups: Mapping[str, Iterable[nn.Module]]) -> Timer:
        """Starts a pass of `module`; its timer, which keeps nothing where the pass is not recorded."""
        if self.record is not None:
            self.record.gradients.remove()
        device = next(module.parameters()).device
        timer = Timer(device, self.active and module.training)
        self.record = None
        if timer.enabled:
            parameters = {name: [p for m in parts for p in m.parameters()] for name, parts in groups.items()}
            self.record = Record(timer, GradientNorms(parameters))
        timer.mark("start")
        return timer


class TimedFlow(FlowPass):
    """A FlowPass that marks `corrected` where the first corrected velocity is there."""

    def __init__(self, timer: Timer, guidance: ResidualGuidance, reference: Reference | None) -> None:
        super().__init__(guidance, reference)
        self._timer = timer

    def guide(self, actions: Tensor, velocity: Tensor, t: float) -> Tensor:
        guided = super().guide(actions, velocity, t)
        if guided is not velocity:
            self._timer.mark("corrected")
        return guided


def inference_metrics(
    timer: Timer, trace: Trace, execute_steps: int, control_hz: float, residual: Residual | None = None
) -> dict[str, object]:
    """`timing/*` and `geo/*` of one `predict_action`. Times in milliseconds; traces are means over the batch.

    `residual` is the observed one, of `Plan.compare`: delta_z_norm_trace is its norm, one number, as it is known when
    the call begins; the other traces have one number an Euler step. Without a plan, or without guidance, they are empty
    and the drift's timings absent. effective_control_hz: control steps that a second of calls gives actions for. The
    estimates: drift_freshness_ms_est, the age of the observation when it first corrects; command_overlap_ratio_est, how
    many calls fit into the time in which k actions are executed; phase_shift_steps_est, how many control steps pass
    during one call.
    """
    total, perception = timer.ms("start", "end"), timer.ms("start", "perceived")
    period = 1e3 / control_hz
    found: dict[str, object] = {
        "timing/perception_ms": perception,
        "timing/geometric_latency_ms": timer.ms("geometry_start", "geometry_end"),
        "timing/effective_control_hz": execute_steps / (total / 1e3),
        "timing/command_overlap_ratio_est": execute_steps * period / total,
        "timing/phase_shift_steps_est": total / period,
    }
    if "corrected" in timer:
        lag = timer.ms("perceived", "corrected")
        found["timing/drift_response_lag_ms"] = lag
        found["timing/drift_freshness_ms_est"] = perception + lag
    norms = [] if residual is None else [torch.linalg.vector_norm(residual.difference, dim=(1, 2))]
    traces = {"delta_z_norm_trace": norms, "energy_trace": trace.energy, "drift_action_cos_trace": trace.cosine}
    return found | {f"geo/{name}": [float(step.mean()) for step in steps] for name, steps in traces.items()}
