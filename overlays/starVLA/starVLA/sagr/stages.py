"""The four stages as data: what each freezes, weighs and starts from, as arguments of upstream's train_starvla.py.

    python -m starVLA.sagr.stages PREVIOUS.pt NOW.pt PATH,PATH      says whether a stage kept what it froze

Stages come one after the other: each starts from the weights that the one before left. Only the standard library is
needed to read them; upstream does the rest by its own `trainer.freeze_modules` and `trainer.pretrained_checkpoint`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FRAMEWORK = "MapAnythingLlava3DPI"
VLM, HEAD = "qwen_vl_interface", "action_model"
GEOMETRY, FUSION, WORLD = "geometry_encoder", "fusion_module", "world_predictor"


@dataclass(frozen=True)
class Stage:
    """One run of the trainer.

    `freeze` are paths of modules; `weights` the losses that are not 0; `perturbation` the standard deviation of what
    training adds to the task tokens that the head sees; `feedback` whether feedback tokens are trained, where the
    method is to have them; `ground` the weight of the grounding loss, where the data has masks of what is named.
    """

    name: str
    says: str
    freeze: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)
    load_from_previous: bool = True
    perturbation: float = 0.0
    feedback: bool = False
    ground: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(self.weights.keys() - set(LOSSES))
        if unknown or not any(self.weights.values()):
            raise ValueError(f"stage {self.name}: weights are {self.weights}; name some of {', '.join(LOSSES)} above 0")


LOSSES = ("w_fm", "w_dyn", "w_geo", "w_reg", "w_align", "w_ground")

STAGES = (
    Stage(
        name="alignment",
        says="semantic alignment: the anchor learns what an instruction names in the geometry",
        freeze=(VLM, HEAD, WORLD),
        weights={"w_align": 1.0},
        ground=1.0,
        load_from_previous=False,
    ),
    Stage(
        name="dynamics",
        says="dynamics, self-supervised on (S_t, a_t, S_t+n): the world predictor learns what actions change",
        # What it predicts must stand still: task tokens that may move end where they are predicted best, as constants.
        freeze=(VLM, HEAD, GEOMETRY, FUSION),
        weights={"w_dyn": 1.0},
    ),
    Stage(
        name="imitation",
        says="imitation: the flow learns the demonstrated actions, the anchor what they need, the predictor goes along",
        freeze=(VLM,),
        weights={"w_fm": 1.0, "w_dyn": 0.2, "w_geo": 0.1, "w_reg": 1e-3},
        feedback=True,
        ground=0.1,
    ),
    Stage(
        name="correction",
        # No loop is closed: the demonstrated action stays the answer, whatever noise is on what the head sees.
        says="correction: imitation with small random perturbations of the task tokens that the head sees",
        freeze=(VLM, GEOMETRY),
        weights={"w_fm": 1.0, "w_dyn": 0.2, "w_geo": 0.2, "w_reg": 1e-3},
        perturbation=0.05,
        feedback=True,
        ground=0.1,
    ),
)


def overrides(
    stage: Stage, previous_checkpoint: str | None = None, *, feedback: bool = False, grounding: bool = False
) -> list[str]:
    """Dotted arguments `--key=value` that make upstream's trainer run the stage.

    Every weight is said, 0 where the stage does not have it, so that a configuration cannot mix into it. `feedback`:
    whether the method is to have feedback tokens; their module begins with the first stage that trains it. `grounding`:
    whether the data has `named_mask`.

    Raises ValueError where the stage starts from the one before and no checkpoint is named.
    """
    if stage.load_from_previous and not previous_checkpoint:
        raise ValueError(f"stage {stage.name} starts from the weights of the stage before: name its checkpoint")
    values: dict[str, object] = {"framework.name": FRAMEWORK, "framework.sagr.stage": stage.name}
    values |= {f"framework.sagr.losses.{name}": stage.weights.get(name, 0.0) for name in LOSSES}
    values["framework.sagr.losses.w_ground"] = stage.ground if grounding else 0.0
    values["framework.sagr.perturbation"] = stage.perturbation
    values["framework.action_model.enable_causal_feedback_token"] = str(feedback and stage.feedback).lower()
    values["trainer.freeze_modules"] = ",".join(stage.freeze)
    if previous_checkpoint:
        values["trainer.pretrained_checkpoint"] = previous_checkpoint
    return [f"--{key}={value}" for key, value in values.items()]


def changed(freeze: Sequence[str], previous: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is wrong with a finished stage, a line each; none where all is well.

    `previous` and `now` are state dictionaries, `freeze` the paths of the modules that were to be frozen. Upstream
    loads leniently and freezes by paths that may lead nowhere: both go by without an error, and both show in frozen
    weights that are others than before.
    """
    missing = sorted(previous.keys() - now.keys())
    problems = [f"{name}: it was in the checkpoint that the stage started from, and is gone" for name in missing[:3]]
    for path in freeze:
        if not any(name.startswith(f"{path}.") for name in now):
            problems.append(f"{path}: it was to be frozen, and the model has no such module")
        names = [name for name in previous if name.startswith(f"{path}.") and name in now]
        moved = [name for name in names if not _same(previous[name], now[name])]
        problems += [f"{name}: it was frozen, and is not what the stage started from" for name in moved[:3]]
    return problems


def _same(first: Any, second: Any) -> bool:
    import torch

    return first.dtype == second.dtype and torch.equal(first, second)


def main(arguments: list[str]) -> int:
    """0 where the stage kept what it froze, 1 where not, 2 where the arguments are wrong."""
    if len(arguments) != 3:
        print("usage: python -m starVLA.sagr.stages PREVIOUS.pt NOW.pt PATH,PATH", file=sys.stderr)
        return 2
    import torch

    previous, now = (torch.load(file, map_location="cpu", weights_only=True) for file in arguments[:2])
    problems = changed([path for path in arguments[2].split(",") if path], previous, now)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
