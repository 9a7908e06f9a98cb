"""A checkout of someone else's repository is never pushed from: three locks, any one of which refuses.

The push URL of every remote, a rewrite of every other push address, and a pre-push hook. Someone who means to push can
still take them away by hand; no one pushes by accident.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.git import config_local, git, git_dir

BASE = "graft refuses to push: this is a checkout of someone else's repository; push from a clone of your own fork://"
"""What push addresses turn into: no protocol of git's, so that git refuses at once and its one line tells why."""

_REWRITE = f"url.{BASE}.pushinsteadof"
_MARK = "# written by graft: pushguard"
_HOOK = f"""#!/bin/sh
{_MARK}
echo "graft: this is a checkout of someone else's repository, patched in place; nothing is pushed from it." >&2
echo "graft: to offer a change upstream, commit it in a clone of your own fork." >&2
exit 1
"""


@dataclass(frozen=True)
class Guard:
    """What `guard` found and did.

    Attributes:
        wrote: what it had to put in place; empty when all was there.
        notes: what it left alone because a user had set it.
    """

    wrote: tuple[str, ...]
    notes: tuple[str, ...]


def guard(checkout: Path) -> Guard:
    """Make every push from ``checkout`` fail; writes nothing when that is so already.

    Raises:
        GraftError: no checkout, or its git directory cannot be written.
    """
    store = git_dir(checkout)
    hooks = store / "hooks"
    config = config_local(checkout)
    wrote: list[str] = []
    notes: list[str] = []
    for key, value in _missing(config, hooks):
        git(["config", "--local", "--replace-all", key, value], cwd=checkout)
        wrote.append(key)
    if _hook(hooks / "pre-push"):
        wrote.append("pre-push hook")
    own = config.get("core.hookspath", [""])[-1]
    if own and not _ours(own, hooks):
        notes.append(f"core.hooksPath is {own}: the pre-push hook is not read; pushes are refused by address only")
    return Guard(tuple(wrote), tuple(notes))


def guarded(checkout: Path) -> bool:
    """Whether all three locks are in place; reads only."""
    hooks = git_dir(checkout) / "hooks"
    hook = hooks / "pre-push"
    return not _missing(config_local(checkout), hooks) and _content(hook) == _HOOK and os.access(hook, os.X_OK)


def _missing(config: Mapping[str, Sequence[str]], hooks: Path) -> list[tuple[str, str]]:
    wanted: list[tuple[str, str]] = []
    for key, values in config.items():
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "remote" and variable == "url":
            pushed = config.get(f"remote.{name}.pushurl", [])
            if not pushed or not all(address.startswith(BASE) for address in pushed):
                wanted.append((f"remote.{name}.pushurl", BASE + values[-1]))
    # The empty prefix is every address: one typed on the command line, a remote added later.
    if "" not in config.get(_REWRITE, []):
        wanted.append((_REWRITE, ""))
    # Set here, a user's global core.hooksPath no longer hides the hook.
    own = config.get("core.hookspath", [""])[-1]
    if not own or (_ours(own, hooks) and own != _absolute(hooks)):
        wanted.append(("core.hooksPath", _absolute(hooks)))
    return wanted


def _ours(own: str, hooks: Path) -> bool:
    # A path that is gone is one that graft wrote before the project was moved.
    return own == _absolute(hooks) or (Path(own).is_absolute() and not Path(own).exists())


def _absolute(hooks: Path) -> str:
    return os.path.abspath(hooks)


def _hook(hook: Path) -> bool:
    content = _content(hook)
    if content == _HOOK and os.access(hook, os.X_OK):
        return False
    hook.parent.mkdir(parents=True, exist_ok=True)
    if content is not None and _MARK not in content:
        hook.replace(hook.with_name("pre-push.before-graft"))
    fresh = hook.with_name(f"pre-push.{os.getpid()}")
    fresh.write_text(_HOOK, encoding="utf-8")
    fresh.chmod(0o755)
    fresh.replace(hook)
    return True


def _content(hook: Path) -> str | None:
    try:
        return hook.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
