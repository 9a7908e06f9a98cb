from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from graft.archive import Unproven, unpack, verify
from graft.errors import GraftError, Unreachable
from graft.lock import Archive, Lock, Upstream
from graft.registry import Registry, configured, download
from graft.sources import obtain
from tests.graft.repositories import make_archive, make_repository, pin, sh

ROOT = Path(__file__).resolve().parents[2]


def quiet(text: str) -> None:
    del text


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Upstream, Archive, Path]:
    """A repository, its pin with an archive, the archive, and the archive's file."""
    place, file = tmp_path / "origin", tmp_path / "files/tool-1.0.tar.gz"
    commit, tree = make_repository(place)
    archive = make_archive(place, commit, file)
    return place, pin(place, commit, tree, archive=archive), archive, file


def fresh(place: Path) -> Path:
    place.mkdir(parents=True)
    sh("init", "-q", cwd=place)
    return place


def test_the_archive_becomes_the_commit_and_nothing_else(
    made: tuple[Path, Upstream, Archive, Path], tmp_path: Path
) -> None:
    place, upstream, archive, file = made
    checkout = fresh(tmp_path / "checkout")
    sh("config", "core.autocrlf", "true", cwd=checkout)
    unpack(file, upstream, archive, checkout)
    assert sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=checkout).split() == [upstream.commit, upstream.tree]
    assert sh("ls-tree", "-r", "HEAD", cwd=checkout) == sh("ls-tree", "-r", upstream.commit, cwd=place)
    assert sh("fsck", "--full", "--strict", cwd=checkout) == ""
    assert (checkout / ".git/shallow").read_text() == upstream.commit + "\n"
    assert sorted(path.name for path in checkout.iterdir()) == [".git"]


@pytest.mark.parametrize(
    ("name", "kind", "target", "said"),
    [
        ("tool-1.0/../../evil", tarfile.REGTYPE, "", "unsafe member"),
        ("/tool-1.0/evil", tarfile.REGTYPE, "", "unsafe member"),
        ("tool-1.0/.git/hooks/post-checkout", tarfile.REGTYPE, "", "unsafe member"),
        ("tool-1.0/sub/.GIT/config", tarfile.REGTYPE, "", "unsafe member"),
        ("tool-1.0/a\\b", tarfile.REGTYPE, "", "unsafe member"),
        ("evil", tarfile.REGTYPE, "", "not a file below one top directory"),
        ("tool-1.0/dev", tarfile.CHRTYPE, "", "not a file below one top directory"),
        ("tool-1.0/pipe", tarfile.FIFOTYPE, "", "not a file below one top directory"),
        ("tool-1.0/hard", tarfile.LNKTYPE, "/etc/passwd", "not a file below one top directory"),
        ("tool-1.0/out", tarfile.SYMTYPE, "../../etc/passwd", "link out of the tree"),
        ("tool-1.0/sub/out", tarfile.SYMTYPE, "../../x", "link out of the tree"),
        ("tool-1.0/abs", tarfile.SYMTYPE, "/etc/passwd", "link out of the tree"),
        ("tool-1.0/README.md", tarfile.REGTYPE, "", "two members are called README.md"),
        ("tool-1.0/extra.py", tarfile.REGTYPE, "", "the lock says"),
    ],
)
def test_a_hostile_or_odd_member_is_refused_before_a_file_is_written(
    tmp_path: Path, name: str, kind: bytes, target: str, said: str
) -> None:
    place, file = tmp_path / "origin", tmp_path / "tool-1.0.tar.gz"
    commit, tree = make_repository(place)
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive = make_archive(place, commit, file, extra=[(member, b"")])
    checkout = fresh(tmp_path / "checkout")
    with pytest.raises(GraftError, match=said):
        unpack(file, pin(place, commit, tree, archive=archive), archive, checkout)
    assert sorted(path.name for path in checkout.iterdir()) == [".git"]
    assert not (tmp_path / "evil").exists()


def test_a_wrong_hash_is_refused_before_the_archive_is_opened(
    made: tuple[Path, Upstream, Archive, Path], tmp_path: Path
) -> None:
    _, upstream, archive, file = made
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(GraftError, match=f"the lock says {archive.sha256}"):
        verify(file, archive)
    with pytest.raises(GraftError, match="SHA-256"):
        unpack(file, upstream, archive, fresh(tmp_path / "checkout"))


def test_what_is_no_archive_and_what_lacks_a_left_out_member(
    made: tuple[Path, Upstream, Archive, Path], tmp_path: Path
) -> None:
    _, upstream, archive, file = made
    with pytest.raises(GraftError, match="lacks NOTES"):
        unpack(file, upstream, replace(archive, without=("PKG-INFO", "NOTES")), fresh(tmp_path / "a"))
    for number, content in enumerate((b"no archive", gzip.compress(b"no tar" * 200), file.read_bytes()[:-400])):
        file.write_bytes(content)
        known = replace(archive, sha256=hashlib.sha256(content).hexdigest())
        with pytest.raises(GraftError, match="cannot be read as a source archive"):
            unpack(file, upstream, known, fresh(tmp_path / f"b{number}"))


# The registry


class Index(http.server.SimpleHTTPRequestHandler):
    """A registry in miniature: /json and /html serve the simple API, /auth wants a password, /files the file."""

    content: bytes
    sha256: str
    file: str
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path
        if path.startswith("/auth") and self.headers.get("Authorization") != "Basic bWU6cEBzcw==":
            return self.answer(401, "text/plain", b"")
        if path.endswith("/json/some-tool/"):
            page = {"files": [{"filename": self.file, "url": f"/files/{self.file}", "hashes": {"sha256": self.sha256}}]}
            return self.answer(200, "application/vnd.pypi.simple.v1+json", json.dumps(page).encode())
        if path.endswith("/html/some-tool/"):
            place = "" if ":" in self.file else "../../files/"
            page_text = f'<a href="{place}{self.file}#sha256={self.sha256}" data-x="&gt;">{self.file}</a>'
            return self.answer(200, "text/html; charset=utf-8", page_text.encode())
        if path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/moved"))
            self.end_headers()
            return None
        if path.endswith(f"/files/{self.file}"):
            return self.answer(200, "application/gzip", self.content)
        return self.answer(404, "text/plain", b"")

    def answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def index(made: tuple[Path, Upstream, Archive, Path]) -> Iterator[tuple[str, type[Index]]]:
    _, _, archive, file = made

    class Handler(Index):
        content, sha256, asked = file.read_bytes(), archive.sha256, []

    Handler.file = archive.file
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("base", ["/json", "/html/", "/moved/html", "/simple-is-elsewhere"])
def test_an_index_is_read_in_either_form(
    made: tuple[Path, Upstream, Archive, Path], index: tuple[str, type[Index]], tmp_path: Path, base: str
) -> None:
    archive, file = made[2:]
    indexes = (index[0] + base, index[0] + "/json")
    shown = download(archive, Registry(indexes), tmp_path / "got", offline=False, progress=quiet)
    assert (tmp_path / "got").read_bytes() == file.read_bytes()
    assert shown == indexes[1 if "elsewhere" in base else 0]


def test_a_private_index_gets_its_password_and_no_one_sees_it(
    made: tuple[Path, Upstream, Archive, Path], index: tuple[str, type[Index]], tmp_path: Path
) -> None:
    url = index[0].replace("//", "//me:p%40ss@") + "/auth/html"
    said: list[str] = []
    shown = download(made[2], Registry((url,)), tmp_path / "got", offline=False, progress=said.append)
    assert "p%40ss" not in shown + "".join(said)
    wrong = url.replace("p%40ss", "no")
    with pytest.raises(GraftError, match="HTTP 401") as caught:
        download(made[2], Registry((wrong,)), tmp_path / "got", offline=False, progress=quiet)
    assert ":no@" not in str(caught.value)


def test_a_file_that_is_not_the_locks_is_refused(
    made: tuple[Path, Upstream, Archive, Path], index: tuple[str, type[Index]], tmp_path: Path
) -> None:
    archive, registry = made[2], Registry((index[0] + "/json",))
    whole = index[1].content
    for content, said in (
        (whole[:-1] + b"\1", "SHA-256 is"),
        (whole + b"x" * 400000, "longer than"),
        (whole[:-1], "bytes came"),
    ):
        index[1].content = content
        with pytest.raises(GraftError, match=said):
            download(archive, registry, tmp_path / "got", offline=False, progress=quiet)
    index[1].sha256 = "0" * 64
    with pytest.raises(GraftError, match=f"has no {archive.file}"):
        download(archive, registry, tmp_path / "got", offline=False, progress=quiet)


def test_a_page_from_a_network_cannot_name_a_file_here(
    made: tuple[Path, Upstream, Archive, Path], index: tuple[str, type[Index]], tmp_path: Path
) -> None:
    archive, file = made[2:]
    index[1].file = file.as_uri()
    with pytest.raises(GraftError, match="has no"):
        download(archive, Registry((index[0] + "/html",)), tmp_path / "got", offline=False, progress=quiet)


@pytest.mark.parametrize("as_url", [False, True])
def test_find_links_and_indexes_on_disk_serve_offline(
    made: tuple[Path, Upstream, Archive, Path], tmp_path: Path, as_url: bool
) -> None:
    archive, file = made[2:]
    folder = file.parent.as_uri() if as_url else str(file.parent)
    shown = download(archive, Registry((), links=(folder,)), tmp_path / "a", offline=True, progress=quiet)
    assert shown == folder
    page = tmp_path / "simple/some-tool/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../files/{archive.file}#sha256={archive.sha256}">x</a>')
    base = (tmp_path / "simple").as_uri()
    registry = Registry(("https://example.invalid/simple", base))
    assert download(archive, registry, tmp_path / "b", offline=True, progress=quiet) == base
    assert (tmp_path / "b").read_bytes() == file.read_bytes()


def test_pips_configuration_is_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (default,) = configured().indexes
    assert default.startswith("https://")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    config.write_text(
        "[global]\nindex-url = https://a/simple\nextra-index-url =\n  https://b/simple\n  https://c/simple\n"
        "cert = /etc/ca.pem\nproxy = http://p:3128\ntimeout = 7\n[download]\nindex-url = https://d/simple\n"
    )
    registry = configured()
    assert registry.indexes == ("https://d/simple", "https://b/simple", "https://c/simple")
    assert (registry.certificate, registry.proxy, registry.timeout) == ("/etc/ca.pem", "http://p:3128", 7.0)
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/srv/links")
    assert configured().indexes[0] == "https://e/simple"
    assert configured().links == ("/srv/links",)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert configured().indexes == ()


def test_the_registry_alone_gives_the_checkout(
    made: tuple[Path, Upstream, Archive, Path],
    index: tuple[str, type[Index]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = replace(made[1], url=(tmp_path / "gone").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index[0] + "/html")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    root = tmp_path / "root"
    root.mkdir()
    got = obtain(upstream, root, progress=quiet)
    assert got.source == f"registry archive {made[2].file} from {index[0]}/html"
    assert sh("status", "--porcelain", "--untracked-files=all", cwd=got.path) == ""
    assert sh("fsck", "--full", "--strict", cwd=got.path) == ""
    index[1].content = b"x"
    with pytest.raises(Unreachable, match="1 bytes came") as caught:
        obtain(replace(upstream, path="upstreams/again"), root, progress=quiet)
    assert "PIP_INDEX_URL" in caught.value.remedy
    other = b"x" * made[2].size
    index[1].content = other
    with pytest.raises(Unproven) as wrong:
        obtain(replace(upstream, path="upstreams/again"), root, progress=quiet)
    assert wrong.value.exit_code == 2
    for told in (hashlib.sha256(other).hexdigest(), made[2].sha256, index[0], upstream.url):
        assert told in wrong.value.what
    assert "sha256" in wrong.value.remedy
    assert "insteadOf" not in wrong.value.remedy


def test_a_bad_archive_in_a_mirror_is_named_and_the_registry_asked(
    made: tuple[Path, Upstream, Archive, Path],
    index: tuple[str, type[Index]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = replace(made[1], url=(tmp_path / "gone").as_uri())
    bad = tmp_path / "mirror" / made[2].file
    bad.parent.mkdir()
    bad.write_bytes(b"not it")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index[0] + "/json")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    root = tmp_path / "root"
    root.mkdir()
    got = obtain(upstream, root, mirror=bad.parent, progress=quiet)
    assert got.source == f"registry archive {made[2].file} from {index[0]}/json"
    last = got.tried[-1]
    assert last.source == f"archive {bad}"
    assert hashlib.sha256(b"not it").hexdigest() in last.why
    monkeypatch.setenv("PIP_INDEX_URL", index[0] + "/nowhere")
    with pytest.raises(Unproven) as wrong:
        obtain(replace(upstream, path="upstreams/again"), root, mirror=bad.parent, progress=quiet)
    assert str(bad) in wrong.value.what
    assert made[2].sha256 in wrong.value.what


@pytest.mark.upstream
@pytest.mark.parametrize("name", [entry.name for entry in Lock.load(ROOT).upstreams if entry.archive])
def test_the_real_registry_alone_gives_the_pin(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (upstream,) = Lock.load(ROOT).select([name])
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    cut = replace(upstream, url=(tmp_path / "no-such-mirror").as_uri())
    try:
        got = obtain(cut, tmp_path, progress=quiet)
    except Unreachable as error:
        pytest.skip(f"{name} is on no registry that can be reached: {error.what}")
    assert "registry archive" in got.source
    assert sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=got.path).split() == [upstream.commit, upstream.tree]
    assert sh("status", "--porcelain", "--untracked-files=all", cwd=got.path) == ""
    assert sh("fsck", "--full", cwd=got.path) == ""
    assert sh("log", "--format=%H", cwd=got.path) == upstream.commit


def test_a_tar_that_ends_early_is_no_archive(tmp_path: Path, made: tuple[Path, Upstream, Archive, Path]) -> None:
    _, upstream, archive, file = made
    raw = gzip.decompress(file.read_bytes())
    cut = gzip.compress(raw[: len(raw) // 2])
    file.write_bytes(cut)
    with tarfile.open(fileobj=io.BytesIO(raw)) as whole:
        assert len(whole.getmembers()) > 3
    with pytest.raises(GraftError, match=r"cannot be read|lacks PKG-INFO"):
        unpack(file, upstream, replace(archive, sha256=hashlib.sha256(cut).hexdigest()), fresh(tmp_path / "c"))
