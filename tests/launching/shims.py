"""What stands where a line names an upstream's script: the script itself, with what it needs to run here.

A folder gets the layout of an upstream's checkout, so that the lines of docs/launching.md run in it unchanged. Scripts
of openvla and starVLA are started as the tests on the real upstreams start them, and leave a record of each rank.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.launching.lines import ROOT, environment

SEED = 7
LLAMAFACTORY, OPENVLA, STARVLA = (ROOT / "upstreams" / name for name in ("LLaMA-Factory", "openvla", "starVLA"))
SHIM = """import runpy, sys
sys.argv = {words!r} + sys.argv[1:]
runpy.run_path({script!r}, run_name="__main__")
"""


def python_of(name: str) -> Path:
    return ROOT / ".venvs" / name / "bin" / "python"


def shim(place: Path, script: Path, *words: object) -> None:
    """`place` becomes a script that runs `script` with `words` before its own arguments."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(SHIM.format(words=[str(script), *map(str, words)], script=str(script)), encoding="utf-8")


def made(python: Path, *arguments: object) -> None:
    """Runs `python ARGUMENTS` from the repository; fails with what it said."""
    command = [str(python), *map(str, arguments)]
    ran = subprocess.run(command, cwd=ROOT, env=environment(python), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"


LLAMAFACTORY_MATERIALS = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/llamafactory")
import tiny
tiny.require()
tiny.save_text_model(Path(sys.argv[1], "model"))
tiny.write_data(Path(sys.argv[1], "data"))
"""


def llamafactory_config(materials: Path, folder: Path, steps: int, processes: int) -> Path:
    """HSA and feedback, LoRA on a tiny Qwen3, `steps` steps of two samples a process."""
    settings = {
        "model_name_or_path": str(materials / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 4,
        "dataset": "typed",
        "dataset_dir": str(materials / "data"),
        "template": "qwen3_nothink",
        "cutoff_len": 128,
        "output_dir": str(folder / "out"),
        "max_steps": steps,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_hsa": True,
        "use_feedback": True,
        # Given to a process alone, transformers asks for a group that is not there.
        **({"ddp_backend": "gloo"} if processes > 1 else {}),
    }
    (folder / "src").symlink_to(LLAMAFACTORY / "src")
    path = folder / "run.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def openvla_folder(materials: Path, folder: Path) -> None:
    recorded, tables = (ROOT / "tests" / "openvla_real" / name for name in ("recorded.py", "tiny_tables.py"))
    scripts = OPENVLA / "vla-scripts"
    shim(folder / "vla-scripts" / "finetune.py", recorded, SEED, "record", scripts / "finetune.py")
    shim(
        folder / "vla-scripts" / "train.py",
        recorded,
        SEED,
        "record",
        tables,
        materials / "llm-tiny",
        scripts / "train.py",
    )
    (folder / "prism-dinosiglip-224px+7b").symlink_to(materials / "prism-dinosiglip-224px+7b")


def starvla_folder(folder: Path) -> None:
    ranked = ROOT / "tests" / "starvla_real" / "ranked.py"
    script = STARVLA / "starVLA" / "training" / "train_starvla.py"
    shim(folder / "starVLA" / "training" / "train_starvla.py", ranked, SEED, folder, script)
    (folder / "starVLA" / "config").symlink_to(STARVLA / "starVLA" / "config")
