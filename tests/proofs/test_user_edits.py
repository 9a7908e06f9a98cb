"""Every line that a user wrote survives every command byte for byte, in order; or it refuses, and touches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from tests.proofs.counts import TRIED
from tests.proofs.disk import put_back, take, visible
from tests.proofs.grafted import EDITED, GRAFTS, OVERLAYS, PACKS, SOURCES, THEIRS, Bench, Moving, known, wanted_lines
from tests.proofs.users import COMMENTS, Deed, User, deeds, lines, same, split
from tests.standins.project import HOOKS, SOURCE, Project
from tests.standins.upstream import TOOL

OWN = ("src/tool/speed/mine.py", "src/tool/mine.txt", "src/tool/notes.py", "docs/deep/mine.md")
"""Files that the user makes; at the third a pack wants one of its own."""

Step: TypeAlias = Deed | tuple[str, tuple[str, ...], int]
SUBSETS = [("speed",), ("notes",), ("swap",), ("notes", "speed"), ("speed", "swap"), ("notes", "swap"), PACKS, PACKS]


def grafts() -> st.SearchStrategy[Step]:
    return st.tuples(st.just("graft"), st.sampled_from(SUBSETS), st.integers(0, 1))


def stories() -> st.SearchStrategy[list[Step]]:
    """A user's deeds before, between and after applying packs, other packs, newer packs and none."""
    some, out = st.lists(deeds(), max_size=2), st.just([("graft", (), 0)])
    parts = st.tuples(some, grafts(), some, st.one_of(grafts(), out), some, out)
    return parts.map(lambda made: [step for part in made for step in (part if isinstance(part, list) else [part])])


class Case:
    """One user and one checkout from the pin on."""

    def __init__(self, bench: Bench, where: Sequence[str] = (*EDITED, *EDITED, *OVERLAYS, *OWN, "README.md")) -> None:
        bench.reset()
        self.bench, self.where = bench, where
        self.user = User(THEIRS | bench.passing)
        self.packs: tuple[str, ...] = ()
        self.version = 0
        self.own: set[str] = set()
        # A file's bytes without a graft, as long as nobody has touched it since.
        self.exact: dict[str, bytes] = dict(TOOL)
        self.ends: Counter[str] = Counter()

    def step(self, step: Step) -> None:
        if isinstance(step, Deed):
            self.deed(step)
        else:
            self.graft(*step[1:])

    def deed(self, deed: Deed) -> None:
        files = self.bench.files()
        here = [path for path in self.where if path in files or path in OWN]
        path = here[deed.file % len(here)]
        if path in OWN and path not in files:
            self.own.add(path)
        self.bench.write(path, self.user.edit(files.get(path, b""), deed))
        if self.packs or path not in TOOL:
            self.exact.pop(path, None)
        else:
            self.exact[path] = self.bench.files()[path]

    def graft(self, packs: tuple[str, ...], version: int) -> None:
        disk, before = self.bench.disk(), self.bench.files()
        errors = self.bench.graft(packs, version)
        after = self.bench.files()
        if errors:
            self.ends["refused"] += 1
            assert self.bench.disk() == disk
            assert refusals_speak(errors, before)
            return
        self.ends["done"] += 1
        self.packs, self.version = packs, version
        for path, content in before.items():
            if path in self.own:
                assert after[path] == content, path
            elif path in OVERLAYS:
                self.overlay(path, content, after.get(path))
            else:
                rest = known(path).rest
                assert same(rest(content), rest(after[path])), f"{path}\n{content!r}\n{after[path]!r}"
        assert after.keys() - before.keys() <= OVERLAYS.keys()
        for path in EDITED:
            found = sorted(code for text, _ in lines(after[path]) if (code := split(text)[0]) in GRAFTS)
            assert found == wanted_lines(path, packs, version), path
        if not packs:
            assert {path: after[path] for path in self.exact} == self.exact
            self.exact.update({path: after[path] for path in TOOL})
            assert not self.bench.ledger.entries
        ledger = self.bench.ledger
        assert self.bench.graft(packs, version) == []
        assert self.bench.files() == after
        assert self.bench.ledger == ledger

    def overlay(self, path: str, before: bytes, after: bytes | None) -> None:
        rest = known(path).rest
        if after is None:  # it goes only as graft wrote it
            assert before in (SOURCES[path, 0], SOURCES[path, 1]), path
            assert OVERLAYS[path][0] not in self.packs
        else:
            assert same(rest(before), rest(after)), f"{path}\n{before!r}\n{after!r}"


def refusals_speak(errors: Sequence[GraftError], files: dict[str, bytes]) -> bool:
    """Whether each names a file that is there; and a collision shows lines of it."""
    for error in errors:
        path = error.where.split(":")[0].split(" (")[0]
        assert path in files, str(error)
        assert error.what
        assert error.remedy or "does not parse" in error.what, str(error)
        if "want the same lines" in error.what:
            shown = [row.split(" | ", 1)[1] for row in error.what.splitlines() if row[:10].strip().isdigit()]
            text = {text.decode("utf-8", "backslashreplace") for text, _ in lines(files[path])}
            assert any(row in text for row in shown) or "nothing after line" in error.what, str(error)
    return True


@pytest.fixture(scope="module")
def bench(make_project: Callable[[], Project]) -> Bench:
    return Bench(make_project())


def proof(cases: int) -> settings:
    # The checkout is put back by hand at the start of every case.
    return settings(max_examples=cases, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


ENDS: Counter[str] = Counter()


@proof(600)
@given(story=stories())
def test_every_line_survives_or_nothing_is_touched(bench: Bench, story: list[Step]) -> None:
    TRIED["property"] += 1
    case = Case(bench)
    for step in story:
        case.step(step)
    ENDS.update(case.ends)


def test_most_of_it_was_done_and_some_refused() -> None:
    """What the property says of commands that were done is empty where all are refused."""
    if not ENDS:
        pytest.skip("the property has not been tried in this run")
    assert ENDS["done"] > 1000
    assert ENDS["refused"] > 100


@proof(150)
@given(
    notes=st.lists(st.lists(deeds(*COMMENTS, comments=True), max_size=4), min_size=3, max_size=3),
    packs=st.lists(st.tuples(st.sampled_from(SUBSETS), st.integers(0, 1)), min_size=2, max_size=2),
)
def test_a_comment_anywhere_is_never_in_the_way(
    bench: Bench, notes: list[list[Deed]], packs: list[tuple[tuple[str, ...], int]]
) -> None:
    """Between any two lines, graft's own included, before and after, and on the way back."""
    TRIED["property"] += 1
    case = Case(bench, EDITED)
    for some, (names, version) in zip(notes, [*packs, ((), 0)], strict=True):
        for deed in some:
            case.deed(deed)
        case.graft(names, version)
    assert case.ends == {"done": 3}


# ------------------------------------------------------------------ upgrade


@pytest.fixture(scope="module")
def moving(make_project: Callable[[], Project], tmp_path_factory: pytest.TempPathFactory) -> Moving:
    return Moving(make_project(), tmp_path_factory.mktemp("later") / "tool")


@proof(200)
@given(
    early=st.lists(deeds(), max_size=2),
    packs=st.sampled_from(SUBSETS),
    late=st.lists(deeds(), max_size=2),
    version=st.integers(0, 1),
    after=st.lists(deeds(), max_size=1),
)
def test_an_upgrade_and_the_way_back_keep_every_line(
    moving: Moving, early: list[Deed], packs: tuple[str, ...], late: list[Deed], version: int, after: list[Deed]
) -> None:
    TRIED["property"] += 1
    where = [*EDITED, *EDITED, "README.md", "scripts/run.sh", *OVERLAYS, OWN[1]]
    case = Case(moving, where)
    for deed in early:
        case.deed(deed)
    case.graft(packs, 0)
    for deed in late:
        case.deed(deed)
    if upgraded(case, packs, version, there=True):
        for deed in after:
            case.deed(deed)
        upgraded(case, packs, 0, there=False)


def upgraded(case: Case, packs: tuple[str, ...], version: int, *, there: bool) -> bool:
    bench = case.bench
    assert isinstance(bench, Moving)
    disk, before = bench.everything(), bench.files()
    errors = bench.upgrade(packs, version, there=there)
    after = bench.files()
    if errors:
        UPGRADES["refused"] += 1
        assert bench.everything() == disk
        assert refusals_speak(errors, before)
        return False
    UPGRADES["done"] += 1
    case.packs, case.version = packs, version
    assert bench.pinned() == bench.target(there=there).commit
    for path, content in before.items():
        if path in case.own:
            assert after[path] == content
        elif path in OVERLAYS:
            case.overlay(path, content, after.get(path))
        elif path in after:
            rest = known(path, bench.passing).rest
            assert same(rest(content), rest(after[path])), f"{path}\n{content!r}\n{after[path]!r}"
        else:  # upstream's deletion, and only of what the user never touched
            assert path not in bench.upstreams(there=there)
            assert content == bench.upstreams(there=not there)[path]
    for path, lines_of in bench.upstreams(there=there).items():
        if path not in EDITED and path not in before and path in after:
            assert after[path] == lines_of
        found = [text for text, _ in lines(after.get(path, b"")) if text in bench.passing]
        assert found == [text for text, _ in lines(lines_of) if text in bench.passing], path
    for path in EDITED:
        found = sorted(code for text, _ in lines(after[path]) if (code := split(text)[0]) in GRAFTS)
        assert found == wanted_lines(path, packs, version), path
    return True


UPGRADES: Counter[str] = Counter()


def test_most_upgrades_were_done_and_some_refused() -> None:
    if not UPGRADES:
        pytest.skip("the property has not been tried in this run")
    assert min(UPGRADES["done"], UPGRADES["refused"]) > 30


# ------------------------------------------------------------------ adopt


def test_an_edit_that_is_brought_home_is_there_once(applied: Project) -> None:
    """Found by the property below: the source's own change stood beside the user's line, which then came twice."""
    mine = applied.edit(HOOKS, b"    model.quick", b"    # u1\n    model.quick")
    newer = SOURCES["src/tool/speed/hooks.py", 1]
    applied.write(SOURCE, newer)
    applied.ok("adopt", "tool")
    both = newer.replace(b"    model.quick", b"    # u1\n    model.quick")
    assert mine.count(b"# u1") == both.count(b"# u1") == 1
    assert (applied.root / SOURCE).read_bytes() == both
    assert applied.read(HOOKS) == both


def test_an_edit_that_the_user_brought_home_himself_is_no_edit(applied: Project) -> None:
    """revert asked for adopt, and adopt had nothing to bring: there was no way on but to delete the file."""
    mine = applied.edit(HOOKS, b"    model.quick", b"    # u1\n    model.quick")
    applied.write(SOURCE, mine)
    applied.ok("revert", "tool")
    assert applied.is_pristine()
    assert (applied.root / SOURCE).read_bytes() == mine


@pytest.fixture(scope="module")
def anew(make_project: Callable[[], Project]) -> Callable[[], Project]:
    """Gives the one project of this module, as it was when its packs had just been applied."""
    project = make_project()
    kept = take(project.root)

    def again() -> Project:
        put_back(project.root, kept)
        return project

    return again


@proof(100)
@given(work=st.lists(deeds(), min_size=1, max_size=4), newer=st.booleans(), then=st.sampled_from(["apply", "revert"]))
def test_adopt_brings_every_line_home_or_nothing_is_touched(
    anew: Callable[[], Project], work: list[Deed], newer: bool, then: str
) -> None:
    TRIED["property"] += 1
    project = anew()
    user = User(THEIRS)
    new = "src/tool/speed/mine.py"
    for deed in work:
        path = [*OVERLAYS, new][deed.file % (len(OVERLAYS) + 1)]
        file = project.at(f"tool/{path}")
        file.write_bytes(user.edit(file.read_bytes() if file.exists() else b"", deed))
    homes = {path: source for path, (_, source) in OVERLAYS.items()}
    if project.at(f"tool/{new}").exists():
        homes[new] = f"overlays/tool/{new}"
    if newer:
        for path in OVERLAYS:
            project.write(homes[path], SOURCES[path, 1])
    before, mine = take(project.root), {path: project.read(f"tool/{path}") for path in homes}
    ran = project.run("adopt", "tool")
    if ran.code:
        assert ran.code == 1
        assert "want the same lines" in ran.out
        assert newer
        assert visible(take(project.root)) == visible(before)
        return
    for path, content in mine.items():
        home = (project.root / homes[path]).read_bytes()
        assert same(known(path).rest(content), known(path).rest(home))
        if not newer:
            assert home == content
        if path != new and project.read(f"tool/{path}") != content:
            assert project.read(f"tool/{path}") == home
    taken = take(project.root)
    project.ok(then, "tool")
    for path in mine:
        if then == "apply":
            assert project.read(f"tool/{path}") == (project.root / homes[path]).read_bytes()
        else:
            assert not project.at(f"tool/{path}").exists()
    overlays = {name: entry for name, entry in take(project.root).items() if name.startswith("overlays/")}
    assert overlays == {name: entry for name, entry in taken.items() if name.startswith("overlays/")}
