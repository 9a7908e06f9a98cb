"""Weights that the Trainer leaves behind when it resumes a mixture-of-experts model.

transformers saves fused experts one by one, the hub's format, and since 5.0 its ``Trainer`` resumes from that file
without fusing them again: the experts stay what the base model had (huggingface/transformers#48805).
"""

from collections.abc import Sequence

import torch

from ..extras import logging

logger = logging.get_logger(__name__)


def restore_missing(model: "torch.nn.Module", checkpoint: str, missing: Sequence[str]) -> None:
    """Give ``model`` the parameters ``missing`` as ``from_pretrained`` reads them from ``checkpoint``, in place.

    Raises:
        ValueError: the checkpoint does not have one of them in any format.
    """
    if not missing:
        return

    read, info = type(model).from_pretrained(checkpoint, dtype=model.dtype, output_loading_info=True)
    found = read.state_dict()
    lost = [name for name in missing if name not in found or name in info["missing_keys"]]
    if lost:
        raise ValueError(f"{checkpoint} does not hold {', '.join(lost[:5])}: resume from a checkpoint that is whole.")

    model.load_state_dict({name: found[name] for name in missing}, strict=False)
    logger.info_rank0(f"Restored {len(missing)} parameters that the checkpoint holds in another format.")
