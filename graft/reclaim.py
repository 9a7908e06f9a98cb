"""Edits that stand in a checkout of which graft remembers nothing: a lost ledger, or a diff applied by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graft.checkout import Checkout
from graft.errors import Collision
from graft.git import read_blob, read_blobs
from graft.merge import unapply
from graft.pack import Pack
from graft.rewrite import Rewrite, State, rewrite
from graft.tree import WorkTree


def at_pin(checkout: Checkout, packs: Sequence[Pack], plain: Mapping[str, bytes], result: Rewrite) -> Rewrite:
    """What the packs find in the pin's own version of the files in which they found edits standing."""
    paths = sorted({outcome.path for outcome in result.outcomes if outcome.state is State.ALREADY})
    if not paths:
        return Rewrite()
    blobs = zip(paths, read_blobs(checkout.path, [f"HEAD:{path}" for path in paths]), strict=True)
    heads = {path: blob for path, blob in blobs if blob is not None}
    return rewrite(WorkTree(checkout.path, checkout.tracked, {**plain, **heads}), packs)


def reclaim(checkout: Checkout, plain: Mapping[str, bytes], result: Rewrite, pin: Rewrite) -> dict[str, bytes]:
    """The files in which edits were found that the pin does not have, as they would be without them.

    With these in the place of the files the packs are planned anew, and the ledger knows them again: a revert that
    left such lines behind would leave imports of modules that it has just taken away.

    Args:
        plain: the files whose graft is remembered, without it.
        result: what the packs found in the checkout; ``pin``: what they find in the pin itself.
    """
    found = {outcome.path for outcome in result.outcomes if outcome.state is State.ALREADY} - plain.keys()
    without = {}
    for path in sorted(found & pin.contents.keys()):
        head, now, grafted = read_blob(checkout.path, f"HEAD:{path}"), checkout.content(path), pin.contents[path]
        if head is not None and now is not None and grafted != head:
            try:
                without[path] = unapply(head, grafted, now, where=path)
            except Collision:  # written by hand in another way: it stays the user's own
                continue
    return without


def mark(result: Rewrite, pin: Rewrite) -> None:
    """Says of every edit that stands there already whether the upstream has it."""
    for outcome, own in zip(result.outcomes, pin.outcomes, strict=False):
        if outcome.state is State.ALREADY and own.state is State.ALREADY:
            outcome.detail = "the upstream has it"
