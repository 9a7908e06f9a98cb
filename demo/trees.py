"""What the chapters share: why the real tree cannot run, upstream's own files, and materials that are made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.runs import RunFailed
from runners.digests import Digests, commit_of, new_sources, write_whole

MISSING = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))"
OFFLINE = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""For every command of a chapter: on the processor, offline, and one thread, which is quickest for tiny models."""


def missing(python: Path, modules: Sequence[str]) -> list[str]:
    """Those of `modules` that `python` does not have; all of them where it does not run."""
    if not python.is_file():
        return list(modules)
    run = subprocess.run([str(python), "-c", MISSING, *modules], capture_output=True, text=True)
    return run.stdout.split() if run.returncode == 0 else list(modules)


def why_not_real(
    report: Mapping[str, Any] | None, checkout: Path, landmark: str, environment: Path, modules: Sequence[str]
) -> str:
    """Why the real tree does not run here, or the empty string.

    `report` is its entry in the JSON of `status`, `landmark` a folder that it has, `modules` what it imports.
    """
    if report is None or not (checkout / landmark).is_dir():
        return f"{checkout} is not there"
    if report["state"] != "applied":
        return f"{checkout} does not carry the packs as they are now (its state: {report['state']})"
    if not report["tree_proven"]:
        return f"{checkout} is not proven to be the pinned tree"
    python = environment / "bin" / "python"
    if not python.is_file():
        return f"its environment, {environment}, is not built"
    lacking = missing(python, modules)
    return f"its environment, {environment}, lacks {', '.join(lacking)}" if lacking else ""


def diff_of(checkout: Path) -> str:
    """All that differs from HEAD in the upstream's own files.

    Raises RunFailed where git cannot say.
    """
    git = ["git", "-C", str(checkout), "diff", "--no-color", "--no-ext-diff", "-U2", "HEAD"]
    ran = subprocess.run(git, capture_output=True, text=True)
    if ran.returncode:
        raise RunFailed(f"{' '.join(git)} ended with {ran.returncode}\n{ran.stderr}")
    return ran.stdout


def graft_of(checkout: Path) -> dict[str, Any]:
    """`commit`, `diff` and `overlays` of a grafted checkout, as every chapter shows them. Raises RunFailed."""
    overlays = [
        {"path": str(path.relative_to(checkout)), "text": path.read_text(encoding="utf-8")}
        for path in new_sources(checkout)
    ]
    return {"commit": commit_of(checkout)[0], "diff": diff_of(checkout), "overlays": overlays}


def pristine(checkout: Path, folder: Path, parts: Sequence[str]) -> Path:
    """HEAD's own `parts` (folders) of a grafted checkout, in `folder`, where they are kept while HEAD is the same.

    Raises RunFailed.
    """
    commit, stamp = commit_of(checkout)[0], folder / "commit.txt"
    if commit and stamp.exists() and stamp.read_text(encoding="utf-8") == commit:
        return folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = folder / "head.tar"
    command = ["git", "-C", str(checkout), "archive", "-o", str(archive.absolute()), "HEAD", *parts]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RunFailed(f"{' '.join(command)} ended with {run.returncode}\n{run.stderr}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    stamp.write_text(commit, encoding="utf-8")
    return folder.absolute()


def make_once(
    command: Sequence[str], code: Sequence[Path], path: str, folder: Path, settings: Mapping[str, str]
) -> None:
    """Runs `command` with `folder` as its last word, unless its output is there from the same command and `code`.

    `path` is PYTHONPATH, `settings` further variables. Raises RunFailed.
    """
    digests = Digests()
    made_with = " ".join([*command, *(digests.of(each) for each in code)])
    stamp = folder / "made-with.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_with:
        print(f"    kept in {folder}", flush=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole = [*command, str(folder)]
    environment = {**os.environ, **settings, "PYTHONPATH": path}
    run = subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if run.returncode:
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-25:])
        raise RunFailed(f"{' '.join(whole)} ended with {run.returncode}\n{tail}")
    write_whole(stamp, made_with)
