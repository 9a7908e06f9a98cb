"""The branch that a remote's ``HEAD`` names: what a lock can say, where ``HEAD`` would be another commit tomorrow."""

from __future__ import annotations

from pathlib import Path

from graft.fetch import Remote
from graft.git import git_text

_BRANCHES = "refs/heads/"


def default_branch(remote: Remote, cwd: Path) -> str | None:
    """The default branch of ``remote``; None where its ``HEAD`` is no branch, or it does not say.

    Raises:
        GraftError: it does not answer.
    """
    said = git_text([*remote.settings, "ls-remote", "--symref", "--", remote.address, "HEAD"], cwd=cwd)
    name = said.split("\n")[0].split("\t")[0].removeprefix("ref: ")
    return name.removeprefix(_BRANCHES) if name.startswith(_BRANCHES) else None
