"""Builds one virtual environment below `.venvs/`, step by step, and skips every step that is already done.

    python envs/build.py NAME [-r REQUIREMENTS]... [--editable CHECKOUT] [--cpu-shims]

Needs nothing but the standard library. pip's own configuration (mirrors, caches, certificates) applies unchanged.
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
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
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


def import_error(venv: Path, module: str) -> str | None:
    """Why `module` does not import in `venv` (the last line of its traceback), or None where it does."""
    run = subprocess.run([str(python_in(venv)), "-c", f"import {module}"], capture_output=True, text=True)
    return None if run.returncode == 0 else (run.stderr.strip().splitlines() or ["no message"])[-1]


def site_packages(venv: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    run = subprocess.run([str(python_in(venv)), "-c", code], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip())


def add_shims(venv: Path, done: dict[str, str]) -> None:
    """Switches on the stand-ins of `envs/cpu-shims` that this environment needs, naming each with the reason.

    Raises BuildError where a package does not import even so.
    """
    state = json.dumps([done.get(key) for key in sorted(done) if key != "shims"])
    if done.get("shims") == state:
        return
    lines = {
        "torchaudio": f"import sys; sys.path.insert(0, {str(SHIMS / 'torchaudio')!r})",
        "torchvision": f"import sys; sys.path.insert(0, {str(SHIMS / 'torchvision')!r}); "
        "import graft_torchvision_operators",
    }
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


def build(arguments: argparse.Namespace) -> None:
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
    if arguments.editable:
        checkout = Path(arguments.editable).resolve()
        project = checkout / "pyproject.toml"
        if not project.exists():
            raise BuildError(f"{checkout} holds no pyproject.toml: fetch it first with `python apply.py`")
        state = f"{checkout} {digest(project)}"
        install(venv, "editable", state, f"{arguments.editable}, editable", ["--no-deps", "-e", str(checkout)], done)
        keep()
    if arguments.cpu_shims:
        add_shims(venv, done)
        keep()
    print(f"{venv.name}: ready ({python_in(venv).relative_to(ROOT)})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the environment: it is made at .venvs/NAME")
    parser.add_argument("-r", dest="requirements", action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument("--editable", metavar="CHECKOUT", help="install this checkout editable, without dependencies")
    parser.add_argument(
        "--cpu-shims", action="store_true", help="use envs/cpu-shims where a real package does not load"
    )
    parser.add_argument("--python", default="3.10", metavar="X.Y", help="the oldest Python that will do")
    arguments = parser.parse_args()
    oldest = arguments.python
    if sys.version_info < tuple(int(part) for part in oldest.split(".")):
        found = sys.version.split()[0]
        remedy = f"name a later one, such as `make PYTHON=python{oldest} ...`"
        print(f"error: {arguments.name} needs Python {oldest} or later, this is {found}: {remedy}", file=sys.stderr)
        return 2
    try:
        build(arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
