"""What graft remembers: the same bytes for the same memory, nothing kept that no entry names."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.errors import GraftError
from graft.ledger import SCHEMA, Entry, Ledger, read_blob
from graft.transaction import commit


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def gitdir(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "git").mkdir()
    return tmp_path / "git"


def save(ledger: Ledger, gitdir: Path, *contents: bytes) -> int:
    return commit(gitdir.parent / "tree", gitdir, ledger.writes(gitdir, contents))


def sample() -> Ledger:
    return Ledger(
        upstream="up",
        commit="c" * 40,
        tree="t" * 40,
        packs={"p": "1", "a": "2"},
        entries={
            "src/b.py": Entry("edit", sha(b"before\n"), sha(b"after\n"), 0o644, packs=("p", "a")),
            "new/ü.py": Entry("overlay", None, sha(b"over\n"), 0o755, source="overlays/up/new/ü.py", packs=("p",)),
            "new/link": Entry("overlay", None, sha(b"../b"), 0o777, link="../b", source="overlays/up/new/link"),
        },
    )


CONTENTS = (b"before\n", b"after\n", b"over\n")


def test_nothing_there_is_an_empty_ledger(gitdir: Path) -> None:
    assert Ledger.load(gitdir) == Ledger()
    assert save(Ledger(), gitdir) == 0


def test_what_is_saved_is_loaded_and_saving_it_again_writes_nothing(gitdir: Path) -> None:
    ledger = sample()
    assert save(ledger, gitdir, *CONTENTS, b"named by nobody\n") == 4  # ledger.json and three blobs; a link needs none
    loaded = Ledger.load(gitdir)
    ledger.entries["src/b.py"] = Entry("edit", sha(b"before\n"), sha(b"after\n"), 0o644, packs=("a", "p"))
    assert loaded == ledger
    assert [read_blob(gitdir, sha(data)) for data in CONTENTS] == list(CONTENTS)
    shuffled = Ledger(
        ledger.upstream, ledger.commit, ledger.tree, {"a": "2", "p": "1"}, dict(reversed(ledger.entries.items()))
    )
    assert shuffled.dump() == loaded.dump()
    assert save(shuffled, gitdir, *CONTENTS) == 0
    assert save(loaded, gitdir) == 0


def test_blobs_go_with_the_last_entry_that_names_them(gitdir: Path) -> None:
    ledger = sample()
    save(ledger, gitdir, *CONTENTS)
    (gitdir / "graft/blobs/README").write_text("not ours")
    del ledger.entries["src/b.py"]
    assert save(ledger, gitdir) == 3
    assert {item.name for item in (gitdir / "graft/blobs").iterdir()} == {sha(b"over\n"), "README"}
    ledger.entries.clear()
    assert save(ledger, gitdir) == 2
    assert not (gitdir / "graft/ledger.json").exists()
    assert {item.name for item in (gitdir / "graft/blobs").iterdir()} == {"README"}


def test_a_content_that_is_neither_given_nor_kept_is_refused(gitdir: Path) -> None:
    with pytest.raises(GraftError, match="neither kept nor given") as caught:
        sample().writes(gitdir, CONTENTS[:2])
    assert caught.value.where == "new/ü.py"


def test_a_damaged_blob_is_named_and_healed_by_the_next_write(gitdir: Path) -> None:
    save(sample(), gitdir, *CONTENTS)
    blob = gitdir / "graft/blobs" / sha(b"after\n")
    assert blob.stat().st_mode & 0o777 == 0o444
    blob.chmod(0o644)
    blob.write_bytes(b"aft")
    with pytest.raises(GraftError, match="damaged") as caught:
        read_blob(gitdir, sha(b"after\n"))
    assert caught.value.where == str(blob)
    assert caught.value.remedy
    assert save(sample(), gitdir, *CONTENTS) == 1
    assert read_blob(gitdir, sha(b"after\n")) == b"after\n"
    blob.unlink()
    with pytest.raises(GraftError, match="gone"):
        read_blob(gitdir, sha(b"after\n"))


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(text: bytes) -> bytes:
        data = json.loads(text)
        change(data)
        return json.dumps(data).encode()

    return apply


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text[:-20], id="cut"),
        pytest.param(lambda text: b"", id="empty"),
        pytest.param(lambda text: b"\xff\xfe\x00", id="no text"),
        pytest.param(lambda text: b"[]", id="a list"),
        pytest.param(damage(lambda data: data.pop("entries")), id="no entries"),
        pytest.param(damage(lambda data: data.update(schema=0)), id="schema 0"),
        pytest.param(damage(lambda data: data.update(packs=[1])), id="packs are a list"),
        pytest.param(damage(lambda data: data.update(commit=None)), id="no commit"),
        pytest.param(damage(lambda data: data["entries"]["src/b.py"].update(kind="x")), id="unknown kind"),
        pytest.param(damage(lambda data: data["entries"]["src/b.py"].update(wrote="../../x")), id="digest a path"),
        pytest.param(damage(lambda data: data["entries"]["src/b.py"].update(mode="9")), id="mode not octal"),
        pytest.param(damage(lambda data: data["entries"].update({"../x": data["entries"]["src/b.py"]})), id="way out"),
    ],
)
def test_a_damaged_ledger_is_an_error_with_a_remedy(change: Callable[[bytes], bytes], gitdir: Path) -> None:
    save(sample(), gitdir, *CONTENTS)
    path = gitdir / "graft/ledger.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(GraftError, match="damaged") as caught:
        Ledger.load(gitdir)
    assert caught.value.where == str(path)
    assert "git diff" in caught.value.remedy


def test_a_newer_schema_asks_for_an_update(gitdir: Path) -> None:
    save(sample(), gitdir, *CONTENTS)
    path = gitdir / "graft/ledger.json"
    path.write_bytes(damage(lambda data: data.update(schema=SCHEMA + 1, entries="whatever that is"))(path.read_bytes()))
    with pytest.raises(GraftError, match="newer graft") as caught:
        Ledger.load(gitdir)
    assert "update" in caught.value.remedy


def test_loading_is_quick(gitdir: Path) -> None:
    content = b"x\n"
    entries = {
        f"pkg/sub/file_{i}.py": Entry("overlay", None, sha(content), 0o644, source=f"o/f_{i}.py", packs=("p",))
        for i in range(200)
    }
    save(Ledger("up", "c" * 40, "t" * 40, {"p": "1"}, entries), gitdir, content)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        Ledger.load(gitdir)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
