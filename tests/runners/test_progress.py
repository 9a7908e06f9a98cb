"""The view of a run: a block on a real pseudo terminal of several widths, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time

import pytest
from rich.cells import cell_len, get_character_cell_size

from runners.cells import cell, clean, cut, wrapped
from runners.progress import UNITS, View
from runners.progress_block import Block
from runners.rate import Rate, clock_time
from tests.runners.screens import REPOSITORY, Screen, Terminal

RUN = """
import sys, time
from runners.progress import View
lang = {lang!r}
with View("demo", lang=lang, stages=3, every={every}) as view:
    view.say("    begin")
    view.stage("first", total=2000)
    view.update(step=200, loss=1.5, learning_rate=5e-4)
    time.sleep(0.4)
    view.update(step=400, loss=float("inf"))
    view.note("\\x1b[31mred\\x1b[0m 一个很长很长的日志行" + "x" * 300)
    time.sleep(0.4)
    view.say("    said\\n    twice")
    view.update(step=600, loss=0.25, drift=0.0213, success=0.84)
    time.sleep(0.4)
    view.say("    MARK")
    {then}
print("after")
"""


def blocks(text: str) -> list[str]:
    """What was painted, painting by painting."""
    return text.split("\x1b[J")


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_block_fits_the_terminal_and_goes_away(columns: int, lang: str) -> None:
    terminal = Terminal(RUN.format(lang=lang, every=30, then="time.sleep(0.3)"), columns)
    text = terminal.end()
    assert terminal.code == 0
    screen = Screen(columns)
    # What stands there while MARK has just been said.
    screen.feed(text[: text.index("\x1b[J", text.index("MARK"))])
    begin = screen.lines.index("    MARK") + 1
    block = [line for line in screen.lines[begin:] if line]
    assert all(cell_len(line) < columns for line in block)
    known = " ".join(block)
    expected = {
        "en": "stage 1 of 3, first|step 600 of 2,000 (30 %)|loss 0.25|learning rate 0.0005|drift 0.0213|success 84.0 %|"
        "0:01 passed| left|› red 一个",
        "zh": "阶段 1/3、first|第 600/2,000 步 (30 %)|损失 0.25|学习率 0.0005|漂移 0.0213|成功率 84.0 %|"
        "已用 0:01|剩余|> red 一个",
    }[lang].split("|")
    assert [word for word in expected if word not in known] == []
    full, end = {"en": "━…", "zh": "#~"}[lang]
    bar = next(line for line in block if full * 5 in line)
    assert bar.count(full) == 3 * len(bar) // 10
    assert block[-1].endswith(end)
    # At the end: what was said, once each and in order, the last figures, and nothing of the block.
    screen = Screen(columns)
    screen.feed(text)
    lines = [line for line in screen.lines if line]
    assert lines[:4] == ["    begin", "    said", "    twice", "    MARK"]
    assert lines[-1] == "after"
    rest = "".join(lines[4:-1])
    assert rest.startswith("    first: ")
    assert ("ended after 0:01" if lang == "en" else "用时 0:01 结束") in rest
    assert full * 5 not in rest


def test_it_is_painted_a_few_times_a_second_at_most() -> None:
    busy = "for i in range(2000): view.update(step=600 + i, loss=i); time.sleep(0.0005)"
    text = Terminal(RUN.format(lang="en", every=30, then=busy), 80).end()
    painted = [part for part in blocks(text) if "━" in part]
    # 1.2 s of RUN and 1 s or more of updates; 2 more from what is said.
    assert 4 <= len(painted) <= 4 * 4


def test_another_width_is_used_from_the_next_painting() -> None:
    then = "open('/dev/tty').readline(); view.update(step=700); time.sleep(0.6); view.say('DONE'); time.sleep(0.2)"
    terminal = Terminal(RUN.format(lang="en", every=30, then=then), 120)
    terminal.until(lambda text: "MARK" in text)
    terminal.resize(50)
    terminal.press("\n")
    text = terminal.end()
    assert terminal.code == 0
    late = next(part for part in blocks(text) if "step 700" in part)
    screen = Screen(50)
    screen.feed(late[late.index("\x1b[1m") :])
    assert max(cell_len(line) for line in screen.lines) in (48, 49)
    wide = next(part for part in blocks(text) if "step 200" in part)
    assert max(cell_len(clean(line)) for line in wide.split("\n")) > 60


def test_ctrl_c_leaves_the_terminal_as_it_was() -> None:
    code = RUN.format(lang="en", every=30, then="time.sleep(60)")
    terminal = Terminal(code, 80)
    before = terminal.modes()
    terminal.until(lambda text: "MARK" in text)
    terminal.press("\x03")
    text = terminal.until(lambda text: "KeyboardInterrupt" in text)
    assert terminal.modes() == before
    text = terminal.end()
    assert terminal.code != 0
    screen = Screen(80)
    screen.feed(text)  # raises at any escape that changes a mode
    lines = [line for line in screen.lines if line]
    assert not any("━" in line for line in lines)
    assert "    MARK" in lines


@pytest.mark.parametrize("variable", ["NO_COLOR", "CI", "TERM"])
def test_a_terminal_that_wants_no_colour_gets_plain_lines(variable: str) -> None:
    text = Terminal(RUN.format(lang="en", every=0.3, then=""), 80, {variable: "dumb"}).end()
    assert "\x1b" not in text
    told = (
        r"    stage 1 of 3, first: step [246]00 of 2,000 \([123]0 %\), loss \S+, learning rate 0.0005, .*0:0\d passed, "
    )
    assert re.search(told, text)


def test_the_view_needs_nothing_but_python() -> None:
    hide = "import sys\nsys.modules['rich'] = None\n"
    text = Terminal(hide + RUN.format(lang="en", every=30, then="time.sleep(0.3)"), 80).end()
    assert "━" in text
    assert "no live view" not in text


@pytest.mark.parametrize(("lang", "locale"), [("zh", "C.UTF-8"), ("en", "zh_CN.UTF-8"), ("en", "ja_JP.UTF-8")])
def test_where_ambiguous_characters_may_take_two_cells_the_bar_is_ascii(lang: str, locale: str) -> None:
    code = RUN.format(lang=lang, every=30, then="time.sleep(0.3)")
    text = Terminal(code, 60, {"LC_ALL": locale}).end()
    assert not set("━─·›…") & set(text)
    assert "#" * 17 + "\x1b" in text
    # Wide characters as such a terminal draws them, and nothing is broken over lines.
    screen = Screen(60)
    screen.feed(text[: text.index("\x1b[J", text.index("MARK"))])
    begin = screen.lines.index("    MARK") + 1
    assert max(cell_len(line) for line in screen.lines[begin:]) < 60


def block(**changes: object) -> Block:
    known: dict[str, object] = {"title": "a run with a long name", "stage": "stage 3 of 9, imitation", "step": 5}
    known |= {"total": 10, "counted": ["step 5 of 10 (50 %)"], "measured": ["loss 0.1", "drift 0.2", "success 30.0 %"]}
    known |= {"times": ["9:59 passed", "1:00 left"], "note": "a line of the log"}
    return Block(**(known | changes))  # type: ignore[arg-type]


def test_on_a_narrow_terminal_the_title_goes_before_the_stage() -> None:
    def head(width: int, **changes: object) -> str:
        return clean(block(**changes).lines(width, 20)[0])

    assert head(60) == "stage 3 of 9, imitation · a run with a long name"
    assert head(36) == "stage 3 of 9, imitation · a run wit…"
    assert head(30) == "stage 3 of 9, imitation"
    assert head(30, title="t") == "stage 3 of 9, imitation · t"
    assert head(12) == "stage 3 of…"
    assert head(30, stage="") == "a run with a long name"


def test_with_few_rows_stage_step_and_time_left_stay() -> None:
    lines = {rows: [clean(line) for line in block().lines(30, rows)] for rows in range(1, 8)}
    assert all(len(found) <= rows for rows, found in lines.items())
    assert lines[7] == lines[6]
    assert lines[6][-1] == "› a line of the log"
    assert lines[5] == lines[6][:-1]
    assert not any("loss" in line or "log" in line for line in lines[4])
    assert lines[4][1].startswith("━")
    assert lines[4][2:] == lines[3][1:] == ["step 5 of 10 (50 %)", "1:00 left · 9:59 passed"]
    assert lines[2] == [lines[1][0], "step 5 of 10 (50 %)"]


def test_cells_are_those_of_an_independent_table() -> None:
    text = "abc 中文日志，「」ａ、한글 é ½ e\u0301"
    assert [cell(letter) for letter in text] == [get_character_cell_size(letter) for letter in text]
    assert [cell(letter, wide=True) for letter in "━·›…a中"] == [2, 2, 1, 2, 1, 2]


def test_a_terminal_without_the_letters_gets_others() -> None:
    code = RUN.format(lang="en", every=30, then="time.sleep(0.3)")
    terminal = Terminal(code, 80, {"PYTHONIOENCODING": "ascii"})
    text = terminal.end()
    assert terminal.code == 0
    assert text.isascii()
    assert "#" * 18 + "\x1b" in text


def test_a_pipe_gets_whole_lines_at_once() -> None:
    code = RUN.format(lang="en", every=0.5, then="time.sleep(60)")
    run = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    try:
        lines = []
        while not lines or "MARK" not in lines[-1]:
            lines.append(run.stdout.readline())
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    assert lines[0] == "    begin\n"
    assert "\x1b" not in "".join(lines)
    told = [line for line in lines if line.startswith("    stage 1 of 3, first: step ")]
    # 1.2 s at 0.5 s a line.
    assert len(told) == 2
    assert "left" in told[1]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_of_two_stages() -> None:
    clock, stream = Clock(), io.StringIO()
    view = View("demo", stream=stream, stages=2, clock=clock)
    view.stage("first", 10)
    view.update(step=4, loss=0.123456)
    clock.now += 61
    view.stage("second")
    view.note("reads the data")
    clock.now += 5
    view.end()
    view.say("over")
    assert stream.getvalue() == "    first: step 4 of 10 (40 %), loss 0.1235, ended after 1:01\nover\n"


def test_a_run_without_stages_is_shown_by_its_title() -> None:
    stream = io.StringIO()
    with View("finetune", stream=stream) as view:
        view.update(3, 4, loss=0.5)
    assert stream.getvalue() == "    finetune: step 3 of 4 (75 %), loss 0.5, ended after 0:00\n"


def test_a_line_comes_every_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.progress.PAINT", 0.01)
    stream = io.StringIO()
    with View("demo", stream=stream, every=0.2) as view:
        view.stage("alone")
        view.note("\x1b[2Kreading\r99 %\r100 %")
        while "\n" not in stream.getvalue():
            time.sleep(0.01)
    assert stream.getvalue() == "    alone: 100 %, 0:00 passed\n"


def test_a_stream_that_is_gone_ends_the_view_and_not_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    view = View("demo", stream=Gone())
    view.say("unheard")
    view.say("unheard")
    assert isinstance(view.gone, BrokenPipeError)


def test_time_left_comes_from_the_last_steps() -> None:
    rate = Rate()
    rate.add(0, 0)
    assert rate.left(5, 100) is None
    for step in range(1, 101):
        rate.add(10 * step, step)  # ten seconds a step
    for step in range(101, 140):
        rate.add(1000 + step, step)  # then one
    assert rate.left(1139, 239) == pytest.approx(100)
    assert rate.left(1149, 239) == pytest.approx(90)
    assert rate.left(5000, 239) == 0
    # A run that went on from step 120 knows nothing of its rate yet.
    rate.add(2000, 120)
    assert rate.left(2000, 239) is None
    rate.add(2010, 125)
    assert rate.left(2010, 225) == pytest.approx(200)


def test_words_of_times_cuts_and_wrapping() -> None:
    assert [clock_time(s) for s in (0, 61, 3600, 86399, 183845)] == [
        "0:00",
        "1:01",
        "1:00:00",
        "23:59:59",
        "2 d 3:04:05",
    ]
    # Seven cells are three wide letters and the dots.
    assert cut("中文日志很长", 7) == "中文日…"
    assert cut("中文日志很长", 8) == "中文日…"
    assert cut("abc", 3) == "abc"
    assert wrapped(["aa", "bb", "中文字", "c"], " · ", 7) == ["aa · bb", "中文字", "c"]
    assert clean("a\x1b]0;title\x07b\x1b[1;31mc\x1b[0m\x08\td") == "abc d"


def test_every_label_has_its_chinese() -> None:
    stream = io.StringIO()
    view = View("演示", stream=stream, lang="zh")
    view.stage("一", 3)
    names = ("loss", "eval_loss", "learning_rate", "gradient_norm", "drift", "success", "epoch")
    view.update(step=1, **dict.fromkeys(names, 0.5))
    view.end()
    for unit in UNITS:
        view.stage("二", 3, unit)
        view.update(step=1)
        view.update(total=0)
        view.end()
        view.stage("三", 3, unit)
        view.update(step=1)
    view.end()
    assert not any(letter.isascii() and letter.isalpha() for letter in stream.getvalue())
