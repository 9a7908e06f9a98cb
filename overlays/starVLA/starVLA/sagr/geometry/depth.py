"""Geometry tokens from depth maps or point maps: no weights to load, exact where the depth is (LIBERO, MuJoCo).

Each pixel is lifted to a point, x = (u - cx) z / fx and y = (v - cy) z / fy, and moved by the camera's pose. Each patch
of p x p pixels gives one token: a linear map of the mean and spread of its points, its mean colour, its share of valid
pixels, and Fourier features of the mean point (Mildenhall et al. 2020) with wavelengths of 2 m, 1 m, ... 2^(2-K) m.
Invalid pixels count nowhere; a patch without a valid one is masked.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import at_least_float32
from .base import GeometryTokens, View, check_values

FRAMES = ("world", "camera")


class DepthGeometry(nn.Module):
    """Tokens [B, Ng, dim], one per patch of ``patch`` pixels and view; a size that it does not divide is padded with
    invalid pixels at the right and below. Geometry is computed in float32 whatever the weights' dtype and autocast are:
    a metre in bfloat16 has steps of 8 mm.

    frame "world": points are in the frame that the poses lead to, and several views need a pose each. frame "camera":
    poses are ignored, each view's points stay in its camera's frame.
    """

    needs = "depth"

    def __init__(self, dim: int, patch: int = 16, fourier: int = 6, frame: str = "world") -> None:
        super().__init__()
        if patch < 1 or fourier < 0:
            raise ValueError(
                f"framework.sagr.geometry: patch = {patch} must be at least 1, fourier = {fourier} at least 0"
            )
        if frame not in FRAMES:
            raise ValueError(f"framework.sagr.geometry.frame = {frame!r}: choose one of {FRAMES}")
        self.dim, self.patch, self.fourier, self.frame = dim, patch, fourier, frame
        self.linear = nn.Linear(10 + 6 * fourier, dim)

    def forward(self, views: list[View]) -> GeometryTokens:
        """The views of a batch, each with depth and intrinsics, or with points.

        Raises ``ValueError`` for views without either, shapes that do not fit, NaN or inf in intrinsics or a pose, a
        focal length that is not positive, several views of which not all have a pose in the world frame, and a sample
        without one valid pixel in all of its views.
        """
        if self.frame == "camera":
            views = [replace(view, pose=None) for view in views]
        self._check_shapes(views)
        with torch.autocast(self.linear.weight.device.type, enabled=False):
            lifted = [lift(view) for view in views]
            check_values(views, torch.stack([valid.flatten(1).any(1) for _, valid in lifted]).any(0))
            rows = [self._describe(*points, view.image) for points, view in zip(lifted, views, strict=True)]
        features, mask = torch.cat([f for f, _, _ in rows], 1), torch.cat([m for _, m, _ in rows], 1)
        tokens = self.linear(features.to(self.linear.weight.dtype)).masked_fill(~mask.unsqueeze(-1), 0)
        return GeometryTokens(tokens, mask, tuple(grid for _, _, grid in rows))

    def _describe(self, points: Tensor, valid: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Features [B, rows * columns, 10 + 6 fourier] of every patch, which of them are valid, and the grid."""
        weight = patches(valid.to(points.dtype).unsqueeze(-1), self.patch)
        share = weight.mean(3)
        count = weight.sum(3).clamp_min(1)
        xyz = patches(points, self.patch)
        mean = (xyz * weight).sum(3) / count
        variance = ((xyz - mean.unsqueeze(3)).square() * weight).sum(3) / count
        spread = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)  # the root's slope at 0 is infinite
        if image is None:
            colour = torch.zeros_like(mean)
        else:
            colour = (patches(at_least_float32(image).permute(0, 2, 3, 1), self.patch) * weight).sum(3) / count
        features = torch.cat([mean, spread, colour, share, fourier_features(mean, self.fourier)], -1)
        return features.flatten(1, 2), (share > 0).flatten(1), tuple(share.shape[1:3])

    def _check_shapes(self, views: list[View]) -> None:
        if not views:
            raise ValueError(
                "no view: the depth back end needs depth and intrinsics, or points, of one camera at least"
            )
        for i, view in enumerate(views):
            if (view.depth is None) == (view.points is None) or (view.depth is not None and view.intrinsics is None):
                raise ValueError(f"view {i} needs either depth with intrinsics, or points")
            batch, h, w = (view.points[..., 0] if view.depth is None else view.depth).shape
            expected = {"points": (batch, h, w, 3), "intrinsics": (batch, 3, 3), "image": (batch, 3, h, w)}
            for name, shape in {**expected, "pose": (batch, 4, 4)}.items():
                value = getattr(view, name)
                if value is not None and tuple(value.shape) != shape:
                    raise ValueError(f"view {i}: {name} is {tuple(value.shape)}, its depth or points ask for {shape}")
        if self.frame == "world" and len(views) > 1 and any(view.pose is None for view in views):
            missing = [i for i, view in enumerate(views) if view.pose is None]
            raise ValueError(
                f"view(s) {missing} have no camera_pose: several views share one frame only with a pose each; give "
                "them, use one view, or set framework.sagr.geometry.frame to camera"
            )


def lift(view: View) -> tuple[Tensor, Tensor]:
    """Points [B, h, w, 3] float32 at least, zeros where invalid, and which are valid [B, h, w]."""
    if view.points is not None:
        valid = torch.isfinite(view.points).all(-1)
        points = at_least_float32(torch.where(valid.unsqueeze(-1), view.points, 0))
    else:
        valid = torch.isfinite(view.depth) & (view.depth > 0)
        z = at_least_float32(torch.where(valid, view.depth, 0))
        v, u = torch.meshgrid(*(torch.arange(n, device=z.device, dtype=z.dtype) for n in z.shape[1:]), indexing="ij")
        k = at_least_float32(view.intrinsics)[:, :, :, None, None]
        points = torch.stack([(u - k[:, 0, 2]) * z / k[:, 0, 0], (v - k[:, 1, 2]) * z / k[:, 1, 1], z], -1)
    if view.pose is not None:
        pose = at_least_float32(view.pose)
        # Sums, not a matrix product: TF32 would keep 10 bits of a coordinate.
        turned = (points.unsqueeze(-2) * pose[:, None, None, :3, :3]).sum(-1)
        points = (turned + pose[:, None, None, :3, 3]) * valid.unsqueeze(-1)
    return points, valid


def patches(x: Tensor, patch: int) -> Tensor:
    """[B, h, w, C] to [B, ceil(h / p), ceil(w / p), p * p, C], padded with zeros at the right and below."""
    h, w = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -w % patch, 0, -h % patch))
    return x.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3).flatten(3, 4)


def fourier_features(xyz: Tensor, bands: int) -> Tensor:
    """sin and cos of 2^k pi xyz for k < bands: [..., 3] to [..., 6 bands], all sines first, x y z within a band."""
    angles = (
        xyz.unsqueeze(-2) * (math.pi * 2.0 ** torch.arange(bands, device=xyz.device, dtype=xyz.dtype)).unsqueeze(-1)
    ).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)
