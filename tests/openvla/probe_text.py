"""Tokenizers of Llama's make and prompt builders of openvla's form, small and made here, for the probe's tests.

``fast()`` is a Rust tokenizer with offsets; ``Slow`` is the same byte-pair encoding in Python, with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

SPACE, EMPTY, SIZE = "▁", 29871, 32000
UNK, BOS, EOS, PAD = 0, 1, 2, SIZE
BYTES = 3
WORDS = "In What action should the robot take to pick up put open drawer bowl on plate Out in out what USER ASSISTANT"
# Merges across the instruction's end come first, so that "a)" alone is one piece, and "a)?" is "a" and ")?".
STRADDLING = ["??", ".?", ")?", "a)", "l.", "?!", "???"]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


@lru_cache(maxsize=1)
def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Llama's layout: specials, bytes, merged pieces, fillers up to the lone space at 29871, single characters."""
    merges: dict[tuple[str, str], None] = {}
    for piece in [*STRADDLING, *(SPACE + word for word in WORDS.split()), "Out", "bow", "take", "pic"]:
        for end in range(1, len(piece)):
            merges[piece[:end], piece[end]] = None
    vocabulary = {"<unk>": UNK, "<s>": BOS, "</s>": EOS} | {f"<0x{byte:02X}>": BYTES + byte for byte in range(256)}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    while len(vocabulary) < EMPTY:
        vocabulary[f"<unused{len(vocabulary)}>"] = len(vocabulary)
    for character in [SPACE, *(chr(code) for code in range(33, 127)), "é"]:
        vocabulary[character] = len(vocabulary)
    while len(vocabulary) < SIZE:
        vocabulary[chr(0x4E00 + len(vocabulary) - EMPTY)] = len(vocabulary)
    assert vocabulary[SPACE] == EMPTY
    return vocabulary, list(merges)


@lru_cache(maxsize=1)
def fast() -> Any:
    vocabulary, merges = pieces()
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<s>", "</s>", "<PAD>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<PAD>",
        padding_side="right", model_max_length=512, clean_up_tokenization_spaces=False,
    )  # fmt: skip


class Slow:
    """Byte-pair encoding as SentencePiece does it, without offsets."""

    is_fast, model_max_length = False, 512
    bos_token_id, unk_token_id, pad_token_id = BOS, UNK, PAD

    def __init__(self) -> None:
        self.vocabulary, merges = pieces()
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        ids = [index for symbol in self.symbols(text) for index in self._ids(symbol)]
        return SimpleNamespace(input_ids=[BOS, *ids] if add_special_tokens else ids)

    def symbols(self, text: str) -> list[str]:
        symbols = list(SPACE + text.replace(" ", SPACE)) if text else []
        while True:
            found = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self.ranks]
            if not found:
                return symbols
            _, at = min(found)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]

    def convert_tokens_to_ids(self, piece: str) -> int:
        return self.vocabulary.get(piece, UNK)

    def _ids(self, symbol: str) -> list[int]:
        if symbol in self.vocabulary:
            return [self.vocabulary[symbol]]
        return [BYTES + byte for byte in symbol.encode()]


def surfaces(ids: list[int]) -> list[tuple[int, int]]:
    """Begin and end of every token in the UTF-8 bytes of the prompt (with one space before it); (0, 0) for BOS."""
    names = {index: piece for piece, index in pieces()[0].items()}
    found, at = [], 0
    for index in ids:
        width = (
            0 if index == BOS else 1 if BYTES <= index < BYTES + 256 else len(names[index].replace(SPACE, " ").encode())
        )
        found.append((at, at + width))
        at += width
    return found


class Pure:
    """The turns of openvla's plain prompt."""

    def __init__(self, model_family: str) -> None:
        assert model_family == "openvla"
        self.prompt = ""

    def add_turn(self, role: str, message: str) -> str:
        message = message.replace("<image>", "").strip()
        self.prompt += self.human(message) if role == "human" else f"{message or ' '}</s>"
        return message

    def human(self, message: str) -> str:
        return f"In: {message}\nOut: "

    def get_prompt(self) -> str:
        return self.prompt.removeprefix("<s>").rstrip()


class Vicuna(Pure):
    """The turns of openvla v01's prompt."""

    def human(self, message: str) -> str:
        return f"{VICUNA}USER: {message} ASSISTANT: "


@dataclass
class BatchTransform:
    """The form of upstream's: lower case, the question, two turns, picture and tokens."""

    action_tokenizer: Any
    base_tokenizer: Any
    image_transform: Any
    prompt_builder_fn: Any

    def __call__(self, frame: dict[str, Any]) -> dict[str, Any]:
        builder = self.prompt_builder_fn("openvla")
        words = frame["task"]["language_instruction"].decode().lower()
        builder.add_turn("human", f"What action should the robot take to {words}?")
        builder.add_turn("gpt", self.action_tokenizer(frame["action"][0]))
        ids = self.base_tokenizer(builder.get_prompt(), add_special_tokens=True).input_ids
        pixels = self.image_transform(frame["observation"]["image_primary"][0])
        return {"pixel_values": pixels, "input_ids": torch.tensor(ids), "dataset_name": frame["dataset_name"]}
