"""What the seams in upstream's training scripts call: attach once, before_step at each step, metrics, save.

With ``surgery.enabled`` false no more than this file and the configuration is imported, and nothing is hooked, measured
or written: the run is upstream's, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hooks.hsw_hook import Damping, HSWHooks
    from .hooks.input_guard import InputGuard
    from .ranks import Ranks
    from .recorder import MetricsFile, NormRecorder
    from .thermostat.thermostat import Thermostat


class NoSurgery:
    """The same methods, which do nothing."""

    def before_step(self, step: int | None = None) -> None:
        """Nothing."""

    def metrics(self) -> dict[str, float]:
        """No numbers."""
        return {}

    def save(self, folder: str | Path, step: int | None = None) -> None:
        """Nothing to save."""


class Surgery:
    """Hooks, thermostat and records of one run.

    Every method but ``save`` is called by all ranks, at the same steps; ``save`` has no collective in it, since
    finetune.py saves on the main process only.
    """

    def __init__(
        self,
        damping: Damping,
        hooks: HSWHooks | None,
        recorder: NormRecorder,
        thermostat: Thermostat | None,
        log: MetricsFile,
        ranks: Ranks,
        run_dir: Path,
        identity: dict[str, Any],
        log_every: int,
        autocast: Callable[[], Any] = contextlib.nullcontext,
        guard: InputGuard | None = None,
    ) -> None:
        """
        Args:
            identity: what a state must agree on to be resumed here (see ``checkpoint.py``).
            log_every: optimizer steps between two logged steps.
            autocast: context of the training forward, in which the probe set is measured too.
        """
        self.damping, self.hooks, self.recorder, self.thermostat = damping, hooks, recorder, thermostat
        self.log, self.ranks, self.run_dir, self.identity = log, ranks, run_dir, identity
        self.log_every, self.autocast, self.guard = log_every, autocast, guard
        self.offset = 0
        self.steps = 0
        self._known = {"surgery/beta": damping.beta, "surgery/gamma": damping.gamma}
        self.recorder.active = True

    def install(self) -> None:
        """Set the hooks: the last thing that ``attach`` does, when nothing is left to be refused."""
        if self.hooks is not None:
            self.hooks.install()
        if self.guard is not None:
            self.guard.install()

    def load_state(self, state: dict[str, Any], offset: int) -> None:
        """Continue where ``save`` left off.

        ``offset``: what to add to the steps that the loop counts: all steps so far where it begins at zero again.
        """
        self.steps, self.offset = int(state["steps"]), offset
        if self.thermostat is not None and state["thermostat"] is not None:
            self.thermostat.load_state_dict(state["thermostat"])
            self.damping.beta, self.damping.gamma = float(state["beta"]), float(state["gamma"])
        self.recorder.active = self.steps % self.log_every == 0
        self.log.continue_at(self.steps)
        self._known.update({"surgery/beta": self.damping.beta, "surgery/gamma": self.damping.gamma})

    def before_step(self, step: int | None = None) -> None:
        """Between backward and ``optimizer.step()``: log this step's norms, measure the drift if it is time.

        Args:
            step: optimizer steps that the loop has made so far, 0 at the first; None where the loop has no such number
                and this counts. New factors hold from the next backward pass on. On a step that neither logs nor
                measures, nothing waits for the device.
        """
        step = self.steps if step is None else step + self.offset
        line: dict[str, Any] = {}
        if step % self.log_every == 0:
            line.update(beta=self.damping.beta, gamma=self.damping.gamma)
            line["norms"] = self._norms()
        if self.thermostat is not None and step % self.thermostat.config.every == 0:
            line.update(self._measure())
        self.steps = step + 1
        self.recorder.active = self.steps % self.log_every == 0
        if line:
            self.log.write({"step": step, **line})

    def _norms(self) -> dict[int, dict[str, float]]:
        norms = self.recorder.flush(self.ranks)
        for layer, of_layer in norms.items():
            self._known.update({f"surgery/norm_{name}_layer_{layer}": value for name, value in of_layer.items()})
        return norms

    def _measure(self) -> dict[str, Any]:
        assert self.thermostat is not None
        began = time.perf_counter()
        with self.autocast():
            reading = self.thermostat.check(self.damping)
        seconds = time.perf_counter() - began
        self._known.update(
            {
                "surgery/drift": reading.mean,
                "surgery/drift_smoothed": reading.smoothed,
                "surgery/beta": self.damping.beta,
                "surgery/gamma": self.damping.gamma,
                "surgery/probe_seconds": seconds,
                **{f"surgery/drift_layer_{layer}": value for layer, value in reading.relative.items()},
            }
        )
        return {
            "d": reading.distance,
            "drift": reading.relative,
            "mean_drift": reading.mean,
            "smoothed_drift": reading.smoothed,
            "cold_start": reading.cold,
            "next_beta": self.damping.beta,
            "next_gamma": self.damping.gamma,
            "probe_seconds": seconds,
        }

    def metrics(self) -> dict[str, float]:
        """The last known numbers, under ``surgery/...``: a pure read. They belong to steps before the present one."""
        return dict(self._known)

    def save(self, folder: str | Path, step: int | None = None) -> None:
        """Write the state into ``folder`` and into the run's, each file whole or not at all, on the main rank.

        ``step``: named in the file in ``folder``, where that holds checkpoints of several steps (train.py).
        """
        from .checkpoint import state_name, write_state

        if not self.ranks.main:
            return
        state = {
            "steps": self.steps,
            "identity": self.identity,
            "thermostat": None if self.thermostat is None else self.thermostat.state_dict(),
            "beta": self.damping.beta,
            "gamma": self.damping.gamma,
        }
        write_state(Path(folder) / state_name(step), state)
        write_state(self.run_dir / state_name(), state)


def attach(vla: Any, cfg: Any, processor: Any, run_dir: str | Path) -> Surgery | NoSurgery:
    """For finetune.py, after DDP and before the optimizer.

    Args:
        vla: the DDP wrapper of the (LoRA-wrapped) OpenVLA model.
        cfg: the whole FinetuneConfig; ``cfg.surgery`` and ``cfg.vla_path`` are read.
        processor: upstream's processor, for the tokenizer and the image transform.
        run_dir: folder of the run, for metrics.jsonl and the state.

    Raises:
        ValueError, SubspaceError, ResumeError: before anything has been trained or written, naming what does not fit.
    """
    if not cfg.surgery.enabled:
        return NoSurgery()
    from .assembly import for_finetune

    return for_finetune(vla, cfg, processor, Path(run_dir))


def attach_strategy(strategy: Any, cfg: Any, run_dir: str | Path) -> Surgery | NoSurgery:
    """For train.py, after ``run_setup``: ``strategy.vlm`` is the FSDP-wrapped PrismaticVLM. Otherwise as ``attach``."""
    if not cfg.surgery.enabled:
        return NoSurgery()
    from .assembly import for_strategy

    return for_strategy(strategy, cfg, Path(run_dir))
