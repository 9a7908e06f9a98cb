"""A table seen from above, blocks of two colours on it, and a gripper that goes to the one that is named."""

from .scene import Scene
from .write import write_dataset, write_run, write_world

__all__ = ["Scene", "write_dataset", "write_run", "write_world"]
