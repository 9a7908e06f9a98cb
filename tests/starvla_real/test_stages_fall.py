"""The four stages one after the other through the real trainer, as `make demo` runs them: the loss of each falls, and
so does that of grounding, by masks that the data set has.
"""

from __future__ import annotations

from pathlib import Path

from demo import starvla, starvla_chapter, starvla_tree


def test_the_loss_of_every_stage_falls(tmp_path: Path) -> None:
    tree = starvla_tree.real_tree(tmp_path)
    starvla.make_materials(tree, starvla.materials_of(tree, tmp_path))
    facts = starvla.gather(tree, starvla.run(tree, tmp_path))
    assert facts["real"]
    found = {}
    for stage in facts["stages"]:
        losses = [loss for _, loss in starvla_chapter.course(stage)]
        found[stage["name"]] = starvla_chapter.third(losses, True), starvla_chapter.third(losses, False)
    assert list(found) == ["alignment", "dynamics", "imitation", "correction"]
    assert not {name: ends for name, ends in found.items() if not ends[1] < ends[0]}, found
    alignment, dynamics, *flow = facts["stages"]
    grounded = [loss for _, loss in starvla_chapter.course(alignment, "ground")]
    assert starvla_chapter.third(grounded, False) < 0.3 * starvla_chapter.third(grounded, True), grounded
    assert all("loss/ground" not in row for row in dynamics["metrics"])
    for stage in flow:
        later = [loss for _, loss in starvla_chapter.course(stage, "ground")]
        # It starts from what alignment left.
        assert starvla_chapter.third(later, True) < starvla_chapter.third(grounded, True), (stage["name"], later)
