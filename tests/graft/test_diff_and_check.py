"""The verbs that only look: a diff that git applies, a check that sees drift."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.standins.packs import AFTER_BOTH
from tests.standins.project import MODEL, SOURCE, Project
from tests.standins.upstream import OTHER, sh


def test_diff_is_a_patch_that_git_applies(applied: Project, tmp_path: Path) -> None:
    applied.edit(MODEL, b"    return value / 2\n", b"    return value / 2  # mine\n")
    patch = tmp_path / "method.patch"
    patch.write_bytes(applied.ok("diff", "tool").out.encode())
    clone = tmp_path / "clone"
    sh("clone", "-q", str(applied.pins["tool"].place), str(clone), cwd=tmp_path)
    sh("apply", "--whitespace=nowarn", str(patch), cwd=clone)
    assert {path: (clone / path).read_bytes() for path in AFTER_BOTH} == AFTER_BOTH
    assert (clone / "src/tool/model.py").read_bytes().count(b"# mine") == 0


@pytest.mark.parametrize("link", [[], ["--link"]])
def test_diffs_of_the_packs_add_up(applied: Project, tmp_path: Path, link: list[str]) -> None:
    applied.ok("apply", *link)
    clone = tmp_path / "clone"
    sh("clone", "-q", str(applied.pins["tool"].place), str(clone), cwd=tmp_path)
    for name in ("notes", "speed"):
        patch = tmp_path / f"{name}.patch"
        patch.write_bytes(applied.ok("diff", "--pack", name).out.encode())
        sh("apply", "--whitespace=nowarn", str(patch), cwd=clone)
    assert {path: (clone / path).read_bytes() for path in AFTER_BOTH} == AFTER_BOTH


def test_diff_with_odd_line_ends_and_bytes(applied: Project, tmp_path: Path) -> None:
    applied.write("overlays/tool/src/tool/speed/page.txt", "one\x0ctwo\u2028three\n\x85\n")
    applied.write("overlays/tool/src/tool/speed/blob.bin", bytes(range(256)))
    (applied.root / SOURCE).chmod(0o755)
    applied.ok()
    out = applied.ok("diff", "tool").out
    assert "Binary files /dev/null and b/src/tool/speed/blob.bin differ\n" in out
    assert "+one\x0ctwo\u2028three\n" in out
    assert "b/src/tool/speed/hooks.py\nnew file mode 100755\n" in out


def test_diff_of_nothing_says_so_beside_an_empty_patch(fetched: Project) -> None:
    ran = fetched.ok("diff")
    assert ran.out == ""
    assert "tool: nothing to show, it is unapplied" in ran.err
    assert OTHER["other/core.py"] == fetched.read("other/other/core.py")


def test_check_of_an_absent_upstream_with_packs_is_drift(project: Project) -> None:
    ran = project.run("check")
    assert ran.code == 4
    assert "python apply.py tool" in ran.out
    assert not project.at("tool").exists()
    project.lock(tool=[])
    project.ok("check")
