"""``apply.py`` killed at every call that changes the disk, and the next command, whichever it is, after each of them.

What a process leaves that dies before a call is the disk at that moment. So each command runs once with the disk taken
before every call and amid every write; what is taken is put back, and the next command runs on it. A sample of real
processes that end themselves by SIGKILL shows that both are the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proofs.counts import TRIED
from tests.proofs.disk import Disk, Entry, put_back, take, visible
from tests.proofs.recorder import Point, killed, recorded
from tests.standins.later import go_on
from tests.standins.packs import FILES, NOTES, SPEED
from tests.standins.project import HOOKS, MODEL, SOURCE, Project

VERBS = ("status", "check", "diff", "apply", "revert", "adopt")
LOOKS = ("status", "check", "diff")
MAKERS = Callable[[], Project]


@dataclass
class Scene:
    """A project, the command that is to be killed in it, and what the disk is before."""

    project: Project
    command: tuple[str, ...]

    def run(self) -> None:
        self.project.ok(*self.command)


def clean(make: MAKERS, _: Path) -> Scene:
    project = make()
    project.ok("revert")
    return Scene(project, ("apply", "tool"))


def newer_packs(make: MAKERS, _: Path) -> Scene:
    """Edits and overlays changed, one of each more and one less; an executable; folders that go and come."""
    project = make()
    speed = SPEED.replace("speed: bool = False", "speed: bool = True").replace("hurry(model)", "hurry(model, 2)")
    project.write("patches/tool/speed.py", speed)
    project.write(SOURCE, FILES[SOURCE].replace("True", "2"))
    project.write("overlays/tool/src/tool/speed/deep/more.py", "MORE = 1\n").chmod(0o755)
    notes = NOTES.replace('    common={"shared": "src/tool/shared"},\n', "").replace("NOTES = []", "NOTES = list()")
    project.write("patches/tool/notes.py", notes)
    return Scene(project, ("apply", "tool"))


def over_edits(make: MAKERS, _: Path) -> Scene:
    project = edited(make())
    project.write("patches/tool/speed.py", SPEED.replace("hurry(model)", "hurry(model=model)"))
    project.write(SOURCE, "LIMIT = 1\n\n\n" + FILES[SOURCE])
    return Scene(project, ("apply", "tool"))


def edited(project: Project) -> Project:
    project.edit(MODEL, b"    return value / 2\n", b"    # mine\n    return value / 2\n")
    project.edit("tool/src/tool/config.py", b"rate: float = 0.1", b"rate: float = 0.5")
    project.edit(HOOKS, b"    return model\n", b"    # mine\n    return model\n")
    project.at("tool/src/tool/mine.py").write_bytes(b"MINE = 1\n")
    return project


def links(make: MAKERS, _: Path) -> Scene:
    return Scene(make(), ("apply", "tool", "--link"))


def taken_out(make: MAKERS, _: Path) -> Scene:
    project = make()
    project.edit(MODEL, b"    return value / 2\n", b"    # mine\n    return value / 2\n")
    return Scene(project, ("revert", "tool"))


def adopted(make: MAKERS, _: Path) -> Scene:
    project = edited(make())
    project.edit("tool/src/tool/shared/table.py", b"ROWS = []\n", b"ROWS = [1]\n")
    project.at("tool/src/tool/speed/new.py").write_bytes(b"NEW = 1\n")
    project.write(SOURCE, "LIMIT = 1\n\n\n" + FILES[SOURCE])
    return Scene(project, ("adopt", "tool"))


def upgraded(make: MAKERS, place: Path) -> Scene:
    project = go_on(make(), place / "upstream")
    project.edit(MODEL, b"    return value / 2\n", b"    # mine\n    return value / 2\n")
    project.run("upgrade", "tool", "--to", "v2", "--dry-run")  # fetches; what is killed is the move itself
    return Scene(project, ("upgrade", "tool", "--to", "v2"))


SCENES = [clean, newer_packs, over_edits, links, taken_out, adopted, upgraded]
MOST: Mapping[str, int] = {"clean": 100, "newer_packs": 130, "upgraded": 120}


def rotation(points: Sequence[Point]) -> list[tuple[Point, str]]:
    """Every point with a verb, in turn, so that each kind of call meets every verb; rare kinds meet several a point."""
    by_kind: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_kind[point.kind].append(point)
    return [
        (own[i % len(own)], VERBS[i % len(VERBS)]) for own in by_kind.values() for i in range(max(len(own), len(VERBS)))
    ]


@dataclass(frozen=True)
class Whole:
    """A state that a kill may end in, and what each verb makes of it when nothing was killed."""

    disk: Disk
    ends: Mapping[str, tuple[int, dict[str, Entry]]]


@dataclass
class Proof:
    scene: Scene

    def __post_init__(self) -> None:
        self.root = self.scene.project.root
        before = take(self.root)
        with recorded(self.root) as run:
            self.scene.run()
        after = take(self.root)
        self.points = run.points
        self.states = {"before": self._whole(before), "after": self._whole(after)}
        put_back(self.root, before)

    def see(self, disk: Disk) -> dict[str, Entry]:
        seen = visible(disk, pins=self.scene.command[0] == "upgrade")
        return {name: entry for name, entry in seen.items() if not (entry[0] == "folder" and "/graft/" in name)}

    def _whole(self, disk: Disk) -> Whole:
        ends = {}
        for verb in VERBS:
            put_back(self.root, disk)
            ran = self.scene.project.run(verb, "tool")
            ends[verb] = (ran.code, self.see(take(self.root)))
        return Whole(disk, ends)

    def half_written(self, disk: Disk) -> list[str]:
        """Every file that is neither as it was before nor as it is after, but for what graft keeps aside meanwhile."""
        old, new = (self.see(self.states[name].disk) for name in ("before", "after"))
        now = {
            name: entry
            for name, entry in self.see(disk).items()
            if entry[0] != "folder" and "/staging/" not in name and "/graft/journal" not in name
        }
        gone = (old.keys() & new.keys()) - self.see(disk).keys()
        return sorted(gone) + [name for name, entry in now.items() if entry not in (old.get(name), new.get(name))]

    def whole(self, verb: str, code: int, now: Mapping[str, Entry], *others: str) -> list[str]:
        """The states from which ``verb`` (or one of ``others``, before it) comes to where the disk is now."""
        names = [name for name, state in self.states.items() if (code, now) == state.ends[verb]]
        return names + [name for name, state in self.states.items() for other in others if now == state.ends[other][1]]


@pytest.mark.parametrize("make", SCENES, ids=lambda scene: scene.__name__)
def test_killed_anywhere_the_next_command_makes_it_whole(
    make: Callable[[MAKERS, Path], Scene], make_project: MAKERS, tmp_path: Path
) -> None:
    proof = Proof(make(make_project, tmp_path))
    project, root = proof.scene.project, proof.root
    before, after = (proof.see(proof.states[name].disk) for name in ("before", "after"))
    assert before != after
    ends: Counter[str] = Counter()
    verbs: dict[str, set[str]] = defaultdict(set)
    wrong = []
    for turn, (point, verb) in enumerate(rotation(proof.points)):
        if half := proof.half_written(point.disk):
            wrong.append(f"call {point.number} ({point.kind}): half-written: {half}")
        put_back(root, point.disk)
        again = None
        if turn % 3:
            ran = project.run(verb, "tool")
        else:  # and the command that recovers is killed as well
            with recorded(root, only=1 + turn // 3 % 40) as second:
                ran = project.run(verb, "tool")
            again = second.points[-1] if second.points else None
        found = proof.whole(verb, ran.code, proof.see(take(root)))
        if not found:
            wrong.append(f"call {point.number} ({point.kind}), then {verb}: neither before nor after\n{ran.said}")
        ends.update(found[:1])
        verbs[point.kind].add(verb)
        if again is not None:
            put_back(root, again.disk)
            ran = project.run("status", "tool")
            if not proof.whole("status", ran.code, proof.see(take(root)), verb):
                at = f"call {point.number} ({point.kind}), then {verb} killed at {again.number} ({again.kind})"
                wrong.append(f"{at}, then status: neither before nor after\n{ran.said}")
            TRIED["again"] += 1
    TRIED["crash"] += len(proof.points)
    assert not wrong, "\n".join(wrong[:5]) + f"\n... {len(wrong)} in all"
    assert len(proof.points) > MOST.get(make.__name__, 60)
    assert {kind for kind, met in verbs.items() if met != set(VERBS)} == set()
    assert min(ends["before"], ends["after"]) > 10


@pytest.mark.parametrize("make", SCENES, ids=lambda scene: scene.__name__)
def test_a_process_that_is_killed_leaves_what_was_recorded(
    make: Callable[[MAKERS, Path], Scene], make_project: MAKERS, tmp_path: Path
) -> None:
    """The same calls at the same disk; the name of a set, which is drawn anew each time, is left out."""
    scene = make(make_project, tmp_path)
    root = scene.project.root
    before = take(root)
    with recorded(root) as run:
        scene.run()
    points = [point for point in run.points if point.kind != "create, torn"]
    sample = points[5 :: len(points) // 8]
    for point in sample:
        put_back(root, before)
        assert killed(point.number, scene.run)
        assert _nameless(take(root)) == _nameless(point.disk), point.kind
        TRIED["kill"] += 1
    put_back(root, before)
    assert not killed(len(points) + 1, scene.run)
    assert visible(take(root)) != visible(before)


def _nameless(disk: Disk) -> list[tuple[str, Entry]]:
    """Every file but the lock, which names a process, with the random name of a set taken out of path and journal."""
    names = {name.split("/staging/")[1].split("/")[0] for name in disk if "/staging/" in name}
    out = []
    for path, (kind, mode, content) in disk.items():
        if path.endswith(("/graft/lock", "/FETCH_HEAD")):
            continue
        if "journal" in path.rsplit("/", 1)[-1] or path.endswith("/finished"):
            content = b""  # holds the set's name and a sum over it
        for name in names:
            path = path.replace(name, "SET")
        out.append((path, (kind, mode, content)))
    return sorted(out)
