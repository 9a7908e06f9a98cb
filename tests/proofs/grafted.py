"""One checkout of the stand-in, its packs in an older and a newer version, and the graft done to it in process."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from graft import actions
from graft.checkout import Checkout
from graft.errors import GraftError, Several
from graft.ledger import Ledger
from graft.move import Target, move, plan_move
from graft.plan import LoadedPack, load_packs, plan
from graft.report import Report
from tests.proofs.disk import Entry, put_back, take, visible
from tests.proofs.users import Known
from tests.standins.packs import FILES, NOTES, SPEED
from tests.standins.project import SOURCE, Project
from tests.standins.upstream import TOOL, commit_files, sh

SWAP = """
from graft.pack import In, Pack, add_keyword, add_parameter, replace

PACK = Pack(
    upstream="tool",
    name="swap",
    why="writes lines anew",
    edits=[
        In("src/tool/model.py", "halve", replace("return value / 2", with_="return value * 0.5", why="quicker")),
        In("src/tool/model.py", "Model.__init__", add_parameter("quick=False", why="a switch")),
        In("src/tool/train.py", "report", add_keyword("print(...)", add="flush=True", why="seen at once")),
    ],
)
"""
NEW = {
    "patches/tool/speed.py": SPEED.replace("hurry(model)", "hurry(model, 2)")
    .replace("speed: bool = False", "speed: bool = True")
    .replace("import hurry", "import hurry, slow"),
    "patches/tool/notes.py": NOTES.replace("NOTES = []", "NOTES = list()"),
    "patches/tool/swap.py": SWAP.replace("flush=True", "end=''"),
    SOURCE: '"""Hooks."""\ndef hurry(model):\n    model.quick = 2\n    return model\n',
    "overlays/tool/src/tool/notes.py": "LATE = 1\ndef read(model):\n    return model.note\nSLOW = 2",
}
PACKS = ("notes", "speed", "swap")

# Written out by hand, and checked against upstream's files below.
ADDED: Mapping[tuple[str, int], Mapping[str, Sequence[bytes]]] = {
    ("speed", 0): {
        "src/tool/model.py": [b"from .speed.hooks import hurry", b"    hurry(model)"],
        "src/tool/config.py": [b"    speed: bool = False"],
        "src/tool/train.py": [b"\t\tmodel.seen(loss)"],
    },
    ("speed", 1): {
        "src/tool/model.py": [b"from .speed.hooks import hurry, slow", b"    hurry(model, 2)"],
        "src/tool/config.py": [b"    speed: bool = True"],
        "src/tool/train.py": [b"\t\tmodel.seen(loss)"],
    },
    ("notes", 0): {"src/tool/model.py": [b"        self.note = scaled"], "src/tool/data.py": [b"NOTES = []"]},
    ("notes", 1): {"src/tool/model.py": [b"        self.note = scaled"], "src/tool/data.py": [b"NOTES = list()"]},
    ("swap", 0): {
        "src/tool/model.py": [b"    return value * 0.5", b"    def __init__(self, size, quick=False):"],
        "src/tool/train.py": [b"\tprint(step, loss, flush=True)"],
    },
    ("swap", 1): {
        "src/tool/model.py": [b"    return value * 0.5", b"    def __init__(self, size, quick=False):"],
        "src/tool/train.py": [b"\tprint(step, loss, end='')"],
    },
}
REWRITTEN = {
    b"    return value * 0.5": b"    return value / 2",
    b"    def __init__(self, size, quick=False):": b"    def __init__(self, size):",
    b"\tprint(step, loss, flush=True)": b"\tprint(step, loss)",
    b"\tprint(step, loss, end='')": b"\tprint(step, loss)",
}
GRAFTS = {text for files in ADDED.values() for texts in files.values() for text in texts}
EDITED = sorted({path for files in ADDED.values() for path in files})
OVERLAYS: Mapping[str, tuple[str, str]] = {
    "src/tool/speed/__init__.py": ("speed", "overlays/tool/src/tool/speed/__init__.py"),
    "src/tool/speed/hooks.py": ("speed", SOURCE),
    "src/tool/notes.py": ("notes", "overlays/tool/src/tool/notes.py"),
    "src/tool/shared/table.py": ("notes", "overlays/common/shared/table.py"),
}
"""Where each overlay file lands: its pack and its source."""
SOURCES = {
    (path, version): (NEW if version and source in NEW else FILES)[source].encode()
    for path, (_, source) in OVERLAYS.items()
    for version in (0, 1)
}
_DIFFERENT = {
    path: {
        text
        for version in (0, 1)
        for text in SOURCES[path, version].splitlines()
        if text and text not in SOURCES[path, 1 - version].splitlines()
    }
    for path in OVERLAYS
}

THEIRS = GRAFTS.union(*_DIFFERENT.values())
"""Lines that are graft's; a user of the model changes and deletes them, and does not copy them."""
assert all(text not in content.splitlines() for text in GRAFTS for content in TOOL.values())


def known(path: str, passing: Collection[bytes] = ()) -> Known:
    """Whose the lines of a file are; ``passing`` are those of upstream that an upgrade changes."""
    if path in OVERLAYS:
        return Known({*_DIFFERENT[path], *passing})
    return Known({*(GRAFTS - REWRITTEN.keys()), *passing}, REWRITTEN)


def wanted_lines(path: str, packs: Sequence[str], version: int) -> list[bytes]:
    return sorted(text for pack in packs for text in ADDED[pack, version].get(path, ()))


class Bench:
    """A stand-in checkout that is put back to the pin between the cases."""

    passing: frozenset[bytes] = frozenset()
    """Lines of upstream that only one of its commits has."""

    def __init__(self, project: Project) -> None:
        project.write("patches/tool/swap.py", SWAP)
        project.lock(tool=["speed", "notes", "swap"], other=["tiny"])
        project.ok("revert")
        self.project, self.root = project, project.at("tool")
        opened = actions.Project.open(project.root)
        self.upstream = opened.lock.select(["tool"])[0]
        self.gitdir = project.gitdir("tool")
        self.versions: list[dict[str, LoadedPack]] = []
        kept = {name: (project.root / name).read_bytes() for name in NEW}
        self.versions.append(self._load())
        for name, text in NEW.items():
            project.write(name, text)
        self.versions.append(self._load())
        for name, content in kept.items():
            project.write(name, content)
        self.tracked = self.checkout().tracked
        self._clean = take(self.root), take(self.gitdir)

    def _load(self) -> dict[str, LoadedPack]:
        return {loaded.pack.name: loaded for loaded in load_packs(self.project.root, self.upstream, PACKS)}

    def checkout(self) -> Checkout:
        return Checkout(self.project.root, self.root, self.gitdir, self.upstream)

    def reset(self) -> None:
        put_back(self.root, self._clean[0])
        put_back(self.gitdir, self._clean[1])

    def graft(self, packs: Sequence[str], version: int) -> list[GraftError]:
        """What apply (or, with fewer packs, revert) does to a checkout; the errors, and then nothing is written."""
        checkout = self.checkout()
        checkout.__dict__["tracked"] = self.tracked
        report = Report("tool", self.upstream.path, self.upstream.commit, self.upstream.tree, "MIT")
        try:
            made = plan(checkout, [self.versions[version][name] for name in sorted(packs)])
            actions.carry_out(checkout, made, report, write=True)
        except GraftError as error:
            return [error]
        return report.errors

    @property
    def ledger(self) -> Ledger:
        return Ledger.load(self.gitdir)

    def files(self) -> dict[str, bytes]:
        return {
            name: content for name, (kind, _, content) in take(self.root).items() if kind == "file" and name != ".git"
        }

    def disk(self) -> tuple[dict[str, Entry], dict[str, Entry]]:
        return take(self.root), {name: entry for name, entry in take(self.gitdir).items() if name != "graft/lock"}

    def write(self, name: str, content: bytes) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


LATER: Mapping[str, bytes | None] = {
    "src/tool/model.py": TOOL["src/tool/model.py"].replace(b"    # compiled", b"    warm(model)\n    # compiled"),
    "src/tool/config.py": TOOL["src/tool/config.py"].replace(b"size: int = 4", b"size: int = 8"),
    "src/tool/data.py": TOOL["src/tool/data.py"].replace(b"    names = []", b"    path = str(path)\n    names = []"),
    "README.md": b"# tool\nsecond\n",
    "docs/new.md": b"new\n",
    "scripts/run.sh": None,
}
"""What upstream's next commit makes of its files."""


class Moving(Bench):
    """The same with a later commit of its upstream at hand; ``place`` is where that is made."""

    passing = frozenset(
        [b"    warm(model)", b"    size: int = 4", b"    size: int = 8", b"    path = str(path)", b"second"]
    )

    def __init__(self, project: Project, place: Path) -> None:
        super().__init__(project)
        pin = project.pins["tool"]
        shutil.copytree(pin.place, place)
        sh("rm", "-q", "scripts/run.sh", cwd=place)
        later = commit_files(place, {path: content for path, content in LATER.items() if content is not None})
        tree = sh("rev-parse", "HEAD^{tree}", cwd=place)
        sh("fetch", "-q", str(place), "main", cwd=self.root)
        sh("add", "upstream.lock", cwd=project.root)
        sh("update-index", "--add", "--cacheinfo", f"160000,{pin.commit},upstreams/tool", cwd=project.root)
        sh("commit", "-qm", "start", cwd=project.root)
        self._targets = Target("main", pin.commit, pin.tree, "here"), Target("main", later, tree, "here")
        self._kept = take(project.root)

    def reset(self) -> None:
        put_back(self.project.root, self._kept)

    def target(self, *, there: bool) -> Target:
        return self._targets[there]

    def pinned(self) -> str:
        head = sh("rev-parse", "HEAD", cwd=self.root)
        lock = actions.Project.open(self.project.root).lock.select(["tool"])[0]
        assert lock.commit == head == self.ledger.commit or not self.ledger.entries
        return head

    def upstreams(self, *, there: bool) -> dict[str, bytes]:
        files = {**TOOL, **(LATER if there else {})}
        return {path: content for path, content in files.items() if content is not None}

    def everything(self) -> dict[str, Entry]:
        return visible(take(self.project.root), pins=True)

    def upgrade(self, packs: Sequence[str], version: int, *, there: bool) -> list[GraftError]:
        """What ``upgrade --to`` does once the commit is fetched."""
        project = actions.Project.open(self.project.root)
        upstream = project.lock.select(["tool"])[0]
        checkout = Checkout(project.root, self.root, self.gitdir, upstream)
        target = self.target(there=there)
        try:
            made = plan_move(project, checkout, target, [self.versions[version][name] for name in sorted(packs)])
            if not made.errors:
                move(project, checkout, target, made)
        except GraftError as error:
            return list(error.errors) if isinstance(error, Several) else [error]
        return made.errors
