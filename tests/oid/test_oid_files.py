"""Probe files as arrays, the rows of pairs, and what is named and passed over."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runners.oid import analysis
from runners.oid.analysis import Choice, analyse, survey
from runners.oid.common_rows import CommonRows, common_rows
from runners.oid.estimate import Settings
from runners.oid.probe_files import Epoch, Unreadable, files_of, probes_in, read
from tests.oid.oid_runs import EXPERTS, TARGET, content, write


def test_a_file_is_read_as_its_writer_wrote_it(tmp_path: Path) -> None:
    made = content(3, rows=30)
    epoch = read(write(tmp_path, made))
    assert (epoch.number, epoch.dataset, epoch.dense) == (3, "toy", True)
    assert epoch.counts == {f"{EXPERTS}.{i}": 50 if i == 1 else 100 + i for i in range(4)}
    for name, values in made["source_activations"].items():
        np.testing.assert_array_equal(epoch.sources[name], values.float().numpy())
    np.testing.assert_array_equal(epoch.targets[TARGET], made["target_activations"][TARGET].numpy())
    assert epoch.routed[f"{EXPERTS}.0"].all()
    np.testing.assert_array_equal(np.flatnonzero(epoch.routed[f"{EXPERTS}.2"]), np.arange(1, 30, 3))


def test_a_file_without_rows_is_taken_as_one_row_a_sample(tmp_path: Path) -> None:
    made = content(0, rows=30)
    del made["metadata"]["rows"]
    epoch = read(write(tmp_path, made))
    assert not epoch.dense
    assert epoch.routed == {}
    assert epoch.samples.tolist() == list(range(30))


def test_experts_that_have_names_are_matched_by_place(tmp_path: Path) -> None:
    made = content(0, rows=30)
    made["source_activations"] = {
        f"{EXPERTS}.{name}": made["source_activations"][f"{EXPERTS}.{i}"] for i, name in enumerate("abcd")
    }
    made["metadata"]["source_modules"] = list(made["source_activations"])
    made["metadata"]["expert_activation_counts"] = {EXPERTS: dict(zip("abcd", (1, 2, 3, 4), strict=True))}
    epoch = read(write(tmp_path, made))
    assert epoch.counts == {f"{EXPERTS}.{name}": i for i, name in enumerate("abcd", 1)}
    np.testing.assert_array_equal(np.flatnonzero(epoch.routed[f"{EXPERTS}.c"]), np.arange(1, 30, 3))


def test_files_are_sorted_by_epoch_and_others_are_named(tmp_path: Path) -> None:
    for number in (10, 9):
        write(tmp_path, content(number, rows=10))
    folder = tmp_path / "probes" / "moe"
    (folder / "notes.txt").write_text("mine")
    (folder / ".epoch_11.pt.gz.42").write_text("being written")
    found, foreign = files_of(tmp_path, "moe")
    assert [path.name for path in found] == ["epoch_9.pt.gz", "epoch_10.pt.gz"]
    assert foreign == [f"{folder / 'notes.txt'} is foreign: a probe's file is called epoch_N.pt.gz"]
    assert probes_in(tmp_path) == ["moe"]
    assert probes_in(tmp_path / "nowhere") == []


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, content(0, rows=10))
    moved = path.with_name("epoch_4.pt.gz")
    moved.write_bytes(path.read_bytes())
    with pytest.raises(Unreadable, match=r"epoch_4\.pt\.gz is foreign: its metadata is that of moe/epoch_0"):
        read(moved)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Unreadable, match=r"epoch_0\.pt\.gz cannot be read"):
        read(path)


def _sample(values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda made: made["metadata"]["rows"].update(sample=values)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["metadata"].update(rows={"seed": 0}),
        lambda made: made["metadata"].update(rows=[1]),
        _sample(list(range(30))),
        _sample(torch.arange(30) % 7),
        lambda made: made["metadata"]["rows"].update(routed_experts={EXPERTS: torch.zeros(30, dtype=torch.int64)}),
        lambda made: made["metadata"].update(expert_activation_counts=[1, 2]),
        lambda made: made["metadata"].update(expert_activation_counts={EXPERTS: [1, 2, 3, 4]}),
        lambda made: made["metadata"].update(expert_activation_counts={EXPERTS: {0: None}}),
        lambda made: made["target_activations"].update({TARGET: torch.ones(30, 3, dtype=torch.complex64)}),
    ],
)
def test_a_foreign_content_is_named_and_passed_over(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    write(tmp_path, content(0, rows=30))
    made = content(1, rows=30)
    change(made)
    path = tmp_path / "probes" / "moe" / "epoch_1.pt.gz"
    with gzip.open(path, "wb") as file:
        torch.save(made, file)
    found = survey(tmp_path, "moe", Choice())
    assert [each.name for each in found.files] == ["epoch_0.pt.gz"]
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(f"{path} is no probe's file: ")


def test_a_file_is_read_once_unless_the_run_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def noting(path: Path) -> Epoch:
        taken.append(path.name)
        return read(path)

    for epoch in (0, 1):
        write(tmp_path, content(epoch))
    monkeypatch.setattr(analysis, "read", noting)
    settings = Settings(1, surrogates=10)
    names = ["epoch_0.pt.gz", "epoch_1.pt.gz"]
    kept = analyse(tmp_path, "moe", Choice(experts=2), settings)
    assert taken == names
    # Four experts and the target, 300 rows of 3 float32: one epoch is within.
    monkeypatch.setattr(analysis, "KEPT", 5 * 300 * 3 * 4)
    again = analyse(tmp_path, "moe", Choice(experts=2), settings)
    assert taken == [*names, *names, names[1]]
    assert again.results == kept.results


def test_common_rows_say_how_they_are_common(tmp_path: Path) -> None:
    made = content(0, rows=30)
    made["target_activations"][TARGET][7] = torch.nan
    epoch = read(write(tmp_path, made))
    rng = np.random.default_rng(0)

    def rows(first: int, second: int, basis: str, limit: int = 100) -> CommonRows:
        return common_rows(
            epoch, f"{EXPERTS}.{first}", f"{EXPERTS}.{second}", TARGET, basis=basis, limit=limit, rng=rng
        )

    dense = rows(1, 2, "dense")
    assert dense.basis == "dense evaluation"
    assert dense.index.tolist() == [i for i in range(30) if i != 7]
    routed = rows(0, 2, "routed")
    assert routed.basis == "routed to both"
    assert routed.index.tolist() == [i for i in range(1, 30, 3) if i != 7]
    assert rows(1, 2, "routed").found == 0
    part = rows(1, 2, "dense", limit=5)
    assert (len(part.index), part.found) == (5, 29)
    assert sorted(set(part.index.tolist())) == part.index.tolist() == part.samples.tolist()
    with pytest.raises(ValueError, match=rf"epoch 0 holds no activations of {EXPERTS}\.9"):
        rows(0, 9, "dense")


def test_rows_without_activations_are_of_no_pair(tmp_path: Path) -> None:
    made = content(0, rows=30)
    del made["metadata"]["rows"]
    made["source_activations"][f"{EXPERTS}.0"][:10] = torch.nan
    made["source_activations"][f"{EXPERTS}.1"][20:, 1] = torch.inf
    epoch = read(write(tmp_path, made))
    both = f"{EXPERTS}.0", f"{EXPERTS}.1", TARGET
    rng = np.random.default_rng(0)
    found = common_rows(epoch, *both, basis="dense", limit=100, rng=rng)
    assert found.basis == "recorded for both"
    assert found.index.tolist() == list(range(10, 20))
    with pytest.raises(ValueError, match="does not say which rows were routed"):
        common_rows(epoch, *both, basis="routed", limit=100, rng=rng)
