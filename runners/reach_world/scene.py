"""The MuJoCo model of one episode: a table, its objects, and a tool on three slides with position servos."""

from __future__ import annotations

import mujoco

from runners.reach_world.layout import COLOURS, SHAPES, Layout, Thing

TIP_RADIUS = 0.012
LIMIT = 0.25
"""The tip's reach: |x|, |y| <= LIMIT."""
HEIGHT = (0.0, 0.26)
"""Lowest and highest height of the tip's centre that the servos take as a goal."""
TIMESTEP = 0.004
SERVO = 'kp="900" kv="60" forcerange="-12 12"'
"""With 1 kg on the slides: natural frequency 30 rad/s, critically damped; a small robot's force."""

_SIZES = {"ball": "0.034", "cube": "0.03 0.03 0.03", "cylinder": "0.03 0.032"}
_KINDS = {"ball": "sphere", "cube": "box", "cylinder": "cylinder"}


def _thing(thing: Thing) -> str:
    x, y = thing.place
    red, green, blue = COLOURS[thing.colour]
    # Rolling friction and damping let a ball that was moved or brushed come to rest on the table.
    return f"""
    <body name="{thing.name}" pos="{x!r} {y!r} {SHAPES[thing.shape]!r}">
      <joint name="{thing.name}" type="free" damping="0.02"/>
      <geom name="{thing.name}" type="{_KINDS[thing.shape]}" size="{_SIZES[thing.shape]}" mass="0.15"
            rgba="{red} {green} {blue} 1" condim="6" friction="0.9 0.01 0.002"/>
    </body>"""


def xml(layout: Layout) -> str:
    """The model's text. The slides' positions are where the robot believes the tip to be; the tip hangs off by the
    layout's tool offset.
    """
    x, y, z = layout.start
    off_x, off_y = layout.offset
    low, high = HEIGHT
    slides = "".join(
        f'<joint name="{name}" type="slide" axis="{axis}" range="{span}" limited="true"/>'
        for name, axis, span in (
            ("x", "1 0 0", f"{-LIMIT} {LIMIT}"),
            ("y", "0 1 0", f"{-LIMIT} {LIMIT}"),
            ("z", "0 0 1", f"{low} {high + 0.02}"),
        )
    )
    servos = "".join(f'<position name="{name}" joint="{name}" {SERVO}/>' for name in "xyz")
    return f"""
<mujoco model="reach">
  <compiler autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast"/>
  <worldbody>
    <geom name="table" type="box" size="0.34 0.34 0.02" pos="0 0 -0.02" rgba="0.72 0.66 0.58 1"/>
    <geom name="floor" type="plane" size="2 2 0.1" pos="0 0 -0.4" rgba="0.32 0.34 0.38 1"/>
    {"".join(_thing(thing) for thing in layout.things)}
    <body name="tool" gravcomp="1">
      {slides}
      <inertial pos="0 0 0.1" mass="1" diaginertia="0.01 0.01 0.01"/>
      <geom name="tip" type="sphere" size="{TIP_RADIUS}" pos="{off_x!r} {off_y!r} 0" rgba="0.95 0.95 0.95 1"/>
      <geom name="finger" type="capsule" size="0.007" rgba="0.20 0.20 0.22 1"
            fromto="{off_x!r} {off_y!r} 0.012 {off_x!r} {off_y!r} 0.075"/>
      <geom name="wrist" type="box" size="0.016 0.016 0.012" pos="0 0 0.085" rgba="0.45 0.45 0.48 1"/>
    </body>
  </worldbody>
  <actuator>{servos}</actuator>
  <keyframe>
    <key name="start" qpos="{" ".join(_rest(thing) for thing in layout.things)} {x!r} {y!r} {z!r}"
         ctrl="{x!r} {y!r} {z!r}"/>
  </keyframe>
</mujoco>"""


def _rest(thing: Thing) -> str:
    return f"{thing.place[0]!r} {thing.place[1]!r} {SHAPES[thing.shape]!r} 1 0 0 0"


def model_of(layout: Layout) -> mujoco.MjModel:
    """The compiled model of an episode."""
    return mujoco.MjModel.from_xml_string(xml(layout))
