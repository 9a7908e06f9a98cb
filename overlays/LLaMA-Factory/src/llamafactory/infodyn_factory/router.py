"""Gaussian routing on a loaded model."""

from typing import TYPE_CHECKING

from ..extras import logging
from ..infodyn.gaussian_router import use_gaussian_routing

if TYPE_CHECKING:
    import torch

    from ..hparams import FinetuningArguments

logger = logging.get_logger(__name__)


def route(model: "torch.nn.Module", finetuning_args: "FinetuningArguments") -> None:
    """Replace the model's linear gates, in place, where ``moe_router: gaussian`` says so. ``linear``: nothing happens.

    Raises:
        ValueError: a model without such gates.
    """
    if finetuning_args.moe_router == "linear":
        return

    for gate in use_gaussian_routing(model):
        if gate.remains is None:
            logger.info_rank0(f"Gaussian routing at {gate.name}, from the checkpoint.")
        else:
            logger.info_rank0(f"Gaussian routing at {gate.name}, {gate.remains:.2e} nats from the linear gate.")
