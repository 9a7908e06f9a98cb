"""Lines of a log that tell of an error themselves, and do not only hold the words of one."""

from __future__ import annotations

import re

_SHAPED = re.compile(
    r"^\s*(?:"
    # an exception's name, or what C++ says of one
    r"(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt|Timeout)\b(?::|$| \[| ?\()|what\(\):|terminate called"
    r"|Fatal Python error:|Aborted|Segmentation fault"
    # a level, behind a date, a place or a program's name
    r"|(?:\S+ ){0,4}\S*(?<![A-Za-z'\"])(?:ERROR|CRITICAL|FATAL)\b"
    r"|[^\s:]{1,80}: (?:fatal )?[Ee]rror: |[Ee]rror: |fatal: "
    r"|\[?[EF]\d{4} \d\d:|[EF]\d{4} "
    # a library's own prefix: NCCL, the kernel, slurmstepd, a shell
    r"|\S+ \[\d+\] NCCL WARN|\S+:\d+:\d+ \[\d+\] |\[ *\d+\.\d+\] |slurmstepd\S*: |(?:\S+: )?line \d+: +\d+ "
    r")"
)
"""How a line begins that tells of an error itself. Text of a data set, warnings and their like do not begin so."""


def shaped(text: str) -> bool:
    """Whether a line tells of an error itself, and does not only hold the words of one."""
    return bool(_SHAPED.match(text))
