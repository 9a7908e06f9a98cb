"""What a log says about the death of a run, for a person: `--dry-run LOG`."""

from __future__ import annotations

import json
import re
import signal
import textwrap
from collections.abc import Sequence
from pathlib import Path

from look.words import Words
from runners.supervise.cause_table import Cause, Remedy
from runners.supervise.death import Diagnosis, Ended, diagnose
from runners.supervise.logtext import clean
from runners.supervise.masking import hidden
from runners.supervise.stamped import OWN

WIDTH = 110
_DIED = re.compile(
    rf"^{re.escape(OWN)}died \(the command (?:ended with exit code (\d+)|was ended by (SIG\w+))(.*?)\): "
)
_BEGAN = re.compile(rf"^{re.escape(OWN)}attempt \d+: ")
_DONE = re.compile(rf"^{re.escape(OWN)}done: ")
REMEDIES = {
    "resume": "goes on from the last good checkpoint",
    "halve_batch": "divides the batch and multiplies the accumulation: an optimizer step sees as much as before",
    "lower_rate": "lowers the learning rate and goes on from the last checkpoint with finite weights",
    "other_gl": "draws with another GL backend, one that was tried and works",
    "mirror": "asks a mirror in place of the hub",
    "offline": "works from what is on this machine",
    "free_checkpoints": "removes older checkpoints that this run wrote itself",
    "drop_checkpoint": "moves the damaged checkpoint aside and takes the one before",
    "new_port": "takes a free port",
    "longer_timeout": "lets the ranks wait longer for each other",
    "fewer_workers": "loads data in the main process",
    "more_files": "raises the limit of open files",
    "install": "installs the package, with --may-install only",
    "wait": "waits and tries again, twice as long each time",
    "report": "stops: no machine can mend this",
}
RESULT = {
    "no": "The result stays the same.",
    "rounding": "The result stays the same but for rounding.",
    "yes": "The result may differ from an uninterrupted run's.",
}
EXITS = {
    "code": "exit code {code}",
    "signal": "ended by signal {signal}",
    "unsaid": "not in the log; taken for a failure",
}


def explain(log: Path, causes: Sequence[Cause], lang: str) -> str:
    """What died, why, the lines that say so, what the supervisor would do, and what a person can do; without secrets.

    `log` is the supervisor's, whose last death is explained, or any command's, whose exit state is not known. Raises
    OSError where it cannot be read.
    """
    return hidden(_explained(log, causes, lang))


def _explained(log: Path, causes: Sequence[Cause], lang: str) -> str:
    words = Words(lang)
    # Only a line feed ends a line here, as in an editor: a bar's carriage returns would shift the numbers.
    lines = log.read_bytes().decode("utf-8", "replace").split("\n")
    ended, told, last = _exit_state(lines)
    diagnosis = diagnose(lines[:last], ended, causes)
    cause = diagnosis.cause
    head = [
        f"{words('log')}: {log}",
        f"{words('how it ended')}: {words(EXITS[told], code=ended.code, signal=-ended.code)}",
    ]
    why = (f"{cause.name}: {_in(cause, 'says', lang)}") if cause else words(_no_cause(ended))
    parts = [*head, f"{words('why')}: {why}", *_quoted(diagnosis, words)]
    if cause is None:
        return "\n".join(
            [*parts, *([] if ended.code == 0 else [_wrapped(words("The supervisor would stop and report."))])]
        )
    parts += ["", f"{words('What the supervisor does, in this order')}:"]
    parts += [_wrapped(f"{number}. {_done(remedy, words)}") for number, remedy in enumerate(cause.remedies, 1)]
    if any(remedy.name != "report" for remedy in cause.remedies):
        parts.append(_wrapped(words(RESULT[cause.changes_result])))
    return "\n".join([*parts, "", f"{words('What a person can do')}:", _wrapped(_in(cause, "advice", lang))])


def _exit_state(lines: Sequence[str]) -> tuple[Ended, str, int]:
    """How the last attempt ended as the supervisor noted it, the kind of that note, and the line that it stands in."""
    for index in range(len(lines) - 1, -1, -1):
        if OWN not in lines[index]:
            continue
        text = clean(lines[index])
        if match := _DIED.match(text):
            code = int(match[1]) if match[1] else -int(signal.Signals[match[2]])
            extra = match[3]
            ended = Ended(code, 0.0, "the kernel ran out of memory" in extra, "without a word" in extra, False)
            return ended, "code" if match[1] else "signal", index
        if _DONE.match(text):
            return Ended(0, 0.0, False, False, False), "code", index
        if _BEGAN.match(text):
            break
    return Ended(1, 0.0, False, False, False), "unsaid", len(lines)


def _no_cause(ended: Ended) -> str:
    return "It did not die." if ended.code == 0 else "No row of the table of causes fits."


def _in(cause: Cause, text: str, lang: str) -> str:
    return str(getattr(cause, f"{text}_zh" if lang == "zh" else text))


def _quoted(diagnosis: Diagnosis, words: Words) -> list[str]:
    if not diagnosis.lines:
        return []
    found = [f"{words.of(name)}: {value}" for name, value in diagnosis.found.items()]
    return ["", f"{words('Lines that matter')}:", *(f"{number:>8}  {text}" for number, text in diagnosis.lines), *found]


def _done(remedy: Remedy, words: Words) -> str:
    often = words("at most {count} times", count=remedy.limit) if remedy.limit else words("as often as it is possible")
    told = [] if remedy.name == "report" else [often]
    for name, value in remedy.values.items():
        told.append(f"{name} {value if isinstance(value, (int, float, str)) else json.dumps(value)}")
    does = words(REMEDIES[remedy.name]) if remedy.name in REMEDIES else remedy.name
    return f"{remedy.name}: {does}" + (f" ({'; '.join(told)})" if told else "")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)
