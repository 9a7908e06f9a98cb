"""What the action head's ``flow=`` keyword carries through one pass: the seams that the patch opens end here."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .guidance import Reference, ResidualGuidance


@dataclass
class Trace:
    """One ``[B]`` tensor an Euler step in each list, on the device they were made on: reading them is what waits.

    ``residual_norm`` ||S_ref - S_hat||, ``energy`` its mean square, ``drift_norm`` ||b||, ``velocity_norm`` ||v||,
    ``cosine`` of the angle between b and v (0 where either is zero).
    """

    residual_norm: list[torch.Tensor] = field(default_factory=list)
    energy: list[torch.Tensor] = field(default_factory=list)
    drift_norm: list[torch.Tensor] = field(default_factory=list)
    velocity_norm: list[torch.Tensor] = field(default_factory=list)
    cosine: list[torch.Tensor] = field(default_factory=list)

    def lists(self) -> dict[str, list[list[float]]]:
        """Plain numbers, ``[steps][B]`` under each name."""
        return {name: [step.tolist() for step in steps] for name, steps in vars(self).items()}


def cosine(b: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle between ``[B,H,A]`` and ``[B,H,A]`` over H x A, ``[B]``; 0 where either is zero."""
    first, second = (torch.nn.functional.normalize(x.to(b.dtype).flatten(1), dim=1, eps=1e-30) for x in (b, velocity))
    return (first * second).sum(dim=1)


class FlowPass:
    """One training pass, or the sampling of one chunk. Make a new one for each.

    Args:
        guidance: adds drifts to the Euler steps; needed where there is a reference.
        reference: what the chunk is guided by. None (the first chunk of an episode, or guidance off): every velocity
            goes through as the same tensor.

    After a training pass: ``estimate [B,H,A]``, the clean chunk a1 = a_t + (1 - t) v with its graph, ``t [B,1,1]`` and
    ``velocity [B,H,A]``. After sampling: ``trace``.
    """

    def __init__(self, guidance: ResidualGuidance | None = None, reference: Reference | None = None) -> None:
        if reference is not None and guidance is None:
            raise ValueError("FlowPass got a reference but no guidance to use it; give it ResidualGuidance too")
        self.guidance, self.reference = guidance, reference
        self.estimate: torch.Tensor | None = None
        self.velocity: torch.Tensor | None = None
        self.t: torch.Tensor | None = None
        self.trace = Trace()

    def observe(
        self, loss: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor, predicted_velocity: torch.Tensor
    ) -> torch.Tensor:
        """Training: keeps the clean estimate; the loss is handed back as the same tensor.

        Raises RuntimeError on a second call: losses of two passes must not be mixed.
        """
        if self.estimate is not None:
            raise RuntimeError("FlowPass.observe was called twice; make a FlowPass for each forward pass of the head")
        self.estimate = noisy + (1.0 - t) * predicted_velocity
        self.velocity, self.t = predicted_velocity, t
        return loss

    def guide(self, actions: torch.Tensor, velocity: torch.Tensor, t: float) -> torch.Tensor:
        """Sampling: ``[B,H,A]`` velocity + b, in the velocity's dtype; the velocity itself without a reference."""
        if self.guidance is None or self.reference is None:
            return velocity
        drift = self.guidance.drift(actions, velocity, t, self.reference)
        wide = velocity.to(drift.b.dtype)
        self.trace.residual_norm.append(drift.residual_norm)
        self.trace.energy.append(drift.energy)
        self.trace.drift_norm.append(torch.linalg.vector_norm(drift.b, dim=(1, 2)))
        self.trace.velocity_norm.append(torch.linalg.vector_norm(wide, dim=(1, 2)))
        self.trace.cosine.append(cosine(drift.b, wide))
        return (wide + drift.b).to(velocity.dtype)
