from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from graft.archive import Unproven
from graft.errors import BadInput, GraftError, Unreachable
from graft.git import git_text
from graft.lock import Lock, Upstream
from graft.pushguard import guarded
from graft.sources import ABSENT, Obtained, obtain
from tests.graft.repositories import make_archive, make_repository, pin, sh

ROOT = Path(__file__).resolve().parents[2]


def quiet(text: str) -> None:
    del text


@pytest.fixture
def origin(tmp_path: Path) -> tuple[Path, Upstream]:
    place = tmp_path / "origin/tool"
    return place, pin(place, *make_repository(place))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that is a git repository with the upstream as a submodule entry, as a plain clone has it."""
    place = tmp_path / "project"
    place.mkdir()
    sh("init", "-q", "-b", "main", cwd=place)
    return place


def as_submodule(root: Path, upstream: Upstream) -> None:
    entry = f'[submodule "{upstream.path}"]\n\tpath = {upstream.path}\n\turl = {upstream.url}\n\tignore = dirty\n'
    (root / ".gitmodules").write_text(entry)
    sh("update-index", "--add", "--cacheinfo", f"160000,{upstream.commit},{upstream.path}", cwd=root)
    sh("add", ".gitmodules", cwd=root)
    sh("commit", "-qm", "project", cwd=root)
    (root / upstream.path).mkdir(parents=True)


def proven(got: Obtained, upstream: Upstream, origin: Path) -> None:
    assert sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=got.path).split() == [upstream.commit, upstream.tree]
    assert sh("status", "--porcelain", "--untracked-files=all", cwd=got.path) == ""
    assert sh("fsck", "--full", "--strict", cwd=got.path) == ""
    assert sh("rev-list", "--count", "HEAD", cwd=got.path) == "1"
    ours = sorted(path.relative_to(got.path).as_posix() for path in got.path.rglob("*") if path.name != ".git")
    wanted = sh("-c", "core.quotePath=false", "ls-tree", "-r", "-t", "--name-only", upstream.commit, cwd=origin)
    assert [name for name in ours if not name.startswith(".git/")] == sorted(wanted.split("\n"))
    assert guarded(got.path)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / "upstreams").glob(".incoming*")]


def test_by_url_as_a_submodule(origin: tuple[Path, Upstream], root: Path) -> None:
    place, upstream = origin
    as_submodule(root, upstream)
    got = obtain(upstream, root, progress=quiet)
    proven(got, upstream, place)
    assert got.fresh
    assert got.git_dir == root / ".git/modules/upstreams/Tool"
    assert not Path((got.path / ".git").read_text().split()[1]).is_absolute()
    assert sh("submodule", "status", cwd=root).startswith(upstream.commit)
    assert sh("status", "--porcelain", cwd=root) == ""
    sh("submodule", "update", "--init", cwd=root)
    (got.path / "README.md").write_bytes(b"patched\n")
    assert sh("status", "--porcelain", cwd=root) == ""
    sh("commit", "-qam", "moved", cwd=got.path)
    assert sh("status", "--porcelain", cwd=root) == "M upstreams/Tool"
    assert leftovers(root) == []


def test_by_url_in_a_project_that_is_no_repository(origin: tuple[Path, Upstream], tmp_path: Path) -> None:
    place, upstream = origin
    root = tmp_path / "tarball"
    root.mkdir()
    got = obtain(upstream, root, progress=quiet)
    proven(got, upstream, place)
    assert got.git_dir == root / "upstreams/Tool/.git"
    moved = tmp_path / "moved"
    root.rename(moved)
    again = obtain(upstream, moved, progress=quiet)
    assert not again.fresh
    assert sh("status", "--porcelain", cwd=again.path) == ""


def test_a_submodule_survives_moving_the_project(origin: tuple[Path, Upstream], root: Path, tmp_path: Path) -> None:
    _, upstream = origin
    as_submodule(root, upstream)
    obtain(upstream, root, progress=quiet)
    root.rename(tmp_path / "moved")
    assert not obtain(upstream, tmp_path / "moved", progress=quiet).fresh
    assert sh("status", "--porcelain", cwd=tmp_path / "moved/upstreams/Tool") == ""


def test_in_a_linked_worktree_of_the_project(origin: tuple[Path, Upstream], root: Path, tmp_path: Path) -> None:
    place, upstream = origin
    as_submodule(root, upstream)
    sh("worktree", "add", "-q", str(tmp_path / "linked"), cwd=root)
    got = obtain(upstream, tmp_path / "linked", progress=quiet)
    proven(got, upstream, place)
    assert sh("submodule", "status", cwd=tmp_path / "linked").startswith(upstream.commit)


def test_the_pin_behind_the_tip_of_its_ref(tmp_path: Path, root: Path) -> None:
    place = tmp_path / "origin"
    upstream = pin(place, *make_repository(place, later=True))
    proven(obtain(upstream, root, progress=quiet), upstream, place)


@pytest.mark.parametrize("later", [False, True], ids=["at the tip", "behind the tip"])
def test_a_server_that_serves_tips_only(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    place = tmp_path / "origin"
    upstream = pin(place, *make_repository(place, later=later))
    # Protocol 0 lets a server refuse a commit that no ref names.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0")
    got = obtain(upstream, root, progress=quiet)
    assert sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=got.path).split() == [upstream.commit, upstream.tree]
    assert sh("fsck", "--full", "--no-dangling", cwd=got.path) == ""


@pytest.mark.parametrize(
    "layout", ["owner+tool/repo", "owner+tool", "owner/tool", "owner/tool.git", "tool.git", "Tool", "."]
)
def test_a_mirror_directory_of_any_layout(tmp_path: Path, root: Path, layout: str) -> None:
    place = tmp_path / "made"
    commit, tree = make_repository(place)
    upstream = pin(place, commit, tree, url="https://example.invalid/owner/tool")
    target = tmp_path / "mirror" / layout
    target.parent.mkdir(parents=True, exist_ok=True)
    bare = ["--bare"] if layout.endswith((".git", "repo")) else []
    sh("clone", "-q", *bare, str(place), str(target), cwd=tmp_path)
    got = obtain(upstream, root, mirror=tmp_path / "mirror", progress=quiet)
    proven(got, upstream, place)
    assert got.source == f"mirror {os.path.normpath(target)}"
    assert sh("remote", "get-url", "origin", cwd=got.path) == upstream.url


def test_a_mirror_that_git_is_configured_with_is_named(
    origin: tuple[Path, Upstream], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, upstream = origin
    upstream = replace(upstream, url="https://example.invalid/owner/tool")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{place.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", upstream.url)
    got = obtain(upstream, root, offline=True, progress=quiet)
    proven(got, upstream, place)
    assert place.as_uri() in got.source
    assert upstream.url in got.source


def test_a_mirror_without_the_commit_is_passed_over_and_named(
    origin: tuple[Path, Upstream], root: Path, tmp_path: Path
) -> None:
    place, upstream = origin
    sh("init", "-q", "--bare", str(tmp_path / "mirror/Tool.git"), cwd=tmp_path)
    got = obtain(upstream, root, mirror=tmp_path / "mirror", progress=quiet)
    proven(got, upstream, place)
    assert [str(tmp_path / "mirror/Tool.git") in attempt.source for attempt in got.tried] == [True]
    assert "does not hold the commit" in got.tried[0].why
    with pytest.raises(BadInput, match="not a directory"):
        obtain(replace(upstream, path="upstreams/Other"), root, mirror=tmp_path / "none", progress=quiet)


def test_the_checkout_that_is_there_is_taken_as_it_is(origin: tuple[Path, Upstream], root: Path) -> None:
    _, upstream = origin
    first = obtain(upstream, root, progress=quiet)
    (first.path / "README.md").write_bytes(b"mine\n")
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*"))
    second = obtain(replace(upstream, url="https://example.invalid/o/n"), root, progress=quiet)
    assert (second.fresh, second.source, second.git_dir) == (False, "the checkout that is there", first.git_dir)
    assert sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*")) == before


def test_a_moved_head_is_named_and_left(tmp_path: Path, root: Path) -> None:
    place = tmp_path / "origin"
    upstream = pin(place, *make_repository(place))
    got = obtain(upstream, root, progress=quiet)
    (got.path / "README.md").write_bytes(b"mine\n")
    sh("commit", "-qam", "mine", cwd=got.path)
    head = sh("rev-parse", "HEAD", cwd=got.path)
    with pytest.raises(GraftError) as caught:
        obtain(upstream, root, progress=quiet)
    assert head in caught.value.what
    assert upstream.commit in caught.value.what
    assert f"checkout --detach {upstream.commit}" in caught.value.remedy
    assert sh("rev-parse", "HEAD", cwd=got.path) == head
    subprocess.run(caught.value.remedy.partition("then: ")[2], shell=True, check=True, capture_output=True)
    assert not obtain(upstream, root, progress=quiet).fresh


def test_a_tree_other_than_the_locks_is_refused_from_every_source(origin: tuple[Path, Upstream], root: Path) -> None:
    _, upstream = origin
    wrong = replace(upstream, tree="e" * 40)
    with pytest.raises(Unproven) as caught:
        obtain(wrong, root, progress=quiet)
    assert caught.value.exit_code == 2
    assert upstream.tree in caught.value.what
    assert "e" * 40 in caught.value.what
    assert f"`tree` is {upstream.tree}" in caught.value.remedy
    assert "insteadOf" not in caught.value.remedy
    assert list((root / "upstreams").iterdir()) == []
    obtain(upstream, root, progress=quiet)
    with pytest.raises(GraftError, match=r"the lock says e{40}"):
        obtain(wrong, root, progress=quiet)


def test_what_is_in_the_way_is_left_alone(origin: tuple[Path, Upstream], root: Path) -> None:
    _, upstream = origin
    path = root / upstream.path
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(GraftError, match="not a git checkout"):
        obtain(upstream, root, progress=quiet)
    assert (path / "notes.txt").read_text() == "mine"
    shutil.rmtree(path)
    path.symlink_to(root)
    with pytest.raises(GraftError, match="in the way"):
        obtain(upstream, root, progress=quiet)


def test_a_checkout_without_a_commit_has_a_remedy(origin: tuple[Path, Upstream], root: Path) -> None:
    _, upstream = origin
    (root / upstream.path).mkdir(parents=True)
    sh("init", "-q", cwd=root / upstream.path)
    with pytest.raises(GraftError) as caught:
        obtain(upstream, root, progress=quiet)
    assert "move" in caught.value.remedy
    assert str(root / upstream.path) in str(caught.value)


def test_nothing_reachable_lists_all_that_was_tried(tmp_path: Path, root: Path) -> None:
    place = tmp_path / "origin"
    upstream = pin(place, *make_repository(place), url=(tmp_path / "gone").as_uri())
    (tmp_path / "mirror").mkdir()
    with pytest.raises(Unreachable) as caught:
        obtain(upstream, root, mirror=tmp_path / "mirror", progress=quiet)
    assert caught.value.exit_code == 3
    assert caught.value.where == "Tool"
    assert f"mirror {tmp_path / 'mirror'}: holds no" in caught.value.what
    assert (tmp_path / "gone").as_uri() in caught.value.what
    assert "insteadOf" in caught.value.remedy
    assert "--mirror" in caught.value.remedy
    assert list((root / "upstreams").iterdir()) == []


def test_offline_asks_no_network(tmp_path: Path, root: Path) -> None:
    place = tmp_path / "origin"
    upstream = pin(place, *make_repository(place), url="https://example.invalid/o/n")
    with pytest.raises(Unreachable, match="not asked, offline") as caught:
        obtain(upstream, root, offline=True, progress=quiet)
    assert "--offline" in caught.value.remedy


def test_a_source_that_lacks_contents_gives_what_it_has_and_says_what_not(
    origin: tuple[Path, Upstream], root: Path, tmp_path: Path
) -> None:
    place, upstream = origin
    partial = tmp_path / "mirror/Tool"
    sh("clone", "-q", "--no-local", "--bare", str(place), str(partial), cwd=tmp_path)
    pack = next((partial / "objects/pack").glob("*.pack"))
    shutil.move(pack, tmp_path / "pack")
    shutil.rmtree(partial / "objects/pack")
    sh("unpack-objects", "-q", cwd=partial, input=(tmp_path / "pack").read_bytes())
    blob = sh("rev-parse", f"{upstream.commit}:assets/big.bin", cwd=place)
    (partial / "objects" / blob[:2] / blob[2:]).unlink()

    upstream = replace(upstream, url="https://example.invalid/o/tool")
    got = obtain(upstream, root, mirror=tmp_path / "mirror", progress=quiet)
    assert got.absent == ("assets/big.bin",)
    assert "1 tracked files are absent" in got.warning
    assert "assets/big.bin" in got.warning
    assert (got.git_dir / ABSENT).read_bytes() == b"assets/big.bin\0"
    assert not (got.path / "assets/big.bin").exists()
    assert (got.path / "scripts/run.sh").stat().st_mode & 0o111
    assert sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=got.path).split() == [upstream.commit, upstream.tree]
    assert sh("status", "--porcelain", cwd=got.path) == ""
    assert sh("diff", "HEAD", "--stat", cwd=got.path) == ""
    assert sh("fsck", cwd=got.path) == ""
    assert obtain(upstream, root, progress=quiet).absent == ("assets/big.bin",)

    failed = subprocess.run(got.remedy, shell=True, check=False, capture_output=True)
    assert failed.returncode != 0
    assert sh("status", "--porcelain", cwd=got.path) == ""

    # git itself completes it as soon as the URL can be reached.
    sh("config", "remote.origin.url", place.as_uri(), cwd=got.path)
    sh("config", "uploadpack.allowAnySHA1InWant", "true", cwd=place)
    sh("config", "uploadpack.allowFilter", "true", cwd=place)
    subprocess.run(got.remedy, shell=True, check=True, capture_output=True)
    assert sh("ls-files", "-t", "assets/big.bin", cwd=got.path) == "H assets/big.bin"
    assert sh("status", "--porcelain", cwd=got.path) == ""
    assert (got.path / "assets/big.bin").read_bytes() == bytes(range(256)) * 40
    assert obtain(upstream, root, progress=quiet).absent == ()


def test_a_kept_git_directory_is_checked_out_again(origin: tuple[Path, Upstream], root: Path) -> None:
    place, upstream = origin
    as_submodule(root, upstream)
    first = obtain(upstream, root, progress=quiet)
    sh("branch", "mine", cwd=first.path)
    sh("submodule", "deinit", "-f", upstream.path, cwd=root)
    assert not any(first.path.iterdir())
    got = obtain(replace(upstream, url="https://example.invalid/o/n"), root, progress=quiet)
    proven(got, upstream, place)
    assert got.fresh
    assert got.git_dir == first.git_dir
    assert "mine" in sh("branch", "--list", cwd=got.path)


def test_a_kept_git_directory_elsewhere_is_named(origin: tuple[Path, Upstream], root: Path) -> None:
    _, upstream = origin
    as_submodule(root, upstream)
    first = obtain(upstream, root, progress=quiet)
    sh("commit", "-q", "--allow-empty", "-m", "mine", cwd=first.path)
    head = sh("rev-parse", "HEAD", cwd=first.path)
    shutil.rmtree(first.path)
    with pytest.raises(GraftError, match=head):
        obtain(upstream, root, progress=quiet)
    sh("--git-dir", str(first.git_dir), "--work-tree", ".", "cat-file", "-e", head, cwd=root)


def test_the_users_templates_hooks_and_line_ends_have_no_say(
    origin: tuple[Path, Upstream], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, upstream = origin
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    config = tmp_path / "config"
    config.write_text(
        f"[init]\n\ttemplateDir = {tmp_path}\n\tdefaultObjectFormat = sha256\n\tdefaultBranch = odd\n"
        f"[core]\n\thooksPath = {hooks}\n\tautocrlf = true\n\teol = crlf\n[fetch]\n\tprune = true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    got = obtain(upstream, root, progress=quiet)
    assert not (tmp_path / "ran").exists()
    assert (got.path / "src/pkg/model.py").read_bytes() == b"def forward(x):\n    return x + 1\n"
    proven(got, upstream, place)


def test_a_killed_run_leaves_nothing_that_counts(origin: tuple[Path, Upstream], root: Path, tmp_path: Path) -> None:
    place, upstream = origin
    as_submodule(root, upstream)
    code = (
        "import os, signal, sys\n"
        "from graft import offers, sources\n"
        "from pathlib import Path\n"
        "from tests.graft.repositories import pin\n"
        "kill = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(offers if sys.argv[1] == 'fetch' else sources, sys.argv[1], kill)\n"
        f"up = pin(Path({str(place)!r}), {upstream.commit!r}, {upstream.tree!r})\n"
        f"sources.obtain(up, Path({str(root)!r}), progress=lambda text: None)\n"
    )
    for step in ("fetch", "_check_out", "_write_files", "_placed", "_move"):
        done = subprocess.run([sys.executable, "-c", code, step], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert not any((root / upstream.path).iterdir())
        assert sh("status", "--porcelain", cwd=root) == ""
    assert leftovers(root) != []
    proven(obtain(upstream, root, progress=quiet), upstream, place)
    assert leftovers(root) == []


def test_two_at_once_end_with_one_sound_checkout(origin: tuple[Path, Upstream], root: Path) -> None:
    place, upstream = origin
    other = root / "upstreams/.incoming-Tool-1"
    other.mkdir(parents=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl,os,sys,time\nf=os.open(sys.argv[1],0)\nfcntl.flock(f,2)\nprint(1,flush=True)\ntime.sleep(60)",
            str(other),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        proven(obtain(upstream, root, progress=quiet), upstream, place)
        assert other.is_dir()
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("repository", [True, False], ids=["submodule", "release"])
def test_several_at_once_fetch_once_and_all_have_it(
    origin: tuple[Path, Upstream], root: Path, tmp_path: Path, repository: bool
) -> None:
    place, upstream = origin
    if repository:
        as_submodule(root, upstream)
    else:
        root = tmp_path / "release"
        root.mkdir()
    begun = tmp_path / "begun"
    begun.mkdir()
    # Slow enough that all of them come while the first one fetches, however long they take to start.
    code = (
        "import os, sys, time\n"
        "from graft import offers, sources\n"
        "from pathlib import Path\n"
        "from tests.graft.repositories import pin\n"
        "real = offers.fetch\n"
        "def slow(*args):\n"
        f"    while len(os.listdir({str(begun)!r})) < 3:\n"
        "        time.sleep(0.05)\n"
        "    time.sleep(1)\n"
        "    return real(*args)\n"
        "offers.fetch = slow\n"
        f"up = pin(Path({str(place)!r}), {upstream.commit!r}, {upstream.tree!r})\n"
        f"open(os.path.join({str(begun)!r}, str(os.getpid())), 'w').close()\n"
        f"got = sources.obtain(up, Path({str(root)!r}), progress=lambda text: print(text, file=sys.stderr))\n"
        "print(got.fresh, got.git_dir)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert sorted(out.split()[0] for out, _ in said) == ["False", "False", "True"]
    assert len({out.split()[1] for out, _ in said}) == 1
    for out, progress in said:
        waited = re.findall(r"Tool: waiting for process (\d+)", progress)
        assert len(waited) == (0 if out.startswith("True") else 1)
    proven(obtain(upstream, root, progress=quiet), upstream, place)
    if repository:
        assert leftovers(root) == []
        assert sh("status", "--porcelain", cwd=root) == ""


def test_the_url_itself_is_asked_when_gits_mirror_of_it_is_dead(
    origin: tuple[Path, Upstream], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, upstream = origin
    dead = (tmp_path / "dead").as_uri()
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{dead}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", upstream.url)
    got = obtain(upstream, root, progress=quiet)
    proven(got, upstream, place)
    assert got.source.startswith(f"{upstream.url} itself")
    assert [attempt.source.startswith(dead) for attempt in got.tried] == [True]
    assert sh("config", "remote.origin.url", cwd=got.path) == upstream.url
    gone = replace(upstream, url="https://example.invalid/o/n", path="upstreams/Other")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", gone.url)
    with pytest.raises(Unreachable) as caught:
        obtain(gone, root, offline=True, progress=quiet)
    assert f"{gone.url} itself, past git's insteadOf: not asked, offline" in caught.value.what


def test_the_archive_in_a_mirror_directory_serves_as_last_resort(tmp_path: Path, root: Path) -> None:
    place = tmp_path / "origin"
    commit, tree = make_repository(place)
    archive = make_archive(place, commit, tmp_path / "mirror/tool-1.0.tar.gz")
    upstream = pin(place, commit, tree, archive=archive, url=(tmp_path / "gone").as_uri())
    as_submodule(root, upstream)
    got = obtain(upstream, root, mirror=tmp_path / "mirror", offline=True, progress=quiet)
    proven(got, upstream, place)
    assert got.source == f"archive {tmp_path / 'mirror/tool-1.0.tar.gz'}"
    assert len(got.tried) == 2
    assert sh("submodule", "status", cwd=root).startswith(commit)


# The real upstreams


@pytest.mark.upstream
@pytest.mark.parametrize("name", Lock.load(ROOT).names)
def test_the_real_upstream_is_obtained_and_sound(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (upstream,) = Lock.load(ROOT).select([name])
    try:
        got = obtain(upstream, tmp_path, progress=quiet)
    except Unreachable as error:
        pytest.skip(f"{name} cannot be reached: {error.what}")
    assert git_text(["rev-parse", "HEAD", "HEAD^{tree}"], cwd=got.path).split() == [upstream.commit, upstream.tree]
    assert sh("status", "--porcelain", cwd=got.path) == ""
    assert "error" not in sh("fsck", "--full", cwd=got.path)
    assert guarded(got.path)
    began = time.perf_counter()
    assert obtain(upstream, tmp_path, progress=quiet).absent == got.absent
    assert time.perf_counter() - began < 0.1
