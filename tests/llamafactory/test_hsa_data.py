"""Types from the files to the batch: converters, mixed data sets, cache, collator."""

import json

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.data.collator import MultiModalDataCollatorForSeq2Seq, SFTDataCollatorWith4DAttentionMask  # noqa: E402
from llamafactory.data.converter import align_dataset  # noqa: E402
from llamafactory.data.parser import get_dataset_list  # noqa: E402
from llamafactory.data.template import TEMPLATES  # noqa: E402
from llamafactory.hparams import DataArguments, get_train_args  # noqa: E402
from transformers import Seq2SeqTrainingArguments  # noqa: E402


def align(rows, info, on=True, tmp_path=None, streaming=False):
    """Rows through LLaMA-Factory's own alignment, as the data set that ``info`` in dataset_info.json describes."""
    from datasets import Dataset

    attr = get_dataset_list(["d"], {"d": {"file_name": "d.json", **info}})[0]
    arguments = DataArguments(streaming=streaming)
    arguments.semantic_ids = on
    data = Dataset.from_list(rows)
    if streaming:
        data = data.to_iterable_dataset()
    training = Seq2SeqTrainingArguments(output_dir="unused", report_to="none")
    return list(align_dataset(data, attr, arguments, training))


def sharegpt(*types, system=None):
    roles = ("human", "gpt")
    turns = [{"from": roles[i % 2], "value": f"m{i}", "semantic_type": t} for i, t in enumerate(types)]
    if system is not None:
        turns.insert(0, {"from": "system", "value": "s", "semantic_type": system})
    return {"conversations": turns}


SHAREGPT = {"formatting": "sharegpt"}
OPENAI = {
    "formatting": "openai",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "observation_tag": "tool", "function_tag": "tools", "system_tag": "system",
    },
}  # fmt: skip


def types_of(sample):
    return [message["semantic_type"] for message in sample["_prompt"] + sample["_response"]]


def test_names_and_default():
    rows = [sharegpt("GLOBAL_CONDITION", "LANDMARK", "KEY_EVENT", "NOISE"), sharegpt("PROCESS_NOISE", None, None, None)]
    assert [types_of(s) for s in align(rows, SHAREGPT)] == [[0, 1, 1, 2], [2, 0, 0, 0]]
    assert [types_of(s) for s in align(rows, SHAREGPT, streaming=True)] == [[0, 1, 1, 2], [2, 0, 0, 0]]


@pytest.mark.parametrize("value", ["landmark", "", "EVENT", "1"])
def test_an_unknown_name_is_an_error_with_sample_and_value(value):
    rows = [sharegpt(None, None), sharegpt(None, value)]
    with pytest.raises(ValueError, match=rf"Sample 1 of dataset d.json .*message 1: unknown semantic type '{value}'"):
        align(rows, SHAREGPT)
    assert "semantic_type" not in str(align(rows, SHAREGPT, on=False))


def test_numbers_are_not_names():
    with pytest.raises(ValueError, match="unknown semantic type 1"):
        align([sharegpt(1, 2)], SHAREGPT)


def test_the_key_can_be_named():
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "a", "kind": "NOISE"},
                {"from": "gpt", "value": "b", "kind": "LANDMARK"},
            ]
        }
    ]
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    named = SHAREGPT | {"tags": tags | {"semantic_tag": "kind"}}
    assert types_of(align(rows, named)[0]) == [2, 1]
    assert types_of(align(rows, SHAREGPT | {"tags": tags})[0]) == [0, 0]
    assert types_of(align([sharegpt("NOISE", "LANDMARK")], SHAREGPT | {"tags": tags})[0]) == [2, 1]


def test_a_system_message_is_global():
    assert types_of(align([sharegpt("NOISE", "LANDMARK", system="GLOBAL_CONDITION")], SHAREGPT)[0]) == [2, 1]
    assert types_of(align([sharegpt("NOISE", "LANDMARK", system=None)], SHAREGPT)[0]) == [2, 1]
    with pytest.raises(ValueError, match=r"Sample 0 .*a system message is GLOBAL_CONDITION, got 'NOISE'"):
        align([sharegpt("NOISE", "LANDMARK", system="NOISE")], SHAREGPT)


def openai(*turns):
    return {"messages": [{"role": r, "content": r[0], "semantic_type": t, "tool_calls": None} for r, t in turns]}


def test_merged_tool_messages_take_the_most_visible_type():
    rows = [
        openai(
            ("user", "LANDMARK"), ("assistant", "NOISE"), ("tool", "NOISE"), ("tool", "KEY_EVENT"), ("assistant", None)
        )
    ]
    assert types_of(align(rows, OPENAI)[0]) == [1, 2, 1, 0]
    rows = [openai(("system", None), ("user", None), ("assistant", None), ("tool", "NOISE"), ("assistant", "LANDMARK"))]
    assert types_of(align(rows, OPENAI)[0]) == [0, 0, 2, 1]


def test_samples_that_upstream_drops_stay_dropped():
    rows = [sharegpt("NOISE", None, "LANDMARK"), sharegpt("NOISE", "LANDMARK")]
    found = align(rows, SHAREGPT)
    assert [types_of(s) for s in found] == [[], [2, 1]]


def test_off_the_aligned_data_is_upstreams():
    rows = [sharegpt("NOISE", "LANDMARK")]
    assert align(rows, SHAREGPT, on=False)[0]["_prompt"] == [{"content": "m0", "role": "user"}]


def load(text_model, data_folder, output, **changes):
    """The tokenized training set of a native run."""
    from llamafactory.model import load_tokenizer

    changes = {"overwrite_cache": False} | changes
    model_args, data_args, training_args, *_ = get_train_args(tiny.settings(text_model, data_folder, output, **changes))
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    return get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]


def test_typed_plain_and_alpaca_data_mix(text_model, data_folder, tmp_path):
    data = load(text_model, data_folder, tmp_path, dataset="typed,plain,alpaca", use_hsa=True)
    assert len(data) == 24 + 24 + 8
    assert all(len(row["semantic_ids"]) == len(row["input_ids"]) for row in data)
    assert [set(data[i]["semantic_ids"]) for i in (0, 30, 50)] == [{0, 1, 2}, {0}, {0}]
    packed = load(text_model, data_folder, tmp_path, dataset="typed,plain,alpaca", use_hsa=True, neat_packing=True)
    assert all(len(row["semantic_ids"]) == len(row["input_ids"]) for row in packed)


def test_streamed_data_carries_types(text_model, data_folder, tmp_path):
    data = load(
        text_model, data_folder, tmp_path, dataset="typed", use_hsa=True, streaming=True, dataloader_num_workers=1
    )
    row = next(iter(data))
    assert len(row["semantic_ids"]) == len(row["input_ids"])
    assert set(row["semantic_ids"]) == {0, 1, 2}


def test_on_and_off_never_share_a_cache_entry(text_model, data_folder, tmp_path):
    """The same files, the same cache folder, the switches turned: what comes out is what is asked for."""
    starts = {True: set(), False: set()}
    for hsa, feedback in ((False, False), (True, False), (True, True), (False, True), (False, False), (True, False)):
        data = load(text_model, data_folder, tmp_path, dataset="typed", use_hsa=hsa, use_feedback=feedback)
        assert ("semantic_ids" in data.column_names) is hsa
        starts[feedback].add(next(i for i, label in enumerate(data[0]["labels"]) if label != -100))
    assert [len(found) for found in starts.values()] == [1, 1]
    assert max(starts[True]) > max(starts[False])


def features(*lengths):
    return [
        {
            "input_ids": [20 + n] * n,
            "attention_mask": [1] * n,
            "labels": [20] * n,
            "semantic_ids": [n % 3] * n,
            "images": None,
        }
        for n in lengths
    ]


def collator(cls=MultiModalDataCollatorForSeq2Seq, side="right", model=None, multiple=None, **more):
    return cls(
        tokenizer=tiny.tokenizer(side),
        template=TEMPLATES["qwen3_nothink"],
        model=model,
        pad_to_multiple_of=multiple,
        **more,
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_the_batch_is_padded_with_type_2_on_the_padding_side(side, multiple):
    batch = collator(side=side, multiple=multiple)(features(4, 9, 6))
    length = 9 if multiple is None else 16
    wanted = []
    for n in (4, 9, 6):
        padding = [2] * (length - n)
        wanted.append([n % 3] * n + padding if side == "right" else padding + [n % 3] * n)
    assert batch["semantic_ids"].tolist() == wanted
    assert batch["semantic_ids"].dtype == torch.long
    assert batch["semantic_ids"].shape == batch["input_ids"].shape


@pytest.mark.parametrize("side", ["right", "left"])
def test_fake_tokens_of_the_collator_count_as_padding(side):
    """A vision plugin puts a fake image into a batch without images; its tokens lie on the padding side."""
    from copy import copy

    template = copy(TEMPLATES["qwen3_nothink"])

    class Plugin:
        image_token, audio_token = "<|image_pad|>", None

        def process_messages(self, messages, *args):
            return [{"content": "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"}]

        def process_token_ids(self, ids, labels, *args):
            return ids, labels

        def get_mm_inputs(self, *args):
            return {}

    template.mm_plugin = Plugin()
    made = MultiModalDataCollatorForSeq2Seq(tokenizer=tiny.tokenizer(side), template=template)
    batch = made(features(5, 3))
    assert batch["input_ids"].shape[1] == 5 + 4
    rows = [[2] * 5 + [2] * 4, [0] * 3 + [2] * 6] if side == "right" else [[2] * 9, [2] * 6 + [0] * 3]
    assert batch["semantic_ids"].tolist() == rows


def test_neat_packing_hands_the_parts_to_hsa():
    rows = [
        {
            "input_ids": [20] * 6,
            "attention_mask": [1, 1, 2, 2, 2, 0],
            "labels": [20] * 6,
            "semantic_ids": [0, 1, 2, 0, 1, 2],
            "position_ids": [0, 1, 0, 1, 2, 0],
        }
    ]
    made = collator(
        SFTDataCollatorWith4DAttentionMask, neat_packing=True, block_diag_attn=True, attn_implementation="hsa"
    )
    for _ in range(2):
        batch = made([dict(row) for row in rows])
        assert batch["semantic_segments"].tolist() == [[1, 1, 2, 2, 2, 0]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0]]
        assert batch["semantic_ids"].tolist() == [[0, 1, 2, 0, 1, 2]]


def test_off_the_collator_is_upstreams():
    rows = [{k: v for k, v in row.items() if k != "semantic_ids"} for row in features(4, 6)]
    assert set(collator()([dict(r) for r in rows])) == {"input_ids", "attention_mask", "labels"}
    made = collator(
        SFTDataCollatorWith4DAttentionMask, neat_packing=True, block_diag_attn=True, attn_implementation="sdpa"
    )
    assert made([dict(r) for r in rows])["attention_mask"].shape == (2, 1, 6, 6)


def test_a_model_with_hsa_wants_types_and_one_without_drops_them():
    plain = [{k: v for k, v in row.items() if k != "semantic_ids"} for row in features(4)]
    with pytest.raises(ValueError, match="tokenized with `use_hsa: false`"):
        collator(model=tiny.patched("qwen3"))(plain)
    with pytest.raises(ValueError, match="1 of 2 samples"):
        collator()(features(4) + [{k: v for k, v in row.items() if k != "semantic_ids"} for row in features(4)])
    assert "semantic_ids" not in collator(model=tiny.model("qwen3"))(features(4))


def test_tokenized_data_on_disk_keeps_or_lacks_types(text_model, data_folder, tmp_path):
    disk = tmp_path / "tokenized"
    load(text_model, data_folder, tmp_path, dataset="typed", use_hsa=True, tokenized_path=str(disk))
    again = load(text_model, data_folder, tmp_path, dataset="typed", use_hsa=True, tokenized_path=str(disk))
    assert "semantic_ids" in again.column_names
    assert json.dumps(again[0]["semantic_ids"])


def test_data_tokenized_without_types_is_refused_before_anything_is_loaded(text_model, data_folder, tmp_path):
    """Prediction gives the collator no model to ask, so the data itself is looked at."""
    place = str(tmp_path / "untyped")
    load(text_model, data_folder, tmp_path, dataset="typed", tokenized_path=place)
    with pytest.raises(ValueError, match="has no `semantic_ids`"):
        load(text_model, data_folder, tmp_path, dataset="typed", tokenized_path=place, use_hsa=True)
    typed = str(tmp_path / "typed")
    load(text_model, data_folder, tmp_path, dataset="typed", tokenized_path=typed, use_hsa=True)
    assert len(load(text_model, data_folder, tmp_path, dataset="typed", tokenized_path=typed, use_hsa=True))
