"""The MapAnything back end on a small fake of its interface.

The fake has what version 1.1 of facebookresearch/map-anything (commit f7ebafb) shows to the outside: ``infer`` under
inference mode, which refuses unknown keys and takes ``img``, ``data_norm_type``, ``intrinsics``, ``depth_z`` [B, H, W]
and ``camera_poses``; ``encoder.patch_size`` and ``data_norm_type``; ``info_sharing`` with ``dim``, whose output holds
``features`` [B, C, rows, columns] a view, alone or in a tuple with intermediate ones. It is no MapAnything.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from sagr.fusion import FusionModule
from sagr.geometry import mapanything
from sagr.geometry.base import View
from sagr.geometry.mapanything import MapAnythingGeometry
from torch import nn

PATCH, CHANNELS, DIM = 14, 12, 5
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.5])
KEYS = {"img", "data_norm_type", "intrinsics", "depth_z", "camera_poses"}


class InfoSharing(nn.Module):
    def __init__(self, intermediate: bool) -> None:
        super().__init__()
        self.dim, self.intermediate = CHANNELS, intermediate
        self.linear = nn.Conv2d(3, CHANNELS, 1)

    def forward(self, features: list[torch.Tensor]) -> object:
        shared = sum(f.mean((2, 3), keepdim=True) for f in features)
        final = SimpleNamespace(features=[self.linear(f + shared) for f in features])
        return (final, [final]) if self.intermediate else final


class FakeMapAnything(nn.Module):
    """Mean colour of each patch, shared over views; the heads behind must never run."""

    def __init__(self, intermediate: bool = True) -> None:
        super().__init__()
        self.encoder = SimpleNamespace(patch_size=PATCH, data_norm_type="fake")
        self.info_sharing = InfoSharing(intermediate)
        self.seen: list[list[dict[str, object]]] = []

    @torch.inference_mode()
    def infer(self, views: list[dict[str, object]], use_amp: bool = True) -> None:
        for view in views:
            assert set(view) <= KEYS
            assert view["data_norm_type"] == ["fake"]
            assert view["img"].shape == views[0]["img"].shape
            assert view["img"].shape[2] % PATCH == view["img"].shape[3] % PATCH == 0
            if "depth_z" in view:
                assert "intrinsics" in view
                assert view["depth_z"].shape == (view["img"].shape[0], *view["img"].shape[2:])
        self.seen.append(views)
        self.info_sharing([F.avg_pool2d(view["img"], PATCH) for view in views])
        raise AssertionError("the heads ran")


@pytest.fixture(autouse=True)
def _normalisations(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("uniception.models.encoders.image_normalizations")
    module.IMAGE_NORMALIZATION_DICT = {"fake": SimpleNamespace(mean=MEAN, std=STD)}
    for name in ("uniception", "uniception.models", "uniception.models.encoders"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def make(intermediate: bool = True) -> MapAnythingGeometry:
    torch.manual_seed(0)
    return MapAnythingGeometry(DIM, model=FakeMapAnything(intermediate))


def images(h: int = 28, w: int = 42, count: int = 2) -> list[View]:
    generator = torch.Generator().manual_seed(1)
    return [View(image=torch.rand(2, 3, h, w, generator=generator)) for _ in range(count)]


@pytest.mark.parametrize("intermediate", [True, False])
def test_tokens_are_the_projected_features_of_info_sharing(intermediate: bool) -> None:
    module, views = make(intermediate), images()
    tokens, mask, grid = module(views)
    assert grid == ((2, 3), (2, 3))
    assert tokens.shape == (2, 12, DIM)
    assert mask.all()
    conv = module.backbone.info_sharing.linear
    weight = conv.weight[:, :, 0, 0]
    for b in range(2):
        patches = []
        for view in views:
            for r in range(2):
                for c in range(3):
                    block = view.image[b, :, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH]
                    patches.append((block.mean((1, 2)) - MEAN) / STD)
        shared = sum(patches[:6]) / 6 + sum(patches[6:]) / 6
        expected = torch.stack([weight @ (p + shared) + conv.bias for p in patches])
        expected = module.project(F.layer_norm(expected, (CHANNELS,), module.norm.weight, module.norm.bias))
        torch.testing.assert_close(tokens[b], expected, rtol=1e-4, atol=1e-5)


def test_only_norm_and_projection_are_trained_and_saved() -> None:
    module = make()
    expected = {"norm.weight", "norm.bias", "project.weight", "project.bias"}
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()} == expected
    module(images()).tokens.square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in module.backbone.parameters())
    module.train()
    assert not module.backbone.training


def test_a_loss_on_the_context_reaches_the_projection() -> None:
    module, fusion = make(), FusionModule(6, DIM, 16, 8, slots=2, heads=4)
    tokens, mask, _ = module(images())
    task = fusion(torch.randn(2, 3, 6), torch.ones(2, 3).bool(), tokens, mask).tokens
    context, _ = fusion.context([torch.randn(2, 4, 8)], None, task)
    context[0].square().sum().backward()
    assert module.project.weight.grad.abs().max() > 1e-6
    assert fusion.anchor.read_geometry.query.weight.grad.abs().max() > 1e-6


def test_the_hook_is_gone_afterwards_even_after_an_error() -> None:
    module = make()
    module(images())
    assert not module.backbone.info_sharing._forward_hooks
    with pytest.raises(AssertionError):  # the fake's, of two sizes of batch
        module._shared([View(image=torch.rand(2, 3, 28, 28)), View(image=torch.rand(1, 3, 28, 28))])
    assert not module.backbone.info_sharing._forward_hooks


def test_sizes_are_rounded_to_patches_and_cameras_follow() -> None:
    module = make()
    k = torch.tensor([[30.0, 0, 19.5], [0, 40.0, 9.5], [0, 0, 1]]).expand(1, 3, 3)
    depth = torch.full((1, 20, 40), 0.8)
    depth[:, :, :20] = float("nan")
    pose = torch.eye(4).expand(1, 4, 4)
    module(
        [
            View(image=torch.rand(1, 3, 20, 40), depth=depth, intrinsics=k, pose=pose),
            View(image=torch.rand(1, 3, 50, 50)),
        ]
    )
    first, second = module.backbone.seen[0]
    assert first["img"].shape == second["img"].shape == (1, 3, 14, 42)
    # The image's middle stays its middle: (w - 1) / 2 before and after.
    expected = [[30 * 42 / 40, 0, 20.5], [0, 40 * 14 / 20, 6.5], [0, 0, 1]]
    torch.testing.assert_close(first["intrinsics"][0], torch.tensor(expected))
    assert first["depth_z"].shape == (1, 14, 42)
    assert first["depth_z"][0, :, :21].unique().tolist() == [0.0]
    assert first["depth_z"][0, :, 21:].unique().tolist() == [pytest.approx(0.8)]
    assert torch.equal(first["camera_poses"], pose)
    assert set(second) == {"img", "data_norm_type"}


def test_depth_without_intrinsics_is_not_handed_over() -> None:
    module = make()
    module([View(image=torch.rand(1, 3, 28, 28), depth=torch.ones(1, 28, 28))])
    assert set(module.backbone.seen[0][0]) == {"img", "data_norm_type"}


@pytest.mark.parametrize("where", ["bfloat16", "autocast", "inference"])
def test_other_precisions_and_modes(where: str) -> None:
    module = make()
    expected = module(images()).tokens
    if where == "bfloat16":
        got = module.bfloat16()(images()).tokens
        assert next(module.backbone.parameters()).dtype == torch.float32
    elif where == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = module(images()).tokens
    else:
        with torch.inference_mode():
            got = module(images()).tokens
    assert (got.float() - expected).abs().max() < 0.1


def test_another_interface_is_an_error_and_not_wrong_tokens() -> None:
    module = make()
    module.backbone.infer = lambda views, use_amp: None
    with pytest.raises(RuntimeError, match=r"0 view\(s\) for 2.*version 1.1"):
        module(images())


def test_refuses() -> None:
    module = make()
    with pytest.raises(ValueError, match=r"view\(s\) \[1\]: MapAnything needs an image"):
        module([*images(count=1), View(depth=torch.ones(2, 28, 42))])
    with pytest.raises(ValueError, match="MapAnything needs an image"):
        module([])
    bad = torch.full((2, 3, 3), float("nan"))
    with pytest.raises(ValueError, match=r"sample\(s\) \[0, 1\].*intrinsics of view 0"):
        module([View(image=torch.rand(2, 3, 28, 28), intrinsics=bad)])


def test_absent_the_error_says_how_to_install_and_under_which_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mapanything", None)
    with pytest.raises(ImportError) as caught:
        MapAnythingGeometry(DIM)
    for part in ("pip install", "facebookresearch/map-anything", "Apache-2.0", "CC-BY-NC 4.0", "set it to depth"):
        assert part in str(caught.value)


def test_weights_are_loaded_by_name_and_their_licence_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []
    package, models = ModuleType("mapanything"), ModuleType("mapanything.models")
    models.MapAnything = SimpleNamespace(from_pretrained=lambda name: asked.append(name) or FakeMapAnything())
    monkeypatch.setitem(sys.modules, "mapanything", package)
    monkeypatch.setitem(sys.modules, "mapanything.models", models)
    with caplog.at_level(logging.INFO, mapanything.__name__):
        MapAnythingGeometry(DIM)
        MapAnythingGeometry(DIM, "facebook/map-anything")
        MapAnythingGeometry(DIM, "some/where")
    assert asked == ["facebook/map-anything-apache", "facebook/map-anything", "some/where"]
    for message, licence in zip(caplog.messages, ("Apache-2.0", "CC-BY-NC 4.0", "not known"), strict=True):
        assert licence in message
