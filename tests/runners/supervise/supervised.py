"""Runs the supervisor as a person does, over the trainer of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TRAINER = HERE / "trainer.py"


@dataclass(frozen=True)
class Run:
    """One call of the supervisor, and where it left its things."""

    code: int
    said: str
    folder: Path
    output: Path

    @property
    def decisions(self) -> list[dict[str, Any]]:
        lines = (self.folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.decisions if item["kind"] == kind]

    @property
    def remedies(self) -> list[str]:
        """`cause/remedy` of every remedy taken, in order."""
        return [f"{item['cause']}/{item['remedy']}" for item in self.of("remedy")]

    def final(self) -> Any:
        """The weights that the trainer ended with, bit for bit."""
        return json.loads((self.output / "final.json").read_text(encoding="utf-8"))

    def steps(self) -> list[int]:
        """Every step that was trained, in order, over all attempts."""
        rows = (self.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(row)["step"] for row in rows]


def trained(output: Path, *arguments: str) -> Any:
    """The final weights of an uninterrupted run of the trainer by itself."""
    subprocess.run([sys.executable, str(TRAINER), "--output", str(output), *arguments], check=True, capture_output=True)
    return json.loads((output / "final.json").read_text(encoding="utf-8"))


def command_of(
    tmp_path: Path, arguments: Sequence[str], options: Sequence[str] = (), python: str = sys.executable
) -> list[str]:
    """The supervisor's words over a trainer with `arguments`."""
    own = ["--work", str(tmp_path / "work"), "--name", "run", "--upstreams", str(HERE / "trainer.toml"), "--lang", "en"]
    trainer = [python, str(TRAINER), "--output", str(tmp_path / "output"), *arguments]
    return [sys.executable, str(ROOT / "runners"), "supervise", *own, *options, "--", *trainer]


def supervised(
    tmp_path: Path,
    *arguments: str,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
    before: Sequence[str] = (),
    patience: float = 120.0,
) -> Run:
    """A supervised trainer, to its end. `before` are words in front of the supervisor's own."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRAFT_", "MUJOCO_"))}
    run = subprocess.run(
        [*before, *command_of(tmp_path, arguments, options, python)],
        cwd=tmp_path,
        env={**told, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience,
    )
    return Run(run.returncode, run.stdout, tmp_path / "work" / "run", tmp_path / "output")
