from starVLA.model.tools import FRAMEWORK_REGISTRY

__all__ = ["FRAMEWORK_REGISTRY"]
