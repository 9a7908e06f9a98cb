"""What is compared: fine-tuning as upstream does it, the method, the method with one part taken out, another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    `rank_by` names the subspaces that it uses (None: no surgery), `surgery` its switches, `rate` how many times the
    common learning rate it trains with.
    """

    name: str
    says: str
    rank_by: str | None = None
    surgery: Mapping[str, str] = field(default_factory=dict)
    rate: float = 1.0

    @property
    def kind(self) -> str:
        """The stage of the pipeline that trains it."""
        return "baseline" if self.rank_by is None else "method"


GUARD_RATE = 10.0
"""What bench/forgetting.py trains the input guard with: LoRA has fewer inputs to work with there."""

ARMS = {
    arm.name: arm
    for arm in (
        Arm("baseline", "LoRA fine-tuning as upstream does it, every switch off"),
        Arm("method", "gradient surgery: ICSM, HSW and Thermostat", "vulnerability"),
        Arm("no_icsm_rerank", "directions by singular value, not by vulnerability", "singular_value"),
        Arm("no_hsw", "no hook touches a gradient; drift is measured only", "vulnerability", {"hsw": "False"}),
        Arm("no_thermostat", "beta and gamma stay as given", "vulnerability", {"thermostat.enabled": "False"}),
        Arm("random_subspace", "a random orthonormal basis of the same sizes", "random"),
        Arm(
            "input_guard",
            "not the method: LoRA is held off the probe's inputs, no gradient damped, at a higher learning rate",
            "vulnerability",
            {"hsw": "False", "input_guard": "0.99"},
            GUARD_RATE,
        ),
        Arm("higher_rate", "the baseline at the learning rate of input_guard, to compare that with", rate=GUARD_RATE),
    )
}


class UnknownArm(Exception):
    """A name that is none of ARMS."""


def arms_of(text: str) -> list[Arm]:
    """The arms that `--arms` names, in the order of ARMS: names with commas between, or `all`.

    Raises UnknownArm.
    """
    names = set(ARMS) if text == "all" else {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(ARMS))
    if unknown or not names:
        raise UnknownArm(f"--arms: {', '.join(unknown) or 'no name'}; there are {', '.join(ARMS)}, and all")
    return [arm for arm in ARMS.values() if arm.name in names]
