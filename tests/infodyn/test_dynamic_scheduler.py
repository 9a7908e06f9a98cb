"""The schedule's decisions: each rule alone, then together on histories that are written by hand."""

import dataclasses
import json
import logging
import math
from collections import Counter
from itertools import pairwise

import pytest
from infodyn.dynamic_scheduler import DynamicScheduler
from infodyn.schedule_config import ScheduleConfig
from infodyn.task_metrics import TaskMetrics, record

TASKS = ("a", "b", "c")


def entry(accuracy=0.5, pi=0.5, delta_accuracy=0.0, delta_pi=0.0, step=0):
    return TaskMetrics(
        step=step, epoch=0.0, avg_accuracy=accuracy, avg_loss=1.0, avg_entropy=1.0, surprise=0.0, avg_pi=pi,
        delta_accuracy=delta_accuracy, delta_pi=delta_pi, tokens=1,
    )  # fmt: skip


GROKKED = [entry(0.95, 0.9)] * 3


def scheduler(history=None, chosen=TASKS, **options):
    """One whose cold start is over: every task in ``chosen`` was chosen once, in that order."""
    made = DynamicScheduler(ScheduleConfig(TASKS, **options), {t: list((history or {}).get(t, [])) for t in TASKS})
    full, made.task_history = made.task_history, {task: [] for task in TASKS}
    for task in chosen:
        made._decide = lambda current, grokked, task=task: (task, "score", "set up")
        made.select_next_task(made.choices[-1].task if made.choices else None)
    del made._decide
    made.task_history = full
    return made


def test_all_tasks_in_order():
    assert scheduler().get_all_tasks() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (GROKKED, True),
        ([entry(0.1, 0.1), *GROKKED], True),  # only the window counts
        (GROKKED[:2], False),  # too few evaluations
        ([*GROKKED, entry(0.95, 0.5)], False),  # PI at the threshold is not above it
        ([*GROKKED, entry(0.89, 0.9)], False),  # accuracy below
        ([*GROKKED[:2], entry(0.9, 0.9)], False),  # accuracy high, but not stable: 0.05 > 0.02
        ([entry(0.9, 0.6), entry(0.92, 0.6), entry(0.9, 0.6)], True),  # at both limits
        ([], False),
    ],
)
def test_grokking(history, expected):
    made = scheduler({"a": history}, pi_threshold=0.5, accuracy_threshold=0.9, window=3, stability=0.021)
    assert made.is_grokked("a") is expected


def test_a_task_that_falls_is_not_grokked_any_more():
    made = scheduler({"a": GROKKED})
    assert made.is_grokked("a")
    made.task_history["a"].append(entry(0.4, 0.9))
    assert not made.is_grokked("a")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("progress", "b"),  # |-0.3| + |0.1| = 0.4 beats 0.2 + 0.15 and 0
        ("learning", "a"),  # 0.35 beats -0.2 and 0
        ("need", "b"),  # 0.6 + 0.5 + 0.2 = 1.3 beats 0.7 + 0.5 - 0.35 and 0.8 + 0.4
    ],
)
def test_the_policies_rank_by_deltas(policy, expected):
    history = {
        "a": [entry(0.3, 0.5, 0.2, 0.15)],
        "b": [entry(0.4, 0.5, -0.3, 0.1)],
        "c": [entry(0.2, 0.6)],
    }
    made = scheduler(history, policy=policy)
    assert made.select_next_task("c") == expected
    assert made.choices[-1].kind == "score"
    assert policy in made.choices[-1].reason


def test_weights_of_accuracy_and_pi():
    history = {"a": [entry(delta_accuracy=0.2)], "b": [entry(delta_pi=0.15)], "c": [entry()]}
    assert scheduler(history).select_next_task("c") == "a"
    assert scheduler(history, accuracy_weight=0.5).select_next_task("c") == "b"
    assert scheduler(history, pi_weight=2).select_next_task("c") == "b"


def test_cold_start_takes_each_task_once_in_the_seeds_order():
    orders = set()
    for seed in range(20):
        made = DynamicScheduler(ScheduleConfig(TASKS, seed=seed), {})
        task, order = None, []
        for _ in TASKS:
            task = made.select_next_task(task)
            order.append(task)
        assert sorted(order) == list(TASKS)
        assert [choice.kind for choice in made.choices] == ["cold"] * 3
        orders.add(tuple(order))
    assert len(orders) > 3
    # Fixed, so that a run can be repeated on another machine.
    made = DynamicScheduler(ScheduleConfig(TASKS, seed=42), {})
    assert [made.select_next_task(None) for _ in TASKS] == ["a", "c", "b"]
    made = DynamicScheduler(ScheduleConfig(TASKS, seed=5), {})
    assert [made.select_next_task(None) for _ in TASKS] == ["b", "c", "a"]


def test_ties_are_broken_by_seed_and_number():
    history = {task: [entry()] for task in TASKS}

    def course(seed):
        made = scheduler(history, seed=seed, max_wait=1000)
        return [made.select_next_task("a") for _ in range(30)]

    assert course(1) == course(1)
    assert course(1) != course(2)
    assert set(course(1)) == set(TASKS)


def test_the_floor_lets_none_starve():
    """One task always ranks first; the others come back at latest after the floor and those before them in line."""
    history = {"a": [entry(delta_accuracy=0.5)], "b": [entry(delta_accuracy=0.1)], "c": [entry()]}
    made = scheduler(history, max_wait=4)
    for _ in range(100):
        made.select_next_task("a")
    kinds = Counter(choice.kind for choice in made.choices[3:])
    assert kinds["floor"] > 10
    assert kinds["score"] > 10
    for task in TASKS:
        at = [choice.number for choice in made.choices if choice.task == task]
        assert max(later - earlier for earlier, later in pairwise(at)) <= 4 + len(TASKS)
    without = scheduler(history, max_wait=1000)
    assert {without.select_next_task("a") for _ in range(100)} == {"a"}


def test_a_grokked_task_hands_over_to_review_another_and_then_to_one_that_is_not():
    history = {"a": GROKKED, "b": [entry(0.95, 0.7)] * 3, "c": [entry(0.2, 0.2)]}
    made = scheduler(history, max_wait=1000)
    first = made.select_next_task("a")
    assert (first, made.choices[-1].kind) == ("b", "review")
    second = made.select_next_task(first)
    assert (second, made.choices[-1].kind) == ("c", "score")
    assert "b is grokked" in made.choices[-1].reason


def test_the_review_takes_the_lowest_pi():
    config = ScheduleConfig(("a", "b", "c", "d"), max_wait=1000)
    history = {"a": GROKKED, "b": [entry(0.95, 0.7)] * 3, "c": [entry(0.95, 0.6)] * 3, "d": [entry()]}
    made = DynamicScheduler(config, history)
    for task in ("a", "b", "c", "d"):
        made.choices.append(type("Chosen", (), {"number": len(made.choices), "task": task, "kind": "score"})())
    assert made.select_next_task("a") == "c"


def test_without_review_it_goes_on_at_once():
    history = {"a": GROKKED, "b": [entry(0.95, 0.7)] * 3, "c": [entry(0.2, 0.2)]}
    assert scheduler(history, review=False, max_wait=1000).select_next_task("a") == "c"
    assert scheduler({"a": GROKKED, "b": [entry()], "c": [entry()]}).select_next_task("a") in "bc"


def test_all_grokked_ends_or_cycles():
    history = dict.fromkeys(TASKS, GROKKED)
    made = scheduler(history)
    assert not made.finished
    assert [made.select_next_task(task) for task in ("a", "b", "c")] == ["b", "c", "a"]
    assert {choice.kind for choice in made.choices[3:]} == {"cycle"}

    made = scheduler(history, when_all_grokked="end")
    assert made.finished
    assert made.select_next_task("b") == "b"
    assert made.choices[-1].kind == "end"
    made.task_history["c"].append(entry(0.1, 0.1))
    assert not made.finished
    assert made.select_next_task("c") == "c"


def test_every_choice_is_logged_with_its_reason(caplog):
    made = DynamicScheduler(ScheduleConfig(TASKS), {})
    with caplog.at_level(logging.INFO, logger="infodyn.dynamic_scheduler"):
        for task in (None, "a", "b"):
            made.select_next_task(task)
    assert len(caplog.messages) == len(made.choices) == 3
    for message, choice in zip(caplog.messages, made.choices, strict=True):
        assert choice.task in message
        assert choice.reason in message
        assert choice.reason


def world(task, step, trained):
    """Accuracy and surprise as a function of how often each task was trained: a course that a scheduler can follow."""
    done = trained.count(task)
    forgotten = max(0, len(trained) - 1 - max((i for i, t in enumerate(trained) if t == task), default=0))
    accuracy = max(0.0, min(1.0, 0.2 * done) - 0.01 * forgotten)
    return {"accuracy": accuracy, "epsilon": 1.2 - accuracy, "tau": 1.0, "surprise": 1.1 - accuracy, "tokens": 10}


def run(made, steps, task=None, trained=()):
    trained, courses = list(trained), []
    for step in range(len(trained), len(trained) + steps):
        task = made.select_next_task(task)
        trained.append(task)
        courses.append(task)
        for each in TASKS:
            record(made.task_history, each, step=step, epoch=float(step), **world(each, step, trained))
    return courses, trained


def test_resume_from_the_state_continues_exactly():
    options = {"seed": 5, "window": 2, "max_wait": 5}
    whole = DynamicScheduler(ScheduleConfig(TASKS, **options), {})
    course, _ = run(whole, 25)
    kinds = {choice.kind for choice in whole.choices}
    assert {"cold", "score"} < kinds

    for cut in (1, 4, 13):
        first = DynamicScheduler(ScheduleConfig(TASKS, **options), {})
        begun, trained = run(first, cut)
        history = {}
        second = DynamicScheduler(ScheduleConfig(TASKS, **options), history)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert history["a"] == first.task_history["a"]  # the caller's own object is filled
        went_on, _ = run(second, 25 - cut, begun[-1], trained)
        assert begun + went_on == course
        assert second.choices == whole.choices
        assert second.task_history == whole.task_history


def test_a_state_of_another_schedule_is_refused():
    state = DynamicScheduler(ScheduleConfig(TASKS, seed=1), {}).state_dict()
    for other in (ScheduleConfig(TASKS, seed=2), ScheduleConfig(("a", "b"), seed=1)):
        with pytest.raises(ValueError, match="resume with the same"):
            DynamicScheduler(other, {}).load_state_dict(state)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="'z'"):
        scheduler().select_next_task("z")
    with pytest.raises(ValueError, match="the schedule has not: z"):
        DynamicScheduler(ScheduleConfig(TASKS), {"z": []})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pi_threshold": 1.5}, "pi_threshold"),
        ({"accuracy_threshold": "high"}, "accuracy_threshold"),
        ({"stability": float("nan")}, "stability"),
        ({"window": 0}, "window"),
        ({"window": True}, "window"),
        ({"max_wait": 2}, "max_wait"),
        ({"policy": "best"}, "policy"),
        ({"when_all_grokked": "stop"}, "when_all_grokked"),
        ({"review": 1}, "review"),
        ({"seed": -1}, "seed"),
        ({"accuracy_weight": 0, "pi_weight": 0}, "both 0"),
        ({"pi_weight": float("inf")}, "finite"),
        ({"pi_treshold": 0.5}, "pi_threshold"),
    ],
)
def test_options_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ScheduleConfig.of(TASKS, options)


def test_tasks_must_differ():
    for tasks in ((), ("a", "a")):
        with pytest.raises(ValueError, match="different names"):
            ScheduleConfig(tasks)


def test_metrics_and_their_deltas():
    history = {}
    first = record(history, "a", step=1, epoch=1.0, accuracy=0.25, epsilon=2.0, tau=1.0, surprise=0.5, tokens=4)
    second = record(history, "a", step=2, epoch=2.0, accuracy=0.75, epsilon=1.0, tau=2.0, surprise=0.0, tokens=4)
    assert (first.delta_accuracy, first.delta_pi) == (0.0, 0.0)
    assert first.avg_pi == pytest.approx(0.2865047968601901)
    assert second.avg_pi == pytest.approx(0.7788007830714049)
    assert second.delta_accuracy == pytest.approx(0.5)
    assert second.delta_pi == pytest.approx(0.7788007830714049 - 0.2865047968601901)
    assert history == {"a": [first, second]}
    assert TaskMetrics.from_dict(json.loads(json.dumps(second.to_dict()))) == second
    given = {"epoch": 1.0, "epsilon": 1.0, "tau": 1.0, "surprise": 0.0}
    for wrong, match in (
        ({"step": 1, "accuracy": 0.5, "tokens": 1}, "after the one"),
        ({"step": 3, "accuracy": 1.5, "tokens": 1}, "accuracy"),
        ({"step": 3, "accuracy": 0.5, "tokens": 0}, "no labelled token"),
    ):
        with pytest.raises(ValueError, match=match):
            record(history, "a", **given, **wrong)
    with pytest.raises(ValueError, match="another version"):
        TaskMetrics.from_dict({"step": 1})


@pytest.mark.parametrize(
    ("measured", "match"),
    [
        ({"surprise": math.inf}, r"evaluation of 'a' at step 7: .*surprise.*inf.*learning rate"),
        ({"epsilon": math.nan}, r"evaluation of 'a' at step 7: .*epsilon.*nan.*learning rate"),
        ({"accuracy": math.nan}, r"accuracy of 'a'.*nan"),
    ],
)
def test_a_diverged_evaluation_is_named_and_not_kept(measured, match):
    history = {}
    given = {"accuracy": 0.5, "epsilon": 1.0, "tau": 1.0, "surprise": 0.0, "tokens": 4}
    with pytest.raises(ValueError, match=match):
        record(history, "a", step=7, epoch=1.0, **(given | measured))
    assert not history.get("a")


@pytest.mark.parametrize("name", ["avg_accuracy", "avg_loss", "surprise", "avg_pi", "delta_accuracy", "delta_pi"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5"])
def test_metrics_that_are_not_finite_are_refused_wherever_they_come_from(name, value):
    """NaN would rank first under every policy, and count as grokked between two accuracies that are high."""
    with pytest.raises(ValueError, match=f"finite {name}"):
        dataclasses.replace(entry(), **{name: value})
    made = scheduler({"a": [entry()]})
    state = made.state_dict()
    state["history"]["a"][0][name] = value
    with pytest.raises(ValueError, match=f"finite {name}"):
        DynamicScheduler(ScheduleConfig(TASKS), {}).load_state_dict(json.loads(json.dumps(state)))
    assert dataclasses.replace(entry(), train_pi=None) == entry()


@pytest.mark.parametrize("lost", ["tasks", "seed", "choices", "history"])
def test_a_state_that_is_not_whole_is_refused_and_changes_nothing(lost):
    state = scheduler({"a": [entry()]}).state_dict()
    del state[lost]
    made = scheduler({"b": [entry(0.7)]})
    before = made.state_dict()
    with pytest.raises(ValueError, match=f"has no {lost}: resume from"):
        made.load_state_dict(state)
    assert made.state_dict() == before
