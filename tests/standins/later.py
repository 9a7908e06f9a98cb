"""How the stand-in ``tool`` goes on upstream: ``v2`` moves a function, ``v3`` breaks an anchor."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.standins.project import Project
from tests.standins.upstream import TOOL, Pin, commit_files, sh

MODEL, TRAIN = "src/tool/model.py", "src/tool/train.py"
NEW_MODEL = TOOL[MODEL].replace(b"    # compiled last\n", b"    warm(model)\n    # compiled last\n")
NEWER = {
    MODEL: NEW_MODEL,
    "src/tool/loop/steps.py": TOOL[TRAIN],
    "README.md": b"# tool 2\n",
    "docs/new.md": b"new\n",
}


def go_on(fetched: Project, place: Path) -> Project:
    """The project, its packs applied and committed, with an upstream at ``place`` that has the tags v2 and v3."""
    shutil.copytree(fetched.pins["tool"].place, place)
    sh("rm", "-q", TRAIN, cwd=place)
    commit_files(place, NEWER)
    sh("tag", "-a", "-m", "two", "v2", cwd=place)
    commit_files(place, {MODEL: NEW_MODEL.replace(b"return model\n", b"return finish(model)\n")})
    sh("tag", "v3", cwd=place)
    pins = {**fetched.pins, "tool": Pin(place, fetched.pins["tool"].commit, fetched.pins["tool"].tree)}
    project = Project(fetched.root, pins)
    project.lock(tool=["speed", "notes"], other=["tiny"])
    sh("add", "upstream.lock", cwd=project.root)
    sh("update-index", "--add", "--cacheinfo", f"160000,{pins['tool'].commit},upstreams/tool", cwd=project.root)
    sh("commit", "-qm", "start", cwd=project.root)
    project.ok("apply")
    return project
