"""Undo and redo of graft's edits around a user's, checked against a model that knows whose each line is."""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import Collision
from graft.merge import diff, merge, unapply

PROPERTY = settings(max_examples=400, deadline=None, derandomize=True)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# ------------------------------------------------------------------ the cases that a person meets

READ = text("def f():", "    a()", "    b()", "    return 1")
WROTE = text("def f():", "    a()", "    ours()", "    b()", "    return 1")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(WROTE, READ, id="untouched"),
        pytest.param(
            WROTE.replace(b"    ours()\n", b"    u()\n    ours()\n"),
            READ.replace(b"    b()", b"    u()\n    b()"),
            id="inserted directly above",
        ),
        pytest.param(
            WROTE.replace(b"    ours()\n", b"    ours()\n    u()\n"),
            READ.replace(b"    b()", b"    u()\n    b()"),
            id="inserted directly below",
        ),
        pytest.param(WROTE.replace(b"a()", b"a(7)"), READ.replace(b"a()", b"a(7)"), id="changed directly above"),
        pytest.param(WROTE.replace(b"b()", b"b(7)"), READ.replace(b"b()", b"b(7)"), id="changed directly below"),
        pytest.param(
            WROTE.replace(b"a()", b"a(7)").replace(b"b()", b"b(7)"),
            READ.replace(b"a()", b"a(7)").replace(b"b()", b"b(7)"),
            id="changed on both sides",
        ),
        pytest.param(WROTE.replace(b"    a()\n", b""), READ.replace(b"    a()\n", b""), id="deleted directly above"),
        pytest.param(WROTE.replace(b"    b()\n", b""), READ.replace(b"    b()\n", b""), id="deleted directly below"),
        pytest.param(WROTE.replace(b"    ours()\n", b""), READ, id="took our line out by hand"),
        pytest.param(
            WROTE.replace(b"    a()\n    ours()\n    b()\n", b""),
            READ.replace(b"    a()\n    b()\n", b""),
            id="deleted the block around it",
        ),
        pytest.param(
            WROTE.replace(b"    ours()\n", b"    ours()\n    ours()\n"),
            READ.replace(b"    b()", b"    ours()\n    b()"),
            id="doubled our line: the copy is the user's",
        ),
        pytest.param(WROTE + b"tail", READ + b"tail", id="appended without a final newline"),
    ],
)
def test_undo_leaves_the_users_edit(now: bytes, expected: bytes) -> None:
    assert unapply(READ, WROTE, now) == expected


def test_a_change_of_our_own_line_collides_and_is_shown() -> None:
    now = b"# mine\n" + WROTE.replace(b"ours()", b"ours(3)")
    with pytest.raises(Collision) as caught:
        unapply(READ, WROTE, now, where="pkg/mod.py")
    shown = str(caught.value)
    assert shown.startswith("pkg/mod.py: ")
    assert "    4 |     ours(3)" in shown  # the line number of the file as it is in the checkout
    assert "    3 |     ours()" in shown
    assert caught.value.remedy


def test_a_line_in_the_middle_of_our_block_collides() -> None:
    wrote = READ.replace(b"    b()\n", b"    o1()\n    o2()\n    b()\n")
    with pytest.raises(Collision):
        unapply(READ, wrote, wrote.replace(b"    o2()", b"    u()\n    o2()"))


def test_a_replaced_line_is_restored_beside_an_adjacent_edit_and_kept_from_an_edit_on_it() -> None:
    wrote = READ.replace(b"    b()", b"    c()")
    assert unapply(READ, wrote, wrote.replace(b"a()", b"z()")) == READ.replace(b"a()", b"z()")
    with pytest.raises(Collision):
        unapply(READ, wrote, wrote.replace(b"    c()\n", b""))


def test_a_collision_is_short_however_much_collides() -> None:
    read = text(*(f"line {i}" for i in range(400)))
    wrote = text(*(f"ours {i} " + "x" * 500 for i in range(400)))
    with pytest.raises(Collision) as caught:
        unapply(read, wrote, wrote.replace(b"ours", b"user"))
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("blank", [0, 1])
def test_a_blank_line_deleted_next_to_ours_is_not_taken_for_ours(blank: int) -> None:
    """Two equally short diffs tell which blank line graft added; the one that leaves graft's lines alone is right."""
    read = text("a", "", "b")
    wrote = text("a", "", "ours", "", "b")
    now = text("a", "ours", "", "b") if blank == 0 else text("a", "", "ours", "b")
    assert unapply(read, wrote, now) == text("a", "b")


def test_the_first_line_of_our_block_doubled_stays_outside_of_it() -> None:
    read, wrote = text("a", "b"), text("a", "o1", "o2", "b")
    assert unapply(read, wrote, text("a", "o1", "o1", "o2", "b")) == text("a", "o1", "b")
    assert unapply(read, wrote, text("a", "o1", "o2", "o2", "b")) == text("a", "o2", "b")


@pytest.mark.parametrize(
    ("read", "wrote", "now", "expected"),
    [
        pytest.param(b"a\r\nb\r\n", b"a\r\no\r\nb\r\n", b"a\r\no\r\nb\r\nu\r\n", b"a\r\nb\r\nu\r\n", id="CR LF"),
        pytest.param(b"a\rb\r", b"a\ro\rb\r", b"u\ra\ro\rb\r", b"u\ra\rb\r", id="lone CR"),
        pytest.param(b"a\nb", b"a\nb\no\n", b"a\nb\no\nu\n", b"a\nb\nu\n", id="we ended the last line, user below"),
        pytest.param(b"a\nb", b"a\nb\no", b"x\na\nb\no", b"x\na\nb", id="never a final newline"),
        pytest.param(b"a\nb\n", b"a\no\nb\n", b"a\no\nb", b"a\nb", id="user took the final newline away"),
        pytest.param(b"a\nb", b"a\no\nb", b"a\no\nb\n", b"a\nb\n", id="user added the final newline"),
        pytest.param(b"a\nb", b"a\nb\no", b"a\nb\no\nu\n", b"a\nb\nu\n", id="user ended our last line, went on"),
        pytest.param(b"", b"o\n", b"o\nu\n", b"u\n", id="from an empty file"),
        pytest.param(b"", b"o\n", b"", b"", id="emptied by the user"),
        pytest.param(
            b"\0\xff\n\x80", b"\0\xff\no\n\x80", b"\xfe\n\0\xff\no\n\x80", b"\xfe\n\0\xff\n\x80", id="no text"
        ),
        pytest.param(
            b"a\x0bb\x0cc\n", b"a\x0bb\x0cc\no\n", b"a\x0bX\x0cc\no\n", b"a\x0bX\x0cc\n", id="VT, FF end no line"
        ),
    ],
)
def test_bytes_are_exact(read: bytes, wrote: bytes, now: bytes, expected: bytes) -> None:
    assert unapply(read, wrote, now) == expected


def test_our_line_moved_by_the_user_is_never_left_behind() -> None:
    read, wrote = text("a", "b", "c", "d"), text("a", "ours()", "b", "c", "d")
    assert unapply(read, wrote, text("a", "b", "ours()", "c", "d")) == read  # by one line: as well, the user moved b
    with pytest.raises(Collision, match="ours"):
        unapply(read, wrote, text("a", "b", "c", "d", "ours()"))
    found = unapply(
        text(")", "y", "x"),
        text(")", "y", "o1()", "x", "o2()"),
        text("x", "else:", ")", "y", "x", "y", "o1()", "o2()"),
    )
    assert found == text("x", "else:", ")", "y", "x", "y")


def test_a_blank_line_of_ours_that_the_user_took_out_is_not_taken_out_twice() -> None:
    assert unapply(text("a", "", "b"), text("a", "", "", "b"), text("a", "", "b", "u")) == text("a", "", "b", "u")


def test_merge_keeps_both_takes_the_same_once_and_shows_the_rest() -> None:
    base = text("a", "b", "c", "d")
    assert merge(base, text("a", "u", "c", "d"), text("a", "b", "t", "d")) == text("a", "u", "t", "d")
    both = merge(base, text("u", "a", "x", "c", "d"), text("a", "x", "c", "d", "t"))
    assert both == text("u", "a", "x", "c", "d", "t")
    with pytest.raises(Collision, match="the overlay") as caught:
        merge(base, text("a", "u", "c", "d"), text("a", "t", "c", "d"), labels=("graft wrote", "here", "the overlay"))
    assert "| u" in str(caught.value)
    assert "| t" in str(caught.value)
    with pytest.raises(Collision):  # two insertions at one point have no order
        merge(base, text("a", "u", "b", "c", "d"), text("a", "t", "b", "c", "d"))


# ------------------------------------------------------------------ laws, over random texts

ANY_BYTES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.tuples(st.sampled_from([b"", b"a", b"b", b"ab", b"\0"]), ENDS), max_size=12).map(
        lambda rows: b"".join(line + end for line, end in rows)
    ),
    st.text(alphabet="ab\n\r", max_size=24).map(str.encode),
)


@PROPERTY
@given(ANY_BYTES, ANY_BYTES)
def test_identity_laws(a: bytes, b: bytes) -> None:
    assert unapply(a, b, b) == a
    assert merge(a, a, b) == b
    assert merge(a, b, a) == b
    assert merge(a, b, b) == b


def _longest_common(a: list[bytes], b: list[bytes]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        previous = row
        row = [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[j]))
    return row[-1]


@PROPERTY
@given(*[st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=24)] * 2)
def test_the_diff_is_an_edit_script_and_the_shortest(a: list[bytes], b: list[bytes]) -> None:
    hunks, rebuilt, x = diff(a, b), [], 0
    for hunk in hunks:
        assert hunk.lo >= x
        rebuilt += [*a[x : hunk.lo], *b[hunk.new_lo : hunk.new_hi]]
        assert len(rebuilt) == hunk.new_hi
        x = hunk.hi
    assert [*rebuilt, *a[x:]] == b
    edits = sum(hunk.hi - hunk.lo + hunk.new_hi - hunk.new_lo for hunk in hunks)
    assert edits == len(a) + len(b) - 2 * _longest_common(a, b)


class Model:
    """A text as lines that know whose they are: ("read", bytes), ("ours", bytes) or ("user", bytes)."""

    def __init__(self, draw: Callable[..., Any], *, repeated: bool) -> None:
        self.draw, self.serial = draw, 0
        self.end: bytes = draw(ENDS)
        self.pool = [b"", b"    x = 1", b")"] if repeated else None
        self.lines: list[tuple[str, bytes]] = [("read", self.fresh(b"r")) for _ in range(draw(st.integers(0, 12)))]

    def joined(self) -> bytes:
        return b"".join(line for _, line in self.lines)

    def fresh(self, prefix: bytes) -> bytes:
        if self.pool is not None and self.draw(st.booleans()):
            common: bytes = self.draw(st.sampled_from(self.pool))
            return common + self.end
        self.serial += 1
        return prefix + str(self.serial).encode() + self.end

    def graft(self) -> tuple[bytes, bytes]:
        """Insert and replace as graft does; returns what was read and what was written."""
        self.blocks: dict[int, list[bytes]] = {}  # block number -> the lines that it replaced
        read = b"".join(line for _, line in self.lines)
        for number in range(self.draw(st.integers(1, 4))):
            at = self.draw(st.integers(0, len(self.lines)))
            inside = 0 < at < len(self.lines) and self.lines[at - 1][0] != "read" and self.lines[at][0] != "read"
            if inside:
                continue
            taken = 0
            if at < len(self.lines) and self.lines[at][0] == "read" and self.draw(st.booleans()):
                taken = 1
            self.blocks[number] = [line for _, line in self.lines[at : at + taken]]
            block = [(f"ours {number}", self.fresh(b"o")) for _ in range(self.draw(st.integers(1, 3)))]
            self.lines[at : at + taken] = block
        return read, b"".join(line for _, line in self.lines)

    def user(self, *, touch_ours: bool) -> bytes:
        """Insert, change and delete as a user does; graft's blocks are left in one piece unless told otherwise."""
        for _ in range(self.draw(st.integers(0, 6))):
            at = self.draw(st.integers(0, len(self.lines)))
            line = ("user", self.fresh(b"u"))
            what = self.draw(st.sampled_from(["insert", "change", "delete"]))
            if what == "insert":
                # Between two blocks of graft's that touch is, as far as bytes can tell, the middle of one block.
                torn = 0 < at < len(self.lines) and all(o.startswith("ours") for o, _ in self.lines[at - 1 : at + 1])
                if touch_ours or not torn:
                    self.lines.insert(at, line)
            elif at < len(self.lines) and (touch_ours or not self.lines[at][0].startswith("ours")):
                self.lines[at : at + 1] = [line] if what == "change" else []
        return self.joined()

    def undone(self) -> bytes:
        out: list[bytes] = []
        done: set[str] = set()
        for owner, line in self.lines:
            if not owner.startswith("ours"):
                out.append(line)
            elif owner not in done:
                done.add(owner)
                out += self.blocks[int(owner.split()[1])]
        return b"".join(out)


COUNTS = {"exact": 0, "survived": 0, "collided": 0, "repeated": 0}


@PROPERTY
@given(st.data())
def test_an_edit_off_our_lines_never_collides_and_is_undone_exactly(data: st.DataObject) -> None:
    """With lines that do not repeat there is one right answer, and the model knows it."""
    model = Model(data.draw, repeated=False)
    read, wrote = model.graft()
    now = model.user(touch_ours=False)
    assert unapply(read, wrote, now) == model.undone()
    COUNTS["exact"] += 1


@PROPERTY
@given(st.data())
def test_whatever_the_user_does_it_survives_or_collides(data: st.DataObject) -> None:
    model = Model(data.draw, repeated=False)
    read, wrote = model.graft()
    now = model.user(touch_ours=True)
    if data.draw(st.booleans()):
        now = now.removesuffix(model.end)
    try:
        result = unapply(read, wrote, now)
    except Collision:
        COUNTS["collided"] += 1
        return
    lines = result.splitlines()
    assert [line for line in lines if line[:1] == b"u"] == [line for line in now.splitlines() if line[:1] == b"u"]
    assert not [line for line in lines if line[:1] == b"o"]
    deleted = {line for line in wrote.splitlines() if line[:1] == b"r"} - set(now.splitlines())
    assert not deleted & set(lines)
    COUNTS["survived"] += 1


@PROPERTY
@given(st.data())
def test_repeated_lines_are_counted_right(data: st.DataObject) -> None:
    """Where lines repeat, which copy is whose cannot be told; how many there are can: |now| - |ours| + |replaced|."""
    model = Model(data.draw, repeated=True)
    read, wrote = model.graft()
    now = model.user(touch_ours=False)
    try:
        result = unapply(read, wrote, now)
    except Collision:
        return
    unique = [line for line in model.undone().splitlines() if line[:1] in (b"u", b"r") and line[1:].isdigit()]
    assert [line for line in result.splitlines() if line[:1] in (b"u", b"r") and line[1:].isdigit()] == unique
    assert not [line for line in result.splitlines() if line[:1] == b"o"]
    COUNTS["repeated"] += 1


@PROPERTY
@given(st.data())
def test_merge_of_disjoint_edits_has_both(data: st.DataObject) -> None:
    base = [f"{i}".encode() + b"\n" for i in range(data.draw(st.integers(2, 14)))]
    owner = [data.draw(st.sampled_from(["keep", "ours", "theirs"])) for _ in base]
    change = [data.draw(st.sampled_from([b"", b"changed\n", b"one\ntwo\n"])) for _ in base]

    def side(*who: str) -> bytes:
        return b"".join(
            (name[0].encode() + str(i).encode() + new if new else b"") if name in who else line
            for i, (line, name, new) in enumerate(zip(base, owner, change, strict=True))
        )

    assert merge(b"".join(base), side("ours"), side("theirs")) == side("ours", "theirs")


def test_the_properties_saw_every_outcome() -> None:
    """Runs last in this file: a generator that only ever collides, or never does, would prove nothing."""
    assert COUNTS["exact"] >= 300
    assert COUNTS["survived"] >= 100
    assert COUNTS["collided"] >= 50
    assert COUNTS["repeated"] >= 200


def test_a_rewritten_large_file_is_answered_in_time() -> None:
    letters = string.ascii_letters
    base = text(*(f"{letters[i % 52]} {i}" for i in range(3000)))
    wrote = base.replace(b"a 52\n", b"a 52\nours\n")
    now = text(*(f"{letters[i % 51]} {i * 7}" for i in range(3000)))
    start = time.perf_counter()
    with pytest.raises(Collision):
        unapply(base, wrote, now)
    assert time.perf_counter() - start < 5
