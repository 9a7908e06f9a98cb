"""A file of the Python registry, from where pip is configured to look.

pip itself would build a source archive's metadata with the upstream's own build code, so only pip's configuration is
used here; the index is read as PEP 503 and PEP 691 say, and what comes is proven by the lock's SHA-256.
"""

from __future__ import annotations

import ast
import base64
import json
import netrc
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import urllib.response
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from graft.archive import Unproven, verify
from graft.dependencies import normalised
from graft.errors import GraftError
from graft.git import Progress, redact
from graft.lock import Archive

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PAGE_LIMIT = 64 << 20


@dataclass(frozen=True)
class Registry:
    """Where pip is configured to look.

    Attributes:
        indexes: simple-API base URLs, in pip's order.
        links: ``find-links`` locations, directories or URLs.
        certificate: a CA bundle, or None for the system's.
        proxy: a proxy URL, or None for the environment's.
        timeout: seconds.
        trusted: hosts whose certificates are not checked.
    """

    indexes: tuple[str, ...]
    links: tuple[str, ...] = ()
    certificate: str | None = None
    proxy: str | None = None
    timeout: float = 15.0
    trusted: tuple[str, ...] = ()


def configured(python: str = sys.executable) -> Registry:
    """The registry that ``python -m pip`` is configured with: its files, environment variables and own default.

    Raises:
        GraftError: no pip can be run.
    """
    pip = _pip(python)
    values: dict[str, str] = {}
    for wanted in ("global.", "download.", ":env:."):  # in rising order of pip's precedence
        for line in _said([*pip, "config", "list"]).splitlines():
            key, mark, value = line.partition("=")
            if mark and key.startswith(wanted):
                values[key[len(wanted) :]] = _literal(value)
    index = values.get("index-url") or _default_index(pip)
    indexes = [] if values.get("no-index", "").lower() in ("1", "true", "yes", "on") else [index]
    if indexes:
        indexes += values.get("extra-index-url", "").split()
    timeout = values.get("timeout") or values.get("default-timeout") or "15"
    return Registry(
        indexes=tuple(indexes),
        links=tuple(values.get("find-links", "").split()),
        certificate=values.get("cert"),
        proxy=values.get("proxy"),
        timeout=min(float(timeout), 30.0) if re.fullmatch(r"\d+(\.\d+)?", timeout) else 15.0,
        trusted=tuple(values.get("trusted-host", "").split()),
    )


def download(archive: Archive, registry: Registry, into: Path, *, offline: bool, progress: Progress) -> str:
    """Fetch the archive to the file ``into`` and prove it; returns where it came from (without credentials).

    Raises:
        GraftError: no location has it; lists every location tried.
        Unproven: none has it, and one has a file of that name that is not the lock's.
    """
    said: list[str] = []
    unproven: Unproven | None = None
    for location in (*registry.links, *registry.indexes):
        shown = redact(location)
        if offline and not _local(location):
            said.append(f"{shown}: not asked, offline")
            continue
        try:
            page = _in_folder(location, archive) if location in registry.links else None
            url = page or _listed(location, archive, registry, index=location in registry.indexes)
            if url is None:
                said.append(f"{shown}: has no {archive.file}")
                continue
            if offline and not _local(url):
                said.append(f"{shown}: has {archive.file} on a network, not asked, offline")
                continue
            progress(f"{archive.file} from {shown}")
            _save(url, archive, registry, into)
        except (OSError, ValueError, GraftError) as error:
            said.append(f"{shown}: {_reason(error)}")
            unproven = error if isinstance(error, Unproven) else unproven
            continue
        return shown
    if unproven is not None:
        raise Unproven("; ".join(said), where=unproven.where, remedy=unproven.remedy)
    raise GraftError(
        "; ".join(said) or "pip is configured with no index",
        where=f"{archive.distribution} {archive.version}",
        remedy=f"point pip at an index that has {archive.file}: export PIP_INDEX_URL=...",
    )


def _pip(python: str) -> list[str]:
    for command in ([python, "-m", "pip"], *([found] for name in ("pip", "pip3") if (found := shutil.which(name)))):
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    raise GraftError("no pip to ask for its index", where=python, remedy=f"{python} -m ensurepip")


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, "COLUMNS": "1000", "PYTHONUTF8": "1"}
    )
    if done.returncode:
        raise GraftError(f"`{' '.join(command)}` failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def _default_index(pip: Sequence[str]) -> str:
    # pip's own default, in pip's own words: no index is named in this project.
    found = re.search(r"Package\s+Index\s+\(default\s+(https?://[^\s)]+)\)", _said([*pip, "download", "--help"]))
    if not found:
        raise GraftError("pip does not say which index it uses", remedy="export PIP_INDEX_URL=...")
    return found.group(1)


def _literal(text: str) -> str:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return str(value)


def _local(location: str) -> bool:
    return urllib.parse.urlsplit(location).scheme in ("", "file")


def _in_folder(location: str, archive: Archive) -> str | None:
    """The archive's URL when ``location`` is a directory that holds it."""
    if not _local(location):
        return None
    folder = Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
    file = folder / archive.file
    return file.absolute().as_uri() if file.is_file() else None


def _listed(location: str, archive: Archive, registry: Registry, *, index: bool) -> str | None:
    """The archive's URL from an index's project page, or from the page at ``location`` itself."""
    page = location
    if index:
        page = location.rstrip("/") + "/" + normalised(archive.distribution) + "/"
    if _local(page):
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(page).path))
        if path.is_dir():
            path = path / "index.html"
        if not path.is_file():
            return None
        page = path.absolute().as_uri()
    with _open(page, registry) as answer:
        content = answer.read(_PAGE_LIMIT)
        kind = answer.headers.get_content_type()
        base = answer.geturl()
    for name, url, digest in _links(content, kind):
        if name == archive.file and digest in (None, archive.sha256):
            found = urllib.parse.urljoin(_with_user(base, page), url)
            # A page from a network does not get to name files of this machine.
            return found if _local(page) or not _local(found) else None
    return None


def _links(content: bytes, kind: str) -> Iterator[tuple[str, str, str | None]]:
    """File name, URL and SHA-256 (where given) of each file on a PEP 691 or PEP 503 page."""
    if kind.endswith("json"):
        for entry in json.loads(content)["files"]:
            yield entry["filename"], entry["url"], entry.get("hashes", {}).get("sha256")
        return
    parser = _Anchors()
    parser.feed(content.decode("utf-8", "replace"))
    for href in parser.hrefs:
        url, _, fragment = href.partition("#")
        digest = fragment.partition("sha256=")[2] or None
        yield urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1]), url, digest


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            self.hrefs.append(href)


def _with_user(base: str, asked: str) -> str:
    """``base`` with the credentials of ``asked`` when it is the same host: a private index keeps its files there."""
    new, old = urllib.parse.urlsplit(base), urllib.parse.urlsplit(asked)
    if "@" in old.netloc and "@" not in new.netloc and new.hostname == old.hostname:
        return urllib.parse.urlunsplit(new._replace(netloc=old.netloc))
    return base


def _save(url: str, archive: Archive, registry: Registry, into: Path) -> None:
    with _open(url, registry) as answer, into.open("wb") as out:
        written = 0
        while chunk := answer.read(1 << 18):
            written += len(chunk)
            if written > archive.size:
                raise Unproven(
                    f"longer than the {archive.size} bytes of the lock",
                    where=archive.file,
                    remedy="correct `size` and `sha256` in the lock, or use another index",
                )
            out.write(chunk)
    if written != archive.size:
        raise GraftError(f"{written} bytes came, the lock says {archive.size}", where=archive.file)
    verify(into, archive)


def _open(url: str, registry: Registry) -> urllib.response.addinfourl:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    handlers: list[urllib.request.BaseHandler] = []
    if registry.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": registry.proxy, "https": registry.proxy}))
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=registry.certificate)
        if host in registry.trusted or f"{host}:{parts.port}" in registry.trusted:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        handlers.append(urllib.request.HTTPSHandler(context=context))
    user, password = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
    if host and not user:
        user, password = _from_netrc(host)
    bare = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    request = urllib.request.Request(bare, headers={"Accept": _ACCEPT, "User-Agent": "graft"})
    if user:
        # Unredirected: a redirect to another host must not carry the password there.
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")
    opened: urllib.response.addinfourl = urllib.request.build_opener(*handlers).open(request, timeout=registry.timeout)
    return opened


def _from_netrc(host: str) -> tuple[str, str]:
    try:
        found = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return "", ""
    return (found[0], found[2] or "") if found else ("", "")


def _reason(error: Exception) -> str:
    if isinstance(error, GraftError):
        return error.what
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return redact(str(getattr(error, "reason", None) or error))
