"""Stand-ins for assets that a checkout lacks: outside of it, recorded, never in the place of a file that is there."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from runners import libero_assets as tool

ASSETS = "libero/libero/assets"
MISSING = (
    f"{ASSETS}/scenes/lamp/visual/lamp_vis.msh",
    f"{ASSETS}/objects/black_bowl/visual/black_bowl_vis.msh",
    f"{ASSETS}/objects/black_bowl/texture.png",
    f"{ASSETS}/objects/black_bowl/black_bowl.obj",
)
TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1/1 2/2 4/4\nf 1 4 3\nf -3 -2 -1\n"


def git(place: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(place), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small LIBERO of which the files in ``MISSING`` are tracked and absent, as after a fetch that lacked them."""
    place = tmp_path / "LIBERO"
    files = {
        "libero/__init__.py": "",
        "libero/libero/__init__.py": "from pathlib import Path\nHERE = Path(__file__).parent.absolute()\n",
        f"{ASSETS}/objects/black_bowl/black_bowl_col.obj": TETRAHEDRON,
        f"{ASSETS}/objects/there.png": "a real one",
        "README.md": "",
        **dict.fromkeys(MISSING, "large"),
    }
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
    git(place, "init", "-q")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "all")
    git(place, "update-index", "--skip-worktree", *MISSING)
    for name in MISSING:
        (place / name).unlink()
    return place


def everything(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_a_module_that_follows_its_own_links_still_finds_the_stand_ins(checkout: Path, tmp_path: Path) -> None:
    """LIBERO's floor scenes look beside ``os.path.realpath(__file__)``."""
    tool.build(checkout, tmp_path / "out")
    module = tmp_path / "out" / "libero/libero/__init__.py"
    assert module.resolve().is_relative_to((tmp_path / "out").resolve())
    assert (module.resolve().parent / "assets/scenes/lamp/visual/lamp_vis.msh").is_file()
    (checkout / "libero/libero/__init__.py").unlink()
    tool.build(checkout, tmp_path / "out")
    assert not module.exists()


def test_missing_files_get_stand_ins_and_the_checkout_stays_as_it_is(checkout: Path, tmp_path: Path) -> None:
    before = everything(checkout)
    manifest = tool.build(checkout, tmp_path / "out")
    assert everything(checkout) == before
    assert git(checkout, "status", "--porcelain") == ""
    out = tmp_path / "out"
    assert json.loads((out / ASSETS / tool.MANIFEST).read_text()) == manifest
    assert manifest["standins"] == {
        "objects/black_bowl/texture.png": "one flat colour",
        "objects/black_bowl/visual/black_bowl_vis.msh": "the collision mesh black_bowl_col.obj",
        "scenes/lamp/visual/lamp_vis.msh": "a cube of 0.02 m",
    }
    assert manifest["left_out"] == [f"{ASSETS}/objects/black_bowl/black_bowl.obj"]
    assert (out / ASSETS / "objects/there.png").read_text() == "a real one"
    assert not (out / "README.md").exists()


def test_the_package_says_that_it_lies_in_the_folder(checkout: Path, tmp_path: Path) -> None:
    tool.build(checkout, tmp_path / "out")
    scope: dict[str, object] = {"__file__": str(tmp_path / "out/libero/libero/__init__.py")}
    exec((tmp_path / "out/libero/libero/__init__.py").read_text(), scope)
    assert scope["HERE"] == tmp_path / "out/libero/libero"


def test_a_second_run_follows_the_checkout(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tool.build(checkout, out)
    (checkout / MISSING[2]).write_text("the real texture")
    (checkout / ASSETS / "objects/there.png").unlink()
    (checkout / "libero/later.py").write_text("")
    manifest = tool.build(checkout, out)
    standins = manifest["standins"]
    assert isinstance(standins, dict)
    assert "objects/black_bowl/texture.png" not in standins
    assert (out / MISSING[2]).read_text() == "the real texture"
    assert (out / "libero/later.py").is_file()
    assert not (out / ASSETS / "objects/there.png").is_symlink()
    assert not (checkout / ASSETS / "objects/there.png").exists(), "nothing goes through a dead link"


def test_meshes_are_mujocos(checkout: Path, tmp_path: Path) -> None:
    tool.build(checkout, tmp_path / "out")
    content = (tmp_path / "out" / MISSING[1]).read_bytes()
    counts = struct.unpack_from("<4i", content)
    assert counts == (4, 4, 4, 4)
    positions = struct.unpack_from("<12f", content, 16)
    assert positions == (0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1)
    normals = struct.unpack_from("<12f", content, 64)
    lengths = [sum(part**2 for part in normals[k : k + 3]) ** 0.5 for k in range(0, 12, 3)]
    assert lengths == pytest.approx([1.0] * 4, abs=1e-6)
    assert normals[:3] == pytest.approx([-(3**-0.5)] * 3, abs=1e-6), "the corner at the origin looks away from the rest"
    faces = struct.unpack_from("<12i", content, 16 + 4 * (12 + 12 + 8))
    assert faces == (0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3)
    assert len(content) == 16 + 4 * (12 + 12 + 8 + 12)


def test_a_cube_looks_outwards() -> None:
    vertices, faces = tool.cube(0.5)
    for face in faces:
        a, b, c = (vertices[corner] for corner in face)
        u, v = [q - p for p, q in zip(a, b, strict=True)], [q - p for p, q in zip(a, c, strict=True)]
        normal = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
        assert sum(n * (p + q + r) for n, p, q, r in zip(normal, a, b, c, strict=True)) > 0
    assert len({frozenset(face) for face in faces}) == 12


def test_textures_are_pictures(checkout: Path, tmp_path: Path) -> None:
    tool.build(checkout, tmp_path / "out")
    content = (tmp_path / "out" / MISSING[2]).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I5B", content[16:29]) == (64, 64, 8, 2, 0, 0, 0)
    size = struct.unpack(">I", content[33:37])[0]
    assert zlib.decompress(content[41 : 41 + size]) == (b"\0" + bytes(tool.DARK) * 64) * 64
    assert struct.unpack(">I", content[41 + size : 45 + size])[0] == zlib.crc32(content[37 : 41 + size])


def test_what_cannot_be_used_is_said(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "mine/libero").mkdir(parents=True)
    for given, out, words in [
        (tmp_path / "bare", tmp_path / "out", "no git checkout"),
        (checkout, checkout / "libero/assets", "inside the checkout"),
        (checkout, tmp_path / "mine", "not made by this tool"),
    ]:
        assert tool.main(["--checkout", str(given), "--out", str(out)]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "mine/libero").iterdir()) == []


def test_the_command_says_what_it_did(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--checkout", str(checkout), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "3 stand-ins; 1 missing files" in said
    assert f"PYTHONPATH={tmp_path / 'out'}" in said
