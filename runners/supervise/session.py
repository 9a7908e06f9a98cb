"""One supervised run from its first attempt to its report: plateau, trials and the best of them included."""

from __future__ import annotations

import dataclasses
import math
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
from runners.supervise.loop import DONE, PAUSED, Options, Result, Supervisor
from runners.supervise.metrics.curve import Curve
from runners.supervise.plateau import Verdict
from runners.supervise.tune import Best, best_of, digest, tune
from runners.supervise.watching import PLATEAU, Watcher, history


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
                f"{folder} belongs to another command ({begun['command']}): choose another --name, with --adopt to "
                "go on from its checkpoints, or move it away"
            )
        self.current = self._supervisor(command, folder, self.options, None)

    def run(self, changes: Sequence[Change], *, trial_steps: int | None) -> Result:
        """Runs to the end, or to a plateau; with `changes`, tries them there and goes on with the best."""
        if best := self._tuned_before(changes):
            return self._finish(best)
        result = self._paused_before() if changes else None
        if result is None:
            result = self.current.run()
        self.curve = result.curve
        if result.state != PAUSED or not changes:
            return result
        best, self.tried, ended = tune(
            result,
            changes,
            self.folder,
            self.decisions,
            self._trial,
            self.view.say,
            steps=trial_steps,
            total=self._total(result.curve),
        )
        if result.verdict is not None:
            analysis.write(self.folder, result.curve, result.verdict, self.tried, self.lang)
        if ended is not None or best is None:
            return ended or result
        return self._finish(best)

    def _total(self, curve: Curve) -> int | None:
        """The run's steps, as the command or its metrics tell them."""
        told = float(self.command.get("steps") or curve.last.get("total_steps", 0.0))
        return int(told) + self.command.offset if math.isfinite(told) and told >= 1 else None

    def _finish(self, best: Best) -> Result:
        """The best goes on to the run's end. A second plateau is not looked for: there is nothing left to try."""
        options = dataclasses.replace(self.options, plateau=None, on_plateau=None, stops_at_plateau=False)
        self.view.say(f"goes on with the best: {best.name}, from step {best.checkpoint.step}")
        home = self.folder / report.BEST
        before = Decisions(home).all if home.is_dir() else []
        begun = next((item["digest"] for item in before if item["kind"] == "start"), "")
        if begun not in ("", best.command.digest):
            # Another list of changes had found another best.
            home.rename(home.with_name(f"{home.name}-{begun[:8]}"))
        self.current = self._supervisor(best.command, home, options, best.checkpoint)
        result = self.current.run()
        self.decisions.add("end", f"{best.name}: {result.why}", state=result.state, best=best.name)
        return result

    def _trial(self, command: Command, home: Path, start: Checkpoint | None, until: int | None) -> Result:
        options = dataclasses.replace(self.options, until=until, plateau=None, on_plateau=None, stops_at_plateau=False)
        self.current = self._supervisor(command, home, options, start)
        before = self.current.decisions
        ends = [item for item in before.all if item["kind"] == "end"]
        if before.state.ended in (PAUSED, DONE) and "checkpoint" in ends[-1]:
            at = Checkpoint(Path(ends[-1]["checkpoint"]), int(ends[-1]["step"]))
            return Result(ends[-1]["state"], ends[-1]["why"], command, history(before.all), at)
        return self.current.run()

    def _tuned_before(self, changes: Sequence[Change]) -> Best | None:
        """What earlier trials found best, where this call asks for no others and that has not ended well."""
        record = next((item for item in reversed(self.decisions.all) if item["kind"] == "tuned"), None)
        if record is None or self.decisions.state.ended == DONE:
            return None
        if changes and digest(changes) != record["list"]:
            self.view.say(f"the list of changes is another than when {record['best']!r} was found best: trials go on")
            return None
        return best_of(record, learned(self.command, self.decisions.state))

    def _paused_before(self) -> Result | None:
        """The pause at a plateau that an earlier call of the same command left, or None."""
        ends = [item for item in self.decisions.all if item["kind"] == "end" and "best" not in item]
        if not ends or ends[-1]["state"] != PAUSED or ends[-1]["why"] != PLATEAU:
            return None
        checkpoint = Checkpoint(Path(ends[-1]["checkpoint"]), int(ends[-1]["step"]))
        known, curve = learned(self.command, self.decisions.state), history(self.decisions.all)
        verdict = Watcher(known, curve, self.view, lambda step: False, plateau=self.options.plateau).verdict
        paused = Result(PAUSED, PLATEAU, known, curve, checkpoint, verdict=verdict)
        return paused if checkpoint.path.exists() else None

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
        """Writes the analysis of a plateau, and its decision where an earlier call has not."""
        page = analysis.write(self.folder, curve, verdict, self.tried, self.lang)
        of = self.current.folder.name if self.current.folder != self.folder else ""
        if any(item["kind"] == "plateau" and item.get("of", "") == of for item in self.decisions.all):
            return
        self.decisions.add("plateau", verdict.reason, step=verdict.step, of=of, report=str(page))
        self.view.say(f"{verdict.reason}: {page}")

    def interrupted(self) -> None:
        """Writes down that somebody asked to end."""
        self.current.interrupted()
        if self.current.decisions is not self.decisions:
            self.decisions.add("interrupted", f"while {self.current.folder.name} ran")

    def write_report(self) -> Path:
        """`report.html` of the run as it stands."""
        return report.write(self.folder, self.command, self.decisions, self.causes, self.lang)
