"""How long apply, a second apply and revert take on the real LLaMA-Factory, and that revert restores every byte.

    python bench/apply.py [--json] [--runs N]

Works on a copy of this project in a temporary folder; the upstream comes from the checkout here, else from wherever
``apply.py`` finds it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import libcst as cst  # noqa: E402

from bench.measure import arguments, finish, median, seconds  # noqa: E402
from graft.cli import main  # noqa: E402

NAME = "LLaMA-Factory"
GOALS = {"apply_s": 1.5, "again_s": 0.3}


def run(root: Path, *words: str) -> None:
    """One command in this process; its output is dropped, its failure is not."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(root, [*words])
    if code != 0:
        raise SystemExit(f"apply.py {' '.join(words)} ended with {code}\n{out.getvalue()}")


def snapshot(checkout: Path) -> dict[str, tuple[int, int]]:
    """Inode and change time of every file, the git directory of the checkout included."""
    gitdir = Path(git(checkout, "rev-parse", "--absolute-git-dir"))
    found = {}
    for top in (checkout, gitdir):
        for folder, _, files in os.walk(top):
            for name in files:
                at = Path(folder, name)
                if at != gitdir / "graft" / "lock" and at != gitdir / "index":
                    state = at.stat(follow_symlinks=False)
                    found[str(at)] = (state.st_ino, state.st_mtime_ns)
    return found


def git(checkout: Path, *words: str, **env: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=checkout, check=True, capture_output=True, text=True, env={**os.environ, **env}
    )
    return done.stdout.strip()


def tree_id(checkout: Path, index: Path) -> str:
    """The tree id of everything that lies in the work tree, new files included."""
    index.unlink(missing_ok=True)
    git(checkout, "add", "--all", "--force", GIT_INDEX_FILE=str(index))
    return git(checkout, "write-tree", GIT_INDEX_FILE=str(index))


def bench() -> int:
    options = arguments(__doc__.splitlines()[0], runs=5)
    times: dict[str, list[float]] = {"apply_s": [], "again_s": [], "revert_s": [], "libcst_s": []}
    writes_again = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("patches", "overlays"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "upstream.lock", root)
        mirror = ["--mirror", str(ROOT / "upstreams")] if (ROOT / "upstreams" / NAME / ".git").exists() else []
        run(root, "apply", NAME, *mirror)
        checkout, index = root / "upstreams" / NAME, root / "index"
        touched = git(checkout, "diff", "--name-only").splitlines()
        run(root, "revert", NAME)
        pin = git(checkout, "rev-parse", "HEAD^{tree}")
        trees = set()
        for _ in range(options.runs):
            plain = [(checkout / path).read_bytes() for path in touched]
            times["libcst_s"].append(
                seconds(lambda sources=plain: [cst.parse_module(source).code for source in sources])
            )
            times["apply_s"].append(seconds(lambda: run(root, "apply", NAME)))
            before = snapshot(checkout)
            times["again_s"].append(seconds(lambda: run(root, "apply", NAME)))
            writes_again += len(set(snapshot(checkout).items()) ^ set(before.items()))
            times["revert_s"].append(seconds(lambda: run(root, "revert", NAME)))
            trees.add(tree_id(checkout, index))
    figures = {name: median(values) for name, values in times.items()}
    restored = trees == {pin}
    figures |= {
        "ratio": round(figures["apply_s"] / figures["libcst_s"], 2),
        "goal": GOALS,
        "writes_again": writes_again,
        "revert_restores_tree": restored,
        "touched_files": len(touched),
    }
    finish(
        options,
        figures,
        [
            f"apply           {figures['apply_s']:.3f} s   (goal {GOALS['apply_s']} s)",
            f"apply again     {figures['again_s']:.3f} s   (goal {GOALS['again_s']} s), {writes_again} files written",
            f"revert          {figures['revert_s']:.3f} s, every byte restored: {restored}",
            f"libcst alone    {figures['libcst_s']:.3f} s to parse and print the {len(touched)} files that are touched;"
            f" apply takes {figures['ratio']} times that",
        ],
    )
    met = all(figures[name] <= goal for name, goal in GOALS.items())
    return 0 if met and restored and not writes_again else 1


if __name__ == "__main__":
    sys.exit(bench())
