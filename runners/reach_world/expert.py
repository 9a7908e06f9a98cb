"""The scripted expert: proportional to the goal, down a funnel over the named object, back up when that has moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runners.reach_world.layout import CALM, SHAPES, Disturbances
from runners.reach_world.scene import TIP_RADIUS
from runners.reach_world.world import ACTION_DIM, STRIDE, ReachWorld

GAIN = 0.45
"""Share of the way to the goal that one action asks for, before it is shortened to what an action can be."""
PRESS = 0.006
"""How far below contact the goal lies, in metres: what holds the touch."""
SLOPE, MOUTH = 1.2, 0.012
"""The funnel: at a horizontal distance d the goal lies SLOPE (d - MOUTH) higher, 0 inside the mouth."""
CLEARANCE = 0.085
"""The goal is never higher above contact than this: clear of every object."""


def expert_action(world: ReachWorld) -> NDArray[np.float32]:
    """[3], each in [-1, 1]: from the true tip and target, which no camera is needed for. It depends on their difference
    and the shape's height only, so a moved target is answered at once.
    """
    tip, target = world.tip(), world.target()
    top = target[2] + SHAPES[world.layout.target.shape] + TIP_RADIUS
    away = target[:2] - tip[:2]
    rise = min(SLOPE * max(0.0, float(np.linalg.norm(away)) - MOUTH), CLEARANCE)
    wanted = GAIN * np.array([*away, top - PRESS + rise - tip[2]]) / STRIDE
    # Shortened as a whole, sideways: a clip of each axis would bend the way, and hide the direction from who learns it.
    wanted[:2] /= max(1.0, float(np.linalg.norm(wanted[:2])))
    return np.clip(wanted, -1.0, 1.0).astype(np.float32)


def expert_actions(
    seed: int, disturbances: Disturbances = CALM, *, limit: int = 30, things: int = 4
) -> NDArray[np.float32]:
    """[steps, 3]: what the expert does in an episode. Played to another episode of the seed, an open-loop expert."""
    world = ReachWorld(seed, disturbances, limit=limit, things=things)
    actions = []
    while not world.done:
        actions.append(expert_action(world))
        world.step(actions[-1])
    return np.array(actions, dtype=np.float32).reshape(-1, ACTION_DIM)
