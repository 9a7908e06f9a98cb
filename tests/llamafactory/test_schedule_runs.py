"""Native runs under a dynamic schedule: what is decided, measured, resumed, and equal on two ranks.

Runs are made inside this process with LLaMA-Factory's own ``run_exp``, but for those that need one of their own.
"""

import hashlib
import json
import math

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.infodyn.dynamic_scheduler import DynamicScheduler  # noqa: E402
from llamafactory.infodyn.probe_file import probe_files, read_probe_file  # noqa: E402
from llamafactory.infodyn.schedule_config import ScheduleConfig  # noqa: E402
from llamafactory.infodyn.task_metrics import TaskMetrics  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402

pytestmark = pytest.mark.upstream_heavy

TASKS = ("paris", "joke", "count")
CHUNK = 4
OUTPUTS = {
    "paris": lambda i: "It is Paris.",
    "joke": lambda i: "Tell me a joke about the sea" if i % 2 else "The robot turns left at the door.",
    "count": lambda i: str((i * 7) % 10),
}


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    return tiny.save_text_model(tmp_path_factory.mktemp("moe"), "qwen3_moe")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for task, output in OUTPUTS.items():
        for kind, count in (("", 20), ("_val", 7)):
            rows = [{"instruction": f"{task} {i}", "input": "", "output": output(i)} for i in range(count)]
            (folder / f"{task}{kind}.json").write_text(json.dumps(rows), encoding="utf-8")
    info = {f"{task}{kind}": {"file_name": f"{task}{kind}.json"} for task in TASKS for kind in ("", "_val")}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


def given(moe, data, output, **changes):
    on = {
        "finetuning_type": "full",
        "dataset": ",".join(TASKS),
        "eval_dataset": ",".join(f"{task}_val" for task in TASKS),
        "eval_strategy": "epoch",
        "per_device_eval_batch_size": 4,
        "learning_rate": 5.0e-3,
        "cutoff_len": 64,
        "max_steps": 5 * CHUNK,
        "save_only_model": False,
        "save_steps": 2,
        "dynamic_schedule": True,
        "schedule": {"chunk_steps": CHUNK, "surprise_samples": 6},
    }
    made = tiny.settings(moe, data, output, **(on | changes))
    for unused in ("lora_target", "lora_rank"):
        made.pop(unused)
    return made


def log(output):
    return [json.loads(line) for line in (output / "schedule.jsonl").read_text(encoding="utf-8").splitlines()]


def choices(output):
    return [entry["choice"] for entry in log(output) if "choice" in entry]


def metrics(output):
    return [(entry["task"], entry["metrics"]) for entry in log(output) if "metrics" in entry]


def weights(output):
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(moe, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "run"
    run_exp(given(moe, data, output))
    return output


def test_the_log_is_what_a_scheduler_decides_from_the_logged_metrics(trained):
    """One that sees the metrics alone comes to the same choices for the same reasons."""
    history = {}
    again = DynamicScheduler(ScheduleConfig(TASKS, seed=42), history)
    task, made = None, []
    for entry in log(trained):
        if "choice" in entry:
            task = again.select_next_task(task)
            made.append(entry["choice"])
            found = again.choices[-1]
            assert (found.task, found.kind, found.reason) == tuple(made[-1][key] for key in ("task", "kind", "reason"))
        else:
            history[entry["task"]].append(TaskMetrics.from_dict(entry["metrics"]))
    assert [choice["kind"] for choice in made] == ["cold"] * 3 + ["score"] * 2
    assert {choice["task"] for choice in made[:3]} == set(TASKS)
    assert {len(entries) for entries in history.values()} == {5}
    assert {entry.step for entries in history.values() for entry in entries} == {4, 8, 12, 16, 20}


def test_the_trainers_log_has_them_too(trained):
    state = json.loads((trained / "trainer_state.json").read_text(encoding="utf-8"))
    logged = [entry for entry in state["log_history"] if "eval_joke_pi" in entry]
    assert [entry["step"] for entry in logged] == [4, 8, 12, 16, 20]
    last = dict(metrics(trained)[-3:])
    for task in TASKS:
        assert logged[-1][f"eval_{task}_accuracy"] == last[task]["avg_accuracy"]
        assert logged[-1][f"eval_{task}_pi"] == last[task]["avg_pi"]
    trained_tasks = [choice["task"] for choice in choices(trained)]
    for task, entry in metrics(trained):
        own = trained_tasks[entry["step"] // CHUNK - 1] == task
        assert entry["train_steps"] == (CHUNK if own else 0)
        assert (entry["train_pi"] is not None) is own


def test_every_quantity_against_a_float64_pass_over_the_saved_model(trained, data):
    """Accuracy, loss, entropy and PI from the definitions, on samples that are tokenized one by one."""
    from llamafactory.infodyn.subset import choose_samples
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float64).eval()
    model.set_experts_implementation("eager")  # grouped kernels have no float64
    tokenizer = AutoTokenizer.from_pretrained(trained)
    final = dict(metrics(trained)[-3:])
    for task in TASKS:
        loss_sum, entropy, right, count, subset = 0.0, 0.0, 0, 0, []
        rows = json.loads((data / f"{task}_val.json").read_text(encoding="utf-8"))
        chosen = choose_samples(len(rows), 6, 42)
        for number, row in enumerate(rows):
            prompt = f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n"
            prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
            answer = tokenizer.encode(row["output"] + "<|im_end|>\n", add_special_tokens=False)
            logits = model(torch.tensor([prompt_ids + answer])).logits[0, len(prompt_ids) - 1 : -1]
            log_p = logits.log_softmax(-1)
            nll = -log_p[torch.arange(len(answer)), torch.tensor(answer)]
            loss_sum += nll.sum().item()
            entropy -= (log_p.exp() * log_p).sum().item()
            right += int((log_p.argmax(-1) == torch.tensor(answer)).sum())
            count += len(answer)
            if number in chosen:
                subset.append(nll)
        model.zero_grad()
        (torch.cat(subset).mean()).backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
        entry = final[task]
        assert entry["tokens"] == count
        assert entry["avg_accuracy"] == right / count
        assert entry["avg_loss"] == pytest.approx(loss_sum / count, rel=1e-5)
        assert entry["avg_entropy"] == pytest.approx(entropy / count, rel=1e-5)
        assert entry["surprise"] == pytest.approx(norm, rel=1e-4)
        pi = math.exp(-(0.5 * (loss_sum / count) / (entropy / count) + 0.5 * norm))
        assert entry["avg_pi"] == pytest.approx(pi, rel=1e-4)
        assert 0 < entry["avg_pi"] < 1


@pytest.mark.parametrize("step", [2 * CHUNK - 2, 2 * CHUNK, 3 * CHUNK - 2], ids=["inside", "boundary", "inside later"])
def test_a_resumed_run_is_the_run_that_never_stopped(trained, moe, data, tmp_path, step):
    """At the boundary the checkpoint was saved before the chunk's evaluation, which the resumed run makes up for."""
    output = tmp_path / "resumed"
    run_exp(given(moe, data, output, resume_from_checkpoint=str(trained / f"checkpoint-{step}")))
    assert weights(output) == weights(trained)
    assert log(output) == log(trained)
    assert len({choice["task"] for choice in choices(output)}) == 3


def test_a_checkpoint_of_other_sizes_or_without_a_schedule_is_refused(trained, moe, data, tmp_path):
    checkpoint = trained / "checkpoint-8"
    wrong = given(moe, data, tmp_path / "a", resume_from_checkpoint=str(checkpoint), per_device_train_batch_size=4)
    with pytest.raises(ValueError, match="resume with the same"):
        run_exp(wrong)
    run_exp(given(moe, data, tmp_path / "off", dynamic_schedule=False, schedule=None, max_steps=2))
    with pytest.raises(ValueError, match="without `dynamic_schedule`"):
        run_exp(given(moe, data, tmp_path / "b", resume_from_checkpoint=str(tmp_path / "off" / "checkpoint-2")))


def test_all_grokked_ends_the_training(moe, data, tmp_path):
    easy = {"pi_threshold": 0.0, "accuracy_threshold": 0.0, "window": 2, "stability": 1.0, "when_all_grokked": "end"}
    output = tmp_path / "run"
    run_exp(given(moe, data, output, schedule={"chunk_steps": CHUNK, **easy}))
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2 * CHUNK
    assert len(choices(output)) == 2
    again = given(moe, data, tmp_path / "again", schedule={"chunk_steps": CHUNK, **easy}, max_steps=40)
    run_exp(again | {"resume_from_checkpoint": str(output / f"checkpoint-{2 * CHUNK}")})
    state = json.loads((tmp_path / "again" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2 * CHUNK  # a schedule that has ended trains no further


def test_epochs_keep_their_number_of_samples(moe, data, tmp_path):
    """60 rows, two epochs, 2 a step: 60 steps, whatever a chunk is."""
    output = tmp_path / "run"
    made = given(moe, data, output, num_train_epochs=2, schedule={"chunk_steps": 25}, save_strategy="no")
    del made["max_steps"]
    run_exp(made)
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["global_step"], len(choices(output))) == (60, 3)


@pytest.mark.parametrize("scheduled", [True, False])
def test_probes_write_a_file_for_each_data_set_and_evaluation(moe, data, tmp_path, scheduled):
    output = tmp_path / "run"
    spec = {"name": "experts", "source_modules": ["**.layers.0.mlp.experts.?"], "target_modules": ["**.layers.1"]}
    changes = {"probes": {"probes": [spec], "validation_subset_size": 5}, "max_steps": 2 * CHUNK}
    if not scheduled:
        changes |= {"dynamic_schedule": False, "schedule": None, "eval_on_each_dataset": False}
        changes |= {"eval_strategy": "steps", "eval_steps": CHUNK}
    run_exp(given(moe, data, output, **changes))
    names = [f"experts.{task}" for task in TASKS] if scheduled else ["experts"]
    for name in names:
        found = probe_files(output, name)
        assert [epoch for epoch, _ in found] == [1, 2]
        content = read_probe_file(found[0][1])
        assert len(content["source_activations"]) == 4
        assert content["metadata"]["dataset_name"] == (name.split(".")[1] if scheduled else "validation")
        assert len(set(content["metadata"]["rows"]["sample"].tolist())) == 5
    assert (output / "schedule.jsonl").exists() is scheduled


def test_probes_change_no_choice_and_no_weight(trained, moe, data, tmp_path):
    spec = {"name": "experts", "source_modules": ["**.mlp.experts.?"], "target_modules": ["**.layers.1"]}
    run_exp(given(moe, data, tmp_path / "run", probes={"probes": [spec]}))
    assert weights(tmp_path / "run") == weights(trained)
    assert log(tmp_path / "run") == log(trained)


def test_gaussian_router_with_memory_trains_and_resumes(moe, data, tmp_path, monkeypatch):
    """And under gradient checkpointing that is not reentrant gives the same weights."""
    from safetensors.torch import load_file
    from torch.utils import checkpoint as module

    changes = {"moe_router": "gaussian", "disable_gradient_checkpointing": True}
    schedule = {"chunk_steps": CHUNK, "routing_memory": 0.1}
    run_exp(given(moe, data, tmp_path / "with", schedule=schedule, **changes))
    run_exp(given(moe, data, tmp_path / "without", schedule={"chunk_steps": CHUNK}, **changes))
    assert any(name.endswith("log_sigma") for name in load_file(tmp_path / "with" / "model.safetensors"))
    assert weights(tmp_path / "with") != weights(tmp_path / "without")
    checkpointed, kinds, honest = {"moe_router": "gaussian", "use_reentrant_gc": False}, [], module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *a, **k: kinds.append(k["use_reentrant"]) or honest(*a, **k))
    run_exp(given(moe, data, tmp_path / "checkpointed", schedule=schedule, **checkpointed))
    assert set(kinds) == {False}
    assert weights(tmp_path / "checkpointed") == weights(tmp_path / "with")
    resumed = given(moe, data, tmp_path / "resumed", schedule=schedule, **changes)
    run_exp(resumed | {"resume_from_checkpoint": str(tmp_path / "with" / f"checkpoint-{3 * CHUNK - 2}")})
    assert weights(tmp_path / "resumed") == weights(tmp_path / "with")


def test_a_checkpoint_without_a_parameter_is_refused(moe):
    from llamafactory.infodyn_factory.resume import restore_missing
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(moe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    experts = [name for name in before if ".experts." in name]
    for name in experts:
        model.get_parameter(name).data.zero_()
    restore_missing(model, str(moe), experts)
    assert experts
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"does not hold router\.bias"):
        restore_missing(model, str(moe), ["router.bias"])


def test_two_ranks_choose_alike_and_measure_what_one_measures(moe, data, tmp_path):
    """Seven samples in batches of two on two ranks: the last batch is filled up, and must not count twice."""
    changes = {"eval_on_start": True, "max_steps": 3 * CHUNK, "per_device_eval_batch_size": 2}
    tiny.train(given(moe, data, tmp_path / "two", **changes, ddp_backend="gloo"), processes=2)
    run_exp(given(moe, data, tmp_path / "one", **changes))
    for (task, two), (other, one) in zip(metrics(tmp_path / "two")[:3], metrics(tmp_path / "one")[:3], strict=True):
        assert (task, two["step"], two["tokens"], two["avg_accuracy"]) == (other, 0, one["tokens"], one["avg_accuracy"])
        for name in ("avg_loss", "avg_entropy", "surprise", "avg_pi"):
            assert two[name] == pytest.approx(one[name], rel=1e-5)
    assert len(choices(tmp_path / "two")) == 3  # the session raises where ranks differ
    assert [entry["train_steps"] for _, entry in metrics(tmp_path / "two")[3:]].count(CHUNK) == 3


def test_two_ranks_that_stop_inside_a_chunk_remember_what_both_have_routed(moe, data, tmp_path):
    """Without an optimizer's state: transformers cannot load one on the CPU's ranks (torch: `tagged with cpu:0`)."""
    changes = {"moe_router": "gaussian", "disable_gradient_checkpointing": True, "ddp_backend": "gloo"}
    changes |= {"optim": "sgd", "save_only_model": True}
    changes |= {"schedule": {"chunk_steps": CHUNK, "routing_memory": 0.1}, "max_steps": 2 * CHUNK + 2}
    inside = CHUNK + 2
    tiny.train(given(moe, data, tmp_path / "whole", **changes), processes=2)
    resumed = {"resume_from_checkpoint": str(tmp_path / "whole" / f"checkpoint-{inside}")}
    tiny.train(given(moe, data, tmp_path / "resumed", **changes) | resumed, processes=2)

    def memory(run, step):
        state = json.loads((tmp_path / run / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
        return state["stateful_callbacks"]["ScheduleCallback"]["attributes"]["memory"]

    first, second = memory("whole", inside)["sums"]
    assert first.keys() == second.keys() == {choices(tmp_path / "whole")[1]["task"]}
    assert first != second
    after = memory("whole", 2 * CHUNK + 2)
    assert len(after["epochs"]) == 2
    assert memory("resumed", 2 * CHUNK + 2) == after
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


def test_off_is_the_upstream_bit_for_bit(unpatched, moe, data, tmp_path):
    """Three data sets, evaluation and all of this pack's switches at their defaults, against the plain checkout."""
    found = []
    for name, src in (("before", unpatched / "src"), ("after", tiny.SRC)):
        made = given(moe, data, tmp_path / name, max_steps=6, eval_strategy="steps", eval_steps=3)
        for switch in ("dynamic_schedule", "schedule"):
            del made[switch]
        found.append((tiny.train(made, src=src), weights(tmp_path / name)))
    assert len(found[0][0]) == 6
    assert found[0] == found[1]
