from .datasets import EpisodicRLDSDataset, RLDSBatchTransform, RLDSDataset

__all__ = ["EpisodicRLDSDataset", "RLDSBatchTransform", "RLDSDataset"]
