from .load import load, load_vla

__all__ = ["load", "load_vla"]
