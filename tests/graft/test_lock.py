from __future__ import annotations

import base64
import dataclasses
import hashlib
import time
from pathlib import Path

import pytest

from graft.errors import BadInput
from graft.lock import Lock
from graft.locktext import table_of, with_pack, with_table, with_values
from graft.move import Target, moved_lock

ROOT = Path(__file__).resolve().parents[2]
TREE = "d" * 40
BODY = b"tree " + TREE.encode() + b"\nauthor A <a@example.invalid> 1 +0000\n\nmessage\n"
COMMIT = hashlib.sha1(b"commit " + str(len(BODY)).encode() + b"\0" + BODY).hexdigest()

ENTRY = {
    "url": '"https://example.invalid/owner/tool"',
    "ref": '"v1"',
    "commit": f'"{COMMIT}"',
    "tree": f'"{TREE}"',
    "license": '"MIT"',
    "path": '"upstreams/tool"',
    "python": '">=3.10"',
    "packs": "[]",
}
ARCHIVE = {
    "distribution": '"tool"',
    "version": '"1.0"',
    "file": '"tool-1.0.tar.gz"',
    "sha256": f'"{"a" * 64}"',
    "size": "12",
    "without": '["PKG-INFO"]',
    "commit_object": f'"""\n{base64.encodebytes(BODY).decode()}"""',
}


def text(name: str = "tool", archive: dict[str, str] | None = None, **changes: str | None) -> str:
    lines = [f"[upstream.{name}]"]
    lines += [f"{key} = {value}" for key, value in {**ENTRY, **changes}.items() if value is not None]
    if archive is not None:
        lines.append(f"[upstream.{name}.archive]")
        lines += [f"{key} = {value}" for key, value in archive.items()]
    return "\n".join(lines) + "\n"


def load(root: Path, content: str) -> Lock:
    (root / "upstream.lock").write_text("format = 1\n" + content, encoding="utf-8")
    return Lock.load(root)


def test_a_whole_entry(tmp_path: Path) -> None:
    lock = load(tmp_path, text(archive=ARCHIVE, packs='["a", "b-c"]'))
    (tool,) = lock.upstreams
    assert (tool.name, tool.commit, tool.tree, tool.packs) == ("tool", COMMIT, TREE, ("a", "b-c"))
    assert tool.archive is not None
    assert tool.archive.commit_object == BODY
    assert tool.archive.without == ("PKG-INFO",)


BAD: list[tuple[str, str, list[str]]] = [
    ("not toml", "[upstream.x\n", ["upstream.lock", "not TOML", "line 2"]),
    ("unknown key", text(comit='"x"'), ["[upstream.tool]", "`comit`", "did you mean 'commit'"]),
    ("unknown table", "[upstreams]\n", ["`upstreams`", "did you mean 'upstream'"]),
    ("missing key", text(tree=None), ["[upstream.tool]", "`tree`", "is missing"]),
    ("wrong type", text(packs='"hsa"'), ["`packs`", "list of pack names"]),
    ("abbreviated", text(commit='"c8f03f4"'), ["`commit`", "40 lower-case hex", "rev-parse"]),
    ("upper case", text(commit=f'"{COMMIT.upper()}"'), ["`commit`", "40 lower-case hex"]),
    ("branch", text(commit='"main"'), ["`commit`", "no branch or tag"]),
    ("newline after the id", text(commit=f'"{COMMIT}\\n"'), ["`commit`", "40 lower-case hex"]),
    ("tree abbreviated", text(tree='"dddd"'), ["`tree`", "40 lower-case hex", "rev-parse COMMIT^{tree}"]),
    ("dash url", text(url='"--upload-pack=touch x"'), ["`url`", "an https, ssh, git or file URL"]),
    ("ext url", text(url='"ext::sh -c touch% x"'), ["`url`", "run commands"]),
    ("fd url", text(url='"fd::17"'), ["`url`", "run commands"]),
    ("helper behind a scheme", text(url='"https::https://h/x"'), ["`url`"]),
    ("password in url", text(url='"https://me:secret@h/x"'), ["`url`", "without a password"]),
    ("user is an option", text(url='"-oProxyCommand@host:path"'), ["`url`", "user and host beginning with a letter"]),
    ("host is an option", text(url='"git@-oProxy:path"'), ["`url`", "user and host"]),
    ("host behind a scheme is one", text(url='"ssh://-oProxyCommand=x/path"'), ["`url`", "user and host"]),
    ("user behind a scheme is one", text(url='"ssh://-oProxyCommand=x@host/path"'), ["`url`", "user and host"]),
    ("path is an option", text(url='"git@host:-x"'), ["`url`"]),
    ("port is an option", text(url='"ssh://host:-oProxy/x"'), ["`url`"]),
    ("escaped host", text(url='"ssh://%2DoProxy/x"'), ["`url`"]),
    ("no upstream", "[upstream]\n", ["key `upstream`", "names no upstream", "[upstream.NAME]"]),
    ("no upstream at all", "", ["key `upstream`", "is missing"]),
    ("path of the project's own", text(path='"overlays"'), ["`path`", "below upstreams/"]),
    ("path within one of the project's own", text(path='"patches/tool"'), ["`path`", "below upstreams/"]),
    ("path of all upstreams", text(path='"upstreams"'), ["`path`", "below upstreams/"]),
    ("dash ref", text(ref='"-f"'), ["`ref`", "branch or tag name"]),
    ("dots in ref", text(ref='"a..b"'), ["`ref`"]),
    ("dash path", text(path='"-rf"'), ["`path`", "relative path"]),
    ("dash below", text(path='"upstreams/-rf"'), ["`path`", "relative path"]),
    ("absolute path", text(path='"/etc"'), ["`path`", "relative path"]),
    ("path up", text(path='"upstreams/../../x"'), ["`path`", "no `..`"]),
    ("path is the root", text(path='"."'), ["`path`"]),
    ("git's own directory", text(path='".git/modules"'), ["`path`"]),
    ("backslash", text(path="'upstreams\\x'"), ["`path`"]),
    ("same path", text() + text("other"), ["[upstream.other]", "`path`", "'tool'"]),
    ("nested path", text() + text("other", path='"upstreams/tool/sub"'), ["`path`", "lies in"]),
    ("same path but for case", text() + text("other", path='"upstreams/TOOL"'), ["`path`", "'tool'"]),
    ("same name but for case", text() + text("Tool", path='"upstreams/t2"'), ["in case only"]),
    ("odd name", text('"../x"'), ["is no name for an upstream"]),
    ("dash name", text('"-x"'), ["is no name for an upstream"]),
    ("entry is no table", "upstream.tool = 3\n", ["[upstream.tool]", "expected a table"]),
    ("pack name", text(packs='["../evil"]'), ["`packs`", "'../evil'"]),
    ("pack twice", text(packs='["a", "a"]'), ["`packs`", "each once"]),
    ("python", text(python='"3.10 or so"'), ["`python`", ">=3.10"]),
    ("license", text(license='""'), ["`license`", "SPDX"]),
    ("sha256", text(archive={**ARCHIVE, "sha256": '"abc"'}), ["[upstream.tool.archive]", "`sha256`", "64 lower-case"]),
    ("archive file", text(archive={**ARCHIVE, "file": '"../x.tar.gz"'}), ["`file`", ".tar.gz"]),
    ("archive zip", text(archive={**ARCHIVE, "file": '"x.zip"'}), ["`file`", ".tar.gz"]),
    ("size", text(archive={**ARCHIVE, "size": "0"}), ["`size`", "bytes"]),
    ("size is a truth", text(archive={**ARCHIVE, "size": "true"}), ["`size`", "bytes"]),
    ("without", text(archive={**ARCHIVE, "without": '["../x"]'}), ["`without`", "'../x'"]),
    ("empty archive", text(archive={}), ["[upstream.tool.archive]", "`distribution`", "is missing"]),
    ("not base64", text(archive={**ARCHIVE, "commit_object": '"!!"'}), ["`commit_object`", "not base64"]),
    (
        "another commit",
        text(archive={**ARCHIVE, "commit_object": f'"{base64.b64encode(BODY + b"x").decode()}"'}),
        ["`commit_object`", "its id is", COMMIT, "git cat-file commit"],
    ),
    ("another tree", text(tree=f'"{"e" * 40}"', archive=ARCHIVE), ["`commit_object`", f"tree {TREE}", "e" * 40]),
]


@pytest.mark.parametrize(("content", "fragments"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_malformed_is_named(tmp_path: Path, content: str, fragments: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, content)
    said = str(caught.value)
    assert str(tmp_path / "upstream.lock") in said
    assert [fragment for fragment in fragments if fragment not in said] == []
    assert caught.value.remedy
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "url",
    [
        "https://h/o/n",
        "http://h/n",
        "ssh://git@h:22/n",
        "git@h:o/n.git",
        "git://h/n",
        "file:///srv/n",
        "/srv/n",
        "https://me@h.x-y:8/n",
        "ssh://h",
    ],
)
def test_addresses_git_takes(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, text(url=f'"{url}"')).upstreams[0].url == url


def test_a_link_out_of_the_project_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "upstreams").symlink_to(outside)
    with pytest.raises(BadInput, match="leads out of the project"):
        load(root, text())
    (root / "upstreams").unlink()
    (root / "elsewhere").mkdir()
    (root / "upstreams").symlink_to("elsewhere")
    assert load(root, text()).names == ("tool",)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        Lock.load(tmp_path)
    (tmp_path / "upstream.lock").write_bytes(b"format = 1\n# \xff\n")
    with pytest.raises(BadInput, match="byte 13 is not UTF-8"):
        Lock.load(tmp_path)
    (tmp_path / "upstream.lock").write_text("format = 2\n[upstream]\n")
    with pytest.raises(BadInput, match="reads format 1"):
        Lock.load(tmp_path)


def test_select(tmp_path: Path) -> None:
    lock = load(tmp_path, text("First", path='"upstreams/a"') + text("second", path='"upstreams/b"'))
    assert [entry.name for entry in lock.select([])] == ["First", "second"]
    assert [entry.name for entry in lock.select(["SECOND", "first", "second"])] == ["First", "second"]
    with pytest.raises(BadInput, match="'secnod'; did you mean 'second'") as caught:
        lock.select(["first", "secnod"])
    assert "First, second" in caught.value.remedy


def test_the_projects_own_lock_is_sound_and_read_at_once() -> None:
    lock = Lock.load(ROOT)
    assert lock.names == ("openvla", "starVLA", "LLaMA-Factory", "LIBERO")
    began = time.process_time()
    for _ in range(10):
        Lock.load(ROOT)
    assert (time.process_time() - began) / 10 < 0.01


def test_gitmodules_agrees_with_the_lock() -> None:
    said = (ROOT / ".gitmodules").read_text()
    for upstream in Lock.load(ROOT).upstreams:
        assert f"path = {upstream.path}\n\turl = {upstream.url}\n" in said


HEADS = [
    ("[upstream.tool]", "tool"),
    ('[upstream."tool"]', "tool"),
    ("  [ upstream . 'tool' ] # [upstream.other]", "tool"),
    ('[upstream."a.b"]', "a.b"),
]


@pytest.mark.parametrize(("head", "name"), HEADS)
def test_one_table_is_found_however_it_is_written(tmp_path: Path, head: str, name: str) -> None:
    comment = f'# see [upstream.{name}]\n# [upstream."{name}"]\n'
    first = text("other", path='"upstreams/other"')
    own = text().split("\n", 1)[1]
    whole = f"format = 1\n{comment}{first}\n{head}\n{own}\n# end\n" + text("last", path='"upstreams/last"')
    start, end = table_of(whole.encode(), name)
    assert whole.encode()[start:end].decode() == own + "\n# end\n"
    changed = with_values(whole.encode(), tmp_path, name, {"ref": "v2", "commit": "e" * 40})
    wanted = own.replace('"v1"', '"v2"').replace(COMMIT, "e" * 40)
    assert changed.decode() == whole.replace(f"{head}\n{own}", f"{head}\n{wanted}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[]", '["new"]'),
        ('["a"]', '["a", "new"]'),
        ("['a',] # ]", "['a', \"new\",] # ]"),
        ('[\n  "a", # not "b" ]\n  "c",\n]', '[\n  "a", # not "b" ]\n  "c", "new",\n]'),
        ("[ # none yet\n]", '["new" # none yet\n]'),
    ],
)
def test_a_pack_is_added_whatever_the_layout(tmp_path: Path, before: str, after: str) -> None:
    whole = "format = 1\n" + text(packs=before)
    assert with_pack(whole.encode(), tmp_path, "tool", "new").decode() == whole.replace(before, after)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (text(ref=None) + "ref.x = 1\n", "ref is not on a line of its own"),
        (text(ref='"""v1"""'), "not TOML"),
        (text().replace("[upstream.tool]", "[upstream]\ntool.x = 1"), "no line [upstream.tool]"),
        ('note = """\n[upstream.tool]\nref = "v1"\n"""\n' + text(), "is not on a line of its own"),
    ],
)
def test_a_lock_that_would_not_say_what_was_asked_is_refused(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        with_values(f"format = 1\n{content}".encode(), tmp_path, "tool", {"ref": "v2"})
    assert says in str(caught.value)


def test_the_new_lock_is_judged_by_the_locks_own_parser(tmp_path: Path) -> None:
    whole = ("format = 1\n" + text(archive=ARCHIVE)).encode()
    (tool,) = load(tmp_path, text()).upstreams
    for change, says in (
        ({"ref": "-f"}, "`ref`"),
        ({"commit": "e" * 40}, "`commit_object`"),  # an archive that does not say whose it is
    ):
        with pytest.raises(BadInput, match=says):
            with_values(whole, tmp_path, "tool", change)
    with pytest.raises(BadInput, match="in case only"):
        with_table(whole, tmp_path, dataclasses.replace(tool, name="TOOL"))
    new = with_table(whole, tmp_path, dataclasses.replace(tool, name="t.2", path="upstreams/t2", packs=("a",)))
    assert new.startswith(whole)
    (tmp_path / "upstream.lock").write_bytes(new)
    assert Lock.load(tmp_path).upstreams[1] == dataclasses.replace(tool, name="t.2", path="upstreams/t2", packs=("a",))


@pytest.mark.parametrize(
    ("asked", "ref"), [("v2", "v2"), ("release/2.0", "release/2.0"), ("e" * 40, "e" * 40), ("HEAD", "e" * 40)]
)
def test_a_moved_lock_names_what_the_pin_was_taken_from(tmp_path: Path, asked: str, ref: str) -> None:
    lock = load(tmp_path, text())
    target = Target(asked, "e" * 40, "f" * 40, "a mirror")
    old = (tmp_path / "upstream.lock").read_bytes()
    (tmp_path / "upstream.lock").write_bytes(moved_lock(old, tmp_path, lock.upstreams[0], target))
    (moved,) = Lock.load(tmp_path).upstreams
    assert (moved.ref, moved.commit, moved.tree) == (ref, "e" * 40, "f" * 40)
