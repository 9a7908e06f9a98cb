"""Where an upstream writes: the folder's name is composed of settings as upstream's own code composes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from runners.supervise.arguments import NONE, relative, true
from runners.supervise.launchers import UnknownCommand

if TYPE_CHECKING:
    from runners.supervise.command import Command

FROM = re.compile(r"-?\bfrom(\d+)$")
"""The end of a run_id_note that says from which step a run of openvla's fine-tuning goes on."""
TAG = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); import draccus; from research.config import SurgeryConfig; "
    "print(draccus.parse(SurgeryConfig, args=json.loads(sys.argv[2])).tag())"
)


def output_of(command: Command) -> Path:
    """The absolute folder of a run. Raises UnknownCommand where a setting that is part of it is not known."""
    composed = {"openvla_finetune": finetune_name, "openvla_train": train_name, "starvla": _starvla_name}
    name: Callable[[Command], str] | None = composed.get(command.family.output)
    if command.family.output == "libero":
        return relative(_libero(command), command.folder)
    root = command.get("output")
    if root is None:
        key = command.family.settings.get("output", "the role `output`")
        raise UnknownCommand(f"{command.family.name} does not say where it writes: give {key} in the command")
    return relative(root, command.folder) / (name(command) if name else "")


def finetune_name(command: Command) -> str:
    """exp_id of vla-scripts/finetune.py, with the tag that gradient surgery adds."""
    note = command.setting("run_id_note")
    return _finetune_name(
        command, str(int(_number(command, "batch_size")) * int(_number(command, "grad_accumulation_steps"))),
        str(_number(command, "learning_rate")), str(int(_number(command, "lora_rank"))),
        f"--{note}" if note not in (None, *NONE) else "", _surgery(command),
    )  # fmt: skip


def finetune_names(command: Command) -> re.Pattern[str]:
    """The names of all parts of a run: what a remedy changes, and the step that a part goes on from, may differ.

    Groups: `begin`, the step that a part goes on from, or None.
    """
    note = own_note(command)
    noted = rf"(--{re.escape(note)}-from(?P<begin>\d+)|--{re.escape(note)})" if note else r"(--from(?P<begin>\d+))?"
    gap = "\0"
    name = _finetune_name(command, f"{gap}b", f"{gap}l", f"{gap}r", f"{gap}n", f"{gap}t")
    pattern = re.escape(name)
    for mark, what in (
        *(("b", r"\d+"), ("l", r"[-+.\de]+"), ("r", r"\d+")),
        *(("n", noted), ("t", r"(\+surgery-[0-9a-f]{8})?")),
    ):
        pattern = pattern.replace(re.escape(f"{gap}{mark}"), what)
    return re.compile(pattern)


def _finetune_name(command: Command, batch: str, rate: str, rank: str, note: str, tag: str) -> str:
    model = str(command.setting("vla_path")).split("/")[-1]
    name = f"{model}+{command.setting('dataset_name')}+b{batch}+lr-{rate}"
    if true(command.setting("use_lora")):
        name += f"+lora-r{rank}+dropout-{_number(command, 'lora_dropout')}"
    if true(command.setting("use_quantization")):
        name += "+q-4bit"
    return f"{name}{note}{'--image_aug' if true(command.setting('image_aug')) else ''}{tag}"


def own_note(command: Command) -> str:
    """run_id_note without what `resumed` added."""
    note = command.setting("run_id_note")
    return "" if note in (None, *NONE) else FROM.sub("", note)


def train_name(command: Command, *, whole: bool = True) -> str:
    """run_id of vla-scripts/train.py; without what upstream adds to a --run_id that is given, if not `whole`."""
    given = command.setting("run_id")
    if given in (None, *NONE):
        identity = command.setting("vla.vla_id") or command.setting("vla.type")
        nodes = int(_number(command, "vla.expected_world_size")) // 8
        batch = int(_number(command, "vla.per_device_batch_size"))
        given = f"{identity}+n{nodes}+b{batch}+x{int(_number(command, 'seed'))}"
    if not whole:
        return given
    note = command.setting("run_id_note")
    given += f"--{note}" if note not in (None, *NONE) else ""
    return f"{given}{'--image_aug' if true(command.setting('image_aug')) else ''}{_surgery(command)}"


def _starvla_name(command: Command) -> str:
    name = command.setting("run_id")
    if name in (None, *NONE):
        raise UnknownCommand("starVLA's run_id is in neither the command nor its configuration: give --run_id NAME")
    return name


def _libero(command: Command) -> str:
    """create_experiment_dir of libero/lifelong/utils.py, without the run_NNN that each start adds."""
    prefix = "experiments"
    if command.setting("pretrain_model_path") not in (None, *NONE):
        prefix += "_finetune"
    if order := int(_number(command, "data.task_order_index")):
        prefix += f"_permute{order}"
    coded = command.setting("task_embedding_format")
    prefix += {"one-hot": "_onehot", "clip": "_clip", "gpt2": "_gpt2", "roberta": "_roberta"}.get(str(coded), "")
    policy = f"{command.setting('policy.policy_type')}_seed{command.setting('seed')}"
    return f"{prefix}/{command.setting('benchmark_name')}/{command.setting('lifelong.algo')}/{policy}"


def _surgery(command: Command) -> str:
    """The tag of gradient surgery, asked of the checkout's own code: it is a digest of every switch."""
    prefix = "surgery."
    given = {key: value for key, value in command.values.items() if key.startswith(prefix)}
    if not true(given.get("surgery.enabled")):
        return ""
    checkout = Path(command.target.name).parents[1]
    words = json.dumps([f"--{key.removeprefix(prefix)}={value}" for key, value in sorted(given.items())])
    return _asked(command.python, str(checkout), words, tuple(sorted(command.environment.items())))


@cache
def _asked(python: str, checkout: str, words: str, environment: tuple[tuple[str, str], ...]) -> str:
    run = subprocess.run(
        [python, "-c", TAG, checkout, words],
        *(), env={**os.environ, **dict(environment)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        raise UnknownCommand(f"{checkout} does not take its switches of gradient surgery: {run.stderr.strip()[-500:]}")
    return run.stdout.strip().splitlines()[-1]


def _number(command: Command, key: str) -> float:
    value = command.setting(key)
    try:
        return float(value if value is not None else "")
    except ValueError:
        raise UnknownCommand(f"{command.family.name}: {key} is {value!r}, which is no number") from None
