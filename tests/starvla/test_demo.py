"""The demo's chapter from end to end on the grafted stand-in, with very few steps."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from sagr.stages import STAGES
from toy import Toy

from demo import report, starvla, starvla_chapter, starvla_tree
from tests.demo import sample_facts
from tests.pages import check_whole
from tests.standins.starvla_project import StarVLAProject


@pytest.fixture(scope="module")
def facts(project: StarVLAProject, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("demo")
    tree = starvla_tree.Tree(
        checkout=project.patched,
        pristine=project.plain,
        python=Path(sys.executable),
        why="this is a test",
        maker=(),
        code=(),
        path="",
        mixture="toy_next",
        patch=4,
        preload=StarVLAProject.preload,
    )
    starvla.materials_of(tree, home).parent.mkdir(parents=True)
    starvla.materials_of(tree, home).symlink_to(toy.config.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starvla, "STEPS", {stage.name: 3 for stage in STAGES})
        return starvla.gather(tree, starvla.run(tree, home))


def test_off_is_upstream_and_both_runs_computed_something(facts: dict[str, Any]) -> None:
    """`gather` fails where they differ."""
    upstream = facts["off"]["upstream"]
    assert len(set(upstream["loss"])) == len(set(upstream["weights"])) == starvla.OFF_STEPS


def test_every_stage_left_a_loss_at_every_step(facts: dict[str, Any]) -> None:
    for found, stage in zip(facts["stages"], STAGES, strict=True):
        assert found["name"] == stage.name
        assert [row["step"] for row in found["metrics"]] == [1, 2, 3]
        assert all(math.isfinite(row["loss/total"]) for row in found["metrics"])
        assert {row["stage"] for row in found["metrics"]} == {stage.name}


def test_the_policy_looked_guided_and_decided(facts: dict[str, Any]) -> None:
    policy = facts["policy"]
    asked = {found["instruction"] for found in policy["attention"]}
    assert asked == {"reach the red block", "reach the blue block"}
    assert len({found["image"] for found in policy["attention"]} | {policy["seen"]}) == 3
    assert all(found["grid"] == [8, 8] and found["uniform"] <= found["largest"] < 1 for found in policy["attention"])
    guided = policy["guidance"]
    assert guided["energy"]["guided"] < guided["energy"]["unguided"]
    assert len(guided["drift_norm"]) == len(guided["debug"]["geo/energy_trace"]) == 4
    assert min(guided["drift_norm"]) > 0
    assert guided["moved"] > 0
    came, shifted = policy["decisions"]["as it came"], policy["decisions"]["shifted"]
    assert came["step"] == shifted["step"] == policy["executed"]
    assert 0 < came["rrr"] < shifted["rrr"]
    assert {came["decision"], shifted["decision"]} <= {"continue", "restart"}


def test_the_page_is_whole(facts: dict[str, Any]) -> None:
    # The modules' own text may name an address: text loads nothing.
    few = [file for file in facts["overlays"] if "://" not in file["text"]]
    assert len(few) > 20
    html = report.page(sample_facts.make(), starvla_chapter.chapter({**facts, "overlays": few}))
    check_whole(html)
    assert "this is a test" in html
    assert "differs" not in html[html.index('id="starvla-off"') : html.index('id="starvla-stages"')]
