"""Which experts are analysed, and what they are called where there is little room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

Pair = tuple[str, str]


def most_active(counts: Iterable[Mapping[str, int]], number: int) -> list[str]:
    """The `number` experts with the largest sum of activations over all epochs, in the order of their names.

    One choice for all epochs: a course over epochs is about the same pair. Ties go to the name that sorts first.
    """
    total: Counter[str] = Counter()
    for epoch in counts:
        total.update(epoch)
    return sorted(sorted(total, key=lambda name: (-total[name], by_number(name)))[:number], key=by_number)


def pairs_of(experts: Sequence[str]) -> list[Pair]:
    return list(combinations(experts, 2))


def by_number(path: str) -> list[tuple[int, int, str]]:
    """A sort key under which `experts.10` comes after `experts.9`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split(".")]


def short_names(paths: Sequence[str]) -> tuple[dict[str, str], str]:
    """Of each module path the parts in which the paths differ, joined by dots; and the pattern they fill in.

    `a.0.mlp.3` and `a.1.mlp.5` are `0.3` and `1.5` in `a.{}.mlp.{}`. Paths of different lengths keep all after their
    common beginning. A single path keeps its last part.
    """
    split = [path.split(".") for path in paths]
    if not split:
        return {}, ""
    if len({len(parts) for parts in split}) == 1:
        places = [place for place, parts in enumerate(zip(*split, strict=True)) if len(set(parts)) > 1]
        places = places or [len(split[0]) - 1]
        pattern = ".".join("{}" if place in places else part for place, part in enumerate(split[0]))
        return {path: ".".join(p[i] for i in places) for path, p in zip(paths, split, strict=True)}, pattern
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    names = {path: ".".join(parts[shared:]) for path, parts in zip(paths, split, strict=True)}
    return names, ".".join([*split[0][:shared], "{}"])
