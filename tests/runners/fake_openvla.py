"""A fake checkout for the runner's own tests: scripts without torch at the paths of the native commands.

Each is a few lines that do what the runner looks at: they write where they are told, fail where a file says so, and
give scores that a test can compute. The stand-in of tests/standins/openvla is the one that really trains.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMON = """
import json, os, pathlib, random, sys, time
given = dict(zip([key.lstrip("-") for key in sys.argv[1::2]], sys.argv[2::2]))
def note(name):
    with open(os.environ["FAKE_NOTES"], "a") as notes:
        notes.write(name + chr(10))
    broken = pathlib.Path(os.environ["FAKE_NOTES"]).with_name("broken")
    if broken.exists() and broken.read_text() in name:
        print("out of memory, as " + name + " was told")
        sys.exit(1)
"""

PROBE = """
note("probe")
data = pathlib.Path(given["data_root_dir"]) / given["dataset_name"]
(data / "dataset_statistics_0123.json").write_text("{}")
out = pathlib.Path(given["out"])
out.mkdir(parents=True)
(out / "meta.json").write_text(json.dumps({"n": given["n"], "hash": "h"}))
"""

ICSM = """
note("icsm " + given["rank_by"])
assert json.loads((pathlib.Path(given["probe"]) / "meta.json").read_text())["hash"] == "h"
out = pathlib.Path(given["out"])
out.mkdir(parents=True)
layer = {"fragile": 1, "plastic": 2, "order": [2, 0, 1, 3], "vulnerabilities": [3.0, 2.0, 4.0, 1.0]}
if given["rank_by"] == "random":
    layer["vulnerabilities"] = None
(out / "meta.json").write_text(json.dumps({"layers": {"1": layer}}))
"""

FINETUNE = """
note("finetune " + given["run_id_note"])
assert given["save_steps"] == given["max_steps"]
on = given.get("surgery.enabled") == "True"
run = pathlib.Path(given["run_root_dir"]) / ("model--" + given["run_id_note"] + ("+surgery" if on else ""))
run.mkdir(parents=True)
if on:
    assert (pathlib.Path(given["surgery.subspace_dir"]) / "meta.json").exists()
    rows = [{"step": step, "beta": 0.5, "gamma": 0.1, "mean_drift": step / 10} for step in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
# What is remembered of the general suite; the generator's state tells whether the run was seeded.
kept = (0.6 if on else 0.2) + random.random() / 10
(run / "config.json").write_text(json.dumps({"norm_stats": {"libero_object": {}}, "kept": kept}))
(run / "dataset_statistics.json").write_text(json.dumps({given["dataset_name"]: {}}))
pathlib.Path("wandb").mkdir()
"""

EVALUATE = """
checkpoint = pathlib.Path(given["pretrained_checkpoint"])
suite = given["task_suite_name"]
note("eval " + given["run_id_note"] + " " + suite)
known = json.loads((checkpoint / "dataset_statistics.json").read_text())
assert suite in known or suite + "_no_noops" in known
kept = json.loads((checkpoint / "config.json").read_text())["kept"]
logs = pathlib.Path(given["local_log_dir"])
logs.mkdir(exist_ok=True)
earlier = given.get("resume_results")
have = len(json.loads(pathlib.Path(earlier).read_text())["tasks"]) if earlier else 0
slow = pathlib.Path(os.environ["FAKE_NOTES"]).with_name("slow")
if slow.exists():
    # Ten tasks of a hundred episodes, one after the other; the account is of what was played.
    name = f"EVAL-{len(list(logs.iterdir()))}.results.json"
    for done in range(have, 10):
        note(f"task {done}")
        account = {"complete": False, "episodes": 100 * done, "errors": 0, "tasks": list(range(done))}
        part = logs / "part"
        part.write_text(json.dumps(account))
        part.rename(logs / name)
        time.sleep(0.2)
else:
    name = "EVAL.results.json"
successes = round(1000 * (kept if suite == "libero_object" else 0.9))
result = {"complete": True, "task_suite_name": suite, "episodes": 1000, "successes": successes, "errors": 0}
(logs / name).write_text(json.dumps(result))
"""

# torchrun and seeded.py are tested elsewhere: this interpreter leaves out the first, which needs torch.
INTERPRETER = """#!{python}
import os, sys
arguments = sys.argv[1:]
if arguments[:2] == ["-m", "torch.distributed.run"]:
    arguments = arguments[arguments.index("--nproc-per-node") + 2:]
os.execv({python!r}, [{python!r}, *arguments])
"""


@dataclass(frozen=True)
class Fake:
    """The fake checkout, a model, a data set, and what the commands noted."""

    root: Path

    def take_notes(self) -> list[str]:
        """What the commands noted since the last look."""
        path = self.root / "notes"
        found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    @property
    def work(self) -> Path:
        return self.root / "work" / "compared"

    def arguments(self, *more: str) -> list[str]:
        """The runner's command line for everything here."""
        return [
            *("--vla-path", str(self.root / "model"), "--data-root", str(self.root / "data"), "--name", "compared"),
            *("--dataset-name", "libero_spatial_no_noops", "--general-suites", "libero_object", "--gl", "none"),
            *("--checkout", str(self.root / "openvla"), "--libero", str(self.root / "LIBERO")),
            *("--python", str(self.root / "python"), "--work", str(self.root / "work"), "--max-steps", "3", *more),
        ]

    def breaks(self, name: str) -> None:
        """From now on the commands whose note holds `name` fail; an empty name mends them all."""
        path = self.root / "broken"
        path.unlink(missing_ok=True)
        if name:
            path.write_text(name, encoding="utf-8")


def make(root: Path) -> Fake:
    """Writes everything below `root`; the checkout is a git repository with one commit."""
    scripts = {
        "research/__init__.py": "",
        "research/probe/__init__.py": "",
        "research/probe/probe_dataset.py": COMMON + PROBE,
        "research/icms/__init__.py": "",
        "research/icms/offline_icms.py": COMMON + ICSM,
        "vla-scripts/finetune.py": COMMON + FINETUNE,
        "experiments/robot/libero/run_libero_eval.py": COMMON + EVALUATE,
    }
    for name, text in scripts.items():
        path = root / "openvla" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "LIBERO").mkdir()
    data = root / "data" / "libero_spatial_no_noops"
    data.mkdir(parents=True)
    (data / "episodes").write_text("pictures", encoding="utf-8")
    model = root / "model"
    model.mkdir()
    config = {"norm_stats": {"libero_object": {}, "libero_goal": {}}, "kept": 0.9, "image_sizes": [64, 64]}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (root / "python").write_text(INTERPRETER.format(python=sys.executable), encoding="utf-8")
    (root / "python").chmod(0o755)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "fake"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root / "openvla"), *identity, *arguments], check=True)
    return Fake(root)
