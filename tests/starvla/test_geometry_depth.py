"""Geometry tokens from depth against float64 loops over pixels; what is invalid, frames, precision, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from sagr.geometry.base import View
from sagr.geometry.depth import DepthGeometry

H, W, PATCH, BANDS, DIM = 10, 13, 4, 3, 5
HOLES = {(0, 0): math.nan, (0, 1): math.inf, (1, 5): 0.0, (2, 2): -1.0, (3, 3): -math.inf}


def make(**options: object) -> DepthGeometry:
    torch.manual_seed(0)
    return DepthGeometry(DIM, **{"patch": PATCH, "fourier": BANDS, **options})


def view(seed: int = 1, dtype: torch.dtype = torch.float64, pose: bool = True, image: bool = True) -> View:
    """Two samples; some pixels are holes, and in sample 1 the patch of row 1, column 2 is empty."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    depth = random(2, H, W) + 0.3
    for place, value in HOLES.items():
        depth[(0, *place)] = value
    depth[1, 4:8, 8:12] = math.nan
    intrinsics = torch.tensor([[11.0, 0, 6.2], [0, 12.0, 4.9], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
    intrinsics[1, 0, 0] = 9.0
    turn, _ = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator, dtype=torch.float64))
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = turn, random(2, 3)
    picture = random(2, 3, H, W)
    given = {"depth": depth, "intrinsics": intrinsics}
    given |= {"pose": poses} if pose else {}
    given |= {"image": picture} if image else {}
    return View(**{name: value.to(dtype) for name, value in given.items()})


def tokens_loop(module: DepthGeometry, seen: View, b: int) -> tuple[list[list[float]], list[bool]]:
    """Tokens and mask of one sample, one pixel at a time."""
    depth, k = seen.depth[b].tolist(), seen.intrinsics[b].tolist()
    pose = seen.pose[b].tolist() if seen.pose is not None else [[float(i == j) for j in range(4)] for i in range(4)]
    image = seen.image[b].tolist() if seen.image is not None else None
    weight, bias = module.linear.weight.tolist(), module.linear.bias.tolist()
    tokens, mask = [], []
    for top in range(0, H, PATCH):
        for left in range(0, W, PATCH):
            points, colours = [], []
            for v in range(top, min(top + PATCH, H)):
                for u in range(left, min(left + PATCH, W)):
                    z = depth[v][u]
                    if math.isfinite(z) and z > 0:
                        p = [(u - k[0][2]) * z / k[0][0], (v - k[1][2]) * z / k[1][1], z]
                        points.append([sum(pose[i][j] * p[j] for j in range(3)) + pose[i][3] for i in range(3)])
                        colours.append([image[c][v][u] if image else 0.0 for c in range(3)])
            mask.append(bool(points))
            if not points:
                tokens.append([0.0] * DIM)
                continue
            n = len(points)
            mean = [sum(p[i] for p in points) / n for i in range(3)]
            spread = [math.sqrt(sum((p[i] - mean[i]) ** 2 for p in points) / n) for i in range(3)]
            colour = [sum(c[i] for c in colours) / n for i in range(3)]
            angles = [2**band * math.pi * mean[i] for band in range(BANDS) for i in range(3)]
            x = [*mean, *spread, *colour, n / PATCH**2, *map(math.sin, angles), *map(math.cos, angles)]
            tokens.append(
                [sum(a * v for a, v in zip(row, x, strict=True)) + s for row, s in zip(weight, bias, strict=True)]
            )
    return tokens, mask


@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize("image", [True, False])
def test_matches_float64_loops(pose: bool, image: bool) -> None:
    module, seen = make().double(), view(pose=pose, image=image)
    tokens, mask, grid = module([seen])
    assert grid == ((3, 4),)
    assert tokens.shape == (2, 12, DIM)
    for b in range(2):
        expected, valid = tokens_loop(module, seen, b)
        assert mask[b].tolist() == valid
        torch.testing.assert_close(tokens[b], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert mask.sum().item() == 23  # all but the empty patch
    assert (tokens[1, 6] == 0).all()


def test_views_follow_one_another() -> None:
    module, first, second = make().double(), view(1), view(2)
    both = module([first, second])
    assert both.grid == ((3, 4), (3, 4))
    for part, alone in ((slice(0, 12), module([first])), (slice(12, 24), module([second]))):
        assert torch.equal(both.tokens[:, part], alone.tokens)
        assert torch.equal(both.mask[:, part], alone.mask)


def test_a_point_map_is_as_good_as_depth() -> None:
    module, seen = make().double(), view()
    points = torch.full((2, H, W, 3), math.nan, dtype=torch.float64)
    for b in range(2):
        for v in range(H):
            for u in range(W):
                z, k = seen.depth[b, v, u], seen.intrinsics[b]
                if z.isfinite() and z > 0:
                    points[b, v, u] = torch.stack([(u - k[0, 2]) * z / k[0, 0], (v - k[1, 2]) * z / k[1, 1], z])
    mapped = module([View(points=points, image=seen.image, pose=seen.pose)])
    expected = module([seen])
    torch.testing.assert_close(mapped.tokens, expected.tokens, rtol=1e-12, atol=1e-12)
    assert torch.equal(mapped.mask, expected.mask)


def test_world_points_do_not_depend_on_the_camera_that_sees_them() -> None:
    """One plane, seen by a camera and by another that stands half a metre behind it with twice the focal length."""
    near = torch.full((1, 8, 8), 0.5, dtype=torch.float64)
    k = torch.tensor([[[8.0, 0, 3.5], [0, 8, 3.5], [0, 0, 1]]], dtype=torch.float64)
    far = k.clone()
    far[:, :2, :2] *= 2
    here, back = torch.eye(4, dtype=torch.float64)[None], torch.eye(4, dtype=torch.float64)[None].clone()
    back[:, 2, 3] = -0.5
    module = make().double()
    one = module([View(depth=near, intrinsics=k, pose=here)]).tokens
    other = module([View(depth=near * 2, intrinsics=far, pose=back)]).tokens
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    camera = make(frame="camera").double()([View(depth=near * 2, intrinsics=far, pose=back)]).tokens
    assert (camera - other).abs().max() > 1e-2


def test_camera_frame_ignores_poses_and_takes_several_views_without() -> None:
    module = make(frame="camera").double()
    posed, bare = view(pose=True), view(pose=False)
    expected = make().double()([bare])
    assert torch.equal(module([posed]).tokens, expected.tokens)
    assert module([posed, bare]).tokens.shape == (2, 24, DIM)


def test_holes_leave_no_trace_in_values_or_gradients() -> None:
    module = make()
    seen = view(dtype=torch.float32)
    other = torch.where(torch.isfinite(seen.depth) & (seen.depth > 0), seen.depth, -7.0)
    got = module([seen])
    assert torch.equal(got.tokens, module([View(other, None, seen.intrinsics, seen.image, seen.pose)]).tokens)
    depth = seen.depth.clone().requires_grad_()
    module([View(depth, None, seen.intrinsics, seen.image, seen.pose)]).tokens.square().sum().backward()
    valid = torch.isfinite(seen.depth) & (seen.depth > 0)
    assert depth.grad.isfinite().all()
    assert (depth.grad[~valid] == 0).all()
    assert (depth.grad[valid] != 0).all()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in module.parameters())


def test_a_patch_of_one_point_has_a_finite_gradient() -> None:
    depth = torch.zeros(1, PATCH, PATCH)
    depth[0, 1, 1] = 0.5
    depth.requires_grad_()
    intrinsics = torch.tensor([[[8.0, 0, 1.5], [0, 8, 1.5], [0, 0, 1]]])
    make()([View(depth=depth, intrinsics=intrinsics)]).tokens.sum().backward()
    assert depth.grad.isfinite().all()
    assert depth.grad[0, 1, 1] != 0


@pytest.mark.parametrize("where", ["bfloat16", "autocast", "inference"])
def test_geometry_is_computed_in_float32(where: str) -> None:
    """A point 4 mm further is another one to the Fourier features, and bfloat16 could not tell it at 1 m."""
    module = make(fourier=8)
    with torch.no_grad():  # tokens that are the features themselves, so that only their own rounding is left
        module.linear = torch.nn.Linear(58, 58)
        module.linear.weight.copy_(torch.eye(58))
        module.linear.bias.zero_()
    k = torch.tensor([[[8.0, 0, 1.5], [0, 8, 1.5], [0, 0, 1]]])
    views = [[View(depth=torch.full((1, 4, 4), z), intrinsics=k)] for z in (1.0, 1.004)]
    expected = [module(v).tokens for v in views]
    if where == "bfloat16":
        got = [module.bfloat16()(v).tokens.float() for v in views]
    elif where == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = [module(v).tokens.float() for v in views]
    else:
        with torch.inference_mode():
            got = [module(v).tokens for v in views]
    band = slice(10 + 21, 10 + 24)  # sines of the finest wave, 1.6 cm long
    torch.testing.assert_close(
        (got[1] - got[0])[..., band], (expected[1] - expected[0])[..., band], rtol=0.01, atol=8e-3
    )
    assert (expected[1] - expected[0])[..., band].abs().max() > 0.9


def test_sizes_that_the_patch_divides_are_not_padded() -> None:
    k = torch.eye(3).repeat(1, 1, 1)
    tokens, mask, grid = make()([View(depth=torch.ones(1, 8, 12), intrinsics=k)])
    assert grid == ((2, 3),)
    assert tokens.shape == (1, 6, DIM)
    assert mask.all()


def broken(**changes: torch.Tensor | None) -> View:
    good = view(dtype=torch.float32)
    fields = {"depth": good.depth, "intrinsics": good.intrinsics, "image": good.image, "pose": good.pose}
    return View(**{**fields, **changes})


def spoiled(name: str, place: tuple[int, ...], value: float) -> View:
    tensor = getattr(view(dtype=torch.float32), name).clone()
    tensor[place] = value
    return broken(**{name: tensor})


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "no view"),
        ([broken(depth=None)], "view 0 needs either depth with intrinsics, or points"),
        ([broken(intrinsics=None)], "view 0 needs either depth with intrinsics, or points"),
        ([broken(points=torch.zeros(2, H, W, 3))], "view 0 needs either"),
        ([broken(), broken(image=torch.zeros(2, 3, H, 4))], r"view 1: image is \(2, 3, 10, 4\).*\(2, 3, 10, 13\)"),
        ([broken(pose=torch.eye(4))], r"view 0: pose is \(4, 4\)"),
        ([broken(), broken(pose=None)], r"view\(s\) \[1\] have no camera_pose"),
        ([spoiled("intrinsics", (1, 0, 2), math.nan)], r"sample\(s\) \[1\].*intrinsics of view 0"),
        ([spoiled("intrinsics", (0, 1, 1), 0.0)], r"sample\(s\) \[0\].*focal length <= 0"),
        ([spoiled("pose", (1, 2, 3), math.inf)], r"sample\(s\) \[1\].*camera_pose of view 0"),
        ([spoiled("depth", (1,), math.nan)], r"sample\(s\) \[1\].*no valid pixel in any view"),
        ([spoiled("depth", (0,), -1.0)], r"sample\(s\) \[0\].*no valid pixel in any view"),
    ],
)
def test_refuses(views: list[View], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(views)


def test_one_blind_view_of_two_is_masked_and_no_error() -> None:
    tokens, mask, _ = make()([broken(), spoiled("depth", (1,), math.nan)])
    assert not mask[1, 12:].any()
    assert mask[0, 12:].all()
    assert tokens.isfinite().all()


def test_refuses_options() -> None:
    with pytest.raises(ValueError, match="patch = 0"):
        make(patch=0)
    with pytest.raises(ValueError, match=r"frame = 'gripper'.*world"):
        make(frame="gripper")


def test_moves_between_devices() -> None:
    moved = view().to("meta")
    assert {moved.depth.device.type, moved.pose.device.type} == {"meta"}
    assert moved.points is None
