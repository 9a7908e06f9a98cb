"""The launch lines that docs/launching.md marks, and their run at this size: a process a node, all on the loopback."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "launching.md"
SCRIPTS = sorted((ROOT / "docs" / "slurm").glob("*.sbatch"))
MARKED = re.compile(r"(?ms)^```bash line=(?P<name>\S+)(?P<sizes>[^\n]*)\n(?P<text>.*?)^```$")
PATIENCE = 400.0
"""Seconds for one line, most of them spent on imports."""
GRACE = 30.0
"""Seconds that a launcher has to end its workers."""


@dataclass(frozen=True)
class Line:
    name: str
    text: str
    nodes: int
    gpus: int


def lines() -> dict[str, Line]:
    """Every marked block of the page, by its name."""
    found = {}
    for block in MARKED.finditer(PAGE.read_text(encoding="utf-8")):
        sizes = dict(each.split("=") for each in block["sizes"].split())
        assert block["name"] not in found, f"two blocks are called {block['name']}"
        assert sizes.keys() <= {"nodes", "gpus"}, sizes
        nodes, gpus = (int(sizes.get(key, "1")) for key in ("nodes", "gpus"))
        found[block["name"]] = Line(block["name"], block["text"], nodes, gpus)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(python: Path, **more: str) -> dict[str, str]:
    """As with `python`'s environment active, without a GPU, a hub, or another interface than the loopback."""
    own = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
    return {**os.environ, **own, **more}


def run(
    line: Line, folder: Path, around: Mapping[str, str], arguments: Sequence[object] = (), **variables: object
) -> list[str]:
    """Runs the block as it stands, once a node, in `folder`; what each node printed. Fails where one fails."""
    shared = {"NNODES": line.nodes, "GPUS": line.gpus, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    script = f"set -eu\nARGUMENTS=({shlex.join(map(str, arguments))})\n{line.text}"
    logs = [folder / f"{line.name}.{node}.log" for node in range(line.nodes)]
    running = []
    for node, log in enumerate(logs):
        named = {key: str(value) for key, value in {**shared, **variables, "NODE_RANK": node}.items()}
        with log.open("wb") as out:
            running.append(
                subprocess.Popen(
                    ["bash", "-c", script],
                    cwd=folder,
                    env={**around, **named},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    end = time.monotonic() + PATIENCE
    try:
        # One that failed leaves the other waiting for it.
        while any(each.poll() is None for each in running) and not any(each.returncode for each in running):
            assert time.monotonic() < end, [log.read_text()[-3000:] for log in logs]
            time.sleep(0.2)
    finally:
        for each in running:
            end_group(each)
    said = [log.read_text(errors="replace") for log in logs]
    assert [each.returncode for each in running] == [0] * line.nodes, [text[-4000:] for text in said]
    return said


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a launcher that is still at work, asked first: its workers have sessions of their own, and it ends them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # All of them may be done already.
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(GRACE)
