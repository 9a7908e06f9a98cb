"""One table of malformed and hostile input, each row driven through the command line.

Every row must end in its exit code with a message that names the thing, the place and the remedy; no traceback, and not
one byte written anywhere.
"""

from __future__ import annotations

import base64
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.graft.repositories import make_archive, make_repository
from tests.standins.bad_input import TABLE, Bad, tool
from tests.standins.project import Project, everything, table
from tests.standins.upstream import Pin


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
@pytest.mark.parametrize("verb", ["apply", "check"])
def test_refused_with_a_clear_word_and_nothing_written(fetched: Project, bad: Bad, verb: str) -> None:
    bad.deed(fetched)
    before = everything(fetched.root)
    ran = fetched.run(verb)
    code = 4 if verb == "check" and bad.code == 1 else bad.code
    assert ran.code == code, ran.said
    said = re.sub(r"\n\s+", "\n", ran.said)
    assert re.search(re.escape(bad.thing) if ".*" not in bad.thing else bad.thing, said), said
    assert bad.place in said
    remedies = [line for line in said.splitlines() if line.startswith("->")]
    assert any(bad.remedy in line for line in remedies), said
    assert "Traceback" not in said
    after = everything(fetched.root)
    grafted = {"upstreams/other/other/core.py"} if bad.others_done and verb == "apply" else set()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.startswith(".git/modules/upstreams/other/graft")} == grafted


@pytest.mark.parametrize("bad", [bad for bad in TABLE if not bad.name.startswith("lock")], ids=lambda bad: bad.name)
def test_every_verb_that_looks_ends_in_words(fetched: Project, bad: Bad) -> None:
    bad.deed(fetched)
    before = everything(fetched.root)
    for verb in ("status", "diff", "revert", "adopt"):
        ran = fetched.run(verb)
        assert ran.code in (0, 1, 2)
        assert "Traceback" not in ran.said
    assert everything(fetched.root) == before


def test_a_bad_pack_is_said_before_anything_is_fetched(project: Project) -> None:
    project.write("patches/other/tiny.py", "PACK = None\n")
    ran = project.run()
    assert ran.code == 2
    assert not (project.root / "upstreams").exists()


def test_a_lock_that_lies_about_its_tree_places_nothing(project: Project) -> None:
    tool(tree="0" * 40)(project)
    ran = project.run()
    assert ran.code == 2
    assert "0" * 40 in ran.out
    assert not project.at("tool").exists()
    assert list((project.root / "upstreams").iterdir()) == [project.at("other")]


@pytest.mark.parametrize("what", ["hash", "tree"])
def test_an_archive_that_is_not_the_pin_places_nothing(tmp_path: Path, what: str) -> None:
    repository = tmp_path / "repository"
    commit, tree = make_repository(repository)
    mirror = tmp_path / "mirror"
    archive = make_archive(repository, commit, mirror / "tool-1.0.tar.gz")
    if what == "hash":
        archive = replace(archive, sha256="0" * 64)
    else:
        (repository / "extra.txt").write_bytes(b"more than the pin holds\n")
        extra = tarfile.TarInfo("tool-1.0/extra.txt")
        archive = make_archive(repository, commit, mirror / "tool-1.0.tar.gz", extra=[(extra, b"more\n")])
    project = Project.make(
        tmp_path / "project", {"tool": Pin(tmp_path / "nowhere", commit, tree), "other": Pin(tmp_path, commit, tree)}
    )
    text = table("tool", project.pins["tool"], []) + (
        f'[upstream.tool.archive]\ndistribution = "{archive.distribution}"\nversion = "1.0"\nfile = "{archive.file}"\n'
        f'sha256 = "{archive.sha256}"\nsize = {archive.size}\nwithout = ["PKG-INFO"]\n'
        f'commit_object = "{base64.b64encode(archive.commit_object).decode()}"\n'
    )
    project.write("upstream.lock", "format = 1\n" + text)
    ran = project.run("--mirror", str(mirror))
    assert ran.code == 2
    assert "archive" in ran.out
    assert ("sha256" if what == "hash" else tree) in ran.out.replace("SHA-256", "sha256")
    assert not project.at("tool").exists()
    good = make_archive(repository, commit, mirror / "tool-1.0.tar.gz")
    project.write(
        "upstream.lock",
        "format = 1\n" + text.replace(archive.sha256, good.sha256).replace(str(archive.size), str(good.size)),
    )
    project.ok("--mirror", str(mirror))


def test_a_mirror_that_is_no_folder(project: Project) -> None:
    ran = project.run("--mirror", str(project.root / "nowhere"))
    assert ran.code == 2
    assert "--mirror" in ran.out
    assert "name a directory" in ran.out
