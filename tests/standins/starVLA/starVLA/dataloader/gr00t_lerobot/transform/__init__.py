from .base import ComposedModalityTransform, ModalityTransform

__all__ = ["ComposedModalityTransform", "ModalityTransform"]
