"""Feedback masking against a reference that looks at where each token stands in the untruncated sample."""

import random
from itertools import pairwise

import pytest
import tiny

tiny.require()

from llamafactory.data.processor.supervised import (  # noqa: E402
    PackedSupervisedDatasetProcessor,
    SupervisedDatasetProcessor,
)
from llamafactory.data.template import TEMPLATES  # noqa: E402
from llamafactory.feedback.masking import feedback_token_id  # noqa: E402
from llamafactory.hparams import DataArguments  # noqa: E402
from test_hsa_types import examples, typed  # noqa: E402

FEEDBACK = "<|feedback|>"


def processor(on=True, hsa=False, cls=SupervisedDatasetProcessor, name="qwen3_nothink", extra=(), **changes):
    arguments = DataArguments(**({"cutoff_len": 4096, "template": "default"} | changes), use_feedback=on)
    arguments.semantic_ids = hsa
    return cls(
        template=TEMPLATES[name],
        tokenizer=tiny.tokenizer(extra=(FEEDBACK, *extra)),
        processor=None,
        data_args=arguments,
    )


def run(messages, **changes):
    """(ids, labels) with the switch on, and labels with it off; None where the row was dropped."""
    batch = examples([typed(messages, [0] * len(messages))])
    on, off = processor(**changes).preprocess_dataset(batch), processor(on=False, **changes).preprocess_dataset(batch)
    ids = off["input_ids"][0]
    if not on.get("input_ids"):
        return ids, None, off["labels"][0]
    assert on["input_ids"][0] == ids
    assert all(type(token) is int for token in on["input_ids"][0] + on["labels"][0])
    return ids, on["labels"][0], off["labels"][0]


def token_of(made):
    return made.tokenizer.convert_tokens_to_ids(FEEDBACK)


@pytest.mark.parametrize("name", ["qwen3_nothink", "llama2", "glm4", "qwen3"])
@pytest.mark.parametrize("hsa", [True, False])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_labels_up_to_the_first_token_are_masked_and_the_rest_kept(name, hsa, where):
    messages = ["aaaa", "bbbb", "cccc", "dddd"]
    messages[where] = messages[where][:2] + FEEDBACK + messages[where][2:]
    extra = ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>")
    ids, labels, off = run(messages, name=name, hsa=hsa, extra=extra)
    first = ids.index(token_of(processor(extra=extra)))
    assert labels[: first + 1] == [-100] * (first + 1)
    assert labels[first + 1 :] == off[first + 1 :]
    assert any(label != -100 for label in labels)


def test_only_the_first_of_several_counts():
    ids, labels, off = run(["aaaa", f"bb{FEEDBACK}bb", "cccc", f"dd{FEEDBACK}dd"])
    first = ids.index(token_of(processor()))
    assert labels == [-100] * (first + 1) + off[first + 1 :]
    assert token_of(processor()) in labels[first + 1 :]


def test_without_the_token_nothing_changes():
    _, labels, off = run(["aaaa", "bbbb", "cccc", "dddd"])
    assert labels == off


def test_train_on_prompt_is_masked_too():
    ids, labels, off = run(["aaaa", "bbbb", f"cc{FEEDBACK}cc", "dddd"], train_on_prompt=True)
    first = ids.index(token_of(processor()))
    assert off[0] != -100
    assert labels == [-100] * (first + 1) + ids[first + 1 :]


def test_mask_history_still_trains_on_the_last_turn_only():
    _, labels, off = run([f"aa{FEEDBACK}", "bbbb", "cccc", "dddd"], mask_history=True)
    assert labels == off
    ids, labels, off = run(["aaaa", "bbbb", "cccc", f"dd{FEEDBACK}dddd"], mask_history=True)
    first = ids.index(token_of(processor()))
    assert labels == [-100] * (first + 1) + off[first + 1 :]


@pytest.mark.parametrize("mask_history", [True, False])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_a_token_that_truncation_cut_off_still_masks_what_preceded_it(where, mask_history):
    """Over all lengths: a kept label survives exactly if it stood behind the first token in the whole sample.

    Every other token of the sample is unique, so its place in the whole sample can be looked up.
    """
    unique = tuple(f"<u{n}>" for n in range(80))
    content = ["".join(unique[20 * n : 20 * n + 20]) for n in range(4)]
    content[where] = (
        content[where][: content[where].index(unique[20 * where + 15])]
        + FEEDBACK
        + "".join(unique[20 * where + 15 : 20 * where + 20])
    )
    cut_off = 0
    for cutoff in range(6, 130, 3):
        arguments = {"name": "empty", "cutoff_len": cutoff, "mask_history": mask_history, "extra": unique}
        ids, labels, off = run(content, **arguments)
        made = processor(**arguments)
        whole = [made.tokenizer.convert_tokens_to_ids(t) for t in unique]
        first = 20 * where + 15  # unique tokens in front of the feedback token
        token = token_of(made)
        wanted = []
        for place, (token_id, label) in enumerate(zip(ids, off, strict=True)):
            if token_id == token:
                wanted.append(-100)
            elif token_id in whole:
                wanted.append(label if whole.index(token_id) >= first else -100)
            else:  # an end of sequence: behind the answer in front of it
                before = [whole.index(i) for i in ids[:place] if i in whole]
                behind = not before or max(before) >= first or (where % 2 == 0 and max(before) >= 20 * where + 20)
                wanted.append(label if behind else -100)
        if all(label == -100 for label in wanted):
            assert labels is None
        else:
            assert labels == wanted, (cutoff, where)
        cut_off += token not in ids
    assert cut_off > 5, "the token was cut off in some of the lengths"


def test_an_appended_end_of_sequence_is_not_trained_behind_a_cut_answer():
    """glm4-like templates append an end of sequence themselves."""
    ids, labels, _ = run(["aa", "b" * 40 + FEEDBACK + "bb"], name="falcon", cutoff_len=20)
    assert token_of(processor()) not in ids
    assert labels is None


@pytest.mark.parametrize("hsa", [True, False])
def test_rows_without_labels_are_dropped_and_others_stay(hsa):
    samples = [["aa", "bb"], ["aa", f"bb{FEEDBACK}"], [f"aa{FEEDBACK}", "bb"]]
    out = processor(hsa=hsa, name="empty").preprocess_dataset(examples([typed(s, [0, 1]) for s in samples]))
    assert {name: len(column) for name, column in out.items()} == dict.fromkeys(out, 2)
    assert all(any(label != -100 for label in labels) for labels in out["labels"])


@pytest.mark.parametrize("neat", [True, False])
@pytest.mark.parametrize("hsa", [True, False])
def test_it_holds_within_each_packed_part(neat, hsa):
    rng = random.Random(4)
    samples = []
    for n in range(12):
        turns = ["".join(rng.choice("abcd") for _ in range(rng.randint(1, 8))) + str(n) for _ in range(4)]
        if n % 3 == 0:
            turns[n % 4] += FEEDBACK + "x"
        samples.append(typed(turns, [0, 1, 2, 0]))
    alone = processor(hsa=hsa).preprocess_dataset(examples(samples))
    known = {tuple(i): labels for i, labels in zip(alone["input_ids"], alone["labels"], strict=True)}
    made = processor(hsa=hsa, cls=PackedSupervisedDatasetProcessor, cutoff_len=200, packing=True, neat_packing=neat)
    packed = made.preprocess_dataset(examples(samples))
    assert ("semantic_ids" in packed) is hsa
    parts = 0
    for ids, labels, where in zip(packed["input_ids"], packed["labels"], packed["position_ids"], strict=True):
        starts = [i for i, place in enumerate(where) if place == 0] + [len(ids)]
        for start, end in pairwise(starts):
            if tuple(ids[start:end]) in known:
                assert labels[start:end] == known[tuple(ids[start:end])]
                parts += 1
    assert parts == 12


def test_a_tokenizer_that_splits_the_token_is_an_error():
    tok = tiny.tokenizer()
    with pytest.raises(ValueError, match="does not encode the feedback token"):
        feedback_token_id(tok, FEEDBACK)
    made = processor()
    made.tokenizer = tok
    with pytest.raises(ValueError, match="use_feedback: true"):
        made.preprocess_dataset(examples([typed(["aa", "bb"], [0, 0])]))


def test_the_switch_adds_the_token_and_resizes_the_embeddings(text_model, tmp_path):
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer

    model = tiny.model("qwen3", vocab_size=len(tiny.tokenizer()))
    model.save_pretrained(tmp_path / "exact")
    tiny.tokenizer().save_pretrained(tmp_path / "exact")
    for on in (True, False):
        given = tiny.settings(tmp_path / "exact", tmp_path, tmp_path / "out", use_feedback=on)
        model_args, data_args, _, finetuning_args, _ = get_train_args(given)
        tok = load_tokenizer(model_args)["tokenizer"]
        loaded = load_model(tok, model_args, finetuning_args, is_trainable=True)
        rows = loaded.get_input_embeddings().weight.shape[0]
        if on:
            assert feedback_token_id(tok, data_args.feedback_token) == len(tok) - 1 < rows
        else:
            assert rows == len(tiny.tokenizer())


@pytest.mark.parametrize("neat", [True, False])
def test_data_tokenized_without_the_switch_is_refused(text_model, data_folder, tmp_path, neat):
    from test_hsa_data import load

    def at(name, **changes):
        return load(
            text_model, data_folder, tmp_path, dataset="typed", tokenized_path=str(tmp_path / name), neat_packing=neat,
            **changes,
        )  # fmt: skip

    at("on", use_feedback=True)
    assert len(at("on", use_feedback=True))
    at("off")
    with pytest.raises(ValueError, match="No sample on disk holds"):
        at("off", use_feedback=True)
    at("added", add_special_tokens=FEEDBACK)
    with pytest.raises(ValueError, match="not masked on disk"):
        at("added", use_feedback=True)


def test_prompts_to_generate_from_are_no_business_of_the_mask(text_model, data_folder, tmp_path):
    """On disk they lie beside answers of other lengths, one of them by chance of the same."""
    from datasets import Dataset, DatasetDict
    from llamafactory.feedback.arguments import _check_tokenized
    from llamafactory.hparams import get_train_args

    rows = [{"input_ids": [5] * n, "labels": [5] * 3} for n in (2, 3, 4)]
    DatasetDict(validation=Dataset.from_list(rows)).save_to_disk(str(tmp_path / "on_disk"))
    settings = tiny.settings(text_model, data_folder, tmp_path, use_feedback=True)
    model_args, data_args, *_ = get_train_args(settings)
    data_args.tokenized_path = str(tmp_path / "on_disk")
    _check_tokenized(model_args, data_args)
