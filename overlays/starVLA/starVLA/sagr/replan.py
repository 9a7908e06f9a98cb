"""When what was predicted and what is seen fall apart: clear the action queue and sample again.

    RRR = ||dz|| / max(||S_hat - S_t||, floor * max(||S_t||, ||dz||))

Norms are over slots and dims. The floor is what counts as no change, as a share of the tokens' own norm: without it a
robot that waits would divide by nothing, and any noise would restart it. RRR is at most 1 / floor.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from typing import Any

import torch

from .plan import Residual

logger = logging.getLogger(__name__)


def residual_ratio(residual: Residual, floor: float) -> torch.Tensor:
    """RRR ``[B]`` of a residual; 0 where dz = 0.

    Raises ValueError for a floor outside (0, 1], and, naming rows, for a residual that is not finite: compared with a
    threshold, a NaN would pass as a residual of nothing.
    """
    if not 0.0 < floor <= 1.0:
        raise ValueError(f"sagr.replan.floor is {floor}; it must lie in (0, 1]")
    observed, expected, start = _norms(residual)
    broken = (~(observed.isfinite() & expected.isfinite() & start.isfinite())).nonzero().flatten().tolist()
    if broken:
        raise ValueError(f"residual of rows {broken} is not finite; look at the observation's tokens and the predictor")
    unexpected = floor * torch.maximum(start, observed)
    return observed / torch.maximum(expected, unexpected).clamp_min(torch.finfo(observed.dtype).tiny)


def refuse_unreachable(tau: float, floor: float) -> None:
    """Raises ValueError for a threshold that RRR, at most 1 / floor, cannot pass: nothing would ever restart."""
    if tau * floor >= 1.0:
        raise ValueError(
            f"sagr.replan.tau is {tau} and floor {floor}: RRR is at most 1 / floor = {1 / floor:g}, so nothing would "
            "restart; lower one of them (max_restarts 0 is what never restarts)"
        )


def _norms(residual: Residual) -> tuple[torch.Tensor, ...]:
    """||dz||, ||S_hat - S_t|| and ||S_t||, each ``[B]`` float64, in which no square of a float32 overflows."""
    parts = (residual.difference, residual.change, residual.start)
    return tuple(torch.linalg.vector_norm(part.double(), dim=(1, 2)) for part in parts)


class ReplanningController:
    """The action queue of one robot.

    ``load`` a chunk, take actions with ``next``, and after any of them, with a new observation, ``check``: above tau
    the queue is cleared, so that ``empty`` asks for a new chunk. A restart is taken at most ``max_restarts`` times in a
    row; the count begins anew with a chunk that ran to its end, and with an episode.

    Args:
        execute_steps: k, how many actions of a chunk are executed; at most its length.
        tau: threshold of RRR.
        max_restarts: 0 never restarts.
        floor: see ``residual_ratio``.

    Each decision is a line of ``log`` and, as JSON, of this module's logger.
    """

    def __init__(self, execute_steps: int, tau: float = 2.5, max_restarts: int = 2, floor: float = 0.1) -> None:
        if execute_steps < 1:
            raise ValueError(f"execute_steps is {execute_steps}; at least one action of a chunk must be executed")
        if not (math.isfinite(tau) and tau > 0.0):
            raise ValueError(f"sagr.replan.tau is {tau}; it must be a finite number above 0")
        if max_restarts < 0:
            raise ValueError(f"sagr.replan.max_restarts is {max_restarts}; it must be at least 0")
        if not 0.0 < floor <= 1.0:
            raise ValueError(f"sagr.replan.floor is {floor}; it must lie in (0, 1]")
        refuse_unreachable(tau, floor)
        self.execute_steps, self.tau, self.max_restarts, self.floor = execute_steps, tau, max_restarts, floor
        self.log: list[dict[str, object]] = []
        self._queue: deque[Any] = deque()
        self._left, self._loaded, self._cut = max_restarts, False, False

    def reset(self) -> list[dict[str, object]]:
        """Begins an episode; returns the log of the one that ended."""
        ended, self.log = self.log, []
        self._queue.clear()
        self._left, self._loaded, self._cut = self.max_restarts, False, False
        return ended

    @property
    def empty(self) -> bool:
        """True where a chunk must be sampled before the next action."""
        return not self._queue

    @property
    def restarts_left(self) -> int:
        return self._left

    def load(self, chunk: Any) -> None:
        """Queues the first k actions of ``chunk [H,A]``, a tensor or an array.

        Raises ValueError where it has fewer, or where actions are still queued.
        """
        if self._queue:
            raise ValueError(f"{len(self._queue)} actions are still queued; a new chunk comes when the queue is empty")
        if chunk.ndim != 2 or len(chunk) < self.execute_steps:
            raise ValueError(f"chunk {list(chunk.shape)} must be [H,A] with H >= execute_steps ({self.execute_steps})")
        if not self._cut:
            self._left = self.max_restarts
        self._queue.extend(chunk[: self.execute_steps])
        self._loaded, self._cut = True, False

    def next(self) -> Any:
        """The next action ``[A]``; raises RuntimeError where none is queued."""
        if not self._queue:
            raise RuntimeError("the action queue is empty; sample a chunk and load() it")
        return self._queue.popleft()

    def check(self, step: int, residual: Residual) -> str:
        """Judges the residual seen at control step ``step``, one row of ``Plan.compare``.

        Returns:
            ``continue``: as expected, go on; ``scheduled``: the chunk is at its end anyway, sample the next;
            ``restart``: above tau, the queue is cleared, sample now; ``exhausted``: above tau, but no restart is left.

        Raises RuntimeError before the first ``load``, ValueError for several rows or a residual that is not finite.
        """
        if not self._loaded:
            raise RuntimeError("check() before any chunk was loaded: there is no plan to compare with")
        if len(residual.difference) != 1:
            raise ValueError(f"residual has {len(residual.difference)} rows; each robot has a controller of its own")
        ratio = residual_ratio(residual, self.floor).item()
        observed, expected, _ = (norm.item() for norm in _norms(residual))
        if self.empty:
            decision = "scheduled"
        elif ratio <= self.tau:
            decision = "continue"
        elif self._left == 0:
            decision = "exhausted"
        else:
            decision = "restart"
            self._queue.clear()
            self._left -= 1
            self._cut = True
        line: dict[str, object] = {
            "step": step,
            "rrr": ratio,
            "residual_norm": observed,
            "expected_norm": expected,
            "threshold": self.tau,
            "restarts_left": self._left,
            "decision": decision,
        }
        self.log.append(line)
        logger.info("replanning %s", json.dumps(line))
        return decision
