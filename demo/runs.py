"""The demo's four training runs: their YAML, the upstream's own command, and what its log says."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.digests import write_whole

METHODS = {"use_hsa": "true", "hsa_policy": "hierarchical", "use_feedback": "true"}
COMMON = {
    "stage": "sft",
    "do_train": "true",
    "finetuning_type": "full",
    "cutoff_len": "400",
    "neat_packing": "true",
    "overwrite_cache": "true",
    "overwrite_output_dir": "true",
    "per_device_train_batch_size": "4",
    "learning_rate": "5.0e-3",
    "max_steps": "60",
    "logging_steps": "2",
    "save_steps": "1000",
    "report_to": "none",
    "seed": "7",
}
KINDS = {
    "text": {"model": "qwen3", "dataset": "errands", "template": "qwen3_nothink"},
    "images": {"model": "qwen2_5_vl", "dataset": "sights", "template": "qwen2_vl"},
}


class RunFailed(Exception):
    """The upstream's command did not end well; the message holds the end of its log."""


@dataclass(frozen=True)
class Run:
    """One training run: `kind` names model and data (a key of KINDS), `on` says whether the methods are on."""

    kind: str
    on: bool
    home: Path

    @property
    def name(self) -> str:
        return f"{self.kind}-{'on' if self.on else 'off'}"

    @property
    def folder(self) -> Path:
        return self.home / "runs" / self.name

    @property
    def config(self) -> Path:
        return self.home / "runs" / f"{self.name}.yaml"

    def settings(self) -> dict[str, str]:
        """What the YAML says, key by key."""
        kind = KINDS[self.kind]
        own = {
            "model_name_or_path": f"{self.home}/models/{kind['model']}",
            "dataset": kind["dataset"],
            "dataset_dir": f"{self.home}/data",
            "media_dir": f"{self.home}/data",
            "cache_dir": f"{self.home}/cache",
            "template": kind["template"],
            "output_dir": str(self.folder),
        }
        return own | COMMON | (METHODS if self.on else {})

    def command(self, cli: Path) -> list[str]:
        return [str(cli), "train", str(self.config)]


def all_runs(home: Path) -> list[Run]:
    return [Run(kind, on, home) for kind in KINDS for on in (False, True)]


def write_config(run: Run) -> str:
    """Writes the run's YAML and returns it."""
    text = "".join(f"{key}: {value}\n" for key, value in run.settings().items())
    run.config.parent.mkdir(parents=True, exist_ok=True)
    run.config.write_text(text, encoding="utf-8")
    return text


def train(run: Run, cli: Path, state: str) -> dict[str, Any]:
    """Runs the upstream's command unless it was run before for the same YAML and the same `state` of everything else.

    Returns command, seconds and the losses as [step, loss] pairs.

    Raises RunFailed with the end of the log.
    """
    key = hashlib.sha256(f"{write_config(run)}\0{state}".encode()).hexdigest()
    record = run.folder / "demo.json"
    if record.exists():
        known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if known["key"] == key:
            print(f"    {run.name}: kept from an earlier run ({known['seconds']:.0f} s then)", flush=True)
            return known
    shutil.rmtree(run.folder, ignore_errors=True)
    log = run.config.with_suffix(".log")
    command = run.command(cli)
    print(f"    {' '.join(command)}", flush=True)
    start = time.monotonic()
    logged(command, log)
    seconds, trace = time.monotonic() - start, losses(run.folder / "trainer_log.jsonl")
    result = {"key": key, "command": " ".join(command), "seconds": seconds, "losses": trace}
    write_whole(record, json.dumps(result))
    print(f"    {run.name}: loss {trace[0][1]:.2f} -> {trace[-1][1]:.2f} in {seconds:.0f} s", flush=True)
    return result


def logged(command: Sequence[str], log: Path, *, lines: int = 25, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command with all that it says in `log`, and returns that. Raises RunFailed with its last `lines`."""
    with log.open("w", encoding="utf-8") as out:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        ).returncode
    said = log.read_text(encoding="utf-8", errors="replace")
    if code:
        tail = "\n".join(said.splitlines()[-lines:])
        raise RunFailed(f"{' '.join(command)} ended with {code}; the whole log is {log}\n{tail}")
    return said


def losses(trainer_log: Path) -> list[list[float]]:
    """The [step, loss] pairs of the upstream's `trainer_log.jsonl`."""
    rows = [json.loads(line) for line in trainer_log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [[row["current_steps"], row["loss"]] for row in rows if "loss" in row]


def state_of(checkout: Path, *files: Path) -> str:
    """One digest of all that a run depends on beside its YAML: the checkout as it stands, and `files`."""
    digest = hashlib.sha256()
    for arguments in (["rev-parse", "HEAD"], ["diff", "HEAD"]):
        digest.update(subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, check=True).stdout)
    for path in [*new_files(checkout), *files]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def new_files(checkout: Path) -> list[Path]:
    """The files that the graft added to `checkout`: untracked source files, ignored or not, but no byte code."""
    listing = subprocess.run(
        ["git", "-C", str(checkout), "ls-files", "-z", "--others", "--exclude=__pycache__/", "src"],
        capture_output=True,
        check=True,
    ).stdout
    return sorted(checkout / name.decode() for name in listing.split(b"\0") if name)


def fell(result: dict[str, Any]) -> bool:
    """Whether the loss ended below half of where it began."""
    return bool(result["losses"][-1][1] < 0.5 * result["losses"][0][1])
