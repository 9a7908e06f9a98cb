from .load import available_models, load, load_vla

__all__ = ["available_models", "load", "load_vla"]
