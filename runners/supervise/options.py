"""The command line of `python -m runners supervise`."""

from __future__ import annotations

import argparse
from pathlib import Path

from look import words
from runners import places_options
from runners.supervise.loop import Options
from runners.supervise.plateau import Settings

EPILOG = """\
    python -m runners supervise -- .venvs/LLaMA-Factory/bin/llamafactory-cli train RUN.yaml
    python -m runners supervise --plateau stop -- torchrun --nproc-per-node 8 vla-scripts/finetune.py --vla_path MODEL
    python -m runners supervise --auto-tune CHANGES.toml -- llamafactory-cli train RUN.yaml     (docs/supervise.md)
    python -m runners supervise --dry-run train.log

The command goes after --, as it would be typed. Nothing of it is edited: what a remedy changes is put on the command
line in upstream's own syntax. Everything is kept in WORK/supervise/NAME: log.txt (the whole log with time stamps),
decisions.jsonl (every decision), report.html, analysis.html. Call the same command again to go on after an
interruption. A batch system's SIGTERM and SIGUSR1 end the command, and the requeued job goes on. A terminal that
goes away (SIGHUP) ends nothing.

exit codes: 0 all steps done; 1 stopped, with the lines that matter; 2 bad options; 3 paused where the loss stopped
falling; 130 interrupted, 143 ended by SIGTERM or SIGUSR1.
"""


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m runners supervise",
        usage="%(prog)s [options] -- COMMAND ...",
        description="Keeps a native training command running until it is done: why it died, what helps, on from there.",
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
        help="give up after N attempts in a row that leave no newer checkpoint (default %(default)s)",
    )
    add(
        "--hang-after",
        type=float,
        default=Options.hang_after,
        metavar="S",
        help="seconds without output or metrics after which a command counts as hung; 0 never (default %(default)g)",
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
    places_options.add_options(options, "supervise", data=False)
    words.add_option(options)
    add("command", nargs="*", metavar="COMMAND", help=argparse.SUPPRESS)
    return options
