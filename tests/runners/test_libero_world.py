"""LIBERO in closed loop, without LIBERO: cameras, messages, what is executed and counted, the process at the pipe."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from look.words import LANGUAGES, Words  # noqa: E402
from runners.libero_world.camera import axis_angle, camera_pose, intrinsics, metres, turned  # noqa: E402
from runners.libero_world.evaluate import PolicyError, continued, run_episode, tally, write_log  # noqa: E402
from runners.libero_world.messages import Closed, Observation, receive, send  # noqa: E402
from runners.libero_world.policy import ready  # noqa: E402
from runners.libero_world.remote import PolicyGone, RemotePolicy  # noqa: E402
from runners.progress import View  # noqa: E402
from tests.browser import Browser  # noqa: E402
from tests.pages import check_drawn, needs_chromium  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def rotation(axis: str, angle: float) -> Any:
    """[3, 3] about one axis."""
    first, second = [number for number, name in enumerate("xyz") if name != axis]
    found = np.eye(3)
    found[[first, second], [first, second]] = math.cos(angle)
    sine = math.sin(angle) if axis != "y" else -math.sin(angle)
    found[first, second], found[second, first] = -sine, sine
    return found


def drawn(point: Any, eye: Any, turn: Any, fovy: float, height: int, width: int) -> tuple[float, float, float]:
    """Row from the bottom and column of OpenGL's picture, in pixels whose centres are whole, and the depth: by angles,
    from the definition of MuJoCo's camera (it looks along -z, y is up).
    """
    right, up, backward = turn.T @ (np.asarray(point) - eye)
    half = math.tan(math.radians(fovy) / 2) * -backward
    return (up / half + 1) * height / 2 - 0.5, (right / half * height / width + 1) * width / 2 - 0.5, -backward


@pytest.mark.parametrize("seed", range(4))
def test_a_pixel_of_the_turned_picture_is_lifted_to_the_gripper_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    eye, gripper, point = rng.normal(size=3), rng.normal(size=3), rng.normal(size=3)
    turn = rotation("x", rng.uniform(0, 6)) @ rotation("y", rng.uniform(0, 6)) @ rotation("z", rng.uniform(0, 6))
    if (turn.T @ (point - eye))[2] > 0:
        turn = turn @ rotation("y", math.pi)
    height, width, fovy = 48, 64, 45.0
    row, column, depth = drawn(point, eye, turn, fovy, height, width)
    # What turning does to the place of a pixel.
    v, u = height - 1 - row, width - 1 - column
    k, pose = intrinsics(fovy, height, width), camera_pose(eye, turn, gripper)
    seen = [(u - k[0, 2]) * depth / k[0, 0], (v - k[1, 2]) * depth / k[1, 1], depth, 1.0]
    np.testing.assert_allclose(pose[:3] @ seen, point - gripper, atol=1e-9)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(-1.0)


def test_what_moves_along_an_axis_moves_along_it_in_the_gripper_frame() -> None:
    k, turn = intrinsics(45.0, 48, 64), rotation("x", math.radians(50)) @ rotation("z", 0.3)
    eye, gripper, first = np.array([0.0, -0.8, 0.9]), np.array([0.1, 0.0, 0.3]), np.zeros(3)
    pose = camera_pose(eye, turn, gripper)

    def lifted(point: Any) -> Any:
        row, column, depth = drawn(point, eye, turn, 45.0, 48, 64)
        x, y = (63 - column - k[0, 2]) * depth / k[0, 0], (47 - row - k[1, 2]) * depth / k[1, 1]
        return pose[:3] @ [x, y, depth, 1.0]

    for axis in np.eye(3):
        np.testing.assert_allclose(lifted(first + 0.05 * axis) - lifted(first), 0.05 * axis, atol=1e-9)


def test_turning_is_the_half_turn_of_upstreams_client() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert turned(picture)[0, 0].tolist() == picture[1, 3].tolist()
    assert turned(picture).flags["C_CONTIGUOUS"]


def test_a_z_buffer_becomes_metres() -> None:
    near, far = 0.02, 60.0
    depth = np.array([0.02, 0.5, 1.0, 7.0, 59.0])
    # OpenGL's perspective: normalised depth is linear in 1 / z, 0 at the near plane, 1 at the far one.
    buffer = (1 / near - 1 / depth) / (1 / near - 1 / far)
    np.testing.assert_allclose(metres(buffer, near, far), depth, rtol=1e-6)
    assert metres([1.0], near, far).tolist() == [0.0]
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        metres([0.5, 1.2], near, far)
    with pytest.raises(ValueError, match="0 < near < far"):
        metres([0.5], 1.0, 0.5)


def test_axis_and_angle_of_a_quaternion() -> None:
    half = 0.35
    np.testing.assert_allclose(axis_angle([0.0, math.sin(half), 0.0, math.cos(half)]), [0.0, 0.7, 0.0], atol=1e-12)
    assert axis_angle([0.0, 0.0, 0.0, 1.0 + 1e-9]).tolist() == [0.0, 0.0, 0.0]


def observation(step: int = 3) -> Observation:
    rng = np.random.default_rng(step)
    return Observation(
        step,
        "open the lid",
        rng.normal(size=8).astype(np.float32),
        {name: rng.integers(0, 255, (4, 5, 3)).astype(np.uint8) for name in ("front", "wrist")},
        {name: rng.uniform(size=(4, 5)).astype(np.float32) for name in ("front", "wrist")},
        {name: intrinsics(40, 4, 5) for name in ("front", "wrist")},
        {name: np.eye(4) for name in ("front", "wrist")},
    )


def test_an_observation_comes_through_the_pipe_as_it_is() -> None:
    stream, sent = io.BytesIO(), observation()
    send(stream, *sent.packed())
    stream.seek(0)
    got = Observation.unpacked(*receive(stream))
    assert (got.step, got.instruction) == (3, "open the lid")
    for kind in ("images", "depth", "intrinsics", "camera_pose"):
        for name, array in getattr(sent, kind).items():
            assert getattr(got, kind)[name].dtype == array.dtype
            assert np.array_equal(getattr(got, kind)[name], array)
    assert np.array_equal(got.state, sent.state)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ValueError, match="only numbers"):
        send(io.BytesIO(), {}, {"a": np.array([{}], dtype=object)})
    with pytest.raises(Closed, match="closed"):
        receive(io.BytesIO())
    with pytest.raises(Closed, match="in the middle"):
        receive(io.BytesIO(b"\x09\0\0\0\0\0\0\0abc"))
    with pytest.raises(ValueError, match="something else"):
        receive(io.BytesIO(b"Loading "))
    pickled = io.BytesIO()
    np.savez(pickled, plain=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        receive(io.BytesIO(len(pickled.getvalue()).to_bytes(8, "little") + pickled.getvalue()))


class Norm:
    """As upstream's PolicyNormProcessor for LIBERO: each number but the gripper from [-1, 1] to [low, high]."""

    low, high = np.array([-0.9, -0.5, 0.2, -2.0, -1, -1]), np.array([0.9, 0.7, 0.2, 2.0, 1, 1])

    def unapply_actions(self, chunk: Any) -> Any:
        return np.column_stack([(chunk[:, :6] + 1) / 2 * (self.high - self.low) + self.low, chunk[:, 6]])


def test_what_is_carried_out_is_told_in_the_chunks_own_units() -> None:
    chunk = np.array([[0.5, -1.0, 0.3, 0.9, 1.2, 0.0, 0.51], [-0.5, 0.0, 0.1, -0.2, 0.0, -3.0, 0.2]], np.float32)
    actions, carried = ready(chunk, Norm())
    # Column 3 leaves [-1, 1] at 0.9 of its range of 2, and is clipped; column 2 is constant in the data.
    np.testing.assert_allclose(actions[0], [0.45, -0.5, 0.2, 1.0, 1.0, 0.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(actions[1], [-0.45, 0.1, 0.2, -0.4, 0.0, -1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(carried[0], [0.5, -1.0, 0.3, 0.5, 1.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(carried[1], [-0.5, 0.0, 0.1, -0.2, 0.0, -1.0, 0.0], atol=1e-6)


class Line:
    """A world of one axis: done where the tip is at the target."""

    def __init__(self, limit: int = 12, move_step: int | None = None) -> None:
        self.seed, self.limit, self.move_step, self.moved_at = 1007, limit, move_step, None
        self.step_count, self.x, self.goal = 0, 0.0, 4.0

    @property
    def done(self) -> bool:
        return self.x == self.goal or self.step_count >= self.limit

    def tip(self) -> Any:
        return np.array([self.x, 0.0, 0.0])

    def place(self) -> Any:
        return np.array([self.goal, 0.0, 0.0])

    def observe(self) -> Observation:
        return observation(self.step_count)

    def step(self, action: Any) -> None:
        if self.step_count == self.move_step:
            self.goal, self.moved_at = self.goal + 2, self.step_count
        self.x, self.step_count = self.x + float(action[0]), self.step_count + 1

    def facts(self) -> dict[str, Any]:
        won = self.x == self.goal
        facts = {"success": won, "outcome": "done" if won else "out of time", "steps": self.step_count}
        return {**facts, "move_step": self.move_step, "moved_at": self.moved_at}


class Forward:
    """Goes one to the right; raises at step `breaks`, gives a bad chunk at `mumbles`, clears its queue at `clears`."""

    execute_steps = 3

    def __init__(self, breaks: int = -1, mumbles: int = -1, clears: int = -1, replans: bool = True) -> None:
        self.breaks, self.mumbles, self.clears, self.replans = breaks, mumbles, clears, replans
        self.notes: dict[str, Any] = {}
        self.calls: list[tuple[str, int, int]] = []

    def begin(self, seed: int) -> None:
        self.calls = [("begin", seed, 0)]

    def act(self, seen: Observation, executed: int) -> Any:
        self.calls.append(("act", seen.step, executed))
        if seen.step == self.breaks:
            raise PolicyError("ValueError: no valid pixel")
        chunk = np.zeros((5, 7), np.float32)
        chunk[:, 0] = np.nan if seen.step == self.mumbles else 1.0
        return chunk

    def interrupt(self, seen: Observation, executed: int) -> bool:
        self.calls.append(("interrupt", seen.step, executed))
        self.notes = {"rrr": 0.5}
        return seen.step == self.clears


def test_chunks_are_executed_in_part_and_the_queue_can_be_cleared() -> None:
    policy = Forward(clears=1)
    found = run_episode(policy, Line(move_step=2))
    assert policy.calls == [
        *(("begin", 1007, 0), ("act", 0, 0), ("interrupt", 1, 1), ("act", 1, 1), ("interrupt", 2, 1)),
        *(("interrupt", 3, 2), ("act", 4, 3), ("interrupt", 5, 1)),
    ]
    assert [row["sampled"] for row in found["trace"]] == [True, True, False, False, True, False]
    assert [row["interrupted"] for row in found["trace"]] == [False, True, False, False, False, False]
    assert (found["success"], found["steps"], found["recovery_steps"]) == (True, 6, 4)
    assert (found["samplings"], found["interruptions"]) == (3, 1)
    assert found["trace"][2]["notes"] == {"rrr": 0.5}
    assert found["trace"][3]["target"] == [6.0, 0.0, 0.0]
    plain = Forward(replans=False)
    run_episode(plain, Line())
    assert {call for call, _, _ in plain.calls} == {"begin", "act"}


def test_errors_are_counted_apart_from_failures(tmp_path: Path) -> None:
    played = [(Forward(), 12), (Forward(), 2), (Forward(breaks=3), 12), (Forward(mumbles=0), 12)]
    episodes = [run_episode(policy, Line(limit)) for policy, limit in played]
    assert [episode["outcome"] for episode in episodes] == ["done", "out of time", "error", "error"]
    assert episodes[2]["error"] == "ValueError: no valid pixel"
    assert len(episodes[2]["trace"]) == 3
    assert "step 0: the policy's chunk holds numbers that are not finite" in episodes[3]["error"]
    found = tally(episodes)
    assert (found["episodes"], found["successes"], found["errors"], found["not_moved"]) == (4, 1, 2, 0)
    assert (found["success_rate"], found["success_rate_completed"]) == (0.25, 0.5)
    assert sum(found["error_kinds"].values()) == 2
    assert tally(episodes[2:])["success_rate_completed"] is None
    assert tally([run_episode(Forward(), Line(move_step=9))])["not_moved"] == 1
    write_log(tmp_path / "a" / "b.jsonl", episodes)
    assert [json.loads(line)["outcome"] for line in (tmp_path / "a/b.jsonl").read_text().splitlines()][2] == "error"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.jsonl"]


def test_a_world_that_raises_is_no_error_of_the_policy() -> None:
    class Broken(Line):
        def step(self, action: Any) -> None:
            raise RuntimeError("the simulator is unstable")

    with pytest.raises(RuntimeError, match="unstable"):
        run_episode(Forward(), Broken())


CHILD = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from runners.libero_world import policy

class Fake:
    notes = dict()
    def hello(self):
        print("words that are no message")
        return dict(execute_steps=2, replans=True)
    def begin(self, seed):
        self.seed = seed
    def act(self, seen, executed):
        if seen.step == 9:
            raise ValueError("no valid pixel")
        if seen.step == 8:
            sys.exit("out of memory")
        return seen.state[None, :7] * executed
    def interrupt(self, seen, executed):
        self.notes = dict(rrr=float(self.seed))
        return executed == 1

policy.LiberoPolicy = lambda settings: Fake() if settings["good"] else sys.exit("no such weights")
policy.main()
"""


def child(tmp_path: Path, good: bool = True) -> RemotePolicy:
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(root=str(ROOT)))
    return RemotePolicy([sys.executable, str(script), json.dumps({"good": good})], {}, tmp_path / "logs" / "child.log")


def test_a_policy_in_another_process_answers_raises_and_ends(tmp_path: Path) -> None:
    with child(tmp_path) as policy:
        assert (policy.execute_steps, policy.replans) == (2, True)
        policy.begin(5)
        np.testing.assert_array_equal(policy.act(observation(), 2), 2 * observation().state[None, :7])
        assert policy.interrupt(observation(), 1)
        assert policy.notes == {"rrr": 5.0}
        with pytest.raises(PolicyError, match="ValueError: no valid pixel"):
            policy.act(observation(9), 1)
        assert not policy.interrupt(observation(), 2)
        number = policy.process.pid
    assert policy.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    log = (tmp_path / "logs" / "child.log").read_text()
    assert "words that are no message" in log
    assert "ValueError: no valid pixel" in log


def test_a_policy_that_does_not_load_or_dies_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(PolicyGone, match="no such weights"):
        child(tmp_path, good=False)
    with child(tmp_path) as policy, pytest.raises(PolicyGone, match="out of memory"):
        policy.act(observation(8), 1)


@needs_chromium
def test_a_browser_draws_the_report_in_both_languages(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    from runners.libero_world.compare import conclude
    from runners.starvla_libero import ARMS

    arms = {name: ARMS[name] for name in ("baseline", "anchor")}
    played = {name: [run_episode(Forward(), Line()) for _ in range(2)] for name in arms}
    logs = {name: {"calm": dict.fromkeys(range(2), episodes)} for name, episodes in played.items()}
    pages = {}
    for lang in LANGUAGES:
        assert conclude(tmp_path, arms, logs, {"asset_standins": 3, "suite": "x"}, [0], Words(lang)) == 0
        pages[lang] = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "Plain shapes stood in for 3" in json.loads((tmp_path / "results.json").read_text())["remarks"][0]
    assert "LIBERO 有 3 个素材用简单几何体代替" in pages["zh"]
    check_drawn(browser, pages, tmp_path, "libero")


def test_the_report_says_what_a_reader_must_know(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    from runners.libero_world.compare import Failed, conclude
    from runners.starvla_libero import ARMS

    def played(*errors: int) -> list[dict[str, Any]]:
        return [run_episode(Forward(breaks=0 if number in errors else -1), Line()) for number in range(2)]

    arms = {name: ARMS[name] for name in ("baseline", "anchor")}
    logs = {"baseline": {"calm": {0: played(1), 1: played()}}, "anchor": {"calm": {0: played(), 1: played()}}}
    settings = {"asset_standins": 3, "suite": "libero_goal"}
    assert conclude(tmp_path, arms, logs, settings, [0]) == 0
    page = (tmp_path / "report.html").read_text()
    for words in ("Plain shapes stood in for 3", "raised in 1 of 8 episodes", "Tasks 0 are about no loose object"):
        assert words in page
    assert page.count("http") == page.count("http://www.w3.org")
    figures = json.loads((tmp_path / "results.json").read_text())
    assert figures["arms"]["baseline"]["calm"]["success"]["mean"] == 1.0
    assert figures["episodes"]["baseline"]["calm"]["0"]["success_rate"] == 0.5
    logs["anchor"]["calm"][1] = played(0, 1)
    with pytest.raises(Failed, match="every episode of anchor in calm, seed 1"):
        conclude(tmp_path, arms, logs, settings, [])
    logs["anchor"]["calm"] = {0: played(0, 1), 1: played(0, 1)}
    with pytest.raises(Failed, match="anchor in calm, seed 0; anchor in calm, seed 1"):
        conclude(tmp_path, arms, logs, settings, [])
    assert "raised in 5 of 8 episodes" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no checkpoint"),
        (["--anchor", "nothing.pt"], "nothing.pt is not there"),
        (["--anchor", __file__, __file__, "--baseline", __file__], "as many checkpoints"),
        (["--anchor", __file__, "--episodes", "0"], "--episodes is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(words: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    from runners.starvla_libero import main

    checkout = tmp_path / "starVLA" / "sagr"
    checkout.mkdir(parents=True)
    (checkout / "replan.py").touch()
    given = ["--checkout", str(tmp_path), "--policy-python", sys.executable, "--work", str(tmp_path / "work")]
    assert main([*given, *words]) == 2
    assert says in capsys.readouterr().err


class Loaded:
    """Stands in for a policy's process: it is there at once."""

    execute_steps, hello = 4, {"execute_steps": 4}

    def __init__(self, *_: object) -> None: ...
    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None: ...


class Empty:
    """Stands in for LIBERO's world: `run_episode` is replaced too."""

    initial_states = (None,) * 2

    def __init__(self, *_: object, **__: object) -> None: ...
    def begin(self, episode: int, moved: int | None) -> None:
        self.episode = episode

    def close(self) -> None: ...


def test_episodes_are_counted_while_they_are_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    from runners.libero_world import compare
    from runners.starvla_libero import ARMS

    seen: list[tuple[int | None, float | None]] = []
    update = View.update

    def told(view: View, step: int | None = None, total: int | None = None, **values: float) -> None:
        seen.append((step, values.get("success")))
        update(view, step, total, **values)

    def played(policy: object, world: Any) -> dict[str, Any]:
        given = {"success": world.episode == 0, "outcome": "success", "move_step": None, "moved_at": None}
        return given | {"trace": [], "policy_seconds": 0.0}

    monkeypatch.setattr(View, "update", told)
    for name, stand_in in (("RemotePolicy", Loaded), ("LiberoWorld", Empty), ("run_episode", played)):
        monkeypatch.setattr(compare, name, stand_in)
    monkeypatch.setattr(compare, "tasks_of", lambda options: ([0, 1], []))
    monkeypatch.setattr(compare, "conclude", lambda *_: 0)
    options = argparse.Namespace(work=tmp_path / "run", lang="en", baseline=[Path("a"), Path("b")], episodes=2)
    options.__dict__ |= {"suite": "x", "limit": None, "move_step": None, "execute_steps": None, "unnorm_key": None}
    options.__dict__ |= {"state": None, "no_gpu": True, "policy_python": "python", "checkout": tmp_path}
    options.work.mkdir()
    arms = {"baseline": ARMS["baseline"]}
    assert compare.compare(options, arms, ("calm", "moved"), 0, lambda *_: {}) == 0
    one = [(0, None), (1, 1.0), (2, 0.5), (2, 0.5), (3, 2 / 3), (4, 0.5), (4, 0.5), (5, 0.6), (6, 0.5), (6, 0.5)]
    assert seen == 2 * [*one, (7, 4 / 7), (8, 0.5)]
    said = capsys.readouterr().out
    assert "    baseline, seed 0: episode 8 of 8 (100 %), success 50.0 %, ended after 0:" in said
    assert "    baseline, seed 1: episode 8 of 8 (100 %), success 50.0 %, ended after 0:" in said
    seen.clear()
    assert compare.compare(options, arms, ("calm", "moved"), 0, lambda *_: {}) == 0
    assert seen == []


def test_episodes_of_a_comparison_that_was_stopped_are_not_played_again(tmp_path: Path) -> None:
    log, played = tmp_path / "calm-task0.jsonl", []

    def play(episode: int) -> dict[str, Any]:
        played.append(episode)
        if len(played) == 3:
            raise KeyboardInterrupt
        return {"episode": episode, "success": episode % 2 == 0, "trace": [], "policy_seconds": 0.1}

    with pytest.raises(KeyboardInterrupt):
        continued(log, 4, play)
    assert not log.exists()
    episodes = continued(log, 4, play)
    assert played == [0, 1, 2, 2, 3]
    assert [episode["episode"] for episode in episodes] == [0, 1, 2, 3]
    assert [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] == episodes
    assert [path.name for path in tmp_path.iterdir()] == [log.name]
