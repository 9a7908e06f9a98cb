"""What a controller keeps from one control step to the next: the plan that is carried out, as far as it has come.

course.begin()                                    an episode begins
result = framework.predict_action(examples, **course.given(executed))
course.sampled(result.get("plan"), chunk)         a chunk was sampled
course.restart(step, tokens, state, executed)     between two samplings: whether to clear the queue and sample now
"""

from __future__ import annotations

from typing import Any

import torch

from .plan import Plan
from .predictor import WorldPredictor
from .replan import ReplanningController


class Course:
    """The plan from one sampling to the next, and its rest as seen from the newest observation.

    Args:
        predictor: of the framework whose plans these are; None where it makes none.
        controller: for a robot that replans. Whoever carries the actions out keeps the queue; the controller's own is
            only to have as many left.
    """

    def __init__(self, predictor: WorldPredictor | None, controller: ReplanningController | None = None) -> None:
        self.predictor, self.controller = predictor, controller
        self.plan: Plan | None = None
        self.latest: Plan | None = None

    def begin(self) -> None:
        self.plan = self.latest = None
        if self.controller is not None:
            self.controller.reset()

    def given(self, executed: Any) -> dict[str, Any]:
        """What `predict_action` is given of the plan: nothing before there is one. ``executed [n,A]``, an array or a
        tensor: the plan's first actions as they were carried out.
        """
        return {} if self.plan is None else {"plan": self.plan.carried_out(executed), "executed": len(executed)}

    def sampled(self, plan: Plan | None, chunk: Any) -> None:
        """A chunk ``[H,A]`` and its plan replace those before."""
        self.plan = self.latest = plan
        if self.controller is not None:
            while not self.controller.empty:
                self.controller.next()
            self.controller.load(chunk)

    def restart(self, step: int, observed: torch.Tensor, state: torch.Tensor | None, executed: Any) -> bool:
        """Whether RRR since the control step before, over the one action that lies between, says to sample now.

        Args:
            step: the control step of the observation.
            observed: its task tokens ``[1,Ns,D]``.
            state: its state ``[1,1,Ds]``, or None.
            executed: ``[n,A]``, what was carried out since the sampling; its last action is that one.

        Raises ValueError without a controller, or before anything was sampled.
        """
        if self.controller is None or self.latest is None:
            raise ValueError("nothing to restart: this course has no controller, or no plan was sampled yet")
        self.controller.next()
        since = self.latest.carried_out(executed[-1:])
        residual = since.compare(self.predictor, observed, 1)
        self.latest = since.advanced(observed, state, 1)
        return self.controller.check(step, residual) == "restart"
