"""Makes a LIBERO that runs although large assets are missing: stand-ins for what a checkout lacks, outside of it.

    python -m runners libero-assets --checkout upstreams/LIBERO --out FOLDER

A mirror may carry LIBERO without its largest files (meshes and textures of some MB), and each of its tasks names at
least one of them. FOLDER gets the package as links to the checkout's files (its modules as copies), and beside them
visual stand-ins for the missing ones: the object's collision mesh or a small cube for a mesh, one flat colour for a
texture. Meshes of this kind are drawn and carry no mass, so the physics is LIBERO's; the pictures are not. Put FOLDER
first in PYTHONPATH. No file of the checkout is touched. ``graft-asset-standins.json`` at the assets' root says what
was replaced, and the evaluation's result repeats the number. Run it again after the checkout has changed.
Exit codes: 0 done, 1 the checkout or FOLDER cannot be used, 2 bad options.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from runners import table

ASSETS = PurePosixPath("libero/libero/assets")
MANIFEST = "graft-asset-standins.json"
CUBE = 0.01  # half an edge, in metres: next to nothing in a room
GREY, DARK = (120, 110, 100), (40, 40, 40)

Vector = tuple[float, float, float]
Mesh = tuple[list[Vector], list[tuple[int, int, int]]]


class Unusable(ValueError):
    """The checkout or the folder cannot be used; says which, and what to do."""


def missing_assets(checkout: Path) -> list[str]:
    """The tracked files below the assets that are not there, relative to the checkout, sorted.

    Raises:
        Unusable: it is no git checkout of LIBERO.
    """
    command = ["git", "-C", str(checkout), "ls-files", "-z", "--", f"{ASSETS}/"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    tracked = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not tracked:
        raise Unusable(
            f"{checkout} is no git checkout of LIBERO with files below {ASSETS}: give its root with --checkout, "
            "or fetch it with `python apply.py LIBERO`"
        )
    return sorted(name for name in tracked if not (checkout / name).exists())


def build(checkout: Path, out: Path) -> dict[str, object]:
    """Makes or brings up to date the package in ``out``; returns the manifest, which is also written there.

    Raises:
        Unusable: as ``missing_assets``; or ``out`` lies in the checkout, or holds files that this did not make.
    """
    checkout, out = checkout.resolve(), out.resolve()
    if out == checkout or checkout in out.parents:
        raise Unusable(f"{out} lies inside the checkout: give a folder outside of it")
    if (out / "libero").exists() and not (out / ASSETS / MANIFEST).is_file():
        raise Unusable(f"{out}/libero was not made by this tool: give an empty folder")
    missing = missing_assets(checkout)
    _link(checkout / "libero", out / "libero")
    standins, left_out = {}, []
    for name in missing:
        make = MAKERS.get(Path(name).suffix)
        if make is None:
            left_out.append(name)
            continue
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content, what = make(checkout, name)
        target.write_bytes(content)
        standins[str(PurePosixPath(name).relative_to(ASSETS))] = what
    manifest: dict[str, object] = {"format": 1, "standins": standins, "left_out": left_out}
    target = out / ASSETS / MANIFEST
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _link(source: Path, target: Path) -> None:
    """Mirrors a folder: folders as folders, since paths with '..' must stay inside, and files but modules as links."""
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if name != "__pycache__"]
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in files:
            link, origin = place / name, Path(folder) / name
            if link.is_symlink() or link.exists():
                link.unlink()  # a stand-in of an earlier run, or a link that may point elsewhere
            if name.endswith(".py"):
                # LIBERO looks for its assets beside the file itself, wherever a link to it may lie.
                shutil.copy2(origin, link)
            else:
                link.symlink_to(origin)
    for link in [path for path in target.rglob("*") if path.is_symlink() and not path.exists()]:
        link.unlink()  # gone from the checkout since
    for copied in target.rglob("*.py"):
        if not (source / copied.relative_to(target)).exists():
            copied.unlink()


def stand_in_mesh(checkout: Path, name: str) -> tuple[bytes, str]:
    """MuJoCo's binary mesh: the object's own collision mesh where there is one, else a small cube."""
    folder = (checkout / name).parent.parent
    collision = folder / f"{folder.name}_col.obj"
    if collision.is_file():
        return msh(read_obj(collision)), f"the collision mesh {collision.name}"
    return msh(cube(CUBE)), f"a cube of {2 * CUBE} m"


def stand_in_texture(checkout: Path, name: str) -> tuple[bytes, str]:
    """One flat colour, dark for what is called black."""
    colour = DARK if "black" in name else GREY
    return png(colour, size=64), "one flat colour"


MAKERS: dict[str, Callable[[Path, str], tuple[bytes, str]]] = {".msh": stand_in_mesh, ".png": stand_in_texture}


def read_obj(path: Path) -> Mesh:
    """Vertices and triangles of a Wavefront file; polygons become fans."""
    vertices: list[Vector] = []
    faces: list[tuple[int, int, int]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append((float(words[1]), float(words[2]), float(words[3])))
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) for word in words[1:]]
            corners = [corner - 1 if corner > 0 else len(vertices) + corner for corner in corners]
            faces += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
    return vertices, faces


def cube(half: float) -> Mesh:
    """The cube of edge ``2 * half`` around the origin, its faces turned outwards."""
    vertices = [(x, y, z) for x in (-half, half) for y in (-half, half) for z in (-half, half)]
    squares = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return vertices, [face for a, b, c, d in squares for face in ((a, b, c), (a, c, d))]


def msh(mesh: Mesh) -> bytes:
    """MuJoCo's legacy binary mesh: four counts, then positions, normals, texture coordinates and faces."""
    vertices, faces = mesh
    counts = struct.pack("<4i", len(vertices), len(vertices), len(vertices), len(faces))
    floats = [value for rows in (vertices, _normals(mesh)) for row in rows for value in row]
    floats += [value for x, y, _ in vertices for value in (x, y)]
    corners = [corner for face in faces for corner in face]
    return counts + struct.pack(f"<{len(floats)}f", *floats) + struct.pack(f"<{len(corners)}i", *corners)


def _normals(mesh: Mesh) -> list[Vector]:
    """A unit normal for each vertex: the mean of its faces' normals, weighted by their areas."""
    vertices, faces = mesh
    sums = [[0.0, 0.0, 0.0] for _ in vertices]
    for face in faces:
        a, b, c = (vertices[corner] for corner in face)
        u, v = [q - p for p, q in zip(a, b, strict=True)], [q - p for p, q in zip(a, c, strict=True)]
        normal = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
        for corner in face:
            sums[corner] = [total + part for total, part in zip(sums[corner], normal, strict=True)]
    lengths = [math.hypot(*total) for total in sums]
    return [
        (total[0] / length, total[1] / length, total[2] / length) if length else (0.0, 0.0, 1.0)
        for total, length in zip(sums, lengths, strict=True)
    ]


def png(colour: tuple[int, int, int], *, size: int) -> bytes:
    """A square picture of one colour, 8 bits a channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * size) * size
    header = struct.pack(">2I5B", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = table.parser("libero-assets", __doc__)
    parser.add_argument("--checkout", type=Path, required=True, help="LIBERO's checkout")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the package, outside the checkout")
    options = parser.parse_args(arguments)
    try:
        manifest = build(options.checkout, options.out)
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    standins, left_out = manifest["standins"], manifest["left_out"]
    assert isinstance(standins, dict)
    assert isinstance(left_out, list)
    for name, what in standins.items():
        print(f"{name}: {what}")
    print(f"{len(standins)} stand-ins; {len(left_out)} missing files that no task loads were left out")
    print(f"PYTHONPATH={options.out.resolve()}")
    return 0
