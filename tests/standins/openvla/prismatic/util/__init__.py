from .torch_utils import set_global_seed

__all__ = ["set_global_seed"]
