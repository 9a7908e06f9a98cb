"""A stand-in as a git repository, grafted with the real packs, and its scripts run on it.

Needs nothing that a method's environment lacks: the graft is applied by a process of an interpreter that has libcst.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tests.standins.upstream import Pin, sh

REPOSITORY = Path(__file__).resolve().parents[2]
LEFT_BEHIND = ("__pycache__", "*.pyc", "runs", "adapter-tmp", "rollouts", "wandb", "logs", "playground", "results")
"""What runs leave in a tree, and no part of a stand-in."""
Grafted = TypeVar("Grafted", bound="GraftedProject")


def engine_python() -> str:
    """An interpreter that can import libcst: ``$GRAFT_ENGINE_PYTHON``, this one, or the one that ``make engine`` makes.

    Raises RuntimeError, with the remedy, where none can.
    """
    named = os.environ.get("GRAFT_ENGINE_PYTHON")
    candidates = [named] if named else [sys.executable, str(REPOSITORY / ".venvs" / "engine" / "bin" / "python")]
    for candidate in candidates:
        if shutil.which(candidate) is None:
            continue
        if subprocess.run([candidate, "-c", "import libcst"], capture_output=True).returncode == 0:
            return candidate
    raise RuntimeError(
        f"no interpreter can import libcst, which graft needs: tried {', '.join(candidates)}. "
        "Run `make engine`, or name one in GRAFT_ENGINE_PYTHON."
    )


def packs_of(upstream: str) -> list[str]:
    """The packs for an upstream that this repository has."""
    return sorted(path.stem for path in (REPOSITORY / "patches" / upstream).glob("*.py"))


def make_standin(upstream: str, place: Path) -> Pin:
    """A git repository of the files of the stand-in for ``upstream``, with one commit on ``main``."""
    files = REPOSITORY / "tests" / "standins" / upstream
    shutil.copytree(files, place, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    sh("init", "-q", "-b", "main", cwd=place)
    sh("add", "-A", cwd=place)
    sh("commit", "-qm", "stand-in", cwd=place)
    commit, tree = sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=place).split()
    return Pin(place, commit, tree)


@dataclass(frozen=True)
class Ran:
    """What a script left: the exit code of each process, and what they printed, by rank."""

    codes: tuple[int, ...]
    outputs: tuple[str, ...]
    cwd: Path

    def check(self) -> Ran:
        """Raises RuntimeError with the last lines of the first process that failed."""
        for rank, (code, output) in enumerate(zip(self.codes, self.outputs, strict=True)):
            if code != 0:
                tail = "\n".join(output.splitlines()[-40:])
                raise RuntimeError(f"rank {rank} in {self.cwd} ended with {code}:\n{tail}")
        return self

    def logged(self) -> list[dict[str, Any]]:
        """What was given to ``wandb.log``, in order."""
        lines = (self.cwd / "wandb" / "wandb.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if "step" in line]

    def losses(self, name: str = "train_loss") -> list[float]:
        return [line[name] for line in self.logged()]

    def one(self, pattern: str) -> Path:
        """The one file or folder below the working folder that matches a glob pattern."""
        found = sorted(self.cwd.glob(pattern))
        assert len(found) == 1, f"{pattern} matches {[str(each.relative_to(self.cwd)) for each in found]} in {self.cwd}"
        return found[0]


@dataclass
class GraftedProject:
    """A project folder like this repository, with the stand-in for ``upstream`` as its checkout."""

    upstream: ClassVar[str]
    license: ClassVar[str]
    preload: ClassVar[tuple[str, ...]]
    """What a run imports before the stand-in's own files: read once, by the server that every run is forked from."""

    root: Path
    plain: Path = field(init=False)
    """The stand-in as it is, without any graft."""
    patched: Path = field(init=False)
    """The checkout that carries the packs."""
    pin: Pin = field(init=False)

    def __post_init__(self) -> None:
        self.plain, self.patched = self.root / "standin", self.root / "project" / "upstreams" / self.upstream

    @classmethod
    def make(cls: type[Grafted], root: Path, names: Sequence[str] | None = None) -> Grafted:
        """Makes the repository and the project, and applies ``names`` (all packs of this repository by default)."""
        project = cls(root)
        project.pin = make_standin(cls.upstream, project.plain)
        home = root / "project"
        home.mkdir()
        for folder in ("patches", "overlays"):
            if (REPOSITORY / folder / cls.upstream).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / folder / cls.upstream, home / folder / cls.upstream, ignore=ignored)
        if (REPOSITORY / "overlays" / "common").is_dir():
            shutil.copytree(REPOSITORY / "overlays" / "common", home / "overlays" / "common")
        values = {
            "url": project.plain.as_uri(),
            "ref": "main",
            "commit": project.pin.commit,
            "tree": project.pin.tree,
            "license": cls.license,
            "path": f"upstreams/{cls.upstream}",
            "python": ">=3.10",
            "packs": list(packs_of(cls.upstream) if names is None else names),
        }
        table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        (home / "upstream.lock").write_text(f"format = 1\n\n[upstream.{cls.upstream}]\n{table}")
        (home / ".gitignore").write_text("upstreams/\n")
        sh("init", "-q", "-b", "main", cwd=home)
        shutil.copy(REPOSITORY / "apply.py", home / "apply.py")
        project.apply("apply")
        return project

    def apply(self, *arguments: str) -> str:
        """``python apply.py ARGUMENTS`` in the project; raises RuntimeError with what it said, where it fails."""
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "GIT_ALLOW_PROTOCOL": "file"}
        done = subprocess.run(
            [engine_python(), "apply.py", *arguments],
            cwd=self.root / "project",
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise RuntimeError(f"apply.py {' '.join(arguments)} ended with {done.returncode}:\n{said}")
        return done.stdout

    def run(
        self,
        script: str,
        *arguments: str,
        cwd: Path,
        tree: Path | None = None,
        ranks: int = 1,
        seed: int = 7,
        env: dict[str, str] | None = None,
        timeout: float = 300,
    ) -> Ran:
        """A script of the patched tree (or another) on some processes, as torchrun would start it, from ``cwd``.

        ``-m`` as the script, and the module as the first argument, does as ``python -m`` from the tree. torch's seed is
        set before the script begins, since the upstream's own sets none there. Raises TimeoutError.
        """
        return run_script(self.preload, tree or self.patched, script, arguments, cwd, ranks, seed, env or {}, timeout)


def run_script(
    preload: Sequence[str],
    tree: Path,
    script: str,
    arguments: Sequence[str],
    cwd: Path,
    ranks: int,
    seed: int,
    env: dict[str, str],
    timeout: float,
) -> Ran:
    cwd.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    logs = [cwd / f"rank{rank}.log" for rank in range(ranks)]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "WANDB_DIR": str(cwd / "wandb"),
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        **env,
    }
    processes = []
    for rank, log in enumerate(logs):
        own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=_enter, args=(tree, script, tuple(arguments), cwd, seed, own, log))
        process.start()
        processes.append(process)
    try:
        for process in processes:
            process.join(timeout)
            if process.is_alive():
                said = "\n".join(log.read_text()[-2000:] for log in logs)
                raise TimeoutError(f"{script} on {ranks} processes was not done in {timeout} s:\n{said}")
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    codes = tuple(process.exitcode if process.exitcode is not None else -1 for process in processes)
    return Ran(codes, tuple(log.read_text() for log in logs), cwd)


def _enter(
    tree: Path, script: str, arguments: tuple[str, ...], cwd: Path, seed: int, env: dict[str, str], log: Path
) -> None:
    """Becomes ``python SCRIPT ARGUMENTS``: only what a user's interpreter would have on its path stays there."""
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(env)
    os.chdir(cwd)
    ours = (REPOSITORY / "tests", REPOSITORY / "overlays")
    sys.path[:] = [entry for entry in sys.path if not any(Path(entry).is_relative_to(place) for place in ours)]
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    if script == "-m":
        sys.path.insert(0, str(tree))
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = [str((tree / script).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
        sys.argv = [str(tree / script), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
