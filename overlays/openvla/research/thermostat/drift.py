"""How far the covariance of the student's pooled hidden states is from the teacher's, on the same samples.

    d = ||C_S - C_T||_F    with C = Zc^T Zc / (n - 1), Zc [n, D] the pooled states less their mean

No D x D matrix is formed. With A and B the centred states over sqrt(n - 1) of student and teacher and E = A - B,

    A^T A - B^T B = E^T A + B^T E = X^T Y    with X = [E; B], Y = [A; E]  (2n x D),

and ||X^T Y||_F^2 = tr(Y^T X X^T Y) = sum((X X^T) * (Y Y^T)): two Gram matrices of 2n x 2n. Because E is taken before
any product, equal states give exactly 0, and small differences keep the digits that ||C_S||^2 - 2 <C_S, C_T> +
||C_T||^2 would lose.
"""

from __future__ import annotations

import torch


def covariance_distance(student: torch.Tensor, teacher: torch.Tensor) -> tuple[float, float]:
    """The distance d, and d over ||C_T||_F.

    Args:
        student, teacher: ``[n, D]`` pooled states of the same n >= 2 samples in the same order, any floating dtype.
            Accumulated in float64 on the CPU: n is some dozens.

    Raises:
        ValueError: if the shapes differ, n < 2, an entry is not finite, or the teacher's states do not vary at all, so
            that no relative drift exists.
    """
    if student.shape != teacher.shape or student.dim() != 2:
        shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise ValueError(f"drift: the pooled states must both be [n, D], of the same samples: {shapes}")
    if student.shape[0] < 2:
        raise ValueError("drift: one sample has no covariance; raise surgery.thermostat.samples")
    a, b = (z.detach().to("cpu", torch.float64) for z in (student, teacher))
    for name, states in (("student", a), ("teacher", b)):
        if not states.isfinite().all():
            raise ValueError(f"drift: the {name}'s pooled states hold NaN or infinity: the training has diverged")
    scale = (student.shape[0] - 1) ** -0.5
    e = a - b
    a, b, e = ((z - z.mean(dim=0)) * scale for z in (a, b, e))
    norm = float((b @ b.T).square().sum().sqrt())
    if norm == 0.0:
        raise ValueError("drift: the teacher's pooled states are all equal; the probe set needs differing samples")
    x, y = torch.cat([e, b]), torch.cat([a, e])
    # Rounding may leave a sum that should be zero a hair below it.
    distance = float(((x @ x.T) * (y @ y.T)).sum().clamp_min(0.0).sqrt())
    return distance, distance / norm
