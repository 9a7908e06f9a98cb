"""The world and its expert: the same seed gives the same episode, and what goes wrong costs what it should."""

from __future__ import annotations

import math

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("mujoco")

from runners.reach_world.expert import GAIN, expert_action, expert_actions  # noqa: E402
from runners.reach_world.layout import APART, CALM, REACH, Disturbances, layout_of  # noqa: E402
from runners.reach_world.world import LATE, STRIDE, TOUCHED, WRONG, ReachWorld  # noqa: E402

MOVED, OFFSET = Disturbances(move_step=6), Disturbances(tool_offset=0.045)
SEEDS = range(20)


def outcomes(disturbances: Disturbances, believes: bool = False) -> list[str]:
    found = []
    for seed in SEEDS:
        world = ReachWorld(seed, disturbances)
        while not world.done:
            action = expert_action(world)
            if believes:  # the same expert, but trusting the robot about where the tip is
                action = action + (world.tip() - world.gripper()) * GAIN / STRIDE
            world.step(action)
        found.append(world.outcome)
    return found


@pytest.mark.parametrize("disturbances", [CALM, MOVED, OFFSET, Disturbances(move_step=9, tool_offset=0.02)])
def test_the_expert_succeeds_whatever_goes_wrong(disturbances: Disturbances) -> None:
    assert outcomes(disturbances).count(TOUCHED) >= len(SEEDS) - 1


def test_the_expert_played_blindly_succeeds_only_where_nothing_moves() -> None:
    def blind(disturbances: Disturbances) -> int:
        won = 0
        for seed in SEEDS:
            world, actions = ReachWorld(seed, disturbances), list(expert_actions(seed))
            while not world.done:
                world.step(actions.pop(0) if actions else (0.0, 0.0, 0.0))
            won += world.success
        return won

    assert blind(CALM) == len(SEEDS)
    assert blind(MOVED) <= len(SEEDS) // 10


def test_an_expert_that_trusts_the_robot_is_hurt_by_the_tool_offset() -> None:
    assert outcomes(CALM, believes=True).count(TOUCHED) == len(SEEDS)
    assert outcomes(OFFSET, believes=True).count(TOUCHED) <= len(SEEDS) // 2


def test_the_tip_is_off_by_the_offset_and_the_report_does_not_say_so() -> None:
    calm, off = ReachWorld(5), ReachWorld(5, OFFSET)
    np.testing.assert_allclose(calm.tip(), calm.gripper(), atol=1e-12)
    assert np.linalg.norm(off.tip() - off.gripper()) == pytest.approx(0.045)
    np.testing.assert_array_equal(calm.observe().state, off.observe().state)
    np.testing.assert_array_equal(calm.observe().camera_pose["front"], off.observe().camera_pose["front"])


def test_the_named_object_moves_at_its_step_and_nothing_else_does() -> None:
    for seed in range(10):
        world = ReachWorld(seed, MOVED)
        before = [world.data.body(thing.name).xpos.copy() for thing in world.layout.things]
        for _ in range(6):
            world.step((0.0, 0.0, 0.0))
        assert world.moved_at is None
        np.testing.assert_allclose(world.target(), before[world.layout.named], atol=1e-3)
        world.step((0.0, 0.0, 0.0))
        assert world.moved_at == 6
        after = [world.data.body(thing.name).xpos.copy() for thing in world.layout.things]
        moved = [float(np.linalg.norm(b - a)) for a, b in zip(before, after, strict=True)]
        assert 0.065 < moved.pop(world.layout.named) < 0.115
        assert max(moved) < 1e-3


def test_layouts_keep_their_distances_and_name_one_object() -> None:
    for seed in range(100):
        layout = layout_of(seed, MOVED)
        places = [thing.place for thing in layout.things]

        assert all(max(map(abs, place)) <= REACH for place in [*places, layout.moved_to])
        others = places[: layout.named] + places[layout.named + 1 :]
        for place in [places[layout.named], layout.moved_to]:
            assert min(math.dist(place, other) for other in others) >= APART
        names = [f"touch the {thing.name}" for thing in layout.things]
        assert names.count(layout.instruction) == 1
        assert layout.things == layout_of(seed).things
        assert layout.start == layout_of(seed, OFFSET).start


def test_the_same_actions_give_the_same_states_to_the_last_bit() -> None:
    actions = expert_actions(7, MOVED)
    worlds = [ReachWorld(7, MOVED) for _ in range(2)]
    for action in actions:
        for world in worlds:
            world.step(action)
        assert worlds[0].data.qpos.tobytes() == worlds[1].data.qpos.tobytes()
        assert worlds[0].data.qvel.tobytes() == worlds[1].data.qvel.tobytes()
    first, second = (world.observe().frames["front"] for world in worlds)
    assert first.depth.tobytes() == second.depth.tobytes()
    assert first.rgb.tobytes() == second.rgb.tobytes()
    assert ReachWorld(8).layout != worlds[0].layout


def test_touching_another_object_ends_the_episode() -> None:
    world = ReachWorld(0)
    other = world.layout.things[world.layout.named - 1]
    while not world.done:
        x, y = np.subtract(other.place, world.tip()[:2])
        world.step(np.clip([40 * x, 40 * y, -0.5 if math.hypot(x, y) < 0.01 else 0.0], -1, 1))
    assert world.outcome == WRONG
    assert not world.success


def test_an_episode_ends_at_its_limit() -> None:
    world = ReachWorld(0, limit=4)
    assert [world.step((0.0, 0.0, 0.0)) for _ in range(4)][-1] == LATE
    with pytest.raises(ValueError, match="ended at step 4 \\(out of time\\)"):
        world.step((0.0, 0.0, 0.0))


def test_pressing_on_the_table_is_felt() -> None:
    world = ReachWorld(1)
    assert not world.observe().touching
    for _ in range(12):
        if not world.done:
            world.step((0.0, 0.0, -1.0))
    assert world.observe().touching
    assert world.observe().state[3] > 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Disturbances(move_step=0), "move_step=0"),
        (lambda: Disturbances(move=(0.1, 0.05)), "least <= greatest"),
        (lambda: Disturbances(tool_offset=-0.01), "tool_offset=-0.01"),
        (lambda: layout_of(-1), "seed=-1"),
        (lambda: layout_of(0, things=9), "things=9"),
        (lambda: ReachWorld(0, limit=0), "limit=0"),
        (lambda: ReachWorld(0, cameras=()), "cameras: none"),
        (lambda: ReachWorld(0).step((0.0, 0.0)), "3 finite numbers"),
        (lambda: ReachWorld(0).step((0.0, 0.0, float("nan"))), "3 finite numbers"),
    ],
)
def test_what_cannot_be_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
