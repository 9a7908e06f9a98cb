"""What a stage of a pipeline is, and how it ended."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DONE, KEPT, FAILED, BLOCKED, PLANNED = "done", "kept", "failed", "blocked", "planned"
LEFT_OUT = "left out"
"""Not asked for, and not there from an earlier run: nothing went wrong, and nothing can be built on it."""


@dataclass(frozen=True)
class Stage:
    """One command and what it depends on.

    `inputs` are files and folders by content; `options` any further text that the result depends on (a checkout's
    state, versions of an environment); `environment` says where things lie and how to reach them, and changes nothing.
    `outputs` must be there afterwards, a folder with something in it. What lies in `folder` belongs to the stage: it is
    moved aside before the command runs, unless the stage goes on (`resume`). `before` runs in this process just before
    the command that begins it, and may prepare `folder`.
    """

    name: str
    folder: Path
    command: Sequence[str]
    outputs: Sequence[Path]
    kind: str = ""
    """The step of the pipeline that it belongs to."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    space: int | None = None
    """Bytes that it writes, about; it does not begin where its disk has no room for them."""
    caches: Sequence[str] = ()
    """Names of files that commands leave in their inputs, as patterns: they are no change of an input."""
    before: Callable[[], None] | None = None
    check: Callable[[], str | None] | None = None
    """Says after the command why its output will not do, or None."""
    resume: Callable[[], Sequence[str] | None] | None = None
    """Asked where the stage was begun with just what it depends on now, and was not finished: the command that goes on
    from what is there, to the same outputs as `command` gives in one go, or None to begin anew."""
    inexact: str = ""
    """What `resume` does not restore, where its outputs are not those of one go: the stage's record keeps it."""
    anew: str = ""
    """Why it begins anew when it was interrupted: said to who waits for it."""
    metrics: Sequence[str] = ()
    """Patterns of the metrics files below `folder`, as runners/supervise/metrics reads them: shown while it runs."""
    total: int | None = None
    """Steps (episodes, ...) that it will take, where that is known beforehand."""
    unit: str = "step"
    """What is counted, one of progress.UNITS."""
    figures: Callable[[], Mapping[str, float]] | None = None
    """What else can be shown while it runs: `step`, `total` and metrics by name, empty as long as nothing is known."""
    remedy: str = "mend what the log says and run the same command again: stages that are done are kept"

    def shown(self) -> str:
        """The command as a shell would take it."""
        return shlex.join(self.command)

    def exported(self) -> list[str]:
        """The environment that the command is given, as a shell would take it."""
        return [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `state` is done, kept, failed, blocked or planned; `why` says why it ran or did not."""

    stage: Stage
    state: str
    why: str = ""
    seconds: float = 0.0
    key: str = ""
    inexact: str = ""
    """Where the stage went on from a checkpoint that did not hold everything: when, and what was lost."""

    @property
    def good(self) -> bool:
        return self.state in (DONE, KEPT)
