"""The file of a probe: whole or not there, readable without pickled code, checked."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from infodyn.probe_file import (
    ProbeFileError,
    probe_files,
    probe_path,
    read_probe_file,
    write_probe_file,
)


def content(rows: int = 4) -> dict[str, Any]:
    return {
        "metadata": {
            "probe_name": "p",
            "epoch": 3,
            "source_modules": ["a", "b"],
            "target_modules": ["c"],
            "dataset_name": "d",
            "expert_activation_counts": {"experts": {0: 5, 1: 2}},
        },
        "source_activations": {"a": torch.randn(rows, 2), "b": torch.randn(rows, 3).bfloat16()},
        "target_activations": {"c": torch.randn(rows, 1)},
        "labels": torch.arange(rows),
    }


def rows(**changes: Any) -> dict[str, Any]:
    routed = {"experts": torch.zeros(4, 2, dtype=torch.int64)}
    return {"sample": torch.arange(4), "token": torch.zeros(4, dtype=torch.int64), "routed_experts": routed, **changes}


def test_written_and_read(tmp_path: Path) -> None:
    path = probe_path(tmp_path / "runs" / "r", "p", 3)
    assert path == tmp_path / "runs" / "r" / "probes" / "p" / "epoch_3.pt.gz"
    written = content()
    write_probe_file(path, written)
    read = read_probe_file(path)
    unpacked = torch.load(io.BytesIO(gzip.decompress(path.read_bytes())), weights_only=True)
    for each in (read, unpacked):
        assert each["metadata"] == written["metadata"]
        for side in ("source_activations", "target_activations"):
            assert each[side].keys() == written[side].keys()
            assert all(torch.equal(each[side][name], written[side][name]) for name in written[side])
        assert torch.equal(each["labels"], written["labels"])
    assert [each.name for each in path.parent.iterdir()] == ["epoch_3.pt.gz"]


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    written = content()
    for name in ("one", "two"):
        write_probe_file(tmp_path / name, written)
        time.sleep(1.1 if name == "one" else 0)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_files_of_a_probe_by_epoch(tmp_path: Path) -> None:
    for epoch in (10, 2, 0):
        write_probe_file(probe_path(tmp_path, "p", epoch), content())
    (tmp_path / "probes" / "p" / ".epoch_4.pt.gz.123").write_bytes(b"")
    (tmp_path / "probes" / "p" / "notes.txt").write_bytes(b"")
    assert [(epoch, path.name) for epoch, path in probe_files(tmp_path, "p")] == [
        (epoch, f"epoch_{epoch}.pt.gz") for epoch in (0, 2, 10)
    ]
    assert probe_files(tmp_path, "other") == []


def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="becomes a folder"):
        probe_path(tmp_path, "../p", 0)


class _Foreign:
    pass


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pt.gz"
    with pytest.raises(ProbeFileError, match="there is no such file"):
        read_probe_file(path)
    write_probe_file(path, content())
    whole = path.read_bytes()
    foreign = io.BytesIO()
    torch.save({"metadata": _Foreign()}, foreign)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (b"", whole[: len(whole) // 2], bytes(flipped), b"text", gzip.compress(foreign.getvalue())):
        path.write_bytes(damaged)
        with pytest.raises(ProbeFileError, match=r"epoch_1\.pt\.gz cannot be read"):
            read_probe_file(path)


def test_reading_unpacks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch goes back and forth in what it loads; on a gzip file each step back unpacks all before it again."""
    path = tmp_path / "epoch_0.pt.gz"
    write_probe_file(path, {**content(), "metadata": {**content()["metadata"], "rows": rows()}})
    rewound: list[object] = []
    monkeypatch.setattr(gzip.GzipFile, "rewind", rewound.append)
    monkeypatch.setattr(gzip._GzipReader, "_rewind", rewound.append)  # type: ignore[attr-defined]
    assert read_probe_file(path)["metadata"]["rows"].keys() == rows().keys()
    assert rewound == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda each: each.pop("labels"), r"\['labels'\] missing"),
        (lambda each: each["metadata"].pop("epoch"), r"\['epoch'\] missing in 'metadata'"),
        (lambda each: each["source_activations"].pop("a"), r"not those of metadata\['source_modules'\]"),
        (lambda each: each["target_activations"].update(c=torch.zeros(3, 1)), r"target c is \[3, 1\], not \[4, "),
        (
            lambda each: each["metadata"].update(
                rows={"sample": torch.arange(4), "token": torch.arange(2), "routed_experts": {}}
            ),
            r"metadata\['rows'\]: token is \[2\], not \[4\]",
        ),
        (lambda each: each["metadata"].update(epoch="3"), r"metadata\['epoch'\] is '3'"),
        (lambda each: each["metadata"].update(dataset_name=None), r"metadata\['dataset_name'\] is None"),
        (lambda each: each["metadata"].update(expert_activation_counts=[1, 2]), "expert_activation_counts"),
        (lambda each: each["metadata"].update(expert_activation_counts={"e": [1]}), "expert_activation_counts"),
        (lambda each: each["metadata"].update(expert_activation_counts={"e": {0: None}}), "expert_activation_counts"),
        (lambda each: each["metadata"].update(rows=[1]), r"metadata\['rows'\] is a list, not a dictionary"),
        (lambda each: each["metadata"].update(rows={"seed": 0}), r"\['sample', 'token', 'routed_experts'\] missing"),
        (lambda each: each["metadata"].update(rows=rows(sample=[0, 1, 2, 3])), r"sample is list, not \[4\]"),
        (lambda each: each["metadata"].update(rows=rows(sample=torch.ones(4))), "sample is torch.float32"),
        (lambda each: each["metadata"].update(rows=rows(sample=torch.tensor([0, 2, 1, 3]))), "sample does not rise"),
        (lambda each: each["metadata"].update(rows=rows(routed_experts=[])), "'routed_experts'. must be"),
        (
            lambda each: each["metadata"].update(rows=rows(routed_experts={"e": torch.zeros(4, dtype=torch.int64)})),
            r"e is \[4\], not \[4, k\]",
        ),
        (lambda each: each["source_activations"].update(a=torch.ones(4, 2, dtype=torch.complex64)), "a is torch.comp"),
        (lambda each: each["target_activations"].update(c=torch.ones(4, 1, dtype=torch.int64)), "c is torch.int64"),
    ],
)
def test_another_content_is_refused_on_both_ways(tmp_path: Path, change: Any, told: str) -> None:
    wrong = content()
    change(wrong)
    with pytest.raises(ProbeFileError, match=told):
        write_probe_file(tmp_path / "epoch_0.pt.gz", wrong)
    assert list(tmp_path.iterdir()) == []
    with gzip.open(tmp_path / "epoch_0.pt.gz", "wb") as file:
        torch.save(wrong, file)
    with pytest.raises(ProbeFileError, match=told):
        read_probe_file(tmp_path / "epoch_0.pt.gz")


def test_an_error_while_writing_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_0.pt.gz"
    write_probe_file(path, content())
    before = path.read_bytes()

    def fails(value: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="no space left"):
        write_probe_file(path, content())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_no_file(tmp_path: Path) -> None:
    """Killed in the midst: some megabytes are written of 70. A fork: it needs not import torch anew."""
    path = tmp_path / "probes" / "epoch_0.pt.gz"
    large = content()
    large["source_activations"]["a"] = torch.randn(20000, 1000)
    large["source_activations"]["b"] = large["target_activations"]["c"] = torch.zeros(20000, 1)
    large["labels"] = torch.zeros(20000)
    writer = multiprocessing.get_context("fork").Process(target=write_probe_file, args=(path, large))
    writer.start()
    try:
        until = time.monotonic() + 120
        while not any(each.stat().st_size > 3e6 for each in tmp_path.glob("probes/.epoch_0*")):
            assert writer.is_alive(), "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        writer.kill()
        writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert not path.exists()
    assert probe_files(tmp_path, "p") == []
