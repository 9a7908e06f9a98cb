"""Trains a tiny Qwen3-MoE on three data sets whose order evaluations decide, with activation probes, natively.

    python -m runners infodyn-llamafactory --work FOLDER --steps 480 --router gaussian

Needs `make llamafactory`. Nothing is downloaded: model, tokenizer and data are made in FOLDER (without --work below
the place for runs), and FOLDER/train.yaml is what `llamafactory-cli train` reads. The run lies in FOLDER/run:
`schedule.jsonl` there has every choice with its reason and every evaluation, `probes/` the activations, `log.txt` what
was printed. To resume a stopped run, run the same command again: it goes on from the last checkpoint, to the same
weights.
`python -m runners analyze-oid --run-dir FOLDER/run` follows, in the environment of `make infodyn`; without one it is
named and left out.
Exit codes: 0 done, 1 the training failed, 2 bad options or no environment, 130 interrupted, else the analysis's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from look import words
from runners import places, places_options, room, table, work_folder
from runners.digests import Digests, checkout_state, write_whole
from runners.going_on import going_on
from runners.infodyn_toy import settings, write_data, write_model
from runners.processes import Busy, sole
from runners.progress import View
from runners.stage import Stage
from runners.stages import Engine
from runners.versions import versions_of

NAME = "infodyn_llamafactory"
CHECKOUT = table.ROOT / "upstreams" / "LLaMA-Factory"
ANALYST = table.interpreter("infodyn")
CLI = Path(sys.executable).parent / "llamafactory-cli"
SIZE = 256 << 20
"""Bytes that model, checkpoint, probes and analysis take at most."""
NEEDED = ("torch", "transformers", "llamafactory")


def training(home: Path, options: argparse.Namespace, environment: Mapping[str, str], engine: Engine) -> Stage:
    """The training as a stage in `home`/run, what it needs being written first; a stopped one goes on."""
    write_data(home / "data", options.seed)
    write_model(home / "model", options.seed)
    config, run = home / "train.yaml", home / "run"
    write_whole(config, json.dumps(settings(home, options), indent=2))
    added = {
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT / "src"), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [str(CLI), "train", str(config)]
    return Stage(
        name="train",
        folder=run,
        command=command,
        outputs=[run / "schedule.jsonl", run / "train_results.json"],
        inputs={"configuration": config, "model": home / "model", "data": home / "data"},
        options={"checkout": checkout_state(CHECKOUT, engine.digests), **versions_of(sys.executable, NEEDED)},
        environment=added,
        # The Trainer and the schedule restore everything: weights, choices and probes come out as in one go.
        resume=lambda: going_on(command, home, added, engine.say),
        metrics=["trainer_log.jsonl"],
        total=options.steps,
    )


def show(log: Path) -> None:
    """Prints every choice with its reason, and the last accuracy and PI of each task."""
    last: dict[str, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "choice" in entry:
            choice = entry["choice"]
            known = "  ".join(f"{t} {m['avg_accuracy']:.3f}/{m['avg_pi']:.3f}" for t, m in last.items())
            print(
                f"step {entry['step']:4}  {choice['task']:8} {choice['kind']:7} {known}\n           {choice['reason']}"
            )
        else:
            last[entry["task"]] = entry["metrics"]
    for task, metrics in last.items():
        print(f"{task:8} accuracy {metrics['avg_accuracy']:.3f}, PI {metrics['avg_pi']:.3f} at step {metrics['step']}")


def parser_of() -> argparse.ArgumentParser:
    parser = table.parser(NAME, __doc__)
    parser.add_argument("folder", nargs="?", help="where everything lies, as --work")
    parser.add_argument("--steps", type=int, default=480, help="optimizer steps at most (default 480)")
    parser.add_argument("--chunk-steps", type=int, default=20, help="steps on one task before the next choice")
    parser.add_argument("--policy", default="progress", choices=("progress", "learning", "need"))
    parser.add_argument("--router", default="linear", choices=("linear", "gaussian"))
    parser.add_argument("--seed", type=int, default=7)
    places_options.add_options(parser, NAME, data=False, hub=False)
    words.add_option(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of()
    options = parser.parse_args(arguments)
    if options.folder and options.work:
        parser.error("FOLDER and --work name the same place: give one")
    if min(options.steps, options.chunk_steps) < 1:
        parser.error("--steps and --chunk-steps must be at least 1")
    if not (CHECKOUT / "src" / "llamafactory" / "infodyn").is_dir():
        print(f"{CHECKOUT} is not grafted: run `python apply.py LLaMA-Factory`", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"{sys.executable} has no {', '.join(missing)}: leave --here out, and it runs with "
            f"{table.interpreter('LLaMA-Factory')}, which `make llamafactory` builds",
            file=sys.stderr,
        )
        return 2
    options.work = options.folder or options.work
    try:
        here = places.resolve(options, NAME)
        home = here.work.resolve()
        room.refuse_below(here, {"--work": SIZE})
        room.need(home, SIZE, "the run")
        work_folder.claim(home)
    except places.Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with sole(home) as lock, View(home.name, lang=options.lang) as view:
            engine = Engine(Digests(home / "digests.json"), lock=lock, view=view)
            if not engine.run(training(home, options, here.environment(), engine)).good:
                return 1
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again, it goes on from the last checkpoint", file=sys.stderr)
        return 130
    show(home / "run" / "schedule.jsonl")
    probed = sorted((home / "run" / "probes").rglob("*.pt.gz"))
    print(f"{len(probed)} probe files in {home / 'run' / 'probes'}")
    if not probed:
        print("no analysis: all tasks were grokked before the first evaluation that is probed; try fewer --chunk-steps")
        return 0
    analysis = table.command("analyze-oid", "--run-dir", home / "run", python=ANALYST)
    if not ANALYST.exists():
        print(f"no analysis: {ANALYST} is not there; `make infodyn`, then {' '.join(analysis)}")
        return 0
    return subprocess.run([*analysis, "--top-n-experts", "3", "--lang", options.lang], check=False).returncode
