"""Looks for NaN and Inf in files of weights. Run in the trainer's interpreter, where numpy, and torch if need be, are.

    python weights.py FILE ...

The last line is JSON: {"complaint": null or a sentence, "bytes": read, "seconds": taken}. safetensors are read by
memory map without the library; torch's archives with torch.load(weights_only=True), mapped too. Ends with 3, and says
why, where that cannot be done with files that are whole: a library that is missing, objects that are no tensors.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CANNOT = 3

try:
    import numpy as np
except ImportError as error:
    print(f"{sys.executable} has no numpy: {error}", file=sys.stderr)
    sys.exit(CANNOT)

# Exponent bits that are all ones mean NaN or Inf: as an integer without its sign such a number is at least `limit`.
# Name in safetensors: (bytes, mask, limit). F8_E4M3 has NaN only, and that in one place.
FLOATS = {
    "F64": (8, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (4, 0x7FFF_FFFF, 0x7F80_0000),
    "F16": (2, 0x7FFF, 0x7C00),
    "BF16": (2, 0x7FFF, 0x7F80),
    "F8_E5M2": (1, 0x7F, 0x7C),
    "F8_E4M3": (1, 0x7F, 0x7F),
}
TORCH_NAMES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3"},
}
CHUNK = 1 << 19
"""Bytes looked at at a time: what stays in a core's cache."""
PIECE = 64 << 20
"""Bytes that one thread takes."""


def odd(data: np.ndarray[Any, Any], kind: str) -> bool:
    """Whether bytes, `(n,)` uint8, of a floating type hold NaN or Inf."""
    width, mask, limit = FLOATS[kind]
    whole = data.view(f"<u{width}")
    step = CHUNK // width
    room = np.empty(step, whole.dtype)
    for begin in range(0, len(whole), step):
        part = whole[begin : begin + step]
        if np.bitwise_and(part, whole.dtype.type(mask), out=room[: len(part)]).max() >= limit:
            return True
    return False


def in_safetensors(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Name, floating type and bytes of each tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else np.empty(0, "u1")
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in FLOATS:
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], data[begin:end]


def in_torch(path: Path) -> Iterator[tuple[str, str, Any]]:
    """The same of an archive of torch's, or of a pickle of its older form."""
    import torch

    with path.open("rb") as file:
        archive = file.read(2) == b"PK"
    yield from _tensors(torch.load(path, map_location="cpu", weights_only=True, mmap=archive), "")


def _tensors(value: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        flat = torch.view_as_real(value) if value.is_complex() else value
        kind = TORCH_NAMES.get(str(flat.dtype).removeprefix("torch."))
        if kind and flat.numel():
            yield name, kind, flat.detach().contiguous().view(-1).view(torch.uint8).numpy()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}[{index}]")


def pieces(data: Any) -> Iterator[Any]:
    """Bytes in parts of whole numbers."""
    for begin in range(0, len(data), PIECE):
        yield data[begin : begin + PIECE]


def look(path: Path, pool: ThreadPoolExecutor) -> tuple[str | None, int]:
    """What is wrong with one file, and the bytes of numbers in it."""
    read = 0
    for name, kind, data in in_safetensors(path) if path.suffix == ".safetensors" else in_torch(path):
        read += len(data)
        if any(pool.map(odd, *zip(*((part, kind) for part in pieces(data)), strict=True)) if len(data) else ()):
            return f"{path}: {name} ({kind}) holds NaN or Inf", read
    return None, read


def main() -> None:
    begun, total, complaint = time.perf_counter(), 0, None
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name in sys.argv[1:]:
            try:
                complaint, read = look(Path(name), pool)
            except (ImportError, pickle.UnpicklingError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                sys.exit(CANNOT)
            total += read
            if complaint:
                break
    print(json.dumps({"complaint": complaint, "bytes": total, "seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
