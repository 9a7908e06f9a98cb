"""From a batch's examples to views: what is read, and that what is missing or broken is named by example and key."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from sagr.geometry.depth import DepthGeometry
from sagr.geometry.inputs import collect, render

H, W = 6, 8
K = [[5.0, 0.0, 3.5], [0.0, 5.0, 2.5], [0.0, 0.0, 1.0]]


def example(seed: int = 0, views: int = 1, suffix: str = "", **changes: object) -> dict[str, object]:
    """Lists with one entry a view; a change of ``None`` takes the key away."""
    rng = np.random.default_rng(seed)
    found = {
        "depth": [rng.uniform(0.3, 1.0, (H, W)).astype(np.float32) for _ in range(views)],
        "intrinsics": [np.array(K) for _ in range(views)],
        "camera_pose": [np.eye(4) for _ in range(views)],
        "image": [Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)) for _ in range(views)],
    }
    found = {key + suffix: value for key, value in found.items()} | changes | {"lang": "pick", "action": np.zeros(3)}
    return {key: value for key, value in found.items() if value is not None}


def test_reads_every_view_of_every_example() -> None:
    examples = [example(0, 2), example(1, 2)]
    views = collect(examples)
    assert len(views) == 2
    for v, view in enumerate(views):
        shapes = {"depth": (2, H, W), "intrinsics": (2, 3, 3), "pose": (2, 4, 4), "image": (2, 3, H, W)}
        for name, shape in shapes.items():
            assert getattr(view, name).shape == shape
            assert getattr(view, name).dtype == torch.float32
        assert view.points is None
        for i, one in enumerate(examples):
            assert view.depth[i].tolist() == one["depth"][v].tolist()
            assert view.intrinsics[i].tolist() == K
            pixels = np.asarray(one["image"][v])
            assert view.image[i, 2, 3, 5].item() == pytest.approx(pixels[3, 5, 2] / 255)


def test_one_view_may_come_without_a_list_or_with_a_last_axis() -> None:
    listed = example()
    expected = collect([listed])[0]
    bare = {key: value[0] if isinstance(value, list) else value for key, value in listed.items()}
    bare["intrinsics"] = K
    stacked = {**listed, "depth": np.stack(listed["depth"])[..., None], "intrinsics": np.array([K])}
    tensors = {**bare, "depth": torch.from_numpy(bare["depth"])[..., None]}
    for other in (bare, stacked, tensors):
        (view,) = collect([other])
        for name in ("depth", "intrinsics", "pose", "image"):
            assert torch.equal(getattr(view, name), getattr(expected, name)), name


def test_the_suffix_reads_the_next_frame() -> None:
    both = {**example(0), **example(1, suffix="_tk")}
    assert torch.equal(collect([both], "_tk")[0].depth, collect([example(1)])[0].depth)
    del both["intrinsics_tk"]
    both["intrinsics"] = [2 * np.array(K)]
    assert collect([both], "_tk")[0].intrinsics[0, 0, 0] == 10.0
    for key in ("camera_pose", "image"):
        with pytest.raises(ValueError, match=f"example 0 has '{key}' but no '{key}_tk'"):
            collect([{**both, f"{key}_tk": None}], "_tk")


def test_an_image_of_another_size_is_brought_to_the_depth_map() -> None:
    big = Image.new("RGB", (W * 4, H * 4), (255, 0, 0))
    big.paste((0, 0, 255), (0, 0, W * 2, H * 4))
    (view,) = collect([example(image=[big])])
    assert view.image.shape == (1, 3, H, W)
    assert view.image[0, :, 3, 1].tolist() == [0, 0, 1]
    assert view.image[0, :, 3, 6].tolist() == [1, 0, 0]


def test_images_without_depth_are_left_out_or_kept_as_the_back_end_needs() -> None:
    one = example(0, 2)
    one = {**one, "depth": one["depth"][:1], "intrinsics": one["intrinsics"][:1], "camera_pose": one["camera_pose"][:1]}
    assert len(collect([one])) == 1
    first, second = collect([one], needs="image")
    assert first.depth is not None
    assert second.depth is None
    assert second.image is not None
    grey = {"image": [Image.new("L", (W, H), 51)]}
    assert collect([grey], needs="image")[0].image.unique().tolist() == [pytest.approx(0.2)]


def test_float_images_and_uint8_images_are_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    views = [collect([example(image=[image])])[0].image for image in (pixels, pixels / 255.0)]
    assert torch.equal(*views)


def test_a_cloud_is_rendered_with_the_nearest_point_in_front() -> None:
    depth = np.random.default_rng(0).uniform(0.3, 1.0, (H, W))
    points = []
    for v in range(H):
        for u in range(W):
            z = depth[v, u]
            points.append([(u - K[0][2]) * z / K[0][0], (v - K[1][2]) * z / K[1][1], z])
    hidden = [[2 * c for c in p] for p in points]  # on the same rays, behind
    bad = [[0, 0, -1], [math.nan, 0, 1], [50, 50, 1], [0, 0, 0]]
    cloud = np.array([*hidden, *points, *bad])
    np.testing.assert_allclose(render(cloud, np.array(K), (H, W)), depth, rtol=1e-6)
    (view,) = collect([example(depth=None, points=cloud)])
    np.testing.assert_allclose(view.depth[0].numpy(), depth, rtol=1e-6)
    assert render(cloud[:0], np.array(K), (2, 2)).tolist() == [[0, 0], [0, 0]]


def test_a_point_map_is_kept() -> None:
    points = np.random.default_rng(0).normal(size=(H, W, 3))
    points[0, 0] = np.nan
    (view,) = collect([example(depth=None, intrinsics=None, points=points)])
    assert view.depth is None
    np.testing.assert_allclose(view.points[0].numpy(), points, rtol=1e-6)
    assert DepthGeometry(4, patch=4)([view]).mask.all()


def test_holes_pass_through_to_the_encoder() -> None:
    depth = np.full((H, W), np.nan, np.float32)
    depth[0, 0] = 0.5
    tokens, mask, _ = DepthGeometry(4, patch=2)(collect([example(depth=depth)]))
    assert mask.sum() == 1
    assert tokens.isfinite().all()


def changed(matrix: object, place: tuple[int, int], value: float) -> np.ndarray:
    array = np.array(matrix, dtype=float)
    array[place] = value
    return array


GOOD = np.ones((H, W), np.float32)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"depth": None}, "example 1 has no 'depth' nor 'points': .*backend to none"),
        ({"depth": []}, "example 1 has no 'depth' nor 'points'"),
        ({"points": np.ones((H, W, 3))}, "example 1 has both 'depth' and 'points'"),
        ({"intrinsics": None}, "example 1, view 0: no 'intrinsics'"),
        ({"intrinsics": [np.eye(4)]}, r"example 1, key 'intrinsics': the shape is \[4, 4\], it must be \[3, 3\]"),
        ({"intrinsics": changed(K, (0, 2), math.nan)}, "example 1, key 'intrinsics': it holds NaN"),
        ({"intrinsics": changed(K, (1, 1), 0)}, "example 1, key 'intrinsics': the focal lengths are 5.0 and 0.0"),
        ({"intrinsics": [np.array(K)] * 2}, "example 1 has 2 of 'intrinsics' for 1 view"),
        ({"camera_pose": changed(np.eye(4), (0, 3), math.inf)}, "example 1, key 'camera_pose': it holds NaN or inf"),
        ({"camera_pose": np.eye(3)}, r"example 1, key 'camera_pose': the shape is \[3, 3\]"),
        ({"camera_pose": None}, "example 1, view 0 has no 'camera_pose', others of the batch have"),
        ({"depth": GOOD.astype(np.uint16)}, "example 1, key 'depth': it is uint16: give metres as float"),
        ({"depth": GOOD * np.nan}, "example 1, key 'depth': no valid pixel in 1 view"),
        ({"depth": GOOD[:0]}, r"example 1, key 'depth': the shape is \[0, 8\]: it is empty"),
        ({"depth": -GOOD}, "example 1, key 'depth': no valid pixel"),
        ({"depth": GOOD[:2]}, r"example 1, view 0, key 'depth' is \(2, 8\), in example 0 it is \(6, 8\)"),
        ({"depth": [GOOD, GOOD]}, "example 1 has 1 of 'intrinsics' for 2 view"),
        (
            {"depth": [GOOD, GOOD], "intrinsics": [np.array(K)] * 2, "camera_pose": None, "image": None},
            "2 view.*0 has 1",
        ),
        ({"depth": "none"}, "example 1, key 'depth'"),
        ({"image": [np.zeros((3, H, W), np.uint8)]}, r"example 1, key 'image': it is uint8 \[3, 6, 8\]: give RGB"),
        ({"image": [np.full((H, W, 3), 200.0)]}, "example 1, key 'image': it is float and not within"),
        ({"depth": None, "points": np.ones((4, 3)), "image": None}, r"example 1, view 0: 'points' is a cloud \[N, 3\]"),
        ({"depth": None, "points": np.ones((H, W, 2))}, "example 1, key 'points': the shape"),
        ({"depth": None, "points": np.full((H, W, 3), np.nan)}, "example 1, key 'points': no valid pixel"),
    ],
)
def test_names_the_example_and_the_key(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect([example(0), example(1, **bad)])


@pytest.mark.parametrize("key", ["camera_pose", "image", "named_mask"])
@pytest.mark.parametrize("without", [0, 1])
def test_what_only_some_examples_have_names_the_one_without(key: str, without: int) -> None:
    given = [example(0, named_mask=GOOD > 0), example(1, named_mask=GOOD > 0)]
    del given[without][key]
    with pytest.raises(ValueError, match=f"example {without}, view 0 has no '{key}', others of the batch have"):
        collect(given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", changed(GOOD, (2, 3), 1e30)),
        ("points", np.full((H, W, 3), -1e30)),
        ("camera_pose", changed(np.eye(4), (0, 3), 1e30)),
    ],
)
def test_lengths_that_overflow_are_refused(key: str, value: np.ndarray) -> None:
    bad = {key: value} if key != "points" else {key: value, "depth": None}
    with pytest.raises(ValueError, match=f"example 1, key '{key}': it holds lengths above 1e\\+06 metres"):
        collect([example(0), example(1, **bad)])


def test_nothing_is_farther_than_what_was_not_measured() -> None:
    depth = np.where(
        np.arange(H * W).reshape(H, W) % 2, GOOD, np.array([-1e30, np.inf, np.nan, 0.0] * (H * W // 4)).reshape(H, W)
    )
    (view,) = collect([example(depth=depth.astype(np.float32))])
    assert view.depth.shape == (1, H, W)


def test_refuses_an_empty_batch_a_missing_image_and_an_unknown_need() -> None:
    with pytest.raises(ValueError, match="no example"):
        collect([])
    with pytest.raises(ValueError, match="example 0 has no 'image'"):
        collect([example(image=None)], needs="image")
    with pytest.raises(ValueError, match="needs = 'video'"):
        collect([example()], needs="video")
