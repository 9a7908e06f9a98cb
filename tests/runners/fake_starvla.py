"""A fake checkout of starVLA for the runner's own tests: a trainer without torch, around the graft's real stages.

The trainer notes that it ran, leaves a cache in the data set as upstream does, and writes what the runner looks at.
Its weights are JSON, which the fake ``torch`` beside it reads. The stand-in of tests/standins/starVLA is what trains.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

TRAIN = """
import json, os, pathlib, random, sys
import zipfile
given = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[3:])
assert sys.argv[1] == "--config_yaml" and pathlib.Path(sys.argv[2]).is_file()
notes = pathlib.Path(os.environ["FAKE_NOTES"])
stage = given["run_id"]
with notes.open("a") as file:
    file.write(stage + chr(10))
with notes.with_name("arguments").open("a") as file:
    file.write(json.dumps(given) + chr(10))
told = notes.with_name("told")
told = told.read_text() if told.exists() else ""
if told == "break " + stage:
    print("out of memory, as " + stage + " was told")
    sys.exit(1)
root = pathlib.Path(given["datasets.vla_data.data_root_dir"])
(root / "toy" / "meta" / "stats_gr00t.json").write_text("{}")
weights = {f"{name}.weight": 0.0 for name in ("qwen_vl_interface", "action_model", "geometry_encoder")}
weights |= {f"{name}.weight": 0.0 for name in ("fusion_module", "world_predictor")}
if "trainer.pretrained_checkpoint" in given:
    weights |= json.loads(pathlib.Path(given["trainer.pretrained_checkpoint"]).read_text())
run = pathlib.Path(given["run_root_dir"]) / stage
saved = run / "checkpoints"
if given["trainer.is_resume"] == "true":
    step, last = max((int(path.name.split("_")[1]), path) for path in saved.glob("steps_*_pytorch_model.pt"))
    with zipfile.ZipFile(last) as archive:
        weights = json.loads(archive.read("weights"))
    with notes.open("a") as file:
        file.write(f"from step {step}" + chr(10))
if told == "die in " + stage:
    saved.mkdir(parents=True)
    with zipfile.ZipFile(saved / "steps_2_pytorch_model.pt", "w") as archive:
        archive.writestr("weights", json.dumps(weights))
    (saved / "steps_3_pytorch_model.pt").write_bytes(b"cut short")
    sys.exit(1)
frozen = given["trainer.freeze_modules"].split(",")
random.seed(json.dumps(given))
for name in weights:
    if name.split(".")[0] not in frozen or told == "thaw " + stage:
        weights[name] += random.random()
(run / "final_model").mkdir(parents=True)
(run / "final_model" / "pytorch_model.pt").write_text(json.dumps(weights))
for name in ("config.yaml", "dataset_statistics.json"):
    (run / name).write_text("{}")
steps = int(given["trainer.max_train_steps"])
rows = [{"step": step, "loss/total": 1 / step} for step in range(1, steps + 1)]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""

TORCH = """
import json
from types import SimpleNamespace

def load(file, **options):
    values = json.load(open(file))
    return {name: SimpleNamespace(dtype="float", value=value) for name, value in values.items()}

def equal(first, second):
    return first.value == second.value

def manual_seed(seed):
    pass

class DataLoader:
    def __init__(self):
        pass

utils = SimpleNamespace(data=SimpleNamespace(DataLoader=DataLoader))
"""


@dataclass(frozen=True)
class Fake:
    """The fake checkout, a model, a data set, and what the trainer noted."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work" / "run"

    def take_notes(self) -> list[str]:
        """The stages that ran since the last look."""
        path = self.root / "notes"
        found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def given(self) -> dict[str, dict[str, str]]:
        """The last arguments of each stage."""
        lines = (self.root / "arguments").read_text(encoding="utf-8").splitlines()
        return {each["run_id"]: each for each in map(json.loads, lines)}

    def arguments(self, *more: str) -> list[str]:
        """The runner's command line for everything here."""
        return [
            *("--config-yaml", str(self.root / "run.yaml"), "--base-vlm", str(self.root / "Qwen2.5-VL-fake")),
            *("--data-root", str(self.root / "data"), "--data-mix", "toy_next", "--work", str(self.root / "work")),
            *("--checkout", str(self.root / "starVLA"), "--python", sys.executable, "--steps", "3", "--cpu", *more),
        ]

    def tell(self, what: str) -> None:
        """``break STAGE``, or ``thaw STAGE``: that stage trains what is frozen; nothing: as it should."""
        (self.root / "told").write_text(what, encoding="utf-8")


def make(root: Path) -> Fake:
    """Writes everything below `root`; the checkout is a git repository with one commit."""
    files = {
        "starVLA/starVLA/__init__.py": "",
        "starVLA/starVLA/sagr/__init__.py": "",
        "starVLA/starVLA/training/train_starvla.py": TRAIN,
        "starVLA/torch.py": TORCH,
        "starVLA/.gitignore": "__pycache__/\n",
        "data/toy/meta/info.json": "{}",
        "data/toy/data/episode.parquet": "pictures",
        "Qwen2.5-VL-fake/config.json": "{}",
        "run.yaml": "{}",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    stages = REPOSITORY / "overlays" / "starVLA" / "starVLA" / "sagr" / "stages.py"
    shutil.copy(stages, root / "starVLA" / "starVLA" / "sagr" / "stages.py")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "fake"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root / "starVLA"), *identity, *arguments], check=True)
    return Fake(root)
