"""Malformed and hostile input for the stand-in project: what is done to it, and what must be said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.standins.packs import NOTES, SPEED
from tests.standins.project import Project, table

Deed = Callable[[Project], object]


@dataclass(frozen=True)
class Bad:
    """One input: what is done to the project, the exit code of apply, and what its message must hold."""

    name: str
    deed: Deed
    code: int
    thing: str
    place: str
    remedy: str
    others_done: bool = field(default=False)  # the trouble is one checkout's own, so the other upstream is grafted


def lock(text: str) -> Deed:
    return lambda project: project.write("upstream.lock", text)


def tool(**changes: Any) -> Deed:
    def deed(project: Project) -> None:
        text = table("tool", project.pins["tool"], **{"packs": ["speed", "notes"], **changes})
        project.write("upstream.lock", "format = 1\n" + text + table("other", project.pins["other"], ["tiny"]))

    return deed


def speed(old: str, new: str) -> Deed:
    assert SPEED.count(old) == 1, old
    return lambda project: project.write("patches/tool/speed.py", SPEED.replace(old, new))


def pack(text: str) -> Deed:
    return lambda project: project.write("patches/tool/speed.py", text)


def notes_edit(edit: str, place: str = '"src/tool/model.py", "load"') -> Deed:
    """``notes`` gets one edit more, beside those of ``speed``."""
    head = NOTES.replace("add_keyword, after", "add_field, after", 1)
    return lambda project: project.write(
        "patches/tool/notes.py", head.replace("    edits=[\n", f"    edits=[\n        In({place}, {edit}),\n")
    )


def speed_and_notes(speed_edit: str, notes: str) -> Deed:
    """Two packs with one edit each, both in ``load``."""

    def one(name: str, edit: str) -> str:
        names = "In, Pack, add_keyword, add_parameter, after, before, replace"
        return (
            f"from graft.pack import {names}\nPACK = Pack(upstream='tool', name='{name}', why='w', edits=["
            f"In('src/tool/model.py', 'load', {edit})])\n"
        )

    def deed(project: Project) -> None:
        project.write("patches/tool/speed.py", one("speed", speed_edit))
        project.write("patches/tool/notes.py", one("notes", notes))

    return deed


def upstream_file(name: str, content: bytes) -> Deed:
    return lambda project: project.at(f"tool/{name}").write_bytes(content)


def link_overlay(project: Project) -> None:
    (project.root / "overlays/tool/src/tool/speed/out.py").symlink_to("/etc/hostname")


def overlay_is_a_link(project: Project) -> None:
    place = project.root / "overlays/tool/src/tool/speed"
    place.rename(project.root / "elsewhere")
    place.symlink_to(project.root / "elsewhere")


def checkout_folder_is_a_link(project: Project) -> None:
    (project.root / "outside").mkdir()
    project.at("tool/src/tool/speed").symlink_to(project.root / "outside")


def checkout_is_a_link(project: Project) -> None:
    project.at("tool").rename(project.root / "real")
    project.at("tool").symlink_to(project.root / "real")


def upstreams_lead_out(project: Project) -> None:
    (project.root / "upstreams").rename(project.root.parent / "out")
    (project.root / "upstreams").symlink_to(project.root.parent / "out")


def no_checkout(project: Project) -> None:
    (project.at("tool") / ".git").unlink()


def edited_is_a_link(project: Project) -> None:
    project.at("tool/src/tool/model.py").rename(project.at("tool/src/tool/other.py"))
    project.at("tool/src/tool/model.py").symlink_to("other.py")


def one_path_twice(project: Project) -> None:
    project.write("overlays/common/twin/notes.py", "")
    project.write(
        "patches/tool/speed.py", SPEED.replace("    overlays=", '    common={"twin": "src/tool"},\n    overlays=')
    )


def one_path_twice_in_a_pack(project: Project) -> None:
    project.write("overlays/common/twin/hooks.py", "")
    project.write(
        "patches/tool/speed.py", SPEED.replace("    overlays=", '    common={"twin": "src/tool/speed"},\n    overlays=')
    )


def over_upstream(project: Project) -> None:
    project.write("overlays/tool/src/tool/train.py", "")
    project.write("patches/tool/speed.py", SPEED.replace('"src/tool/speed"]', '"src/tool/speed", "src/tool/train.py"]'))


def below_a_file(project: Project) -> None:
    project.write("overlays/tool/README.md/page.py", "")
    project.write("patches/tool/speed.py", SPEED.replace('"src/tool/speed"]', '"src/tool/speed", "README.md/page.py"]'))


def over_a_folder(project: Project) -> None:
    project.write("overlays/common/twin/tool", "")
    project.write("patches/tool/speed.py", SPEED.replace("    overlays=", '    common={"twin": "src"},\n    overlays='))


LOAD = "patches/tool/speed.py:"
MEND = "mend the pack"

TABLE = [
    # the lock
    Bad("lock: no TOML", lock("format = \n"), 2, "not TOML", "upstream.lock", "mend the line"),
    Bad(
        "lock: missing",
        lambda project: (project.root / "upstream.lock").unlink(),
        2,
        "no such file",
        "upstream.lock",
        "restore",
    ),
    Bad(
        "lock: not UTF-8",
        lambda project: project.write("upstream.lock", b"\xff\xfe"),
        2,
        "UTF-8",
        "upstream.lock",
        "save",
    ),
    Bad("lock: no format", lock('[upstream.x]\nurl = "y"\n'), 2, "missing", "`format`", "add"),
    Bad("lock: unknown key", tool(colour="red"), 2, "unknown key", "`colour`", "remove it"),
    Bad("lock: no commit", tool(commit=None), 2, "missing", "[upstream.tool], key `commit`", "add"),
    Bad("lock: short commit", tool(commit="8819281"), 2, "'8819281'", "[upstream.tool], key `commit`", "git rev-parse"),
    Bad("lock: commit is a branch", tool(commit="main"), 2, "full id", "key `commit`", "git rev-parse"),
    Bad("lock: short tree", tool(tree="2ee5624"), 2, "full id", "key `tree`", "git rev-parse"),
    Bad("lock: url is an option", tool(url="--upload-pack=touch x"), 2, "URL", "key `url`", "git clone"),
    Bad("lock: url runs a command", tool(url="ext::sh -c touch% x"), 2, "URL", "key `url`", "git clone"),
    Bad("lock: ref is an option", tool(ref="--upload-pack=x"), 2, "branch or tag", "key `ref`", "ls-remote"),
    Bad("lock: path is an option", tool(path="-rf"), 2, "relative path", "key `path`", "upstreams/NAME"),
    Bad("lock: path leaves", tool(path="../out"), 2, "relative path", "key `path`", "upstreams/NAME"),
    Bad("lock: path leaves by a link", upstreams_lead_out, 2, "leads out", "key `path`", "directory of the project"),
    Bad("lock: unknown pack", tool(packs=["speed", "nosuch"]), 2, "'nosuch'", "upstream.lock", "notes, speed"),
    Bad("lock: pack leaves", tool(packs=["../other/tiny"]), 2, "pack names", "key `packs`", "correct"),
    # packs
    Bad("pack: SyntaxError", pack("PACK = (\n"), 2, "SyntaxError", f"{LOAD}1", MEND),
    Bad("pack: ImportError", pack("\nimport nosuchmodule\n"), 2, "nosuchmodule", f"{LOAD}2", MEND),
    Bad("pack: exception", pack("x = 1\n\ny = x / 0\n"), 2, "ZeroDivisionError", f"{LOAD}3", MEND),
    Bad("pack: ends the program", pack("import sys\nsys.exit(0)\n"), 2, "ends the program", LOAD[:-1], "define PACK"),
    Bad("pack: no PACK", pack("PACKS = 1\n"), 2, "no PACK", LOAD[:-1], "docs/"),
    Bad("pack: not UTF-8", lambda p: p.write("patches/tool/speed.py", b"x = '\xff'\n"), 2, "does not load", LOAD, MEND),
    Bad("pack: null byte", lambda p: p.write("patches/tool/speed.py", b"x = 1\0\n"), 2, "does not load", LOAD, MEND),
    Bad("pack: no why", speed("makes the model quick", ""), 2, "no reason", f"{LOAD}4", "why="),
    Bad(
        "pack: another upstream",
        speed('upstream="tool"', 'upstream="other"'),
        2,
        "other/speed",
        LOAD[:-1],
        "tool/speed",
    ),
    Bad("pack: another name", speed('name="speed"', 'name="quick"'), 2, "tool/quick", LOAD[:-1], "tool/speed"),
    Bad("pack: unknown argument", speed("    overlays=", "    overlay="), 2, "overlay", f"{LOAD}4", MEND),
    # edits
    Bad("edit: no why", speed('why="the model is whole here"', 'why=" "'), 2, "no reason", f"{LOAD}11", "why="),
    Bad("edit: why left out", speed(', why="the switch"', ""), 2, "why", f"{LOAD}12", MEND),
    Bad("edit: pattern", speed('"return model"', '"return ("'), 2, "does not parse", f"{LOAD}11", "plain Python"),
    Bad("edit: two statements", speed('"return model"', '"a; b\\nc"'), 2, "not one", f"{LOAD}11", "one statement"),
    Bad("edit: unbound", speed('"hurry(model)"', '"hurry($model)"'), 2, "$model", f"{LOAD}11", "use it in the pattern"),
    Bad("edit: added code", speed('"hurry(model)"', '"hurry(model"'), 2, "does not parse", f"{LOAD}11", "plain Python"),
    Bad("edit: adds nothing", speed('"hurry(model)"', '""'), 2, "adds nothing", f"{LOAD}11", "write"),
    Bad(
        "edit: field without default",
        speed("speed: bool = False", "speed: bool"),
        2,
        "default",
        f"{LOAD}12",
        "give one",
    ),
    Bad(
        "edit: path leaves",
        speed('"src/tool/model.py"', '"../model.py"'),
        2,
        "'../model.py'",
        f"{LOAD}9",
        "without '..'",
    ),
    Bad(
        "edit: path is absolute", speed('"src/tool/model.py"', '"/etc/x.py"'), 2, "'/etc/x.py'", f"{LOAD}9", "relative"
    ),
    Bad(
        "edit: path in .git", speed('"src/tool/model.py"', '".git/x.py"'), 2, "'.git/x.py'", f"{LOAD}9", "outside .git"
    ),
    Bad(
        "edit: field of a function",
        notes_edit("add_field('a: int = 1', why='w')"),
        2,
        "class",
        "notes.py:",
        "name one",
        True,
    ),
    # packs that fight
    Bad(
        "fight: replace and after",
        speed_and_notes(
            "replace('return model', with_='return go(model)', why='w')", "before('return model', add='x()', why='w')"
        ),
        2,
        "notes: before 'return model' .* and speed: replace",
        "src/tool/model.py:10",
        "anchor elsewhere",
        True,
    ),
    Bad(
        "fight: same keyword",
        speed_and_notes(
            "add_keyword('Model(...)', add='k=1', why='w')", "add_keyword('Model(...)', add='k=2', why='w')"
        ),
        2,
        "notes: add_keyword .* and speed: add_keyword .* fight for one anchor",
        "src/tool/model.py:7",
        "let one of them anchor elsewhere",
        True,
    ),
    Bad(
        "fight: same parameter",
        speed_and_notes("add_parameter('k=1', why='w')", "add_parameter('k=2', why='w')"),
        2,
        "notes: add_parameter .* and speed: add_parameter .* fight for one anchor",
        "src/tool/model.py:6",
        "let one of them anchor elsewhere",
        True,
    ),
    Bad(
        "fight: same insertion",
        speed_and_notes(
            "after('model.ready = True', add='go()', why='w')", "after('model.ready = True', add='go()', why='w')"
        ),
        2,
        "notes: after .* and speed: after",
        "src/tool/model.py:10",
        "anchor elsewhere",
        True,
    ),
    # overlays
    Bad("overlay: leaves", speed('"src/tool/speed"', '"../../speed"'), 2, "'../../speed'", f"{LOAD}4", "without '..'"),
    Bad("overlay: absolute", speed('"src/tool/speed"', '"/etc"'), 2, "'/etc'", f"{LOAD}4", "relative"),
    Bad(
        "overlay: missing",
        speed('"src/tool/speed"', '"src/tool/sped"'),
        2,
        "overlays/tool/src/tool/sped",
        f"{LOAD}4",
        "write it",
    ),
    Bad("overlay: holds a link", link_overlay, 2, "symbolic link", "out.py", "put the file itself"),
    Bad("overlay: is a link", overlay_is_a_link, 2, "symbolic link", "src/tool/speed", "put the files there"),
    Bad(
        "overlay: one path, two packs",
        one_path_twice,
        2,
        "notes and speed fight",
        "src/tool/notes.py",
        "elsewhere",
        True,
    ),
    Bad(
        "overlay: one path, one pack",
        one_path_twice_in_a_pack,
        2,
        "one path, src/tool/speed/hooks.py",
        f"{LOAD}4",
        "one of",
    ),
    Bad(
        "overlay: over a file", over_upstream, 2, "cover a file of the upstream", "src/tool/train.py", "elsewhere", True
    ),
    Bad(
        "overlay: below a file", below_a_file, 2, "cover a file of the upstream", "README.md/page.py", "elsewhere", True
    ),
    Bad("overlay: over a folder", over_a_folder, 2, "cover a file of the upstream", "src/tool", "elsewhere", True),
    Bad(
        "overlay: through a link",
        checkout_folder_is_a_link,
        2,
        "symbolic link",
        "src/tool/speed/",
        "real folders",
        True,
    ),
    # checkouts
    Bad("checkout: a link", checkout_is_a_link, 1, "not a directory", "upstreams/tool", "move it away", True),
    Bad("checkout: none", no_checkout, 1, "not a git checkout", "upstreams/tool", "move", True),
    Bad("checkout: tree of the lock", tool(tree="0" * 40), 1, "0" * 40, "upstreams/tool", "correct `tree`", True),
    Bad("checkout: pin elsewhere", tool(commit="1" * 40), 1, "1" * 40, "upstreams/tool", "git -C", True),
    Bad(
        "file: a link",
        edited_is_a_link,
        1,
        "symbolic link to other.py",
        "src/tool/model.py",
        "name the file itself",
        True,
    ),
    Bad(
        "file: not UTF-8",
        upstream_file("src/tool/model.py", b"x = '\xff'\n"),
        1,
        "not UTF-8",
        "src/tool/model.py:1",
        "UTF-8 only",
        True,
    ),
    Bad(
        "file: latin-1",
        upstream_file("src/tool/model.py", b"# coding: latin-1\n"),
        1,
        "latin-1",
        "src/tool/model.py",
        "UTF-8 only",
        True,
    ),
    Bad(
        "file: byte order mark",
        upstream_file("src/tool/model.py", b"\xef\xbb\xbfx = 1\n"),
        1,
        "byte order mark",
        "model.py",
        "UTF-8",
        True,
    ),
    Bad(
        "file: broken",
        upstream_file("src/tool/model.py", b"def load(:\n"),
        1,
        "not Python",
        "src/tool/model.py:1",
        "mend",
        True,
    ),
    Bad(
        "file: empty",
        upstream_file("src/tool/model.py", b""),
        1,
        "load is not found",
        "src/tool/model.py",
        "change the edit",
        True,
    ),
    Bad(
        "file: gone",
        lambda p: p.at("tool/src/tool/model.py").unlink(),
        1,
        "no such file",
        "src/tool/model.py",
        "change the edit",
        True,
    ),
]
