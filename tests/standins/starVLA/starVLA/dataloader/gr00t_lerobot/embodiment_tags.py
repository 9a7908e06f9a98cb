from enum import Enum


class EmbodimentTag(Enum):
    FRANKA = "franka"
    NEW_EMBODIMENT = "new_embodiment"
