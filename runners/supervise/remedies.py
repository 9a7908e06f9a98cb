"""What each remedy of the table does: a change of the next attempt, or why it cannot be had.

A remedy changes options, variables and which checkpoint is taken. It never edits code or a file of the user's.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runners import headless
from runners.drawing import NoBackend
from runners.room import in_words, size_of
from runners.supervise import checkpoints
from runners.supervise.attempt import own
from runners.supervise.causes import Diagnosis, Remedy
from runners.supervise.checkpoints import Checkpoint
from runners.supervise.command import Command
from runners.supervise.decisions import State


class NotPossible(Exception):
    """The remedy cannot help here; the message says why."""


@dataclass(frozen=True)
class Change:
    """What the next attempt does otherwise."""

    says: str
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    factor: float | None = None
    """What the rate in the checkpoint is multiplied by."""
    wait: float = 0.0
    """Seconds before the next attempt."""


@dataclass(frozen=True)
class Scene:
    """What a remedy may look at. `begun` is the checkpoint that the dead attempt began from."""

    command: Command
    diagnosis: Diagnosis
    remedy: Remedy
    uses: int
    state: State
    begun: Checkpoint | None
    mirrors: Sequence[str] = ()
    may_install: bool = False
    hub_caches: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def variable(self, name: str) -> str | None:
        """What the command is told, by its own environment or the supervisor's."""
        return self.command.environment.get(name) or self.environment.get(name)

    def number(self, role: str) -> float:
        """A setting of the command as a number. Raises NotPossible where its value is not known."""
        value = self.command.get(role)
        try:
            return float(value if value is not None else "")
        except ValueError:
            raise NotPossible(f"{self.command.family.name} has no known {role} (found {value!r})") from None


def resume(scene: Scene) -> Change:
    return Change("goes on from the last good checkpoint")


def wait(scene: Scene) -> Change:
    seconds = float(scene.remedy.values.get("seconds", 30.0)) * 2.0**scene.uses
    return Change(f"waits {seconds:g} s and tries again", wait=seconds)


def halve_batch(scene: Scene) -> Change:
    """A smaller batch with more accumulation: the batch of an optimizer step stays what it was."""
    batch, accumulation = int(scene.number("batch")), int(scene.number("accumulation"))
    if batch < 2:
        raise NotPossible(f"the batch is {batch} already")
    # A batch that is not even is divided by its smallest factor: the product has to stay.
    factor = next(number for number in range(2, batch + 1) if batch % number == 0)
    keys = scene.command.family.settings
    return Change(
        f"batch {batch} to {batch // factor}, accumulation {accumulation} to {accumulation * factor}: "
        "an optimizer step sees as much as before",
        settings={keys["batch"]: str(batch // factor), keys["accumulation"]: str(accumulation * factor)},
    )


def lower_rate(scene: Scene) -> Change:
    rate, factor = scene.number("rate"), float(scene.remedy.values.get("factor", 0.5))
    return Change(
        f"learning rate {rate:g} to {rate * factor:g}, from the last checkpoint with finite weights",
        settings={scene.command.family.settings["rate"]: repr(rate * factor)},
        factor=factor,
    )


def other_gl(scene: Scene) -> Change:
    """The next way to draw that really draws in the command's interpreter."""
    used = {*scene.state.tried.get("MUJOCO_GL", ()), scene.variable("MUJOCO_GL") or ""}
    order = [name for name in headless.ORDER if name not in used]
    if not order:
        raise NotPossible(f"{', '.join(headless.ORDER)} were all tried")
    try:
        backend = headless.backend_for(scene.command.python, order)
    except NoBackend as error:
        raise NotPossible(str(error)) from None
    return Change(f"draws with {backend.name}, which was tried and works", environment=backend.variables)


def mirror(scene: Scene) -> Change:
    """The next endpoint of the hub that answers."""
    used = {*scene.state.tried.get("HF_ENDPOINT", ()), (scene.variable("HF_ENDPOINT") or "").rstrip("/")}
    refused = []
    for endpoint in (name.rstrip("/") for name in scene.mirrors):
        if endpoint in used:
            continue
        why = unreachable(endpoint)
        if why is None:
            return Change(f"asks {endpoint} in place of the hub", environment={"HF_ENDPOINT": endpoint})
        refused.append(f"{endpoint}: {why}")
    raise NotPossible("; ".join(refused) or "no mirror is named: --hf-mirror URL, or hf_mirror in runners/places.toml")


def unreachable(endpoint: str, patience: float = 10.0) -> str | None:
    """Why a server does not answer, or None. Any answer counts, an error of HTTP too."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=patience):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(error)


def offline(scene: Scene) -> Change:
    """From what was downloaded before, and without a server for curves."""
    told = {str(name): str(value) for name, value in scene.remedy.values.get("environment", {}).items()}
    if all(scene.variable(name) == value for name, value in told.items()):
        raise NotPossible("the command is offline already")
    if "HF_HUB_OFFLINE" in told and not any(place.is_dir() and any(place.iterdir()) for place in scene.hub_caches):
        raise NotPossible("nothing was downloaded before: " + ", ".join(map(str, scene.hub_caches)))
    return Change("works from what is on this machine: " + ", ".join(map("=".join, told.items())), environment=told)


def free_checkpoints(scene: Scene) -> Change:
    return Change(removed(scene.command, scene.state))


def removed(command: Command, state: State) -> str:
    """Removes checkpoints that this run wrote itself: those cut short, and old ones, the newest good one never.

    Returns what was removed. Raises NotPossible where nothing may be.
    """
    mine = own(command, state)
    good = [item for item in mine if checkpoints.complaint(item, command, finite=False) is None]
    if not good:
        raise NotPossible("this run has no good checkpoint yet, so none may be removed")
    old = {item.path for item in checkpoints.older(command)}
    if sum(size_of(item.path) for item in good if item.path in old) < size_of(good[-1].path):
        # Two are kept where that leaves room for the next one.
        old |= {item.path for item in good[:-1]}
    # What was moved aside is damaged; the newest may yet tell why.
    damaged = [item for item in checkpoints.aside(command)[:-1] if checkpoints.mark(item, command) not in state.kept]
    going = [*damaged, *(item for item in mine if item.path in old)]
    if not going:
        raise NotPossible("this run has no older checkpoint that could be removed")
    freed = sum(size_of(item.path) for item in going)
    for item in going:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink()
    names = ", ".join(item.path.name for item in going)
    return f"removed {len(going)} older checkpoints of this run, {in_words(freed)}: {names}"


def drop_checkpoint(scene: Scene) -> Change:
    if scene.begun is None:
        raise NotPossible("the attempt did not begin from a checkpoint that the supervisor chose")
    aside = checkpoints.quarantine(scene.begun)
    return Change(f"moved the checkpoint aside that could not be read, to {aside}, and takes the one before")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def new_port(scene: Scene) -> Change:
    port = str(free_port())
    return Change(f"takes port {port}", environment={"MASTER_PORT": port})


def longer_timeout(scene: Scene) -> Change:
    seconds, factor = scene.number("timeout"), float(scene.remedy.values.get("factor", 4.0))
    return Change(
        f"ranks wait {seconds * factor:g} s for each other, {seconds:g} s before",
        settings={scene.command.family.settings["timeout"]: f"{seconds * factor:.0f}"},
    )


def fewer_workers(scene: Scene) -> Change:
    workers = int(scene.number("workers"))
    if workers == 0:
        raise NotPossible("the data is loaded without workers already")
    return Change(
        f"loads data in the main process, not in {workers} workers",
        settings={scene.command.family.settings["workers"]: "0"},
    )


def more_files(scene: Scene) -> Change:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        raise NotPossible(f"the limit of open files is at its most: {hard}")
    # Children inherit the limit of this process.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Change(f"lets processes open {hard} files, {soft} before")


def install(scene: Scene) -> Change:
    package = str(scene.diagnosis.found.get("package", ""))
    package = str(scene.remedy.values.get("packages", {}).get(package, package))
    if not package:
        raise NotPossible("the log does not name the package")
    command = [scene.command.python, "-m", "pip", "install", package]
    if not scene.may_install:
        raise NotPossible(f"packages are installed only with --may-install; by hand: {' '.join(command)}")
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if run.returncode:
        raise NotPossible(f"{' '.join(command)} ended with {run.returncode}: {run.stderr.strip()[-500:]}")
    return Change(f"installed {package} into {scene.command.python}'s environment")


def report(scene: Scene) -> Change:
    raise NotPossible("no machine can mend this")


REMEDIES: Mapping[str, Callable[[Scene], Change]] = {
    made.__name__: made
    for made in (
        *(resume, wait, halve_batch, lower_rate, other_gl, mirror, offline, free_checkpoints, drop_checkpoint),
        *(new_port, longer_timeout, fewer_workers, more_files, install, report),
    )
}


def choose(
    scene_of: Callable[[Remedy, int], Scene],
    diagnosis: Diagnosis,
    state: State,
    plan: Callable[[Remedy], None],
) -> tuple[Remedy | None, Change | None, list[str]]:
    """The first remedy of the cause that is possible and not used up: (remedy, change, why the ones before are not).

    `plan` is told of a remedy before it is begun: some remove files, install, or raise limits.
    """
    refused: list[str] = []
    cause = diagnosis.cause
    for remedy in cause.remedies if cause else ():
        uses = state.used[f"{cause.name}/{remedy.name}"] if cause else 0
        if remedy.limit and uses >= remedy.limit:
            refused.append(f"{remedy.name}: taken {uses} times already")
            continue
        plan(remedy)
        try:
            return remedy, REMEDIES[remedy.name](scene_of(remedy, uses)), refused
        except NotPossible as error:
            refused.append(f"{remedy.name}: {error}")
    return None, None, refused
