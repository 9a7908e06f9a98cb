"""Which samples make a probe set: every instruction before any twice, and the same ones whatever order they come in."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """A sample that may be taken: an RGB picture, uint8 ``[H, W, 3]``, and its instruction."""

    picture: np.ndarray[Any, Any]
    instruction: str
    name: str | None = None


@dataclass(frozen=True)
class _Ranked:
    place: tuple[int, str]
    sample: Candidate


class Coverage:
    """The first ``n`` samples of all that are offered, in an order that only seed and contents decide.

    Every sample gets a key, the SHA-256 of seed, instruction and pixels. Within an instruction, the first frames of all
    episodes (by key) come before any second frame of one. Then instructions take turns: one sample of each, another of
    each, until there are ``n``; in a turn the smaller key goes first. So distinct instructions are covered first, then
    distinct episodes, every beginning of the list is spread as evenly, and a data set that is read in another order
    gives the same list. Twice the same picture with the same instruction counts once.

    Only ``n`` samples are held at a time: a sample's turn never comes earlier when others are offered later, so what
    is not among the first ``n`` now will never be.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError(f"a probe set of {n} samples: give a number of 1 or more")
        self.n, self.seed = n, seed
        self._kept: list[_Ranked] = []

    def offer(self, episode: Iterable[Candidate]) -> None:
        """Offer the frames of one episode, which count as alike."""
        frames: dict[str, dict[str, Candidate]] = defaultdict(dict)
        for sample in episode:
            frames[sample.instruction].setdefault(self._key(sample), sample)
        kept = {ranked.place[1]: ranked for ranked in self._kept}
        for samples in frames.values():
            for repeat, key in enumerate(sorted(samples)):
                if key not in kept or (repeat, key) < kept[key].place:
                    kept[key] = _Ranked((repeat, key), samples[key])
        self._kept = _in_turns(kept.values())[: self.n]

    def taken(self) -> list[Candidate]:
        """What was taken of all that was offered, in order; each with a name."""
        return [replace(ranked.sample, name=ranked.sample.name or ranked.place[1][:16]) for ranked in self._kept]

    def _key(self, sample: Candidate) -> str:
        digest = hashlib.sha256(f"{self.seed}\0".encode())
        add_sample(digest, sample.instruction, sample.picture)
        return digest.hexdigest()


def _in_turns(ranked: Iterable[_Ranked]) -> list[_Ranked]:
    rows: dict[str, list[_Ranked]] = defaultdict(list)
    for entry in ranked:
        rows[entry.sample.instruction].append(entry)
    turns = [
        (turn, entry.place, entry)
        for row in rows.values()
        for turn, entry in enumerate(sorted(row, key=lambda entry: entry.place))
    ]
    return [entry for _, _, entry in sorted(turns, key=lambda turn: turn[:2])]


def content_hash(samples: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> str:
    """SHA-256 over instructions and decoded pixels in their order: what a probe set is recorded by."""
    digest = hashlib.sha256()
    for instruction, picture in samples:
        add_sample(digest, instruction, picture)
    return digest.hexdigest()


def add_sample(digest: Any, instruction: str, picture: np.ndarray[Any, Any]) -> None:
    text = instruction.encode()
    shape: Sequence[int] = picture.shape
    digest.update(f"{len(text)} {'x'.join(map(str, shape))}\0".encode())
    digest.update(text)
    digest.update(np.ascontiguousarray(picture).tobytes())
