"""Which tokens of a prompt are the instruction's."""

from __future__ import annotations

from typing import Any

from .template import Template

LONE_SPACE = "\u2581"  # the piece of SentencePiece for a space that belongs to no word


def instruction_span(tokenizer: Any, template: Template, prompt: str) -> tuple[int, int]:
    """First and last-plus-one index of the instruction's tokens in ``tokenizer(prompt).input_ids``, BOS counted.

    The space before the instruction belongs to it, as it does in SentencePiece's pieces, and so does a piece that it
    shares with what follows (``.?``, ``)?``, ``??``). A fast tokenizer tells by its offsets, a slow one by prefixes of
    the prompt: in BPE, a place is a border between tokens exactly if what stands before it is tokenized to the same ids
    alone (merges that cross the place never happened, so those before it are the same). The text behind the instruction
    is never tokenized by itself, where it would come out differently.

    Raises ``ValueError`` if the instruction is empty or no border can be found.
    """
    begin, end = template.characters(prompt)
    if not prompt[begin:end].strip():
        raise ValueError(f"empty instruction in the prompt {prompt!r}: it has no tokens; leave the sample out")
    begin = len(prompt[:begin].rstrip())
    if getattr(tokenizer, "is_fast", False):
        return _by_offsets(tokenizer, prompt, begin, end)
    return _by_prefixes(tokenizer, prompt, begin, end)


def _by_offsets(tokenizer: Any, prompt: str, begin: int, end: int) -> tuple[int, int]:
    encoded = tokenizer(prompt, add_special_tokens=True, return_offsets_mapping=True)
    # Added tokens such as BOS claim the offsets (0, 0).
    own = [index for index, part in enumerate(encoded.sequence_ids(0)) if part is not None]
    offsets = encoded["offset_mapping"]
    inside = [index for index in own if offsets[index][1] > begin and offsets[index][0] < end]
    if not inside:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no offsets inside characters {begin} to {end} of {prompt!r}"
        )
    return inside[0], inside[-1] + 1


def _by_prefixes(tokenizer: Any, prompt: str, begin: int, end: int) -> tuple[int, int]:
    ids = _ids(tokenizer, prompt)

    def border(place: int) -> int | None:
        before = _ids(tokenizer, prompt[:place])
        return len(before) if ids[: len(before)] == before else None

    first = border(begin)
    # A piece may go beyond the instruction's end: then the next border is the end of that piece.
    last = next((found for place in range(end, len(prompt)) if (found := border(place)) is not None), None)
    if first is None or last is None or first >= last:
        raise ValueError(
            f"{type(tokenizer).__name__} does not tokenize what surrounds characters {begin} to {end} of {prompt!r} "
            "the same way alone; use the fast tokenizer, which has offsets"
        )
    return first, last


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The ids that precede the first action token: BOS, the prompt and the lone space that training prompts have.

    openvla's training text goes on with a space and an action piece, which leaves a token of a lone space (29871 in
    Llama's vocabulary); ``predict_action`` appends it, and so does this, where it is absent. Raises ``ValueError`` if
    the tokenizer puts no BOS first (the patches go behind position 0) or has no such token.
    """
    ids = _ids(tokenizer, prompt)
    name = type(tokenizer).__name__
    if not ids or ids[0] != tokenizer.bos_token_id:
        raise ValueError(f"{name} does not begin a prompt with BOS (id {tokenizer.bos_token_id}): {ids[:3]}")
    space = tokenizer.convert_tokens_to_ids(LONE_SPACE)
    if space is None or space == getattr(tokenizer, "unk_token_id", None):
        raise ValueError(f"{name} has no token {LONE_SPACE!r}, which openvla's prompts end with (29871 in Llama's)")
    return ids if ids[-1] == space else [*ids, space]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=True).input_ids)
