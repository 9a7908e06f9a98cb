"""A world in which openvla's real evaluation loop runs in a second: no model, no simulator, standard library only.

``build`` writes modules that stand in for what the script imports; ``run`` starts the script in a process of its own.
What the policy does comes from the variable POLICY:

    good         every episode of an even task succeeds at its third action, those of odd tasks never do
    broken       the policy raises
    shaky        as good, but the second episode raises at its second action
    stillborn    the environment raises at its very first step
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MODULES = {
    "numpy.py": "def concatenate(parts):\n    return [value for part in parts for value in part]\n",
    "tqdm.py": "def tqdm(items):\n    return items\n",
    "wandb.py": "",
    "draccus.py": """
import dataclasses, functools, sys

def wrap():
    def decorate(function):
        @functools.wraps(function)
        def run():
            words = dict(zip((word[2:] for word in sys.argv[1::2]), sys.argv[2::2]))
            numbers = {key: int(word) if word.isdigit() else word for key, word in words.items()}
            return function(function.__annotations__["cfg"](**numbers))
        return run
    return decorate
""",
    "libero/__init__.py": "",
    "libero/libero/__init__.py": "",
    "libero/libero/assets/.keep": "",
    "libero/libero/benchmark.py": """
class Suite:
    n_tasks = 3
    def get_task(self, number):
        return number
    def get_task_init_states(self, number):
        return [0.0] * 50

def get_benchmark_dict():
    return {"libero_spatial": Suite}
""",
    "experiments/robot/openvla_utils.py": "def get_processor(cfg):\n    return None\n",
    "experiments/robot/robot_utils.py": """
import os
DATE_TIME = "NOW"
POLICY = os.environ["POLICY"]
asked = 0

class Action(list):
    def tolist(self):
        return list(self)

class Model:
    norm_stats = {"libero_spatial": {}}

def get_model(cfg):
    return Model()

def get_image_resize_size(cfg):
    return 224

def get_action(cfg, model, observation, description, processor=None):
    global asked
    asked += 1
    if POLICY == "broken" or (POLICY == "shaky" and asked == 5):
        raise ValueError("the policy is broken")
    return Action([0.0] * 7)

def set_seed_everywhere(seed):
    pass

def normalize_gripper_action(action, binarize):
    return action

def invert_gripper_action(action):
    return action
""",
    "experiments/robot/libero/libero_utils.py": """
import os
POLICY = os.environ["POLICY"]

class Env:
    def __init__(self, task):
        self.task = task
    def reset(self):
        self.actions = 0
    def set_init_state(self, state):
        return self.seen()
    def seen(self):
        return {"robot0_eef_pos": [0.0], "robot0_eef_quat": [0.0], "robot0_gripper_qpos": [0.0]}
    def step(self, action):
        if POLICY == "stillborn":
            raise RuntimeError("not even the first step")
        self.actions += len(action) == 7 and action[-1] == 0.0
        return self.seen(), 0.0, self.task % 2 == 0 and self.actions >= 3, {}

def get_libero_env(task, family, resolution):
    return Env(task), f"task {task}"

def get_libero_dummy_action(family):
    return [0, 0, 0, 0, 0, 0, -1]

def get_libero_image(obs, size):
    return "image"

def quat2axisangle(quat):
    return quat

def save_rollout_video(images, number, success, task_description, log_file=None):
    log_file.write(f"video of {len(images)} images, episode {number}, success {success}\\n")
""",
}
SCRIPT = "experiments/robot/libero/run_libero_eval.py"


def build(place: Path, script: bytes, overlay: Mapping[str, bytes]) -> Path:
    """A checkout of the script and its overlay files at ``place``, and the world around it."""
    for name, content in {SCRIPT: script, **overlay}.items():
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "tree" / name).write_bytes(content)
    for name, text in MODULES.items():
        (place / "world" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "world" / name).write_text(text)
    return place


def run(place: Path, policy: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The script as a user starts it, its logs in ``place/logs``."""
    given = ["--pretrained_checkpoint", "some/model", "--local_log_dir", str(place / "logs"), *words]
    paths = {"PYTHONPATH": os.pathsep.join(str(place / name) for name in ("world", "tree")), "POLICY": policy}
    return subprocess.run(
        [sys.executable, str(place / "tree" / SCRIPT), *given],
        env={**os.environ, **paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
