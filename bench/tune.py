"""How often the trials of --auto-tune take a change that changes nothing, and how often they see one that helps.

    python bench/tune.py [--json] [--runs N] [--processes N]

The runs are those of `bench/plateau.py` that its test pauses, with room for a trial; what follows the pause is the same
curve with noise of its own, drawn anew for the trial and for its control: as if the two saw other data, which is worse
than what happens, as both go on from one checkpoint. *nothing*: three changes that change nothing, one of them or more
is declared better. *anew*: the same for changes that begin anew, against the paused run's own course, which was chosen
for having stopped. *lower by k*: one change of three takes k standard deviations of a logged value off the loss, at
once; and it is declared better. *not judged*: the noise remembers itself for too long for so few values; these count
as not declared better.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measure import machine
from bench.plateau import SETTINGS, USUAL, share, watched
from bench.plateau_curves import Case, case
from runners.supervise.compare import ALPHA, ROWS, Difference, difference
from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.row import Row
from runners.supervise.tune import SHARE

CHANGES = 3
LOWER = (0.5, 1.0, 2.0)
SEED = 500_000  # those below were used while the comparison was developed


def curve_of(losses: Sequence[float], first: int, shift: float = 0.0) -> Curve:
    """Rows `first` and later, their losses lower by `shift`."""
    made = Curve()
    made.add([Row(row, {"loss": loss - shift}) for row, loss in enumerate(losses, 1) if row >= first])
    return made


def judged(new: Case, old: Case, since: int, until: int, shift: float = 0.0) -> bool | None:
    """Whether `new` is declared better; None where it is not judged."""
    alpha = ALPHA / CHANGES
    curves = curve_of(new.losses, since + 1, shift * new.scatter), curve_of(old.losses, since + 1)
    found = difference(*curves, since, until, alpha)
    return found.better if isinstance(found, Difference) else None


def tried(job: tuple[int, bool, bool]) -> dict[str, bool | None] | None:
    """What one run's trials came to; None for a run that is not paused, or has no room for them."""

    def drawn(again: int) -> Case:
        return case(*job, SETTINGS.matters, USUAL, again)

    one = drawn(0)
    rows, alarm = len(one.losses), watched(one)
    since = rows if alarm is None else round(alarm * rows)
    until = since + max(rows // SHARE, ROWS)
    if until > rows:
        return None
    others = [drawn(number) for number in range(1, 2 * CHANGES + 1)]
    pairs = [judged(new, old, since, until) for new, old in zip(others[::2], others[1::2], strict=True)]
    anew = [judged(new, one, 0, since) for new in others[::2]]
    return {
        "nothing": any(pairs) or (None if None in pairs else False),
        "anew": any(anew) or (None if None in anew else False),
        **{f"lower by {shift:g}": judged(others[0], others[1], since, until, shift) for shift in LOWER},
    }


def measure(runs: int, pool: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, held in (("tuned", False), ("held out", True)):
        jobs = [(SEED + i // 2, bool(i % 2), held) for i in range(runs)]
        found = [one for one in pool.imap(tried, jobs, 8) if one is not None]
        result[name] = {"paused": len(found)}
        for what in found[0] if found else ():
            verdicts = [one[what] for one in found]
            result[name][what] = {**share(list(map(bool, verdicts))), "not_judged": verdicts.count(None)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs of a set, half of them plateaus (1000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at a time (as many as processors)")
    options = parser.parse_args()
    with Pool(options.processes) as pool:
        sets = measure(options.runs, pool)
    if not options.json:
        for name, of in sets.items():
            print(f"{name}: {of['paused']} paused runs with room for a trial")
            for what, one in of.items():
                if what != "paused":
                    shares = f"{100 * one['share']:5.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
                    print(f"  {what:14} {shares} of {one['of']}, {one['not_judged']} not judged")
    met = {name: of["nothing"]["share"] <= ALPHA for name, of in sets.items()}
    what = {"bench": "tune", "alpha": ALPHA, "changes": CHANGES, "met": met, "sets": sets}
    print(json.dumps({**what, "runs": options.runs, "machine": machine()}))


if __name__ == "__main__":
    main()
