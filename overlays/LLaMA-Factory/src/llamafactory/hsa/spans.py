"""Which part of an encoded message belongs to whom, read off the template itself.

LLaMA-Factory encodes a prompt message as ``[prefix][system and tools][header][content][end of turn][answer's header]``:
the answering role's header stands at the end of the *prompt's* format. The parts are found by encoding a probe text
in place of the content and by comparing with the answering role's own format, so no template is retyped here.
"""

import copy
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizer

    from ..data.template import Template

Owner = Literal["global", "message", "answer"]
Element = str | set[str] | dict[str, str]
Position = tuple[int, int]  # element, character in it

_PROBE = "\ue000content\ue000"
_UNIT = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|\w+|.", re.DOTALL)


@dataclass
class Layout:
    """Who owns what in one prompt message: ascending starts, each with the owner from there on.

    The starts were found with a probe in place of the content, which begins at ``content``; those behind it in the
    same element move by the difference in length.
    """

    starts: list[tuple[Position, Owner]]
    content: Position
    probed_length: int

    def owners(self, elements: list[Element]) -> list[tuple[Position, Owner]]:
        """The starts in the real ``elements``."""
        growth = len(str(elements[self.content[0]])) - self.probed_length
        return [
            ((at[0], at[1] + growth) if at[0] == self.content[0] and at > self.content else at, owner)
            for at, owner in self.starts
        ]


def _slots(template: "Template", messages: list[dict[str, Any]], system: str | None, tools: str | None) -> list[Any]:
    """The elements of every message, before they are turned into token ids."""
    probe = copy.copy(template)
    probe._convert_elements_to_ids = lambda tokenizer, elements: list(elements)
    return probe._encode(None, messages, system, tools)


def _text(element: Element, tokenizer: "PreTrainedTokenizer") -> str:
    if isinstance(element, str):
        return element

    if isinstance(element, dict):
        return element["token"]

    token = tokenizer.eos_token if "eos_token" in element else tokenizer.bos_token
    return token or ""


def _find_probe(elements: list[Element], template: "Template") -> Position:
    hits = [i for i, element in enumerate(elements) if isinstance(element, str) and _PROBE in element]
    if len(hits) != 1 or elements[hits[0]].count(_PROBE) != 1:
        raise ValueError(f"HSA cannot find a message's content in what {type(template).__name__} makes: {elements}.")

    return hits[0], elements[hits[0]].index(_PROBE)


def _units(elements: list[Element], start: Position, tokenizer: "PreTrainedTokenizer") -> list[tuple[str, Position]]:
    """Text from ``start`` on in words, marks such as ``<|im_end|>`` and single signs, each with its place."""
    units = []
    for number, element in enumerate(elements[start[0] :], start=start[0]):
        if isinstance(element, str):
            first = start[1] if number == start[0] else 0
            units += [(m.group(), (number, m.start())) for m in _UNIT.finditer(element, first)]
        else:
            units.append((_text(element, tokenizer), (number, 0)))

    return units


def _answer_start(
    elements: list[Element], content_end: Position, answer_slots: list[Element], tokenizer: "PreTrainedTokenizer"
) -> Position:
    """Where the answer's header begins: behind the end of turn, which is what stands behind an answer too.

    A template that ends prompts and answers differently has no end of turn to find: what its prompt has behind the
    content goes with the answer, but for what both have in common.
    """
    slot = next(i for i, slot in enumerate(answer_slots) if isinstance(slot, str) and "{{content}}" in slot)
    answer_end = (slot, answer_slots[slot].index("{{content}}") + len("{{content}}"))
    end_of_turn = [text for text, _ in _units(answer_slots, answer_end, tokenizer)]
    units = _units(elements, content_end, tokenizer)
    texts = [text for text, _ in units]
    size = len(end_of_turn)
    matches = (i + size for i in range(len(texts) - size + 1) if size and texts[i : i + size] == end_of_turn)
    common = next(
        (i for i, (a, b) in enumerate(zip(texts, end_of_turn, strict=False)) if a != b), min(len(texts), size)
    )
    place = next(matches, common)
    return units[place][1] if place < len(units) else (len(elements), 0)


def prompt_layouts(
    template: "Template",
    tokenizer: "PreTrainedTokenizer",
    messages: list[dict[str, Any]],
    system: str | None,
    tools: str | None,
) -> list[Layout]:
    """One layout for each even (prompt) message.

    Raises:
        ValueError: a template that builds its prompts in a way that HSA cannot take apart.
    """
    probes = [
        {"role": message["role"], "content": _PROBE} if i % 2 == 0 else {"role": "assistant", "content": ""}
        for i, message in enumerate(messages)
    ]
    encoded = _slots(template, probes, system, tools)
    layouts = []
    for i in range(0, len(messages), 2):
        elements = encoded[i]
        element, char = _find_probe(elements, template)
        starts: list[tuple[Position, Owner]] = [((0, 0), "message")]
        if i == 0:
            starts = _first_starts(template, probes, elements, (element, char))

        answers_by_function = i + 1 < len(messages) and messages[i + 1]["role"] == "function"
        formatter = template.format_function if answers_by_function else template.format_assistant
        end = _answer_start(elements, (element, char + len(_PROBE)), formatter.slots, tokenizer)
        starts.append((end, "answer"))
        layouts.append(Layout(starts, content=(element, char), probed_length=len(str(elements[element]))))

    return layouts


def _first_starts(
    template: "Template", probes: list[dict[str, Any]], elements: list[Element], content: Position
) -> list[tuple[Position, Owner]]:
    """Starts in turn 0: what the prefix, the system and the tools add to the bare message is global."""
    plain = copy.copy(template)
    plain.format_prefix = copy.copy(template.format_prefix)
    plain.format_prefix.slots = []
    plain.default_system = ""
    bare = _slots(plain, probes[:1], None, None)[0]
    added = len(elements) - len(bare)
    if added >= 0 and elements[added:] == bare:
        return [((0, 0), "global"), ((added, 0), "message")]

    # a template that puts the system into the message's own text, behind the message's header
    element, char = content
    bare_element, bare_char = _find_probe(bare, template)
    header = str(bare[bare_element])[:bare_char]
    if (
        added >= 0
        and element == bare_element + added
        and elements[added:element] == bare[:bare_element]
        and str(elements[element])[:char].startswith(header)
        and str(elements[element])[char:] == str(bare[bare_element])[bare_char:]
        and elements[element + 1 :] == bare[bare_element + 1 :]
    ):
        return [((0, 0), "global"), ((added, 0), "message"), ((element, len(header)), "global"), (content, "message")]

    raise ValueError(f"HSA cannot tell system and message apart in what {type(template).__name__} makes: {elements}.")


def token_owners(
    elements: list[Element], layout: Layout, template: "Template", tokenizer: "PreTrainedTokenizer"
) -> tuple[list[int], list[Owner]]:
    """Token ids of ``elements`` as the template makes them, and the owner of each.

    A token that straddles two parts belongs to the later one.
    """
    starts = layout.owners(elements)
    ids: list[int] = []
    owners: list[Owner] = []
    for number, element in enumerate(elements):
        element_ids = template._convert_elements_to_ids(tokenizer, [element])
        ids += element_ids
        for last in _last_chars(element, element_ids, starts, number, tokenizer):
            owners.append(starts[bisect_right(starts, (number, last), key=lambda start: start[0]) - 1][1])

    return ids, owners


def _last_chars(
    element: Element,
    ids: list[int],
    starts: list[tuple[Position, Owner]],
    number: int,
    tokenizer: "PreTrainedTokenizer",
) -> list[int]:
    """For each token of an element a character that it covers: its last one."""
    if not isinstance(element, str):
        return [0] * len(ids)

    if not ids:
        return []

    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(element, add_special_tokens=False, return_offsets_mapping=True)
        if list(encoded["input_ids"]) == list(ids):
            return [max(end - 1, start) for start, end in encoded["offset_mapping"]]

    # without offsets: the tokens that a part's text shares with the whole text lie before the part's end
    last = [0] * len(ids)
    for (at, char), _ in starts:
        if at == number and char > 0:
            head = tokenizer.encode(element[:char], add_special_tokens=False)
            shared = 0
            while shared < min(len(head), len(ids)) and head[shared] == ids[shared]:
                shared += 1

            last[shared:] = [char] * (len(ids) - shared)

    return last
