"""A PrismaticVLM that knows its action tokenizer."""

from __future__ import annotations

from typing import Any

from prismatic.models.vlms import PrismaticVLM
from prismatic.vla.action_tokenizer import ActionTokenizer


class OpenVLA(PrismaticVLM):
    def __init__(
        self, *args: Any, norm_stats: dict[str, Any], action_tokenizer: ActionTokenizer, **kwargs: Any
    ) -> None:
        super().__init__(*args, norm_stats=norm_stats, **kwargs)
        self.action_tokenizer = action_tokenizer
