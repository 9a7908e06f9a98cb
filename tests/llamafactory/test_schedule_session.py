"""What a schedule's session measures and keeps, with a trainer that is only what the session reads of one."""

import json
import math
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.infodyn.routing_history import RoutingHistory  # noqa: E402
from llamafactory.infodyn.schedule_config import ScheduleConfig  # noqa: E402
from llamafactory.infodyn_factory.arguments import ScheduleOptions  # noqa: E402
from llamafactory.infodyn_factory.measure import StepMeter  # noqa: E402
from llamafactory.infodyn_factory.memory_state import as_lists, load_memory, sums_of_ranks  # noqa: E402
from llamafactory.infodyn_factory.session import ScheduleSession  # noqa: E402
from llamafactory.infodyn_factory.trainer import InfodynMixin  # noqa: E402
from torch import nn  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402

VOCABULARY = 7


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 5), nn.Linear(5, VOCABULARY)

    def forward(self, input_ids, labels=None):
        return SimpleNamespace(logits=self.head(self.embed(input_ids)))


def trainer(folder, **sets):
    """``sets``: validation rows by task. ``collated`` tells how many rows each batch had."""
    torch.manual_seed(0)
    collated = []

    def collate(rows):
        collated.append(len(rows))
        return {"input_ids": torch.stack(rows), "labels": torch.stack(rows)}

    return SimpleNamespace(
        model=Causal(),
        args=SimpleNamespace(
            output_dir=str(folder), train_batch_size=1, gradient_accumulation_steps=1, world_size=1, process_index=0,
            per_device_eval_batch_size=8, device=torch.device("cpu"),
        ),
        state=SimpleNamespace(global_step=0, epoch=0.0),
        control=SimpleNamespace(should_training_stop=False),
        eval_dataset={task: list(rows) for task, rows in sets.items()},
        data_collator=collate,
        collated=collated,
        _prepare_inputs=lambda batch: batch,
        is_world_process_zero=lambda: True,
    )  # fmt: skip


def session(made, tasks=("a", "b"), **options):
    return ScheduleSession(made, {t: [0] for t in tasks}, ScheduleConfig(tasks), ScheduleOptions(**options))


def step(meter, task, loss, entropy=4.0, tokens=4.0, norm=0.0):
    meter.norm = torch.tensor(norm)
    meter.end_step(task, torch.tensor([loss, entropy, 0.0, tokens], dtype=torch.float64), None)


def rows_of(count, seed):
    return torch.randint(0, VOCABULARY, (count, 6), generator=torch.Generator().manual_seed(seed))


def test_steps_without_a_finite_measurement_are_left_out_and_counted():
    meter = StepMeter(1.0, 0.5)
    step(meter, "a", 4.0, norm=1.0)
    step(meter, "a", 8.0)
    for wrong in ({"norm": math.inf}, {"norm": math.nan}, {"loss": math.nan}, {"entropy": math.inf}, {"tokens": 0.0}):
        step(meter, "a", **({"loss": 4.0} | wrong))
    step(meter, "b", 4.0, norm=math.inf)
    pi, measured, left_out = meter.take("a")
    assert pi == pytest.approx((math.exp(-1.0) + math.exp(-1.0)) / 2, rel=1e-14)  # 0.5 * 1 + 0.5 * 1, 0.5 * 2
    assert (measured, left_out) == (2, 5)
    assert meter.take("b") == (None, 0, 1)
    assert meter.take("a") == (None, 0, 0)


def test_each_task_gets_the_steps_that_were_its_own(tmp_path):
    """Two chunks, on two tasks, before one evaluation; and the same where the run was stopped in between."""
    made = trainer(tmp_path, a=rows_of(2, 1), b=rows_of(2, 2))
    under_way = session(made, chunk_steps=2)
    losses, order = {"a": 4.0, "b": 36.0}, []
    for number in range(4):
        made.state.global_step = number
        if number % 2 == 0:
            order.append(under_way.next_chunk()[0])
        step(under_way.recorder.steps, under_way.task, losses[under_way.task])
        if number == 2:
            saved = json.loads(json.dumps(under_way.state_dict()))
            under_way = session(made, chunk_steps=2)
            under_way.load_state_dict(saved)
    assert sorted(order) == ["a", "b"]
    step(under_way.recorder.steps, order[-1], 1.0, norm=math.inf)
    made.state.global_step = 4
    for task in "ab":
        under_way.recorder.tokens[task] = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    logged = under_way.end_of_evaluation()
    for task, loss in losses.items():
        entry = under_way.task_history[task][-1]
        assert entry.train_pi == pytest.approx(math.exp(-0.5 * loss / 4), rel=1e-14)
        assert (entry.train_steps, entry.train_left_out) == (2, int(task == order[-1]))
        assert logged[f"eval_{task}_train_pi"] == entry.train_pi


def test_the_surprise_takes_one_sample_at_a_time(tmp_path):
    rows = rows_of(5, 3)
    made = trainer(tmp_path, a=rows, b=rows_of(2, 2))
    found = session(made, surprise_samples=8).recorder._surprise("a")
    assert made.collated == [1] * 5
    model = made.model.double()
    log_p = model(rows).logits[:, :-1].log_softmax(-1)
    log_p.gather(-1, rows[:, 1:, None]).mean().backward()
    squares = sum(float(p.grad.square().sum()) for p in model.parameters())
    assert found == pytest.approx(math.sqrt(squares), rel=1e-5)


class WithMemory(nn.Module):
    """A loss of 0 by tokens, beside a parameter that the memory's loss is."""

    def __init__(self):
        super().__init__()
        self.linear, self.routed = nn.Linear(2, 2), nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, labels=None, **kwargs):
        return {"loss": self.linear(input_ids).sum() * 0, "logits": input_ids}


class InfodynTrainer(InfodynMixin, Trainer):
    infodyn_probes = None

    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(("accepts", "own_loss"), [(True, False), (False, False), (False, True)])
def test_the_memorys_loss_is_divided_by_the_accumulation_once(tmp_path, accepts, own_loss, accumulation):
    """Of a mean over micro-batches that is each time the parameter itself, the gradient is 1 whatever their number."""
    model = WithMemory()

    @contextmanager
    def recording(task, mask):
        yield

    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=1, max_steps=1, max_grad_norm=0.0,
        gradient_accumulation_steps=accumulation, learning_rate=1.0, optim="sgd", lr_scheduler_type="constant",
        report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    made = InfodynTrainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": torch.ones(2), "labels": torch.ones(2)}] * 4,
        compute_loss_func=(lambda outputs, labels, num_items_in_batch: outputs["loss"]) if own_loss else None,
    )
    made.model_accepts_loss_kwargs = accepts
    memory = SimpleNamespace(recording=recording, loss=lambda pi: model.routed.sum())
    made.infodyn_schedule = SimpleNamespace(memory=memory, task="a", pi=0.5)
    made.train()
    assert -model.routed.item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_rank_takes_up_its_own_sums_and_none_is_lost(ranks):
    past = RoutingHistory(window=3)
    past._epochs = {"a": {"gate": deque([torch.tensor([0.25, 0.75], dtype=torch.float64)], maxlen=3)}}
    seen = [{"a": {"gate": [0.5, 1.5, 2.0]}}, {"a": {"gate": [2.0, 1.0, 3.0]}, "b": {"gate": [1.0, 0.0, 1.0]}}]
    past._sums = {"a": {"gate": torch.tensor(seen[0]["a"]["gate"], dtype=torch.float64)}}
    assert sums_of_ranks(past) == seen[:1]
    epochs = json.loads(json.dumps(as_lists(past.state_dict()["epochs"])))
    found = []
    for rank in range(ranks):
        memory = RoutingHistory(window=3)
        load_memory(memory, epochs, seen, rank, ranks)
        assert memory.history("a", "gate").tolist() == [0.25, 0.75]
        found.append(as_lists(memory.state_dict()["sums"]))
    both = {"a": {"gate": [2.5, 2.5, 5.0]}, "b": {"gate": [1.0, 0.0, 1.0]}}
    assert found == {1: [both], 2: seen, 3: [*seen, {}]}[ranks]
