from .materialize import get_train_strategy
from .metrics import VLAMetrics

__all__ = ["VLAMetrics", "get_train_strategy"]
