"""The formats, on files that the real libraries wrote, and on damage of every kind."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import pytest

from runners.supervise.metrics import events, wire
from runners.supervise.metrics.reader import Reader
from runners.supervise.metrics.row import Row
from tests.runners.supervise.library_metrics import DATA
from tests.runners.supervise.metrics_files import Told, event_record, same, wandb_file

LOGGED = json.loads((DATA / "logged.json").read_text(encoding="utf-8"))
WANDB = ["wandb-0.28.wandb", "wandb-0.31.wandb"]
EVENTS = "events.out.tfevents.1.tensorboard-2.15"


def read(path: Path, told: Told | None = None) -> list[Row]:
    return Reader(path.parent, [path.name], say=Told(silent=True) if told is None else told).poll()


def flat(values: dict) -> dict[str, float]:
    """What was logged, under our names: written out by hand for the keys of library_metrics.py."""
    names = {"train_loss": "loss", "success_rate/total": "success", "grad_norm": "gradient_norm"}
    found = {names.get(name, name): float(value) for name, value in values.items() if type(value) in (int, float)}
    if "probes" in values:
        found["probes/1/mean"] = float(values["probes"]["1"]["mean"])
    if "learning_rate/base" in values:
        found["learning_rate"] = values["learning_rate/base"]
    return found


@pytest.mark.parametrize("name", WANDB)
def test_wandb_file_holds_what_was_logged(name: str) -> None:
    rows = read(DATA / name)
    assert [row.step for row in rows] == [step for step, _ in LOGGED[name]] == list(range(0, 101, 10))
    for row, (_, values) in zip(rows, LOGGED[name], strict=True):
        assert same(row.values, flat(values))
    assert math.isnan(rows[8].values["loss"])
    walls = [row.wall for row in rows]
    assert walls == sorted(walls)
    assert 1_700_000_000 < walls[0] < walls[-1] < walls[0] + 60


def test_event_file_holds_what_was_logged_in_three_styles() -> None:
    rows = read(DATA / EVENTS)
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.step, {}).update(row.values)
    assert sorted(found) == list(range(0, 101, 10))
    for step, values in LOGGED[EVENTS]:
        assert same(found[step], flat(values))
    assert not any("picture" in row.values or "weights" in row.values for row in rows)
    assert all(row.wall > 1_700_000_000 for row in rows)


@pytest.mark.parametrize("name", [*WANDB, EVENTS])
def test_a_file_that_grows_byte_by_byte_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    data, path = (DATA / name).read_bytes(), tmp_path / name
    told = Told()
    reader, rows = Reader(tmp_path, [name], say=told), []
    for end in [*range(1, len(data), 23), len(data)]:
        path.write_bytes(data[:end])
        rows += reader.poll()
    assert [(row.step, repr(row.values)) for row in rows] == [(row.step, repr(row.values)) for row in read(DATA / name)]
    assert reader.poll() == []
    assert told == []


@pytest.mark.parametrize("name", WANDB)
def test_a_damaged_wandb_record_is_told_of_and_passed_over(name: str, tmp_path: Path) -> None:
    sound = (DATA / name).read_bytes()
    # The loss of step 30 stands in the row's record, and in others: of the row as it came, and of the summary.
    places = [place for place in range(len(sound)) if sound.startswith(b"2.625", place)]
    lost = []
    for place in places:
        data = bytearray(sound)
        data[place] ^= 1
        path, told = tmp_path / name, Told()
        path.write_bytes(data)
        reader = Reader(tmp_path, [name], say=told)
        lost.append(set(range(0, 101, 10)) - {row.step for row in reader.poll()})
        path.write_bytes(data + b"\0")
        assert reader.poll() == []
        assert len(told) == 1
        assert re.fullmatch(re.escape(str(path)) + r": the record at byte \d+ is damaged", told[0])
    assert sorted(lost, key=len)[-2:] == [set(), {30}]


def test_a_damaged_length_in_a_wandb_file_costs_its_block_and_no_more(tmp_path: Path) -> None:
    rows = [{"_step": step, "loss": step / 8, "padding": "x" * 3000} for step in range(40)]
    data = bytearray(wandb_file(rows))
    assert len(data) > 3 * 32768
    # The first record that begins in the second block: behind the end of the one that leads into it.
    start = 32768 + 7 + int.from_bytes(data[32768 + 4 : 32768 + 6], "little")
    data[start + 4 : start + 6] = b"\xff\xff"
    path, told = tmp_path / "run-x.wandb", Told()
    path.write_bytes(data)
    steps = [row.step for row in Reader(tmp_path, ["*.wandb"], say=told).poll()]
    first = len(wandb_file(rows[:11]))
    assert first == start
    lost = sorted(set(range(40)) - set(steps))
    # Also the row that leads out of the block.
    assert lost == list(range(11, lost[-1] + 1))
    assert len(wandb_file(rows[: lost[-1]])) < 2 * 32768 < len(wandb_file(rows[: lost[-1] + 1]))
    assert told == [f"{path}: the record at byte {start} is damaged"]


def test_wandb_records_over_several_blocks(tmp_path: Path) -> None:
    rows = [
        {"_step": step, "loss": step / 8, "padding": "y" * size} for step, size in enumerate([10, 70_000, 32_700, 5])
    ]
    data = wandb_file(rows)
    path = tmp_path / "run-x.wandb"
    told = Told()
    reader = Reader(tmp_path, ["*.wandb"], say=told)
    found = []
    for end in [*range(0, len(data), 1009), len(data)]:
        path.write_bytes(data[:end])
        found += [(row.step, row.values) for row in reader.poll()]
    assert found == [(step, {"loss": step / 8}) for step in range(4)]
    assert told == []


@pytest.mark.parametrize("room", range(9))
def test_a_wandb_record_that_ends_shortly_before_its_block(room: int, tmp_path: Path) -> None:
    """A block's last 6 bytes or fewer hold no header and are zeros; 7 are the header of an empty first piece."""

    def data(size: int) -> bytes:
        return wandb_file([{"_step": 0, "loss": 1.0, "padding": "x" * size}, {"_step": 1, "loss": 0.5}])

    def ends(size: int) -> int:
        return len(wandb_file([{"_step": 0, "loss": 1.0, "padding": "x" * size}]))

    size = 32_000 + 32_768 - room - ends(32_000)
    assert ends(size) == 32_768 - room
    (tmp_path / "run-x.wandb").write_bytes(data(size))
    assert [row.step for row in read(tmp_path / "run-x.wandb")] == [0, 1]


def test_what_looks_like_a_record_inside_a_damaged_one_is_none(tmp_path: Path) -> None:
    inner = wandb_file([{"_step": 99, "loss": 9.0}])[7:]
    data = bytearray(wandb_file([{"_step": 0, "loss": 1.0}], [b"z" * 70 + inner]))
    start = len(wandb_file([{"_step": 0, "loss": 1.0}]))
    data[start + 6] = 9
    data += bytes(-len(data) % 32_768) + wandb_file([{"_step": 1, "loss": 0.5}])[7:]
    (tmp_path / "run-x.wandb").write_bytes(data)
    told = Told()
    assert [row.step for row in read(tmp_path / "run-x.wandb", told)] == [0, 1]
    assert len(told) == 1


def test_the_middle_of_a_long_wandb_record_is_damaged(tmp_path: Path) -> None:
    rows = [{"_step": step, "loss": 1.0, "padding": "y" * size} for step, size in enumerate([10, 100_000, 20])]
    data = bytearray(wandb_file(rows))
    data[50_000] ^= 8
    path, told = tmp_path / "run-x.wandb", Told()
    path.write_bytes(data)
    assert [row.step for row in Reader(tmp_path, ["*.wandb"], say=told).poll()] == [0, 2]
    assert len(told) == 1
    assert "the record at byte 32768 is damaged" in told[0]


def test_what_is_no_wandb_file_is_told_of_once(tmp_path: Path) -> None:
    path, told = tmp_path / "run-x.wandb", Told()
    path.write_bytes(b"version https://git-lfs")
    reader = Reader(tmp_path, ["*.wandb"], say=told)
    assert reader.poll() == []
    path.write_bytes(b"version https://git-lfs and more")
    assert reader.poll() == []
    assert len(told) == 1
    assert "no wandb file" in told[0]


def test_a_damaged_event_is_passed_over_and_a_damaged_length_ends_the_file(tmp_path: Path) -> None:
    records = [event_record(step, "train/loss", step / 4) for step in range(6)]
    starts = [sum(map(len, records[:place])) for place in range(6)]
    data = bytearray(b"".join(records))
    data[starts[2] + 20] ^= 1
    path, told = tmp_path / "events.out.tfevents.1", Told()
    path.write_bytes(data)
    reader = Reader(tmp_path, ["*tfevents*"], say=told)
    assert [(row.step, row.values) for row in reader.poll()] == [(s, {"loss": s / 4}) for s in (0, 1, 3, 4, 5)]
    assert told == [f"{path}: the record at byte {starts[2]} is damaged"]
    other, told = tmp_path / "events.out.tfevents.2", Told()
    data[starts[4]] ^= 1
    other.write_bytes(data)
    reader = Reader(tmp_path, ["*tfevents.2"], say=told)
    assert [row.step for row in reader.poll()] == [0, 1, 3]
    other.write_bytes(data + records[0])
    assert reader.poll() == []
    assert told[1:] == [
        f"{other}: the length of the record at byte {starts[4]} is damaged; what follows in this file is not read"
    ]


def test_a_large_event_is_passed_over_unread(tmp_path: Path) -> None:
    first, last = event_record(1, "loss", 1.0), event_record(2, "loss", 0.5)
    length = struct.pack("<Q", events.LARGEST + 1)
    head = length + struct.pack("<I", events.masked_crc(length))
    path, told = tmp_path / "events.out.tfevents.1", Told()
    reader = Reader(tmp_path, ["*tfevents*"], say=told)
    path.write_bytes(first + head + bytes(events.LARGEST))
    assert [row.step for row in reader.poll()] == [1]
    path.write_bytes(first + head + bytes(events.LARGEST + 5) + last)
    assert [row.step for row in reader.poll()] == [2]
    assert told == []


def test_masked_crc_of_known_bytes() -> None:
    """RFC 3720, B.4: CRC-32C of 32 bytes of zeros is 8a9136aa, of 0 to 31 it is 46dd794e (as numbers)."""

    def masked(crc: int) -> int:
        return (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32

    assert events.masked_crc(bytes(32)) == masked(0x8A9136AA)
    assert events.masked_crc(bytes(range(32))) == masked(0x46DD794E)


def test_wire_format() -> None:
    """The examples of protobuf.dev's "Encoding"."""
    assert wire.varint(b"\x96\x01", 0) == (150, 2)
    assert list(wire.fields(b"\x08\x96\x01\x12\x07testing")) == [(1, 150), (2, b"testing")]
    assert wire.signed(2**64 - 2) == -2
    assert wire.floats(struct.pack("<2f", 1.5, -2.0), 4) == (1.5, -2.0)
    for cut in (b"\x08", b"\x08\x96", b"\x12\x07test", b"\x0d\x00\x00", b"\x0b", b"\x08" + b"\xff" * 11):
        with pytest.raises(wire.Damaged):
            list(wire.fields(cut))
    with pytest.raises(wire.Damaged):
        wire.floats(b"abc", 4)
    with pytest.raises(wire.Damaged):
        wire.message(3)
    with pytest.raises(wire.Damaged):
        wire.signed(b"")
