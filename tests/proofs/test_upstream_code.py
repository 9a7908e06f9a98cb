"""None of an upstream's code is run: not what it sends, and not what lies armed in a checkout that is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.standins.project import Project
from tests.standins.upstream import TOOL, Pin, commit_files, make_upstream, sh

TRAPS = ("setup.py", "conftest.py", "sitecustomize.py", "usercustomize.py", "libcst.py", "graft/__init__.py", "json.py")
HOOKS = (
    "post-checkout",
    "post-merge",
    "pre-commit",
    "post-index-change",
    "reference-transaction",
    "fsmonitor-watchman",
)


@dataclass
class Trapped:
    """A project whose upstream leaves a mark wherever any of its code is run."""

    project: Project
    marks: Path

    @property
    def sprung(self) -> list[str]:
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture
def trapped(tmp_path: Path) -> Trapped:
    marks = tmp_path / "marks"
    marks.mkdir()
    python = "".join(f"open({str(marks)!r} + '/python', 'a').write(__file__)\n")
    files = dict.fromkeys(TRAPS, python.encode())
    files |= {f"src/tool/{name}": python.encode() for name in ("__init__.py", "setup.py")}
    files |= {f"hooks/{name}": f"#!/bin/sh\ntouch {marks}/tree-hook\n".encode() for name in HOOKS}
    files["src/tool/model.py"] = python.encode() + TOOL["src/tool/model.py"]
    files[".gitattributes"] = b"* filter=evil diff=evil merge=evil\n*.py working-tree-encoding=UTF-8\n"
    files[".gitmodules"] = b'[submodule "x"]\n\tpath = x\n\turl = ../x\n'
    files["pyproject.toml"] = b'[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    place = tmp_path / "tool"
    make_upstream(place, {**TOOL, **files})
    sh("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},x", cwd=place)
    sh("commit", "-qm", "a submodule", cwd=place)
    commit, tree = sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=place).split()
    commit_files(place, {"README.md": b"later\n"})
    sh("tag", "v2", cwd=place)
    other = make_upstream(tmp_path / "other", {"other/core.py": b"def start(name):\n    return name\n"})
    project = Project.make(tmp_path / "project", {"tool": Pin(place, commit, tree), "other": other})
    sh("add", "upstream.lock", cwd=project.root)
    sh("commit", "-qm", "start", cwd=project.root)
    return Trapped(project, marks)


def arm(trapped: Trapped) -> None:
    """What no upstream can send, but may lie in a checkout that is there: hooks, a watcher, filters, helpers."""
    checkout, marks = trapped.project.at("tool"), trapped.marks
    script = trapped.marks.parent / "trap"
    script.write_text(f'#!/bin/sh\ntouch "{marks}/$1"\ncat\n')
    script.chmod(0o755)
    for key, value in {
        "core.fsmonitor": f"{script} fsmonitor",
        "core.pager": f"{script} pager",
        "core.sshCommand": f"{script} ssh",
        "core.askPass": str(script),
        "diff.external": f"{script} external",
        "diff.evil.textconv": f"{script} textconv",
        "diff.evil.command": f"{script} diff",
        "merge.evil.driver": f"{script} merge",
        "filter.evil.clean": f"{script} clean",
        "filter.evil.smudge": f"{script} smudge",
        "credential.helper": f"!{script} credential",
        "protocol.ext.allow": "always",
        "submodule.recurse": "true",
        "submodule.x.url": f"ext::{script} submodule",
        "submodule.x.active": "true",
        "uploadpack.packObjectsHook": f"{script} upload",
    }.items():
        sh("config", key, value, cwd=checkout)
    hooks = trapped.project.gitdir("tool") / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS:
        (hooks / name).write_text(f'#!/bin/sh\ntouch "{marks}/hook"\n')
        (hooks / name).chmod(0o755)
    shutil.rmtree(marks)
    marks.mkdir()


EVERY = [
    ("apply",),
    ("status",),
    ("check",),
    ("diff",),
    ("adopt", "tool"),
    ("apply", "--pack", "speed"),
    ("apply", "--link"),
    ("apply",),
    ("upgrade", "tool", "--to", "v2", "--dry-run"),
    ("upgrade", "tool", "--to", "v2"),
    ("revert",),
    ("doctor",),
]


@pytest.mark.parametrize("armed", [False, True], ids=["as fetched", "armed"])
def test_no_code_of_an_upstream_is_run(trapped: Trapped, armed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trapped.project.ok("apply")
    assert trapped.sprung == []
    checkout = trapped.project.at("tool")
    assert (checkout / "src/tool/speed/hooks.py").is_file()
    if armed:
        arm(trapped)
    # As from inside the checkout, whose modules carry the names of the engine's own.
    monkeypatch.chdir(checkout)
    for arguments in EVERY:
        if arguments[0] == "adopt":
            trapped.project.edit("tool/src/tool/speed/hooks.py", b"True", b"1")
        ran = trapped.project.run(*arguments)
        assert ran.code == 0 or arguments == ("doctor",), (arguments, ran.said)
        assert trapped.sprung == [], arguments
    child = trapped.project.spawn("status", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0, out
    assert trapped.sprung == []


@pytest.mark.parametrize("line", ["url = ext::sh -c touch% MARK", "url = -uMARK", "update = !touch MARK"])
def test_an_upstream_whose_submodule_is_a_command_is_not_taken(trapped: Trapped, line: str) -> None:
    place = trapped.project.pins["tool"].place
    module = f'[submodule "x"]\n\tpath = x\n\turl = ../x\n\t{line}\n'.replace("MARK", str(trapped.marks / "mark"))
    commit = commit_files(place, {".gitmodules": module.encode()})
    trapped.project.pins["tool"] = Pin(place, commit, sh("rev-parse", "HEAD^{tree}", cwd=place))
    trapped.project.lock(tool=["speed", "notes"], other=["tiny"])
    ran = trapped.project.run("apply", "tool")
    assert trapped.sprung == []
    if line.startswith("url = ext"):  # no fault of the repository's as git sees it: only never followed
        assert ran.code == 0, ran.said
        assert not list(trapped.project.at("tool").glob("x/*"))
    else:
        assert ran.code == 3, ran.said
        assert not trapped.project.at("tool").exists()


def test_the_traps_work(trapped: Trapped) -> None:
    """What the proof above says is empty if nothing could ever spring."""
    trapped.project.ok("apply")
    arm(trapped)
    checkout = trapped.project.at("tool")
    (checkout / "README.md").write_bytes(b"changed\n")
    sh("config", "core.hooksPath", str(trapped.project.gitdir("tool") / "hooks"), cwd=checkout)
    for arguments in (["status"], ["diff"], ["add", "README.md"], ["checkout", "-f", "HEAD", "--", "README.md"]):
        subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, check=False)
    subprocess.run([sys.executable, "-c", "import setup"], cwd=checkout, check=True)
    assert {"clean", "fsmonitor", "hook", "python", "smudge"} <= set(trapped.sprung)
