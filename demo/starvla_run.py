"""Runs starVLA's own trainer several times and the trained policy once, and writes what they computed as JSON.

    python demo/starvla_run.py PLAN.json FACTS.json      (in the environment of the tree that it runs)

Every run is a process of its own, forked from this one, which has imported the large packages once. The trainer runs
as it is, through tests/starvla_real/recorded.py, which seeds it and writes down losses and digests of the weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "starvla_real" / "recorded.py"
SCRIPT = Path("starVLA", "training", "train_starvla.py")
SEED = 7
TAIL = 40


class Forked:
    """`work` in a process of its own, in `folder`, with its output in `folder`/log."""

    def __init__(self, name: str, folder: Path, tree: Path, work: Callable[[], None]) -> None:
        self.name, self.folder, self.begun = name, folder, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        self.running = True
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._enter(tree)
                work()
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                if isinstance(error.code, str):
                    print(error.code, file=sys.stderr)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def _enter(self, tree: Path) -> None:
        with (self.folder / "log").open("wb") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path.insert(0, str(tree))

    def stop(self) -> None:
        """Ends it where it has not been waited for."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def wait(self) -> float:
        """Seconds since its start. Raises SystemExit with the end of the log where it did not end well."""
        _, status = os.waitpid(self.pid, 0)
        self.running = False
        seconds = time.monotonic() - self.begun
        if status:
            tail = "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-TAIL:])
            raise SystemExit(f"{self.name}: ended with {os.waitstatus_to_exitcode(status)}\n{tail}")
        print(f"    {self.name}: done", flush=True)
        return seconds


def trained(name: str, plan: dict[str, Any], tree: str, options: list[str]) -> Forked:
    """upstream's train_starvla.py of `plan[tree]` with further dotted arguments."""
    folder = Path(plan["work"], name)
    words = [str(Path(plan[tree]) / SCRIPT), "--config_yaml", plan["config"], *options]
    words += [f"--run_root_dir={folder / 'runs'}", "--run_id=run"]

    def work() -> None:
        sys.path.insert(0, str(RECORDED.parent))
        sys.argv = [str(RECORDED), str(SEED), str(folder / "record"), *words]
        runpy.run_path(str(RECORDED), run_name="__main__")

    return Forked(name, folder, Path(plan[tree]), work)


def recorded(folder: Path) -> dict[str, list[str]]:
    """Losses as hexadecimal floats, and the SHA-256 of all weights, after every step."""
    lines = [json.loads(line) for line in (folder / "record").read_text().splitlines()]
    return {key: [line[key] for line in lines if key in line] for key in ("loss", "weights")}


def configuration(plan: dict[str, Any]) -> Path:
    """Writes the YAML of all runs: the stand-in's own, or that of the tests on the real tree."""
    materials = Path(plan["materials"])
    if plan["real"]:
        sys.path.insert(0, str(RECORDED.parent))
        found = importlib.import_module("native").configuration(materials, Path(plan["work"]))
    else:
        found = json.loads((materials / "toy.yaml").read_text(encoding="utf-8"))
    # JSON is YAML.
    file = Path(plan["work"], "config.yaml")
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return file


def off(plan: dict[str, Any]) -> dict[str, Forked]:
    """QwenPI of the untouched tree, and the method's framework, switched off, of the grafted one; not waited for."""
    few = [f"--trainer.max_train_steps={plan['off_steps']}"]
    return {
        "upstream": trained("off/upstream", plan, "pristine", [*few, "--framework.name=QwenPI"]),
        "grafted": trained("off/grafted", plan, "grafted", [*few, f"--framework.name={plan['framework']}"]),
    }


def recipes(tree: str) -> Any:
    """`starVLA/sagr/stages.py` of the tree, which needs nothing but the standard library."""
    spec = importlib.util.spec_from_file_location("demo_sagr_stages", Path(tree, "starVLA", "sagr", "stages.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stages(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The four stages, each from the weights of the one before."""
    known, done, previous = recipes(plan["grafted"]), [], None
    for recipe in known.STAGES:
        options = [*plan["options"], *known.overrides(recipe, previous, feedback=True, grounding=True)]
        options.append(f"--trainer.max_train_steps={plan['steps'][recipe.name]}")
        seconds = trained(recipe.name, plan, "grafted", options).wait()
        run = Path(plan["work"], recipe.name, "runs", "run")
        previous = str(run / "final_model" / "pytorch_model.pt")
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        done.append(
            {
                "name": recipe.name,
                "says": recipe.says,
                "frozen": list(recipe.freeze),
                "weights": {**recipe.weights, "w_ground": recipe.ground},
                "options": [each for each in options if each not in plan["options"]],
                "seconds": seconds,
                "metrics": metrics,
                "weights_file": previous,
            }
        )
    return done


def acted(plan: dict[str, Any], weights: str) -> dict[str, Any]:
    """What starvla_act.py says of the trained policy."""
    folder = Path(plan["work"], "act")
    facts = folder / "facts.json"

    def work() -> None:
        sys.path.insert(0, str(RECORDED.parent))
        sys.argv = ["starvla_act.py", weights, str(facts)]
        runpy.run_path(str(ROOT / "demo" / "starvla_act.py"), run_name="__main__")

    seconds = Forked("policy", folder, Path(plan["grafted"]), work).wait()
    return {**json.loads(facts.read_text()), "seconds": seconds}


def main() -> None:
    begun = time.monotonic()
    plan, target = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    for name in plan["preload"]:
        importlib.import_module(name)
    plan["config"] = str(configuration(plan))
    both = off(plan)
    try:
        done = stages(plan)
        seen = acted(plan, done[-1]["weights_file"])
        for run in both.values():
            run.wait()
    finally:
        for run in both.values():
            run.stop()
    found = {name: recorded(run.folder) for name, run in both.items()}
    facts = {
        "off": found,
        "stages": done,
        "policy": seen,
        "versions": {name: importlib.import_module(name).__version__ for name in plan["versions"]},
        "seconds": time.monotonic() - begun,
    }
    part = target.with_name(target.name + ".part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    part.replace(target)


if __name__ == "__main__":
    main()
