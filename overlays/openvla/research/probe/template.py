"""The prompt around an instruction, read off upstream's own batch transform and prompt builder.

Nothing of the prompt is written here: what ``RLDSBatchTransform`` makes of a made-up instruction shows what stands
before and behind it, for whichever prompt builder the model trains with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

# Lower case, since upstream lower-cases; no word of it can be part of a prompt.
_MARK = "zqxjk7vw"


@dataclass(frozen=True)
class Template:
    """A prompt as ``prefix + instruction + suffix``, up to and including ``Out:`` or ``ASSISTANT:``."""

    prefix: str
    suffix: str
    render: Callable[[str], str]

    @property
    def text(self) -> str:
        """The prompt with ``{instruction}`` in place of the instruction: what ``meta.json`` records."""
        return f"{self.prefix}{{instruction}}{self.suffix}"

    def prompt(self, instruction: str) -> str:
        """The prompt that upstream trains with, for an instruction as it stands in the data set."""
        return self.render(instruction)

    def characters(self, prompt: str) -> tuple[int, int]:
        """Begin and end of the instruction in ``prompt``, by the lengths around it: whatever the instruction says.

        Raises ``ValueError`` if ``prompt`` is not of this template.
        """
        begin, end = len(self.prefix), len(prompt) - len(self.suffix)
        if begin > end or not (prompt.startswith(self.prefix) and prompt.endswith(self.suffix)):
            raise ValueError(f"prompt {prompt!r} is not of the template {self.text!r}")
        return begin, end


def template_of(prompt_builder_fn: Any, batch_transform: Any = None) -> Template:
    """The template of a prompt builder class of upstream's, with the words that ``RLDSBatchTransform`` puts into it.

    ``batch_transform``: the class to read the words off; ``prismatic.vla.datasets.RLDSBatchTransform`` if None. Raises
    ``ValueError`` if the prompt does not hold the instruction exactly once.
    """
    return _template(prompt_builder_fn, batch_transform or _upstream_transform())


def prompt_for(prompt_builder_fn: Any, instruction: str) -> str:
    """The training prompt of an instruction up to the answer, as upstream builds it (lower-cased, right-stripped)."""
    return template_of(prompt_builder_fn).prompt(instruction)


def prompt_builder_for(vla_path: str) -> Any:
    """The prompt builder that finetune.py takes for a checkpoint: Vicuna's for v01, the plain one otherwise."""
    from prismatic.models.backbones.llm.prompting import PurePromptBuilder, VicunaV15ChatPromptBuilder

    return VicunaV15ChatPromptBuilder if "v01" in str(vla_path) else PurePromptBuilder


def _upstream_transform() -> Any:
    # Late: this import brings TensorFlow, which only what builds prompts needs.
    from prismatic.vla.datasets import RLDSBatchTransform

    return RLDSBatchTransform


@lru_cache(maxsize=16)
def _template(prompt_builder_fn: Any, batch_transform: Any) -> Template:
    def render(instruction: str) -> str:
        return transformed(batch_transform, lambda family: _HumanTurn(prompt_builder_fn(family)), instruction)

    prompt = render(_MARK)
    if prompt.count(_MARK) != 1:
        name = getattr(prompt_builder_fn, "__name__", prompt_builder_fn)
        raise ValueError(f"{name}: the prompt {prompt!r} does not hold the instruction {_MARK!r} exactly once")
    prefix, suffix = prompt.split(_MARK)
    return Template(prefix, suffix, render)


def transformed(batch_transform: Any, prompt_builder_fn: Any, instruction: str) -> str:
    """The text that a batch transform hands to the tokenizer for ``instruction`` and a black picture."""
    transform = batch_transform(
        action_tokenizer=lambda action: "",
        base_tokenizer=utf8_tokenizer,
        image_transform=lambda image: image,
        prompt_builder_fn=prompt_builder_fn,
    )
    frame = {
        "dataset_name": b"probe",
        "action": np.zeros((1, 7), dtype=np.float32),
        "observation": {"image_primary": np.zeros((1, 8, 8, 3), dtype=np.uint8)},
        "task": {"language_instruction": instruction.encode()},
    }
    return utf8_text(transform(frame)["input_ids"])


def utf8_tokenizer(text: str, add_special_tokens: bool = True) -> SimpleNamespace:
    """A tokenizer whose ids are the UTF-8 bytes: the text comes out of the batch transform as it went in."""
    return SimpleNamespace(input_ids=list(text.encode()))


def utf8_text(input_ids: Any) -> str:
    return bytes(input_ids.tolist()).decode()


class _HumanTurn:
    """A prompt builder that stops after the human's turn, where the model has to answer."""

    def __init__(self, builder: Any) -> None:
        self.builder, self.prompt = builder, ""

    def add_turn(self, role: str, message: str) -> str:
        if self.prompt:
            return ""
        added = self.builder.add_turn(role, message)
        self.prompt = self.builder.get_prompt()
        return added

    def get_prompt(self) -> str:
        return self.prompt


class Verbatim:
    """A prompt builder that adds nothing to the human's words and leaves the answer out."""

    def __init__(self, model_family: str) -> None:
        self.prompt = ""

    def add_turn(self, role: str, message: str) -> str:
        self.prompt = self.prompt or message
        return message

    def get_prompt(self) -> str:
        return self.prompt
