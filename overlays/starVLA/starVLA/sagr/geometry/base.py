"""What every geometry back end takes and gives.

Camera convention, for all of them: OpenCV (x right, y down, z forward), pixel centres at whole numbers, so that the
pixel in column u and row v sees the ray ((u - cx) / fx, (v - cy) / fy, 1).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """One camera's view of a batch. What is absent is ``None``.

    depth: [B, h, w] metres along z; 0, negative, NaN or inf where there is none. points: [B, h, w, 3] metres in the
    camera's frame; not finite where there is none. intrinsics: [B, 3, 3] in pixels of the depth map. image:
    [B, 3, h, w] in [0, 1]. pose: [B, 4, 4], the camera's frame to the common one. All float32. named: [B, h, w] bool,
    the pixels that show what the instruction names, for training.
    """

    depth: Tensor | None = None
    points: Tensor | None = None
    intrinsics: Tensor | None = None
    image: Tensor | None = None
    pose: Tensor | None = None
    named: Tensor | None = None

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: value.to(device) for name, value in given.items()})


class GeometryTokens(NamedTuple):
    """tokens [B, Ng, dim]; mask [B, Ng] bool, True where a token is valid; grid: (rows, columns) of each view.

    Ng runs over views, then rows, then columns.
    """

    tokens: Tensor
    mask: Tensor
    grid: tuple[tuple[int, int], ...]


class GeometryEncoder(Protocol):
    """A module with the width of its tokens, what it cannot do without ("depth" or "image"), and this call."""

    dim: int
    needs: str

    def __call__(self, views: list[View]) -> GeometryTokens:
        """Raises ``ValueError`` for views that it cannot use, naming the view and the sample."""
        ...


def check_values(views: list[View], seen: Tensor | None = None) -> None:
    """Raise ``ValueError`` naming the samples with NaN or inf in intrinsics or a pose, with a focal length that is not
    positive, or, where ``seen`` [B] bool is given, with no valid pixel in any view. One host synchronisation.
    """
    found: dict[str, Tensor] = {}
    for i, view in enumerate(views):
        if view.intrinsics is not None:
            focal = view.intrinsics[:, [0, 1], [0, 1]]
            bad = ~torch.isfinite(view.intrinsics).flatten(1).all(1) | (focal <= 0).any(1)
            found[f"intrinsics of view {i} hold NaN, inf or a focal length <= 0"] = bad
        if view.pose is not None:
            found[f"camera_pose of view {i} holds NaN or inf"] = ~torch.isfinite(view.pose).flatten(1).all(1)
    if seen is not None:
        found["no valid pixel in any view: all depth is <= 0, NaN or inf"] = ~seen
    if not found:
        return
    for problem, flags in zip(found, torch.stack(list(found.values())).tolist(), strict=True):
        samples = [i for i, flag in enumerate(flags) if flag]
        if samples:
            raise ValueError(f"sample(s) {samples} of the batch: {problem}")
