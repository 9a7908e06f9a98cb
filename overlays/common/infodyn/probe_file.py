"""The file of one probe at one epoch: ``<run>/probes/<probe_name>/epoch_<n>.pt.gz``.

A gzip of what ``torch.save`` writes; ``torch.load(gzip.open(path), weights_only=True)`` reads it. A dictionary::

    metadata
        probe_name                str
        epoch                     int
        source_modules            list of module paths, as resolved
        target_modules            likewise
        dataset_name              str
        expert_activation_counts  {experts' path: {expert: count}} over all of the validation's tokens but padding
        rows                      this project's own addition, see below
    source_activations            {module path: [n, features]}
    target_activations            {module path: [n, features]}
    labels                        [n], -100 where there is none

``f"{experts' path}.{expert}"`` is the path of that expert as a source. All tensors have the same n rows, which
``metadata["rows"]`` describes::

    sample          int64 [n], the sample's number in the validation set, rising
    token           int64 [n], which of the sample's tokens that are no padding, rising within a sample; -1 where all
                    modules give one vector a sample
    experts         "dense": an expert as a source is evaluated on every row, whether the row was routed to it or not
    routed_experts  {experts' path: int64 [n, k]}, the indices of the experts that the row was routed to, -1 for none
    seed            int, of the subset
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .module_paths import ProbeError

METADATA = (
    "probe_name",
    "epoch",
    "source_modules",
    "target_modules",
    "dataset_name",
    "expert_activation_counts",
)
_PARTS = ("metadata", "source_activations", "target_activations", "labels")
_ROWS = ("sample", "token", "routed_experts")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.%-]*")
_FILE = re.compile(r"epoch_(\d+)\.pt\.gz")


class ProbeFileError(ProbeError):
    """A file that is damaged, or no probe's."""


def check_name(name: str) -> str:
    """``name`` itself; raises ``ProbeError`` where it cannot be a folder's."""
    if not _NAME.fullmatch(name):
        raise ProbeError(f"probe name {name!r} becomes a folder: use letters, digits, '_', '-' and '.'")
    return name


def probe_path(run_dir: str | Path, probe_name: str, epoch: int) -> Path:
    return Path(run_dir) / "probes" / check_name(probe_name) / f"epoch_{epoch}.pt.gz"


def probe_files(run_dir: str | Path, probe_name: str) -> list[tuple[int, Path]]:
    """The epochs and files of a probe, by epoch; other files in its folder are left out."""
    folder = probe_path(run_dir, probe_name, 0).parent
    found = ((_FILE.fullmatch(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(name[1]), path) for name, path in found if name)


def write_probe_file(path: Path, content: Mapping[str, Any]) -> None:
    """Writes ``content`` to ``path``, whole or not at all; an earlier file there is replaced.

    Raises ``ProbeFileError`` for a content that ``read_probe_file`` would refuse, before anything is written.
    """
    _check(content, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            packed = _Packed(file)
            torch.save(dict(content), packed)
            packed.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


class _Packed:
    """Gzip of stored blocks: activations of 32 bits shrink by less than a tenth, and that would take a quarter of all
    the time that a probe costs. Without time and name, so that the same activations are the same bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._codes = zlib.compressobj(0, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9)

    def write(self, data: Any) -> int:
        self._file.write(self._codes.compress(data))
        return len(data)

    def flush(self) -> None:
        """Nothing: what a flush in between would write makes the file larger."""

    def close(self) -> None:
        self._file.write(self._codes.flush())


def read_probe_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in ``path``, tensors on the CPU, checked.

    ``metadata["rows"]`` is checked where it is there: files of others have none. Raises ``ProbeFileError`` naming the
    file for one that is not there, cannot be unpacked or loaded, or has another content.
    """
    path = Path(path)
    if not path.is_file():
        raise ProbeFileError(f"{path}: there is no such file")
    try:
        # Unpacked first: torch looks about in the file, and each step back would unpack it from the beginning.
        unpacked = io.BytesIO(gzip.decompress(path.read_bytes()))
        content = torch.load(unpacked, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ProbeFileError(
            f"{path} cannot be read, it is damaged or no probe's file ({type(error).__name__}: {error}); "
            "delete it, or let the epoch be probed again"
        ) from error
    _check(content, path)
    return dict(content)


def _check(content: Any, path: Path) -> None:
    problem = _problem(content)
    if problem:
        raise ProbeFileError(f"{path} is no probe's file: {problem}")


def _problem(content: Any) -> str | None:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}, not a dictionary"
    missing = [part for part in _PARTS if part not in content]
    if missing:
        return f"{missing} missing"
    metadata, labels = content["metadata"], content["labels"]
    if not isinstance(metadata, Mapping) or not isinstance(labels, Tensor) or labels.ndim != 1:
        return "'metadata' must be a dictionary and 'labels' a tensor [n]"
    missing = [key for key in METADATA if key not in metadata]
    if missing:
        return f"{missing} missing in 'metadata'"
    right = {key: isinstance(metadata[key], str) for key in ("probe_name", "dataset_name")}
    right["epoch"] = _is_int(metadata["epoch"])
    if wrong := [key for key, fits in right.items() if not fits]:
        return f"metadata[{wrong[0]!r}] is {metadata[wrong[0]]!r}"
    counts = metadata["expert_activation_counts"]
    if not isinstance(counts, Mapping) or not all(
        isinstance(each, Mapping) and all(map(_is_int, each.values())) for each in counts.values()
    ):
        return "metadata['expert_activation_counts'] must be {experts' path: {expert: count}}"
    for side in ("source", "target"):
        named, kept = metadata[f"{side}_modules"], content[f"{side}_activations"]
        if not isinstance(kept, Mapping) or not isinstance(named, list) or set(kept) != set(named):
            return f"'{side}_activations' are not those of metadata['{side}_modules']"
        for name, values in kept.items():
            if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(labels):
                return f"{side} {name} is {_shape(values)}, not [{len(labels)}, features]"
            if not values.is_floating_point():
                return f"{side} {name} is {values.dtype}, not floating point"
    return _problem_of_rows(metadata["rows"], len(labels)) if metadata.get("rows") is not None else None


def _problem_of_rows(rows: Any, number: int) -> str | None:
    if not isinstance(rows, Mapping):
        return f"metadata['rows'] is a {type(rows).__name__}, not a dictionary"
    missing = [key for key in _ROWS if key not in rows]
    if missing:
        return f"{missing} missing in metadata['rows']"
    if not isinstance(rows["routed_experts"], Mapping):
        return "metadata['rows']['routed_experts'] must be {experts' path: tensor}"
    for ndim, kept in ((1, {key: rows[key] for key in ("sample", "token")}), (2, rows["routed_experts"])):
        for name, values in kept.items():
            if not isinstance(values, Tensor) or values.ndim != ndim or len(values) != number:
                wanted = f"[{number}]" if ndim == 1 else f"[{number}, k]"
                return f"metadata['rows']: {name} is {_shape(values)}, not {wanted}"
            if values.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
                return f"metadata['rows']: {name} is {values.dtype}, not whole numbers"
    if bool((rows["sample"].diff() < 0).any()):
        return "metadata['rows']: sample does not rise"
    return None


def _shape(values: Any) -> str:
    return str(list(values.shape)) if isinstance(values, Tensor) else type(values).__name__


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
