from .dataset import make_interleaved_dataset, make_single_dataset, write_dataset

__all__ = ["make_interleaved_dataset", "make_single_dataset", "write_dataset"]
