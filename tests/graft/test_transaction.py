"""All or nothing, proven by dying at every call that changes the disk, in ``commit`` and again in ``recover``."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft.errors import BadInput, GraftError, Several
from graft.fsops import DISK, FileSystem
from graft.transaction import Link, Recovered, Write, commit, recover

REPOSITORY = Path(__file__).parents[2]


class Killed(BaseException):
    """The process died here."""


class Faulty(FileSystem):
    """The disk, with a death or an error at call number ``at``.

    ``torn``: the fatal call, if it writes, leaves half of its bytes. ``power``: what was written and never synced is
    gone as well. ``error``: raise this instead of dying; with ``sticky`` from there on, for all calls that need room.
    """

    def __init__(
        self, at: int = -1, *, torn: bool = False, power: bool = False, error: int = 0, sticky: bool = False
    ) -> None:
        self.at, self.torn, self.power, self.error, self.sticky = at, torn, power, error, sticky
        self.calls = 0
        self.log: list[str] = []
        self.unsynced: dict[int, Path] = {}  # by inode, so that a rename does not hide it

    def _point(self, name: str, path: Path, tear: Callable[[], None] = lambda: None) -> None:
        self.calls += 1
        self.log.append(name)
        needs_room = name in ("create", "mkdir", "symlink")
        if self.error:
            if self.calls - 1 == self.at or (self.sticky and self.calls - 1 > self.at and needs_room):
                if self.torn:
                    tear()
                raise OSError(self.error, os.strerror(self.error), str(path))
        elif self.calls - 1 == self.at:
            if self.torn:
                tear()
            if self.power:
                for lost in self.unsynced.values():
                    os.truncate(lost, 0)
            raise Killed

    def create(self, path: Path, data: bytes) -> None:
        self._point("create", path, lambda: super(Faulty, self).create(path, data[: len(data) // 2]))
        super().create(path, data)
        self.unsynced[path.stat().st_ino] = path

    def chmod(self, path: Path, mode: int) -> None:
        self._point("chmod", path)
        super().chmod(path, mode)

    def fsync(self, path: Path) -> None:
        self._point("fsync", path)
        super().fsync(path)
        self.unsynced.pop(path.stat().st_ino, None)

    def fsync_dir(self, path: Path) -> None:
        self._point("fsync_dir", path)
        super().fsync_dir(path)

    def replace(self, source: Path, target: Path) -> None:
        self._point("replace", source)
        super().replace(source, target)
        inode = os.lstat(target).st_ino
        if inode in self.unsynced:
            self.unsynced[inode] = target

    def unlink(self, path: Path) -> None:
        self._point("unlink", path)
        self.unsynced.pop(os.lstat(path).st_ino, None)
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._point("mkdir", path)
        super().mkdir(path)

    def rmdir(self, path: Path) -> None:
        self._point("rmdir", path)
        super().rmdir(path)

    def symlink(self, link: str, path: Path) -> None:
        self._point("symlink", path)
        super().symlink(link, path)


class OtherDevice(Faulty):
    """The git directory and the work tree on two file systems: no rename from one to the other."""

    def replace(self, source: Path, target: Path) -> None:
        if ("gitdir" in source.parts) != ("gitdir" in target.parts):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        super().replace(source, target)


Tree = dict[str, tuple[object, ...]]


class Place:
    """A work tree and its git directory in a fresh folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.gitdir = folder / "root", folder / "gitdir"
        self.root.mkdir(parents=True)
        self.gitdir.mkdir()

    def commit(self, writes: list[Write], fs: FileSystem = DISK) -> int:
        return commit(self.root, self.gitdir, writes, fs=fs)

    def recover(self, fs: FileSystem = DISK) -> Recovered | None:
        return recover(self.root, self.gitdir, fs=fs)

    def look(self) -> Tree:
        """All that is there, but for the staging's folder and graft's own, which an undone set may leave empty."""
        found: Tree = {}
        for base in (self.root, self.gitdir):
            for path in sorted(base.rglob("*")):
                name = f"{base.name}/{path.relative_to(base)}"
                if path.is_symlink():
                    found[name] = ("link", os.readlink(path))
                elif path.is_file():
                    found[name] = ("file", path.read_bytes(), path.stat().st_mode & 0o7777)
                elif name not in ("gitdir/graft", "gitdir/graft/staging"):
                    found[name] = ("dir",)
        return found


def put(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


# ------------------------------------------------------------------ scenarios: prepare a place, give the set


def create_nested(place: Place) -> list[Write]:
    put(place.root / "kept.py", b"kept\n")
    return [
        Write("new.py", b"new\n" * 50),
        Write("pkg/deep/er/mod.py", b"mod\n", mode=0o755),
        Write("pkg/deep/empty", b""),
        Write("graft/ledger.json", b"{}\n", space="git"),
        Write("graft/blobs/aa", b"blob\n", mode=0o444, space="git"),
    ]


def modify(place: Place) -> list[Write]:
    put(place.root / "a.py", b"old a\n" * 40, 0o755)
    put(place.root / "src/b.py", b"old b\n")
    put(place.gitdir / "graft/ledger.json", b"old ledger\n")
    return [
        Write("a.py", b"new a\n" * 60, expect=b"old a\n" * 40),
        Write("src/b.py", b"new b\n"),
        Write("src/b_test.py", b"test\n", expect=None),
        Write("graft/ledger.json", b"new ledger\n", space="git"),
    ]


def modes_and_links(place: Place) -> list[Write]:
    put(place.root / "tool", b"#!/bin/sh\n")
    put(place.root / "sealed", b"ours\n", 0o444)
    os.symlink("old/target", place.root / "moved")
    os.symlink("gone", place.root / "dropped")
    os.symlink("x", place.root / "becomes_file")
    return [
        Write("tool", b"#!/bin/sh\n", mode=0o755),
        Write("sealed", b"ours again\n", ours=True),
        Write("moved", link="new/target", expect=Link("old/target"), ours=True),
        Write("dropped", None, ours=True),
        Write("becomes_file", b"file\n", ours=True),
        Write("fresh/link", link="../tool"),
    ]


def revert(place: Place) -> list[Write]:
    put(place.root / "src/b.py", b"before\n")
    place.commit([Write("src/b.py", b"grafted\n"), Write("pkg/sub/m.py", b"m\n"), Write("pkg/n.py", b"n\n")])
    put(place.root / "pkg/sub/__pycache__/m.cpython-311.pyc", b"code")
    return [Write("src/b.py", b"before\n"), Write("pkg/sub/m.py", None), Write("pkg/n.py", None)]


def small(place: Place) -> list[Write]:
    put(place.root / "a.py", b"old a\n")
    put(place.root / "gone.py", b"old gone\n")
    return [Write("a.py", b"new a\n"), Write("gone.py", None), Write("pkg/new.py", b"new\n")]


SCENARIOS = [create_nested, modify, modes_and_links, revert, small]
CRASHES = {"commit": 0, "errors": 0, "errors in recovery": 0, "double": 0, "other device": 0, "after a user's edit": 0}


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Callable[[], Place]]:
    # A file system in memory where there is one: thousands of syncs on a disk would take minutes and prove no more.
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=base, prefix="graft-test-") as folder:
        numbers = itertools.count()
        yield lambda: Place(Path(folder) / str(next(numbers)))


def whole(place: Place, writes: list[Write], before: Tree, after: Tree) -> None:
    """Right after a death: every file of the set is wholly old or wholly new."""
    now = place.look()
    for write in writes:
        name = f"{'root' if write.space == 'tree' else 'gitdir'}/{write.path}"
        assert now.get(name) in (before.get(name), after.get(name)), name


def outcome(scenario: Callable[[Place], list[Write]], place: Place) -> tuple[Tree, Tree, int]:
    """The trees before and after an undisturbed commit, and how many calls it makes."""
    writes = scenario(place)
    before, fs = place.look(), Faulty()
    place.commit(writes, fs)
    return before, place.look(), fs.calls


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_undisturbed_commit_does_what_was_asked_and_then_nothing(
    scenario: Callable[[Place], list[Write]], places: Callable[[], Place]
) -> None:
    place = places()
    writes = scenario(place)
    assert place.commit(writes) == len(writes)
    for write in writes:
        target = (place.root if write.space == "tree" else place.gitdir) / write.path
        if write.link is not None:
            assert os.readlink(target) == write.link
        elif write.content is None:
            assert not os.path.lexists(target)
        else:
            assert target.read_bytes() == write.content
            assert write.mode is None or target.stat().st_mode & 0o777 == write.mode
    assert not list((place.gitdir / "graft/staging").iterdir())
    fs = Faulty()
    again = [Write(w.path, w.content, w.mode, w.link, w.space, ours=w.ours) for w in writes]
    assert place.commit(again, fs) == 0
    assert place.recover(fs) is None
    assert fs.calls == 0


@pytest.mark.parametrize("kind", ["killed", "torn write", "power cut"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_point(
    scenario: Callable[[Place], list[Write]], kind: str, places: Callable[[], Place]
) -> None:
    before, after, points = outcome(scenario, places())
    seen = set()
    for point in range(points):
        place = places()
        writes = scenario(place)
        fs = Faulty(point, torn=kind != "killed", power=kind == "power cut")
        with pytest.raises(Killed):
            place.commit(writes, fs)
        CRASHES["commit"] += 1
        whole(place, writes, before, after)
        told = place.recover()
        now = place.look()
        assert now in (before, after), (point, fs.log[-1])
        seen.add(now == after)
        if told is not None:
            assert told.outcome == ("finished" if now == after else "undone"), (point, fs.log[-1])
            assert not told.kept
        assert place.recover() is None
        assert place.commit([Write("later", b"1")]) == 1
    assert seen == {True, False}


@pytest.mark.parametrize("scenario", [small, revert, modes_and_links])
def test_killed_at_every_point_on_two_file_systems(
    scenario: Callable[[Place], list[Write]], places: Callable[[], Place]
) -> None:
    place = places()
    writes = scenario(place)
    before, counter = place.look(), OtherDevice()
    place.commit(writes, counter)
    after = place.look()
    assert counter.log.count("create") > _creates(scenario, places())  # the copies beside the targets
    for point in range(counter.calls):
        place = places()
        writes = scenario(place)
        with pytest.raises(Killed):
            place.commit(writes, OtherDevice(point, torn=True, power=True))
        CRASHES["other device"] += 1
        whole(place, writes, before, after)
        place.recover(OtherDevice())
        assert place.look() in (before, after)


def test_going_back_on_two_file_systems_leaves_no_temporary_file(places: Callable[[], Place]) -> None:
    place = places()
    writes = small(place)
    before, counter = place.look(), OtherDevice()
    place.commit(writes, counter)
    went_back = 0
    for point in range(counter.calls):
        place = places()
        writes = small(place)
        with pytest.raises(Killed):
            place.commit(writes, OtherDevice(point, torn=True))
        put(place.root / "gone.py", b"the user's\n")
        told = place.recover(OtherDevice())
        assert not list(place.root.rglob("*.tmp"))
        if told is not None and told.kept:
            went_back += 1
            assert place.look() == before | {"root/gone.py": ("file", b"the user's\n", 0o644)}
    assert went_back > 5


def _creates(scenario: Callable[[Place], list[Write]], place: Place) -> int:
    writes, fs = scenario(place), Faulty()
    place.commit(writes, fs)
    return fs.log.count("create")


def test_killed_again_while_recovering(places: Callable[[], Place]) -> None:
    """Every pair of deaths, and a third call of ``recover`` that must end it."""
    before, after, points = outcome(small, places())
    for first in range(points):
        for second in itertools.count():
            place = places()
            writes = small(place)
            with pytest.raises(Killed):
                place.commit(writes, Faulty(first, torn=True))
            try:
                place.recover(Faulty(second, torn=True))
            except Killed:
                CRASHES["double"] += 1
                whole(place, writes, before, after)
                place.recover()
                assert place.look() in (before, after), (first, second)
                assert place.recover() is None
            else:
                break


def test_killed_while_going_back_from_a_users_edit(places: Callable[[], Place]) -> None:
    """The user edits a target between death and recovery; recovery dies at each point; the edit is never lost."""
    before, after, points = outcome(small, places())
    began = False
    for first in range(points):
        for second in itertools.count():
            place = places()
            writes = small(place)
            with pytest.raises(Killed):
                place.commit(writes, Faulty(first))
            journal = (place.gitdir / "graft/journal.json").exists()
            put(place.root / "a.py", b"the user's\n")
            died = False
            told = None
            try:
                told = place.recover(Faulty(second))
            except Killed:
                died = True
                CRASHES["after a user's edit"] += 1
                assert (place.root / "a.py").read_bytes() == b"the user's\n"
                told = place.recover() or told
            now = place.look()
            assert now.pop("root/a.py")[1] == b"the user's\n"
            rest = [{name: what for name, what in tree.items() if name != "root/a.py"} for tree in (before, after)]
            if journal:
                began = True
                assert now == rest[0], "with a file that is the user's, the others go back"
                if not died:
                    assert told is not None
                    assert told.outcome == "undone"
                    assert told.kept == ("a.py",)
            else:
                assert now in rest
            if not died:
                break
    assert began


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_at_every_point_is_rolled_back_at_once(
    scenario: Callable[[Place], list[Write]], sticky: bool, code: int, places: Callable[[], Place]
) -> None:
    before, after, points = outcome(scenario, places())
    refused = 0
    for point in range(points):
        place = places()
        writes = scenario(place)
        CRASHES["errors"] += 1
        failure: GraftError | None = None
        try:
            count = place.commit(writes, Faulty(point, torn=True, error=code, sticky=sticky))
        except GraftError as error:
            failure = error
        if failure is None:
            assert count == len(writes)
        else:
            refused += 1
            assert os.strerror(code) in str(failure)
            assert failure.remedy
            if "so did undoing it" in str(failure):
                # A full disk while emptied directories are made again: the journal stays and the next run goes on.
                assert sticky
                place.recover()
        now = {name: what for name, what in place.look().items() if "/staging/" not in name}
        assert now == (after if failure is None else before), point
        place.recover()
        assert place.look() in (before, after)
    assert refused > points // 2


def test_an_error_at_every_point_of_recovery_loses_nothing(places: Callable[[], Place]) -> None:
    """A passing error while recovering: whatever is said then, the next call ends it wholly before or wholly after."""
    before, after, points = outcome(revert, places())
    for first in range(points):
        for second in itertools.count():
            place = places()
            writes = revert(place)
            with pytest.raises(Killed):
                place.commit(writes, Faulty(first))
            fs = Faulty(second, error=errno.EIO)
            failed = False
            try:
                place.recover(fs)
            except GraftError:
                failed = True
            place.recover()
            assert place.look() in (before, after), (first, second, failed)
            CRASHES["errors in recovery"] += 1
            if fs.calls <= second:
                break


def test_enough_points_were_tried(record_property: Callable[[str, object], None]) -> None:
    """Runs after the loops above: had the layer been by-passed, they would have been short and green."""
    for name, count in CRASHES.items():
        record_property(f"crash points: {name}", count)
    assert CRASHES["commit"] > 400
    assert CRASHES["errors"] > 800
    assert CRASHES["errors in recovery"] > 350
    assert CRASHES["double"] > 200
    assert CRASHES["other device"] > 80
    assert CRASHES["after a user's edit"] > 200


# ------------------------------------------------------------------ a real death

CHILD = """
import sys
from pathlib import Path
from graft.transaction import Write, commit, recover
root, gitdir = Path(sys.argv[1]), Path(sys.argv[2])
recover(root, gitdir)
print("on", flush=True)
turn = 0
while True:
    turn += 1
    text = str(turn).encode() * 2000
    commit(root, gitdir, [Write(f"d{i}/f{i}.py", text) for i in range(12)] + [Write("graft/l", text, space="git")])
"""


def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    place = Place(tmp_path / "p")
    dice = random.Random(7)
    unfinished = 0
    for _ in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(place.root), str(place.gitdir)],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        time.sleep(dice.uniform(0.01, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        unfinished += place.recover() is not None
        contents = {
            what[1] for what in place.look().values() if what[0] == "file" and b"made" not in bytes(str(what), "utf8")
        }
        assert len(contents) <= 1, "files of two different sets"
        assert not [name for name in place.look() if ".tmp" in name or "/staging/" in name]
    assert unfinished >= 1


# ------------------------------------------------------------------ what is refused, with nothing touched


def refused(place: Place, writes: list[Write], match: str, kind: type[GraftError] = GraftError) -> GraftError:
    before, fs = place.look(), Faulty()
    with pytest.raises(kind, match=match) as caught:
        place.commit([Write("innocent.py", b"1\n"), *writes], fs)
    assert fs.calls == 0
    assert place.look() == before
    return caught.value


@pytest.mark.parametrize(
    ("expect", "match"),
    [(b"other\n", "changed since"), (None, "changed since"), (Link("a"), "changed since")],
)
def test_what_is_not_as_expected_is_refused(
    expect: bytes | Link | None, match: str, places: Callable[[], Place]
) -> None:
    place = places()
    put(place.root / "a.py", b"there\n")
    error = refused(place, [Write("a.py", b"new\n", expect=expect)], match)
    assert error.where == "a.py"
    refused(place, [Write("missing.py", b"new\n", expect=b"there\n")], match)


def test_a_link_is_not_the_bytes_of_its_target(places: Callable[[], Place]) -> None:
    place = places()
    os.symlink("there", place.root / "a.py")
    refused(place, [Write("a.py", b"new\n", expect=b"there", ours=True)], "changed since")


def test_read_only_is_the_users_word_unless_it_is_ours(places: Callable[[], Place]) -> None:
    place = places()
    put(place.root / "sealed.py", b"1\n", 0o444)
    error = refused(place, [Write("sealed.py", b"2\n")], "read-only")
    assert "chmod u+w sealed.py" in error.remedy
    refused(place, [Write("sealed.py", None)], "read-only")
    assert place.commit([Write("sealed.py", b"1\n")]) == 0
    assert place.commit([Write("sealed.py", b"2\n", ours=True)]) == 1
    assert place.look()["root/sealed.py"] == ("file", b"2\n", 0o444)


def test_a_directory_a_pipe_a_link_or_a_file_as_directory_in_the_way(places: Callable[[], Place]) -> None:
    place = places()
    (place.root / "d").mkdir()
    os.mkfifo(place.root / "pipe")
    os.symlink("elsewhere", place.root / "link")
    put(place.root / "file", b"1\n")
    refused(place, [Write("d", b"1\n")], "directory or special file")
    refused(place, [Write("pipe", b"1\n")], "directory or special file")
    refused(place, [Write("link", b"1\n")], "did not make")
    refused(place, [Write("link", link="other")], "did not make")
    refused(place, [Write("file/below.py", b"1\n")], "not a directory")
    assert place.commit([Write("link", link="elsewhere")]) == 0


@pytest.mark.parametrize(
    "path", ["", "/etc/x", "../x", "a/../../x", ".git/config", "sub/.GIT/config", "a//b", "./a", "a\0"]
)
def test_a_path_that_is_none_of_the_checkouts(path: str, places: Callable[[], Place]) -> None:
    refused(places(), [Write(path, b"1\n")], "no path", BadInput)


def test_a_parent_that_is_a_link_leads_no_way_out(places: Callable[[], Place], tmp_path: Path) -> None:
    place = places()
    os.symlink(tmp_path, place.root / "out")
    os.symlink(place.gitdir, place.root / "git")
    refused(place, [Write("out/x.py", b"1\n")], "leads out of the checkout")
    refused(place, [Write("git/config", b"1\n")], "leads out of the checkout")
    (place.root / "real").mkdir()
    os.symlink("real", place.root / "alias")
    assert place.commit([Write("alias/x.py", b"1\n")]) == 1
    assert (place.root / "real/x.py").read_bytes() == b"1\n"
    refused(place, [Write("alias/x.py", b"2\n"), Write("real/x.py", b"3\n")], "written twice", BadInput)


def test_contradictions_and_all_errors_at_once(places: Callable[[], Place]) -> None:
    place = places()
    refused(place, [Write("a", b"1"), Write("a", b"2")], "written twice", BadInput)
    refused(place, [Write("a", b"1"), Write("a/b", b"2")], "lies below", BadInput)
    refused(place, [Write("a", b"1", link="x")], "both", BadInput)
    refused(place, [Write("graft/journal.json", b"1", space="git")], "bookkeeping", BadInput)
    error = refused(place, [Write("a", b"1", expect=b"0"), Write("b", b"1", expect=b"0")], "changed since", Several)
    assert isinstance(error, Several)
    assert [each.where for each in error.errors] == ["a", "b"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user whom permissions bind")
def test_a_directory_that_is_not_writable(places: Callable[[], Place]) -> None:
    place = places()
    put(place.root / "shut/a.py", b"1\n")
    for folder in (place.root.parent.parent, place.root.parent, place.root, place.gitdir):
        folder.chmod(0o777)
    (place.root / "shut").chmod(0o555)
    child = os.fork()
    if child == 0:  # pytest must not run on in the child, whatever happens
        code = 1
        try:
            os.setuid(65534)
            refused(place, [Write("shut/a.py", b"2\n")], "not writable")
            refused(place, [Write("shut/new/b.py", b"2\n")], "not writable")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_target_changed_while_the_set_is_written(places: Callable[[], Place]) -> None:
    """The last look before a rename sees it: everything goes back and the user's bytes stay."""
    place = places()
    writes = modify(place)
    before = place.look()

    class Meddled(FileSystem):
        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            if target.name == "a.py":
                put(place.root / "src/b.py", b"the user's\n")

    with pytest.raises(GraftError, match="changed while graft wrote") as caught:
        place.commit(writes, Meddled())
    assert caught.value.where == "src/b.py"
    assert place.look() == before | {"root/src/b.py": ("file", b"the user's\n", 0o644)}


# ------------------------------------------------------------------ journal and directories


def test_a_damaged_journal_is_named_and_left(places: Callable[[], Place]) -> None:
    place = places()
    fs = Faulty()
    place.commit(small(place), fs)
    after_journal = fs.log.index("replace") + 2
    for damage in (
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"a.py", b"b.py"),
        lambda data: b"{}",
    ):
        place = places()
        with pytest.raises(Killed):
            place.commit(small(place), Faulty(after_journal))
        journal = place.gitdir / "graft/journal.json"
        journal.write_bytes(damage(journal.read_bytes()))
        before = place.look()
        for _ in range(2):
            with pytest.raises(GraftError, match="damaged") as caught:
                place.recover()
            assert caught.value.where == str(journal)
        with pytest.raises(GraftError, match="unfinished"):
            place.commit([Write("x", b"1")])
        assert place.look() == before


def test_a_journal_whose_staging_is_gone_goes_back(places: Callable[[], Place]) -> None:
    place = places()
    fs = Faulty()
    place.commit(small(place), fs)
    last_replace = max(i for i, name in enumerate(fs.log) if name == "mkdir")
    place = places()
    writes = small(place)
    before = place.look()
    with pytest.raises(Killed):
        place.commit(writes, Faulty(last_replace))
    for item in (place.gitdir / "graft/staging").rglob("*.new"):
        item.unlink()
    told = place.recover()
    assert told is not None
    assert (told.outcome, told.kept) == ("undone", ())
    assert place.look() == before


def test_directories_that_we_made_go_when_empty_and_others_stay(places: Callable[[], Place]) -> None:
    place = places()
    (place.root / "theirs").mkdir()
    place.commit([Write("theirs/ours/x.py", b"1\n"), Write("ours/deep/y.py", b"1\n"), Write("ours/z.py", b"1\n")])
    put(place.root / "ours/deep/notes.txt", b"the user's\n")
    place.commit([Write("theirs/ours/x.py", None), Write("ours/deep/y.py", None), Write("ours/z.py", None)])
    assert (place.root / "theirs").is_dir()
    assert not (place.root / "theirs/ours").exists()
    assert (place.root / "ours/deep/notes.txt").read_bytes() == b"the user's\n"
    place.commit([Write("ours/deep/notes.txt", None)])
    assert not (place.root / "ours").exists()
    assert not (place.gitdir / "graft/directories.json").exists()


def test_byte_code_goes_with_its_module_only(places: Callable[[], Place]) -> None:
    place = places()
    place.commit([Write("p/m.py", b"1\n"), Write("q/m.py", b"1\n")])
    put(place.root / "p/__pycache__/m.cpython-310.pyc", b"c")
    put(place.root / "q/__pycache__/m.cpython-310.pyc", b"c")
    put(place.root / "q/__pycache__/users.cpython-310.pyc", b"c")
    place.commit([Write("p/m.py", None), Write("q/m.py", None)])
    assert not (place.root / "p").exists()
    assert len(list((place.root / "q/__pycache__").iterdir())) == 2


def test_fifteen_files_take_little_besides_syncing(places: Callable[[], Place]) -> None:
    class NoSync(FileSystem):
        def fsync(self, path: Path) -> None: ...

        def fsync_dir(self, path: Path) -> None: ...

    place = places()
    for i in range(15):
        put(place.root / f"src/{i}.py", b"line\n" * 4000)
    times = []
    for turn in range(5):
        start = time.perf_counter()
        place.commit([Write(f"src/{i}.py", b"next\n" * (4000 + turn)) for i in range(15)], NoSync())
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
