"""The three semantic types of a message, and how data names them."""

from enum import IntEnum
from typing import Any

DEFAULT_TAG = "semantic_type"


class SemanticType(IntEnum):
    """How visible a message stays as the sequence grows; the value is the token's entry in ``semantic_ids``."""

    GLOBAL_CONDITION = 0
    LANDMARK = 1
    NOISE = 2


PAD_TYPE = int(SemanticType.NOISE)

_NAMES = {
    "GLOBAL_CONDITION": SemanticType.GLOBAL_CONDITION,
    "LANDMARK": SemanticType.LANDMARK,
    "KEY_EVENT": SemanticType.LANDMARK,
    "NOISE": SemanticType.NOISE,
    "PROCESS_NOISE": SemanticType.NOISE,
}


def parse_semantic_type(value: Any, where: str) -> int:
    """Return 0, 1 or 2 for a type's name; ``None`` (a missing tag) is GLOBAL_CONDITION.

    Raises:
        ValueError: any other value; the message names ``where`` and the value.
    """
    if value is None:
        return int(SemanticType.GLOBAL_CONDITION)

    if not isinstance(value, str) or value not in _NAMES:
        raise ValueError(f"{where}: unknown semantic type {value!r}. Use one of {', '.join(_NAMES)}, or leave it out.")

    return int(_NAMES[value])
