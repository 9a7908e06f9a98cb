"""The patched LIBERO in its simulator: its environment is the one that docs name, with mujoco and robosuite.

GRAFT_LIBERO names the patched checkout, or what `python -m runners libero-assets` made of it; else upstreams/LIBERO.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.libero.overlays import ROOT

HERE = Path(os.environ.get("GRAFT_LIBERO") or ROOT / "upstreams/LIBERO").resolve()
LACKS = [name for name in ("torch", "mujoco", "robosuite", "bddl") if find_spec(name) is None]
pytestmark = [
    pytest.mark.upstream_heavy,
    pytest.mark.skipif(
        not (HERE / "libero/guard").is_dir(), reason=f"no patched LIBERO at {HERE}: run `python apply.py LIBERO`"
    ),
]
simulated = pytest.mark.skipif(bool(LACKS), reason=f"the simulator's environment is needed, this one lacks {LACKS}")

ONE_TASK = """
import os
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
suite = benchmark.get_benchmark_dict()["libero_spatial"]()
task, states = suite.get_task(0), suite.get_task_init_states(0)
bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=64, camera_widths=64)
env.seed(0)
env.reset()
obs = env.set_init_state(states[0])
obs, reward, done, info = env.step([0, 0, 0, 0, 0, 0, -1])
assert obs["agentview_image"].shape == (64, 64, 3) and obs["agentview_image"].std() > 10
env.env.reset = lambda: (_ for _ in ()).throw(ValueError("a real error"))
try:
    env.reset()
except ValueError as error:
    print("raised", error, flush=True)
os._exit(0)
"""


def python(program: str, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(HERE), "LIBERO_CONFIG_PATH": str(tmp_path / "config"), **more}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"MUJOCO_GL": "osmesa", **os.environ, **paths},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_file_of_init_states_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    files = glob.glob(str(HERE / "libero/libero/init_files/*/*"))
    assert len(files) >= 100
    program = f"""
import torch
from libero.guard import torch_arrays
for file in {files!r}:
    ours, theirs = torch_arrays.load(file), torch.load(file, weights_only=False)
    assert type(ours) is type(theirs) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert ours.tobytes() == theirs.tobytes()
print("read")
"""
    ran = python(program, tmp_path)
    assert ran.stdout.strip() == "read", ran.stderr


@simulated
def test_a_task_is_simulated_and_reset_raises_what_it_meets(tmp_path: Path) -> None:
    ran = python(ONE_TASK, tmp_path)
    assert "raised a real error" in ran.stdout, ran.stderr
