"""Depth by ray casting against geometry that can be written down, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

np = pytest.importorskip("numpy")
mujoco = pytest.importorskip("mujoco")

from runners.reach_world.camera import BACKGROUND, FRONT, WRIST, Camera, look  # noqa: E402
from runners.reach_world.world import ReachWorld  # noqa: E402

BALL, RADIUS = (0.05, -0.03, 0.21), 0.07
SCENE = f"""
<mujoco><worldbody>
  <geom name="ground" type="plane" size="1 1 0.1" rgba="1 1 1 1"/>
  <geom name="ball" type="sphere" size="{RADIUS}" pos="{BALL[0]} {BALL[1]} {BALL[2]}" rgba="1 0 0 1"/>
</worldbody></mujoco>"""


def seen(camera: Camera):
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return look(model, data, camera)


def analytic_depth(camera: Camera, u: int, v: int) -> tuple[float, int]:
    """Depth of pixel (u, v) and 0 for the ground, 1 for the ball: one ray in plain Python, from the definitions."""
    forward = [b - a for a, b in zip(camera.eye, camera.at, strict=True)]
    length = math.hypot(*forward)
    forward = [x / length for x in forward]
    right = [forward[1], -forward[0], 0.0]
    right = [x / math.hypot(*right) for x in right]
    up = [
        right[1] * forward[2] - right[2] * forward[1],
        right[2] * forward[0] - right[0] * forward[2],
        right[0] * forward[1] - right[1] * forward[0],
    ]
    size = 2 * math.tan(math.radians(camera.fov) / 2) / camera.height
    aside, above = (u - (camera.width - 1) / 2) * size, ((camera.height - 1) / 2 - v) * size
    # Along this ray one unit is one unit along the optical axis, so its parameter is the depth.
    ray = [f + aside * r + above * w for f, r, w in zip(forward, right, up, strict=True)]
    ground = -camera.eye[2] / ray[2] if ray[2] < 0 else math.inf
    away = [a - b for a, b in zip(camera.eye, BALL, strict=True)]
    a, b = sum(x * x for x in ray), sum(x * y for x, y in zip(ray, away, strict=True))
    inside = b * b - a * (sum(x * x for x in away) - RADIUS**2)
    ball = (-b - math.sqrt(inside)) / a if inside >= 0 else math.inf
    return (ball, 1) if ball < ground else (ground, 0)


def test_depth_is_that_of_a_plane_and_a_sphere() -> None:
    camera = Camera("c", eye=(0.5, 0.1, 0.6), at=(0.02, 0.0, 0.1), width=40, height=30, fov=45.0)
    frame = seen(camera)
    kinds = set()
    for v in range(30):
        for u in range(40):
            depth, kind = analytic_depth(camera, u, v)
            assert frame.depth[v, u] == pytest.approx(depth, abs=1e-4), (u, v)
            assert frame.geoms[v, u] == kind
            kinds.add(kind)
    assert kinds == {0, 1}


def test_pixels_lifted_with_intrinsics_and_pose_lie_on_the_surfaces() -> None:
    frame = seen(Camera("c", eye=(0.4, -0.3, 0.5), at=(0.0, 0.0, 0.1), width=48, height=64, fov=50.0))
    v, u = np.nonzero(frame.geoms >= 0)
    z = frame.depth[v, u].astype(np.float64)
    k = frame.intrinsics
    points = np.stack([(u - k[0, 2]) * z / k[0, 0], (v - k[1, 2]) * z / k[1, 1], z], -1)
    points = points @ frame.pose[:3, :3].T + frame.pose[:3, 3]
    ground = frame.geoms[v, u] == 0
    assert np.abs(points[ground, 2]).max() < 1e-4
    assert np.abs(np.linalg.norm(points[~ground] - BALL, axis=1) - RADIUS).max() < 1e-4


def test_where_nothing_is_there_is_no_depth() -> None:
    frame = seen(Camera("c", eye=(0.0, 0.0, 0.5), at=(1.0, 0.0, 0.9), width=8, height=8))
    assert not frame.depth.any()
    assert (frame.geoms == -1).all()
    assert (frame.rgb == BACKGROUND).all()


def test_a_face_is_the_brighter_the_more_it_looks_at_the_light() -> None:
    frame = seen(Camera("c", eye=(0.05, -0.031, 0.8), at=(0.05, -0.03, 0.0), width=64, height=64, fov=20.0))
    red = frame.rgb[..., 0][frame.geoms == 1].astype(int)
    assert red.max() - red.min() > 40
    assert not frame.rgb[..., 1][frame.geoms == 1].any()


def test_both_cameras_agree_on_where_the_target_is_relative_to_the_gripper() -> None:
    # A seed at which both cameras see the whole target.
    world = ReachWorld(4, cameras=(replace(FRONT, width=128, height=128), replace(WRIST, width=128, height=128)))
    for _ in range(3):
        world.step((0.5, -0.5, -0.3))
    observation = world.observe()
    number = world.model.geom(world.layout.target.name).id
    middles = []
    for name, frame in observation.frames.items():
        v, u = np.nonzero(frame.geoms == number)
        assert len(v) > 200, name
        z, k, pose = frame.depth[v, u], frame.intrinsics, observation.camera_pose[name]
        points = np.stack([(u - k[0, 2]) * z / k[0, 0], (v - k[1, 2]) * z / k[1, 1], z], -1)
        points = points @ pose[:3, :3].T + pose[:3, 3]
        middles.append((points.max(0) + points.min(0))[:2] / 2)
    wanted = (world.target() - world.gripper())[:2]
    assert np.abs(middles[0] - wanted).max() < 0.02
    assert np.abs(middles[1] - wanted).max() < 0.02


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"width": 1}, "1 x 48 pixels"),
        ({"fov": 170.0}, "170.0 degrees"),
        ({"at": (0.42, 0.0, 0.0)}, "looks along z"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(bad: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(FRONT, **bad)


def test_a_camera_on_a_body_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="mounted on 'elbow'"):
        seen(replace(WRIST, mounted="elbow"))
