"""Whether the grafted LLaMA-Factory, switched off, trains as upstream's own tree does: both, from one seed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from demo.runs import RunFailed, losses
from demo.trees import OFFLINE, pristine

SWITCHES = ("dynamic_schedule", "schedule", "moe_router", "probes")
STEPS = 6
ENTRY = "import llamafactory; print(llamafactory.__file__, flush=True); from llamafactory.cli import main; main()"
"""`llamafactory-cli` with a line before it that says whose code runs."""


def compare(python: Path, checkout: Path, config: Path, home: Path) -> dict[str, Any]:
    """Trains as `config` (a file) says but for the method's switches, in both trees at once, in `home`/off.

    Returns of `upstream` and `grafted` `loss`, a hexadecimal float a step, and `weights`, the SHA-256 of the saved
    ones. Raises RunFailed where a run fails, runs other code, or is not what the other is.
    """
    settings = json.loads(config.read_text(encoding="utf-8"))
    plain = {key: value for key, value in settings.items() if key not in SWITCHES}
    trees = {"upstream": pristine(checkout, home / "pristine", ["src"]), "grafted": checkout.absolute()}
    folder = (home / "off").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    begun = {name: _begin(python, tree / "src", plain, folder / name) for name, tree in trees.items()}
    codes = {name: process.wait() for name, process in begun.items()}
    found = {}
    for name, tree in trees.items():
        said = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        if codes[name] or not Path(said.splitlines()[0]).is_relative_to(tree / "src"):
            tail = "\n".join(said.splitlines()[:1] + said.splitlines()[-25:])
            raise RunFailed(f"the run in {tree / 'src'}, switched off, ended with {codes[name]}\n{tail}")
        found[name] = {
            "loss": [loss.hex() for _, loss in losses(folder / name / "trainer_log.jsonl")],
            "weights": [hashlib.sha256((folder / name / "model.safetensors").read_bytes()).hexdigest()],
        }
    if found["upstream"] != found["grafted"] or len(found["upstream"]["loss"]) != STEPS:
        raise RunFailed(f"switched off, the grafted LLaMA-Factory does not train as upstream does: {found}")
    return found


def _begin(python: Path, source: Path, settings: dict[str, Any], output: Path) -> subprocess.Popen[bytes]:
    own = {
        "output_dir": str(output),
        # Both run at once.
        "cache_dir": str(output / "cache"),
        "max_steps": STEPS,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": STEPS // 2,
        "save_strategy": "no",
    }
    output.mkdir(parents=True)
    config, log = output.with_suffix(".yaml"), output.with_suffix(".log")
    config.write_text(json.dumps({**settings, **own}, indent=1), encoding="utf-8")
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(source), "DISABLE_VERSION_CHECK": "1"}
    with log.open("wb") as out:
        return subprocess.Popen(
            [str(python), "-c", ENTRY, "train", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
