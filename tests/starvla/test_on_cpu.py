"""The launcher for machines without a GPU: a group of one process, data read in it, the script as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.standins.starvla_project import REPOSITORY

LAUNCHER = REPOSITORY / "runners" / "starvla_on_cpu.py"
SCRIPT = """
import json, os, sys
import torch
from torch.utils.data import DataLoader
workers = {"num_workers": 16, "pin_memory": True, "persistent_workers": True, "prefetch_factor": 4}
loader = DataLoader([1, 2, 3], batch_size=2, **workers)
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
print(json.dumps({
    "workers": loader.num_workers,
    "batches": [each.tolist() for each in loader],
    "world": torch.distributed.get_world_size(),
    "arguments": sys.argv[1:],
    "first": sys.path[0],
    "cuda": torch.cuda.is_available(),
    "port": os.environ["MASTER_PORT"],
}))
torch.distributed.destroy_process_group()
"""


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(LAUNCHER), *arguments], capture_output=True, text=True, env={**os.environ, **env}
    )


def test_the_script_runs_alone_and_reads_in_its_own_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(str(script), "--a.b=1", "--c")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    port = found.pop("port")
    assert found == {
        "workers": 0,
        "batches": [[1, 2], [3]],
        "world": 1,
        "arguments": ["--a.b=1", "--c"],
        "first": str(tmp_path),
        "cuda": False,
    }
    assert json.loads(run(str(script)).stdout.splitlines()[-1])["port"].isdigit()
    assert 0 < int(port) < 65536


def test_a_launchers_own_variables_stay(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os\nprint(os.environ['RANK'], os.environ['MASTER_PORT'])\n")
    assert run(str(script), RANK="3", MASTER_PORT="1234").stdout.split() == ["3", "1234"]


def test_a_script_that_is_not_there_is_named() -> None:
    done = run("nowhere.py")
    assert done.returncode == 1
    assert "nowhere.py is not there: name the script of starVLA" in done.stderr
