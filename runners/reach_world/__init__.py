"""A small closed-loop world: a tool on three slides that must touch the named object on a table, seen with exact depth.

It needs `mujoco`, `numpy`, `pillow` and, to write data sets, `pyarrow`; no asset, no OpenGL. Lengths are metres, the
table's top is z = 0.
"""

from runners.reach_world.layout import CALM, Disturbances, Layout, layout_of
from runners.reach_world.world import Observation, ReachWorld

__all__ = ["CALM", "Disturbances", "Layout", "Observation", "ReachWorld", "layout_of"]
