"""Where a lost anchor may be: the right statement first, by the anchor alone and by the source it once stood in."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.candidates import Candidate, Old, rank
from graft.edits.base import Edit
from graft.history import History
from graft.pack import add_field, add_keyword, after, before, either, replace
from graft.shapes import flatten, shape_of
from graft.source import Source
from graft.successors import resembling, source_of
from tests.graft.histories import Upstream

W = "for the test"

OLD = """\
def train(cfg, data):
    model = build_model(cfg)
    model = DDP(model, device_ids=[cfg.rank])
    optimizer = AdamW(model.parameters(), lr=cfg.lr)
    for batch in data:
        loss = model(batch)
        loss.backward()
        optimizer.step()
    if cfg.save:
        save(model, cfg.path)
    return model
"""


def ranked(edit: Edit, new: str, *, old: str | None = None, most: int = 3) -> list[Candidate]:
    source = Source("new.py", new.encode())
    before_it = None
    if old is not None:
        once = Source("old.py", old.encode())
        before_it = Old(once, once.definitions("train"))
    return list(rank(edit, source, source.definitions("train"), most=most, old=before_it))


def edit(pattern: str) -> Edit:
    return after(pattern, add="hook()", why=W)


@pytest.mark.parametrize(
    ("pattern", "was", "now"),
    [
        ("model = DDP($model, ...)", "model = DDP(model, device_ids=[cfg.rank])", "model = FSDP(model, cfg.rank)"),
        ("optimizer.step()", "optimizer.step()", "self.accelerator.optimizer_step(optimizer)"),
        ("loss = model(batch)", "loss = model(batch)", "loss, logits = model(batch, return_logits=True)"),
        ("if cfg.save: ...", "if cfg.save:", "if cfg.save and cfg.rank == 0:"),
        ("return model", "return model", "return model, optimizer"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["with the old source", "by the anchor alone"])
def test_the_successor_comes_first(pattern: str, was: str, now: str, known: bool) -> None:
    new = OLD.replace(was, now)
    assert new != OLD
    best = ranked(edit(pattern), new, old=OLD if known else None)[0]
    assert best.code.rstrip(":") == now.rstrip(":")
    assert new.splitlines()[best.line - 1].strip() == now


def test_what_stood_there_before_is_not_the_successor() -> None:
    old = "def train(a, b):\n    x = load(a)\n    y = load(b)\n    return x, y\n"
    new = "def train(a, b):\n    x = fetch(a, retry=3)\n    y = load(b)\n    return x, y\n"
    assert ranked(edit("x = load(a)"), new)[0].code in ("x = fetch(a, retry=3)", "y = load(b)")
    assert ranked(edit("x = load(a)"), new, old=old)[0].code == "x = fetch(a, retry=3)"


def test_the_place_decides_between_twins() -> None:
    old = "def train(a):\n    first()\n    a = norm(a)\n    second()\n    third()\n"
    new = "def train(a):\n    first()\n    a = layer_norm(a)\n    second()\n    third()\n    a = layer_norm(a)\n"
    assert [one.line for one in ranked(edit("a = norm(a)"), new, old=old)[:1]] == [3]


def test_an_expression_is_looked_for_inside_statements() -> None:
    new = OLD.replace("AdamW(model.parameters(), lr=cfg.lr)", "wrap(Adam(model.parameters(), cfg.lr), cfg)")
    one = add_keyword("AdamW(...)", add="fused=True", why=W)
    assert ranked(one, new)[0].code == "optimizer = wrap(Adam(model.parameters(), cfg.lr), cfg)"
    assert ranked(one, new, old=OLD)[0].code == "optimizer = wrap(Adam(model.parameters(), cfg.lr), cfg)"
    other = replace("cfg.lr", with_="lr(cfg)", why=W)
    assert "parameters" in ranked(other, OLD.replace("lr=cfg.lr", "lr=cfg.learning_rate"), old=OLD)[0].code


def test_the_best_of_several_alternatives_counts() -> None:
    one = either({"new": before("nothing_alike(1)", add="h()", why=W), "old": edit("optimizer.step()")}, why=W)
    assert ranked(one, OLD.replace("optimizer.step()", "optimizer.step(closure)"))[0].code == "optimizer.step(closure)"


def test_best_first_no_more_than_asked_for_and_always_alike() -> None:
    new = OLD.replace("loss.backward()", "loss.mean().backward()")
    found = ranked(edit("loss.backward()"), new, most=2)
    assert found == ranked(edit("loss.backward()"), new, most=2)
    assert len(found) == 2
    assert 1 >= found[0].score > found[1].score > 0


def test_what_shares_nothing_is_no_candidate() -> None:
    assert ranked(edit("if ready(): ..."), "def train():\n    x: int = 1\n") == []


def test_an_edit_of_the_definition_itself_has_no_statement_to_name() -> None:
    source = Source("new.py", b"class A:\n    x: int = 1\n")
    assert rank(add_field("y: int = 0", why=W), source, source.definitions("A")) == ()


def test_every_statement_is_seen_once_in_order_with_what_is_around_it() -> None:
    text = """\
def train(a, *, b: int = 1):
    try:
        one()
    except (ValueError, KeyError) as error:
        two(error)
    else:
        three()
    finally:
        four()
    with open(a) as file, lock:
        five(file)
    while a:
        six()
    if a: seven()
    elif b:
        eight()
    else:
        nine()
    match a:
        case 1:
            ten()
    async def inner(x=(1, 2), /, *y, **z):
        hidden()
    class Inner(Base, metaclass=Meta):
        hidden = 1
    @decorated(by=me)
    def other() -> int: ...
"""
    scope = Source("f.py", text.encode()).definitions("train")[0]
    placed = flatten(scope)
    assert [one.shape.kind for one in placed if one.shape.kind != "Call"] == [
        "Try", "With", "While", "If", "Match", "FunctionDef", "ClassDef", "FunctionDef",
    ]  # fmt: skip
    calls = [next(iter(one.shape.calls)) for one in placed if one.shape.kind == "Call"]
    assert calls == ["one", "two", "three", "four", "five", "six", "eight", "nine", "ten"]
    around = {next(iter(one.shape.calls)): one.parent for one in placed if one.shape.kind == "Call"}
    assert around["five"] == ("with open ( a ) as file , lock :",)
    assert around["one"] == ("try :",)


def test_a_shape_holds_what_is_called_and_assigned() -> None:
    statement = Source("f.py", b"a.b, c = f(x.g(1), key=h)\n").module.body[0]
    shape = shape_of(statement)
    assert (shape.kind, shape.calls, shape.targets) == ("Assign", {"f", "g"}, {"a", "b", "c"})
    assert shape_of(Source("f.py", b"for i in range(3): pass\n").module.body[0]).targets == {"i"}


def history_of(tmp_path: Path, new: dict[str, str | None]) -> tuple[History, str, str]:
    upstream = Upstream(tmp_path / "tool", {"src/train.py": OLD, "src/other.py": "def train_more(): ...\n"})
    later = upstream.commit(new, "later")
    return History(upstream.place), upstream.first, later


def test_a_renamed_definition_is_found_in_another_file(tmp_path: Path) -> None:
    renamed = OLD.replace("def train(", "def run_training(").replace("optimizer.step()", "optimizer.step(closure)")
    decoy = "def run(cfg, data):\n    for batch in data:\n        optimizer.step(batch)\n"
    files: dict[str, str | None] = {"src/train.py": None, "src/loop.py": renamed, "src/decoy.py": decoy}
    history, first, later = history_of(tmp_path, files)
    with history:
        old = source_of(history.tree(first), "src/train.py", "train")
        assert old is not None
        found = resembling(edit("optimizer.step()"), "src/train.py", "train", history.tree(later), old)
        whole = resembling(add_field("y: int = 0", why=W), "src/train.py", "train", history.tree(later), old)
    assert (found[0].path, found[0].definition, found[0].code) == (
        "src/loop.py",
        "run_training",
        "optimizer.step(closure)",
    )
    assert renamed.splitlines()[found[0].line - 1].strip() == "optimizer.step(closure)"
    assert str(found[0]).startswith("src/loop.py (run_training) line 8")
    assert (whole[0].path, whole[0].definition) == ("src/loop.py", "run_training")


def test_a_definition_that_is_there_is_looked_through_itself(tmp_path: Path) -> None:
    history, first, later = history_of(tmp_path, {"src/train.py": OLD.replace("step()", "step(closure)")})
    with history:
        old = source_of(history.tree(first), "src/train.py", "train")
        found = resembling(edit("optimizer.step()"), "src/train.py", "train", history.tree(later), old)
    assert (found[0].path, found[0].code) == ("", "optimizer.step(closure)")
