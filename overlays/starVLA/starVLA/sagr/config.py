"""The switches of SA-GR Flow: `framework.sagr` and eight keys of `framework.action_model`, all off by default.

    --framework.name MapAnythingLlava3DPI --framework.sagr.geometry.backend depth --framework.sagr.guidance.enabled true

Upstream's run folder keeps the keys that were read, and `from_pretrained` builds the model from those: `read` reads
every one, whatever the others say.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from .replan import refuse_unreachable


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


def _within(default: Any, low: float, high: float = float("inf"), *, optional: bool = False) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "optional": optional})


@dataclass(frozen=True)
class GeometryConfig:
    """Where geometry tokens come from. `none` is QwenPI, bit for bit."""

    backend: str = _choice("none", "depth", "mapanything")
    patch: int = _within(16, 1)  # pixels a side of a token, back end depth
    fourier: int = _within(6, 0)  # wavelengths 2 m, 1 m, ... of the Fourier features, back end depth
    weights: str = "facebook/map-anything-apache"  # a hub name or folder, back end mapanything; mind its licence
    frame: str = _choice("world", "camera")  # world: camera poses are applied


@dataclass(frozen=True)
class AnchorConfig:
    """How geometry tokens become task tokens; off: their mean, whatever the instruction says."""

    enabled: bool = True
    slots: int = _within(16, 1)
    heads: int = _within(8, 1)
    dropout: float = _within(0.0, 0.0, 0.99)  # 1 lets nothing through


@dataclass(frozen=True)
class WorldConfig:
    """The world predictor's size; the sizes are the published ones."""

    layers: int = _within(4, 1)
    hidden: int = _within(512, 1)
    heads: int = _within(8, 1)


@dataclass(frozen=True)
class GuidanceConfig:
    """The drift that is added in each Euler step of a chunk that has a plan before it."""

    enabled: bool = False
    eta: float = _within(1.0, 0.0)
    step: str = _choice("line_search", "fixed")  # line_search: eta 1 goes to the energy's minimum along the drift
    schedule: str = _choice("constant", "linear", "cosine")
    max_norm: float = _within(1.0, 0.0)  # cap on ||b|| / ||v||
    reference: str = _choice("plan", "observed")  # observed: an ablation, see plan.py


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss's terms; a stage sets them."""

    w_fm: float = _within(1.0, 0.0)
    w_dyn: float = _within(0.2, 0.0)
    w_geo: float = _within(0.1, 0.0)
    w_reg: float = _within(1e-3, 0.0)
    w_align: float = _within(0.0, 0.0)
    w_ground: float = _within(0.0, 0.0)  # needs the examples' named_mask

    @property
    def flow(self) -> bool:
        """Whether the action head must run."""
        return self.w_fm > 0 or self.w_geo > 0 or self.w_reg > 0

    @property
    def transition(self) -> bool:
        """Whether the next frame is needed."""
        return self.w_dyn > 0 or self.w_geo > 0 or self.w_reg > 0


@dataclass(frozen=True)
class ReplanConfig:
    """For `replan.ReplanningController`."""

    tau: float = _within(2.5, 0.0)
    max_restarts: int = _within(2, 0)
    floor: float = _within(0.1, 1e-6, 1.0)


@dataclass(frozen=True)
class FeedbackConfig:
    """Path A, under the keys of `framework.action_model` that the method's public forks use; the gate is ours."""

    enable_causal_feedback_token: bool = False
    causal_feedback_token_num: int = _within(1, 1)
    causal_feedback_detach_delta: bool = True
    causal_feedback_detach_action: bool = True
    causal_feedback_use_valid_mask: bool = True
    causal_feedback_scale: float = _within(1.0, 0.0)
    causal_feedback_dropout: float = _within(0.0, 0.0, 0.99)
    feedback_context_scale: float = _within(1.0, 0.0)
    causal_feedback_gate: bool = False


@dataclass(frozen=True)
class SagrConfig:
    """Everything below `framework.sagr`, and `feedback` from `framework.action_model`."""

    dim: int = _within(256, 1)  # width of geometry and task tokens
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    replan: ReplanConfig = field(default_factory=ReplanConfig)
    execute_steps: int | None = _within(None, 1, optional=True)  # k; None: half of the chunk
    control_hz: float = _within(20.0, 1e-3)  # the robot's rate, for the estimates among the timings
    perturbation: float = _within(0.0, 0.0)  # standard deviation of what training adds to task tokens (of scale 1)
    stage: str | None = field(default=None, metadata={"optional": True})  # a name for the records
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)

    @property
    def active(self) -> bool:
        return self.geometry.backend != "none"

    def executed(self, horizon: int) -> int:
        """k, how many actions of a chunk of `horizon` are executed."""
        return max(1, horizon // 2) if self.execute_steps is None else self.execute_steps


def defaults() -> dict[str, Any]:
    """`framework.sagr` as a plain nested dictionary."""
    return {name: value for name, value in asdict(SagrConfig()).items() if name != "feedback"}


def feedback_defaults() -> dict[str, Any]:
    """The keys that join `framework.action_model`."""
    return asdict(FeedbackConfig())


def read(framework: Any) -> SagrConfig:
    """The typed configuration of a merged `framework` node (OmegaConf, upstream's tracking wrapper, or dictionaries).

    Raises ValueError naming the key, the value and what it may be, for values out of range or of another type, for
    keys of `framework.sagr` that do not exist, and for switches that need another one.
    """
    action_model = framework["action_model"]
    feedback = _read(FeedbackConfig, action_model, "framework.action_model")
    known = [entry for entry in fields(SagrConfig) if entry.name != "feedback"]
    config = _read(SagrConfig, framework["sagr"], "framework.sagr", known, feedback=feedback)
    _consistent(config, int(action_model["action_horizon"]))
    return config


def _read(kind: type, node: Any, path: str, known: Any = None, **given: Any) -> Any:
    known = fields(kind) if known is None else known
    if not hasattr(node, "keys"):
        raise ValueError(f"{path} is {node!r}: it must be a group of keys")
    present = set(node.keys())
    # action_model is upstream's and holds keys of its own, none of them about feedback.
    ours = {key for key in present if path.startswith("framework.sagr") or "feedback" in str(key)}
    unknown = sorted(ours - {entry.name for entry in known})
    if unknown:
        raise ValueError(f"{path}.{unknown[0]} is no key; there are {', '.join(entry.name for entry in known)}")
    for entry in known:
        place = f"{path}.{entry.name}"
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        value = node[entry.name] if entry.name in present else default
        if is_dataclass(default):
            given[entry.name] = default if value is default else _read(type(default), value, place)
        else:
            given[entry.name] = _checked(value, default, str(entry.type), entry.metadata, place)
    return kind(**given)


def _checked(value: Any, default: Any, kind: str, rule: Mapping[str, Any], place: str) -> Any:
    if value is None and rule.get("optional"):
        return None
    wanted = kind.removesuffix(" | None")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        "bool": isinstance(value, bool),
        "int": number and float(value).is_integer(),
        "float": number,
        "str": isinstance(value, str),
    }[wanted]
    if not fits:
        raise ValueError(f"{place} is {value!r}: it must be a {wanted}; the default is {default!r}")
    value = {"bool": bool, "int": int, "float": float, "str": str}[wanted](value)
    if "choices" in rule and value not in rule["choices"]:
        raise ValueError(f"{place} is {value!r}: choose one of {', '.join(rule['choices'])}")
    if "low" in rule and not (rule["low"] <= value <= rule["high"] and value != float("inf")):
        bound = f"at least {rule['low']}" if rule["high"] == float("inf") else f"in [{rule['low']}, {rule['high']}]"
        raise ValueError(f"{place} is {value!r}: it must be {bound}; the default is {default!r}")
    return value


def _consistent(config: SagrConfig, horizon: int) -> None:
    on = {
        "framework.sagr.guidance.enabled": config.guidance.enabled,
        "framework.action_model.enable_causal_feedback_token": config.feedback.enable_causal_feedback_token,
    }
    for key, value in on.items():
        if value and not config.active:
            raise ValueError(f"{key} is on, framework.sagr.geometry.backend is none: set that to depth or mapanything")
    if config.losses.w_ground > 0 and not (config.active and config.anchor.enabled):
        raise ValueError(
            "framework.sagr.losses.w_ground is above 0, but there is no anchor whose attention it could teach: set "
            "framework.sagr.anchor.enabled and a geometry.backend, or w_ground to 0"
        )
    if not config.feedback.causal_feedback_detach_action:
        warnings.warn(
            "framework.action_model.causal_feedback_detach_action is false, which changes nothing: feedback tells of "
            "actions that were executed, and no gradient leads through those",
            stacklevel=3,
        )
    refuse_unreachable(config.replan.tau, config.replan.floor)
    steps = config.executed(horizon)
    most = horizon - 1 if config.guidance.enabled and config.guidance.reference == "plan" else horizon
    if not 1 <= steps <= most:
        raise ValueError(
            f"framework.sagr.execute_steps is {steps}: with action_horizon {horizon} it must lie in 1..{most}"
            + ("; guidance needs actions of the old chunk that are still to come" if most < horizon else "")
        )
