"""Geometry tokens from MapAnything (Keetha et al. 2025, facebookresearch/map-anything): what its multi-view transformer
``info_sharing`` gives before the prediction heads, which are not run.

The model is frozen and no submodule: a checkpoint of the policy holds neither its 1.2 billion parameters nor weights
under a licence that is not the policy's. Licences: the code is Apache-2.0; of the weights, facebook/map-anything is
CC-BY-NC 4.0 and facebook/map-anything-apache is Apache-2.0.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import GeometryTokens, View, check_values

log = logging.getLogger(__name__)

WEIGHTS = "facebook/map-anything-apache"
LICENCES = {
    "facebook/map-anything": "CC-BY-NC 4.0 (no commercial use)",
    "facebook/map-anything-v1": "CC-BY-NC 4.0 (no commercial use)",
    "facebook/map-anything-apache": "Apache-2.0",
    "facebook/map-anything-apache-v1": "Apache-2.0",
}
INSTALL = 'pip install "git+https://github.com/facebookresearch/map-anything.git"'


class MapAnythingGeometry(nn.Module):
    """Tokens [B, Ng, dim], one per patch of the encoder (14 pixels) and view; trained are a norm and a projection.

    weights: a name at the hub or a folder, as ``MapAnything.from_pretrained`` takes it; not looked at where ``model``,
    one that is loaded already, is given. Raises ``ImportError`` where the package is not installed.
    """

    needs = "image"

    def __init__(self, dim: int, weights: str = WEIGHTS, model: nn.Module | None = None) -> None:
        super().__init__()
        backbone = (load(weights) if model is None else model).eval().requires_grad_(False)
        object.__setattr__(self, "backbone", backbone)  # past nn.Module's registry, see the module's docstring
        self._normalisation = normalisation(backbone.encoder.data_norm_type)  # no buffers: those follow .to(bfloat16)
        self.dim = dim
        self.norm = nn.LayerNorm(backbone.info_sharing.dim)
        self.project = nn.Linear(backbone.info_sharing.dim, dim)

    def forward(self, views: list[View]) -> GeometryTokens:
        """Views with images; depth (with intrinsics), intrinsics and poses are given to the model where they are there.

        All views are brought to one size, the first image's with its sides rounded to whole patches. Raises
        ``ValueError`` for a view without an image and for intrinsics or a pose that are not finite.
        """
        missing = [i for i, view in enumerate(views) if view.image is None]
        if missing or not views:
            raise ValueError(f"view(s) {missing or 'none given'}: MapAnything needs an image of every view")
        check_values(views)
        weight = self.project.weight
        if next(self.backbone.parameters()).device != weight.device:
            self.backbone.to(weight.device)
        features = self._shared([view.to(weight.device) for view in views])
        tokens = torch.cat([f.flatten(2).transpose(1, 2) for f in features], 1)
        tokens = self.project(self.norm(tokens.to(weight.dtype)))
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return GeometryTokens(tokens, mask, tuple(tuple(f.shape[2:]) for f in features))

    def _shared(self, views: list[View]) -> list[Tensor]:
        """The features [B, C, rows, columns] of every view as they leave ``info_sharing``, without a graph.

        ``infer`` and not ``forward``: only it takes camera matrices and leaves out the random dropping of inputs that
        the model was trained with.
        """
        size = self._size(views[0].image)
        inputs = [self._inputs(view, size) for view in views]
        caught: list[Tensor] = []

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            final = output[0] if isinstance(output, tuple) else output  # with its intermediate features, or alone
            caught.extend(final.features)
            raise _Reached

        handle = self.backbone.info_sharing.register_forward_hook(stop)
        try:
            self.backbone.infer(inputs, use_amp=views[0].image.is_cuda)
        except _Reached:
            pass
        finally:
            handle.remove()
        if len(caught) != len(views):
            raise RuntimeError(
                f"MapAnything's info_sharing gave features of {len(caught)} view(s) for {len(views)}: its interface is "
                "not the one of version 1.1 that this module knows"
            )
        # They were made in inference mode; only copies may take part in a graph.
        return [feature.clone().float() for feature in caught]

    def _size(self, image: Tensor) -> tuple[int, int]:
        patch = self.backbone.encoder.patch_size
        h, w = (max(1, round(n / patch)) * patch for n in image.shape[2:])
        return h, w

    def _inputs(self, view: View, size: tuple[int, int]) -> dict[str, Any]:
        """The dictionary that ``infer`` takes for a view, at another size."""
        h, w = view.image.shape[2:]
        image = F.interpolate(view.image.float(), size, mode="bilinear", antialias=True)
        mean, std = (value.to(image).view(-1, 1, 1) for value in self._normalisation)
        inputs: dict[str, Any] = {
            "img": (image - mean) / std,
            "data_norm_type": [self.backbone.encoder.data_norm_type],
        }
        if view.intrinsics is not None:
            scale = view.intrinsics.new_tensor([size[1] / w, size[0] / h, 1]).unsqueeze(-1)
            offset = view.intrinsics.new_zeros(3, 3)
            offset[:2, 2] = 0.5  # pixel centres are whole numbers, sizes scale about the pixels' corners
            inputs["intrinsics"] = (view.intrinsics + offset) * scale - offset
            if view.depth is not None:
                depth = torch.where(torch.isfinite(view.depth) & (view.depth > 0), view.depth, 0)
                inputs["depth_z"] = F.interpolate(depth.unsqueeze(1), size, mode="nearest-exact").squeeze(1)
        if view.pose is not None:
            inputs["camera_poses"] = view.pose
        return inputs


class _Reached(BaseException):
    """Ends ``infer`` once the features are there; no Exception, so that no handler on the way takes it for an error."""


def load(weights: str) -> nn.Module:
    """``MapAnything.from_pretrained(weights)``, with the licence of the weights logged. Raises ``ImportError``."""
    try:
        from mapanything.models import MapAnything
    except ImportError as error:
        raise ImportError(
            f"framework.sagr.geometry.backend is mapanything, which is not installed here ({error}): {INSTALL}; or set "
            "it to depth. Licences: the code is Apache-2.0; the weights facebook/map-anything are CC-BY-NC 4.0, "
            "facebook/map-anything-apache are Apache-2.0"
        ) from error
    log.info("MapAnything weights %s: licence %s", weights, LICENCES.get(weights, "not known here"))
    return MapAnything.from_pretrained(weights)


def normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3] of the image normalisation that MapAnything's encoder names."""
    from uniception.models.encoders.image_normalizations import IMAGE_NORMALIZATION_DICT

    entry = IMAGE_NORMALIZATION_DICT[name]
    return entry.mean, entry.std
