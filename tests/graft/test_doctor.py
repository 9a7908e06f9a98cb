from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from graft import doctor
from graft.doctor import Finding, Level, ask, choose, diagnose, environment, satisfies, worst
from graft.errors import BadInput, GraftError
from graft.lock import Lock, Upstream
from tests.graft.repositories import pin

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with three distributions: metadata only, one of which would fail to import."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False)
    site = next(place.glob("lib/python3*/site-packages"))
    for name, version in (("Some.Tool", "2.1.0+cpu"), ("other_tool", "1.0rc1"), ("torch", "2.4.0")):
        info = site / f"{name.replace('.', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "torch.py").write_text("raise SystemExit('imported')\n")
    return str(place / "bin/python")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return replace(pin(tmp_path / "o", "0" * 40, "0" * 40), python=">=3.8")


def env(root: Path, content: str) -> None:
    (root / "envs").mkdir(exist_ok=True)
    (root / "envs/Tool.toml").write_text(content)


def about(findings: list[Finding], word: str) -> Finding:
    (found,) = [finding for finding in findings if word in finding.what]
    return found


VERSIONS = [
    "0.9",
    "1.0rc1",
    "1.0",
    "1.0.post1",
    "1.0.1",
    "1.10",
    "2.2.0",
    "2.13.0",
    "3.10.4",
    "4.57.0",
    "5.6.0",
    "2021.12.3",
]
SPECIFIERS = [
    ">=1.0",
    "<=1.0",
    "==1.0",
    "!=1.0",
    "<1.0",
    ">1.0",
    "==2.*",
    "!=2.*",
    "~=1.0",
    "~=1.0.0",
    ">=3.10,<3.12",
    "",
]


@pytest.mark.parametrize("specifier", [*SPECIFIERS, ">=4.55.0,<=5.6.0,!=4.57.0", "==2021.12.3", "<2", ">=2.15,<2.16"])
def test_specifiers_mean_what_pip_means(specifier: str) -> None:
    reference = SpecifierSet(specifier, prereleases=True)
    for version in VERSIONS:
        if "post" in version and specifier in ("<=1.0", "==1.0", "!=1.0", ">1.0"):
            continue
        assert satisfies(version, specifier) == reference.contains(version), (version, specifier)


def test_local_parts_do_not_count() -> None:
    assert satisfies("2.13.0+cpu", "==2.13.0")
    with pytest.raises(ValueError, match="no version specifier"):
        satisfies("1", "=>1")


def test_only_metadata_is_read(python: str) -> None:
    found = ask(python)
    assert found.version == tuple(sys.version_info[:3])
    assert found.packages["some-tool"] == "2.1.0+cpu"
    assert found.packages["torch"] == "2.4.0"


def test_an_interpreter_that_does_not_run(tmp_path: Path, upstream: Upstream) -> None:
    with pytest.raises(GraftError, match="cannot be run"):
        ask(str(tmp_path / "python"))
    findings = diagnose(upstream, tmp_path, python=str(tmp_path / "python"))
    assert about(findings, "cannot be run").level is Level.ERROR
    assert "--python" in about(findings, "cannot be run").remedy


def test_packages_that_are_there_wrong_or_missing(tmp_path: Path, python: str, upstream: Upstream) -> None:
    env(
        tmp_path,
        '[packages]\nsome-tool = ">=2,<3"\ntorch = ">=2.6"\n'
        'Missing = { version = "", from = "git+https://example.invalid/m", no_deps = true }\n'
        'first = { version = ">=0.5", instead = ["Other-Tool"] }\n',
    )
    findings = diagnose(upstream, tmp_path, python=python)
    assert about(findings, "2 of 4 packages").level is Level.OK
    wrong = about(findings, "torch")
    assert (wrong.level, wrong.what) == (Level.ERROR, "torch 2.4.0 is installed; Tool needs >=2.6")
    assert wrong.remedy == f"{python} -m pip install 'torch>=2.6'"
    missing = about(findings, "Missing")
    assert missing.remedy == f"{python} -m pip install --no-deps git+https://example.invalid/m"
    assert worst(findings) is Level.ERROR


def test_the_whole_environment_is_offered_when_much_is_missing(tmp_path: Path, python: str, upstream: Upstream) -> None:
    env(tmp_path, 'install = ["{python} -m pip install -e {checkout}"]\n[packages]\na = ""\nb = ""\nc = ""\n')
    offered = about(diagnose(upstream, tmp_path, python=python), "at once")
    assert offered.remedy == f"{python} -m pip install -e {tmp_path / 'upstreams/Tool'}"


def test_a_python_that_does_not_fit(tmp_path: Path, python: str, upstream: Upstream) -> None:
    minor = sys.version_info[1]
    wrong = about(diagnose(replace(upstream, python="<3.8"), tmp_path, python=python), "runs on")
    assert wrong.level is Level.ERROR
    assert wrong.remedy.startswith("install a Python <3.8")
    fitting = diagnose(replace(upstream, python=f"==3.{minor}.*"), tmp_path, python=python)
    assert about(fitting, "runs on").level is Level.OK


def test_a_fitting_python_on_the_path_is_named(
    tmp_path: Path, python: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    git = shutil.which("git")
    assert git
    (tools / "git").symlink_to(git)
    for name, code in (("python3.19", 1), ("python3.18", 0)):
        (tools / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/bin")
    wrong = about(diagnose(replace(upstream, python=">=3.17"), tmp_path, python=python), "runs on")
    assert wrong.remedy == f"{tools}/python3.18 -m venv {tmp_path}/.venvs/Tool"


def test_the_projects_own_interpreter_is_chosen_first(tmp_path: Path) -> None:
    assert choose(tmp_path, "Tool", None) == sys.executable
    own = tmp_path / ".venvs/Tool/bin/python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert choose(tmp_path, "Tool", None) == str(own)
    assert choose(tmp_path, "Tool", "/x/python") == "/x/python"


def test_without_an_environment_of_its_own_one_is_made_first(
    tmp_path: Path, python: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(tmp_path, 'install = ["{python} -m pip install x"]\n[packages]\na = ""\nb = ""\nc = ""\n')
    monkeypatch.setattr(sys, "executable", python)
    findings = diagnose(upstream, tmp_path)
    own = f"{tmp_path}/.venvs/Tool"
    made = about(findings, "no environment of its own")
    assert (made.level, made.remedy) == (Level.WARNING, f"{python} -m venv {own}")
    assert about(findings, "a is not").remedy == f"{own}/bin/python -m pip install a"
    assert about(findings, "at once").remedy == f"{own}/bin/python -m pip install x"
    assert findings.index(made) < findings.index(about(findings, "a is not"))
    assert not any(finding.remedy.startswith(f"{python} -m pip") for finding in findings)
    subprocess.run([*shlex.split(made.remedy), "--without-pip"], check=True)
    again = diagnose(upstream, tmp_path)
    assert not any("of its own" in finding.what for finding in again)
    assert about(again, "a is not").remedy == f"{own}/bin/python -m pip install a"


def test_an_environment_that_has_all_is_left_in_peace(
    tmp_path: Path, python: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(tmp_path, '[packages]\ntorch = ""\n')
    monkeypatch.setattr(sys, "executable", python)
    assert worst(diagnose(upstream, tmp_path)) in (Level.OK, Level.INFO)
    given = diagnose(upstream, tmp_path, python=Path(python))
    assert about(given, "1 of 1 packages").as_dict() == {
        "level": "ok",
        "what": f"1 of 1 packages are there in {python}",
        "remedy": "",
    }


def test_libraries_disk_and_git(
    tmp_path: Path, python: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(
        tmp_path,
        "disk_gib = 1e9\n[[libraries]]\nany = ['NoSuchA', 'NoSuchB']\nwhy = 'rendering'\n"
        "install = 'apt-get install x'\n"
        "[[libraries]]\nany = ['NoSuchA', 'c']\nwhy = 'all else'\ninstall = 'y'\n",
    )
    findings = diagnose(upstream, tmp_path, python=python)
    assert about(findings, "NoSuchB").remedy == "apt-get install x"
    assert about(findings, "NoSuchB").level is Level.ERROR
    assert about(findings, "all else").level is Level.OK
    assert about(findings, "GiB free").level is Level.WARNING
    assert about(findings, "git ").level is Level.OK
    monkeypatch.setattr(doctor, "version", lambda root: (2, 17, 1))
    assert "2.30 or later" in about(diagnose(upstream, tmp_path, python=python), "git is 2.17.1").what


def test_without_a_description_that_is_said(tmp_path: Path, python: str, upstream: Upstream) -> None:
    said = about(diagnose(upstream, tmp_path, python=python), "envs/Tool.toml")
    assert said.level is Level.INFO


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("package = 1\n", "unknown key 'package'"),
        ("disk_gib = 'much'\n", "disk_gib"),
        ("packages = []\n", "expected [packages]"),
        ("[packages]\na = '=>1'\n", "'=>1' is no version specifier"),
        ("[packages]\na = '>=99,bad'\n", "'bad' is no version specifier"),
        ("[packages]\na = { verson = '1' }\n", "key `a`"),
        ("[packages]\na = { no_deps = 1 }\n", "no_deps is true or false"),
        ("[[libraries]]\nany = ['x']\n", "any, why and install"),
        ("install = 'x'\n", "list of strings"),
        ("[packages\n", "not TOML"),
    ],
)
def test_a_malformed_description_is_named(tmp_path: Path, content: str, said: str) -> None:
    env(tmp_path, content)
    with pytest.raises(BadInput) as caught:
        environment(tmp_path, "Tool")
    assert said in str(caught.value)
    assert str(tmp_path / "envs/Tool.toml") in caught.value.where


def test_the_projects_own_descriptions_are_sound() -> None:
    for entry in Lock.load(ROOT).upstreams:
        needs = environment(ROOT, entry.name)
        assert needs is not None
        assert needs.packages
        for command in needs.install:
            assert "{" not in command.format(python="python", checkout="checkout")
