"""The batch scripts of docs/slurm with stand-ins for srun and scontrol: two nodes, the end on a signal, the requeue."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launching.lines import ROOT, SCRIPTS, end_group

SRUN = """#!PYTHON
import os, signal, subprocess, sys
assert sys.argv[1] == "--kill-on-bad-exit=1", sys.argv
running = []
# As Slurm does from 22.05 on: a step's CPUs are its own matter, and one where it does not say.
cpus = os.environ.get("SRUN_CPUS_PER_TASK", "1")
for node in range(int(os.environ["SLURM_NNODES"])):
    own = {**os.environ, "STEP_CPUS": cpus, "SLURM_PROCID": str(node), "SLURM_NODEID": str(node)}
    running.append(subprocess.Popen(sys.argv[2:], env=own))
signal.signal(signal.SIGTERM, lambda *_: [each.terminate() for each in running])
sys.exit(max(abs(each.wait()) for each in running))
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") for node in {0..1}; do echo "node$node"; done ;;
    requeue*) echo "$2" >>requeued ;;
    *) exit 9 ;;
esac
"""
LAUNCHER = """#!PYTHON
import json, os, sys, time
named = {name: value for name, value in os.environ.items() if name.startswith(("PET_", "RDZV", "MASTER_", "NNODES",
    "NPROC_", "FORCE_"))}
with open("launched." + os.environ["SLURM_PROCID"], "w") as file:
    json.dump({"argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "named": named,
        "cpus": os.environ["STEP_CPUS"]}, file)
time.sleep(float(os.environ.get("SECONDS_TO_RUN", "0")))
sys.exit(int(os.environ.get("ENDS_WITH", "0")))
"""
SUPERVISOR = """
import signal, subprocess, sys, time
assert sys.argv[1:3] == ["supervise", "--"], sys.argv
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
child = subprocess.Popen(sys.argv[3:])
while child.poll() is None:
    if asked:
        child.terminate()
    time.sleep(0.05)
if asked:
    open("supervisor", "w").write("asked to end")
sys.exit(143 if asked else child.returncode)
"""
C10D = ["--rdzv_backend", "c10d"]
GIVEN = ["one.py", "--name", "two words"]


@pytest.fixture
def around(tmp_path: Path) -> dict[str, str]:
    """A job on two nodes of eight GPUs, of which everything but the script is a stand-in."""
    commands = {"srun": SRUN, "scontrol": SCONTROL}
    commands |= dict.fromkeys(("torchrun", "llamafactory-cli", "accelerate"), LAUNCHER)
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text.replace("PYTHON", sys.executable))
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "runners").mkdir()
    (tmp_path / "runners" / "__main__.py").write_text(SUPERVISOR)
    upstream = tmp_path / "starVLA" / "config" / "deepseeds"
    upstream.mkdir(parents=True)
    # As upstream's: without a line's end at its end.
    (upstream / "deepspeed_zero2.yaml").write_text("distributed_type: DEEPSPEED\nnum_machines: 1\nnum_processes: 8")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "31415", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return {**os.environ, **job, "PATH": path, "GRAFT": str(tmp_path)}


def asked_cpus(script: Path) -> str:
    """What sbatch takes from the script's head: lines from the first command on are no longer read."""
    head = script.read_text().split("\nset -euo", 1)[0]
    (cpus,) = re.findall(r"(?m)^#SBATCH --cpus-per-task=(\d+)$", head)
    return str(cpus)


def started(script: Path, folder: Path, around: dict[str, str], **more: str) -> subprocess.Popen[bytes]:
    """The script as sbatch starts it, on the command line of which nothing but sizes of nodes was said."""
    log = (folder / "log").open("wb")
    return subprocess.Popen(
        ["bash", str(script), *GIVEN],
        cwd=folder,
        env={**around, "SLURM_CPUS_PER_TASK": asked_cpus(script), **more},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[bytes], folder: Path) -> int:
    try:
        code = process.wait(60)
    finally:
        end_group(process)
    print((folder / "log").read_text())
    return code


def launched(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"launched.{node}").read_text()) for node in range(2)]


SCRIPT = {path.stem: path for path in SCRIPTS}


def test_each_launcher_has_a_script() -> None:
    assert SCRIPT.keys() == {"torchrun", "llamafactory-cli", "accelerate"}
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    assert all(f"(slurm/{path.name})" in page for path in SCRIPTS)


@pytest.mark.parametrize("name", SCRIPT)
def test_every_node_starts_the_same_command_with_one_master(name: str, tmp_path: Path, around: dict[str, str]) -> None:
    assert ended(started(SCRIPT[name], tmp_path, around), tmp_path) == 0
    first, second = launched(tmp_path)
    assert first == second
    assert int(first["cpus"]) == int(asked_cpus(SCRIPT[name])) > 8, "a core for each of eight ranks, and its loaders"
    named = first["named"]
    if name == "torchrun":
        assert first["argv"] == ["torchrun", *GIVEN]
        assert named == {
            "PET_RDZV_BACKEND": "c10d",
            "PET_RDZV_ID": "31415",
            "PET_RDZV_ENDPOINT": "node0:21415",
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "8",
        }
    elif name == "llamafactory-cli":
        assert first["argv"] == ["llamafactory-cli", "train", *GIVEN]
        assert named == {
            "FORCE_TORCHRUN": "1",
            "RDZV_ID": "31415",
            "MASTER_ADDR": "node0",
            "MASTER_PORT": "21415",
            "NNODES": "2",
            "NPROC_PER_NODE": "8",
        }
    else:
        file = tmp_path / "accelerate-31415.yaml"
        assert first["argv"] == ["accelerate", "launch", "--config_file", str(file), *C10D, *GIVEN]
        assert file.read_text().split() == [
            *("distributed_type:", "DEEPSPEED", "num_machines:", "2", "num_processes:", "16"),
            *("main_process_ip:", "node0", "main_process_port:", "21415"),
        ]
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("name", SCRIPT)
def test_the_cpus_of_the_command_line_reach_every_task(name: str, tmp_path: Path, around: dict[str, str]) -> None:
    assert ended(started(SCRIPT[name], tmp_path, around, SLURM_CPUS_PER_TASK="64"), tmp_path) == 0
    assert [each["cpus"] for each in launched(tmp_path)] == ["64", "64"]


def test_every_line_of_the_page_asks_for_cpus() -> None:
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    sentences = [page, *(script.read_text(encoding="utf-8") for script in SCRIPTS)]
    given = [line for text in sentences for line in re.findall(r"(?m)^.*\bsbatch --nodes.*$", text)]
    assert len(given) == 2 * len(SCRIPTS)
    assert all("--cpus-per-task 64" in line for line in given)


@pytest.mark.parametrize("name", SCRIPT)
def test_a_failure_is_the_jobs(name: str, tmp_path: Path, around: dict[str, str]) -> None:
    assert ended(started(SCRIPT[name], tmp_path, around, ENDS_WITH="3"), tmp_path) == 3
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("name", SCRIPT)
def test_before_the_time_limit_the_supervisor_is_asked_to_end_and_the_job_is_requeued(
    name: str, tmp_path: Path, around: dict[str, str]
) -> None:
    process = started(SCRIPT[name], tmp_path, around, SECONDS_TO_RUN="60")
    end = time.monotonic() + 30
    while not all((tmp_path / f"launched.{node}").exists() for node in range(2)) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert ended(process, tmp_path) != 0
    assert (tmp_path / "supervisor").read_text() == "asked to end"
    assert (tmp_path / "requeued").read_text() == "31415\n"


def test_without_the_folder_of_this_repository_nothing_is_started(tmp_path: Path, around: dict[str, str]) -> None:
    del around["GRAFT"]
    for script in SCRIPTS:
        assert ended(started(script, tmp_path, around), tmp_path) == 1
        assert "the folder of this repository" in (tmp_path / "log").read_text()
    assert not list(tmp_path.glob("launched.*"))
