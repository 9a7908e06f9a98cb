"""Messages between two processes over a pipe: eight bytes of length, then an .npz archive. Nothing is unpickled."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<Q")
MOST = 1 << 28
"""Bytes that no message reaches: two views of 256 x 256 pixels are one million."""
PLAIN = "plain"
"""The entry of the archive that holds what is no array, as JSON."""


class Closed(Exception):
    """The other side has closed the pipe, or was cut off in the middle of a message."""


def send(stream: BinaryIO, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes one message. Raises Closed where nobody reads, ValueError for an array of objects."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"array {name!r} is of dtype {array.dtype}: only numbers are sent")
    archive = io.BytesIO()
    np.savez(archive, **{PLAIN: np.frombuffer(json.dumps(plain).encode(), np.uint8)}, **arrays)
    content = archive.getvalue()
    try:
        stream.write(LENGTH.pack(len(content)) + content)
        stream.flush()
    except BrokenPipeError as error:
        raise Closed("nobody reads from the pipe any more") from error


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Waits for one message. Raises Closed at the end of the stream, ValueError for what is no message."""
    (length,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    if length > MOST:
        raise ValueError(f"a message of {length} bytes: something else was written into the pipe")
    with np.load(io.BytesIO(_exactly(stream, length)), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(arrays.pop(PLAIN).tobytes()), arrays


def _exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise Closed("the pipe was closed" + (" in the middle of a message" if content else ""))
    return content


@dataclass(frozen=True)
class Observation:
    """What the controller may know at a control step; a camera a key. `images` uint8 [h, w, 3] and `depth` float32
    [h, w] (metres, 0 where nothing is) as `camera.turned` leaves them, `intrinsics` [3, 3], `camera_pose` [4, 4] to the
    gripper's frame, `state` float32 [8]: the gripper's place, its orientation as axis and angle, its two fingers.
    """

    step: int
    instruction: str
    state: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8]]
    depth: Mapping[str, NDArray[np.float32]]
    intrinsics: Mapping[str, NDArray[np.float64]]
    camera_pose: Mapping[str, NDArray[np.float64]]

    def packed(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        arrays = {"state": self.state}
        for kind in KINDS:
            arrays |= {f"{kind}/{camera}": array for camera, array in getattr(self, kind).items()}
        return {"step": self.step, "instruction": self.instruction, "cameras": list(self.images)}, arrays

    @classmethod
    def unpacked(cls, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Observation:
        """What `packed` made. Raises KeyError for a message that lacks something."""
        found = {kind: {camera: arrays[f"{kind}/{camera}"] for camera in plain["cameras"]} for kind in KINDS}
        return cls(plain["step"], plain["instruction"], arrays["state"], **found)


KINDS = ("images", "depth", "intrinsics", "camera_pose")
