"""All edits of some packs on one tree: moves, fights, proofs, and that the order of packs does not matter."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import pytest

from graft.errors import BadInput
from graft.pack import (
    Ensure,
    In,
    Pack,
    add_field,
    add_import,
    add_keyword,
    add_parameter,
    after,
    before,
    either,
    ensure,
    into_dict,
    replace,
)
from graft.rewrite import Rewrite, State, rewrite
from graft.tree import definition_of

W = "for the test"

LOADER = b'''"""Loads."""

import os

from .patcher import patch


def load_model(args):
    model = build(args)
    model = wrap(model, args)
    return model


class Trainer:
    def step(self):
        self.optimizer.step()
'''


class Files:
    """A tree in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def defining(self, name: str) -> list[str]:
        return sorted(path for path, text in self.files.items() if definition_of(name).search(text))


def pack(*places: In, name: str = "p", ensures: tuple[Ensure, ...] = ()) -> Pack:
    return Pack(upstream="u", name=name, why=W, edits=places, ensures=ensures)


def states(result: Rewrite) -> list[str]:
    return [outcome.state.value for outcome in result.outcomes]


HOOK = In(
    "src/a/loader.py",
    "load_model",
    add_import("from ..hooks import attach", why=W),
    after("$m = wrap($m, ...)", add="attach($m)", why=W),
)


def test_applies_and_then_is_there() -> None:
    made = rewrite(Files({"src/a/loader.py": LOADER}), [pack(HOOK)])
    assert states(made) == ["applied", "applied"]
    assert made.contents["src/a/loader.py"] == LOADER.replace(
        b"import patch\n", b"import patch\nfrom ..hooks import attach\n"
    ).replace(b"args)\n    return", b"args)\n    attach(model)\n    return")
    again = rewrite(Files(made.contents), [pack(HOOK)])
    assert states(again) == ["already applied"] * 2
    assert again.contents == made.contents


def test_a_definition_that_moved_is_followed_and_its_imports_point_the_same_way() -> None:
    made = rewrite(Files({"src/a/loader.py": b"x = 1\n", "src/a/b/c.py": LOADER}), [pack(HOOK)])
    assert states(made) == ["applied", "applied"]
    assert {outcome.moved_from for outcome in made.outcomes} == {"src/a/loader.py"}
    text = made.contents["src/a/b/c.py"]
    assert b"\nfrom ...hooks import attach\n" in text
    assert b"    attach(model)\n" in text
    assert rewrite(Files({**made.contents, "src/a/loader.py": b""}), [pack(HOOK)]).contents == made.contents


def test_a_definition_in_two_other_files_is_lost_with_both_named() -> None:
    made = rewrite(Files({"b.py": LOADER, "c.py": LOADER}), [pack(HOOK)])
    assert states(made) == ["lost", "lost"]
    assert "b.py, c.py" in made.outcomes[0].detail


def test_a_lost_anchor_comes_with_candidates() -> None:
    place = In("src/a/loader.py", "load_model", after("$m = wrap($m, config, args)", add="attach($m)", why=W))
    (outcome,) = rewrite(Files({"src/a/loader.py": LOADER}), [pack(place)]).outcomes
    assert outcome.state is State.LOST
    assert outcome.candidates[0].code == "model = wrap(model, args)"
    assert outcome.candidates[0].line == 10


def test_the_order_of_packs_does_not_matter() -> None:
    packs = [
        pack(HOOK, name="b"),
        pack(In("src/a/loader.py", "load_model", after("$m = wrap($m, ...)", add="log($m)", why=W)), name="a"),
        pack(In("src/a/loader.py", "load_model", before("return model", add="check(model)", why=W)), name="c"),
    ]
    results = {
        tuple(rewrite(Files({"src/a/loader.py": LOADER}), order).contents.items())
        for order in itertools.permutations(packs)
    }
    assert len(results) == 1
    ((_, text),) = results.pop()
    assert b"    log(model)\n    attach(model)\n    check(model)\n    return model\n" in text
    assert set(states(rewrite(Files({"src/a/loader.py": text}), packs))) == {"already applied"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            replace("model = build(args)", with_="model = mine(args)", why=W),
            after("model = build(args)", add="x()", why=W),
        ),
        (replace("build(args)", with_="mine(args)", why=W), replace("$m = build($a)", with_="$m = yours($a)", why=W)),
        (after("model = build(args)", add="x()", why=W), after("$m = build(args)", add="x()", why=W)),
        (add_keyword("build(...)", add="k=1", why=W), add_keyword("build(args)", add="k=2", why=W)),
        (add_parameter("k: int = 1", why=W), add_parameter("k: int = 2", why=W)),
        (add_keyword("build($x)", add="k=1", why=W), after("model = build(args)", add="x()", why=W)),
    ],
)
def test_two_packs_that_fight_for_one_anchor(one, other) -> None:
    packs = [
        pack(In("src/a/loader.py", "load_model", edit), name=name) for name, edit in (("left", one), ("right", other))
    ]
    (error,) = rewrite(Files({"src/a/loader.py": LOADER}), packs).failures
    assert isinstance(error, BadInput)
    assert re.search("left: .*right: .*fight for one anchor", error.what)
    assert error.where.startswith("src/a/loader.py:")


def test_one_import_serves_two_packs() -> None:
    packs = [
        pack(HOOK, name="a"),
        pack(In("src/a/loader.py", "Trainer", add_import("from ..hooks import attach", why=W)), name="b"),
    ]
    text = rewrite(Files({"src/a/loader.py": LOADER}), packs).contents["src/a/loader.py"]
    assert text.count(b"from ..hooks import attach") == 1


def test_dead_code_fails() -> None:
    place = In("src/a/loader.py", "load_model", after("return model", add="attach(model)", why=W))
    (outcome,) = rewrite(Files({"src/a/loader.py": LOADER}), [pack(place)]).outcomes
    assert outcome.state is State.FAILED
    assert "always leaves" in outcome.detail


def test_what_does_not_parse_afterwards_fails() -> None:
    place = In("a.py", "A", add_field("x: int = 0", why=W))
    made = rewrite(Files({"a.py": b"class A:\n  y: int = 1\n"}), [pack(place)])
    assert states(made) == ["applied"]
    broken = In("a.py", "f", after("x = (yield)", add="return 1\n", why=W), after("y", add="nonlocal_ = 1", why=W))
    assert states(rewrite(Files({"a.py": b"def f():\n    x = (yield)\n    y\n"}), [pack(broken)]))[1] == "failed"


def test_post_conditions() -> None:
    good = ensure("src/a/loader.py", "load_model", "attach(...)", why=W)
    bad = ensure("src/a/loader.py", "load_model", "attach(...)", why="twice", times=2)
    assert not rewrite(Files({"src/a/loader.py": LOADER}), [pack(HOOK, ensures=(good,))]).failures
    (failure,) = rewrite(Files({"src/a/loader.py": LOADER}), [pack(HOOK, ensures=(bad,))]).failures
    assert "holds 1 times, 2 wanted (twice)" in failure.what


def test_alternatives_by_version() -> None:
    edit = either(
        {
            "v2": after("$m = wrap($m, args, mode)", add="attach($m, mode)", why=W),
            "v1": after("$m = wrap($m, args)", add="attach($m)", why=W),
        },
        why=W,
    )
    place = In("src/a/loader.py", "load_model", edit)
    newer = LOADER.replace(b"wrap(model, args)", b"wrap(model, args, mode)")
    for text, added in ((LOADER, b"attach(model)\n"), (newer, b"attach(model, mode)\n")):
        made = rewrite(Files({"src/a/loader.py": text}), [pack(place)])
        assert states(made) == ["applied"]
        assert added in made.contents["src/a/loader.py"]
        assert states(rewrite(Files(made.contents), [pack(place)])) == ["already applied"]


def test_a_file_that_cannot_be_read_is_lost_and_named() -> None:
    made = rewrite(Files({"src/a/loader.py": LOADER + b"# \xff\n"}), [pack(HOOK)])
    assert states(made) == ["lost", "lost"]
    assert "src/a/loader.py:17" in made.outcomes[0].detail


@pytest.mark.parametrize("path", ["../x.py", "/x.py", "-x.py", ".git/config", "a\\b.py", "", "a/../../b.py", "C:/x.py"])
def test_paths_that_leave_the_checkout_are_refused(path: str) -> None:
    with pytest.raises(BadInput, match="no path inside a checkout"):
        In(path, "f", after("a", add="b", why=W))


def test_two_packs_that_want_another_field_or_entry_of_one_name() -> None:
    files = Files({"a.py": b"class A:\n    y: int = 1\n\n\ndef f():\n    return {'a': 1}\n"})
    pairs = [
        ("A", add_field("x: int = 1", why=W), add_field("x: int = 2", why=W)),
        ("f", into_dict("{'a': 1}", add="'k': 1", why=W), into_dict("{'a': 1}", add="'k': 2", why=W)),
    ]
    for definition, one, other in pairs:
        packs = [pack(In("a.py", definition, one), name="l"), pack(In("a.py", definition, other), name="r")]
        assert ["fight for one anchor" in error.what for error in rewrite(files, packs).failures] == [True]


def test_what_follows_a_definition_in_any_edit() -> None:
    place = In(
        "src/a/loader.py",
        "load_model",
        after("model = build(args)", add="from ..late import hook", why=W),
        either(
            {"v2": after("nothing()", add="x", why=W), "v1": before("return model", add="from .b import c", why=W)},
            why=W,
        ),
    )
    files = Files({"src/a/loader.py": b"", "src/a/b/c.py": LOADER, "src/broken.py": b"def load_model(:\n"})
    made = rewrite(files, [pack(place)])
    assert states(made) == ["applied", "applied"]
    assert b"    from ...late import hook\n" in made.contents["src/a/b/c.py"]
    assert b"    from ..b import c\n    return model\n" in made.contents["src/a/b/c.py"]


@pytest.mark.parametrize(
    "body",
    [
        "    if x:\n        return 1\n    else:\n        raise E\n    a()\n",
        "    with y:\n        raise E\n        a()\n",
        "    return 1\n    if x:\n        a()\n",
    ],
)
def test_code_that_can_never_run(body: str) -> None:
    place = In("a.py", "f", after("a()", add="b()", why=W))
    assert states(rewrite(Files({"a.py": b"def f():\n" + body.encode()}), [pack(place)])) == ["failed"]


def test_a_definition_that_another_one_overrides_is_not_meant() -> None:
    text = b"def f():\n    a()\n\n\ndef f():\n    a()\n"
    made = rewrite(Files({"a.py": text}), [pack(In("a.py", "f", after("a()", add="b()", why=W)))])
    assert made.contents["a.py"] == text + b"    b()\n"
