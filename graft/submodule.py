"""A submodule as the project has it: its entry in ``.gitmodules`` and its commit in the index (the gitlink).

Both are made as writes, so that they come with other files in one transaction or not at all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from graft.errors import BadInput, GraftError
from graft.git import git, git_dir, git_text
from graft.transaction import Write

MODULES = ".gitmodules"


def recorded(root: Path, path: str) -> str | None:
    """The commit that the index of the project at ``root`` has for the submodule at ``path``, None for no submodule."""
    words = git_text(["ls-files", "--stage", "--", path], cwd=root).split()
    return words[1] if words[:1] == ["160000"] else None


def gitlink(root: Path, path: str, commit: str) -> Write:
    """The project's index with the submodule ``path`` at ``commit``, new there or not.

    Raises:
        GraftError: another git command holds the index; it would write over ours, or ours over its own.
    """
    index = git_dir(root) / "index"
    refuse_held(index)
    old = index.read_bytes() if index.is_file() else None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "index")
        if old is not None:
            copy.write_bytes(old)
        words = ["update-index", "--add", "--cacheinfo", f"160000,{commit},{path}"]
        git(words, cwd=root, env={"GIT_INDEX_FILE": str(copy)})
        return Write("index", copy.read_bytes(), space="git", expect=old)


def refuse_held(index: Path) -> None:
    """Raises GraftError where another git command holds ``index``, the project's or a checkout's."""
    held = index.with_name("index.lock")
    if os.path.lexists(held):
        raise GraftError(
            "another git command is at work on the index, or was killed there",
            where=str(held),
            remedy="wait for it, or delete that file where none runs; then run again, nothing was written",
        )


def entry(root: Path, path: str, url: str) -> list[Write]:
    """The entry of a submodule at ``path``; nothing where ``.gitmodules`` has it.

    Raises:
        BadInput: it has one with another url.
    """
    known = modules(root).get(path)
    if known == url:
        return []
    if known is not None:
        remedy = f"git config -f {MODULES} --remove-section submodule.{path}, or name that url"
        raise BadInput(f"{path} is there with the url {known}", where=MODULES, remedy=remedy)
    file = root / MODULES
    old = file.read_bytes() if file.is_file() else None
    start = old + b"\n" if old and not old.endswith(b"\n") else old or b""
    text = f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n\tshallow = true\n\tignore = dirty\n'
    return [Write(MODULES, start + text.encode(), expect=old)]


def modules(root: Path) -> dict[str, str]:
    """The url of every submodule that ``.gitmodules`` names, by path."""
    file = root / MODULES
    if not file.is_file():
        return {}
    entries = git_text(["config", "-z", "-f", str(file), "--list"], cwd=root).split("\0")
    values = dict(one.split("\n", 1) for one in entries if "\n" in one)
    return {
        path: values.get(key.removesuffix(".path") + ".url", "")
        for key, path in values.items()
        if key.startswith("submodule.") and key.endswith(".path")
    }
