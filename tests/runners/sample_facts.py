"""Facts of a comparison, made up: three arms, three seeds, two general suites, one failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runners.openvla_arms import ARMS
from runners.openvla_facts import Facts
from runners.openvla_scores import Score, scores_of
from runners.stage import DONE, FAILED, Outcome, Stage

SUITE, GENERAL = "libero_spatial", ["libero_object", "libero_goal"]
SEEDS = [0, 1, 2]
BEFORE = {"libero_object": 0.8, "libero_goal": 0.7}
SUCCESS = {"baseline": [0.7, 0.74, 0.78], "method": [0.71, 0.72, 0.79], "no_hsw": [0.7]}
OBJECT = {"baseline": [0.4, 0.5, 0.45], "method": [0.66, 0.7, 0.68], "no_hsw": [0.5]}
GOAL = {"baseline": [0.3, 0.34, 0.41], "method": [0.5, 0.55, 0.6], "no_hsw": [0.3]}


def layer(r: int = 32) -> dict[str, Any]:
    """One layer of a meta.json: vulnerability falls with the index, but for some."""
    vulnerabilities = [10 ** (-3 - i / 10) * (20 if i % 7 == 3 else 1) for i in range(r)]
    order = sorted(range(r), key=lambda i: -vulnerabilities[i])
    return {"fragile": 8, "plastic": 16, "order": order, "vulnerabilities": vulnerabilities, "r": r}


def rows(arm: str, seed: int) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl: every tenth step its norms, every fiftieth the drift."""
    found: list[dict[str, Any]] = []
    for step in range(0, 301, 10):
        line: dict[str, Any] = {"step": step, "beta": 0.8 - step / 600, "gamma": 0.2 - step / 1500}
        line["norms"] = {"8": {"g": 3.0, "gf": 1.0, "gp": 2.0, "gn": 2.0, "g_after": 2.2 + step / 3000}}
        if step % 50 == 0:
            line["mean_drift"] = (0.3 if arm == "method" else 0.6) * step / 300 + seed / 100
        found.append(line)
    return found


def score(suite: str, success: float) -> Score:
    return Score(suite, success, 500, 0)


def outcome(name: str, state: str, why: str = "") -> Outcome:
    stage = Stage(name, Path("/srv") / name, ["python", "x.py", "--note", "<b>"], [Path("/srv/out")], kind="eval")
    return Outcome(stage, state, why, 12.0, "0123456789abcdef" * 4)


def make(seeds: list[int] = SEEDS) -> Facts:
    before = {suite: score(suite, value) for suite, value in BEFORE.items()}
    scores = {}
    for arm in SUCCESS:
        of_arm = {
            seed: {
                suite: score(suite, values[arm][seed])
                for suite, values in ((SUITE, SUCCESS), ("libero_object", OBJECT), ("libero_goal", GOAL))
                if seed < len(values[arm])
            }
            for seed in seeds
        }
        scores[arm] = scores_of(of_arm, before, SUITE, GENERAL)
    return Facts(
        arms=[ARMS[name] for name in SUCCESS],
        rates=dict.fromkeys(SUCCESS, "0.0005"),
        seeds=seeds,
        suite=SUITE,
        general=GENERAL,
        before=before,
        scores=scores,
        traces={arm: {seed: rows(arm, seed) for seed in seeds} for arm in ("method", "no_hsw")},
        icsm={"vulnerability": {"layers": {"8": layer(), "16": layer(24)}}},
        outcomes=[outcome("probe", DONE), outcome("eval/no_hsw/seed1", FAILED, "exit code 1\nno <memory>\nbuy some")],
        stood_in=["openvla: /tmp/x is not the pinned upstream: a stand-in"],
        missing=["no_hsw, seed 1, libero_spatial"],
        when="2030-01-01 12:00",
        made_with={"torch": "2.13.0+cpu"},
    )
