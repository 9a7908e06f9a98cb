"""Init states and checkpoints are read without running what a file names."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from tests.libero.overlays import guard  # noqa: E402

arrays, models = guard("torch_arrays"), guard("torch_models")
Refused = guard("torch_files").Refused


class Runs:
    """Unpickled by anything that trusts it, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


class EasyDict(dict):
    """A stand-in for the real one: items are attributes too, set through ``__setattr__``."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        super().__setitem__(name, value)

    __setitem__ = __setattr__


EasyDict.__module__ = "easydict"


@pytest.fixture
def easydict(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(os)("easydict")
    module.EasyDict = EasyDict
    monkeypatch.setitem(__import__("sys").modules, "easydict", module)


def saved(path: Path, value: Any, *, legacy: bool = False) -> str:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return str(path)


def with_pickle(path: Path, made: bytes) -> str:
    """A zip file like torch.save's, around a pickle of our own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", made)
        archive.writestr("archive/version", "3\n")
    return str(path)


CASES = [
    np.linspace(0, 1, 50 * 7).reshape(50, 7),
    np.arange(12, dtype=np.int64).reshape(3, 4),
    np.array([1.5, -2.25], dtype=np.float32),
    np.array([[True, False]]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3, dtype=">f8"),
    np.array(3.5),
]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("value", CASES, ids=lambda value: f"{value.dtype.str}{value.shape}")
def test_what_torch_saved_is_read(value: Any, legacy: bool, tmp_path: Path) -> None:
    found = arrays.load(saved(tmp_path / "states", value, legacy=legacy))
    assert type(found) is np.ndarray
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert found.tobytes() == value.tobytes()
    assert found.flags.writeable


@pytest.mark.parametrize("core", ["core", "_core"], ids=["numpy 1", "numpy 2"])
def test_files_of_either_numpy_are_read(core: str, tmp_path: Path) -> None:
    value = np.arange(6.0).reshape(2, 3)
    made = pickle.dumps(value, protocol=2)
    own = b"numpy._core.multiarray" if b"numpy._core.multiarray" in made else b"numpy.core.multiarray"
    made = made.replace(own, f"numpy.{core}.multiarray".encode())
    assert np.array_equal(arrays.load(with_pickle(tmp_path / "states", made)), value)


def test_upstream_cannot_read_them_any_more(tmp_path: Path) -> None:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        pytest.skip("weights_only became the default with torch 2.6")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(saved(tmp_path / "states", CASES[0]))


@pytest.mark.parametrize("reader", [arrays, models], ids=["arrays", "models"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_a_file_that_would_run_code_is_refused(reader: Any, legacy: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = saved(tmp_path / "states", Runs(mark), legacy=legacy)
    with pytest.raises(Refused, match=r"states is not read: it names (posix|nt)\.mkdir"):
        reader.load(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.is_dir(), "the file is armed"


@pytest.mark.parametrize("reader", [arrays, models], ids=["arrays", "models"])
def test_code_in_front_of_the_data_is_refused(reader: Any, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "states"
    file.write_bytes(pickle.dumps(Runs(mark), protocol=2))
    with pytest.raises(Refused, match="mkdir"):
        reader.load(str(file))
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
        np.array(["text"]),
        torch.zeros(3),
        {"states": np.zeros(3)},
        [1, 2],
        "text",
    ],
    ids=["objects", "structured", "text array", "tensor", "dictionary", "list", "text"],
)
def test_what_is_not_one_array_of_numbers_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="states"):
        arrays.load(saved(tmp_path / "states", value))


def test_an_armed_object_array_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(Refused):
        arrays.load(saved(tmp_path / "states", np.array([Runs(mark)], dtype=object)))
    assert not mark.exists()


def test_bytes_that_do_not_fit_the_shape_are_refused(tmp_path: Path) -> None:
    made = pickle.dumps(np.arange(4.0), protocol=2)
    short = made.replace(b"K\x04\x85", b"K\x05\x85")  # the shape (4,) becomes (5,)
    assert short != made
    with pytest.raises(Refused, match="do not belong together"):
        arrays.load(with_pickle(tmp_path / "states", short))


@pytest.mark.parametrize("content", [b"", b"PK", b"no pickle at all", b"\x80\x02K\x01."])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "states").write_bytes(content)
    with pytest.raises(Refused, match="states"):
        arrays.load(str(tmp_path / "states"))


def checkpoint() -> dict[str, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.bfloat16)
    cfg = EasyDict()
    cfg["seed"], cfg["policy"] = 7, EasyDict(layers=[1, 2.5, "x", None, True])
    return {"state_dict": model.state_dict(), "cfg": cfg, "previous_masks": {0: torch.ones(2, dtype=torch.uint8)}}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_what_upstream_saves_of_a_model_is_read(legacy: bool, tmp_path: Path, easydict: None) -> None:
    made = checkpoint()
    found = models.load(saved(tmp_path / "model", made, legacy=legacy), map_location="cpu")
    assert type(found["state_dict"]) is OrderedDict
    for name, tensor in made["state_dict"].items():
        assert found["state_dict"][name].dtype == tensor.dtype
        assert torch.equal(found["state_dict"][name], tensor)
    assert type(found["cfg"]) is EasyDict
    assert found["cfg"] == made["cfg"]
    assert found["cfg"].seed == 7
    assert found["cfg"].policy["layers"] == [1, 2.5, "x", None, True]
    assert torch.equal(found["previous_masks"][0], made["previous_masks"][0])


def test_map_location_goes_to_torch(tmp_path: Path) -> None:
    file = saved(tmp_path / "model", {"state_dict": {"w": torch.ones(2)}})
    assert models.load(file, map_location="meta")["state_dict"]["w"].device.type == "meta"


def test_weights_only_cannot_read_such_a_checkpoint(tmp_path: Path, easydict: None) -> None:
    if not hasattr(torch.serialization, "safe_globals"):
        pytest.skip("torch before 2.5 has no list of safe globals for a while")
    file = saved(tmp_path / "model", checkpoint())
    with torch.serialization.safe_globals([EasyDict]), pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)


def test_an_archive_of_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    with pytest.raises(Refused, match="TorchScript"):
        models.load(str(file))


@pytest.mark.parametrize("module", [arrays, models], ids=["arrays", "models"])
def test_the_rest_is_torch(module: Any) -> None:
    assert module.zeros is torch.zeros
    assert module.nn is torch.nn
    assert module.utils.data.random_split is torch.utils.data.random_split
    assert module.load is not torch.load
    buffer = io.BytesIO()
    module.save({"a": 1}, buffer)
    assert buffer.getvalue()
    with pytest.raises(AttributeError):
        module.no_such_thing  # noqa: B018
