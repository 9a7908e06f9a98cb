"""Gradient clipping for tests that compare two runs of FSDP to the bit."""

from __future__ import annotations

import re
import warnings

import torch


def reproducible_clipping() -> dict[str, float]:
    """Options for train.py under which two equal runs are equal: none, or on torch before 2.5 a norm never reached.

    Until then ``clip_grad_norm_`` of FSDP adds up the norm in the order of a set of tensors, which is that of their
    addresses in memory (pytorch issue 134393), so what is clipped differs in its last digit from run to run. A warning
    says so among the run's last lines.
    """
    major, minor = (int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if (major, minor) >= (2, 5):
        return {}
    warnings.warn(
        f"torch {torch.__version__} does not clip FSDP's gradients reproducibly: compared with a clipping norm that is "
        "never reached; for the comparison with clipping use torch 2.5 or later",
        stacklevel=2,
    )
    return {"vla.max_grad_norm": 1e9}
