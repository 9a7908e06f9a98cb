"""What stands between an upstream and a run of it here: git, a Python, packages, libraries, disk; each with its remedy.

What an upstream needs is data: ``envs/<name>.toml``. Nothing heavy is imported, here or in the interpreter asked.
"""

from __future__ import annotations

import ctypes.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from graft.dependencies import normalised, requirements
from graft.errors import BadInput, GraftError
from graft.git import OLDEST, version
from graft.lock import Upstream, read_toml
from graft.tree import WorkTree

_SPEC = re.compile(r"\s*(>=|<=|==|!=|~=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*\Z")

# Metadata only: importing a package to learn its version would start torch.
_ASK = """
import sys
sys.path[:] = filter(None, sys.path)  # not the folder one stands in: in a checkout it holds upstream's own modules
import json, re
from importlib.metadata import distributions
found = {}
for entry in distributions():
    name = entry.metadata["Name"]
    if name:
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), entry.version)
print(json.dumps({"python": list(sys.version_info[:3]), "packages": found}))
"""


class Level(str, Enum):
    """How much a finding matters."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        level: how much it matters.
        what: what was found, one sentence without a full stop.
        remedy: the command that mends it; empty when nothing needs mending.
    """

    level: Level
    what: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return {"level": self.level.value, "what": self.what, "remedy": self.remedy}


@dataclass(frozen=True)
class Package:
    """One requirement.

    Attributes:
        name: the distribution.
        version: a PEP 440 specifier, or empty for any.
        source: what to install instead of the name, as in ``git+https://...``.
        instead: distributions that serve as well.
        no_deps: install without its dependencies, whose pins would undo others.
    """

    name: str
    version: str = ""
    source: str = ""
    instead: tuple[str, ...] = ()
    no_deps: bool = False


@dataclass(frozen=True)
class Libraries:
    """Shared libraries of the system of which one has to be there."""

    any: tuple[str, ...]
    why: str
    install: str


@dataclass(frozen=True)
class Environment:
    """What one upstream's code needs: ``envs/<name>.toml``.

    Attributes:
        packages: requirements.
        libraries: of the system.
        disk_gib: free space that a whole environment takes, GiB.
        install: commands that make it, with ``{python}`` and ``{checkout}``.
    """

    packages: tuple[Package, ...]
    libraries: tuple[Libraries, ...]
    disk_gib: float
    install: tuple[str, ...]


@dataclass(frozen=True)
class Interpreter:
    """A Python that was asked: its path, version and installed distributions (normalised name to version)."""

    path: str
    version: tuple[int, ...]
    packages: Mapping[str, str]


def diagnose(
    upstream: Upstream, root: Path, *, python: str | Path | None = None, checkout: Path | None = None
) -> list[Finding]:
    """Look at everything that ``upstream`` needs; writes nothing.

    Args:
        python: the interpreter to look into; else ``.venvs/<name>/bin/python`` in ``root``, else the running one.
        checkout: for the remedies; the lock's path in ``root`` by default.

    Raises:
        BadInput: ``envs/<name>.toml`` is malformed.
    """
    needs = environment(root, upstream.name)
    place = str(checkout or root / upstream.path)
    chosen = choose(root, upstream.name, python)
    alone = python is None and not (_venv(root, upstream) / "bin" / "python").is_file()
    findings = [_git(root)]
    try:
        found = ask(chosen)
    except GraftError as error:
        findings.append(Finding(Level.ERROR, str(error.what), error.remedy))
    else:
        fits = _python(upstream, root, found)
        findings.append(fits)
        target = str(_venv(root, upstream) / "bin" / "python") if alone or fits.remedy else found.path
        lacking = _packages(upstream, needs, found, target, place) if needs is not None else []
        if alone and not fits.remedy and worst(lacking) is Level.ERROR:
            make = shlex.join([found.path, "-m", "venv", str(_venv(root, upstream))])
            said = f"{upstream.name} has no environment of its own; make one before what is missing goes into it"
            findings.append(Finding(Level.WARNING, said, make))
        findings += lacking
        findings += _asked_by_upstream(upstream, root, found, target)
    if needs is None:
        findings.append(Finding(Level.INFO, f"envs/{upstream.name}.toml is not there: packages were not looked at"))
    else:
        findings += [_library(entry) for entry in needs.libraries]
        findings.append(_disk(root, needs.disk_gib))
    findings.append(_gpu())
    return findings


def environment(root: Path, name: str) -> Environment | None:
    """The content of ``envs/<name>.toml``; None when there is none.

    Raises:
        BadInput: it is malformed.
    """
    file = root / "envs" / f"{name}.toml"
    if not file.is_file():
        return None
    data = read_toml(file)
    unknown = sorted(set(data) - {"packages", "libraries", "disk_gib", "install"})
    if unknown:
        raise BadInput(f"unknown key {unknown[0]!r}", where=str(file), remedy="remove it")
    disk = data.get("disk_gib", 1)
    if not isinstance(disk, (int, float)) or isinstance(disk, bool) or disk < 0:
        raise BadInput(f"disk_gib is {disk!r}; expected a number of GiB", where=str(file), remedy="correct it")
    packages = data.get("packages", {})
    libraries = data.get("libraries", [])
    if not isinstance(packages, dict) or not isinstance(libraries, list):
        raise BadInput("expected [packages] and [[libraries]]", where=str(file), remedy="write them as tables")
    return Environment(
        packages=tuple(_package(str(file), key, value) for key, value in packages.items()),
        libraries=tuple(_libraries(str(file), entry) for entry in libraries),
        disk_gib=float(disk),
        install=_strings(str(file), "install", data.get("install", [])),
    )


def choose(root: Path, name: str, python: str | Path | None) -> str:
    """The interpreter to look into: the one given, the project's own for this upstream, the running one."""
    own = root / ".venvs" / name / "bin" / "python"
    return str(python or (own if own.is_file() else sys.executable))


def _venv(root: Path, upstream: Upstream) -> Path:
    return root / ".venvs" / upstream.name


def ask(python: str) -> Interpreter:
    """Version and distributions of an interpreter, from its package metadata alone.

    Raises:
        GraftError: it cannot be run.
    """
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GraftError(f"{python} cannot be run: {error}", remedy="name a Python with --python PATH") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise GraftError(f"{python} cannot list its packages: {last}", remedy="name a Python with --python PATH")
    said = json.loads(done.stdout)
    return Interpreter(python, tuple(said["python"]), said["packages"])


def satisfies(version: str, specifier: str) -> bool:
    """Whether a release fits a PEP 440 specifier (``>= <= == != ~= < >`` and ``.*``); local parts (+cpu) are ignored.

    Raises:
        ValueError: the specifier is malformed.
    """
    release, early = _release(version)
    for part in filter(None, (part.strip() for part in specifier.split(","))):
        match = _SPEC.match(part)
        if not match:
            raise ValueError(f"{part!r} is no version specifier")
        sign, wanted, star = match.group(1), tuple(map(int, match.group(2).split("."))), match.group(3)
        width = max(len(release), len(wanted))
        have = (*_wide(release, width), -1 if early else 0)
        want = (*_wide(wanted, width), 0)
        prefix = _wide(release, len(wanted))[: len(wanted)] == wanted
        fits = {
            ">=": have >= want,
            "<=": have <= want,
            ">": have > want,
            "<": have < want and not (early and have[:-1] == want[:-1]),
            "==": prefix if star else have == want,
            "!=": not prefix if star else have != want,
            "~=": have >= want and _wide(release, len(wanted))[: len(wanted) - 1] == wanted[:-1],
        }[sign]
        if not fits:
            return False
    return True


def _release(version: str) -> tuple[tuple[int, ...], bool]:
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)(.*)", version)
    if not match:
        return (0,), True
    early = re.match(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)", match.group(2).partition("+")[0]) is not None
    return tuple(map(int, match.group(1).split("."))), early


def _wide(release: tuple[int, ...], width: int) -> tuple[int, ...]:
    return (*release, *[0] * (width - len(release)))


def _package(file: str, name: str, value: object) -> Package:
    where = f"{file}, [packages], key `{name}`"
    entry = {"version": value} if isinstance(value, str) else value
    if not isinstance(entry, dict) or set(entry) - {"version", "from", "instead", "no_deps"}:
        raise BadInput(
            "expected a version specifier, or a table of version, from, instead, no_deps",
            where=where,
            remedy="correct it",
        )
    specifier, source, no_deps = entry.get("version", ""), entry.get("from", ""), entry.get("no_deps", False)
    if not (isinstance(specifier, str) and isinstance(source, str) and isinstance(no_deps, bool)):
        raise BadInput("version and from are strings, no_deps is true or false", where=where, remedy="correct it")
    try:
        for part in specifier.split(","):
            satisfies("0", part)
    except ValueError as error:
        raise BadInput(str(error), where=where, remedy="write it as pip takes it, as in >=2.4,<3") from error
    return Package(name, specifier, source, _strings(where, "instead", entry.get("instead", [])), no_deps)


def _libraries(file: str, entry: object) -> Libraries:
    where = f"{file}, [[libraries]]"
    if not isinstance(entry, dict) or set(entry) != {"any", "why", "install"}:
        raise BadInput("expected the keys any, why and install", where=where, remedy="write these three")
    if not (isinstance(entry["why"], str) and isinstance(entry["install"], str)):
        raise BadInput("why and install are strings", where=where, remedy="correct them")
    return Libraries(_strings(where, "any", entry["any"]), entry["why"], entry["install"])


def _strings(where: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadInput(f"{key} is {value!r}; expected a list of strings", where=where, remedy=f"correct `{key}`")
    return tuple(value)


def _git(root: Path) -> Finding:
    oldest = ".".join(map(str, OLDEST))
    try:
        have = version(root)
    except GraftError as error:
        return Finding(Level.ERROR, error.what, error.remedy)
    shown = ".".join(map(str, have))
    if have < OLDEST:
        return Finding(Level.ERROR, f"git is {shown}; {oldest} or later is needed", "apt-get install -y git")
    return Finding(Level.OK, f"git {shown}")


def _python(upstream: Upstream, root: Path, found: Interpreter) -> Finding:
    shown = ".".join(map(str, found.version))
    if satisfies(shown, upstream.python):
        return Finding(Level.OK, f"Python {shown} ({found.path}); {upstream.name} runs on {upstream.python}")
    venv = _venv(root, upstream)
    fitting = _fitting(upstream.python)
    make = f"{fitting or 'python3.X'} -m venv {shlex.quote(str(venv))}"
    remedy = make if fitting else f"install a Python {upstream.python}, then: {make}"
    return Finding(Level.ERROR, f"{found.path} is Python {shown}; {upstream.name} runs on {upstream.python}", remedy)


def _fitting(specifier: str) -> str | None:
    """An installed interpreter of the newest minor version that fits; one that does not start does not count."""
    for minor in range(20, 7, -1):
        name = f"python3.{minor}"
        if not satisfies(f"3.{minor}.99", specifier) or not (path := shutil.which(name)):
            continue
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def _packages(upstream: Upstream, needs: Environment, found: Interpreter, target: str, checkout: str) -> list[Finding]:
    """What is there and what is not; the remedies install into the interpreter ``target``."""
    findings: list[Finding] = []
    here = 0
    for package in needs.packages:
        names = (package.name, *package.instead)
        have = {name: found.packages[normalised(name)] for name in names if normalised(name) in found.packages}
        fits = [name for name, release in have.items() if satisfies(release, package.version)]
        if fits:
            here += 1
            continue
        install = [target, "-m", "pip", "install", *(["--no-deps"] if package.no_deps else [])]
        remedy = shlex.join([*install, package.source or package.name + package.version])
        if have:
            shown = ", ".join(f"{name} {release}" for name, release in have.items())
            findings.append(
                Finding(Level.ERROR, f"{shown} is installed; {upstream.name} needs {package.version}", remedy)
            )
        else:
            findings.append(Finding(Level.ERROR, f"{package.name}{package.version} is not installed", remedy))
    if len(findings) > 2 and needs.install:
        values = {"python": shlex.quote(target), "checkout": shlex.quote(checkout)}
        whole = " && ".join(command.format_map(values) for command in needs.install)
        findings.append(Finding(Level.INFO, f"the whole environment for {upstream.name} at once", whole))
    if here:
        findings.insert(0, Finding(Level.OK, f"{here} of {len(needs.packages)} packages are there in {found.path}"))
    return findings


def _asked_by_upstream(upstream: Upstream, root: Path, found: Interpreter, target: str) -> list[Finding]:
    """Installed packages that the checkout's own files do not allow: ``envs/`` has its reasons, or is out of date."""
    try:
        asked = requirements(WorkTree(root / upstream.path, [], {}))
    except GraftError as error:
        return [
            Finding(Level.WARNING, f"{upstream.name}'s own requirements cannot be read: {error.what}", error.remedy)
        ]
    findings = []
    for name, specifier in asked.items():
        release = found.packages.get(name)
        try:
            fits = release is None or satisfies(release, specifier)
        except ValueError:  # a marker, an address: for pip to judge
            continue
        if not fits:
            said = f"{name} {release} is installed; {upstream.name}'s own files ask for {specifier}"
            findings.append(
                Finding(Level.WARNING, said, shlex.join([target, "-m", "pip", "install", name + specifier]))
            )
    return findings


def _library(entry: Libraries) -> Finding:
    there = [name for name in entry.any if ctypes.util.find_library(name)]
    if there:
        return Finding(Level.OK, f"{', '.join(f'lib{name}' for name in there)}, for {entry.why}")
    wanted = " nor ".join(f"lib{name}" for name in entry.any)
    return Finding(Level.ERROR, f"neither {wanted} is there, for {entry.why}", entry.install)


def _disk(root: Path, wanted: float) -> Finding:
    free = shutil.disk_usage(root).free / 2**30
    if free < wanted:
        return Finding(
            Level.WARNING, f"{free:.1f} GiB free; a whole environment takes about {wanted:g} GiB", f"df -h {root}"
        )
    return Finding(Level.OK, f"{free:.0f} GiB free")


def _gpu() -> Finding:
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        line = driver.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        return Finding(Level.INFO, f"NVIDIA driver: {line}")
    if Path("/dev/kfd").exists():
        return Finding(Level.INFO, "AMD GPU driver is there")
    return Finding(Level.INFO, "no GPU driver: runs use the CPU")


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level among the findings."""
    order = (Level.OK, Level.INFO, Level.WARNING, Level.ERROR)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
