"""The evaluator: what is executed, logged, counted and shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("mujoco")

from PIL import Image  # noqa: E402

from look.words import LANGUAGES, Words  # noqa: E402
from runners.reach_world import CALM, Disturbances  # noqa: E402
from runners.reach_world.evaluate import evaluate, figures, read_log, run_episode  # noqa: E402
from runners.reach_world.expert import expert_actions  # noqa: E402
from runners.reach_world.report import page  # noqa: E402
from runners.reach_world.results import Results  # noqa: E402
from runners.reach_world.video import filmed  # noqa: E402
from tests.browser import Browser  # noqa: E402
from tests.pages import check_drawn, needs_chromium  # noqa: E402

MOVED = Disturbances(move_step=6)


class Played:
    """Plays the expert's episode of the seed, chunk by chunk; `clear_at`: interrupts before that step."""

    def __init__(self, disturbances: Disturbances = CALM, horizon: int = 8, clear_at: int | None = None) -> None:
        self.disturbances, self.horizon, self.clear_at = disturbances, horizon, clear_at
        self.notes: dict = {}
        self.told: list[tuple[int, int]] = []

    def begin(self, seed: int) -> None:
        self.actions, self.told = expert_actions(seed, self.disturbances), []

    def act(self, observation, executed):
        self.told.append((observation.step, len(executed)))
        chunk = np.zeros((self.horizon, 3), np.float32)
        known = self.actions[observation.step : observation.step + self.horizon]
        chunk[: len(known)] = known
        return chunk

    def interrupt(self, observation, executed) -> bool:
        self.notes["executed"] = len(executed)
        return observation.step == self.clear_at


def test_chunks_of_the_expert_reach_what_the_expert_reaches() -> None:
    policy = Played(MOVED)
    episode = run_episode(policy, 3, MOVED, execute_steps=4)
    assert episode["success"]
    assert episode["steps"] == len(expert_actions(3, MOVED))
    assert episode["recovery_steps"] == episode["steps"] - 6
    assert policy.told == [(0, 0), *((step, 4) for step in range(4, episode["steps"], 4))]
    assert [row["step"] for row in episode["trace"]] == list(range(episode["steps"]))
    assert [row["sampled"] for row in episode["trace"]] == [step % 4 == 0 for step in range(episode["steps"])]
    assert all(row["notes"]["executed"] == row["step"] % 4 for row in episode["trace"] if row["step"] % 4)


def test_an_interruption_drops_what_is_queued() -> None:
    policy = Played(clear_at=2)
    episode = run_episode(policy, 3, CALM, execute_steps=5)
    assert policy.told[:3] == [(0, 0), (2, 2), (7, 5)]
    assert episode["interruptions"] == 1


def test_a_blind_policy_loses_what_the_move_costs() -> None:
    lost = [run_episode(Played(CALM, 30), seed, MOVED, execute_steps=30) for seed in range(8)]
    assert figures(lost)["success"] <= 0.25


def test_figures_count_what_the_episodes_say() -> None:
    def episode(success: bool, seconds: list[float], recovery: int | None) -> dict:
        trace = [{"sampled": i % 2 == 0, "seconds": s} for i, s in enumerate(seconds)]
        outcome = "touched" if success else "wrong object"
        numbers = {
            "steps": len(seconds),
            "policy_seconds": sum(seconds),
            "interruptions": 1,
            "recovery_steps": recovery,
        }
        return {"success": success, "outcome": outcome, "trace": trace, **numbers}

    found = figures([episode(True, [0.02, 0.01, 0.03], 7), episode(False, [0.04], None)])
    assert found["success"] == found["wrong"] == 0.5
    assert found["steps"] == 3
    assert found["recovery_steps"] == 7
    assert found["sampling_ms"] == pytest.approx(30.0)
    assert found["control_hz"] == pytest.approx(4 / 0.10)
    with pytest.raises(ValueError, match="no episodes"):
        figures([])


def test_a_log_is_read_back_and_a_broken_one_is_named(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "calm.jsonl"
    written = evaluate(Played(), range(2), CALM, log, execute_steps=4)
    assert read_log(log) == json.loads(json.dumps(written))
    log.write_text(log.read_text() + "{}\n")
    with pytest.raises(ValueError, match=r"calm\.jsonl, line 3 is no episode"):
        read_log(log)


def made(success: bool, distance: float, steps: int = 2) -> dict:
    row = {"sampled": True, "seconds": 0.01, "tip": [0.0, 0.0, distance], "target": [0.0, 0.0, 0.0]}
    return {
        **{"success": success, "outcome": "touched" if success else "out of time", "steps": steps},
        **{"policy_seconds": 0.01 * steps, "interruptions": 0, "recovery_steps": None, "trace": [row] * steps},
    }


def results() -> Results:
    """Success by seed (0, 1): baseline calm 1, 0.5 and moved 0, 0; anchor moved 0.5, 0.5."""
    wins = {
        "baseline": {"calm": [(1, 1), (1, 0)], "moved": [(0, 0), (0, 0)]},
        "anchor": {"calm": [(1, 1), (1, 1)], "moved": [(1, 0), (0, 1)]},
    }
    episodes = {
        arm: {
            world: {s: [made(bool(w), 0.05) for w in of] for s, of in enumerate(seeds)}
            for world, seeds in worlds.items()
        }
        for arm, worlds in wins.items()
    }
    return Results(episodes, {"baseline": "no anchor", "anchor": "with <anchor>"}, {"seeds": 2})


def test_recovered_is_the_share_of_the_first_arms_loss() -> None:
    found = results()
    assert found.mean("baseline", "calm", "success").mean == 0.75
    recovered = found.recovered("anchor", "moved")
    # Lost 1 and 0.5, won back 0.5 of each. Without seed 0 that is all, without seed 1 half.
    assert recovered.mean == pytest.approx(2 / 3)
    assert recovered.half == pytest.approx(12.7062 * 0.25, rel=1e-5)
    assert found.recovered("baseline", "moved").mean == 0.0
    assert found.recovered("anchor", "calm") is None
    assert found.distances("anchor", "moved") == [(1.0, 5.0), (2.0, 5.0)]
    with pytest.raises(ValueError, match="no arm"):
        Results({}, {})


def test_the_report_shows_every_arm_and_loads_nothing() -> None:
    film = filmed({"one": Played(), "two": Played(MOVED)}, 3, MOVED, execute_steps=4, limit=8)
    assert film[:4] == b"RIFF"
    assert film[8:12] == b"WEBP"
    text = page(results(), {"seed 3 & moved": film}, ("stood <in>",))
    for words in ("with &lt;anchor&gt;", "stood &lt;in&gt;", "seed 3 &amp; moved", "75.0 % ± ", "100.0 % ± 0.0"):
        assert words in text
    assert "http" not in text.replace("http://www.w3.org", "")


@needs_chromium
def test_a_browser_draws_the_report_in_both_languages(browser: Browser, tmp_path: Path) -> None:
    film = filmed({"one": Played(), "two": Played(MOVED)}, 3, MOVED, execute_steps=4, limit=8)
    pages = {lang: page(results(), {"3": film}, ("stood <in>",), Words(lang)) for lang in LANGUAGES}
    check_drawn(browser, pages, tmp_path, "closed-loop")


def test_a_film_ends_on_its_last_picture() -> None:
    shown = Image.open(io.BytesIO(filmed({"one": Played()}, 3, CALM, execute_steps=4, limit=3)))
    assert shown.n_frames >= 4
    with pytest.raises(ValueError, match="no policy"):
        filmed({}, 3, CALM, execute_steps=4)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (np.zeros((2, 3)), "step 0: a chunk of shape \\(2, 3\\)"),
        (np.zeros((8, 7)), "a chunk of shape \\(8, 7\\)"),
        (np.full((8, 3), np.nan), "step 0: the policy's chunk holds numbers that are not finite"),
    ],
)
def test_a_chunk_that_cannot_be_executed_is_refused(chunk, words: str) -> None:
    policy = Played()
    policy.act = lambda observation, executed: chunk
    with pytest.raises(ValueError, match=words):
        run_episode(policy, 0, execute_steps=4)
    with pytest.raises(ValueError, match="execute_steps=0"):
        run_episode(policy, 0, execute_steps=0)
