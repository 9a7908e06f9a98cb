"""Which part of the real policy each term of the loss trains, and what the training pass does besides."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from observations import sample

PARTS = {
    "vlm": "qwen_vl_interface.",
    "head": "action_model.",
    "encoder": "geometry_encoder.",
    "anchor's text attention": "fusion_module.anchor.read_text.query",
    "anchor's geometry attention": "fusion_module.anchor.read_geometry.query",
    "predictor": "world_predictor.",
    "feedback": "causal_feedback.",
}
ANCHOR = {"encoder", "anchor's text attention", "anchor's geometry attention"}
NONE = {"w_fm": 0.0, "w_dyn": 0.0, "w_geo": 0.0, "w_reg": 0.0, "w_align": 0.0, "w_ground": 0.0}


@pytest.fixture
def learner(policy: Any) -> Any:
    return copy.deepcopy(policy).train()


def weigh(learner: Any, **weights: float) -> None:
    from starVLA.sagr.losses import SagrLosses

    losses = type(learner.sagr.losses)(**{**NONE, **weights})
    learner.sagr = replace(learner.sagr, losses=losses)
    learner.losses = SagrLosses(losses, learner.sagr.guidance)


def forward(learner: Any, **changes: Any) -> dict[str, Any]:
    torch.manual_seed(5)
    return learner([{**sample(offset, number), **changes} for number, offset in enumerate((-0.4, 0.1, 0.6))])


@pytest.mark.parametrize(
    ("term", "trains"),
    [
        ("w_fm", {"vlm", "head", "feedback", *ANCHOR}),
        ("w_dyn", {"predictor"}),
        ("w_geo", {"vlm", "head", "feedback", *ANCHOR}),
        ("w_reg", {"vlm", "head", "feedback", *ANCHOR}),
        ("w_align", {"vlm", *ANCHOR}),
        ("w_ground", {"vlm", *ANCHOR}),
    ],
)
def test_what_each_term_trains(term: str, trains: set[str], learner: Any) -> None:
    """The vision-language model is among them through the instruction's embeddings, where nothing else."""
    weigh(learner, **{term: 1.0})
    forward(learner)["action_loss"].backward()
    found = {
        part
        for part, prefix in PARTS.items()
        for name, parameter in learner.named_parameters()
        if name.startswith(prefix) and parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    assert found == trains


def test_grounding_wants_a_mask_and_falls_as_the_attention_learns(learner: Any) -> None:
    weigh(learner, w_ground=1.0)
    with pytest.raises(ValueError, match=r"view\(s\) \[0\] have no 'named_mask': sagr.losses.w_ground needs one"):
        forward(learner, named_mask=None)
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = forward(learner)["loss_ground"]
        losses.append(float(loss))
        optimizer.zero_grad()
        forward(learner)["action_loss"].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_samples_at_the_end_of_an_episode_do_not_count(learner: Any) -> None:
    weigh(learner, w_dyn=1.0)
    assert float(forward(learner)["action_loss"].detach()) > 0
    assert float(forward(learner, valid_tk=0.0)["action_loss"].detach()) == 0.0


def test_only_touching_samples_are_charged_by_l_geo(learner: Any) -> None:
    weigh(learner, w_fm=1.0, w_geo=1.0)
    assert float(forward(learner, contact=1.0)["loss_geo"]) > 0
    assert float(forward(learner, contact=0.0)["loss_geo"]) == 0.0


def test_feedback_of_no_chunk_before_is_no_feedback(learner: Any) -> None:
    """The first steps of an episode are trained as they are sampled: without feedback tokens in the context."""
    weigh(learner, w_fm=1.0)
    absent = forward(learner, valid_tp=0.0)["action_loss"].item()
    assert forward(learner)["action_loss"].item() != absent
    feedback = replace(learner.sagr.feedback, enable_causal_feedback_token=False)
    learner.sagr = replace(learner.sagr, feedback=feedback)
    assert forward(learner)["action_loss"].item() == pytest.approx(absent, rel=1e-5)


def test_perturbation_is_for_training_alone(learner: Any) -> None:
    weigh(learner, w_fm=1.0)
    plain = [forward(learner.train(mode))["action_loss"].item() for mode in (True, False)]
    learner.sagr = replace(learner.sagr, perturbation=0.1)
    perturbed = [forward(learner.train(mode))["action_loss"].item() for mode in (True, False)]
    assert perturbed[0] != plain[0]
    assert perturbed[1] == plain[1]


def test_the_predictor_learns_from_tokens_without_the_perturbation(learner: Any) -> None:
    weigh(learner, w_dyn=1.0)
    plain = forward(learner)["action_loss"].item()
    learner.sagr = replace(learner.sagr, perturbation=0.5)
    assert forward(learner)["action_loss"].item() == plain
