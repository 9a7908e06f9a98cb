"""The launcher for machines without a GPU: what a training script and a library are told, and what stays untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).resolve().parents[2] / "runners" / "openvla_on_cpu.py"

SCRIPT = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist
from accelerate import PartialState
from torch.nn.parallel import DistributedDataParallel as DDP
import a_library

assert torch.cuda.is_available(), "Fine-tuning assumes at least one GPU is available!"
state = PartialState()
torch.cuda.set_device(device_id := state.local_process_index)
torch.cuda.empty_cache()
torch.manual_seed(0)
model = DDP(torch.nn.Linear(4, 2).to(device_id), device_ids=[device_id], find_unused_parameters=True)
with torch.autocast("cuda", dtype=torch.bfloat16):
    out = model(torch.ones(3, 4).to(device_id))
with torch.autocast("cuda", dtype=torch.bfloat16, enabled=False):
    plain = model(torch.ones(3, 4))
out.float().sum().backward()
dist.barrier()
# A file of its own for each rank: two processes that print at once may share a line.
Path(f"said-{dist.get_rank()}.json").write_text(json.dumps({
    "arguments": sys.argv[1:], "library": a_library.CUDA, "device": str(device_id), "main": state.is_main_process,
    "local_main": state.is_local_main_process, "class": type(model).__name__, "in_autocast": str(out.dtype),
    "outside": str(plain.dtype), "grad": model.module.weight.grad.tolist(), "ranks": dist.get_world_size(),
}))
"""

WITH_CUDA = """
import sys
import torch
answers = {name: getattr(torch.cuda, name) for name in ("set_device", "current_device")}
torch.cuda.is_available = lambda: True
before = (torch.autocast.__init__, torch.nn.parallel.DistributedDataParallel.__init__, torch.cuda.is_available)
sys.argv = [sys.argv[1], "script.py", "--one", "1"]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
after = (torch.autocast.__init__, torch.nn.parallel.DistributedDataParallel.__init__, torch.cuda.is_available)
assert before == after
assert answers == {name: getattr(torch.cuda, name) for name in answers}
assert not torch.distributed.is_initialized()
print("UNTOUCHED")
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        hidden.pop(name, None)
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=hidden, capture_output=True, text=True)


def write_script(folder: Path) -> Path:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "a_library.py").write_text("import torch\nCUDA = torch.cuda.is_available()\n")
    script = folder / "scripts" / "script.py"
    script.write_text(SCRIPT)
    return script


def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("said-*.json"))]


def test_a_script_for_cuda_trains_on_the_processor(tmp_path: Path) -> None:
    write_script(tmp_path)
    ran = run(tmp_path, str(LAUNCHER), "scripts/script.py", "--one", "1")
    assert ran.returncode == 0, ran.stderr
    assert said(tmp_path) == [
        {
            "arguments": ["--one", "1"],
            "library": False,
            "device": "cpu",
            "main": True,
            "local_main": True,
            "class": "DistributedDataParallel",
            "in_autocast": "torch.bfloat16",
            "outside": "torch.float32",
            "grad": [[3.0] * 4] * 2,
            "ranks": 1,
        }
    ]


def test_torchrun_makes_two_ranks_of_which_one_is_the_main_one(tmp_path: Path) -> None:
    script = write_script(tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = run(tmp_path, *torchrun, str(LAUNCHER), str(script))
    assert ran.returncode == 0, ran.stderr[-3000:]
    ranks = sorted(said(tmp_path), key=lambda rank: rank["main"])
    assert [(rank["main"], rank["local_main"], rank["ranks"]) for rank in ranks] == [(False, False, 2), (True, True, 2)]


def test_where_cuda_is_there_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nassert sys.argv[1:] == ['--one', '1']\n")
    ran = run(tmp_path, "-c", WITH_CUDA, str(LAUNCHER))
    assert ran.returncode == 0, ran.stderr
    assert "UNTOUCHED" in ran.stdout


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    ran = run(tmp_path, str(LAUNCHER), "vla-scripts/finetune.py")
    assert ran.returncode == 1
    assert "vla-scripts/finetune.py is not there" in ran.stderr


def test_a_script_that_fails_fails(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(5)\n")
    assert run(tmp_path, str(LAUNCHER), "script.py").returncode == 5
