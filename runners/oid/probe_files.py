"""A run's probe files as arrays: what each source did on each row, and which rows belong to one sample."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COMMON = Path(__file__).resolve().parents[2] / "overlays" / "common"
_FILE = re.compile(r"epoch_(\d+)\.pt\.gz")

Array = np.ndarray[Any, Any]


class Unreadable(Exception):
    """A file that is damaged or no probe's; the message names it."""


@dataclass(frozen=True)
class Epoch:
    """One probe file. All arrays have its `n` rows.

    Args:
        number: of the epoch.
        dataset: the validation set's name.
        sources, targets: `[n, features]` floats by module path; a row that is not finite was not recorded.
        counts: how often each source that is an expert was active over all of the validation.
        routed: for each source that is an expert, bool `[n]`; empty where the file does not say.
        dense: experts were evaluated on every row, whether routed to them or not.
        samples: int `[n]`, the sample that each row comes from.
    """

    number: int
    dataset: str
    sources: dict[str, Array]
    targets: dict[str, Array]
    counts: dict[str, int]
    routed: dict[str, Array]
    dense: bool
    samples: Array


def probes_in(run_dir: Path) -> list[str]:
    """The names of the probes that a run has folders of."""
    folder = run_dir / "probes"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def files_of(run_dir: Path, probe: str) -> tuple[list[Path], list[str]]:
    """A probe's files by epoch, and a line for each file in its folder that is none.

    Hidden files are what a writer at work has not renamed yet: they are neither.
    """
    found, foreign = [], []
    for path in sorted((run_dir / "probes" / probe).iterdir()):
        if name := _FILE.fullmatch(path.name):
            found.append((int(name[1]), path))
        elif not path.name.startswith("."):
            foreign.append(f"{path} is foreign: a probe's file is called epoch_N.pt.gz")
    return [path for _, path in sorted(found)], foreign


def read(path: Path) -> Epoch:
    """Reads one file. Raises Unreadable, naming it."""
    # Late, since the workers that import this module have no use for torch.
    if str(COMMON) not in sys.path:
        sys.path.insert(0, str(COMMON))
    from infodyn.probe_file import ProbeFileError, read_probe_file

    try:
        content = read_probe_file(path)
    except ProbeFileError as error:
        raise Unreadable(str(error)) from error
    metadata = content["metadata"]
    inside = f"{metadata['probe_name']}/epoch_{metadata['epoch']}.pt.gz"
    if inside != f"{path.parent.name}/{path.name}":
        raise Unreadable(f"{path} is foreign: its metadata is that of {inside}")
    sources = {name: _array(values) for name, values in content["source_activations"].items()}
    counts = {
        f"{experts}.{expert}": int(count)
        for experts, by_expert in metadata["expert_activation_counts"].items()
        for expert, count in by_expert.items()
    }
    rows = metadata.get("rows") or {}
    samples = rows["sample"].numpy() if rows else np.arange(len(content["labels"]))
    routed = {
        f"{experts}.{expert}": (chosen.numpy() == place).any(axis=1)
        for experts, chosen in rows.get("routed_experts", {}).items()
        for place, expert in enumerate(metadata["expert_activation_counts"].get(experts, {}))
    }
    return Epoch(
        number=int(metadata["epoch"]),
        dataset=str(metadata["dataset_name"]),
        sources=sources,
        targets={name: _array(values) for name, values in content["target_activations"].items()},
        counts={name: count for name, count in counts.items() if name in sources},
        routed={name: mask for name, mask in routed.items() if name in sources},
        dense=rows.get("experts") == "dense",
        samples=samples,
    )


def _array(values: Any) -> Array:
    """float32, or float64 where the file has it: numpy knows no bfloat16."""
    array: Array = (values.double() if values.element_size() == 8 else values.float()).numpy()
    return array
