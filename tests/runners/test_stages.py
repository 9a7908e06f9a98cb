"""The stage engine, on commands of a line: what is kept, what runs again, and what a failure stops."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runners import processes
from runners.digests import Digests
from runners.processes import Busy, sole
from runners.progress import View
from runners.room import size_of
from runners.stage import BLOCKED, DONE, FAILED, KEPT, LEFT_OUT, PLANNED, Stage
from runners.stage_records import BEGUN, RECORD
from runners.stage_room import lacks
from runners.stages import Engine

REPOSITORY = Path(__file__).resolve().parents[2]
# Copies its input, and adds a line to a file outside for every time that it ran.
COPY = "import pathlib,sys; a,b,c=map(pathlib.Path,sys.argv[1:]); b.write_text(a.read_text()); c.open('a').write('x')"


class Place:
    """A stage `copy` over an input file, and a count of how often its command ran."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source, self.count, self.folder = root / "source", root / "count", root / "work" / "copy"
        self.output = self.folder / "out.txt"
        self.source.write_text("one", encoding="utf-8")
        self.said: list[str] = []

    def stage(self, **changes: object) -> Stage:
        values: dict[str, object] = {
            "name": "copy",
            "folder": self.folder,
            "command": [sys.executable, "-c", COPY, str(self.source), str(self.output), str(self.count)],
            "outputs": [self.output],
            "inputs": {"source": self.source},
            "options": {"checkout": "abc"},
        }
        return Stage(**(values | changes))  # type: ignore[arg-type]

    def engine(self, **options: bool) -> Engine:
        """A new engine, as a new process would have it."""
        return Engine(Digests(self.root / "digests.json"), self.said.append, **options)

    @property
    def ran(self) -> int:
        return len(self.count.read_text(encoding="utf-8")) if self.count.exists() else 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_stage_runs_once_and_is_kept_by_the_next_process(place: Place) -> None:
    assert place.engine().run(place.stage()).state == DONE
    assert place.output.read_text(encoding="utf-8") == "one"
    assert place.engine().run(place.stage()).state == KEPT
    assert place.ran == 1


def change_content(place: Place) -> Stage:
    place.source.write_text("two", encoding="utf-8")
    return place.stage()


def change_option(place: Place) -> Stage:
    return place.stage(options={"checkout": "abd"})


def change_command(place: Place) -> Stage:
    program, *rest = place.stage().command
    return place.stage(command=[program, "-B", *rest])


def remove_output(place: Place) -> Stage:
    place.output.unlink()
    return place.stage()


def cut_output(place: Place) -> Stage:
    place.output.write_text("", encoding="utf-8")
    return place.stage()


def lose_record(place: Place) -> Stage:
    (place.folder / RECORD).unlink()
    return place.stage()


def spoil_record(place: Place) -> Stage:
    (place.folder / RECORD).write_text('{"key": 1', encoding="utf-8")
    return place.stage()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (change_content, "input source"),
        (change_option, "option checkout"),
        (change_command, "command"),
        (remove_output, "output gone"),
        (cut_output, "cut short"),
        (lose_record, "not finished before"),
        (spoil_record, "not finished before"),
    ],
)
def test_it_runs_again_and_says_why(place: Place, change: Callable[[Place], Stage], word: str) -> None:
    place.engine().run(place.stage())
    outcome = place.engine().run(change(place))
    assert outcome.state == DONE
    assert word in outcome.why
    assert place.ran == 2
    assert place.output.read_text(encoding="utf-8") == place.source.read_text(encoding="utf-8")


def test_where_things_lie_and_the_times_of_files_are_no_change(place: Place) -> None:
    place.engine().run(place.stage())
    os.utime(place.source, (1, 1))
    assert place.engine().run(place.stage(environment={"HF_ENDPOINT": "https://mirror"})).state == KEPT


def test_same_size_and_old_times_do_not_hide_new_content(place: Place) -> None:
    place.engine().run(place.stage())
    before = place.source.stat()
    place.source.write_text("eno", encoding="utf-8")
    os.utime(place.source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.engine().run(place.stage()).state == DONE


def test_a_file_in_an_input_folder_counts_by_name_and_content(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("1", encoding="utf-8")
    digests = Digests()
    first = digests.of(folder)
    (folder / "deep" / "a").rename(folder / "deep" / "b")
    second = digests.of(folder)
    (folder / "deep" / "b").rename(folder / "deep" / "a")
    assert first == digests.of(folder) != second


def test_what_an_earlier_run_left_is_not_mixed_in(place: Place) -> None:
    place.engine().run(place.stage())
    (place.folder / "left over").touch()
    place.engine().run(change_content(place))
    assert not (place.folder / "left over").exists()


def test_a_failure_shows_the_tail_and_the_remedy_and_is_tried_again(place: Place) -> None:
    text = "import sys; print('early'); [print('line', i) for i in range(40)]; print('a\\rthe reason'); sys.exit(3)"
    outcome = place.engine().run(place.stage(command=[sys.executable, "-c", text], remedy="buy memory"))
    assert outcome.state == FAILED
    assert "exit code 3" in outcome.why
    assert "\nthe reason\n" in outcome.why
    assert "early" not in outcome.why
    assert outcome.why.endswith("buy memory")
    assert place.engine().run(place.stage()).state == DONE


def test_a_command_that_writes_nothing_or_what_will_not_do_is_no_success(place: Place) -> None:
    silent = place.stage(command=[sys.executable, "-c", "pass"])
    assert "did not write" in place.engine().run(silent).why
    checked = place.stage(check=lambda: "the checkpoint is empty")
    outcome = place.engine().run(checked)
    assert (outcome.state, outcome.why.splitlines()[0]) == (FAILED, "the checkpoint is empty")
    assert not (place.folder / RECORD).exists()


def test_a_missing_program_and_a_missing_input_are_named(place: Place) -> None:
    assert "no-such-program" in place.engine().run(place.stage(command=["no-such-program"])).why
    place.source.unlink()
    outcome = place.engine().run(place.stage())
    assert outcome.state == BLOCKED
    assert str(place.source) in outcome.why


def test_a_failure_blocks_what_needs_it_and_nothing_else(place: Place) -> None:
    engine = place.engine()
    bad = engine.run(
        place.stage(command=[sys.executable, "-c", "raise SystemExit(1)"], folder=place.root / "w" / "bad")
    )
    next_one = engine.run(place.stage(name="next", needs=["copy"], folder=place.root / "w" / "next"))
    after_that = engine.run(place.stage(name="last", needs=["next"], folder=place.root / "w" / "last"))
    other = engine.run(place.stage(name="other"))
    assert [o.state for o in (bad, next_one, after_that, other)] == [FAILED, BLOCKED, BLOCKED, DONE]
    assert "copy" in next_one.why


def test_a_stage_left_out_is_kept_where_it_holds_and_blocks_where_not(place: Place) -> None:
    outcome = place.engine().run(place.stage(), wanted=False)
    assert (outcome.state, place.ran) == (LEFT_OUT, 0)
    place.engine().run(place.stage())
    assert place.engine().run(place.stage(), wanted=False).state == KEPT
    assert place.engine().run(change_content(place), wanted=False).state == LEFT_OUT
    assert place.ran == 1


def test_a_dry_run_prints_the_command_and_writes_nothing(place: Place) -> None:
    stage = place.stage(environment={"A": "b c"})
    assert place.engine(dry=True).run(stage).state == PLANNED
    assert stage.exported() == ["A='b c'"]
    assert str(place.output) in place.said[0]
    assert not place.folder.exists()


SLOW = """
import pathlib, sys
sys.path.insert(0, {repository!r})
from runners.digests import Digests
from runners.processes import sole
from runners.stage import Stage
from runners.stages import Engine
root = pathlib.Path({root!r})
out = root / "stage" / "out.txt"
code = "import pathlib,time; pathlib.Path('out.txt').write_text('half'); time.sleep(60)"
with sole(root) as lock:
    Engine(Digests(), lock=lock).run(Stage("slow", root / "stage", [sys.executable, "-c", code], [out]))
"""


def start_slow(root: Path) -> subprocess.Popen[bytes]:
    """A run of its own whose stage has written its output and goes on for a minute."""
    process = subprocess.Popen([sys.executable, "-c", SLOW.format(repository=str(REPOSITORY), root=str(root))])
    deadline = time.monotonic() + 30
    while not (root / "stage" / "out.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def command_of(root: Path) -> list[int]:
    """Process ids of the stage's command: those that work in its folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if place.resolve() == (root / "stage").resolve():
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc to find the command")
def test_a_killed_run_is_not_taken_for_done_and_its_command_still_holds_the_folder(tmp_path: Path) -> None:
    process = start_slow(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    orphans = command_of(tmp_path)
    assert orphans
    with pytest.raises(Busy, match=str(process.pid)), sole(tmp_path):
        pass
    for orphan in orphans:
        os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while command_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    out = tmp_path / "stage" / "out.txt"
    assert out.read_text(encoding="utf-8") == "half"
    stage = Stage("slow", tmp_path / "stage", [sys.executable, "-c", "open('out.txt','w').write('whole')"], [out])
    with sole(tmp_path) as lock:
        outcome = Engine(Digests(), lambda _: None, lock=lock).run(stage)
    assert (outcome.state, outcome.why) == (DONE, "not finished before")
    assert out.read_text(encoding="utf-8") == "whole"


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc to find the command")
def test_an_interrupted_run_takes_its_command_with_it(tmp_path: Path) -> None:
    process = start_slow(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert command_of(tmp_path) == []
    with sole(tmp_path):
        pass


def test_a_record_says_what_was_run_on_what(place: Place) -> None:
    place.engine().run(place.stage())
    record = json.loads((place.folder / RECORD).read_text(encoding="utf-8"))
    assert record["outputs"] == {"out.txt": 3}
    assert record["parts"]["option checkout"] == "abc"
    assert str(place.source) in record["command"]


# Counts to ten in a file, from what is there; a number that is in `stop` ends it there, with that exit code.
COUNT = """
import pathlib, sys, time
out, stop, wait = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3])
begin = len(out.read_text().split()) if "--on" in sys.argv else 0
for number in range(begin, 10):
    if stop.exists() and int(stop.read_text()) == number:
        sys.exit(3)
    with out.open("a") as file:
        file.write(f"{number} ")
    print("wrote", number, flush=True)
    time.sleep(wait)
"""


class Counting:
    """A stage that can go on."""

    def __init__(self, root: Path, wait: float = 0.0) -> None:
        self.root, self.wait = root, wait
        self.out, self.stop = root / "stage" / "out.txt", root / "stop"
        self.asked = 0
        self.said: list[str] = []

    def resume(self) -> list[str] | None:
        self.asked += 1
        return [*self.stage().command, "--on"] if self.out.exists() else None

    def stage(self, **changes: object) -> Stage:
        command = [sys.executable, "-c", COUNT, str(self.out), str(self.stop), str(self.wait)]
        values = {"command": command, "outputs": [self.out], "resume": self.resume, "options": {"code": "1"}}
        return Stage("count", self.root / "stage", **(values | changes))  # type: ignore[arg-type]

    def run(self, stage: Stage | None = None, view: View | None = None) -> str:
        """Runs it in a new engine; returns the outcome's state."""
        say = self.said.append if view is None else None
        return Engine(Digests(), say, view=view).run(stage or self.stage()).state


WHOLE = "0 1 2 3 4 5 6 7 8 9 "


def test_a_stage_that_failed_goes_on_from_what_is_there(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    place.stop.write_text("4")
    assert place.run() == FAILED
    assert place.asked == 0
    assert place.out.read_text() == "0 1 2 3 "
    place.stop.unlink()
    assert place.run() == DONE
    assert place.out.read_text() == WHOLE
    log = (tmp_path / "stage" / "log.txt").read_text()
    assert log == "".join(f"wrote {number}\n" for number in range(10))
    assert "    count: not finished before, goes on\n" in place.said[-2]
    assert place.said[-2].endswith(" --on")
    record = json.loads((tmp_path / "stage" / RECORD).read_text())
    assert record["attempts"] == 2
    assert not record["command"].endswith("--on")
    assert not (tmp_path / "stage" / BEGUN).exists()
    assert place.run() == KEPT
    assert place.asked == 1


def test_a_stage_that_cannot_go_on_begins_anew_and_says_why(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    place.stop.write_text("4")
    stage = place.stage(resume=lambda: None, anew="it keeps no optimizer state")
    place.run(stage)
    place.stop.unlink()
    assert place.run(stage) == DONE
    assert place.out.read_text() == WHOLE
    assert "not finished before, begins anew (it keeps no optimizer state)\n" in place.said[-3]
    assert (tmp_path / "stage" / "log.txt").read_text().startswith("wrote 0\n")


def spend(folder: Path, seconds: float) -> None:
    """Makes the unfinished work in `folder` one of so many seconds."""
    begun = json.loads((folder / BEGUN).read_text())
    (folder / BEGUN).write_text(json.dumps(begun | {"spent": seconds}))


def test_what_begins_anew_moves_what_was_there_aside_and_one_folder_is_kept(tmp_path: Path) -> None:
    place, folder = Counting(tmp_path), tmp_path / "stage"
    stage = place.stage(resume=None)
    asides = []
    for number, seconds in ((3, 1000.0), (5, 900.0)):
        place.stop.write_text(str(number))
        place.run(stage)
        spend(folder, seconds)
        asides.append(tmp_path / f"stage.before-{len(asides) + 1}")
    assert (asides[0] / "out.txt").read_text() == "0 1 2 "
    assert f"what was there is now {asides[0]}" in "".join(place.said)
    place.stop.unlink()
    assert place.run(stage) == DONE
    assert (asides[1] / "out.txt").read_text() == "0 1 2 3 4 "
    assert f"what was there is now {asides[1]}, and stage.before-1 is removed" in "".join(place.said)
    assert not asides[0].exists()
    # Work that is done is not lost either, when something that it depends on changes.
    spent = json.loads((folder / RECORD).read_text()) | {"seconds": 800.0}
    (folder / RECORD).write_text(json.dumps(spent))
    assert place.run(place.stage(resume=None, options={"code": "2"})) == DONE
    assert (tmp_path / "stage.before-3" / "out.txt").read_text() == WHOLE
    assert len(list(tmp_path.glob("stage.before-*"))) == 1


def test_a_try_that_failed_at_once_does_not_cost_the_long_work_aside(tmp_path: Path) -> None:
    place, folder = Counting(tmp_path), tmp_path / "stage"
    stage = place.stage(resume=None)
    place.stop.write_text("6")
    place.run(stage)
    spend(folder, 100000.0)
    place.stop.write_text("0")
    for _ in range(3):
        assert place.run(stage) == FAILED
    assert (tmp_path / "stage.before-1" / "out.txt").read_text() == "0 1 2 3 4 5 "
    assert [path.name for path in tmp_path.glob("stage.before-*")] == ["stage.before-1"]
    assert "what was there is removed; " in place.said[-2]


def test_what_lies_aside_takes_its_room_and_what_is_gone_on_with_does_not(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    place.stop.write_text("4")
    place.run()
    size = size_of(tmp_path / "stage")
    assert lacks(place.stage(space=100_000)) == 100_000 - size
    assert lacks(place.stage(space=100_000, resume=None)) == 100_000
    place.run(place.stage(resume=None))
    assert lacks(place.stage(space=100_000, resume=None)) == 100_000 - size_of(tmp_path / "stage.before-1")


def test_a_resume_that_restores_less_is_in_the_record_and_said_again(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    stage = place.stage(inexact="the optimizer began anew")
    place.stop.write_text("4")
    place.run(stage)
    place.stop.write_text("6")
    place.run(stage)
    place.stop.unlink()
    # It went on twice; where the last time all was restored, the time before still counts.
    assert place.run() == DONE
    assert json.loads((tmp_path / "stage" / RECORD).read_text())["inexact"] == "the optimizer began anew"
    assert place.run(place.stage(resume=None)) == KEPT
    assert place.said[-1].endswith("; not as in one go: the optimizer began anew")


def test_work_that_was_begun_with_other_inputs_is_not_gone_on_with(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    place.stop.write_text("4")
    place.run()
    place.stop.unlink()
    assert place.run(place.stage(options={"code": "2"})) == DONE
    assert place.asked == 0
    assert place.out.read_text() == WHOLE
    assert "not finished before, begins anew (changed since: option code)\n" in place.said[-3]


def test_a_stage_that_fails_again_tells_how_to_begin_anew(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    place.stop.write_text("4")
    place.run()
    assert "begin anew" not in place.said[-1]
    place.run()
    assert f"to begin anew instead of going on, remove {tmp_path / 'stage' / BEGUN}" in place.said[-1]
    (tmp_path / "stage" / BEGUN).unlink()
    place.stop.unlink()
    assert place.run() == DONE
    assert place.asked == 1
    assert place.out.read_text() == WHOLE


def test_what_will_not_do_is_not_gone_on_with(tmp_path: Path) -> None:
    place = Counting(tmp_path)
    assert place.run(place.stage(check=lambda: "its weights are not finite")) == FAILED
    assert place.run() == DONE
    assert place.asked == 0
    assert place.out.read_text() == WHOLE


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from runners.processes import sole
from tests.runners.test_stages import Counting
root = Path({root!r})
with sole(root):
    Counting(root, 0.1).run()
"""


def test_a_runner_killed_again_and_again_ends_with_the_same_file(tmp_path: Path) -> None:
    for least in (3, 6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED.format(repository=str(REPOSITORY), root=str(tmp_path))]
        )
        out = tmp_path / "stage" / "out.txt"
        deadline = time.monotonic() + 30
        while not out.exists() or len(out.read_text().split()) < least:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
        for orphan in command_of(tmp_path):
            os.kill(orphan, signal.SIGKILL)
        while command_of(tmp_path):
            time.sleep(0.01)
    place = Counting(tmp_path)
    begun = json.loads((tmp_path / "stage" / BEGUN).read_text())
    assert begun["attempts"] == 2
    # The key holds the command, which was called with another pause.
    waiting = Counting(tmp_path, 0.1)
    assert waiting.run() == DONE
    assert place.out.read_text() == WHOLE
    record = json.loads((tmp_path / "stage" / RECORD).read_text())
    assert record["attempts"] == 3
    assert 0.5 < record["seconds"] < 20


METRICS = """
import json, pathlib, sys, time
with open("metrics.jsonl", "a") as file:
    for step in (1, 2, 3):
        file.write(json.dumps({"step": step, "loss/total": 1 / step, "success_rate": step / 4}) + chr(10))
        file.flush()
        print("working", step, flush=True)
        time.sleep(0.3)
pathlib.Path("out.txt").write_text("x")
"""


def test_a_stage_shows_its_metrics_and_what_its_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK", 0.05)
    stream = io.StringIO()
    out = tmp_path / "stage" / "out.txt"
    stage = Stage("train", out.parent, [sys.executable, "-c", METRICS], [out], metrics=("*.jsonl",), total=4)
    with View("demo", stream=stream, every=0.2, stages=2) as view:
        Engine(Digests(), view=view).run(stage)
        Engine(Digests(), view=view).run(
            Stage("silent", tmp_path / "b", [sys.executable, "-c", METRICS], [tmp_path / "b" / "out.txt"])
        )
    lines = stream.getvalue().splitlines()
    assert lines[0] == "    train: not run before"
    assert any(
        line.startswith("    stage 1 of 2, train: step 2 of 4 (50 %), loss 0.5, success 50.0 %, ") for line in lines
    )
    assert "    train: step 3 of 4 (75 %), loss 0.3333, success 75.0 %, ended after 0:0" in stream.getvalue()
    assert any(line.startswith("    stage 2 of 2, silent: working 2, 0:0") for line in lines)
    assert "    silent: done in 1 s" in lines


def test_figures_that_raise_are_told_once_and_the_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOOK", 0.05)
    stream = io.StringIO()

    def figures() -> dict[str, float]:
        raise ValueError("results.json is cut short")

    place = Counting(tmp_path, 0.05)
    with View("demo", stream=stream) as view:
        assert place.run(place.stage(figures=figures), view) == DONE
    assert stream.getvalue().count("its figures cannot be shown: ValueError: results.json is cut short") == 1


def test_an_interrupted_run_leaves_no_block_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK", 0.05)
    place = Counting(tmp_path, 0.1)

    def stop() -> dict[str, float]:
        if place.out.exists() and "3" in place.out.read_text():
            raise KeyboardInterrupt
        return {"step": 1}

    with View("demo", stream=io.StringIO()) as view, pytest.raises(KeyboardInterrupt):
        place.run(place.stage(figures=stop), view)
    assert command_of(tmp_path) == []
    assert place.run() == DONE
    assert place.out.read_text() == WHOLE
