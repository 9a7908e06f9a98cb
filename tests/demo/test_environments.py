"""The environment builder: each step once, again where its input changed, resumed after a failure; CPU stand-ins."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIMS = ROOT / "envs" / "cpu-shims"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`envs/build.py` on an empty project, its pip replaced by a list of what it was asked for."""
    spec = importlib.util.spec_from_file_location("envs_build", ROOT / "envs" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "pip", lambda venv, *arguments: asked.append(arguments))
    module.asked = asked  # type: ignore[attr-defined]
    return module


@pytest.fixture
def no_venv(builder: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes an empty folder for an environment, which is quicker."""

    def create(venv: Path, done: dict[str, str]) -> None:
        venv.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(builder, "create", create)


def wanted(*requirements: str, editable: str | None = None, **changes: object) -> Namespace:
    defaults = {"no_deps_requirements": [], "cpu_shims": None}
    return Namespace(name="e", requirements=list(requirements), editable=editable, **(defaults | changes))


@pytest.mark.usefixtures("no_venv")
def test_a_step_runs_once_and_again_when_its_file_changes(builder: ModuleType, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a==1\n")
    two.write_text("b==1\n")
    builder.build(wanted("one.txt", "two.txt"))
    builder.build(wanted("one.txt", "two.txt"))
    assert builder.asked == [("-r", "one.txt"), ("-r", "two.txt")]
    two.write_text("b==2\n")
    builder.build(wanted("one.txt", "two.txt"))
    assert builder.asked[2:] == [("-r", "two.txt")]


@pytest.mark.usefixtures("no_venv")
def test_what_was_done_before_a_failure_is_kept(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(name)
    pip = builder.pip

    def broken(venv: Path, *arguments: str) -> None:
        if arguments[-1] == "two.txt":
            raise builder.BuildError("no network")
        pip(venv, *arguments)

    monkeypatch.setattr(builder, "pip", broken)
    with pytest.raises(builder.BuildError, match="no network"):
        builder.build(wanted("one.txt", "two.txt"))
    monkeypatch.setattr(builder, "pip", pip)
    builder.build(wanted("one.txt", "two.txt"))
    assert builder.asked == [("-r", "one.txt"), ("-r", "two.txt")]


def test_an_environment_of_another_python_is_made_anew(builder: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a")
    builder.build(wanted("one.txt"))
    stamp = tmp_path / ".venvs" / "e" / builder.STAMP
    stamp.write_text(stamp.read_text().replace(f'"{sys.version_info.major}.', '"2.'))
    left = tmp_path / ".venvs" / "e" / "left over"
    left.touch()
    builder.build(wanted("one.txt"))
    assert not left.exists()
    assert len(builder.asked) == 2
    assert builder.python_in(tmp_path / ".venvs" / "e").exists()


@pytest.mark.usefixtures("no_venv")
def test_a_missing_checkout_is_named_with_its_remedy(builder: ModuleType) -> None:
    with pytest.raises(builder.BuildError, match=r"upstreams/X holds no pyproject\.toml.*apply\.py"):
        builder.build(wanted(editable="upstreams/X"))


DLIMP = "dlimp @ git+https://host.example/dlimp@0123456789abcdef"


@pytest.fixture
def no_git(builder: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as it is where no git host is reachable: registry packages install, packages from git do not."""
    pip = builder.pip

    def offline(venv: Path, *arguments: str) -> None:
        if "git+" in arguments[-1]:
            raise builder.BuildError("git is out of reach")
        pip(venv, *arguments)

    monkeypatch.setattr(builder, "pip", offline)


@pytest.mark.usefixtures("no_venv")
def test_requirements_without_dependencies_are_installed_one_by_one(builder: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "alone.txt").write_text(f"# why\ngraphics==1 # pinned\n\n{DLIMP}\n")
    assert builder.build(wanted(no_deps_requirements=["alone.txt"])) == []
    assert builder.asked == [("--no-deps", "graphics==1"), ("--no-deps", DLIMP)]
    (tmp_path / "alone.txt").write_text(f"graphics==2\n{DLIMP}\n")
    builder.build(wanted(no_deps_requirements=["alone.txt"]))
    assert builder.asked[2:] == [("--no-deps", "graphics==2")]


@pytest.mark.usefixtures("no_venv", "no_git")
def test_a_package_that_only_git_has_is_named_and_the_rest_is_built(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "has_distribution", lambda venv, name: False)
    (tmp_path / "alone.txt").write_text(f"{DLIMP}\ngraphics==1\n")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").write_text("")
    [line] = builder.build(wanted(no_deps_requirements=["alone.txt"], editable="checkout"))
    assert "without dlimp" in line
    assert "insteadOf https://host.example/dlimp`" in line
    assert "pip install --no-deps FOLDER" in line
    assert [step[:2] for step in builder.asked] == [("--no-deps", "graphics==1"), ("--no-deps", "-e")]
    [again] = builder.build(wanted(no_deps_requirements=["alone.txt"]))
    assert again == line


@pytest.mark.usefixtures("no_venv", "no_git")
def test_a_copy_that_is_installed_by_hand_will_do(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "has_distribution", lambda venv, name: name == "dlimp")
    (tmp_path / "alone.txt").write_text(DLIMP)
    assert builder.build(wanted(no_deps_requirements=["alone.txt"])) == []


@pytest.mark.usefixtures("no_venv")
def test_a_package_that_the_registry_refuses_stops_the_build(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(venv: Path, *arguments: str) -> None:
        raise builder.BuildError("no such version")

    monkeypatch.setattr(builder, "pip", refuse)
    (tmp_path / "alone.txt").write_text("graphics==0\n")
    with pytest.raises(builder.BuildError, match="no such version"):
        builder.build(wanted(no_deps_requirements=["alone.txt"]))


def test_what_is_missing_makes_exit_code_3(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["build.py", "e"])
    monkeypatch.setattr(builder, "build", lambda arguments: ["e is without dlimp: get it"])
    assert builder.main() == 3
    assert "missing: e is without dlimp: get it" in capsys.readouterr().err


@pytest.mark.usefixtures("no_venv")
def test_only_the_stand_ins_that_are_named_are_switched_on(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "site_packages", lambda venv: tmp_path)
    broken = {"torchaudio", "torchvision"}

    def import_error(venv: Path, module: str) -> str | None:
        shims = tmp_path / builder.SHIM_FILE
        stands_in = shims.exists() and module in shims.read_text()
        return "no CPU build" if module in broken and not stands_in else None

    monkeypatch.setattr(builder, "import_error", import_error)
    builder.build(wanted(cpu_shims="torchvision"))
    lines = (tmp_path / builder.SHIM_FILE).read_text()
    assert "graft_torchvision_operators" in lines
    assert "torchaudio" not in lines
    builder.build(wanted(cpu_shims="torchaudio,torchvision"))
    assert "torchaudio" in (tmp_path / builder.SHIM_FILE).read_text()
    with pytest.raises(builder.BuildError, match="--cpu-shims torchtext: there are stand-ins for torchaudio, torchv"):
        builder.build(wanted(cpu_shims="torchtext"))


@pytest.mark.parametrize(
    ("bound", "words"), [("--python=3.99", "needs Python 3.99 or later"), ("--before=3.2", "needs Python before 3.2")]
)
def test_an_unfit_python_is_refused_before_anything_is_made(bound: str, words: str) -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "envs" / "build.py"), "never-made", bound], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert words in run.stderr
    assert "make PYTHON=python3." in run.stderr
    assert not (ROOT / ".venvs" / "never-made").exists()


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_torchaudio_stand_in_imports_and_says_what_it_is_when_used() -> None:
    run = python("import torchaudio; torchaudio.load('x.wav')", SHIMS / "torchaudio")
    assert run.returncode == 1
    assert "torchaudio.load: this environment has a stand-in" in run.stderr


def test_torchvision_finds_its_operators_and_nobody_else_pays_for_torch(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("from . import library\n")
    (tmp_path / "torch" / "library.py").write_text(
        "defined = []\n"
        "class Library:\n"
        "    def __init__(self, name, kind): self.name = name\n"
        "    def define(self, text): defined.append(self.name + '::' + text.split('(')[0])\n"
    )
    (tmp_path / "torchvision.py").write_text("from torch.library import defined\nassert defined\n")
    code = (
        "import sys, graft_torchvision_operators, json\n"
        "assert 'torch' not in sys.modules\n"
        "import torchvision, torch\n"
        "print(torch.library.defined)\n"
    )
    run = python(code, SHIMS / "torchvision", tmp_path)
    assert run.stdout.strip() == "['torchvision::nms', 'torchvision::qnms']", run.stderr
