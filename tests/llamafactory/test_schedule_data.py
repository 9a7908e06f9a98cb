"""Where each row came from, through LLaMA-Factory's own loading, and the order in which a schedule draws rows."""

import json

import pytest
import tiny

tiny.require()

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import DataArguments, FinetuningArguments, get_train_args  # noqa: E402
from llamafactory.infodyn_factory.router import route  # noqa: E402
from llamafactory.infodyn_factory.sampler import ChunkSampler  # noqa: E402
from llamafactory.infodyn_factory.sources import SOURCE, SourceKeeper, keep_sources, name_source, take_tasks  # noqa: E402
from llamafactory.infodyn_factory.trainer import attach_infodyn  # noqa: E402
from llamafactory.model import load_tokenizer  # noqa: E402

SETS = {"one": 10, "two": 7, "three": 13}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Three data sets whose rows say where they belong; every fourth of ``two`` has no answer, which upstream drops."""
    folder = tmp_path_factory.mktemp("numbered")
    for name, count in SETS.items():
        for kind, rows in (("", count), ("_val", 3)):
            made = [
                {"instruction": f"{name} {i}", "input": "", "output": "" if name == "two" and i % 4 == 3 else f"{name}"}
                for i in range(rows)
            ]
            (folder / f"{name}{kind}.json").write_text(json.dumps(made), encoding="utf-8")
    info = {f"{name}{kind}": {"file_name": f"{name}{kind}.json"} for name in SETS for kind in ("", "_val")}
    info["two"]["columns"] = info["two_val"]["columns"] = {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


def given(text_model, folder, output, **changes):
    on = {"dataset": ",".join(SETS), "dynamic_schedule": True, "eval_strategy": "epoch", "val_size": 0.4}
    return tiny.settings(text_model, folder, output, **(on | changes))


def load(text_model, folder, output, **changes):
    model_args, data_args, training_args, *_ = get_train_args(given(text_model, folder, output, **changes))
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
    return module["tokenizer"], data, data_args


def says(tokenizer, row):
    """The data set that a row's own text names."""
    return tokenizer.decode(row["input_ids"]).split("user\n")[1].split()[0]


@pytest.mark.parametrize("workers", [None, 2])
def test_every_row_keeps_its_source_through_merge_split_and_tokenization(text_model, numbered, tmp_path, workers):
    tokenizer, data, data_args = load(
        text_model, numbered, tmp_path / "out", preprocessing_num_workers=workers, preprocessing_batch_size=4
    )
    train = data["train_dataset"]
    texts = [says(tokenizer, row) for row in train]
    validation = [says(tokenizer, row) for row in data["eval_dataset"]]
    assert sorted(texts + validation) == sorted(name for name, count in SETS.items() for _ in range(count))
    rows = take_tasks(data, data_args.dataset)
    assert list(rows) == list(SETS)
    assert sorted(number for numbers in rows.values() for number in numbers) == list(range(len(texts)))
    for task, numbers in rows.items():
        assert {texts[number] for number in numbers} == {task}
    assert SOURCE not in data["train_dataset"].column_names
    assert list(data["eval_dataset"]) == list(SETS)
    for task, part in data["eval_dataset"].items():
        assert {says(tokenizer, row) for row in part} == {task}
        assert SOURCE not in part.column_names
    assert sum(map(len, data["eval_dataset"].values())) == len(validation)


def test_rows_that_the_processor_drops_shift_no_source():
    class Dropping:
        def preprocess_dataset(self, examples):
            kept = [text for text in examples["text"] if not text.startswith("drop")]
            return {"input_ids": [[len(text)] for text in kept], "texts": kept} if kept else {}

    names = ["a", "a", "b", "b", "a", "c"]
    examples = {"text": ["a1", "drop", "b1", "b2", "drop", "c1"], SOURCE: names}
    found = SourceKeeper(Dropping()).preprocess_dataset(examples)
    assert found == {"input_ids": [[2]] * 4, "texts": ["a1", "b1", "b2", "c1"], SOURCE: ["a", "b", "b", "c"]}
    assert SourceKeeper(Dropping()).preprocess_dataset({"text": ["drop"], SOURCE: ["a"]}) == {}


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("evaluated", ["one_val,two_val,three_val", "three,one,two"])
def test_evaluation_sets_belong_to_the_task_at_their_place_or_of_their_name(
    text_model, numbered, tmp_path, each, evaluated
):
    options = {"val_size": 0.0, "eval_dataset": evaluated, "eval_on_each_dataset": each}
    tokenizer, data, data_args = load(text_model, numbered, tmp_path / "out", **options)
    take_tasks(data, data_args.dataset, data_args.eval_dataset)
    assert list(data["eval_dataset"]) == list(SETS)
    for task, part in data["eval_dataset"].items():
        assert {says(tokenizer, row) for row in part} == {task}


def test_tokenized_data_on_disk_keeps_sources_or_is_refused(text_model, numbered, tmp_path):
    path = str(tmp_path / "tokenized")
    load(text_model, numbered, tmp_path / "out", tokenized_path=path)
    tokenizer, data, data_args = load(text_model, numbered, tmp_path / "out", tokenized_path=path)
    rows = take_tasks(data, data_args.dataset)
    train = data["train_dataset"]
    assert {task: {says(tokenizer, train[n]) for n in numbers} for task, numbers in rows.items()} == {
        task: {task} for task in SETS
    }

    load(text_model, numbered, tmp_path / "out", tokenized_path=path + "-off", dynamic_schedule=False)
    _, data, data_args = load(text_model, numbered, tmp_path / "out", tokenized_path=path + "-off")
    with pytest.raises(ValueError, match="tokenized without `dynamic_schedule`"):
        take_tasks(data, data_args.dataset)


def test_a_task_without_rows_is_named(text_model, numbered, tmp_path):
    _, data, _ = load(text_model, numbered, tmp_path / "out")
    with pytest.raises(ValueError, match=r"train on. Missing: four; not named in `dataset`: three"):
        take_tasks(data, ["one", "two", "four"])


def test_off_changes_nothing(text_model, numbered, tmp_path):
    """Every seam hands back the object that it was given."""
    off = FinetuningArguments()
    assert (off.dynamic_schedule, off.schedule, off.probes, off.moe_router) == (False, None, None, "linear")
    data_args, dataset, processor, model = DataArguments(), object(), object(), object()
    assert name_source(dataset, "one", data_args) is dataset
    assert keep_sources(processor, data_args) is processor
    route(model, off)
    trainer = type("T", (), {"args": type("A", (), {"do_train": True})()})()
    before = type(trainer), dict(vars(trainer))
    attach_infodyn(trainer, {}, data_args, off)
    assert (type(trainer), dict(vars(trainer))) == before
    _, data, _ = load(text_model, numbered, tmp_path / "out", dynamic_schedule=False)
    assert SOURCE not in data["train_dataset"].column_names + data["eval_dataset"].column_names


STATIC = {"dynamic_schedule": False}
PROBE = {"name": "experts", "source_modules": ["**.mlp"], "target_modules": ["**.norm"]}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dataset": "one"}, "less than two"),
        ({"dataset": "one,one,two"}, "named twice"),
        ({"streaming": True, "max_steps": 5, "val_size": 4}, "streaming"),
        ({"packing": True}, "packing"),
        ({"neat_packing": True}, "packing"),
        ({"mix_strategy": "interleave_under"}, "mix_strategy: concat"),
        ({"mix_strategy": "interleave_over", "interleave_probs": "0.2,0.3,0.5"}, "mix_strategy: concat"),
        ({"val_size": 0.0, "eval_strategy": "no"}, "without validation"),
        ({"val_size": 0.0, "eval_dataset": "one_val,two_val"}, "2 evaluation sets for 3"),
        ({"val_size": 0.0, "eval_dataset": "one,one,two"}, "named twice"),
        ({"eval_strategy": "no"}, "eval_strategy: epoch"),
        ({"stage": "dpo"}, "stage `dpo`"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"ignore_data_skip": True}, "ignore_data_skip"),
        ({"restore_callback_states_from_checkpoint": True}, "restore_callback_states_from_checkpoint"),
        ({"fp16": True, "max_grad_norm": 0.0}, "`fp16` without clipping: .*max_grad_norm"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"use_dft_loss": True}, "use_dft_loss"),
        ({"schedule": {"chunk_step": 3}}, "chunk_step'.*chunk_steps"),
        ({"schedule": {"chunk_steps": 0}}, "chunk_steps"),
        ({"schedule": {"pi_gamma": 2}}, "pi_gamma"),
        ({"schedule": {"policy": "best"}}, "policy"),
        ({"schedule": {"routing_memory": 0.1}}, "moe_router: gaussian"),
        ({"schedule": {"routing_memory": 0.1}, "moe_router": "gaussian"}, "disable_gradient_checkpointing: true"),
        (
            {
                "schedule": {"routing_memory": 0.1},
                "moe_router": "gaussian",
                "use_reentrant_gc": False,
                "use_unsloth_gc": True,
            },
            "use_reentrant_gc: false",
        ),
        ({"schedule": "nowhere.yaml"}, "neither a mapping"),
        ({"moe_router": "round"}, "moe_router"),
        ({"dynamic_schedule": False, "schedule": {"chunk_steps": 3}}, "`dynamic_schedule` is off"),
        ({"probes": {"probes": [PROBE]}, "val_size": 0.0, "eval_strategy": "no"} | STATIC, "`probes` cannot.*val_size"),
        ({"probes": {"probes": []}} | STATIC, "there must be one"),
        ({"probes": {"probes": ["experts"]}} | STATIC, "a probe is a mapping"),
        ({"probes": {"probes": [{**PROBE, "name": 3}]}} | STATIC, "probe name 3 must be text"),
        ({"probes": {"probes": [PROBE], "validation_subset_size": "64"}} | STATIC, "validation_subset_size is '64'"),
        ({"probes": {"probes": [PROBE], "subset": 64}} | STATIC, "`probes` has no option subset"),
        ({"probes": '{"probes": ['} | STATIC, "`probes` begins like a mapping"),
    ],
)
def test_refusals_before_anything_is_loaded(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        get_train_args(given(tmp_path / "no_model", tmp_path / "no_data", tmp_path / "out", **changes))


def test_options_as_mapping_json_and_file(tmp_path):
    file = tmp_path / "schedule.yaml"
    file.write_text("chunk_steps: 3\npolicy: need\n", encoding="utf-8")
    for form in ({"chunk_steps": 3, "policy": "need"}, '{"chunk_steps": 3, "policy": "need"}', str(file)):
        arguments = get_train_args(given(tmp_path, tmp_path, tmp_path / "out", schedule=form))
        assert arguments[1].name_sources is True
        assert arguments[3].dynamic_schedule is True


def draws(sampler, chunks):
    return [list(sampler) for _ in range(chunks)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_task_gives_all_its_samples_before_one_comes_again(shuffle):
    rows = {"a": [3, 5, 7, 9, 11], "b": list(range(100, 120))}
    drawn = {"a": 0, "b": 0}
    asked = []

    def sampler(task):
        def next_chunk():
            asked.append(task)
            drawn[task] += 4
            return task, drawn[task] - 4

        return ChunkSampler(rows, 4, next_chunk, seed=3, shuffle=shuffle)

    found = [row for chunk in draws(sampler("a"), 10) for row in chunk]
    assert len(found) == 40
    assert len(sampler("a")) == 4
    passes = [found[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(each) == rows["a"] for each in passes)
    assert (len({tuple(each) for each in passes}) > 4) is shuffle
    assert {row for chunk in draws(sampler("b"), 5) for row in chunk} == set(rows["b"])
    assert asked == ["a"] * 10 + ["b"] * 5


def test_the_order_depends_on_seed_task_and_pass_alone():
    rows = {"a": list(range(50)), "b": list(range(50))}

    def chunk(task, position, seed=0):
        return list(ChunkSampler(rows, 20, lambda: (task, position), seed))

    assert chunk("a", 0) == chunk("a", 0)
    assert chunk("a", 0) + chunk("a", 20) == list(ChunkSampler(rows, 40, lambda: ("a", 0), 0))
    for other in (chunk("b", 0), chunk("a", 50), chunk("a", 0, seed=1)):
        assert chunk("a", 0) != other
    # Fixed: ranks and resumed runs are other processes, with other hash seeds.
    assert chunk("a", 0)[:5] == [43, 4, 20, 31, 15]
