"""The log of a supervised run: whole, stamped, and short where a bar repaints itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.supervise import masking
from runners.supervise.stamped import BROKEN, LONGEST, Stamped, stamp


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def stamped(path: Path, start: int = 0) -> tuple[int, list[str]]:
    log = Stamped(path)
    found = log.lines_from(start)
    log.close()
    return found


def texts(path: Path, start: int = 0) -> list[str]:
    return [line.split("  ", 1)[1] for line in stamped(path, start)[1]]


def test_a_stamp_is_utc_with_milliseconds() -> None:
    assert stamp(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


def test_every_line_has_the_time_at_which_it_came(tmp_path: Path) -> None:
    clock = Clock()
    log = Stamped(tmp_path / "log", clock)
    log.feed(b"first\nsec")
    clock.now += 2.5
    log.feed(b"ond\n\nlast")
    log.close()
    assert stamped(tmp_path / "log", 0)[1] == [
        "2023-11-14T22:13:20.000Z  first",
        "2023-11-14T22:13:22.500Z  second",
        "2023-11-14T22:13:22.500Z  ",
        "2023-11-14T22:13:22.500Z  last",
    ]


def test_a_bar_leaves_one_state_a_second_and_its_last(tmp_path: Path) -> None:
    clock = Clock()
    log = Stamped(tmp_path / "log", clock, clock)
    for count in range(40):
        log.feed(f"\r{count}/40".encode())
        clock.now += 0.25
    assert log.last == "39/40"
    log.feed(b"\nend\r\n")
    log.close()
    shown = texts(tmp_path / "log")
    assert shown[-1] == "end"
    assert shown[-2] == "39/40"
    assert 9 <= len(shown) <= 13
    numbers = [int(text.split("/")[0]) for text in shown[:-1]]
    assert numbers == sorted(numbers)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")), min_size=1
    ),
    st.data(),
)
def test_no_line_is_lost_however_the_bytes_are_cut(lines: list[str], data: st.DataObject) -> None:
    import tempfile

    whole = "\n".join(lines).encode() + b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    with tempfile.TemporaryDirectory() as folder:
        log = Stamped(Path(folder) / "log", Clock())
        for first, last in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            log.feed(whole[first:last])
        log.close()
        kept = (Path(folder) / "log").read_text(encoding="utf-8").split("\n")[:-1]
    assert [line.split("  ", 1)[1] for line in kept] == "\n".join(lines).split("\n")


def test_a_second_writer_appends(tmp_path: Path) -> None:
    first = Stamped(tmp_path / "log", Clock())
    first.feed(b"one\n")
    first.close()
    second = Stamped(tmp_path / "log", Clock())
    start = second.size()
    second.note("two\nthree")
    second.close()
    assert texts(tmp_path / "log", start) == ["graft: two", "graft: three"]
    assert stamped(tmp_path / "log", start)[0] == 1


def test_bars_are_counted_by_a_clock_that_nobody_sets_back(tmp_path: Path) -> None:
    clock, ticks = Clock(), Clock()
    log = Stamped(tmp_path / "log", clock, ticks)
    for count in range(40):
        log.feed(f"\r{count}/40".encode())
        clock.now -= 3600.0
        ticks.now += 0.5
    log.close()
    assert 19 <= len(texts(tmp_path / "log")) <= 22


def test_a_line_without_an_end_is_broken_and_says_so(tmp_path: Path) -> None:
    log = Stamped(tmp_path / "log", Clock())
    said = "é words ".encode() * 40_000
    for at in range(0, len(said), 10_001):
        log.feed(said[at : at + 10_001])
    log.feed(b"end\n" + b"x" * 200_000 + b"\nlast\n")
    log.close()
    shown = texts(tmp_path / "log")
    assert all(len(line.encode()) <= LONGEST + len(BROKEN) for line in shown)
    assert sum(line.endswith(BROKEN) for line in shown) == len(said) // LONGEST + 200_000 // LONGEST
    whole = "".join(line.removesuffix(BROKEN) for line in shown)
    assert whole == said.decode() + "end" + "x" * 200_000 + "last"


def test_output_without_lines_takes_seconds(tmp_path: Path) -> None:
    log = Stamped(tmp_path / "log")
    began = time.monotonic()
    for _ in range(3_000):
        log.feed(b"x" * 10_000)
    log.close()
    assert time.monotonic() - began < 20.0
    assert (tmp_path / "log").stat().st_size > 30_000_000


def test_a_file_is_stamped_in_pieces(tmp_path: Path) -> None:
    lines = [f"{at} {'é' * (at % 50)}" for at in range(60_000)]
    (tmp_path / "raw").write_text("\n".join(lines), encoding="utf-8")
    log = Stamped(tmp_path / "log", Clock())
    log.feed_from(tmp_path / "raw")
    log.close()
    assert texts(tmp_path / "log") == lines


def test_secrets_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_values", set())
    masking.learn(
        ["train", "--hub_token", "opensesame1", "WANDB_API_KEY=0123456789abcdef"], {"MY_PASSWORD": "hunter2222"}
    )
    log = Stamped(tmp_path / "log", Clock())
    log.feed(b"logged in as opensesame1\nkey 0123456789")
    log.feed(b"abcdef\rat hunter2222\n")
    log.note("with hunter2222")
    log.feed(b"half opensesame1")
    assert "opensesame" not in log.last
    log.close()
    assert texts(tmp_path / "log") == ["logged in as ***", "key ***", "at ***", "graft: with ***", "half ***"]


def test_what_a_full_disk_does_not_take_is_kept_and_written_later(tmp_path: Path) -> None:
    log = Stamped(tmp_path / "log", Clock())
    log.feed(b"before\n")
    start = log.size()
    real = log._out
    with open("/dev/full", "wb", buffering=0) as full:
        log._out = full
        log.feed(b"during\n")
        log.note("own")
        assert log.trouble is not None
        assert [line.split("  ", 1)[1] for line in log.lines_from(start)[1]] == ["during", "graft: own"]
        assert log.lines_from(start)[0] == 1
    log._out = real
    log.feed(b"after\n")
    assert log.trouble is None
    log.close()
    assert texts(tmp_path / "log") == ["before", "during", "graft: own", "after"]
