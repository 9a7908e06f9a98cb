"""Types on token ids, over many templates, against a reference by character offsets written out by hand."""

import json
from copy import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import tiny

tiny.require()

from llamafactory.data.mm_plugin import get_mm_plugin  # noqa: E402
from llamafactory.data.processor.supervised import (  # noqa: E402
    PackedSupervisedDatasetProcessor,
    SupervisedDatasetProcessor,
)
from llamafactory.data.processor.unsupervised import UnsupervisedDatasetProcessor  # noqa: E402
from llamafactory.data.template import TEMPLATES  # noqa: E402
from llamafactory.hparams import DataArguments  # noqa: E402

EOS = "<|im_end|>"
G, A, U = "global", "answer", "message"


def chatml(system):
    head = [(f"<|im_start|>system\n{system}<|im_end|>\n", G)] if system else []
    return head, ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n")


# per template: what stands in front of turn 0, then a turn's (header, end of turn, answer's header, answer's end)
BY_HAND = {
    "qwen": lambda s: chatml(s or "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "qwen3_nothink": chatml,
    "chatml": chatml,
    "llama3": lambda s: (
        [(f"<|start_header_id|>system<|end_header_id|>\n\n{s}<|eot_id|>", G)] if s else [],
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
         "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    "vicuna": lambda s: (
        [((s or "A chat between a curious user and an artificial intelligence assistant. "
           "The assistant gives helpful, detailed, and polite answers to the user's questions."), G)],
        ("USER: ", "", " ASSISTANT:", EOS),
    ),
    "default": lambda s: ([(f"System: {s}<|im_end|>\n", G)] if s else [],
                          ("Human: ", "<|im_end|>\n", "Assistant:", "<|im_end|>\n")),
    "mistral": lambda s: ([], ("[INST] ", "", "[/INST] ", EOS)),
    "llama2": lambda s: ([], ("[INST] ", "", " [/INST]", EOS)),
    "deepseek": lambda s: ([(f"{s}\n\n", G)] if s else [], ("User: ", "", "\n\nAssistant:", EOS)),
    "deepseek3": lambda s: ([(s, G)] if s else [], ("<｜User｜>", "", "<｜Assistant｜>", EOS)),
    "phi": lambda s: ([(f"<|system|>\n{s}<|end|>\n", G)] if s else [],
                      ("<|user|>\n", "<|end|>\n", "<|assistant|>\n", "<|end|>\n")),
}  # fmt: skip


# templates that write the system into the first message, behind its header
FUSED = {"llama2": "<<SYS>>\n{}\n<</SYS>>\n\n", "mistral": "{}\n\n"}


def text_and_owners(name, system, messages):
    """The conversation as text with the message number (-1: global) of every character, written out by hand."""
    head, (header, end, answer_header, answer_end) = BY_HAND[name](system)
    parts = [(text, -1) for text, _ in head]
    for i in range(0, len(messages), 2):
        if name in FUSED and i == 0 and system:
            parts += [(header, 0), (FUSED[name].format(system), -1), (messages[0], 0)]
        else:
            parts += [(header + messages[i], i)]
        parts += [(end, i), (answer_header + messages[i + 1] + answer_end, i + 1)]
    return "".join(t for t, _ in parts), [owner for text, owner in parts for _ in text]


def processor(template, tokenizer, cls=SupervisedDatasetProcessor, **changes):
    defaults = {"cutoff_len": 4096, "template": "default"}
    arguments = DataArguments(**(defaults | changes))
    arguments.semantic_ids = True
    return cls(template=template, tokenizer=tokenizer, processor=None, data_args=arguments)


def typed(messages, types, roles=("user", "assistant")):
    return [
        {"role": roles[i % 2], "content": text, "semantic_type": t}
        for i, (text, t) in enumerate(zip(messages, types, strict=True))
    ]


def examples(samples, system="", tools=""):
    """A batch of aligned samples."""
    return {
        "_prompt": [s[:-1] for s in samples],
        "_response": [s[-1:] for s in samples],
        "_system": [system] * len(samples),
        "_tools": [tools] * len(samples),
        **{f"_{kind}": [None] * len(samples) for kind in ("images", "videos", "audios")},
    }


MESSAGES = ["What is  the capital, 早上好?\n", "It is Paris.", " and 42 ", "Tell me a joke"]


@pytest.mark.parametrize("system", ["", "You are nice"])
@pytest.mark.parametrize("name", list(BY_HAND))
def test_every_token_has_the_type_of_the_text_it_ends_in(name, system):
    tok = tiny.tokenizer()
    text, owners = text_and_owners(name, system, MESSAGES)
    types = [2, 1, 1, 2]
    out = processor(TEMPLATES[name], tok).preprocess_dataset(examples([typed(MESSAGES, types)], system))
    ids, got = out["input_ids"][0], out["semantic_ids"][0]
    assert all(type(token) is int for token in ids + out["labels"][0])
    pieces = [tok.backend_tokenizer.id_to_token(token) for token in ids]
    letters = byte_letters()
    data = b"".join(p.encode() if p in tiny.SPECIAL else bytes(letters[c] for c in p) for p in pieces)
    assert data.decode() == text, "the reference does not write what the template writes"
    per_byte = [owner for char, owner in zip(text, owners, strict=True) for _ in char.encode()]
    at = 0
    for piece, semantic in zip(pieces, got, strict=True):
        at += len(piece.encode()) if piece in tiny.SPECIAL else len(piece)
        owner = per_byte[at - 1]
        assert semantic == (0 if owner < 0 else types[owner]), (piece, data[:at][-40:])


def byte_letters():
    """GPT-2's letters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(b): b for b in plain}
    extra = 0
    for b in range(256):
        if b not in plain:
            letters[chr(256 + extra)] = b
            extra += 1
    return letters


MARKS = ("<m0>", "<m1>", "<m2>", "<m3>", "<m4>")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_registered_template_can_be_taken_apart(name):
    """Contents keep their type, headers of answers go with the answer, and the ids are upstream's own."""
    template = copy(TEMPLATES[name])
    template.mm_plugin = get_mm_plugin("base")  # the others want the model's processor
    tok = fit(template)
    types = [1, 2, 1, 2]
    for system, tools in ((MARKS[4], ""), ("", ""), (MARKS[4], json.dumps([TOOL]))):
        batch = examples([typed([mark + "a" for mark in MARKS[:4]], types)], system, tools)
        on = processor(template, tok).preprocess_dataset(batch)
        off_processor = processor(template, tok)
        off_processor.data_args.semantic_ids = False
        off = off_processor.preprocess_dataset(batch)
        assert "semantic_ids" not in off
        assert off["input_ids"] == on["input_ids"]
        assert off["labels"] == on["labels"]
        ids, got = on["input_ids"][0], on["semantic_ids"][0]
        assert len(ids) == len(got)
        at = [ids.index(tok.convert_tokens_to_ids(mark)) for mark in MARKS[:4]]
        assert [got[i] for i in at] == types
        if system:
            assert got[ids.index(tok.convert_tokens_to_ids(system))] == 0
        assert set(got[: at[0]]) <= {0, 1}, "in front of the first content: global, or the message's header"
        assert set(got[at[0] : at[3]]) == {1, 2}
        assert got[at[3] :] == [2] * (len(ids) - at[3])
        assert set(got[at[1] : at[2]]) == {1, 2} or got[at[2] - 1] == 2, "behind an answer comes the next header"


TOOL = {"name": "look", "description": "dddd", "parameters": {"type": "object", "properties": {}, "required": []}}


def test_tools_are_global_and_functions_and_observations_have_their_own_types():
    tok = tiny.tokenizer()
    call = json.dumps({"name": "look", "arguments": {"at": "cup"}})
    messages = [
        {"role": "user", "content": "qqqq", "semantic_type": 1},
        {"role": "function", "content": call, "semantic_type": 2},
        {"role": "observation", "content": "oooo", "semantic_type": 2},
        {"role": "assistant", "content": "zzzz", "semantic_type": 1},
    ]
    out = processor(TEMPLATES["qwen3_nothink"], tok).preprocess_dataset(
        examples([messages], "ssss", json.dumps([TOOL]))
    )
    text = "".join("GLN"[t] for t in out["semantic_ids"][0])
    blocks = [text[0]] + [b for a, b in pairwise(text) if a != b]
    assert "".join(blocks) == "GLNL", "system and tools, user, call and its result, answer"
    decoded = [tok.decode([i]) for i in out["input_ids"][0]]
    assert "".join(d for d, c in zip(decoded, text, strict=True) if c == "G").endswith("</tools>" + TAIL)
    noise = "".join(d for d, c in zip(decoded, text, strict=True) if c == "N")
    assert noise.startswith("<|im_start|>assistant\n")
    assert "<tool_response>\noooo\n</tool_response><|im_end|>\n" in noise


TAIL = (
    "\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("mask_history", [True, False])
def test_empty_thoughts_belong_to_the_answer(thinking, mask_history):
    tok = tiny.tokenizer()
    template = copy(TEMPLATES["qwen3"])
    template.enable_thinking = thinking
    out = processor(template, tok, mask_history=mask_history).preprocess_dataset(
        examples([typed(["qqqq", "<think>\nhm\n</think>\n\nwwww", "xxxx", "zzzz"], [1, 0, 1, 2])])
    )
    think = tok.convert_tokens_to_ids("<think>")
    ids, got = out["input_ids"][0], out["semantic_ids"][0]
    last = len(ids) - 1 - ids[::-1].index(think)
    assert got[last:] == [2] * (len(ids) - last)
    header = tok.encode("<|im_start|>assistant\n")
    assert ids[last - len(header) : last] == header
    assert got[last - len(header) : last] == [2] * len(header)


def fit(template):
    """A tokenizer with the special tokens that the template names one by one."""
    slots = [s for f in vars(template).values() for s in getattr(f, "slots", [])]
    return tiny.tokenizer(extra=(*MARKS, *(slot["token"] for slot in slots if isinstance(slot, dict))))


@pytest.mark.parametrize("mask_history", [True, False])
@pytest.mark.parametrize("cutoff", [7, 20, 33, 48, 60])
@pytest.mark.parametrize("name", ["qwen3_nothink", "glm4", "llama2", "chatglm3"])
def test_truncated_samples_keep_each_tokens_type(name, cutoff, mask_history):
    """What truncation leaves of each message is a prefix of it, with the types that it has in the whole sample."""
    template = TEMPLATES[name]
    tok = fit(template)
    contents = [f"{mark}{mark}aaaa bbbb cccc{mark}" for mark in MARKS[:4]]
    types = [1, 2, 0, 1]
    sample = examples([typed(contents, types)], MARKS[4])
    out = processor(template, tok, cutoff_len=cutoff, mask_history=mask_history).preprocess_dataset(sample)
    ids, got = out["input_ids"][0], out["semantic_ids"][0]
    assert len(ids) == len(got) == len(out["labels"][0]) <= cutoff
    plain = processor(template, tok, cutoff_len=cutoff, mask_history=mask_history)
    plain.data_args.semantic_ids = False
    assert plain.preprocess_dataset(sample)["input_ids"][0] == ids
    whole = processor(template, tok).preprocess_dataset(sample)
    places = iter(zip(whole["input_ids"][0], whole["semantic_ids"][0], strict=True))
    kept = list(zip(ids, got, strict=True))
    if template.efficient_eos:
        kept.pop()
    assert all(pair in places for pair in kept), "a subsequence of the whole sample, types included"


def test_an_appended_end_of_sequence_belongs_to_the_answer():
    tok = tiny.tokenizer()
    template = TEMPLATES["glm4"]
    assert template.efficient_eos
    out = processor(template, tok).preprocess_dataset(examples([typed(["qqqq", "wwww"], [0, 1])]))
    assert out["input_ids"][0][-1] == tok.eos_token_id
    assert out["semantic_ids"][0][-1] == 1


@pytest.mark.parametrize("neat", [True, False])
@pytest.mark.parametrize("name", ["qwen3_nothink", "glm4"])
def test_packed_rows_are_their_samples_and_padding(name, neat):
    tok = tiny.tokenizer()
    samples = [typed([f"a{n}" * (n + 1), "b" * (2 * n + 1)], [n % 3, (n + 1) % 3]) for n in range(7)]
    alone = processor(TEMPLATES[name], tok).preprocess_dataset(examples(samples))
    known = {tuple(i): s for i, s in zip(alone["input_ids"], alone["semantic_ids"], strict=True)}
    made = processor(
        TEMPLATES[name], tok, PackedSupervisedDatasetProcessor, cutoff_len=100, packing=True, neat_packing=neat
    )
    packed = made.preprocess_dataset(examples(samples))
    parts = 0
    for ids, got, places in zip(packed["input_ids"], packed["semantic_ids"], packed["position_ids"], strict=True):
        assert len(ids) == len(got) == made.data_args.cutoff_len + 1
        starts = [i for i, p in enumerate(places) if p == 0] + [len(ids)]
        for start, end in pairwise(starts):
            if ids[start:end] == [tok.pad_token_id] and places[start] == 0:
                assert got[start] == 2
            else:
                assert got[start:end] == known[tuple(ids[start:end])]
                parts += 1
    assert parts == 7


def test_prompts_to_generate_from_carry_types():
    tok = tiny.tokenizer()
    made = processor(TEMPLATES["qwen3_nothink"], tok, UnsupervisedDatasetProcessor)
    sample = typed(["qqqq", "wwww", "xxxx", "zzzz"], [1, 2, 1, 2])
    out = made.preprocess_dataset(examples([sample], "ssss"))
    whole = processor(TEMPLATES["qwen3_nothink"], tok).preprocess_dataset(examples([sample], "ssss"))
    length = len(out["input_ids"][0])
    assert out["input_ids"][0] == whole["input_ids"][0][:length]
    assert out["semantic_ids"][0] == whole["semantic_ids"][0][:length]
    assert all(type(token) is int for token in out["input_ids"][0])


def test_image_tokens_in_front_are_global():
    """PaliGemma's plugin puts image tokens in front of the whole sample."""
    tok = tiny.tokenizer()
    template = copy(TEMPLATES["qwen3_nothink"])
    template.mm_plugin = get_mm_plugin("paligemma", image_token="<|image_pad|>")
    template.mm_plugin._validate_input = lambda *args: None
    template.mm_plugin.process_messages = lambda messages, *args: messages
    for cls in (SupervisedDatasetProcessor, UnsupervisedDatasetProcessor):
        made = processor(template, tok, cls)
        made.processor = SimpleNamespace(image_seq_length=3)
        batch = examples([typed(["qqqq", "wwww"], [2, 1])])
        batch["_images"] = [["one.png"]]
        out = made.preprocess_dataset(batch)
        assert out["input_ids"][0][:3] == [tok.convert_tokens_to_ids("<|image_pad|>")] * 3
        assert out["semantic_ids"][0][:4] == [0, 0, 0, 2]


def test_a_tokenizer_without_offsets_agrees_where_tokens_do_not_straddle(monkeypatch):
    tok = tiny.tokenizer()
    sample = examples([typed(["qqqq", "wwww", "xxxx", "zzzz"], [1, 2, 0, 2])], "ssss")
    fast = processor(TEMPLATES["qwen3_nothink"], tok).preprocess_dataset(sample)["semantic_ids"]
    monkeypatch.setattr(type(tok), "is_fast", property(lambda self: False))
    assert processor(TEMPLATES["qwen3_nothink"], tok).preprocess_dataset(sample)["semantic_ids"] == fast
