from .models import load

__all__ = ["load"]
