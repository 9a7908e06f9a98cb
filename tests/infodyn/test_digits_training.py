"""The tasks made of digits, one run on them, and what is kept of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_made_up import digits, made_up  # noqa: F401
from infodyn.routing_history import RoutingHistory

from runners.digits import keep as keeping
from runners.digits.data import TASKS, TRAINED, VALIDATED, load_digits, make_tasks
from runners.digits.keep import kept_run
from runners.digits.model import DigitTransformer
from runners.digits.results import decided
from runners.digits.training import Settings, train, with_shares

SHORT = Settings(choices=4, steps=2, batch=16, surprised=8, test_every=4)
pytestmark = pytest.mark.usefixtures("digits")


def test_a_split_holds_the_same_images_in_every_task() -> None:
    tasks, other = make_tasks(3), make_tasks(4)
    assert list(tasks) == list(TASKS)
    for part, size in (("train", TRAINED), ("validation", VALIDATED), ("test", 1797 - TRAINED - VALIDATED)):
        low, high, rotated, inverted = (getattr(tasks[name], part) for name in TASKS)
        assert len(rotated) == len(inverted) == len(low) + len(high) == size
        assert low.labels.max() == 4
        assert high.labels.min() == 5
        assert torch.equal(rotated.images.rot90(-1, (1, 2)), -inverted.images)
        assert torch.equal(low.images, -inverted.images[inverted.labels < 5])
        assert torch.equal(rotated.labels, inverted.labels)
    whole = torch.cat([-getattr(tasks["inverted"], part).images for part in ("train", "validation", "test")])
    assert {image.numpy().tobytes() for image in whole} == {image.numpy().tobytes() for image in made_up().images}
    assert not torch.equal(tasks["low"].train.images[:9], other["low"].train.images[:9])


def test_the_real_digits() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn cannot be imported: make infodyn builds its environment")
    found = load_digits()
    assert found.images.shape == (1797, 8, 8)
    assert (found.images.min(), found.images.max()) == (-1, 1)
    assert torch.bincount(found.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_same_seed_is_the_same_run_and_another_is_not() -> None:
    runs = [train("dynamic", "memory", seed, SHORT) for seed in (0, 0, 1)]
    for run in runs:
        run.pop("cpu_seconds")
    assert runs[0] == runs[1]
    assert runs[0]["test"] != runs[2]["test"]


def test_the_schedules_choose_as_they_say() -> None:
    settings = replace(SHORT, choices=8, steps=1)
    blocks, rounds, dynamic = (train(schedule, "linear", 0, settings) for schedule in ("blocks", "rounds", "dynamic"))
    assert blocks["chosen"] == [task for task in TASKS for _ in range(2)]
    assert rounds["chosen"] == [*TASKS, *TASKS]
    assert sorted(dynamic["chosen"][:4]) == sorted(TASKS)  # the cold start
    assert [choice["task"] for choice in dynamic["decided"]] == dynamic["chosen"]
    assert blocks["decided"] == []
    for run, validated in ((blocks, [0, 4, 8]), (rounds, [0, 4, 8]), (dynamic, list(range(9)))):
        assert all(len(run["test"][task]) == 3 for task in TASKS)
        assert all([entry["epoch"] for entry in run["history"][task]] == validated for task in TASKS)
        assert all(0 < entry["avg_pi"] < 1 and entry["surprise"] > 0 for entry in run["history"]["low"])


def test_all_routers_begin_alike_and_go_their_own_ways() -> None:
    settings = replace(SHORT, choices=8, test_every=1)
    linear, gaussian, memory = (train("rounds", router, 0, settings) for router in ("linear", "gaussian", "memory"))
    for task in TASKS:
        first = [run["history"][task][0]["avg_loss"] for run in (linear, gaussian, memory)]
        assert first[1] == first[2] == pytest.approx(first[0], rel=1e-5)
        assert linear["experts_used"][task][0] == pytest.approx(gaussian["experts_used"][task][0], rel=1e-3)
    last = [run["history"]["low"][-1]["avg_loss"] for run in (linear, gaussian, memory)]
    # The memory speaks from the second time on that a task is chosen.
    assert gaussian["history"]["low"][4]["avg_loss"] == memory["history"]["low"][4]["avg_loss"]
    assert len(set(last)) == 3


def test_tasks_reach_the_thresholds_and_hand_over_but_not_where_need_alone_decides() -> None:
    settings = replace(SHORT, choices=16, steps=5, batch=64, test_every=8)
    assert settings.schedule == Settings().schedule
    dynamic, need = (train(schedule, "linear", 0, settings) for schedule in ("dynamic", "need"))
    found = decided(dynamic)
    assert found["grokked"] == found["grokked_at_end"] == 4
    assert found["handed_over"] >= found["reviews"] >= 1
    assert not {"review", "cycle"} & {choice["kind"] for choice in need["decided"]}
    assert decided(need)["grokked"] == 0
    # Up to where the first task is grokked they are one run.
    same = next(number for number, choice in enumerate(dynamic["decided"]) if choice["grokked"])
    assert dynamic["chosen"][:same] == need["chosen"][:same]


def test_the_memory_weighs_by_the_pi_of_the_tasks_last_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[float] = []
    loss = RoutingHistory.loss

    def spied(self: RoutingHistory, pi: float) -> torch.Tensor:
        weighed.append(pi)
        return loss(self, pi)

    monkeypatch.setattr(RoutingHistory, "loss", spied)
    run = train("rounds", "memory", 0, replace(SHORT, choices=8))
    # Validated before each choice, so entry n is what choice n + 1 knew.
    expected = [run["history"][task][number]["avg_pi"] for number, task in enumerate(run["chosen"]) for _ in range(2)]
    assert weighed == expected


def test_it_learns() -> None:
    run = train("rounds", "gaussian", 0, replace(SHORT, choices=8, steps=10, batch=64))
    assert sum(run["test"][task][-1] for task in TASKS) / 4 > 0.5
    assert max(run["test"][task][0] for task in TASKS) < 0.4


def test_shares_are_those_of_the_gates() -> None:
    torch.manual_seed(0)
    model, samples = DigitTransformer().eval(), made_up(20)
    seen: list[torch.Tensor] = []
    hook = model.blocks[1].mlp.gate.register_forward_hook(lambda module, given, output: seen.append(output[2]))
    logits, shares = with_shares(model, samples)
    hook.remove()
    expected = [sum(int(e == number) for e in seen[0].flatten()) / seen[0].numel() for number in range(8)]
    assert shares[1].tolist() == pytest.approx(expected)
    assert torch.equal(logits, model(samples.images))
    assert seen[0].shape == (20 * 4, 2)
    assert not model.blocks[0].mlp.gate._forward_hooks


def test_what_is_kept_is_not_run_again_but_what_changed_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def stand_in(schedule: str, router: str, seed: int, settings: Settings) -> dict[str, int]:
        ran.append((schedule, router, seed, settings.steps))
        return {"number": len(ran)}

    monkeypatch.setattr(keeping, "train", stand_in)
    monkeypatch.setattr(keeping.metadata, "version", lambda name: "1")
    arm = ("blocks", "linear")
    assert kept_run(arm, 0, SHORT, tmp_path) == kept_run(arm, 0, SHORT, tmp_path) == {"number": 1}
    assert kept_run(arm, 1, SHORT, tmp_path) == {"number": 2}
    assert kept_run(("rounds", "linear"), 0, SHORT, tmp_path) == {"number": 3}
    assert kept_run(arm, 0, replace(SHORT, steps=3), tmp_path) == {"number": 4}
    assert kept_run(arm, 0, SHORT, None) == {"number": 5}
    code = tmp_path / "training.py"
    code.write_text("one", encoding="utf-8")
    monkeypatch.setattr(keeping, "CODE", (code,))
    assert kept_run(arm, 0, SHORT, tmp_path) == {"number": 6}
    code.write_text("two", encoding="utf-8")
    assert kept_run(arm, 0, SHORT, tmp_path) == {"number": 7}
    assert kept_run(arm, 0, SHORT, tmp_path) == {"number": 7}
    for file in tmp_path.glob("blocks-linear-seed-0-*.json"):
        file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="delete it"):
        kept_run(arm, 0, SHORT, tmp_path)


def test_the_code_that_counts_is_there() -> None:
    files = [place if place.is_file() else place / f"{name}.py" for place in keeping.CODE for name in keeping.MODULES]
    assert all(file.is_file() for file in files)
