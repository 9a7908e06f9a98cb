"""The first files of a pack: they apply as they are, in a known upstream and in one that is pinned on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.standins.project import Project, everything
from tests.standins.upstream import make_upstream, sh

FIFTH = {
    "LICENSE": b"MIT License\n",
    "script.py": b"import os\n\n\ndef main():\n    value = os.getpid()\n    return value\n",
    "pkg/__init__.py": b"",
    "pkg/core.py": b"class A:\n    def run(self):\n        x = 1\n        x = 1\n        done(x)  # last\n",
}


@pytest.fixture
def fifth(tmp_path: Path) -> str:
    return make_upstream(tmp_path / "fifth", FIFTH).place.as_uri()


def test_a_pack_for_a_known_upstream_applies_as_it_is(applied: Project) -> None:
    lock = (applied.root / "upstream.lock").read_text()
    applied.ok("init-pack", "tool", "mine", "--in", "src/tool/model.py:Model.forward")
    assert (applied.root / "upstream.lock").read_text() == lock.replace(
        '["speed", "notes"]', '["speed", "notes", "mine"]'
    )
    applied.ok("apply", "tool")
    assert b"from .mine import attach\n" in applied.read("tool/src/tool/model.py")
    assert b"        attach()\n        return scaled\n" in applied.read("tool/src/tool/model.py")
    assert applied.read("tool/src/tool/mine/__init__.py").startswith(b'"""Say what the method is')


def test_a_fifth_upstream_is_pinned_on_the_way(applied: Project, fifth: str) -> None:
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "script.py:main")
    assert (
        (applied.root / "upstream.lock")
        .read_text()
        .endswith(
            f'[upstream.fifth]\nurl = "{fifth}"\nref = "main"\ncommit = "{_head(fifth)}"\n'
            f'tree = "{_head(fifth, "^{tree}")}"\nlicense = "MIT"\npath = "upstreams/fifth"\n'
            'python = ">=3.10"\npacks = ["ema"]\n'
        )
    )
    assert sh("ls-files", "--stage", "upstreams/fifth", cwd=applied.root).split()[:2] == ["160000", _head(fifth)]
    applied.ok("apply", "fifth")
    assert b"import os\nfrom ema import attach\n" in applied.read("fifth/script.py")
    assert b"    attach()\n    return value\n" in applied.read("fifth/script.py")
    applied.ok("revert", "fifth")
    assert applied.read("fifth/script.py") == FIFTH["script.py"]


def test_the_anchor_stands_once(applied: Project, fifth: str) -> None:
    applied.ok("init-pack", "fifth", "ema", "--url", fifth, "--in", "pkg/core.py:A.run")
    assert 'before("done(x)", add="attach()"' in (applied.root / "patches/fifth/ema.py").read_text()
    applied.ok("apply", "fifth")
    assert applied.read("fifth/pkg/core.py").endswith(b"        attach()\n        done(x)  # last\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nope", "p", "--in", "a.py:f"), "no upstream is called 'nope'"),
        (("tool", "../p", "--in", "src/tool/model.py:load"), "no plain name"),
        (("tool", "p", "--in", "../x.py:f"), "no path inside a checkout"),
        (("tool", "p", "--in", "src/none.py:f"), "there is no file src/none.py"),
        (("tool", "p", "--in", "src/tool/model.py:Model"), "is not one function there"),
        (("tool", "speed", "--in", "src/tool/model.py:load"), "is there already"),
        (("new", "p", "--url", "ext::sh -c x", "--in", "a.py:f"), "url"),
        (("new", "p", "--url", "-x", "--in", "a.py:f"), "url"),
    ],
)
def test_bad_words_write_nothing(applied: Project, arguments: tuple[str, ...], says: str) -> None:
    before = everything(applied.root)
    ran = applied.run("init-pack", *arguments)
    assert ran.code != 0
    assert says in ran.said
    assert "Traceback" not in ran.said
    assert everything(applied.root) == before


def _head(url: str, suffix: str = "") -> str:
    return sh("rev-parse", f"HEAD{suffix}", cwd=Path(url.removeprefix("file://")))
