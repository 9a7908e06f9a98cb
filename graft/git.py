"""git as a subprocess: quiet, never asking, never reading a user's hooks, and every failure a named error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import BadInput, GraftError

OLDEST = (2, 30)
"""The oldest git that the engine is written for (``init --object-format``, ``index-pack --promisor``)."""

Progress = Callable[[str], None]

_METER = re.compile(r"(?:remote: )?[A-Z][a-z]+(?: [a-z]+)+: +\d")
"""A line of git's that counts something; its other words are for the error that may come of them."""

# What a surrounding git (a hook, an alias, ``rebase --exec``) leaves in the environment would redirect every call here.
# GIT_CONFIG_COUNT, _KEY_n, _VALUE_n and GIT_CONFIG_PARAMETERS stay: they are how CI configures mirrors.
_INHERITED = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE",
    "GIT_CONFIG", "GIT_REPLACE_REF_BASE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_DEFAULT_HASH", "GIT_EXTERNAL_DIFF",
    "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_TEMPLATE_DIR", "GIT_DIFF_OPTS",
)  # fmt: skip

_SETTLED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_PAGER": "cat",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C",
    "LANGUAGE": "C",
}

NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", "-c", "submodule.recurse=false")
"""Options before every verb, so that no hook and no watcher of a checkout acts: both are programs of its own."""


@dataclass(frozen=True)
class Result:
    """What one git process left: its exit status and both streams."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Position:
    """Where a checkout stands, read in one call.

    Attributes:
        head: the commit id HEAD names, 40 hex digits.
        tree: that commit's tree id.
        git_dir: absolute path of the git directory (not always ``root/.git``).
    """

    head: str
    tree: str
    git_dir: Path


def redact(text: str) -> str:
    """``text`` without the credentials of any URL in it."""
    return re.sub(r"(\b[a-z][a-z0-9+.-]*://)[^/@\s'\"]+@", r"\1***@", text, flags=re.IGNORECASE)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment every git call runs in: the caller's, less what would redirect git, plus ``extra``."""
    env = {key: value for key, value in os.environ.items() if key not in _INHERITED}
    env.update(_SETTLED)
    env.update(extra or {})
    return env


def run(args: Sequence[str], *, cwd: Path, input: bytes | None = None, env: Mapping[str, str] | None = None) -> Result:
    """Run git and hand back whatever it did, failed or not.

    Args:
        cwd: the top of a working tree or a bare repository; git looks for a repository there and no further up.

    Raises:
        GraftError: git is not installed, or ``cwd`` is not a directory.
    """
    settled = environment(env)
    # Discovery stays in cwd: a checkout whose own .git is broken would silently resolve to the repository around it.
    above = [str(Path(os.path.abspath(cwd)).parent), settled.get("GIT_CEILING_DIRECTORIES", "")]
    settled["GIT_CEILING_DIRECTORIES"] = os.pathsep.join(filter(None, above))
    try:
        done = subprocess.run(
            ["git", *NO_HOOKS, *args],
            cwd=cwd,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=settled,
            check=False,
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise _not_started(cwd, error) from error
    return Result(done.returncode, done.stdout, redact(done.stderr.decode("utf-8", "replace")).strip())


def git(
    args: Sequence[str],
    *,
    cwd: Path,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> bytes:
    """Run git and return what it printed; put ``--`` before paths in ``args``.

    Raises:
        GraftError: it failed and ``check`` is set: names the command and git's own words.
    """
    result = run(args, cwd=cwd, input=input, env=env)
    if check and result.code:
        raise failed(args, cwd, result)
    return result.out


def git_text(
    args: Sequence[str],
    *,
    cwd: Path,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> str:
    """`git`, decoded (undecodable bytes survive as surrogates) and without the trailing newline."""
    return os.fsdecode(git(args, cwd=cwd, input=input, env=env, check=check)).rstrip("\n")


def failed(args: Sequence[str], cwd: Path, result: Result) -> GraftError:
    """The error for a git call that returned ``result``."""
    settings = {at + offset for at, word in enumerate(args) if word == "-c" for offset in (0, 1)}
    command = redact(" ".join(["git", *(word for at, word in enumerate(args) if at not in settings)]))
    if len(command) > 200:
        command = command[:200] + " ..."
    said = result.err or f"exit status {result.code}, no message"
    remedy = ""
    if "dubious ownership" in result.err:
        remedy = "the directory belongs to another user; if you trust it, run the `git config ... safe.directory` above"
    elif "index.lock" in result.err:
        remedy = "another git is at work there; when none is, remove the lock file that git names"
    return GraftError(f"`{command}` failed: {said}", where=str(cwd), remedy=remedy)


def watch(args: Sequence[str], *, cwd: Path, progress: Progress, silence: float) -> None:
    """Run a git command that talks to a network, passing on what it counts, and end it when nothing is heard.

    Args:
        silence: seconds without a word after which the other side counts as dead.

    Raises:
        GraftError: it failed, or stayed silent for too long.
    """
    try:
        # A session of its own: no terminal that ssh could prompt on, and one group to end with all helpers.
        process = subprocess.Popen(
            ["git", *NO_HOOKS, *args],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise _not_started(cwd, error) from error
    kept: list[str] = []
    heard = [time.monotonic()]
    reader = threading.Thread(target=_listen, args=(process, kept, heard, progress), daemon=True)
    reader.start()
    dead = False
    try:
        while not dead:
            try:
                process.wait(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                dead = time.monotonic() - heard[0] > silence
        if dead:
            _end(process)
    except BaseException:
        _end(process)
        raise
    finally:
        process.wait()
        reader.join(1.0)
    if dead:
        raise GraftError(f"no answer for {silence:.0f} s from `{redact(' '.join(['git', *args]))}`", where=str(cwd))
    if process.returncode:
        raise failed(args, cwd, Result(process.returncode, b"", redact("\n".join(kept[-12:]))))


def _listen(process: subprocess.Popen[bytes], kept: list[str], heard: list[float], progress: Progress) -> None:
    assert process.stderr is not None
    line = bytearray()
    while chunk := os.read(process.stderr.fileno(), 4096):
        heard[0] = time.monotonic()
        for byte in chunk:
            if byte not in b"\r\n":
                line.append(byte)
                continue
            text = line.decode("utf-8", "replace").strip(" \0")
            line.clear()
            if not text:
                continue
            if _METER.match(text):
                progress(redact(text))
            elif byte == 0x0A:
                kept.append(text)
    if line:
        kept.append(line.decode("utf-8", "replace").strip())
    process.stderr.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _not_started(cwd: Path, error: OSError) -> GraftError:
    if not cwd.is_dir():
        return GraftError("not a directory", where=str(cwd), remedy="check the path")
    return GraftError(f"git could not be started: {error.strerror}", remedy="install git and put it on PATH")


def version(cwd: Path) -> tuple[int, ...]:
    """The installed git's version, as in (2, 39, 5)."""
    said = git_text(["--version"], cwd=cwd)
    found = re.search(r"(\d+(?:\.\d+)+)", said)
    if not found:
        raise GraftError(f"cannot read git's version from {said!r}", remedy="install git 2.30 or later")
    return tuple(int(part) for part in found.group(1).split("."))


def git_dir(root: Path) -> Path:
    """The git directory of the checkout at ``root``, without a process; follows the ``.git`` file of a submodule.

    Raises:
        GraftError: ``root`` is no checkout.
    """
    entry = root / ".git"
    if entry.is_dir():
        return entry
    try:
        said = entry.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise GraftError("not a git checkout", where=str(root), remedy="fetch it: python apply.py") from error
    if not said.startswith("gitdir:"):
        raise GraftError("its .git file is not one of git's", where=str(entry), remedy="move the checkout away")
    target = Path(os.path.normpath(root / said[len("gitdir:") :].strip()))
    if not target.is_dir():
        raise GraftError(
            f"its git directory {target} is gone",
            where=str(root),
            remedy=f"move {root} away, and fetch it again: python apply.py",
        )
    return target


def position(root: Path) -> Position:
    """HEAD, its tree and the git directory of the checkout at ``root``, in one call.

    Raises:
        GraftError: no checkout, or no commit yet.
    """
    git_dir(root)
    lines = git_text(["rev-parse", "HEAD^{commit}", "HEAD^{tree}", "--absolute-git-dir"], cwd=root).split("\n")
    return Position(lines[0], lines[1], Path(lines[2]))


def head_commit(root: Path) -> str:
    """The commit id that HEAD names."""
    return position(root).head


def tree_id(root: Path, commit: str = "HEAD") -> str:
    """The tree id of ``commit``; fails when the object is not there."""
    return git_text(["rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}"], cwd=root)


def has_commit(root: Path, commit: str) -> bool:
    """Whether the repository at ``root`` (bare or not) holds that commit with its tree."""
    return run(["cat-file", "-e", f"{commit}^{{tree}}"], cwd=root).code == 0


def read_blobs(root: Path, specs: Sequence[str]) -> list[bytes | None]:
    """The contents of objects such as ``HEAD:src/a.py``, in order, in one call; None for one that is not there.

    Raises:
        BadInput: a spec holds a newline.
    """
    if not specs:
        return []
    for spec in specs:
        if "\n" in spec:
            raise BadInput("a path with a newline cannot be read from git", where=repr(spec), remedy="rename the file")
    wanted = b"".join(os.fsencode(spec) + b"\n" for spec in specs)
    out = git(["cat-file", "--batch"], cwd=root, input=wanted)
    blobs: list[bytes | None] = []
    at = 0
    for _ in specs:
        end = out.index(b"\n", at)
        words = out[at:end].rsplit(b" ", 2)
        if len(words) == 3 and words[1] in (b"blob", b"tree", b"commit", b"tag") and words[2].isdigit():
            size = int(words[2])
            blobs.append(out[end + 1 : end + 1 + size])
            at = end + 1 + size + 1
        else:
            blobs.append(None)
            at = end + 1
    return blobs


def read_blob(root: Path, spec: str) -> bytes | None:
    """`read_blobs` for one object."""
    return read_blobs(root, [spec])[0]


def is_clean(root: Path) -> bool:
    """Whether the working tree and the index are what HEAD says, with nothing untracked (ignored files aside)."""
    git_dir(root)
    return not git(["status", "--porcelain", "-z", "--untracked-files=normal"], cwd=root)


def config_get(root: Path, key: str) -> str | None:
    """The value git uses for ``key`` at ``root``; None when it is not set."""
    result = run(["config", "--get", key], cwd=root)
    return os.fsdecode(result.out).rstrip("\n") if result.code == 0 else None


def config_local(root: Path) -> dict[str, list[str]]:
    """Every key of the repository's own configuration with its values in order (section and variable lower case)."""
    values: dict[str, list[str]] = {}
    for entry in git_text(["config", "--local", "--list", "-z"], cwd=root).split("\0"):
        if entry:
            key, _, value = entry.partition("\n")
            values.setdefault(key, []).append(value)
    return values
