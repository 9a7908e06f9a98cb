"""Builds one virtual environment below `.venvs/`, step by step, and skips every step that is already done.

    python envs/build.py NAME [-r REQUIREMENTS]... [--no-deps-requirements REQUIREMENTS]... [--editable CHECKOUT]
                         [--cpu-shims [MODULES]] [--python X.Y] [--before X.Y]

Needs nothing but the standard library. pip's own configuration (mirrors, caches, certificates) applies unchanged, and
so does git's (`url.<mirror>.insteadOf`). Exit code 3 says that all was done but for packages that exist in git only and
could not be fetched; each has been named with its remedy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIMS = ROOT / "envs" / "cpu-shims"
STAMP = "graft-environment.json"
SHIM_FILE = "graft_cpu_shims.pth"


class BuildError(Exception):
    """A step that did not work; the message names the remedy."""


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def digest(*paths: Path) -> str:
    """SHA-256 (hex) over the contents of `paths`, in order."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def python_in(venv: Path) -> Path:
    return venv / ("Scripts" if os.name == "nt" else "bin") / "python"


def create(venv: Path, done: dict[str, str]) -> None:
    """Makes an empty environment with this interpreter, unless one is there.

    Raises BuildError where the interpreter has no `ensurepip` (Debian ships it as a package of its own).
    """
    wanted = f"{sys.version_info.major}.{sys.version_info.minor} {sys.base_prefix}"
    if done.get("python") == wanted and python_in(venv).exists():
        return
    done.clear()
    say(f"{venv.name}: new environment, Python {sys.version.split()[0]}")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"{sys.executable} cannot make virtual environments: run `apt-get install python{version}-venv`, "
            "or choose another interpreter with `make PYTHON=...`"
        ) from None
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    done["python"] = wanted


def pip(venv: Path, *arguments: str) -> None:
    quiet = [] if sys.stderr.isatty() else ["--quiet", "--progress-bar", "off"]
    command = [str(python_in(venv)), "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments]
    # git asks for credentials on the terminal itself, whatever stdin is.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    if subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode:
        raise BuildError(
            f"pip could not install {' '.join(arguments)} into {venv}: see above. "
            "Behind a mirror set it once with `pip config set global.index-url URL`; what was done is kept, run again."
        )


def install(venv: Path, key: str, state: str, what: str, arguments: list[str], done: dict[str, str]) -> None:
    """Runs one pip step unless `done[key]` says that it was run for this `state`."""
    if done.get(key) == state:
        return
    say(f"{venv.name}: {what}")
    start = time.monotonic()
    pip(venv, *arguments)
    done[key] = state
    say(f"{venv.name}: {what}: {time.monotonic() - start:.0f} s")


def requirements_in(path: Path) -> list[str]:
    """The requirements of a file, one a line, without comments."""
    lines = (line.partition(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def has_distribution(venv: Path, name: str) -> bool:
    code = "import importlib.metadata as m, sys; m.version(sys.argv[1])"
    return subprocess.run([str(python_in(venv)), "-c", code, name], capture_output=True).returncode == 0


def install_alone(venv: Path, requirement: str, done: dict[str, str]) -> str | None:
    """Installs one requirement without its dependencies; returns what to do where it comes from git and did not.

    A package of a registry that cannot be had is a BuildError, as everywhere. One that exists in git only is not: where
    no git host is reachable the rest of the environment is still worth having, and a copy installed by hand is taken.
    """
    name, at, source = (part.strip() for part in requirement.partition("@"))
    try:
        install(venv, f"--no-deps {requirement}", requirement, requirement, ["--no-deps", requirement], done)
    except BuildError:
        if not at or not source.startswith("git+"):
            raise
        if has_distribution(venv, name):
            say(f"{venv.name}: {name}: git did not deliver {source}; the copy that is installed stays")
            return None
        url = source.removeprefix("git+").rpartition("@")[0] or source.removeprefix("git+")
        return (
            f"{venv.name} is without {name}: git could not fetch {source} (see above). Name a mirror once with "
            f"`git config --global url.MIRROR.insteadOf {url}` and run again, or install a copy with "
            f"`{python_in(venv)} -m pip install --no-deps FOLDER`"
        )
    return None


def import_error(venv: Path, module: str) -> str | None:
    """Why `module` does not import in `venv` (the last line of its traceback), or None where it does."""
    run = subprocess.run([str(python_in(venv)), "-c", f"import {module}"], capture_output=True, text=True)
    return None if run.returncode == 0 else (run.stderr.strip().splitlines() or ["no message"])[-1]


def site_packages(venv: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    run = subprocess.run([str(python_in(venv)), "-c", code], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip())


def add_shims(venv: Path, modules: list[str], done: dict[str, str]) -> None:
    """Switches on those stand-ins of `envs/cpu-shims` that this environment needs, naming each with the reason.

    `modules` are the ones it uses at all.

    Raises BuildError where a package does not import even so.
    """
    state = json.dumps([modules, *(done.get(key) for key in sorted(done) if key != "shims")])
    if done.get("shims") == state:
        return
    known = {
        "torchaudio": f"import sys; sys.path.insert(0, {str(SHIMS / 'torchaudio')!r})",
        "torchvision": f"import sys; sys.path.insert(0, {str(SHIMS / 'torchvision')!r}); "
        "import graft_torchvision_operators",
    }
    unknown = [module for module in modules if module not in known]
    if unknown:
        raise BuildError(f"--cpu-shims {','.join(unknown)}: there are stand-ins for {', '.join(known)} only")
    lines = {module: known[module] for module in modules}
    target = site_packages(venv) / SHIM_FILE
    target.unlink(missing_ok=True)
    needed = []
    for module, line in lines.items():
        reason = import_error(venv, module)
        if reason is not None:
            say(f"{venv.name}: stand-in for {module}, which does not import here ({reason[:100]})")
            needed.append(line)
    if needed:
        target.write_text("\n".join(needed) + "\n", encoding="utf-8")
    for module in lines:
        reason = import_error(venv, module)
        if reason is not None:
            raise BuildError(f"{module} does not import in {venv}, even with its stand-in: {reason}")
    done["shims"] = state


def build(arguments: argparse.Namespace) -> list[str]:
    """Runs the steps that are not done yet; returns what is missing and how to get it, a line each."""
    venv = ROOT / ".venvs" / arguments.name
    stamp = venv / STAMP
    done: dict[str, str] = json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else {}

    def keep() -> None:
        part = stamp.with_suffix(".part")
        part.write_text(json.dumps(done, indent=1), encoding="utf-8")
        part.replace(stamp)

    create(venv, done)
    keep()
    for requirements in arguments.requirements:
        path = Path(requirements)
        install(venv, f"-r {path}", digest(path), str(path), ["-r", str(path)], done)
        keep()
    missing = []
    for requirements in arguments.no_deps_requirements:
        for requirement in requirements_in(Path(requirements)):
            missing.append(install_alone(venv, requirement, done))
            keep()
    if arguments.editable:
        checkout = Path(arguments.editable).resolve()
        project = checkout / "pyproject.toml"
        if not project.exists():
            raise BuildError(f"{checkout} holds no pyproject.toml: fetch it first with `python apply.py`")
        state = f"{checkout} {digest(project)}"
        install(venv, "editable", state, f"{arguments.editable}, editable", ["--no-deps", "-e", str(checkout)], done)
        keep()
    if arguments.cpu_shims:
        add_shims(venv, arguments.cpu_shims.split(","), done)
        keep()
    remedies = [line for line in missing if line]
    state = "ready" if not remedies else "ready but for what is named below"
    print(f"{venv.name}: {state} ({python_in(venv).relative_to(ROOT)})", flush=True)
    return remedies


def version(text: str) -> tuple[int, ...]:
    """(3, 11) from "3.11"."""
    return tuple(int(part) for part in text.split("."))


def unfit(arguments: argparse.Namespace) -> str | None:
    """Why this interpreter cannot make the environment, with the remedy; None where it can."""
    oldest, before = (".".join(map(str, bound or ())) for bound in (arguments.python, arguments.before))
    found = f"{arguments.name} needs Python {{}}, this is {sys.version.split()[0]}: "
    if sys.version_info < arguments.python:
        return found.format(f"{oldest} or later") + f"name a later one, such as `make PYTHON=python{oldest} ...`"
    if arguments.before and sys.version_info >= arguments.before:
        return found.format(f"before {before}") + f"name an earlier one, such as `make PYTHON=python{oldest} ...`"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the environment: it is made at .venvs/NAME")
    parser.add_argument("-r", dest="requirements", action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument(
        "--no-deps-requirements",
        action="append",
        default=[],
        metavar="FILE",
        help="one requirement a line, each installed without its dependencies; may be repeated",
    )
    parser.add_argument("--editable", metavar="CHECKOUT", help="install this checkout editable, without dependencies")
    parser.add_argument(
        "--cpu-shims",
        nargs="?",
        const="torchaudio,torchvision",
        metavar="MODULES",
        help="use envs/cpu-shims where a real package does not load (those named, by commas; all)",
    )
    parser.add_argument("--python", default="3.10", type=version, metavar="X.Y", help="the oldest Python that will do")
    parser.add_argument("--before", type=version, metavar="X.Y", help="the first Python that will not do any more")
    arguments = parser.parse_args()
    if (refusal := unfit(arguments)) is not None:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    try:
        missing = build(arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
