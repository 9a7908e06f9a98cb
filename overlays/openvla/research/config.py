"""The switches of gradient surgery: a nested field of upstream's own configuration, off by default.

``python vla-scripts/finetune.py --surgery.enabled True --surgery.subspace_dir artifacts/icms_openvla7b ...``

draccus reads the annotations as they stand, so they are classes here and not strings.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What switches, logs, resumes or refuses a run, and decides none of its numbers.
_NO_NUMBERS = ("enabled", "log_every", "resume", "allow_other_teacher")


def _unit(name: str, low: float, high: float) -> None:
    """Raise ``ValueError`` unless ``0 <= low <= high <= 1``: a factor above one would amplify a gradient."""
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"surgery: {name} must satisfy 0 <= min <= max <= 1, got {low} and {high}")


@dataclass
class ThermostatConfig:
    """How beta and gamma follow the drift of the probe set's hidden states.

    The method's authors fix what is measured (the covariance of the pooled states) and that both factors fall with it;
    the figures are this project's: the middle of each range is the constant that is used without a thermostat.
    """

    enabled: bool = True
    every: int = 200  # optimizer steps from one measurement to the next
    samples: int = 64  # probe samples a measurement, over all ranks together
    batch_size: int = 16  # samples a forward on one rank: bounds the memory that a measurement takes
    cold_start: int = 3  # measurements that are recorded and steer nothing
    smoothing: float = 0.8  # weight of the past in the moving average of the drift, bias-corrected as in Adam
    drift_low: float | None = None  # relative drift at which damping begins to rise; None: from the cold start
    drift_high: float | None = None  # relative drift from which it is strongest; None: from the cold start
    beta_min: float = 0.2
    beta_max: float = 0.8
    gamma_min: float = 0.0
    gamma_max: float = 0.2

    def validate(self) -> None:
        """Raise ``ValueError`` naming the field that cannot work."""
        for name in ("every", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"surgery.thermostat.{name} must be at least 1, got {getattr(self, name)}")
        if self.samples < 2:
            raise ValueError("surgery.thermostat.samples must be at least 2: one sample has no covariance")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"surgery.thermostat.smoothing must lie in [0, 1), got {self.smoothing}")
        _unit("thermostat.beta_min, beta_max", self.beta_min, self.beta_max)
        _unit("thermostat.gamma_min, gamma_max", self.gamma_min, self.gamma_max)
        if (self.drift_low is None) != (self.drift_high is None):
            raise ValueError("surgery.thermostat: give drift_low and drift_high both, or neither")
        if self.drift_low is not None and self.drift_high is not None and not 0 <= self.drift_low < self.drift_high:
            raise ValueError(
                f"surgery.thermostat: 0 <= drift_low < drift_high, got {self.drift_low} and {self.drift_high}"
            )
        if self.cold_start < (2 if self.drift_low is None else 0):
            raise ValueError(
                "surgery.thermostat.cold_start must be at least 2 where it has to find the drift's range: the first "
                "measurement is taken before the first step, where nothing has changed yet"
            )


@dataclass
class SurgeryConfig:
    """Gradient surgery as a whole. ``enabled=False`` is the upstream, bit for bit."""

    enabled: bool = False
    subspace_dir: Path = Path("artifacts/icms_openvla7b")  # what `python -m research.icms.offline_icms` wrote
    probe_dir: Path = Path("artifacts/probe_openvla7b")  # the probe set that the subspaces were made with
    beta: float = 0.5  # factor on the plastic component; the constant without a thermostat, the start with one
    gamma: float = 0.1  # factor on the fragile component, likewise
    hsw: bool = True  # False: measure only, no gradient is changed (ablation)
    thermostat: ThermostatConfig = field(default_factory=ThermostatConfig)
    # Share of the probe inputs' energy that LoRA may not touch, see research/hooks/input_guard.py; 0: off. It is ours,
    # not the method's: 0.99 with ten times the learning rate is what bench/forgetting.py runs.
    input_guard: float = 0.0
    guard_actions: int = 7  # the model's own tokens behind each probe prompt; openvla's action has seven
    # Inputs that a layer takes of each probe batch, to find its directions in. Fewer rows than the layer has inputs
    # hold all of themselves and less of other samples; what the directions hold there is in metrics.jsonl's first line.
    # More cost time and no memory: that is 8 D^2 bytes for a layer of D inputs on the main rank's device (134 MB for
    # 4096, 969 MB for 11008), 8 GiB at a time, however many samples there are (research/hooks/input_basis.py).
    guard_rows: int = 256
    log_every: int = 10  # optimizer steps; upstream logs to wandb every 10
    seed: int = 7  # order in which the probe set is gone through
    allow_other_teacher: bool = False  # True: start from another model than theirs, or its 4-bit copy
    resume: Path | None = None  # folder of a saved adapter with its gradient_surgery.pt, see research/checkpoint.py

    def validate(self) -> None:
        """Raise ``ValueError`` naming the field that cannot work."""
        _unit("beta", self.beta, self.beta)
        _unit("gamma", self.gamma, self.gamma)
        if self.log_every < 1:
            raise ValueError(f"surgery.log_every must be at least 1, got {self.log_every}")
        self.thermostat.validate()
        if not 0.0 <= self.input_guard < 1.0:
            raise ValueError(f"surgery.input_guard is a share in [0, 1), got {self.input_guard}: 1 leaves nothing")
        for name in ("guard_actions", "guard_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"surgery.{name} must be at least 1, got {getattr(self, name)}")
        if not self.hsw and not self.thermostat.enabled and not self.input_guard:
            raise ValueError(
                "surgery: with neither hsw nor the thermostat nor input_guard there is nothing to do; set enabled=False"
            )

    def settings(self) -> dict[str, Any]:
        """What decides the numbers of a run, in plain types."""
        plain = json.loads(json.dumps(asdict(self), default=str, sort_keys=True))
        return {key: value for key, value in plain.items() if key not in _NO_NUMBERS}

    def tag(self) -> str:
        """The end of a run's name: empty when off, so that a baseline's folder is what upstream calls it.

        Eight characters of a digest of every setting: no two different runs share a folder, a resumed run has its first
        run's name, and upstream's name still fits into the 128 characters that wandb allows. The first line of the
        run's metrics.jsonl says which settings they are.
        """
        if not self.enabled:
            return ""
        text = json.dumps(self.settings(), sort_keys=True)
        return f"+surgery-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
