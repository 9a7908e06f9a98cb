from .vla import VLAConfig, VLARegistry

__all__ = ["VLAConfig", "VLARegistry"]
