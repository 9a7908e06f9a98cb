"""Which modules the switches build, and whether a checkpoint was made with the same switches."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from .config import GeometryConfig, SagrConfig
from .feedback import CausalFeedback
from .fusion import FusionModule
from .geometry.depth import DepthGeometry
from .geometry.mapanything import MapAnythingGeometry
from .predictor import WorldPredictor

SWITCHES = {
    "geometry_encoder": "framework.sagr.geometry.backend",
    "fusion_module.anchor": "framework.sagr.anchor.enabled",
    "fusion_module.pool": "framework.sagr.anchor.enabled",
    "world_predictor": "framework.sagr.geometry.backend",
    "causal_feedback": "framework.action_model.enable_causal_feedback_token",
}
"""Which switch decides whether a module is built."""


def built(
    config: SagrConfig, *, text_dim: int, context_dim: int, action_dim: int, state_dim: int | None, horizon: int
) -> dict[str, nn.Module]:
    """The method's modules by the framework's names for them, in the order in which their weights are drawn.

    text_dim: width of the instruction's embeddings; context_dim: of the head's cross-attention context.
    """
    feedback, world = config.feedback, config.world
    made: dict[str, nn.Module] = {
        "geometry_encoder": geometry_encoder(config.geometry, config.dim),
        "fusion_module": FusionModule(
            text_dim,
            config.dim,
            config.dim,
            context_dim,
            slots=config.anchor.slots,
            heads=config.anchor.heads,
            dropout=config.anchor.dropout,
            anchor=config.anchor.enabled,
            feedback_scale=feedback.feedback_context_scale,
            add_feedback=feedback.causal_feedback_gate,
        ),
        "world_predictor": WorldPredictor(
            config.dim, state_dim, action_dim, horizon, world.layers, world.hidden, world.heads
        ),
    }
    if feedback.enable_causal_feedback_token:
        made["causal_feedback"] = CausalFeedback(
            config.dim,
            action_dim,
            context_dim,
            tokens=feedback.causal_feedback_token_num,
            detach_delta=feedback.causal_feedback_detach_delta,
            detach_action=feedback.causal_feedback_detach_action,
            use_valid_mask=feedback.causal_feedback_use_valid_mask,
            scale=feedback.causal_feedback_scale,
            dropout=feedback.causal_feedback_dropout,
            gate=feedback.causal_feedback_gate,
        )
    return made


def geometry_encoder(config: GeometryConfig, dim: int) -> nn.Module:
    """The back end that the configuration names. Raises ImportError where MapAnything is not installed."""
    if config.backend == "depth":
        return DepthGeometry(dim, config.patch, config.fourier, config.frame)
    return MapAnythingGeometry(dim, config.weights)


def refuse_other_switches(own: Collection[str], given: Collection[str]) -> None:
    """`own` and `given` are the names of the weights of the model and of a checkpoint.

    Raises RuntimeError naming the switch where one of the two has a module that the other lacks.
    """
    for prefix, switch in SWITCHES.items():
        here, there = (any(key.startswith(prefix + ".") for key in keys) for keys in (own, given))
        if here != there:
            has, lacks = ("this model", "the checkpoint") if here else ("the checkpoint", "this model")
            raise RuntimeError(
                f"{has} has {prefix}, {lacks} does not: set {switch} as it was when the checkpoint was made. "
                "To train from it nevertheless, name it as trainer.pretrained_checkpoint: that loads what fits"
            )
