from .materialize import get_vla_dataset_and_collator

__all__ = ["get_vla_dataset_and_collator"]
