from .env_wrapper import OffScreenRenderEnv

__all__ = ["OffScreenRenderEnv"]
