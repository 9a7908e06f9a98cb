"""Semantic types carried inside the token ids, from the template to the finished columns.

A tagged id is an ``int`` and passes through LLaMA-Factory's truncation, reversal, concatenation and packing
like any other; only the ends of the way are touched.
"""

import copy
from typing import TYPE_CHECKING, Any

from .spans import prompt_layouts, token_owners
from .types import PAD_TYPE, SemanticType

if TYPE_CHECKING:
    from ..data.processor.processor_utils import DatasetProcessor

Pairs = list[tuple[list[int], list[int]]]


class SemanticToken(int):
    """A token id that knows the type of its message, in ``semantic``."""

    semantic: int


def _tag(token: int, semantic: int) -> int:
    """``token`` with its type; another method's own mark on the id stays on it."""
    if token is None:
        raise ValueError(
            "The tokenizer does not know a special token that the template uses: add it, or choose another."
        )

    tagged = SemanticToken(token) if type(token) is int else token
    tagged.semantic = semantic
    return tagged


def _type_of(message: dict[str, Any]) -> int:
    value = message.get("semantic_type")
    return int(SemanticType.GLOBAL_CONDITION if value is None else value)


def _typed_template(
    processor: "DatasetProcessor", messages: list[dict[str, Any]], system: str | None, tools: str | None
) -> Any:
    """The processor's template, returning tagged ids for these messages."""
    template = processor.template
    layouts = prompt_layouts(template, processor.tokenizer, messages, system, tools)
    turn = iter(range(len(messages)))

    def convert(tokenizer: Any, elements: list[Any]) -> list[int]:
        i = next(turn)
        own = _type_of(messages[i])
        if i % 2 == 1:
            return [_tag(token, own) for token in template._convert_elements_to_ids(tokenizer, elements)]

        answer = _type_of(messages[i + 1]) if i + 1 < len(messages) else int(SemanticType.GLOBAL_CONDITION)
        types = {"global": int(SemanticType.GLOBAL_CONDITION), "message": own, "answer": answer}
        ids, owners = token_owners(elements, layouts[i // 2], template, tokenizer)
        return [_tag(token, types[owner]) for token, owner in zip(ids, owners, strict=True)]

    typed = copy.copy(template)
    typed._convert_elements_to_ids = convert
    return typed


def _transfer(plain: list[int], typed: list[int], rest: int) -> list[int]:
    """Types of ``typed`` on the ids of ``plain``; what the template itself put in (empty thoughts) is ``rest``."""
    if plain != typed:
        raise RuntimeError("HSA encoded a message to other token ids than LLaMA-Factory did; please report this.")

    return [_tag(token, getattr(twin, "semantic", rest)) for token, twin in zip(plain, typed, strict=True)]


def tag_pairs(
    processor: "DatasetProcessor",
    encoded_pairs: Pairs,
    messages: list[dict[str, Any]],
    system: str | None,
    tools: str | None,
    *discarding_history_cot: bool,
) -> Pairs:
    """Tag what ``template.encode_multiturn`` returned: the same ids, each with its message's type. Off: unchanged.

    ``discarding_history_cot`` is handed on where the upstream's ``encode_multiturn`` takes it.
    """
    if not processor.data_args.semantic_ids:
        return encoded_pairs

    template = _typed_template(processor, messages, system, tools)
    typed_pairs = template.encode_multiturn(processor.tokenizer, messages, system, tools, *discarding_history_cot)
    tagged = []
    for turn, (plain, typed) in enumerate(zip(encoded_pairs, typed_pairs, strict=True)):
        answer = _type_of(messages[2 * turn + 1])
        tagged.append((_transfer(plain[0], typed[0], answer), _transfer(plain[1], typed[1], answer)))

    return tagged


def tag_prompt(
    processor: "DatasetProcessor",
    prompt_ids: list[int],
    messages: list[dict[str, Any]],
    system: str | None,
    tools: str | None,
) -> list[int]:
    """Tag the prompt that ``template.encode_oneturn`` returned for generation. Off: unchanged."""
    if not processor.data_args.semantic_ids:
        return prompt_ids

    template = _typed_template(processor, messages, system, tools)
    typed_ids, _ = template.encode_oneturn(processor.tokenizer, messages, system, tools)
    return _transfer(prompt_ids, typed_ids, _type_of(messages[-1]))


def _fill(types: list[int | None]) -> list[int]:
    """Types of one whole sample: what is untagged follows the token before it; in front it is global."""
    filled: list[int] = []
    for semantic in types:
        before = filled[-1] if filled else int(SemanticType.GLOBAL_CONDITION)
        filled.append(before if semantic is None else semantic)

    return filled


def seal_types(processor: "DatasetProcessor", input_ids: list[int]) -> None:
    """Tag, in place, the ids that the processor itself added to a sample (end of sequence, image tokens)."""
    if processor.data_args.semantic_ids:
        types = _fill([getattr(token, "semantic", None) for token in input_ids])
        input_ids[:] = [_tag(token, semantic) for token, semantic in zip(input_ids, types, strict=True)]


def emit_semantic_ids(processor: "DatasetProcessor", model_inputs: dict[str, list[Any]]) -> None:
    """Turn tags into a ``semantic_ids`` column beside ``input_ids``, and the ids into plain ints again.

    What is still untagged at the end of a row is padding of a packed row (type 2); at its front it is global.
    """
    if not processor.data_args.semantic_ids:
        return

    for row, input_ids in enumerate(model_inputs["input_ids"]):
        types = [getattr(token, "semantic", None) for token in input_ids]
        sealed = len(types)
        while sealed > 0 and types[sealed - 1] is None:
            sealed -= 1

        model_inputs["semantic_ids"].append(_fill(types[:sealed]) + [PAD_TYPE] * (len(types) - sealed))
        model_inputs["input_ids"][row] = [int(token) for token in input_ids]
        model_inputs["labels"][row] = [int(token) for token in model_inputs["labels"][row]]
