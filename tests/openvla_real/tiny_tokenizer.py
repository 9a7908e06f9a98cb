"""A tokenizer with Llama 2's layout and a few hundred words: openvla counts on where its tokens stand.

Tokens 0 to 2 are `<unk>`, `<s>`, `</s>`, 3 to 258 the bytes, then words, 29871 the empty token `▁`, then single
characters up to 31999 (the last 256 are the action tokens), and 32000 the padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPACE = "\u2581"
EMPTY = 29871
PIECES = 32000
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6

# What upstream's prompt builders write, what `tiny_episodes.py` says, and what PrismaticVLM wants to be one token each.
TEXT = (
    "In Out What action should the robot take to USER ASSISTANT A chat between a curious user and an artificial "
    "intelligence assistant The gives helpful detailed polite answers user's questions open close push pull lift lower "
    "drawer cup plate lid box block red green blue yellow on in into left right upper behind front of of turn put "
    "True False Yes No B C D E F G H I J K L M N O P Q R S T U V W X Y Z"
)
MARKS = ("??", ".?", ")?", "?:", "\u2581?", "\u2581(")


def words() -> list[str]:
    """Pieces longer than a character in the order of their merges: every beginning of a word, then marks."""
    pieces = [SPACE + word[:length] for word in TEXT.split() for length in range(1, len(word) + 1)]
    return list(dict.fromkeys([*pieces, *MARKS]))


def sentencepiece_model() -> bytes:
    """The serialized BPE model: `add_dummy_prefix`, byte fallback, no normalization, as Llama's."""
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = 2, PIECES, True
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", True, False

    def add(piece: str, kind: int, score: float = 0.0) -> None:
        model.pieces.add(piece=piece, score=score, type=kind)

    add("<unk>", UNKNOWN)
    add("<s>", CONTROL)
    add("</s>", CONTROL)
    for value in range(256):
        add(f"<0x{value:02X}>", BYTE)
    for rank, piece in enumerate(words()):
        add(piece, NORMAL, -float(rank))
    while len(model.pieces) < EMPTY:
        add(f"{SPACE}unused{len(model.pieces)}", UNUSED)
    characters = [SPACE, *map(chr, range(33, 127))]
    # Ideographs, so that an action token is one character that takes part in no merge.
    characters += [chr(0x4E00 + index) for index in range(PIECES - EMPTY - len(characters))]
    for rank, character in enumerate(characters):
        add(character, NORMAL, -float(EMPTY + rank))
    return bytes(model.SerializeToString(deterministic=True))


def make_tokenizer(folder: Path, max_length: int = 2048) -> Any:
    """Writes the tokenizer to `folder` and returns it: a `LlamaTokenizerFast` with the padding token openvla has."""
    from transformers import LlamaTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "tokenizer.model"
    model.write_bytes(sentencepiece_model())
    tokenizer = LlamaTokenizerFast(
        vocab_file=str(model), legacy=False, model_max_length=max_length, padding_side="right"
    )
    # With it saved, transformers converts the tokenizer anew each time it is loaded.
    tokenizer.init_kwargs.pop("add_prefix_space", None)
    tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    tokenizer.save_pretrained(folder)
    return tokenizer
