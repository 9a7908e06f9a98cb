"""Metrics files as wandb and TensorBoard write them: for tests in the upstreams' environments, and the files of data/.

    python -m tests.runners.supervise.library_metrics wandb     in the environment of openvla (0.28) or starVLA (0.31)
    python -m tests.runners.supervise.library_metrics events    in the environment of openvla

writes data/ anew: a file, and logged.json with what was logged into it. The files hold no name of the machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent / "data"
Logged = tuple[int, Mapping[str, Any]]
# Sums of powers of two: TensorBoard keeps 32 bits of a number.
ROWS: tuple[Logged, ...] = tuple(
    (
        10 * place,
        {"train_loss": 3.0 - 0.125 * place, "learning_rate/base": 0.5**place, "probes": {"1": {"mean": place}}},
    )
    for place in range(8)
)
HARD: tuple[Logged, ...] = (
    (80, {"train_loss": float("nan"), "success_rate/total": 0.25}),
    (90, {"train_loss": float("inf"), "text": 'a "word"', "flag": True}),
    (100, {"train_loss": -(2.0**-20), "grad_norm": 2.0**40}),
)
ALL = ROWS + HARD
STYLES: tuple[Mapping[str, Any], ...] = ({}, {"new_style": True}, {"double_precision": True, "new_style": True})


def wandb_run(folder: Path, rows: Sequence[Logged], watch: Callable[[], None] = lambda: None, **settings: Any) -> Path:
    """The file of an offline run that logged `rows`; `watch` is called after each."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    quiet = wandb.Settings(
        mode="offline",
        root_dir=str(folder),
        console="off",
        silent=True,
        host="host",
        program="train.py",
        username="user",
        email="user",
        run_id="tiny",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        **settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(dir=str(folder), project="project", name="name", settings=quiet)
    for step, values in rows:
        run.log(dict(values), step=step)
        watch()
    run.finish()
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return path


def event_file(folder: Path, rows: Sequence[Logged], watch: Callable[[], None] = lambda: None) -> Path:
    """The file of a SummaryWriter that was given `rows`, the ways of writing a scalar in turn, and other things."""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        writer.add_text("settings", "no scalar")
        for place, (step, values) in enumerate(rows):
            for name, value in scalars(values).items():
                writer.add_scalar(name, value, step, **STYLES[place % len(STYLES)])
            if place == 1:
                writer.add_histogram("weights", np.arange(8.0), step)
                writer.add_image("picture", np.zeros((3, 4, 4), dtype=np.uint8), step)
            writer.flush()
            watch()
    (path,) = folder.glob("*tfevents*")
    return path


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """What of `values` TensorBoard can take as scalars."""
    return {name: float(value) for name, value in values.items() if type(value) in (int, float)}


def main() -> None:
    kind = sys.argv[1]
    if kind == "wandb":
        import wandb

        path, name = wandb_run(DATA / "work", ALL), f"wandb-{'.'.join(wandb.__version__.split('.')[:2])}.wandb"
        logged = [[step, dict(values)] for step, values in ALL]
    else:
        import tensorboard

        path = event_file(DATA / "work", ALL)
        name = f"events.out.tfevents.1.tensorboard-{'.'.join(tensorboard.__version__.split('.')[:2])}"
        logged = [[step, scalars(values)] for step, values in ALL]
    path.replace(DATA / name)
    index = DATA / "logged.json"
    known = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    known[name] = logged
    index.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
