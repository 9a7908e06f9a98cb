"""Byte offsets of syntax, in one pass over a module.

libcst's own ``ByteSpanPositionProvider`` gives the same offsets at four times the cost, since it goes through its
metadata framework; a test holds the two equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libcst as cst
from libcst.metadata.span_provider import SpanProvidingCodegenState

from graft.errors import GraftError

DEPTH = 10_000
"""Python calls within each other that one pass may take; a term of a sum takes three, and 8 MiB of stack hold these."""


class _Recorder(SpanProvidingCodegenState):
    """Prints the module and notes where each node begins and ends."""

    def __init__(self, module: cst.Module) -> None:
        super().__init__(default_indent=module.default_indent, default_newline=module.default_newline, provider=None)  # type: ignore[arg-type]
        self.spans: dict[cst.CSTNode, tuple[int, int]] = {}

    def add_indent_tokens(self) -> None:
        self.tokens.extend(self.indent_tokens)
        for token in self.indent_tokens:
            self.position += len(token)

    def add_token(self, value: str) -> None:
        self.tokens.append(value)
        self.position += len(value) if value.isascii() else len(value.encode())

    def after_codegen(self, node: cst.CSTNode) -> None:
        self.spans.setdefault(node, (self._stack.pop(), self.position))

    def record_syntactic_position(self, node: cst.CSTNode, *, start_node: Any = None, end_node: Any = None) -> Any:
        return _Syntactic(self, node, start_node, end_node)


class _Syntactic:
    """Notes a node's code without the white space and the comments that it owns."""

    __slots__ = ("end_node", "node", "recorder", "start", "start_node")

    def __init__(self, recorder: _Recorder, node: cst.CSTNode, start_node: Any, end_node: Any) -> None:
        self.recorder, self.node, self.start_node, self.end_node = recorder, node, start_node, end_node

    def __enter__(self) -> None:
        self.start = self.recorder.position

    def __exit__(self, *_: object) -> None:
        spans = self.recorder.spans
        start = self.start if self.start_node is None else spans[self.start_node][0]
        end = self.recorder.position if self.end_node is None else spans[self.end_node][1]
        spans[self.node] = (start, end)


def spans_of(module: cst.Module, path: str = "") -> dict[cst.CSTNode, tuple[int, int]]:
    """Start and end offset, in UTF-8 bytes, of every node of a module.

    Args:
        path: of its file, for messages.

    Raises:
        GraftError: an expression is nested deeper than `DEPTH` allows.
    """
    recorder = _Recorder(module)
    with deep(path):
        module._codegen(recorder)
    return recorder.spans


@contextmanager
def deep(path: str) -> Iterator[None]:
    """Let code that recurs with the syntax go down to `DEPTH`: generated tables are sums of a thousand terms.

    Raises:
        GraftError: it goes deeper than that; names ``path``.
    """
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(max(usual, DEPTH))
    try:
        yield
    except RecursionError as error:
        raise GraftError(
            "an expression in it is nested too deeply to be read", where=path, remedy="leave this file out of the pack"
        ) from error
    finally:
        sys.setrecursionlimit(usual)
