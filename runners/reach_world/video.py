"""A short animation of the same episode under several policies, side by side, as WebP or GIF by Pillow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from runners.reach_world.camera import FRONT, look
from runners.reach_world.evaluate import Policy, run_episode
from runners.reach_world.layout import Disturbances
from runners.reach_world.world import CONTROL_HZ, ReachWorld

SIDE, STRIP = 192, 30
"""Pixels of one picture's side, and of the strip of words above it."""
REST = 8
"""Frames that the last picture stays."""


def filmed(
    policies: Mapping[str, Policy], seed: int, disturbances: Disturbances, *, execute_steps: int, limit: int = 30
) -> bytes:
    """A looping WebP: each policy's episode of the same seed, at half the speed of life.

    Raises ValueError without policies.
    """
    if not policies:
        raise ValueError("no policy to film")
    films = [film(name, policy, seed, disturbances, execute_steps, limit) for name, policy in policies.items()]
    return animation([np.hstack(row) for row in zip(*_even(films), strict=True)])


def film(
    name: str, policy: Policy, seed: int, disturbances: Disturbances, execute_steps: int, limit: int
) -> list[NDArray[np.uint8]]:
    """A picture for every control step, [SIDE + STRIP, SIDE, 3]."""
    camera = replace(FRONT, width=SIDE, height=SIDE)
    pictures: list[NDArray[np.uint8]] = []

    def watch(world: ReachWorld) -> None:
        words = f"{name}: {world.layout.instruction}\nstep {world.step_count}, {world.outcome}"
        if world.moved_at is not None:
            words += f"; moved at {world.moved_at}"
        pictures.append(_with_words(look(world.model, world.data, camera).rgb, words))

    run_episode(policy, seed, disturbances, execute_steps=execute_steps, limit=limit, watch=watch)
    return pictures


def _with_words(picture: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    page = Image.new("RGB", (SIDE, SIDE + STRIP), (250, 250, 248))
    page.paste(Image.fromarray(picture), (0, STRIP))
    ImageDraw.Draw(page).multiline_text((4, 2), words, fill=(30, 32, 38), spacing=1)
    return np.asarray(page)


def _even(films: Sequence[list[Any]]) -> list[list[Any]]:
    """All as long as the longest, and REST pictures more: the last one stays."""
    length = max(len(film) for film in films) + REST
    return [film + [film[-1]] * (length - len(film)) for film in films]


def animation(pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    """A looping WebP of uint8 [h, w, 3] pictures."""
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    stream = io.BytesIO()
    pause = 2 * 1000 // CONTROL_HZ
    first.save(stream, format="WEBP", save_all=True, append_images=rest, duration=pause, loop=0, quality=70)
    return stream.getvalue()
