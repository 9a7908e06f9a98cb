"""What every benchmark shares: paired runs in one process, the machine in words, one JSON object on the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def arguments(description: str, runs: int) -> argparse.Namespace:
    """``--json`` and ``--runs``, which every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--runs", type=int, default=runs, help=f"how often each side runs (default {runs})")
    return parser.parse_args()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def machine() -> str:
    """Processor, cores, Python; nothing that names the host."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def finish(options: argparse.Namespace, figures: Mapping[str, Any], lines: list[str]) -> None:
    """The lines for people, unless ``--json``, and the object, last."""
    if not options.json:
        print("\n".join(lines))
    print(json.dumps({**figures, "runs": options.runs, "machine": machine()}))
