"""Keeps a native training command running until it is done: why it died, what helps, on from the last good checkpoint.

python -m runners supervise -- llamafactory-cli train RUN.yaml
python -m runners supervise --auto-tune CHANGES.toml -- torchrun --nproc-per-node 8 vla-scripts/finetune.py ...
python -m runners supervise --dry-run LOG
python -m runners supervise --list
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from look import words
from runners import places
from runners.processes import Busy, adopt_orphans, sole
from runners.progress import View
from runners.supervise import changes, report
from runners.supervise.causes import BadTable, Cause, explain, table
from runners.supervise.command import Command, UnknownCommand, families, recognise
from runners.supervise.decisions import Damaged
from runners.supervise.loop import DONE, Options
from runners.supervise.plateau import Settings
from runners.supervise.session import Session
from runners.table import ROOT

EPILOG = """\
    python -m runners supervise -- .venvs/LLaMA-Factory/bin/llamafactory-cli train RUN.yaml
    python -m runners supervise --plateau stop -- torchrun --nproc-per-node 8 vla-scripts/finetune.py --vla_path MODEL
    python -m runners supervise --auto-tune CHANGES.toml -- llamafactory-cli train RUN.yaml     (docs/supervise.md)
    python -m runners supervise --dry-run train.log

The command goes after --, as it would be typed. Nothing of it is edited: what a remedy changes is put on the command
line in upstream's own syntax. Everything is kept in WORK/supervise/NAME: log.txt (the whole log with time stamps),
decisions.jsonl (every decision), report.html, analysis.html. Call the same command again to go on after an
interruption. A batch system's SIGTERM and SIGUSR1 end the command, and the requeued job goes on.

exit codes: 0 all steps done; 1 stopped, with the lines that matter; 2 bad options; 3 paused where the loss stopped
falling; 130 interrupted, 143 ended by SIGTERM or SIGUSR1.
"""
PAUSED_CODE = 3


class Ended(KeyboardInterrupt):
    """A signal of the batch system: ends like an interruption, with its own exit code."""


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m runners supervise",
        usage="%(prog)s [options] -- COMMAND ...",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "--name",
        help="of the folder below WORK/supervise; default: the output folder's, and a digest of the command",
    )
    add(
        "--attempts",
        type=int,
        default=Options.attempts,
        metavar="N",
        help="begin at most N times (default %(default)s)",
    )
    add(
        "--hang-after",
        type=float,
        default=Options.hang_after,
        metavar="S",
        help="seconds without any output after which a command counts as hung; 0 never (default %(default)g)",
    )
    add(
        "--may-install",
        action="store_true",
        help="let a missing package be installed with pip into the command's environment",
    )
    add(
        "--adopt",
        action="store_true",
        help="go on from checkpoints that are there already, of a run without supervisor",
    )
    add(
        "--hf-mirror",
        metavar="URL",
        help="asked where the model hub cannot be reached; default $GRAFT_HF_MIRROR, or places.toml",
    )
    add(
        "--upstreams",
        type=Path,
        metavar="FILE",
        help="further commands, in the form of runners/supervise/upstreams.toml",
    )
    add("--causes", type=Path, metavar="FILE", help="further causes, in the form of runners/supervise/causes.toml")
    judged = options.add_argument_group("when the loss has stopped falling (docs/supervise.md)")
    judged.add_argument(
        "--plateau",
        choices=("report", "stop", "off"),
        default="report",
        help="report: write the analysis and go on; stop: and end at the next checkpoint (default %(default)s)",
    )
    judged.add_argument(
        "--auto-tune",
        type=Path,
        metavar="FILE",
        help="end at the next checkpoint and try these changes, keeping the best",
    )
    judged.add_argument(
        "--trial-steps", type=int, metavar="N", help="length of a trial; default a tenth of the run's steps"
    )
    judged.add_argument(
        "--matters",
        type=float,
        default=Settings.matters,
        metavar="SHARE",
        help="a loss that falls at less than this share of its mean rate so far has stopped (default %(default).2g)",
    )
    judged.add_argument(
        "--alpha",
        type=float,
        default=Settings.alpha,
        help="how often at most a run that still falls may be said to have stopped (default %(default)g)",
    )
    tell = options.add_argument_group("without a command")
    tell.add_argument(
        "--dry-run", type=Path, metavar="LOG", help="explain a log: why it died and what would be done; runs nothing"
    )
    tell.add_argument(
        "--list", action="store_true", help="the table of causes and remedies, and the commands that are known"
    )
    places.add_options(options, "supervise", data=False)
    words.add_option(options)
    add("command", nargs="*", metavar="COMMAND", help=argparse.SUPPRESS)
    return options


def folder_name(command: Command) -> str:
    """A name that tells a reader which run it is, and never two commands alike."""
    return f"{command.output.name}-{command.digest[:8]}"


def end(number: int, _: object) -> None:
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
        causes = table(options.causes)
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
    origin = {"HF_HOME": "hf_home", "HF_ENDPOINT": "hf_endpoint", **dict.fromkeys(places.OFFLINE, "offline")}
    chosen = {
        name: value
        for name, value in where.environment().items()
        if name in origin and where.origins.get(origin[name], "default") != "default"
    }
    # wandb's own default is the folder that a command runs in: other runs' curves would stand beside this one's.
    return chosen if os.environ.get("WANDB_DIR") else {"WANDB_DIR": str(folder), **chosen}


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
    above = places.repository_above(command.output)
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
    folder.mkdir(parents=True, exist_ok=True)
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, end)
    with sole(folder) as lock, View(options.name or command.output.name, lang=options.lang) as view:
        room = places.in_words(places.free(command.output))
        view.say(f"{command.family.name}: {command.output}, {room} free\nlog, decisions and report: {folder}")
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
