"""Every marked launch line of docs/launching.md as it stands: two nodes, or two processes, train one tiny model."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.launching import shims
from tests.launching.lines import PAGE, SCRIPTS, Line, environment, lines, run

LINES = lines()
STEPS = 3


def of(upstream: str) -> list[Any]:
    return [pytest.param(line, id=line.name) for line in LINES.values() if line.name.startswith(f"{upstream}-")]


def needs(name: str, *commands: str) -> Path:
    """The environment's interpreter; skips, with the remedy, where it is not built or the checkout not grafted."""
    python = shims.python_of(name)
    for command in ("python", *commands):
        if not (python.parent / command).exists():
            pytest.skip(f"{python.parent / command} is not there: run `make test-upstreams`, which builds it")
    return python


def test_each_line_is_of_an_upstream_that_is_run_here_and_is_a_script() -> None:
    run_here = {param.id for upstream in ("llamafactory", "openvla", "starvla") for param in of(upstream)}
    assert LINES.keys() == run_here
    assert len(LINES) >= 12
    for text in (*(line.text for line in LINES.values()), *(path.read_text() for path in SCRIPTS)):
        ran = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")


def test_links_and_upstreams_files_are_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)\s]+)\)", page) if not link.startswith("https://")}
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    named = {
        shims.LLAMAFACTORY: {"src/train.py", *re.findall(r"examples/[\w/]+\.(?:yaml|json)", page)},
        shims.OPENVLA: set(re.findall(r"vla-scripts/\w+\.py", page)),
        shims.STARVLA: set(re.findall(r"starVLA/(?:training|config)/[\w/]+\.(?:py|yaml)", page)),
    }
    there = [checkout for checkout in named if (checkout / "README.md").exists()]
    if not there:
        pytest.skip("no upstream is checked out: run `python apply.py`")
    for checkout in there:
        assert len(named[checkout]) >= 2
        assert [name for name in named[checkout] if not (checkout / name).exists()] == []


@pytest.fixture(scope="session")
def llamafactory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamafactory")
    shims.made(needs("LLaMA-Factory", "torchrun", "accelerate"), "-c", shims.LLAMAFACTORY_MATERIALS, folder)
    return folder


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("line", of("llamafactory"))
def test_llamafactory(line: Line, llamafactory: Path, tmp_path: Path) -> None:
    around = environment(shims.python_of("LLaMA-Factory"), DISABLE_VERSION_CHECK="1")
    config = shims.llamafactory_config(llamafactory, tmp_path, STEPS, line.nodes * line.gpus)
    run(line, tmp_path, around, CONFIG=config)
    log = [json.loads(each) for each in (tmp_path / "out" / "trainer_log.jsonl").read_text().splitlines()]
    assert [each["current_steps"] for each in log if "loss" in each] == list(range(1, STEPS + 1))
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    # Of 24 samples each step takes two on every process: an epoch counts all processes.
    assert results["epoch"] == pytest.approx(STEPS * 2 * line.nodes * line.gpus / 24)


@pytest.fixture(scope="session")
def openvla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvla")
    python = needs("openvla", "torchrun")
    shims.made(python, shims.ROOT / "tests" / "openvla_real" / "materials.py", folder)
    return folder


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("line", of("openvla"))
def test_openvla(line: Line, openvla: Path, tmp_path: Path) -> None:
    shims.openvla_folder(openvla, tmp_path)
    quiet = {"NO_GCE_CHECK": "true", "TF_CPP_MIN_LOG_LEVEL": "3", "NO_TOKEN": "none"}
    around = environment(shims.python_of("openvla"), PYTHONPATH=str(shims.OPENVLA), **quiet)
    run(
        line,
        tmp_path,
        around,
        train_arguments(openvla) if line.name == "openvla-train" else finetune_arguments(openvla),
    )
    ranks = [records(tmp_path / f"record.{rank}") for rank in range(line.nodes * line.gpus)]
    assert not (tmp_path / f"record.{len(ranks)}").exists()
    for each in ranks:
        assert len({entry["weights"] for entry in each if "weights" in entry}) >= STEPS
    weights = [[entry["weights"] for entry in each if "weights" in entry] for each in ranks]
    # train.py shards inside a node and replicates over nodes.
    apart = line.gpus if line.name == "openvla-train" else 1
    assert weights[apart:] == weights[:-apart]
    saved = "runs/*/checkpoints/*.pt" if line.name == "openvla-train" else "adapters/*/adapter_model.safetensors"
    assert len(list(tmp_path.glob(saved))) == 1
    losses = [[entry["loss"] for entry in each if "loss" in entry] for each in ranks]
    assert all(each != losses[0] for each in losses[1:])


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def finetune_arguments(materials: Path) -> list[object]:
    named = {
        "vla_path": materials / "openvla-tiny",
        "data_root_dir": materials / "rlds",
        "dataset_name": "libero_spatial_no_noops",
        "run_root_dir": "runs",
        "adapter_tmp_dir": "adapters",
        "batch_size": 2,
        "max_steps": STEPS,
        "save_steps": STEPS,
        "lora_rank": 4,
        "shuffle_buffer_size": 64,
    }
    return [part for key, value in named.items() for part in (f"--{key}", value)]


def train_arguments(materials: Path) -> list[object]:
    named = {
        "vla.type": "prism-dinosiglip-224px+mx-oxe-magic-soup-plus",
        "vla.data_mix": "libero_spatial_no_noops",
        "vla.global_batch_size": 8,
        "vla.per_device_batch_size": 2,
        "vla.max_steps": STEPS,
        "vla.shuffle_buffer_size": 64,
        "vla.enable_mixed_precision_training": "False",
        "data_root_dir": materials / "rlds",
        "run_root_dir": "runs",
        "trackers": '["jsonl"]',
        "hf_token": "NO_TOKEN",
        "save_interval": STEPS,
    }
    return [part for key, value in named.items() for part in (f"--{key}", value)]


@pytest.fixture(scope="session")
def starvla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starvla")
    python = needs("starVLA", "accelerate", "deepspeed")
    shims.made(python, shims.ROOT / "tests" / "starvla_real" / "materials.py", folder)
    return folder


STARVLA_CONFIG = """
import json, sys
sys.path.insert(0, "tests/starvla_real")
import native
from pathlib import Path
settings = native.configuration(Path(sys.argv[1]), Path(sys.argv[2], "runs"), native.FRAMEWORK)
Path(sys.argv[2], "config.json").write_text(json.dumps(settings))
Path(sys.argv[2], "arguments.json").write_text(json.dumps(native.ON))
"""


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("line", of("starvla"))
def test_starvla(line: Line, starvla: Path, tmp_path: Path) -> None:
    """SA-GR Flow with DeepSpeed's ZeRO 2."""
    python = shims.python_of("starVLA")
    shims.made(python, "-c", STARVLA_CONFIG, starvla, tmp_path)
    shims.starvla_folder(tmp_path)
    on = json.loads((tmp_path / "arguments.json").read_text())
    around = environment(python, PYTHONPATH=str(shims.STARVLA), NO_ALBUMENTATIONS_UPDATE="1")
    around.pop("CUDA_VISIBLE_DEVICES")
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    arguments = ["--config_yaml", tmp_path / "config.json", f"--trainer.max_train_steps={STEPS}", *on]
    run(line, tmp_path, around, arguments, HOSTFILE=tmp_path / "hosts")
    first, second = (records(tmp_path / f"{rank}.jsonl") for rank in range(2))
    assert [each["weights"] for each in first] == [each["weights"] for each in second]
    assert len(first) == STEPS
    assert all(one["loss"] != other["loss"] for one, other in zip(first, second, strict=True))
    rows = records(tmp_path / "runs" / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
