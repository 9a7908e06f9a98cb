"""Prompts and instruction spans: every pitfall met so far, on a fast and a slow tokenizer of the same vocabulary."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import probe_text
import pytest
from probe_text import BOS, EMPTY, VICUNA, BatchTransform, Pure, Slow, Vicuna, fast, surfaces
from research.probe.hidden_and_mask import instruction_span, prompt_builder_for, prompt_for, prompt_tokens, template_of
from research.probe.template import Template

ASKED = "In: What action should the robot take to"
TEMPLATES = {
    Pure: (ASKED, "?\nOut:"),
    Vicuna: (f"{VICUNA}USER: What action should the robot take to", "? ASSISTANT:"),
}
INSTRUCTIONS = [
    "pick up the black bowl",
    "open the drawer.",
    "put it on the plate (the blue one, bowl a)",
    "what is this?",
    "what is this??",
    "?",
    "a",
    "t",
    "take to",
    "out:",
    "put in: what action should the robot take to open the drawer?\nout: a",
    "In: What action should the robot take to put?\nOut:",
    "USER: open the drawer? ASSISTANT: no",
    "  pick   up  ",
    "\tpick up\n",
    "öffne die schublade für brötchen",
    "öffne die schublade für das café",
    "把碗放在盘子上",
    "pick up the 🥣",
    "🥣",
    "pick up <unused300> and é",
    "PICK UP THE BOWL",
]


@pytest.fixture(params=["fast", "slow"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return fast() if request.param == "fast" else Slow()


@pytest.fixture(params=[Pure, Vicuna], ids=["pure", "v01"])
def builder(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_two_tokenizers_agree_and_straddle_at_the_end() -> None:
    """The cases below would show little if no piece crossed the instruction's end."""
    slow = Slow()
    for instruction in INSTRUCTIONS:
        text = f"{ASKED} {instruction}?\nOut:"
        assert fast()(text).input_ids == slow(text).input_ids
    assert ")?" in slow.symbols("a)?\n")
    assert slow.symbols("a)")[-1] == "a)"
    assert "??" in slow.symbols("this??\n")
    assert ".?" in slow.symbols("drawer.?\n")


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_the_prompt_is_upstreams(builder: Any, instruction: str) -> None:
    prefix, suffix = TEMPLATES[builder]
    template = template_of(builder, BatchTransform)
    assert template.prompt(instruction) == f"{prefix} {instruction.lower()}{suffix}"
    assert template.text == f"{prefix} {{instruction}}{suffix}"
    begin, end = template.characters(template.prompt(instruction))
    assert template.prompt(instruction)[begin:end] == instruction.lower()


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_span_is_what_overlaps_the_instruction(tokenizer: Any, builder: Any, instruction: str) -> None:
    """Against the pieces' own bytes: from the space before the instruction to the piece that holds its last byte."""
    prefix, _ = TEMPLATES[builder]
    template = template_of(builder, BatchTransform)
    prompt = template.prompt(instruction)
    ids = list(tokenizer(prompt, add_special_tokens=True).input_ids)
    begin = len(f" {prefix}".encode())
    end = begin + len(f" {instruction.lower()}".encode())
    expected = [at for at, (first, last) in enumerate(surfaces(ids)) if first < end and last > begin]
    assert surfaces(ids)[-1][1] == len(f" {prompt}".encode())
    assert list(range(*instruction_span(tokenizer, template, prompt))) == expected


def test_a_known_span(tokenizer: Any) -> None:
    """Read off by hand: the question's pieces, then the instruction's, the last one shared with the question mark."""
    template = template_of(Pure, BatchTransform)
    first, last = instruction_span(tokenizer, template, template.prompt("open the drawer."))
    ids = list(tokenizer(template.prompt("open the drawer."), add_special_tokens=True).input_ids)
    names = {index: piece for piece, index in probe_text.pieces()[0].items()}
    words = ["▁In", ":", "▁What", "▁action", "▁should", "▁the", "▁robot", "▁take", "▁to"]
    assert [names[index] for index in ids[1:first]] == words
    assert [names[index] for index in ids[first:last]] == ["▁open", "▁the", "▁drawer", ".?"]


@pytest.mark.parametrize("instruction", ["", "   ", "\n", "<image>"])
def test_an_empty_instruction_has_no_span(tokenizer: Any, builder: Any, instruction: str) -> None:
    """``<image>`` too: upstream's prompt builders take it out."""
    template = template_of(builder, BatchTransform)
    with pytest.raises(ValueError, match="empty instruction"):
        instruction_span(tokenizer, template, template.prompt(instruction))


def test_upstreams_own_change_to_an_instruction_is_followed(tokenizer: Any) -> None:
    template = template_of(Pure, BatchTransform)
    prompt = template.prompt("pick <image>up")
    assert prompt == f"{ASKED} pick up?\nOut:"
    assert instruction_span(tokenizer, template, prompt) == instruction_span(
        tokenizer, template, template.prompt("pick up")
    )


def test_a_prompt_of_another_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="not of the template"):
        instruction_span(tokenizer, template_of(Pure, BatchTransform), template_of(Vicuna, BatchTransform).prompt("a"))


def test_a_slow_tokenizer_whose_prefixes_differ_is_refused() -> None:
    class Reversed(Slow):
        def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
            return super().__call__(text[::-1], add_special_tokens)

    template = template_of(Pure, BatchTransform)
    with pytest.raises(ValueError, match="use the fast tokenizer"):
        instruction_span(Reversed(), template, template.prompt("pick up"))


def test_prompts_end_with_the_lone_space_once(tokenizer: Any, builder: Any) -> None:
    """29871 stands between the prompt and the first action piece in training, and predict_action appends it."""
    prompt = template_of(builder, BatchTransform).prompt("pick up")
    tokens = prompt_tokens(tokenizer, prompt)
    assert tokens[0] == BOS
    assert tokens[-1] == EMPTY
    assert tokens[-2] != EMPTY
    action = chr(0x4E00 + 500)
    assert list(tokenizer(f"{prompt} {action}", add_special_tokens=True).input_ids)[:-1] == tokens
    assert prompt_tokens(tokenizer, f"{prompt} ") == tokens


def test_a_tokenizer_without_bos_or_lone_space_is_refused() -> None:
    class NoBos(Slow):
        def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
            return super().__call__(text, False)

    class NoSpace(Slow):
        def convert_tokens_to_ids(self, piece: str) -> int:
            return self.unk_token_id

    with pytest.raises(ValueError, match="BOS"):
        prompt_tokens(NoBos(), "In: a")
    with pytest.raises(ValueError, match="has no token"):
        prompt_tokens(NoSpace(), "In: a")


def test_words_and_builder_come_from_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default from where upstream has them; another question upstream would be another template here."""

    class Other(BatchTransform):
        def __call__(self, frame: dict[str, Any]) -> dict[str, Any]:
            frame["task"]["language_instruction"] += b" now"
            return super().__call__(frame)

    datasets, prompting = ModuleType("prismatic.vla.datasets"), ModuleType("prismatic.models.backbones.llm.prompting")
    datasets.RLDSBatchTransform = Other
    prompting.PurePromptBuilder, prompting.VicunaV15ChatPromptBuilder = Pure, Vicuna
    monkeypatch.setitem(sys.modules, "prismatic.vla.datasets", datasets)
    monkeypatch.setitem(sys.modules, "prismatic.models.backbones.llm.prompting", prompting)
    assert prompt_for(Pure, "Pick up") == f"{ASKED} pick up now?\nOut:"
    assert prompt_builder_for("openvla/openvla-7b") is Pure
    assert prompt_builder_for("openvla/openvla-v01-7b") is Vicuna


def test_a_builder_that_drops_the_instruction_is_refused() -> None:
    class Deaf(Pure):
        def human(self, message: str) -> str:
            return "In: hello\nOut: "

    with pytest.raises(ValueError, match="exactly once"):
        template_of(Deaf, BatchTransform)


@pytest.mark.parametrize("instruction", ["öffne", "🥣", "für ö", "a"])
def test_an_instruction_without_a_space_before_it(tokenizer: Any, instruction: str) -> None:
    """The bytes of its first character are pieces of their own, and all of them count."""
    template = Template("In:[", "]\nOut:", lambda words: f"In:[{words}]\nOut:")
    prompt = template.prompt(instruction)
    ids = list(tokenizer(prompt, add_special_tokens=True).input_ids)
    begin, end = len(b" In:["), len(f" In:[{instruction}".encode())
    expected = [at for at, (first, last) in enumerate(surfaces(ids)) if first < end and last > begin]
    assert list(range(*instruction_span(tokenizer, template, prompt))) == expected


def test_template_is_told_by_lengths() -> None:
    template = Template("a ", " b", lambda instruction: f"a {instruction} b")
    assert template.characters("a a  b b b") == (2, 8)
    with pytest.raises(ValueError, match="not of the template"):
        template.characters("a b")
