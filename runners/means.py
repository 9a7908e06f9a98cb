"""Means with their intervals, as the tables of reports show them."""

from __future__ import annotations

from look.words import ENGLISH, Words
from runners.intervals import Mean


def in_words(mean: Mean | None, words: Words = ENGLISH) -> str:
    """A mean of shares, in percent, with its interval and how many seeds that is over."""
    if mean is None:
        return words("missing")
    if mean.half is None:
        return words("{mean:.1f} % (one seed: no interval)", mean=100 * mean.mean)
    return words(
        "{mean:.1f} % ± {half:.1f} ({count} seeds)", mean=100 * mean.mean, half=100 * mean.half, count=mean.count
    )


def number(mean: Mean | None, words: Words = ENGLISH, *, unit: str = "", scale: float = 1.0) -> str:
    """A mean with its interval."""
    if mean is None:
        return words("none")
    around = "" if mean.half is None else f" ± {scale * mean.half:.1f}"
    return f"{scale * mean.mean:.1f}{unit}{around}"
