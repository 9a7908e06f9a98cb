from .base_vision import ImageTransform, VisionBackbone

__all__ = ["ImageTransform", "VisionBackbone"]
