"""Keeps a native training command running until it is done: why it died, what helps, on from the last good checkpoint.

python -m runners supervise -- llamafactory-cli train RUN.yaml
python -m runners supervise --auto-tune CHANGES.toml -- torchrun --nproc-per-node 8 vla-scripts/finetune.py ...
python -m runners supervise --dry-run LOG
python -m runners supervise --list
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from runners import places, room
from runners.processes import Busy, adopt_orphans, sole
from runners.progress import View
from runners.supervise import changes, masking, report
from runners.supervise.causes import BadTable, Cause, explain, table
from runners.supervise.command import Command, UnknownCommand, families, recognise
from runners.supervise.decisions import Damaged
from runners.supervise.loop import DONE, Options
from runners.supervise.options import parser
from runners.supervise.plateau import Settings
from runners.supervise.remedies import REMEDIES
from runners.supervise.session import Session
from runners.table import ROOT

PAUSED_CODE = 3


class Ended(KeyboardInterrupt):
    """A signal of the batch system: ends like an interruption, with its own exit code."""


def folder_name(command: Command) -> str:
    """A name that tells a reader which run it is, and never two commands alike."""
    return f"{command.output.name}-{command.digest[:8]}"


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def end(number: int, _: object) -> None:
    """Once: a second signal while the command is being ended would leave it running."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else Ended


def refused(text: object) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    options = parser().parse_args(given[:at])
    command = given[at + 1 :]
    if options.command:
        return refused(f"{shlex.join(options.command)}: put the command after --")
    try:
        masking.learn(command, os.environ)
        causes = table(options.causes, REMEDIES)
        known = families(options.upstreams)
        if options.list:
            print(report.listing(causes, known, options.lang))
            return 0
        if options.dry_run:
            print(explain(options.dry_run, causes, options.lang))
            return 0
        if not command:
            return refused("no command: python -m runners supervise [options] -- COMMAND ...")
        return supervise(recognise(command, Path.cwd(), {}, known), causes, options)
    except (UnknownCommand, BadTable, changes.BadChanges, places.Refused, Busy, Damaged, OSError) as error:
        return refused(error)


def told_to(where: places.Places, folder: Path) -> dict[str, str]:
    """What the command is told of places: what somebody chose, and nothing that is a default of this project's."""
    # wandb's own default is the folder that a command runs in: other runs' curves would stand beside this one's.
    return {**({} if os.environ.get("WANDB_DIR") else {"WANDB_DIR": str(folder)}), **where.chosen()}


def output_lock(work: Path, command: Command) -> Path:
    """A folder that is held as long as anything is supervised that writes where `command` does."""
    return work / ".outputs" / hashlib.sha256(os.path.realpath(command.output).encode()).hexdigest()[:16]


def startable(command: Command) -> None:
    """Raises Refused where the program is not there, naming one of our environments that has it."""
    program = command.words[0]
    if shutil.which(program, path=command.variable("PATH")) or (command.folder / program).is_file():
        return
    have = sorted(ROOT.glob(f".venvs/*/bin/{Path(program).name}"))
    hint = f"give its path, {have[0]}" if have else "give its path"
    raise places.Refused(f"{program} is not on PATH: activate the environment that has it, or {hint}")


def outside(command: Command, allowed: bool) -> None:
    """Raises Refused where the command would write its checkpoints below a repository by accident."""
    above = room.repository_above(command.output)
    if above is not None and not allowed:
        key = command.family.settings.get("output", "its output")
        raise places.Refused(
            f"{command.output}, where {command.family.name} writes, lies below the repository {above}: "
            f"choose another {key}, or say --allow-below-repository"
        )


def supervise(command: Command, causes: Sequence[Cause], options: argparse.Namespace) -> int:
    where = places.resolve(options, "supervise")
    startable(command)
    outside(command, where.allowed_below)
    folder = where.work / (options.name or folder_name(command))
    command = command.with_environment(told_to(where, folder))
    tuned = changes.read(options.auto_tune, command) if options.auto_tune else []
    asked = Options(
        attempts=options.attempts,
        adopts=options.adopt,
        hang_after=options.hang_after,
        mirrors=(where.hf_mirror,) if where.hf_mirror else (),
        may_install=options.may_install,
        hub_caches=(where.hub,),
        plateau=None if options.plateau == "off" and not tuned else Settings(options.alpha, options.matters),
        stops_at_plateau=options.plateau == "stop" or bool(tuned),
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    adopt_orphans()
    for number in ENDING:
        signal.signal(number, end)
    # A terminal that is closed is no wish to end: the command is not told either.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with (
        sole(folder) as lock,
        sole(output_lock(where.work, command)),
        View(options.name or command.output.name, lang=options.lang) as view,
    ):
        left = room.in_words(room.free(command.output))
        view.say(f"{command.family.name}: {command.output}, {left} free\nlog, decisions and report: {folder}")
        session = Session(command, folder, causes, view, asked, lock=lock, lang=options.lang)
        try:
            result = session.run(tuned, trial_steps=options.trial_steps)
        except KeyboardInterrupt as signalled:
            session.interrupted()
            view.say("ended on request: the same command goes on from the last good checkpoint")
            return 143 if isinstance(signalled, Ended) else 130
        finally:
            view.say(f"report: {session.write_report()}")
        for line in report.closing(result, options.lang):
            view.say(line)
    return 0 if result.state == DONE else PAUSED_CODE if result.state == "paused" else 1
