"""Gathers what a report says: scores, traces, subspaces, stages, and what stood in for the real thing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from look.words import ENGLISH, Words
from runners.digests import commit_of
from runners.openvla_arms import Arm
from runners.openvla_plan import Plan
from runners.openvla_scores import ArmScores, Score, Unreadable, read_score, results_in, scores_of
from runners.stage import Outcome

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Facts:
    """All that the report is made of; nothing is read from disk after this."""

    arms: Sequence[Arm]
    seeds: Sequence[int]
    suite: str
    general: Sequence[str]
    before: Mapping[str, Score]
    scores: Mapping[str, ArmScores]
    traces: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
    """By arm and seed: the rows of metrics.jsonl."""
    icsm: Mapping[str, Mapping[str, Any]]
    """By ranking: the subspaces' meta.json."""
    outcomes: Sequence[Outcome]
    stood_in: Sequence[str]
    missing: Sequence[str]
    when: str
    made_with: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, str] = field(default_factory=dict)
    """By arm: the learning rate that it was trained with; the table of scores has them."""
    diff: str = ""


def gather(
    plan: Plan,
    outcomes: Sequence[Outcome],
    when: str,
    made_with: Mapping[str, str],
    lock: Path = ROOT / "upstream.lock",
    words: Words = ENGLISH,
) -> Facts:
    """Reads what good stages left; a stage that failed or is out of date gives nothing, and is named as missing."""
    good = {outcome.stage.name for outcome in outcomes if outcome.good}
    missing: list[str] = []

    def score(arm: str, seed: int | None, suite: str) -> Score | None:
        name = f"eval/{arm}/{suite}" if seed is None else f"eval/{arm}/seed{seed}/{suite}"
        path = results_in(plan.evaluation(arm, seed, suite) / "logs") if name in good else None
        try:
            return read_score(path) if path is not None else None
        except Unreadable as error:
            missing.append(str(error))
            return None

    before = {suite: found for suite in plan.general_suites if (found := score("before", None, suite))}
    suites = (plan.suite, *plan.general_suites)
    seeds = {
        arm.name: {
            seed: {suite: found for suite in suites if (found := score(arm.name, seed, suite))} for seed in plan.seeds
        }
        for arm in plan.arms
    }
    missing += [f"{suite}: {words('before fine-tuning')}" for suite in plan.general_suites if suite not in before]
    missing += [
        words("{arm}, seed {seed}, {suite}", arm=arm, seed=seed, suite=suite)
        for arm, of_arm in seeds.items()
        for seed, of_seed in of_arm.items()
        for suite in suites
        if suite not in of_seed
    ]
    every = [*before.values(), *(one for arm in seeds.values() for of_seed in arm.values() for one in of_seed.values())]
    evaluated = sorted({f"{words('evaluation')}: {words.of(one.stood_in)}" for one in every if one.stood_in})
    return Facts(
        arms=plan.arms,
        rates={arm.name: plan.rate(arm) for arm in plan.arms},
        seeds=plan.seeds,
        suite=plan.suite,
        general=plan.general_suites,
        before=before,
        scores={arm: scores_of(of_arm, before, plan.suite, plan.general_suites) for arm, of_arm in seeds.items()},
        traces={
            arm.name: {
                seed: trace_in(plan.runs(arm.name, seed)) for seed in plan.seeds if f"{arm.name}/seed{seed}" in good
            }
            for arm in plan.arms
            if arm.rank_by is not None
        },
        icsm={
            rank_by: json.loads((plan.subspaces(rank_by) / "meta.json").read_text(encoding="utf-8"))
            for rank_by in dict.fromkeys(arm.rank_by for arm in plan.arms if arm.rank_by)
            if f"icsm/{rank_by}" in good
        },
        outcomes=outcomes,
        stood_in=[*stand_ins(plan, lock, words), *evaluated],
        missing=missing,
        when=when,
        made_with=made_with,
    )


def trace_in(runs: Path) -> list[dict[str, Any]]:
    """The rows of the one metrics.jsonl below `runs`, in order; a last line that was cut short is left out."""
    rows: list[dict[str, Any]] = []
    for path in sorted(runs.glob(f"*/{METRICS}"))[:1]:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def stand_ins(plan: Plan, lock: Path, words: Words) -> list[str]:
    """What is not the real thing: a checkout whose commit is not the pinned tree, a processor for a GPU, few tasks."""
    pins = tomllib.loads(lock.read_text(encoding="utf-8"))["upstream"]
    notes = []
    for name, checkout in (("openvla", plan.checkout), ("LIBERO", plan.libero)):
        commit, tree = commit_of(checkout) if checkout.is_dir() else ("", "")
        if tree != pins[name]["tree"]:
            what = f"commit {commit[:12]}, tree {tree[:12]}" if tree else words("no repository of its own")
            says = words(
                """{name}: {checkout} is not the pinned upstream ({what}; pinned is tree {pinned}): a stand-in, or
                another version""",
                name=name,
                checkout=checkout,
                what=what,
                pinned=pins[name]["tree"][:12],
            )
            notes.append(says)
    if plan.cpu:
        notes.append(words("GPU: everything ran on the processor, through runners/openvla_on_cpu.py"))
    if plan.num_tasks is not None:
        few = "evaluation: of each suite only the first tasks were tried (--num-tasks {count})"
        notes.append(words(few, count=plan.num_tasks))
    return notes
