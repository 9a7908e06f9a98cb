"""Each of LLaMA-Factory's methods on two ranks: equal on both, what one rank comes to, and off the plain upstream.

accelerate deals batch 2i to the first rank and 2i + 1 to the second, of one order that both draw from the seed: two
ranks with batches of 2 train on what one rank with batches of 4 does, and the loss is a mean over all ranks' tokens.
"""

import json
import sys
from pathlib import Path

import pytest
import test_schedule_runs as schedule
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.infodyn.probe_file import probe_files, read_probe_file  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

pytestmark = pytest.mark.upstream_heavy

moe, data = schedule.moe, schedule.data
RANKED = Path(__file__).with_name("ranked.py")
STEPS = 6


def train(arguments, src=tiny.SRC, ranks=1):
    """The losses, and a list of each rank's lines; see ranked.py."""
    more = {} if ranks == 1 else {"ddp_backend": "gloo", "ddp_timeout": 180}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    losses = tiny.train(arguments | more, src=src, command=[sys.executable, *launcher, str(RANKED)])
    output = Path(arguments["output_dir"])
    return losses, [list(map(json.loads, (output / f"{n}.jsonl").read_text().splitlines())) for n in range(ranks)]


def check_equal(lines, steps=STEPS):
    first, second = lines
    assert first == second
    for key in ("gradients", "weights"):
        assert len({line[key] for line in first if key in line}) == steps


def close(one, two):
    """Saved weights differ by rounding, against what training changed."""
    found, other = load_file(one), load_file(two)
    assert found.keys() == other.keys()
    for name, value in found.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-4)


SWITCHES = {
    "off": {},
    "hsa": {"use_hsa": True, "hsa_policy": "hierarchical"},
    "feedback": {"use_feedback": True},
    "both": {"use_hsa": True, "use_feedback": True, "neat_packing": True},
}


@pytest.fixture(scope="module")
def two(text_model, data_folder, tmp_path_factory):
    """Runs of two ranks by name, made when asked for."""
    made = {}

    def run(name):
        if name not in made:
            output = tmp_path_factory.mktemp("two") / name
            made[name] = (*train(given(text_model, data_folder, output, name, 2), ranks=2), output)
        return made[name]

    return run


def given(model, data, output, name, batch):
    return tiny.settings(
        model, data, output, dataset="typed", max_steps=STEPS, save_steps=STEPS, per_device_train_batch_size=batch,
        optim="sgd", learning_rate=0.5, max_grad_norm=0.0, **SWITCHES[name],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["hsa", "feedback", "both"])
def test_two_ranks_train_what_one_rank_does(name, two, text_model, data_folder, tmp_path):
    losses, lines, output = two(name)
    check_equal(lines)
    alone, _ = train(given(text_model, data_folder, tmp_path / "one", name, 4))
    assert losses == pytest.approx(alone, rel=1e-4)
    close(tmp_path / "one" / "adapter_model.safetensors", output / "adapter_model.safetensors")
    # Otherwise nothing was switched on, and the agreement would be upstream's own.
    assert losses != two("off")[0]


def test_off_on_two_ranks_is_the_upstream_bit_for_bit(two, unpatched, text_model, data_folder, tmp_path):
    losses, lines, output = two("off")
    plain, theirs = train(given(text_model, data_folder, tmp_path / "plain", "off", 2), unpatched / "src", ranks=2)
    check_equal(lines)
    assert (losses, lines) == (plain, theirs)
    ours, others = (each / "adapter_model.safetensors" for each in (output, tmp_path / "plain"))
    assert ours.read_bytes() == others.read_bytes()


SPEC = {"name": "experts", "source_modules": ["**.mlp.experts.?"], "target_modules": ["**.layers.1"]}


@pytest.fixture(scope="module")
def scheduled(moe, data, tmp_path_factory):
    """A schedule and probes, on one rank and on two: losses, each rank's lines, output."""
    made = {}
    for ranks in (1, 2):
        output = tmp_path_factory.mktemp("scheduled") / str(ranks)
        changes = {"probes": {"probes": [SPEC], "validation_subset_size": 5}, "optim": "sgd", "learning_rate": 0.05}
        changes |= {"per_device_train_batch_size": 4 // ranks, "per_device_eval_batch_size": 4 // ranks}
        made[ranks] = (*train(schedule.given(moe, data, output, **changes, save_strategy="no"), ranks=ranks), output)
    return made


def test_two_ranks_choose_and_measure_what_one_does(scheduled):
    """Every number that the scheduler sees, at every evaluation, and so every choice and its reason."""
    (alone, _, one), (losses, lines, two) = scheduled[1], scheduled[2]
    check_equal(lines, steps=5 * schedule.CHUNK)
    chosen = lines[0][-1]["choices"]
    assert [choice["task"] for choice in chosen] == [choice["task"] for choice in schedule.choices(two)]
    assert [choice["task"] for choice in chosen] == [choice["task"] for choice in schedule.choices(one)]
    assert [choice["kind"] for choice in chosen] == ["cold"] * 3 + ["score"] * 2
    assert losses == pytest.approx(alone, rel=1e-4)
    assert len(schedule.metrics(one)) == 5 * len(schedule.TASKS)
    for (task, found), (other, expected) in zip(schedule.metrics(two), schedule.metrics(one), strict=True):
        assert task == other
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == (value if value is None else pytest.approx(value, rel=1e-3)), (task, name)


def test_two_ranks_probe_what_one_does(scheduled):
    for task in schedule.TASKS:
        one, two = (probe_files(scheduled[ranks][2], f"experts.{task}") for ranks in (1, 2))
        assert [epoch for epoch, _ in one] == [epoch for epoch, _ in two] == [1, 2, 3, 4, 5]
        # Before the two trainings have come apart by more than rounding, which moves a token to another expert.
        first, other = read_probe_file(one[0][1]), read_probe_file(two[0][1])
        assert first["metadata"]["expert_activation_counts"] == other["metadata"]["expert_activation_counts"]
        for key in ("sample", "token"):
            assert torch.equal(first["metadata"]["rows"][key], other["metadata"]["rows"][key])
        for side in ("source_activations", "target_activations"):
            assert first[side].keys() == other[side].keys()
            for path, values in first[side].items():
                torch.testing.assert_close(other[side][path], values, rtol=1e-3, atol=1e-4)


def test_a_schedule_that_is_off_is_the_upstream_bit_for_bit_on_two_ranks(unpatched, moe, data, tmp_path):
    found = []
    for name, src in (("before", unpatched / "src"), ("after", tiny.SRC)):
        made = schedule.given(moe, data, tmp_path / name, max_steps=STEPS, eval_strategy="steps", eval_steps=3)
        for switch in ("dynamic_schedule", "schedule"):
            del made[switch]
        found.append((*train(made | {"save_strategy": "no"}, src, ranks=2), schedule.weights(tmp_path / name)))
    check_equal(found[0][1])
    assert found[0] == found[1]
