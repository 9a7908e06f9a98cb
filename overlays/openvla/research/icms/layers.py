"""Which layers get a subspace and which layers share it, as written on the command line."""

from __future__ import annotations


class LayerError(ValueError):
    """A choice of layers or groups that cannot be meant."""


def parse_layers(text: str) -> list[int] | int:
    """``"8,16,24"`` to ``[8, 16, 24]``; ``"auto:3"`` to ``3``, the number of layers to be chosen."""
    text = text.strip()
    word, _, number = text.partition(":")
    if word == "auto":
        if not number.isdigit() or int(number) == 0:
            raise LayerError(f"--layers {text!r}: write auto:N with the number of layers to choose, such as auto:3")
        return int(number)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise LayerError(f"--layers {text!r}: write numbers from 0 with commas between, such as 8,16,24, or auto:N")
    found = [int(part) for part in parts]
    if len({*found}) != len(found):
        raise LayerError(f"--layers {text!r}: a layer is named twice")
    return sorted(found)


def parse_groups(text: str, layers: list[int]) -> dict[int, tuple[int, ...]]:
    """``"8:6-10;16:14-18"`` to ``{8: (6, ..., 10), 16: (14, ..., 18)}``; a layer that is not named shares with nobody.

    Before the colon stands the representative, whose subspace its members share; after it ranges and numbers with
    commas between. Raises ``LayerError`` for a representative that has no subspace or is not in its own group, and
    for a layer in two groups.
    """
    if text.isdigit():
        raise LayerError(f"--groups {text}: YAML reads a single pair such as 8:8 as a number; leave that group out")
    groups = {n: (n,) for n in layers}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        head, colon, tail = part.partition(":")
        if not colon or not head.strip().isdigit():
            raise LayerError(f"--groups {part!r}: write a layer, a colon and its members, such as 8:6-10")
        leader = int(head)
        if leader not in groups:
            raise LayerError(f"--groups {part!r}: layer {leader} has no subspace; add it to --layers")
        groups[leader] = _members(tail, part)
        if leader not in groups[leader]:
            raise LayerError(
                f"--groups {part!r}: layer {leader} is not in its own group; write {leader}:{tail},{leader}"
            )
    seen: dict[int, int] = {}
    for leader, members in groups.items():
        for member in members:
            if member in seen:
                raise LayerError(
                    f"--groups {text!r}: layer {member} is in the groups of {seen[member]} and of {leader}; "
                    "give it to one of them"
                )
            seen[member] = leader
    return groups


def _members(tail: str, part: str) -> tuple[int, ...]:
    found: set[int] = set()
    for piece in tail.split(","):
        first, dash, last = (word.strip() for word in piece.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise LayerError(f"--groups {part!r}: {piece.strip()!r} is neither a layer nor a range such as 6-10")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def check_layers(groups: dict[int, tuple[int, ...]], num_layers: int) -> None:
    """Raises ``LayerError`` for a layer that the model does not have, and for the last one as a representative.

    The raw output of the last block at the instruction's tokens reaches no later token: the output cannot depend on it.
    """
    highest = max(member for members in groups.values() for member in members)
    if highest >= num_layers:
        raise LayerError(
            f"layer {highest}: the model has {num_layers} layers, 0 to {num_layers - 1}; choose among them"
        )
    if num_layers - 1 in groups:
        raise LayerError(
            f"layer {num_layers - 1} is the last: what it says at the instruction's tokens does not reach the output, "
            f"so no direction of it has a vulnerability; choose 0 to {num_layers - 2}"
        )
