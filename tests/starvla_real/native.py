"""starVLA's own training script as the tests run it: in a process of its own, offline, on the processor, at a seed.

    python tests/starvla_real/native.py CHECKOUT FOLDER MATERIALS [on]      in the environment of starVLA

trains QwenPI, or the method, and prints what was computed as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_data

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GRAFTED = ROOT / "upstreams" / "starVLA"
SIMULATOR = ROOT / ".venvs" / "openvla" / "bin" / "python"
LIBERO = ROOT / "upstreams" / "LIBERO"
"""The environment that has LIBERO, and its checkout."""
SCRIPT = "starVLA/training/train_starvla.py"
SEED, STEPS = 7, 4
FRAMEWORK = "MapAnythingLlava3DPI"
SMALL = ("dim=32", "anchor.heads=4", "anchor.slots=4", "world.hidden=32", "world.heads=4", "world.layers=2")
ON = (
    "--framework.sagr.geometry.backend=depth",
    *(f"--framework.sagr.{setting}" for setting in SMALL),
    "--framework.sagr.guidance.enabled=true",
    "--framework.action_model.enable_causal_feedback_token=true",
    f"--datasets.vla_data.data_mix={tiny_data.MIXTURE}_next",
    "--datasets.vla_data.past_offset=4",
)
"""The options that switch the method on, at a tiny size."""


def environment(checkout: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }


def run(checkout: Path, folder: Path, *arguments: object) -> str:
    """Runs `python ARGUMENTS` in `folder`; returns what it printed, and fails with its end where it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *map(str, arguments)]
    ran = subprocess.run(
        command, cwd=folder, env=environment(checkout), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-3000:]}\n{ran.stderr[-6000:]}"
    return ran.stdout + ran.stderr


def simulated(command: Sequence[object], drawing: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Runs `python COMMAND` in LIBERO's environment; `drawing` is the fixture of that name."""
    # Empty, as the tests of starVLA have it, it makes robosuite fail.
    around = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [str(SIMULATOR), *map(str, command)],
        env={**around, **drawing, "OMP_NUM_THREADS": "1", **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def configuration(materials: Path, runs: Path, framework: str = "QwenPI") -> dict[str, Any]:
    """A training configuration of upstream's shape for the tiny model and data."""
    return {
        "run_id": "run",
        "run_root_dir": str(runs),
        "seed": SEED,
        "wandb_entity": "none",
        "wandb_project": "tiny",
        "is_debug": False,
        "framework": {
            "name": framework,
            "qwenvl": {"base_vlm": str(materials / "Qwen2.5-VL-tiny"), "attn_implementation": "sdpa"},
            "action_model": {
                "action_dim": tiny_data.DIMENSIONS,
                "state_dim": tiny_data.DIMENSIONS,
                "action_horizon": tiny_data.HORIZON,
                "num_target_vision_tokens": 4,
                "diffusion_model_cfg": {"attention_head_dim": 16, "dropout": 0.1},
            },
        },
        "datasets": {
            "vla_data": {
                "dataset_py": "lerobot_datasets",
                "include_state": True,
                "data_root_dir": str(materials / "data"),
                "data_mix": tiny_data.MIXTURE,
                "video_backend": "torchvision_av",
                "per_device_batch_size": 2,
            }
        },
        "trainer": {
            "max_train_steps": STEPS,
            "num_warmup_steps": 1,
            "save_interval": 1000,
            "eval_interval": 2,
            "logging_frequency": 1,
            "learning_rate": {"base": 1e-3, "qwen_vl_interface": 1e-4, "action_model": 1e-3},
            "lr_scheduler_type": "cosine_with_min_lr",
            "scheduler_specific_kwargs": {"min_lr": 1e-6},
            "freeze_modules": "",
            "gradient_clipping": 1.0,
            "gradient_accumulation_steps": 1,
            "optimizer": {"name": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 1e-8},
        },
    }


@dataclass(frozen=True)
class Recorded:
    """What one run computed: hexadecimal losses and digests of the weights by step, and its output folder."""

    output: Path
    losses: list[str]
    weights: list[str]

    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]


def train(
    checkout: Path, folder: Path, materials: Path, *options: str, framework: str = "QwenPI", script: str = SCRIPT
) -> Recorded:
    """train_starvla.py of `checkout`, STEPS steps; `options` are its dotlist arguments (`--a.b=c`)."""
    folder.mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(configuration(materials, folder / "runs", framework), indent=1))
    run(
        checkout,
        folder,
        *[HERE / "recorded.py", SEED, "record", checkout / script, "--config_yaml", folder / "config.yaml", *options],
    )
    lines = [json.loads(line) for line in (folder / "record").read_text().splitlines()]
    losses, weights = ([line[key] for line in lines if key in line] for key in ("loss", "weights"))
    return Recorded(folder / "runs" / "run", losses, weights)


def same_bytes(one: Path, other: Path) -> None:
    """Asserts that two folders hold the same files with the same bytes."""
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) for root in (one, other)]
    assert names[0] == names[1]
    assert names[0]
    differing = [name for name in names[0] if (one / name).read_bytes() != (other / name).read_bytes()]
    assert differing == []


def main() -> None:
    checkout, folder, materials, *on = sys.argv[1:]
    options: dict[str, Any] = {"framework": FRAMEWORK} if on else {}
    found = train(Path(checkout), Path(folder), Path(materials), *(ON if on else ()), **options)
    metrics = found.metrics() if on else []
    print(json.dumps({"losses": found.losses, "weights": found.weights, "metrics": metrics}))


if __name__ == "__main__":
    main()
