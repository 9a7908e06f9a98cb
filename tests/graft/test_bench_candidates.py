"""What the bench of the ranking takes for the truth: on histories whose breaks, renames and moves are written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.breaks import Mined, agreed, answers, mine, same_body, statements_of, successors
from bench.candidates import figures_of, followed
from graft.history import History
from graft.source import Source
from tests.graft.histories import Upstream

RUN = """\
def run(cfg, data):
    model = build(cfg)
    loader = batches(data)
    start(model)
    for batch in loader:
        loss = model(batch)
        loss.backward()
    stop(model)
    return model
"""


def known(old: str, new: str) -> dict[str, list[tuple[str, str]]]:
    """The answers by each way, as the lines of both functions."""
    one, two = (statements_of(Source("a.py", text.encode())) for text in (old, new))
    words = ["".join(placed.shape.tokens) for placed in one], ["".join(placed.shape.tokens) for placed in two]
    found, _ = agreed(answers(one, two))
    return {way: [(words[0][i], words[1][j]) for i, j in pairs.items()] for way, pairs in found.items()}


def test_a_frame_needs_no_likeness() -> None:
    new = RUN.replace("    start(model)\n", "    cfg.hooks.enter()\n")
    said = known(RUN, new)
    assert said["framed"] == said["known"] == [("start(model)", "cfg.hooks.enter()")]
    assert said["bound"] == said["diff"] == []


def test_a_frame_holds_one_statement_between_two_that_stand_once() -> None:
    for old, new in (
        (RUN, RUN.replace("    start(model)\n", "    cfg.hooks.enter()\n    cfg.log()\n")),
        (RUN, RUN.replace("    start(model)\n", "")),
        (
            RUN.replace("start(model)", "stop(model)\n    begin(model)"),
            RUN.replace("start(model)", "stop(model)\n    go()"),
        ),
    ):
        assert known(old, new)["framed"] == []


def test_what_binds_the_same_variable_is_found_wherever_it_stands() -> None:
    new = RUN.replace("    model = build(cfg)\n", "").replace(
        "    start(model)\n", "    log(cfg)\n    model = FSDP(cfg, data, wrap=True)\n    start(model)\n"
    )
    said = known(RUN, new)
    assert said["bound"] == said["known"] == [("model=build(cfg)", "model=FSDP(cfg,data,wrap=True)")]
    assert said["framed"] == said["diff"] == []


def test_a_variable_bound_twice_says_nothing() -> None:
    new = RUN.replace("model = build(cfg)", "model = make(cfg)\n    log(model)\n    model = wrap(model)")
    assert known(RUN, new)["bound"] == []


def test_two_ways_that_differ_are_no_truth() -> None:
    old = "def run(a):\n    first()\n    x = load(a)\n    second()\n    return a\n"
    new = "def run(a):\n    first()\n    check(cfg.deep)\n    second()\n    x = load(a, 1)\n    return a\n"
    said = known(old, new)
    assert said["framed"] == said["bound"] == said["known"] == said["diff"] == []
    assert said["diff_wide"] == [("x=load(a)", "check(cfg.deep)")]


def test_the_diff_has_a_floor_and_a_lower_one() -> None:
    new = RUN.replace("    start(model)\n", "    launch(cfg.model)\n")
    said = known(RUN, new)
    assert said["diff"] == said["framed"] == [("start(model)", "launch(cfg.model)")]
    low = known(RUN, RUN.replace("    start(model)\n", "    hooks.enter(cfg, model.device)\n"))
    assert low["diff"] == []
    assert low["diff_wide"] == low["framed"] != []


def history(place: Path, *versions: dict[str, str | None]) -> History:
    upstream = Upstream(place, {"other.py": "x = 1\n", **{k: v for k, v in versions[0].items() if v is not None}})
    for number, files in enumerate(versions[1:]):
        upstream.commit(files, f"version {number}")
    return History(upstream.place)


def mined(place: Path, *texts: str) -> Mined:
    with history(place, *({"a.py": text} for text in texts)) as past:
        return mine(past, "1970-01-02", "")


def test_apart_holds_no_pair_that_is_a_consecutive_one(tmp_path: Path) -> None:
    second = RUN.replace("    start(model)\n", "    launch(model, cfg)\n")
    once = mined(tmp_path / "once", RUN, second)
    assert (len(once.near["diff"]), len(once.apart["diff"]), once.lost) == (1, 0, 1)
    third = second.replace("stop(model)", "halt(model)")
    more = mined(tmp_path / "more", RUN, second, third)
    assert [(one.old, one.new) for one in more.near["diff"]] == [(RUN, second), (second, third)]
    assert [(one.old, one.new) for one in more.apart["diff"]] == [(RUN, third), (RUN, third)]
    counts = figures_of(more)
    assert (counts["breaks"], counts["breaks_apart"], counts["known"]["breaks"], counts["lost"]) == (2, 2, 2, 2)
    assert counts["apart"]["pin"] == {"top1": 1.0, "top3": 1.0}
    assert set(counts["framed"]["apart"]) == {"difflib", "anchor", "pin", "blind"}


def test_what_comes_back_is_not_lost(tmp_path: Path) -> None:
    second = RUN.replace("    start(model)\n", "    launch(model, cfg)\n")
    third = RUN.replace("    start(model)\n", "    launch(model, cfg)\n    start(model)\n")
    assert mined(tmp_path / "up", RUN, second, third).apart["diff"] == []


def test_a_deleted_statement_is_lost_and_has_no_answer(tmp_path: Path) -> None:
    found = mined(tmp_path / "up", RUN, RUN.replace("    start(model)\n", ""))
    assert (found.lost, found.near) == (1, {way: [] for way in found.near})


OTHER = "def other(x):\n    a = x + 1\n    b = a * 2\n    c = b - x\n    return c / b\n"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"a.py": RUN.replace("def run", "def execute") + OTHER}, "renamed"),
        ({"a.py": OTHER, "b.py": RUN.replace("def run(cfg, data)", "def fit(cfg, data, *, deep=False)")}, "renamed"),
        ({"a.py": OTHER, "b.py": RUN}, "moved"),
    ],
)
def test_a_function_that_goes_on_elsewhere_is_followed(tmp_path: Path, files: dict[str, str | None], kind: str) -> None:
    with history(tmp_path / "up", {"a.py": RUN + OTHER}, files) as past:
        (found,) = successors(past, "1970-01-02", "")
        assert found.old == ("a.py", "run")
        assert found.anchor == "loss = model(batch)"
        got: dict[str, Any] = followed(past, "1970-01-02", "")
    none = {"functions": 0, "commits": 0, "top1": 0.0, "top3": 0.0, "definition": 0.0}
    one = {"functions": 1, "commits": 1, "top1": 1.0, "top3": 1.0, "definition": 1.0}
    assert got == {"renamed": none, "moved": none, kind: one}


def test_a_body_that_two_functions_have_is_nobodys() -> None:
    twins = {"first": RUN.replace("run", "first"), "second": RUN.replace("run", "second")}
    assert list(same_body({"run": RUN}, twins)) == []
    assert list(same_body({"run": RUN}, {"first": twins["first"], "other": OTHER})) == [("run", "first")]
    assert list(same_body({"run": RUN}, {"other": OTHER})) == []
