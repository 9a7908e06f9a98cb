"""torch, with a ``load`` that can only yield numpy arrays.

LIBERO's init states are numpy arrays that ``torch.save`` wrote. ``torch.load`` refuses them since 2.6, where
``weights_only`` became the default; ``weights_only=False`` would run whatever the file names. Here no callable of
numpy or torch is reached at all: shape, dtype and bytes are read, and the array is made from them. That is the same
for files written with numpy 1 and numpy 2, and under every torch.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, BinaryIO

import numpy as np
import torch

from .torch_files import LEGACY_MAGIC, Listed, Refused, is_zip, latin1, members

KINDS = "?bBhHiIlLqQefd"  # bool, integers and floats by their type characters


class _DType:
    """What a pickle says of a dtype: its code, and the byte order that ``__setstate__`` brings."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else None
        if self.dtype is None or self.dtype.char not in KINDS or self.dtype.subdtype is not None:
            raise Refused(f"an array of {code!r} is not an array of numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *layout = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in layout[:3]):
            raise Refused("a dtype with fields or an unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What a pickle says of an array."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        try:
            _, shape, dtype, fortran, data = state
            flat = np.frombuffer(data, dtype=dtype.dtype)
            self.array = flat.reshape(shape, order="F" if fortran else "C").copy(order="K")
        except (AttributeError, TypeError, ValueError) as error:
            raise Refused(f"an array whose shape, dtype and bytes do not belong together: {error}") from error


def _reconstruct(subtype: type, shape: object, code: object) -> _Array:
    if subtype is not _Array:
        raise Refused("an array of an unknown class")
    return _Array()


NAMES = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): latin1,
}


class _Arrays(Listed):
    holds = "an array of numbers"
    names = NAMES

    def persistent_load(self, pid: object) -> Any:
        raise Refused("it holds a tensor, not a numpy array")


def _read(file: BinaryIO) -> object:
    if is_zip(file):
        pickles = [name for name in members(file) if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused("it is a zip file, and not one that torch.save wrote")
        with zipfile.ZipFile(file) as archive:
            return _Arrays(io.BytesIO(archive.read(pickles[0]))).load()
    if _Arrays(file).load() != LEGACY_MAGIC:
        raise Refused("it is not a file that torch.save wrote")
    _Arrays(file).load()  # the protocol's version
    _Arrays(file).load()  # sizes of the writer's integers
    return _Arrays(file).load()


def load(path: str) -> np.ndarray:
    """The array in a file that ``torch.save`` wrote, of numbers, of any shape, its own to change.

    Raises:
        Refused: it holds or names anything else; nothing of it was run.
    """
    try:
        with open(path, "rb") as file:
            found = _read(file)
        if not isinstance(found, _Array) or found.array is None:
            raise Refused("it does not hold one numpy array")
    except OSError:
        raise
    except Refused as error:
        raise Refused(f"{path} is not read: {error}") from error.__cause__
    except Exception as error:  # whatever a broken or forged file makes the unpickler raise
        raise Refused(f"{path} is not read as an array: {type(error).__name__}: {error}") from error
    return found.array


def __getattr__(name: str) -> Any:
    return getattr(torch, name)
