"""One supervised run from its first attempt to its report: plateau, trials and the best of them included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runners.places import Refused
from runners.progress import View
from runners.supervise import analysis, report
from runners.supervise.attempt import learned
from runners.supervise.causes import Cause
from runners.supervise.changes import Change
from runners.supervise.checkpoints import Checkpoint
from runners.supervise.command import Command
from runners.supervise.decisions import Decisions
from runners.supervise.loop import PAUSED, Options, Result, Supervisor
from runners.supervise.metrics.curve import Curve
from runners.supervise.plateau import Verdict
from runners.supervise.tune import Best, tune
from runners.supervise.watching import PLATEAU, history

TRIAL_SHARE = 10
"""A trial is one so many-th of the run's steps where nobody says otherwise."""


class Session:
    """Looks after `command` in `folder`; raises Refused where the folder belongs to another command."""

    def __init__(
        self,
        command: Command,
        folder: Path,
        causes: Sequence[Cause],
        view: View,
        options: Options,
        *,
        lock: int | None = None,
        lang: str = "en",
    ) -> None:
        self.command, self.folder, self.causes, self.view, self.lang, self.lock = (
            command,
            folder,
            causes,
            view,
            lang,
            lock,
        )
        self.options = dataclasses.replace(options, on_plateau=self._analyse)
        self.decisions = Decisions(folder)
        self.tried: list[dict[str, Any]] = []
        self.curve = Curve()
        begun = next((item for item in self.decisions.all if item["kind"] == "start"), None)
        if begun is not None and begun["digest"] != command.digest:
            raise Refused(
                f"{folder} belongs to another command ({begun['command']}): choose another --name, or move it away"
            )
        self.current = self._supervisor(command, folder, self.options, None)

    def run(self, changes: Sequence[Change], *, trial_steps: int | None) -> Result:
        """Runs to the end, or to a plateau; with `changes`, tries them there and goes on with the best."""
        result = self._paused_before() if changes else None
        if result is None:
            result = self.current.run()
        self.curve = result.curve
        if result.state != PAUSED or not changes:
            return result
        steps = trial_steps or max(1, int(float(self.command.get("steps") or 0)) // TRIAL_SHARE)
        best, self.tried, ended = tune(
            result, changes, self.folder, self.decisions, self._trial, self.view.say, steps=steps
        )
        if result.verdict is not None:
            self._analyse(result.verdict, result.curve)
        if ended is not None or best is None:
            return ended or result
        return self._finish(best)

    def _finish(self, best: Best) -> Result:
        """The best goes on to the run's end; a second plateau there is only reported: there is nothing left to try."""
        options = dataclasses.replace(self.options, stops_at_plateau=False)
        self.view.say(f"goes on with the best: {best.name}")
        self.current = self._supervisor(best.command, self.folder / "best", options, best.checkpoint)
        result = self.current.run()
        self.decisions.add("end", f"{best.name}: {result.why}", state=result.state)
        return result

    def _trial(self, command: Command, home: Path, start: Checkpoint | None, until: int | None) -> Result:
        options = dataclasses.replace(self.options, until=until, plateau=None, on_plateau=None, stops_at_plateau=False)
        self.current = self._supervisor(command, home, options, start)
        return self.current.run()

    def _paused_before(self) -> Result | None:
        """The pause at a plateau that an earlier call of the same command left, or None."""
        pauses = [item for item in self.decisions.all if item["kind"] == "end"]
        if not pauses or pauses[-1]["state"] != PAUSED or pauses[-1]["why"] != PLATEAU:
            return None
        checkpoint = Checkpoint(Path(pauses[-1]["checkpoint"]), int(pauses[-1]["step"]))
        known, curve = learned(self.command, self.decisions.state), history(self.decisions.all)
        return Result(PAUSED, PLATEAU, known, curve, checkpoint) if checkpoint.path.exists() else None

    def _supervisor(self, command: Command, folder: Path, options: Options, start: Checkpoint | None) -> Supervisor:
        return Supervisor(
            command,
            folder,
            self.causes,
            self.view,
            options,
            decisions=self.decisions if folder == self.folder else None,
            start=start,
            lock=self.lock,
        )

    def _analyse(self, verdict: Verdict, curve: Curve) -> None:
        page = analysis.write(self.folder, curve, verdict, self.tried, self.lang)
        self.decisions.add("plateau", verdict.reason, step=verdict.step, report=str(page))
        self.view.say(f"{verdict.reason}: {page}")

    def interrupted(self) -> None:
        """Writes down that somebody asked to end."""
        self.current.interrupted()
        if self.current.decisions is not self.decisions:
            self.decisions.add("interrupted", f"while {self.current.folder.name} ran")

    def write_report(self) -> Path:
        """`report.html` of the run as it stands."""
        return report.write(self.folder, self.command, self.decisions, self.causes, self.lang)
