"""Three-way undo and redo by whole lines and exact bytes: what graft did is taken out, what the user did stays.

git merge-file and diff3 call an edit on the line next to ours a conflict. Here two changes collide only where they want
the same lines: half-open intervals of the common base that overlap, or two insertions at one point. Where lines repeat,
several alignments are equally short; one that leaves graft's own lines in one piece is preferred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from graft.errors import Collision

Line = bytes
_MAX_EDITS = 1000  # beyond it the exact diff (quadratic in the number of edits) gives way to difflib's
_MAX_PLACES = 8  # candidates looked at for one hunk of ours when it does not sit where the first diff says
_SHOWN_PLACES, _SHOWN_LINES, _SHOWN_CHARS = 3, 6, 110


@dataclass(frozen=True)
class Hunk:
    """Lines ``lo:hi`` of the base became lines ``new_lo:new_hi`` of the other side."""

    lo: int
    hi: int
    new_lo: int
    new_hi: int


def unapply(read: bytes, wrote: bytes, now: bytes, *, where: str = "") -> bytes:
    """Take what graft did (``read`` to ``wrote``) out of ``now``, which is ``wrote`` with the user's own edits.

    Every byte that the user inserted, changed or deleted stays so; an edit on the line directly above or below graft's
    is no collision, and neither is graft's line deleted together with others.

    Raises:
        Collision: the user's edit touches the very lines that graft added or replaced; it shows them.
    """
    return merge(wrote, now, read, labels=("graft wrote", "in the checkout", "before graft"), where=where)


def merge(
    base: bytes,
    ours: bytes,
    theirs: bytes,
    *,
    labels: tuple[str, str, str] = ("base", "in the checkout", "new"),
    where: str = "",
) -> bytes:
    """Both the change from ``base`` to ``ours`` (the user's) and that from ``base`` to ``theirs`` (graft's).

    Args:
        base, ours, theirs: any bytes; lines end in LF, CR LF or a lone CR.
        labels: what to call the three in a collision.
        where: the file's name for a collision.

    Raises:
        Collision: both change the same lines differently; it shows them with line numbers of ``ours``.
    """
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    texts = [text.splitlines(keepends=True) for text in (base, ours, theirs)]
    keys = _keys(texts)
    base_keys, our_keys, their_keys = keys
    our_hunks, their_hunks = diff(base_keys, our_keys), diff(base_keys, their_keys)
    clusters = _clusters(our_hunks, their_hunks)
    moved = _moves(clusters, our_hunks, keys)
    if hit := {hunk for cluster in clusters if _torn(cluster, keys) or cluster in moved for hunk in cluster.theirs}:
        our_hunks, their_hunks = _realign(base_keys, our_keys, their_keys, our_hunks, their_hunks, hit)
        clusters = _clusters(our_hunks, their_hunks)
        moved = _moves(clusters, our_hunks, keys)
    if torn := [c for c in clusters if (_torn(c, keys) and not _only_deletes(c)) or c in moved]:
        raise Collision(
            "your edit and graft's want the same lines\n" + _excerpt(torn, texts, labels),
            where=where,
            remedy="move your edit to lines of its own, or undo it there, then run again; nothing was touched",
        )
    return _assemble(texts, our_hunks, their_hunks, clusters)


def diff(old: Sequence[Line], new: Sequence[Line]) -> list[Hunk]:
    """The shortest edit script from ``old`` to ``new`` as hunks in order, with at least one equal line between two."""
    lo = 0
    while lo < min(len(old), len(new)) and old[lo] == new[lo]:
        lo += 1
    end = 0
    while end < min(len(old), len(new)) - lo and old[-1 - end] == new[-1 - end]:
        end += 1
    a, b = old[lo : len(old) - end], new[lo : len(new) - end]
    if not a and not b:
        return []
    if not a or not b:
        return [Hunk(lo, lo + len(a), lo, lo + len(b))]
    pairs = _myers(a, b)
    if pairs is None:
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        pairs = [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
    hunks, x, y = [], 0, 0
    for i, j in [*pairs, (len(a), len(b))]:
        if i > x or j > y:
            hunks.append(Hunk(lo + x, lo + i, lo + y, lo + j))
        x, y = i + 1, j + 1
    return hunks


def _myers(a: Sequence[Line], b: Sequence[Line]) -> list[tuple[int, int]] | None:
    """Index pairs of a longest common subsequence (Myers 1986, greedy); None beyond ``_MAX_EDITS`` edits."""
    n, m = len(a), len(b)
    reach = {1: 0}
    trail: list[dict[int, int]] = []
    for edits in range(min(n + m, _MAX_EDITS) + 1):
        trail.append(dict(reach) if edits < 2 else {k: reach[k] for k in range(-edits + 1, edits, 2)})
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
            x = reach[k + 1] if down else reach[k - 1] + 1
            while x < n and x - k < m and a[x] == b[x - k]:
                x += 1
            reach[k] = x
            if x >= n and x - k >= m:
                return _retrace(trail, n, m)
    return None


def _retrace(trail: list[dict[int, int]], n: int, m: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    x, y = n, m
    for edits in range(len(trail) - 1, 0, -1):
        reach, k = trail[edits], x - y
        down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
        start = reach[k + 1] if down else reach[k - 1]
        from_x, from_y = start, start - (k + 1 if down else k - 1)
        while x > from_x + (not down) and y > from_y + down:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = from_x, from_y
    while x and y:
        x, y = x - 1, y - 1
        pairs.append((x, y))
    return pairs[::-1]


def _keys(texts: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The lines as they are compared: a last line without an end is the same line as one that has one."""
    end = next((ending for text in texts for line in text if (ending := _ending(line))), b"\n")
    return [[line if _ending(line) else line + end for line in text] for text in texts]


def _ending(line: Line) -> bytes:
    return b"\r\n" if line.endswith(b"\r\n") else line[-1:] if line.endswith((b"\n", b"\r")) else b""


@dataclass(frozen=True)
class _Cluster:
    """Hunks of both sides that overlap, and the lines ``lo:hi`` of the base that they span together."""

    lo: int
    hi: int
    ours: tuple[Hunk, ...]
    theirs: tuple[Hunk, ...]


def _overlap(a: Hunk, b: Hunk) -> bool:
    if a.lo == a.hi and b.lo == b.hi:
        return a.lo == b.lo
    if a.lo == a.hi or b.lo == b.hi:
        return b.lo < a.lo == a.hi < b.hi or a.lo < b.lo == b.hi < a.hi
    return max(a.lo, b.lo) < min(a.hi, b.hi)


def _clusters(ours: Sequence[Hunk], theirs: Sequence[Hunk]) -> list[_Cluster]:
    """The groups of hunks that overlap, directly or through one another."""
    parent = {(side, i): (side, i) for side, hunks in enumerate((ours, theirs)) for i in range(len(hunks))}

    def top(node: tuple[int, int]) -> tuple[int, int]:
        while parent[node] != node:
            node = parent[node]
        return node

    start = 0
    for i, a in enumerate(ours):
        while start < len(theirs) and theirs[start].hi < a.lo:
            start += 1
        for j in range(start, len(theirs)):
            if theirs[j].lo > a.hi:
                break
            if _overlap(a, theirs[j]):
                parent[top((1, j))] = top((0, i))
    groups: dict[tuple[int, int], tuple[list[Hunk], list[Hunk]]] = {}
    for node in parent:
        groups.setdefault(top(node), ([], []))[node[0]].append((ours, theirs)[node[0]][node[1]])
    found = [
        _Cluster(min(h.lo for h in a + b), max(h.hi for h in a + b), tuple(a), tuple(b))
        for a, b in groups.values()
        if a and b
    ]
    return sorted(found, key=lambda cluster: (cluster.lo, cluster.hi))


def _side(hunks: Sequence[Hunk], lo: int, hi: int) -> tuple[int, int]:
    """The lines of one side that stand for lines ``lo:hi`` of the base; its first hunk tells the shift before."""
    return hunks[0].new_lo - (hunks[0].lo - lo), hunks[-1].new_hi + (hi - hunks[-1].hi)


def _torn(cluster: _Cluster, keys: Sequence[Sequence[Line]]) -> bool:
    """Whether the two sides want different lines there."""
    a = slice(*_side(cluster.ours, cluster.lo, cluster.hi))
    b = slice(*_side(cluster.theirs, cluster.lo, cluster.hi))
    return keys[1][a] != keys[2][b]


def _only_deletes(cluster: _Cluster) -> bool:
    return all(hunk.new_lo == hunk.new_hi for hunk in cluster.ours + cluster.theirs)


def _moves(clusters: Sequence[_Cluster], ours: Sequence[Hunk], keys: Sequence[Sequence[Line]]) -> list[_Cluster]:
    """Where the user took lines out that graft takes out too, but put one of them in elsewhere.

    Undoing would leave graft's line at its new place as if it were the user's own.
    """
    typed = {line for hunk in ours for line in keys[1][hunk.new_lo : hunk.new_hi] if re.search(rb"\w", line)}
    return [
        cluster
        for cluster in clusters
        if _only_deletes(cluster) and any(typed.intersection(keys[0][hunk.lo : hunk.hi]) for hunk in cluster.theirs)
    ]


def _slides(
    hunk: Hunk, before: Hunk | None, after: Hunk | None, base: Sequence[Line], new: Sequence[Line]
) -> list[Hunk]:
    """The places to which a pure insertion or deletion may move between equal lines, nearest first."""
    if hunk.lo != hunk.hi and hunk.new_lo != hunk.new_hi:
        return [hunk]
    lines, lo, hi = (base, hunk.lo, hunk.hi) if hunk.lo != hunk.hi else (new, hunk.new_lo, hunk.new_hi)
    room_up = hunk.lo - (before.hi if before else 0)
    room_down = (after.lo if after else len(base)) - hunk.hi
    found = {0: hunk}
    for sign, room in ((-1, room_up), (1, room_down)):
        for step in range(1, min(room, _MAX_PLACES) + 1):
            moved = (lines[lo - step], lines[hi - step]) if sign < 0 else (lines[lo + step - 1], lines[hi + step - 1])
            if moved[0] != moved[1]:
                break
            by = sign * step
            found[by] = Hunk(hunk.lo + by, hunk.hi + by, hunk.new_lo + by, hunk.new_hi + by)
    return [found[by] for by in sorted(found, key=lambda by: (abs(by), by))]


def _realign(
    base: Sequence[Line],
    ours: Sequence[Line],
    theirs: Sequence[Line],
    our_hunks: list[Hunk],
    their_hunks: list[Hunk],
    hit: set[Hunk],
) -> tuple[list[Hunk], list[Hunk]]:
    """Another pair of equally short diffs in which graft's hunks are not touched by the user's, as far as there is one.

    A hunk of graft's that collides (one of ``hit``) is looked for in ``ours`` as one piece, at every place to which it
    may slide; a chain of such anchors is taken if the user's diff is no longer for it.
    """
    shift = _Shift(our_hunks)
    # One state: where the base and ``ours`` have been aligned so far, what it cost, and the choices that led there.
    states: dict[tuple[int, int], tuple[int, int, list[Hunk], list[Hunk]]] = {(0, 0): (0, 0, [], [])}
    for i, hunk in enumerate(their_hunks):
        before, after = their_hunks[i - 1] if i else None, their_hunks[i + 1] if i + 1 < len(their_hunks) else None
        choices: list[tuple[Hunk, int]] = []
        free = not any(_overlap(other, hunk) for other in our_hunks)
        if hunk.lo != hunk.hi and (free or hunk in hit):
            for slid in [hunk] if free else _slides(hunk, before, after, base, theirs):
                choices += [(slid, place) for place in _places(base[slid.lo : slid.hi], ours, shift.of(slid.lo), free)]
        grown = {key: (cost, missed + 1, a, [*b, hunk]) for key, (cost, missed, a, b) in states.items()}
        for slid, place in choices:
            end = (slid.hi, place + slid.hi - slid.lo)
            for (x, y), (cost, missed, a, b) in states.items():
                if slid.lo < x or place < y or (b and slid.lo < b[-1].hi):
                    continue
                part = _moved(diff(base[x : slid.lo], ours[y:place]), x, y)
                option = (cost + _cost(part), missed, a + part, [*b, slid])
                if end not in grown or option[:2] < grown[end][:2]:
                    grown[end] = option
        states = grown
    finished = []
    for (x, y), (cost, missed, a, b) in states.items():
        part = _moved(diff(base[x:], ours[y:]), x, y)
        finished.append((cost + _cost(part), missed, a + part, b))
    cost, _, a, b = min(finished, key=lambda option: option[:2])
    if cost > _cost(our_hunks):
        a, b = our_hunks, list(their_hunks)
    for i, hunk in enumerate(b):
        slides = _slides(hunk, b[i - 1] if i else None, b[i + 1] if i + 1 < len(b) else None, base, theirs)
        b[i] = next((slid for slid in slides if not any(_overlap(other, slid) for other in a)), hunk)
    return a, b


@dataclass(frozen=True)
class _Shift:
    hunks: Sequence[Hunk]

    def of(self, line: int) -> int:
        """About where line ``line`` of the base is on the other side."""
        last = next((hunk for hunk in reversed(self.hunks) if hunk.lo <= line), None)
        return line if last is None else max(last.new_lo, last.new_hi + line - last.hi)


def _places(block: Sequence[Line], text: Sequence[Line], near: int, there_only: bool) -> list[int]:
    size = len(block)
    if there_only:
        return [near] if text[near : near + size] == block else []
    found = [i for i in range(len(text) - size + 1) if text[i] == block[0] and text[i : i + size] == block]
    return sorted(found, key=lambda place: abs(place - near))[:_MAX_PLACES]


def _moved(hunks: Sequence[Hunk], x: int, y: int) -> list[Hunk]:
    return [Hunk(hunk.lo + x, hunk.hi + x, hunk.new_lo + y, hunk.new_hi + y) for hunk in hunks]


def _cost(hunks: Sequence[Hunk]) -> int:
    return sum(hunk.hi - hunk.lo + hunk.new_hi - hunk.new_lo for hunk in hunks)


def _assemble(
    texts: Sequence[Sequence[Line]], ours: Sequence[Hunk], theirs: Sequence[Hunk], clusters: Sequence[_Cluster]
) -> bytes:
    base = texts[0]
    clustered = {id(hunk) for cluster in clusters for hunk in cluster.ours + cluster.theirs}
    # (lo, hi, side, its lines); at one point an insertion comes before what replaces the lines below it.
    parts: list[tuple[int, int, int, Sequence[Line]]] = []
    for side, hunks in ((1, ours), (2, theirs)):
        parts += [(h.lo, h.hi, side, texts[side][h.new_lo : h.new_hi]) for h in hunks if id(h) not in clustered]
    for cluster in clusters:
        lo, hi = _side(cluster.ours, cluster.lo, cluster.hi)
        parts.append((cluster.lo, cluster.hi, 1, [] if _only_deletes(cluster) else texts[1][lo:hi]))
    out: list[tuple[Line, bytes]] = []  # a line and the end it takes when another one follows
    x = our_shift = their_shift = 0
    shifts = _Shifts(ours, theirs)
    for lo, hi, _, lines in [*sorted(parts, key=lambda part: part[:3]), (len(base), len(base), 0, ())]:
        for i in range(x, lo):
            our_shift, their_shift = shifts.at(i)
            out.append(_kept(base[i], texts[1][i + our_shift], texts[2][i + their_shift]))
        out += [(line, b"") for line in lines]
        x = max(x, hi)
    spare = next((end for text in texts for line in text if (end := _ending(line))), b"\n")
    last = len(out) - 1
    return b"".join(line + (b"" if i == last or _ending(line) else end or spare) for i, (line, end) in enumerate(out))


class _Shifts:
    """How far an unchanged line of the base has moved on either side; asked in ascending order."""

    def __init__(self, *sides: Sequence[Hunk]) -> None:
        self._left = [list(reversed(hunks)) for hunks in sides]
        self._shift = [0 for _ in sides]

    def at(self, line: int) -> tuple[int, int]:
        for side, hunks in enumerate(self._left):
            while hunks and hunks[-1].hi <= line:
                hunk = hunks.pop()
                self._shift[side] = hunk.new_hi - hunk.hi
        return self._shift[0], self._shift[1]


def _kept(base: Line, ours: Line, theirs: Line) -> tuple[Line, bytes]:
    """A line that nobody changed, but for whether it ends: that is merged as everything else is."""
    chosen = theirs if ours == base else ours
    return chosen, _ending(base) or _ending(ours) or _ending(theirs)


def _excerpt(torn: Sequence[_Cluster], texts: Sequence[Sequence[Line]], labels: tuple[str, str, str]) -> str:
    rows = []
    for cluster in torn[:_SHOWN_PLACES]:
        spans = ((cluster.lo, cluster.hi), *(_side(h, cluster.lo, cluster.hi) for h in (cluster.ours, cluster.theirs)))
        for side in (1, 0, 2):
            lo, hi = spans[side]
            rows.append(f"  {labels[side]}, " + (f"lines {lo + 1}-{hi}:" if hi > lo else f"nothing after line {lo}"))
            rows += [f"    {i + 1:5} | {_shown(texts[side][i])}" for i in range(lo, min(hi, lo + _SHOWN_LINES))]
            if hi - lo > _SHOWN_LINES:
                rows.append(f"          ... {hi - lo - _SHOWN_LINES} more lines")
    if len(torn) > _SHOWN_PLACES:
        rows.append(f"  ... and {len(torn) - _SHOWN_PLACES} more places")
    return "\n".join(rows)


def _shown(line: Line) -> str:
    text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace").replace("\0", "\\0")
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 4] + " ..."
