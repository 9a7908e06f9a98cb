"""Training on two ranks, each with data of its own: DDP over gloo, through upstream's trainer on the grafted stand-in.

What a rank decides from its data must not set it apart: gradients and weights are the same bytes on both after every
step, in each of the four stages and with all losses at once; every parameter of the method that is trained takes part
in every step, so that DDP waits for none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sagr.stages import LOSSES, STAGES, overrides
from test_stages import SMALL, weights
from toy import Toy

from tests.standins.starvla_project import REPOSITORY, TRAIN, Ran, StarVLAProject

STEPS, RANKS = 4, 2
OWN = ("geometry_encoder.", "fusion_module.", "world_predictor.", "causal_feedback.")
NAMES = [stage.name for stage in STAGES]
Lines = list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def train(project: StarVLAProject, toy: Toy) -> Callable[..., tuple[Ran, Lines]]:
    """The trainer on two ranks, and what each of them wrote; see ranked.py for `given` and `blind`."""

    def run(cwd: Path, *options: str, given: tuple[str, ...] = (), blind: bool = False) -> tuple[Ran, Lines]:
        script = str(REPOSITORY / "tests" / "starvla" / "ranked.py")
        arguments = [str(cwd), str(project.patched / TRAIN), "--config_yaml", str(toy.config), *SMALL, *options]
        arguments += [f"--trainer.max_train_steps={STEPS}", "--datasets.vla_data.per_device_batch_size=4"]
        env = {"PYTHONPATH": str(project.patched), "GIVEN": json.dumps(given), "BLIND": str(int(blind))}
        ran = project.run(script, *arguments, cwd=cwd, ranks=RANKS, env=env).check()
        written = [(cwd / f"{rank}.jsonl").read_text().splitlines() for rank in range(RANKS)]
        return ran, [[json.loads(line) for line in lines] for lines in written]

    return run


@pytest.fixture(scope="module")
def stages(train: Callable[..., tuple[Ran, Lines]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lines]:
    """Each stage from the weights that two ranks left in the one before."""
    runs: dict[str, Lines] = {}
    previous = None
    for stage in STAGES:
        cwd = tmp_path_factory.mktemp("ranks") / stage.name
        ran, runs[stage.name] = train(cwd, *overrides(stage, previous, feedback=True), f"--run_id={stage.name}")
        previous = str(weights(ran, stage.name))
    return runs


def check_equal(ranks: Lines) -> None:
    first, second = ranks
    assert len(first) == len(second) == STEPS
    for key in ("gradients", "weights"):
        assert [line[key] for line in first] == [line[key] for line in second]
        assert len({line[key] for line in first}) == STEPS
    # Otherwise equality would prove nothing.
    assert all(one["loss"] != other["loss"] for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_weights_are_equal_on_both_ranks(stages: dict[str, Lines], name: str) -> None:
    check_equal(stages[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_parameter_of_the_method_gets_a_gradient(stages: dict[str, Lines], name: str) -> None:
    """What upstream leaves without one is upstream's: the head's last layers, in QwenPI too."""
    for line in (line for rank in stages[name] for line in rank):
        assert [each for each in line["without"] if each.startswith(OWN)] == []


EVERY = (
    *(f"--framework.sagr.losses.{name}=1" for name in LOSSES if name != "w_ground"),
    *("--framework.name=MapAnythingLlava3DPI", "--framework.sagr.perturbation=0.05"),
    *(
        "--framework.action_model.enable_causal_feedback_token=true",
        "--framework.action_model.causal_feedback_gate=true",
    ),
)


@pytest.fixture(scope="module")
def every(train: Callable[..., tuple[Ran, Lines]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Lines]:
    """All losses that need no masks, feedback tokens with their gate, nothing frozen."""
    return train(tmp_path_factory.mktemp("every") / "run", *EVERY)


def test_all_losses_at_once(every: tuple[Ran, Lines]) -> None:
    _, ranks = every
    check_equal(ranks)
    assert [name for line in ranks[0] for name in line["without"] if name.startswith(OWN)] == []


def test_the_main_rank_alone_writes_the_metrics(every: tuple[Ran, Lines]) -> None:
    ran, ranks = every
    rows = [json.loads(line) for line in ran.one("**/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["loss/total"] for row in rows] == [float.fromhex(line["loss"]) for line in ranks[0]]
    assert {f"loss/{name[2:]}" for name in LOSSES if name != "w_ground"} <= rows[0].keys()
    assert [line["action_dit_loss"] for line in ran.logged()] == [row["loss/total"] for row in rows]


@pytest.mark.parametrize("name", ["alignment", "correction"])
def test_ddp_that_looks_for_no_unused_parameter_does_not_stop(
    name: str, stages: dict[str, Lines], train: Callable[..., tuple[Ran, Lines]], tmp_path: Path
) -> None:
    """With what upstream leaves unused out of its sight; without that it stops at the second step."""
    stage = STAGES[NAMES.index(name)]
    fresh = [each for each in overrides(stage, "none", feedback=True) if "pretrained_checkpoint" not in each]
    unused = tuple(stages[name][0][0]["without"]) or ("nothing",)
    _, ranks = train(tmp_path / "run", *fresh, given=unused)
    check_equal(ranks)
    if unused != ("nothing",):
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            train(tmp_path / "stops", *fresh, given=("nothing",))


def test_a_rank_without_any_next_or_earlier_frame_keeps_up(
    every: tuple[Ran, Lines], train: Callable[..., tuple[Ran, Lines]], tmp_path: Path
) -> None:
    """Its losses on transitions are zeros with a graph: DDP would wait for ever, or stop, for a parameter without."""
    unused = tuple(every[1][0][0]["without"])
    _, ranks = train(tmp_path / "run", *EVERY, given=unused, blind=True)
    check_equal(ranks)
    assert ranks[0][0]["loss"] == every[1][0][0]["loss"]
    assert ranks[1][0]["loss"] != every[1][1][0]["loss"]
