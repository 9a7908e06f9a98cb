"""The switches: defaults are off, each is read, and what cannot work is refused by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from omegaconf import OmegaConf
from sagr.config import FeedbackConfig, SagrConfig, defaults, feedback_defaults, read


def framework(*changes: str) -> Any:
    """A merged `framework` node with dotted changes."""
    action_model = {"action_dim": 7, "action_horizon": 8, "hidden_size": 64, **feedback_defaults()}
    node = OmegaConf.create({"framework": {"name": "X", "action_model": action_model, "sagr": defaults()}})
    return OmegaConf.merge(node, OmegaConf.from_dotlist(list(changes))).framework


class Seen(dict):
    """A dictionary that notes which keys were asked for, as upstream's wrapper does."""

    def __init__(self, given: dict[str, Any], place: str, asked: set[str]) -> None:
        super().__init__({k: Seen(v, f"{place}{k}.", asked) if isinstance(v, dict) else v for k, v in given.items()})
        self.place, self.asked = place, asked

    def __getitem__(self, key: str) -> Any:
        self.asked.add(self.place + key)
        return super().__getitem__(key)


def leaves(given: dict[str, Any], place: str = "") -> set[str]:
    found = set()
    for key, value in given.items():
        found |= leaves(value, f"{place}{key}.") if isinstance(value, dict) else {place + key}
    return found


def test_the_defaults_are_off_and_the_same_read_back():
    config = read(framework())
    assert config == SagrConfig()
    assert not config.active
    assert not config.guidance.enabled
    assert not config.feedback.enable_causal_feedback_token


def test_every_key_is_read():
    asked: set[str] = set()
    plain = OmegaConf.to_container(framework())
    read(Seen(plain, "", asked))
    wanted = {f"sagr.{key}" for key in leaves(defaults())} | {
        f"action_model.{entry.name}" for entry in fields(FeedbackConfig)
    }
    assert wanted <= asked
    assert len(wanted) > 35


def test_values_arrive_typed():
    config = read(
        framework("framework.sagr.geometry.backend=depth", "framework.sagr.guidance.eta=1", "framework.sagr.dim=32")
    )
    assert config.active
    assert (config.guidance.eta, type(config.guidance.eta), config.dim) == (1.0, float, 32)


@pytest.mark.parametrize(("steps", "horizon", "expected"), [("null", 8, 4), ("null", 1, 1), ("3", 8, 3), ("8", 8, 8)])
def test_how_many_actions_are_executed(steps: str, horizon: int, expected: int):
    config = read(
        framework(f"framework.sagr.execute_steps={steps}", f"framework.action_model.action_horizon={horizon}")
    )
    assert config.executed(horizon) == expected


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("framework.sagr.geometry.backend=lidar", "sagr.geometry.backend is 'lidar': choose one of none, depth"),
        ("framework.sagr.anchor.slots=0", "sagr.anchor.slots is 0: it must be at least 1; the default is 16"),
        ("framework.sagr.anchor.slots=2.5", "sagr.anchor.slots is 2.5: it must be a int"),
        ("framework.sagr.anchor.dropout=1.5", r"sagr.anchor.dropout is 1.5: it must be in \[0.0, 0.99\]"),
        ("framework.sagr.anchor.dropout=1.0", "sagr.anchor.dropout is 1.0: it must be in"),
        ("framework.action_model.causal_feedback_dropout=1.0", "causal_feedback_dropout is 1.0: it must be in"),
        ("framework.sagr.replan.floor=0.4", "replan.tau is 2.5 and floor 0.4: RRR is at most 1 / floor = 2.5, so noth"),
        ("framework.sagr.replan.tau=10", "sagr.replan.tau is 10.0 and floor 0.1: RRR is at most"),
        ("framework.sagr.losses.w_geo=-1", "sagr.losses.w_geo is -1"),
        ("framework.sagr.guidance.eta=.inf", "sagr.guidance.eta is inf"),
        ("framework.sagr.guidance.eta=.nan", "sagr.guidance.eta is nan"),
        ("framework.sagr.guidance.enabled=1", "sagr.guidance.enabled is 1: it must be a bool"),
        ("framework.sagr.guidance.enbled=true", "sagr.guidance.enbled is no key; there are enabled, eta"),
        ("framework.sagr.anchor=null", "sagr.anchor is None: it must be a group"),
        ("framework.sagr.guidance.enabled=true", "guidance.enabled is on, framework.sagr.geometry.backend is none"),
        ("framework.action_model.enable_causal_feedback_token=true", "token is on, framework.sagr.geometry.backend is"),
        ("framework.action_model.causal_feedback_token_num=0", "action_model.causal_feedback_token_num is 0"),
        ("framework.action_model.causal_feedback_detach_deltas=false", "causal_feedback_detach_deltas is no key"),
        ("framework.action_model.feedback_scale=2", "action_model.feedback_scale is no key; there are enable"),
        ("framework.sagr.execute_steps=9", r"execute_steps is 9: with action_horizon 8 it must lie in 1..8"),
    ],
)
def test_what_cannot_work_is_refused_by_name(change: str, says: str):
    with pytest.raises(ValueError, match=says):
        read(framework(change))


def test_detaching_no_more_from_what_has_no_gradient_is_said() -> None:
    with pytest.warns(UserWarning, match="detach_action is false, which changes nothing"):
        config = read(framework("framework.action_model.causal_feedback_detach_action=false"))
    assert not config.feedback.causal_feedback_detach_action


def test_guidance_needs_actions_that_are_still_to_come():
    on = ("framework.sagr.geometry.backend=depth", "framework.sagr.guidance.enabled=true")
    read(framework(*on, "framework.sagr.execute_steps=7"))
    with pytest.raises(ValueError, match=r"it must lie in 1\.\.7; guidance needs actions"):
        read(framework(*on, "framework.sagr.execute_steps=8"))
    read(framework(*on, "framework.sagr.execute_steps=8", "framework.sagr.guidance.reference=observed"))


def test_grounding_needs_an_anchor():
    wanted = ("framework.sagr.geometry.backend=depth", "framework.sagr.losses.w_ground=1")
    assert read(framework(*wanted)).losses.w_ground == 1.0
    with pytest.raises(ValueError, match="w_ground is above 0, but there is no anchor"):
        read(framework(*wanted, "framework.sagr.anchor.enabled=false"))
