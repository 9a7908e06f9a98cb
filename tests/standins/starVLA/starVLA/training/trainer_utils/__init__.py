"""What the trainer and the frameworks share."""

from .overwatch import initialize_overwatch

__all__ = ["initialize_overwatch"]
