"""What the controller keeps from one sampling to the next, and what it measures with it.

A chunk is sampled at control step t from o_t; n of its H actions are executed; then o_{t+n} is seen. With S(o) the task
tokens of an observation and P(S, state, actions) the world predictor:

    S_hat(n)  = P(S(o_t), state_t, a[:n])                       the prediction, made at t
    dz        = S(o_{t+n}) - S_hat(n)                           the observed residual, known at t+n
    S_ref     = P(S_hat(n), state_{t+n}, a[n:])                 what the plan still expects to see, at t+H
    E(a')     = mean (S_ref - P(S(o_{t+n}), state_{t+n}, a'[:H-n]))^2     energy of a candidate chunk a'

Both sides of E are the same function of the same number of actions, so E = 0 with dz = 0 and the old plan's actions,
whatever the predictor has learned; with a disturbance the two start from different tokens.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .guidance import Reference
from .predictor import WorldPredictor

REFERENCES = ("plan", "observed")


@dataclass(frozen=True)
class Residual:
    """``difference`` dz, ``change`` S_hat(n) - S(o_t) and ``start`` S(o_t), each ``[B,Ns,D]``."""

    difference: torch.Tensor
    change: torch.Tensor
    start: torch.Tensor


@dataclass(frozen=True)
class Plan:
    """A sampled chunk and what it was sampled from.

    Args:
        tokens: ``[B,Ns,D]``, S(o_t).
        state: ``[B,1,Ds]`` at t, or None.
        actions: ``[B,H,A]``, the chunk, normalised as the head's. Where other actions were executed (clipped, or the
            end of an older chunk while this one was computed) put those in their place with ``carried_out``.
        step: the control step t.
        left: how many of the first actions are still the plan's, None for all; what lies behind them is not looked at.
        instructions: under which it was sampled, one a row; None where that is not known.

    Raises ValueError where the batch sizes differ.
    """

    tokens: torch.Tensor
    state: torch.Tensor | None
    actions: torch.Tensor
    step: int
    left: int | None = None
    instructions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        rows = {len(part) for part in (self.tokens, self.state, self.actions) if part is not None}
        if len(rows) != 1:
            raise ValueError(f"plan: tokens, state and actions have {sorted(rows)} rows; they must be of one batch")

    @property
    def length(self) -> int:
        """The plan's actions, at most H."""
        return self.actions.shape[1] if self.left is None else self.left

    def refuse_other(self, instructions: Sequence[str]) -> None:
        """Raises ValueError, naming the rows, where tokens under ``instructions`` mean something else than the plan's.

        A plan holds for all its rows: none of them can begin anew alone.
        """
        if self.instructions is None or len(self.instructions) != len(instructions):
            return
        pairs = zip(self.instructions, instructions, strict=True)
        others = [row for row, (then, now) in enumerate(pairs) if then != now]
        if others:
            raise ValueError(
                f"plan of step {self.step}: example(s) {others} have another instruction than when it was sampled, "
                f"{instructions[others[0]]!r} and not {self.instructions[others[0]]!r}; start without a plan (that is "
                "for the whole batch: give robots whose episodes begin at different times calls of their own)"
            )

    def carried_out(self, executed: Any) -> Plan:
        """The same plan with its first actions as they were carried out: ``executed [n,A]``, an array or a tensor.

        For a batch of one robot. Raises ValueError for more actions than the plan has.
        """
        if len(executed) > self.length:
            raise ValueError(f"plan of step {self.step}: {len(executed)} actions carried out of {self.length}")
        actions = self.actions.clone()
        actions[0, : len(executed)] = torch.as_tensor(executed).to(actions)
        return replace(self, actions=actions)

    def expected(self, predictor: WorldPredictor, executed: int | Sequence[int]) -> torch.Tensor:
        """S_hat(n) ``[B,Ns,D]``, without a graph; ``executed`` n in 1..``length``, one number or one a row."""
        valid = self._first(self._counts(executed, self.length))
        with torch.no_grad():
            return predictor(self.tokens, self.state, self.actions, valid)

    def compare(self, predictor: WorldPredictor, observed: torch.Tensor, executed: int | Sequence[int]) -> Residual:
        """The residual at t+n, ``observed [B,Ns,D]`` being S(o_{t+n})."""
        self._like_ours(observed)
        expected = self.expected(predictor, executed)
        start = self.tokens.to(expected.dtype)
        return Residual(observed.to(expected.dtype) - expected, expected - start, start)

    def advanced(self, observed: torch.Tensor, state: torch.Tensor | None, executed: int) -> Plan:
        """The rest of this plan as seen from t+n: ``observed [B,Ns,D]`` and ``state`` are of o_{t+n}, n = ``executed``.

        For RRR at every control step. Against the plan as it was sampled, what is expected grows with every action,
        and a target that jumps late is no surprise beside it; from one observation to the next it is.
        Raises ValueError for n outside 1..``length`` - 1, and tokens of another shape.
        """
        self._like_ours(observed)
        executed = executed_counts(executed, 1)[0]
        self._counts(executed, self.length - 1)
        # Rolled, the executed actions come last, behind what is left.
        actions = self.actions.roll(-executed, dims=1)
        return Plan(observed, state, actions, self.step + executed, self.length - executed, self.instructions)

    def reference(
        self,
        predictor: WorldPredictor,
        observed: torch.Tensor,
        state: torch.Tensor | None,
        executed: int | Sequence[int],
        kind: str = "plan",
    ) -> Reference:
        """What guides the chunk that is sampled at t+n.

        Args:
            observed: ``[B,Ns,D]``, S(o_{t+n}): of a new observation under the same instruction.
            state: ``[B,1,Ds]`` at t+n, or None.
            executed: n, one number or one a row; 1..H-1, or 1..H for ``observed``.
            kind: ``plan``, as above; or ``observed``, an ablation: E(a') = mean (S(o_{t+n}) - P(S(o_t), state_t,
                a'[:n]))^2, which asks for the action that *explains* what was seen, so where tokens are relative to
                the gripper it moves away from a target that was moved.

        Raises ValueError for another kind, n out of range (with n = H the plan expects nothing more), rows or shapes
        that differ, and for ``observed`` being this plan's own tokens, which would compare a thing with itself.
        """
        if kind not in REFERENCES:
            raise ValueError(f"sagr.guidance.reference is {kind!r}; choose one of {', '.join(REFERENCES)}")
        self._like_ours(observed)
        if observed is self.tokens:
            raise ValueError(f"plan of step {self.step}: guidance needs a new observation, got the plan's own")
        horizon = self.actions.shape[1]
        if kind == "observed":
            counts = self._counts(executed, self.length)
            return Reference(self.tokens, self.state, observed, self._first(counts))
        counts = self._counts(executed, self.length - 1)
        rest = self._first(self.length - counts)
        # Rolled, the executed actions come last, where ``rest`` hides them.
        place = (torch.arange(horizon, device=self.actions.device) + counts[:, None]) % horizon
        remaining = self.actions.gather(1, place[..., None].expand_as(self.actions))
        with torch.no_grad():
            target = predictor(self.expected(predictor, executed), state, remaining, rest)
        return Reference(observed, state, target, rest)

    def _counts(self, executed: int | Sequence[int], most: int) -> torch.Tensor:
        rows = len(self.actions)
        counts = executed_counts(executed, rows)
        if not all(1 <= count <= most for count in counts):
            raise ValueError(
                f"plan of step {self.step}: executed is {executed}; it must be a number from 1 to {most}, or {rows} of "
                "them. With all actions of a chunk executed nothing is left to guide by: choose execute_steps below "
                "the horizon"
            )
        return torch.tensor(counts, device=self.actions.device)

    def _first(self, counts: torch.Tensor) -> torch.Tensor:
        """``[B,H]`` bool: the first ``counts [B]`` actions."""
        return torch.arange(self.actions.shape[1], device=self.actions.device) < counts[:, None]

    def _like_ours(self, observed: torch.Tensor) -> None:
        if observed.shape != self.tokens.shape:
            raise ValueError(
                f"plan of step {self.step}: task tokens {list(observed.shape)} now, {list(self.tokens.shape)} when it "
                "was sampled; start without a plan when the batch changes"
            )


def executed_counts(executed: Any, rows: int) -> list[int]:
    """``executed`` as one whole number a row: a number (of numpy or torch too), or ``rows`` of them.

    Raises ValueError for anything else.
    """
    try:
        counts = [_whole(executed)] * rows if np.ndim(executed) == 0 else [_whole(count) for count in executed]
    except (TypeError, ValueError):
        counts = []
    if len(counts) != rows:
        raise ValueError(f"executed is {executed!r}: it must be a whole number, or {rows} of them, one an example")
    return counts


def _whole(count: Any) -> int:
    if isinstance(count, bool | np.bool_):
        raise TypeError("a truth value is no number of actions")
    return operator.index(count)
