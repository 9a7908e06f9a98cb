"""One run: a model of one arm learns the four tasks in the order that its schedule says, and is measured all along."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from infodyn.dynamic_scheduler import DynamicScheduler
from infodyn.gaussian_router import use_gaussian_routing
from infodyn.pi import gradient_norm, predictive_integrity, token_statistics, validation_surprise
from infodyn.routing_history import RoutingHistory
from infodyn.schedule_config import ScheduleConfig
from infodyn.task_metrics import TaskHistory, record
from torch import Tensor, nn
from torch.nn import functional as F

from runners.digits.data import TASKS, Samples, Task, make_tasks
from runners.digits.model import EXPERTS, DigitTransformer

SCHEDULES, ROUTERS = ("blocks", "rounds", "need", "dynamic"), ("linear", "gaussian", "memory")
ASKING = ("need", "dynamic")
"""Schedules that a ``DynamicScheduler`` decides; to ``need`` no task ever counts as grokked."""
REACHED = {"pi_threshold": 0.2, "accuracy_threshold": 0.7, "stability": 0.1}
"""Thresholds that tasks reach here, where PI ends near 0.3; chosen on seed 100."""


@dataclass(frozen=True)
class Settings:
    """What all arms share, and what only some read."""

    choices: int = 48
    """How often a task is chosen; a multiple of the tasks."""
    steps: int = 10
    """Optimizer steps a choice."""
    batch: int = 128
    rate: float = 4e-3
    """AdamW's at first; it falls linearly to 0."""
    surprised: int = 48
    """Validation images of which the gradient is taken."""
    test_every: int = 4
    """Choices from one test to the next. There all are validated; those that decide by it, after each choice."""
    memory_weight: float = 0.1
    memory_window: int = 10
    schedule: dict[str, Any] = field(default_factory=lambda: {"policy": "need", **REACHED})
    """Options of ``ScheduleConfig``."""


def train(
    schedule: str,
    router: str,
    seed: int,
    settings: Settings,
    after_choice: Callable[[int, nn.Module, dict[str, Task]], None] | None = None,
) -> dict[str, Any]:
    """Trains one arm at one seed; plain JSON types.

    ``after_choice(number, model, tasks)`` is called after each choice, 0 being before the first, with the model in
    evaluation mode.
    """
    began = time.process_time()
    tasks = make_tasks(seed)
    torch.manual_seed(seed)
    model = DigitTransformer()
    memory = None
    if router != "linear":
        use_gaussian_routing(model)
    if router == "memory":
        memory = RoutingHistory(settings.memory_window, settings.memory_weight)
        memory.watch(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=0.01, fused=True)
    updates = settings.choices * settings.steps
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / updates)
    history: TaskHistory = {}
    # PI does not exceed 1.
    options = settings.schedule | ({"pi_threshold": 1.0} if schedule == "need" else {})
    scheduler = DynamicScheduler(ScheduleConfig(TASKS, seed=seed, **options), history)
    feeds = {name: _batches(task.train, settings.batch, seed) for name, task in tasks.items()}
    found: dict[str, Any] = {
        "schedule": schedule,
        "router": router,
        "seed": seed,
        "chosen": [],
        "train_pi": [],
        "test": {name: [] for name in TASKS},
        "experts_used": {name: [] for name in TASKS},
        "experts": {},
    }
    current = None
    for number in range(settings.choices + 1):
        if number:
            current = _next(schedule, number - 1, settings, scheduler, current)
            found["chosen"].append(current)
            pi = history[current][-1].avg_pi
            seen = _learn(model, falling, feeds[current], settings.steps, memory, current, pi)
            found["train_pi"].append(seen)
        tested = number % settings.test_every == 0
        # Of others the validation is for the report, and half of a run's time.
        if tested or schedule in ASKING or memory is not None:
            _validate(model, tasks, history, settings, number, found)
        if tested:
            _test(model, tasks, found)
        if after_choice is not None:
            model.eval()
            after_choice(number, model, tasks)
    found["decided"] = scheduler.state_dict()["choices"]
    found["grokked"] = [name for name in TASKS if schedule in ASKING and scheduler.is_grokked(name)]
    found["history"] = {name: [asdict(entry) for entry in history[name]] for name in TASKS}
    for name, task in tasks.items():
        found["experts"][name] = [share.tolist() for share in with_shares(model, task.test)[1]]
    found["cpu_seconds"] = time.process_time() - began
    return found


def _next(schedule: str, number: int, settings: Settings, scheduler: DynamicScheduler, current: str | None) -> str:
    if schedule in ASKING:
        return scheduler.select_next_task(current)
    return TASKS[number % len(TASKS) if schedule == "rounds" else number * len(TASKS) // settings.choices]


def _batches(samples: Samples, size: int, seed: int) -> Iterator[Samples]:
    """Batches without end: every pass is a new permutation, and its rest goes on into the next."""
    generator = torch.Generator().manual_seed(seed)
    rows: Iterator[int] = itertools.chain.from_iterable(
        torch.randperm(len(samples), generator=generator).tolist() for _ in itertools.count()
    )
    while True:
        yield samples.take(torch.tensor(list(itertools.islice(rows, size))))


def _learn(
    model: nn.Module,
    falling: torch.optim.lr_scheduler.LambdaLR,
    feed: Iterator[Samples],
    steps: int,
    memory: RoutingHistory | None,
    task: str,
    pi: float,
) -> float:
    """The steps of one choice; their mean PI. ``pi`` is the memory's: that of the task's last validation."""
    model.train()
    total = 0.0
    for batch in itertools.islice(feed, steps):
        if memory is None:
            logits = model(batch.images)
            loss = objective = F.cross_entropy(logits, batch.labels)
        else:
            with memory.recording(task):
                logits = model(batch.images)
            loss = F.cross_entropy(logits, batch.labels)
            objective = loss + memory.loss(pi)
        falling.optimizer.zero_grad()
        objective.backward()
        surprise = float(gradient_norm(p.grad for p in model.parameters()))
        tau = float(token_statistics(logits, batch.labels, shift=False)[1]) / len(batch)
        total += predictive_integrity(float(loss.detach()), tau, surprise)
        falling.optimizer.step()
        falling.step()
    if memory is not None:
        memory.end_epoch()
    return total / steps


@torch.no_grad()
def _test(model: nn.Module, tasks: dict[str, Task], found: dict[str, Any]) -> None:
    for name, task in tasks.items():
        right = model(task.test.images).argmax(-1) == task.test.labels
        found["test"][name].append(float(right.float().mean()))


def _validate(
    model: nn.Module,
    tasks: dict[str, Task],
    history: TaskHistory,
    settings: Settings,
    number: int,
    found: dict[str, Any],
) -> None:
    """What a schedule decides by, on the validation images alone; leaves the model in evaluation mode."""
    model.eval()
    for name, task in tasks.items():
        logits, routed = with_shares(model, task.validation)
        loss, entropy, hits, count = token_statistics(logits, task.validation.labels, shift=False).tolist()
        few = task.validation.take(torch.arange(min(settings.surprised, len(task.validation))))
        surprise = validation_surprise(model, [few], _loss_sum)
        record(
            history,
            name,
            step=number * settings.steps,
            epoch=number,
            accuracy=hits / count,
            epsilon=loss / count,
            tau=entropy / count,
            surprise=surprise,
            tokens=int(count),
        )
        used = [float(torch.special.entr(share).sum().exp()) for share in routed]
        found["experts_used"][name].append(sum(used) / len(used))


def _loss_sum(model: nn.Module, batch: Samples) -> tuple[Tensor, int]:
    return F.cross_entropy(model(batch.images), batch.labels, reduction="sum"), len(batch)


@torch.no_grad()
def with_shares(model: nn.Module, samples: Samples) -> tuple[Tensor, list[Tensor]]:
    """Logits, and for every block the share of the tokens' choices that went to each expert, ``[EXPERTS]``, sum 1."""
    counts: list[Tensor] = []

    def count(module: nn.Module, arguments: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        counts.append(torch.bincount(output[2].flatten(), minlength=EXPERTS).double())

    hooks = [block.mlp.gate.register_forward_hook(count) for block in model.blocks]
    try:
        logits = model(samples.images)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, [each / each.sum() for each in counts]
