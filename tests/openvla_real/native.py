"""openvla's own commands as the tests run them: in a process of their own, offline, on the processor, at a seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GRAFTED = ROOT / "upstreams" / "openvla"
SEED = 7
STEPS = 10


def environment(checkout: Path) -> dict[str, str]:
    """Offline, quiet, one thread; sets have one order, so that a saved adapter_config.json does too."""
    return {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "HF_HUB_OFFLINE": "1",
        "NO_GCE_CHECK": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "NO_TOKEN": "none",
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


def torchrun(ranks: int) -> list[str]:
    return [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


@dataclass(frozen=True)
class Recorded:
    """What one run of a script computed: hexadecimal losses and digests of the weights, by rank and step."""

    folder: Path
    losses: list[list[str]]
    weights: list[list[str]]

    @classmethod
    def read(cls, folder: Path, ranks: int) -> Recorded:
        names = ["record"] if ranks == 1 else [f"record.{rank}" for rank in range(ranks)]
        lines = [[json.loads(line) for line in (folder / name).read_text().splitlines()] for name in names]
        picked = [[[line[key] for line in rank if key in line] for rank in lines] for key in ("loss", "weights")]
        return cls(folder, *picked)

    def one(self, pattern: str) -> Path:
        """The one file or folder below this run's that matches."""
        found = sorted(self.folder.glob(pattern))
        assert len(found) == 1, f"{pattern} in {self.folder}: {found}"
        return found[0]


def finetune(
    checkout: Path, folder: Path, materials: Path, *options: object, ranks: int = 1, steps: int = STEPS
) -> Recorded:
    """vla-scripts/finetune.py of `checkout`, `steps` + 1 optimizer steps as upstream counts, then save and merge."""
    own = {
        "vla_path": materials / "openvla-tiny",
        "data_root_dir": materials / "rlds",
        "dataset_name": "libero_spatial_no_noops",
        "run_root_dir": "runs",
        "adapter_tmp_dir": "adapters",
        "batch_size": 2,
        "max_steps": steps,
        "save_steps": steps,
        "lora_rank": 4,
        "shuffle_buffer_size": 64,
    }
    named = [part for key, value in own.items() for part in (f"--{key}", value)]
    script = checkout / "vla-scripts" / "finetune.py"
    run(checkout, folder, *torchrun(ranks), HERE / "recorded.py", SEED, "record", script, *named, *options)
    return Recorded.read(folder, ranks)


def train(checkout: Path, folder: Path, materials: Path, *options: object, ranks: int = 2, steps: int = 3) -> Recorded:
    """vla-scripts/train.py of `checkout` under FSDP, in a folder that holds the base VLM by its name."""
    folder.mkdir(parents=True)
    (folder / "prism-dinosiglip-224px+7b").symlink_to(materials / "prism-dinosiglip-224px+7b")
    own = {
        "vla.type": "prism-dinosiglip-224px+mx-oxe-magic-soup-plus",
        "vla.data_mix": "libero_spatial_no_noops",
        "vla.expected_world_size": ranks,
        "vla.global_batch_size": 2 * ranks,
        "vla.per_device_batch_size": 2,
        "vla.max_steps": steps,
        "vla.shuffle_buffer_size": 64,
        "vla.enable_mixed_precision_training": "False",
        "data_root_dir": materials / "rlds",
        "run_root_dir": "runs",
        "trackers": '["jsonl"]',
        "hf_token": "NO_TOKEN",
        "save_interval": steps,
    }
    named = [part for key, value in own.items() for part in (f"--{key}", value)]
    tables = [HERE / "tiny_tables.py", materials / "llm-tiny", checkout / "vla-scripts" / "train.py"]
    run(checkout, folder, *torchrun(ranks), HERE / "recorded.py", SEED, "record", *tables, *named, *options)
    return Recorded.read(folder, ranks)


def native_icms(checkout: Path, folder: Path, materials: Path, probe: Path, teacher: Path) -> Path:
    """ICSM of layers 1 (shared with 0) and 2 of a native checkpoint, by the command; float32, as ``train`` trains."""
    tables = [HERE / "tiny_tables.py", materials / "llm-tiny", "-m", "research.icms.offline_icms"]
    asked = ["--vla_path", teacher, "--probe", probe, "--out", "subspaces", "--dtype", "float32"]
    shape = ["--layers", "1,2", "--groups", "1:0-1", "--r", 12, "--draws", 32]
    run(checkout, folder, *tables, *asked, *shape)
    return folder / "subspaces"


def probe_command(materials: Path, seed: int) -> list[object]:
    """A probe set of 24 pairs from the RLDS set, at the checkpoint's image size; `--out` is the caller's."""
    data = ["--data_root_dir", materials / "rlds", "--dataset_name", "libero_spatial_no_noops", "--image_size", 64]
    return ["-m", "research.probe.probe_dataset", *data, "--n", 24, "--seed", seed]


def same_bytes(one: Path, other: Path) -> None:
    """Asserts that two folders hold the same files with the same bytes."""
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) for root in (one, other)]
    assert names[0] == names[1]
    assert names[0]
    differing = [name for name in names[0] if (one / name).read_bytes() != (other / name).read_bytes()]
    assert differing == []
