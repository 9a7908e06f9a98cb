"""The table of causes: every row recognises its log and no other's, whatever healthy lines stand around it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.supervise.causes import BadTable, Cause, Ended, diagnose, explain, table
from runners.supervise.logtext import clean
from runners.supervise.remedies import REMEDIES

LOGS = Path(__file__).with_name("logs")
HEALTHY = sorted((LOGS / "healthy").glob("*.log"))
TABLE = table()
BY_NAME = {cause.name: cause for cause in TABLE}
FAILED = Ended(1, 60.0, False, False, False)
EXITS = {
    "aborted": Ended(-6, 60.0, False, False, False),
    "asked_to_end": Ended(-15, 60.0, False, False, False),
    "bad_option": Ended(2, 3.0, False, False, False),
    "hung": Ended(-15, 60.0, False, True, False),
    "segfault": Ended(-11, 60.0, False, False, False),
    "wandb_hung": Ended(-15, 60.0, False, True, False),
}
"""How the commands of the logs ended, where it was not with exit code 1."""


def lines_of(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8").split("\n")


def log_of(name: str) -> list[str]:
    return lines_of(LOGS / f"{name}.log")


def named(lines: list[str], ended: Ended = FAILED) -> str | None:
    cause = diagnose(lines, ended, TABLE).cause
    return cause.name if cause else None


def healthy() -> list[str]:
    return [line for path in HEALTHY for line in lines_of(path)]


@pytest.mark.parametrize("cause", TABLE, ids=lambda cause: cause.name)
def test_a_row_recognises_its_log(cause: Cause) -> None:
    diagnosis = diagnose(log_of(cause.log), EXITS.get(cause.name, FAILED), TABLE)
    assert diagnosis.cause is cause
    lines = log_of(cause.log)
    for number, text in diagnosis.lines:
        assert text.removesuffix(" …") in clean(lines[number - 1]).replace("\r", "\n")


def test_every_row_has_a_log_and_every_log_a_row() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == {cause.log for cause in TABLE}
    assert len({cause.log for cause in TABLE}) == len(TABLE)


@pytest.mark.parametrize("cause", [each for each in TABLE if each.patterns], ids=lambda cause: cause.name)
def test_a_log_is_unknown_without_its_row(cause: Cause) -> None:
    """No other row would take the log for its own but one that is the same death seen from further away."""
    others = tuple(each for each in TABLE if each is not cause)
    found = diagnose(log_of(cause.log), EXITS.get(cause.name, FAILED), others).cause
    further = {
        "shared_memory": {"worker_died"},
        "weights_not_downloaded": {"checkpoint_damaged"},
        "hub_rate_limited": {"hub_unreachable"},
        "hub_offline": {"hub_unreachable"},
        "certificate": {"hub_unreachable"},
        "gpu_fault": {"aborted"},
        "killed": {"nccl_timeout"},
    }
    assert found is None or found.name in further.get(cause.name, set())


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_a_healthy_log_has_no_cause(path: Path) -> None:
    ended = Ended(0, 60.0, False, False, False)
    assert diagnose(lines_of(path), ended, TABLE).cause is None
    text = "\n".join(map(clean, lines_of(path)))
    for cause in TABLE:
        for pattern in (*cause.patterns, *cause.signs):
            assert not pattern.search(text), f"{cause.name}: {pattern.pattern}"


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_a_failure_that_nobody_knows_is_told_with_the_lines_that_matter(path: Path) -> None:
    death = [
        "Traceback (most recent call last):",
        '  File "train.py", line 7, in <module>',
        "    moon()",
        "OddError: it is full",
    ]
    diagnosis = diagnose([*lines_of(path), *death, "and that was all"], FAILED, TABLE)
    assert diagnosis.cause is None
    told = [text for _, text in diagnosis.lines]
    assert [line for line in told if line in death] == death
    assert re.search(r"\d+/\d+ \[", "".join(told)), "the last progress bar"


NOISE = st.lists(
    st.sampled_from([line for line in healthy() if not re.search(r"/\d+ \[|Step|'loss'", line)]), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(BY_NAME)), before=st.lists(st.sampled_from(healthy()), max_size=300), after=NOISE)
def test_healthy_lines_around_a_death_change_nothing(name: str, before: list[str], after: list[str]) -> None:
    # Last words are the last.
    lines = [*before, *log_of(BY_NAME[name].log), *([] if BY_NAME[name].hung_at else after)]
    assert named(lines, EXITS.get(name, FAILED)) == name


@settings(max_examples=60, deadline=None)
@given(first=st.sampled_from(sorted(BY_NAME)), last=st.sampled_from(sorted(BY_NAME)))
def test_the_last_death_of_a_log_that_was_appended_to_is_the_one(first: str, last: str) -> None:
    went_on = [f"{at}%|█| {at}/100 [00:0{at}<01:00, 1.00s/it]" for at in range(1, 10)]
    good = "{'loss': '1.25', 'grad_norm': '0.5', 'learning_rate': '1e-05', 'epoch': '0.1'}"
    lines = [*log_of(BY_NAME[first].log), *went_on, good, *log_of(BY_NAME[last].log)]
    assert named(lines, EXITS.get(last, FAILED)) == last


def test_of_a_supervised_log_only_the_last_attempt_counts() -> None:
    begins = "2026-11-21T12:00:00.000Z  graft: attempt 2: python train.py"
    noted = "2026-11-21T12:00:00.000Z  graft: died (the command ended with exit code 1): CUDA out of memory"
    lines = [
        *log_of("gpu_out_of_memory"),
        noted,
        begins,
        "2026-11-21T12:00:01.000Z  Traceback (most recent call last):",
        "KeyError: 3",
    ]
    assert named(lines) is None
    assert named([*lines[:-2], *log_of("port_in_use")]) == "port_in_use"


RANK = "[rank{rank}]: "
LOST = [
    "Traceback (most recent call last):",
    "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer",
]
MEMORY = [
    "Traceback (most recent call last):",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
]
ODD = ["Traceback (most recent call last):", "KeyError: 'x'"]
TORCHRUN = "E1122 api.py:1002] failed (exitcode: {code}) local_rank: 1 (pid: 2) of binary: python"


def of_rank(rank: int, lines: list[str]) -> list[str]:
    return [RANK.format(rank=rank) + line for line in lines]


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ([*of_rank(0, MEMORY), *of_rank(1, LOST)], "gpu_out_of_memory"),
        ([*of_rank(1, LOST), *of_rank(0, MEMORY)], "gpu_out_of_memory"),
        ([a for pair in zip(of_rank(1, LOST), of_rank(0, MEMORY), strict=True) for a in pair], "gpu_out_of_memory"),
        ([*of_rank(1, ODD), *of_rank(0, LOST), TORCHRUN.format(code=1)], None),
        ([*of_rank(0, LOST), TORCHRUN.format(code=-9)], "killed"),
        ([*of_rank(0, LOST), TORCHRUN.format(code=-15)], "asked_to_end"),
        ([*of_rank(0, LOST), TORCHRUN.format(code=1)], "nccl_timeout"),
        ([*MEMORY, *[f"{at}%| {at}/90 [00:01<00:09, 1it/s]" for at in range(9)], *ODD], None),
        (["Retrying in 1s [Retry 1/5].", "Name or service not known", *ODD], None),
        (
            [*ODD, "", "During handling of the above exception, another exception occurred:", "", *MEMORY],
            "gpu_out_of_memory",
        ),
        (
            [*MEMORY, "", "During handling of the above exception, another exception occurred:", "", *ODD],
            "gpu_out_of_memory",
        ),
        ([*MEMORY, "Exception ignored in: <function GLContext.__del__>", *ODD], "gpu_out_of_memory"),
    ],
)
def test_the_root_and_not_what_it_brings_about(lines: list[str], name: str | None) -> None:
    assert named(lines) == name


@pytest.mark.parametrize(
    ("ended", "name"),
    [
        (Ended(-9, 9.0, True, False, False), "host_out_of_memory"),
        (Ended(1, 9.0, True, False, False), None),
        (Ended(137, 9.0, True, False, False), "host_out_of_memory"),
        (Ended(-9, 9.0, False, False, False), "killed"),
        (Ended(137, 9.0, False, False, False), "killed"),
        (Ended(-7, 9.0, False, False, False), "shared_memory"),
        (Ended(-11, 9.0, False, False, False), "segfault"),
        (Ended(-15, 9.0, False, True, False), "hung"),
        (Ended(-15, 9.0, False, False, False), "asked_to_end"),
        (Ended(-15, 9.0, False, False, True), None),
        (Ended(0, 9.0, False, False, False), None),
        (Ended(1, 9.0, False, False, False), None),
    ],
)
def test_an_exit_state_where_the_log_says_nothing(ended: Ended, name: str | None) -> None:
    assert named(lines_of(HEALTHY[0]), ended) == name


def test_the_kernels_line_tells_of_memory_where_nothing_counts_it() -> None:
    line = "[123.4] Memory cgroup out of memory: Killed process 77 (python) total-vm:9kB"
    assert named([*lines_of(HEALTHY[0]), line], Ended(-9, 9.0, False, False, False)) == "host_out_of_memory"


def test_the_kernels_count_decides_only_where_a_process_was_killed() -> None:
    """Another job's process may be the one that was killed for want of memory."""
    died = [*lines_of(HEALTHY[0]), *ODD]
    assert named(died, Ended(1, 9.0, True, False, False)) is None
    assert named([*died, TORCHRUN.format(code=1)], Ended(1, 9.0, True, False, False)) is None
    assert named([*of_rank(0, LOST), TORCHRUN.format(code=1)], Ended(1, 9.0, True, False, False)) == "nccl_timeout"
    assert named([TORCHRUN.format(code=-9)], Ended(1, 9.0, True, False, False)) == "host_out_of_memory"
    worker = "RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed. "
    assert named([ODD[0], worker], Ended(1, 9.0, True, False, False)) == "host_out_of_memory"
    assert named([ODD[0], worker], FAILED) == "worker_died"


SAMPLE = ["training example:", "inputs:", "how do I fix CUDA out of memory ? I get [Errno 28] No space left on device"]


@pytest.mark.parametrize(
    ("lines", "code", "name"),
    [
        (SAMPLE, 1, None),
        ([*SAMPLE, *ODD], 1, None),
        ([*SAMPLE, "some script failed"], 1, None),
        (SAMPLE, -9, "killed"),
        (SAMPLE, 139, "segfault"),
        (["inputs: Out of memory: Killed process 7 (python)"], -9, "killed"),
        (["WARNING: tensorboard: Address already in use, trying next", "ValueError: bad shape"], 1, None),
        (["ERROR: Address already in use, trying next", "ValueError: bad shape"], 1, None),
        (["[Errno 98] Address already in use, will try 6007", "Segmentation fault (core dumped)"], 139, "segfault"),
        (["Tokenizing: OSError: [Errno 28] is a disk error, in my README", "ERROR my own failure"], 2, None),
        (["OSError: [Errno 28] No space left on device"], 1, "disk_full"),
        (["Error: No space left on device (os error 28)"], 1, "disk_full"),
        (["[ERROR|2026-11-22 00:28:16] llamafactory.hparams:1 >> CUDA out of memory"], 1, "gpu_out_of_memory"),
        (["host1:77:99 [0] transport.cc:1 NCCL WARN Cuda failure 'out of memory'"], 1, "gpu_out_of_memory"),
        (["OSError: [Errno 28] No space left on device", *[f"line {at}" for at in range(500)]], 1, None),
        (["OutOfMemoryError: CUDA out of memory", "torch.x.ChildFailedError: "], 1, "gpu_out_of_memory"),
    ],
)  # fmt: skip
def test_words_of_a_sample_or_a_warning_name_no_cause(lines: list[str], code: int, name: str | None) -> None:
    assert named(lines, Ended(code, 9.0, False, False, False)) == name


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ("wandb: Waiting for W&B process to finish... (success).", "wandb_hung"),
        ("[rank0]: wandb: Network error (ConnectTimeout), entering retry loop.", "wandb_hung"),
        ("see wandb: it is slow", "hung"),
    ],
)
def test_what_hangs_with_wandbs_words(last: str, name: str) -> None:
    hung = Ended(-15, 1800.0, False, True, False)
    assert named(["wandb: Tracking run", *lines_of(HEALTHY[0])[:3], last, ""], hung) == name
    assert BY_NAME["wandb_hung"].remedies[0].name == "offline"


PAD = " " * 25
WRAPPED = [
    "11/21 [21:13:09] INFO     | >> Step 4, Loss:           train_starvla.py:276",
    f"{PAD} {{'action_dit_loss': nan,",
    f"{PAD} 'learning_rate/base': 1e-06,",
    f"{PAD} 'epoch': 0.17}})",
]


@pytest.mark.parametrize(
    "bad",
    [
        ["{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 1e-05, 'epoch': 0.5}"],
        ["{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '1e-05', 'epoch': '0.5'}"],
        ["{'loss': nan, 'grad_norm': 1.5, 'learning_rate': 1e-05, 'epoch': 0.5}"],
        ['{"current_steps": 8, "total_steps": 60, "loss": NaN, "lr": 1e-05, "epoch": 0.5}'.replace("NaN", "nan")],
        ["=>> [Global Step] 000120 =>> LR :: 0.000020 -- Loss :: nan"],
        WRAPPED,
        [line.replace("'action_dit_loss': nan,", "'action_dit_loss':") for line in WRAPPED[:2]]
        + [f"{PAD} nan,", *WRAPPED[2:]],
        [line.replace("nan,", "np.float64(nan),") for line in WRAPPED],
    ],
)
def test_a_loss_that_is_no_number_in_every_upstreams_words(bad: list[str]) -> None:
    fine = "{'loss': 1.25, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.5}"
    assert named([fine, *bad]) == "nan_loss"
    assert named([fine, *bad, *lines_of(HEALTHY[0])[:5]]) == "nan_loss"
    assert named([*bad, fine]) is None, "it has recovered"
    assert named([*bad, *MEMORY]) == "gpu_out_of_memory"
    assert named([*bad, *ODD]) is None


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("ModuleNotFoundError: No module named 'flash_attn'", "flash_attn"),
        (
            "ImportError: Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install -U bitsandbytes`",
            "bitsandbytes",
        ),
        (
            "ImportError: LlamaConverter requires the protobuf library but it was not found in your environment.",
            "protobuf",
        ),
        ("importlib.metadata.PackageNotFoundError: No package metadata was found for liger-kernel", "liger-kernel"),
    ],
)
def test_the_missing_packages_name(line: str, package: str) -> None:
    assert diagnose([line], FAILED, TABLE).found["package"] == package


def test_the_module_of_a_package_that_is_there_is_not_to_be_installed() -> None:
    assert named(["ModuleNotFoundError: No module named 'transformers.deepspeed'"]) == "package_version"


def test_remedies_are_those_that_there_are() -> None:
    for cause in TABLE:
        assert cause.remedies, cause.name
        assert {remedy.name for remedy in cause.remedies} <= set(REMEDIES), cause.name
        assert all(remedy.limit > 0 for remedy in cause.remedies if remedy.name != "report"), cause.name


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("cause", [each for each in TABLE if each.patterns], ids=lambda cause: cause.name)
def test_an_explanation_says_all(cause: Cause, lang: str) -> None:
    told = explain(LOGS / f"{cause.log}.log", TABLE, lang)
    flat = "".join(told.split())
    assert cause.name in told
    assert "".join((cause.says_zh if lang == "zh" else cause.says).split()) in flat
    assert "".join((cause.advice_zh if lang == "zh" else cause.advice).split()) in flat
    for remedy in cause.remedies:
        assert remedy.name in told


def test_a_bar_that_repaints_itself_is_one_line_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bar = b"\r".join(b"%d/9 [00:01" % at for at in range(9))
    log.write_bytes(b"begin\n" + bar + b"\rtorch says\nOutOfMemoryError: CUDA out of memory\n")
    assert "       3  OutOfMemoryError: CUDA out of memory" in explain(log, TABLE, "en").split("\n")


def test_an_explanation_takes_the_exit_state_from_the_supervisors_notes(tmp_path: Path) -> None:
    note = (
        "2026-11-21T12:59:00.000Z  graft: died (the command was ended by SIGTERM, without a word for too long): it hung"
    )
    log = tmp_path / "log.txt"
    log.write_text("\n".join([*log_of("hung"), note]), encoding="utf-8")
    assert "hung: " in explain(log, TABLE, "en")
    log.write_text(
        "\n".join([*log_of("hung"), "2026-11-21T12:59:00.000Z  graft: done: ended well at step 80"]), encoding="utf-8"
    )
    assert "It did not die." in explain(log, TABLE, "en")


def test_ones_own_rows_come_first_and_replace_ours(tmp_path: Path) -> None:
    row = """[[cause]]
name = "{name}"
says = "ours"
says_zh = "我们的"
patterns = ['''CUDA out of memory''']
remedies = [{{ name = "wait", limit = 2, seconds = 5 }}]
changes_result = "no"
advice = "a"
advice_zh = "b"
log = "none"
"""
    own = tmp_path / "causes.toml"
    own.write_text(row.format(name="killed"), encoding="utf-8")
    causes = table(own)
    assert len(causes) == len(TABLE)
    diagnosis = diagnose(log_of("gpu_out_of_memory"), FAILED, causes)
    assert diagnosis.cause is not None
    assert (diagnosis.cause.says, dict(diagnosis.cause.remedies[0].values)) == ("ours", {"seconds": 5})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("says = ", "tells = "), "unknown tells"),
        (("advice = ", "# "), "lacks advice"),
        (('"no"', '"perhaps"'), "changes_result"),
        (("a+", "a("), "patterns"),
        (("limit = 1", "times = 1"), "limit"),
        (("limit = 1", 'limit = "3"'), "remedies: wait: limit is '3'"),
        (("limit = 1", "limit = true"), "remedies: wait: limit"),
        (("limit = 1", "limit = -1"), "remedies: wait: limit"),
        (('name = "wait"', 'name = "restart"'), "remedies: name is 'restart', not one of .*wait"),
        (("limit = 1 }", 'limit = 1, seconds = "60" }'), "remedies: wait: seconds is '60'"),
        (("limit = 1 }", "limit = 1, second = 60 }"), "remedies: wait: unknown second"),
        (("limit = 1 }", "limit = 1, environment = { A = 1 } }"), "remedies: wait: environment"),
        (("[{", "{"), "remedies is .* no list"),
        (('["a+"]', '"a+"'), "patterns is 'a\\+', no list"),
        (('["a+"]', "[3]"), "patterns: no regular"),
        (('log = "odd"', 'log = "odd"\nexit = 3'), "exit is 3, no list"),
        (('log = "odd"', 'log = "odd"\nexit = ["3"]'), "exit has '3'"),
        (('log = "odd"', 'log = "odd"\nfollows = "yes"'), "follows"),
        (('log = "odd"', "log = 3"), "log is 3, no text"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    own = tmp_path / "causes.toml"
    row = """[[cause]]
name = "odd"
says = "s"
says_zh = "s"
patterns = ["a+"]
remedies = [{ name = "wait", limit = 1 }]
changes_result = "no"
advice = "a"
advice_zh = "a"
log = "odd"
"""
    assert change[0] in row
    text = row.replace(*change)
    own.write_text(text.replace("} ]", "}").replace("}]", "}") if change[0] == "[{" else text, encoding="utf-8")
    with pytest.raises(BadTable, match=rf"causes\.toml, row odd: .*{said}"):
        table(own, REMEDIES)


def test_two_rows_of_a_name_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "causes.toml"
    own.write_text((TOML := LOGS.parents[3].joinpath("runners/supervise/causes.toml").read_text()) + "\n" + TOML)
    with pytest.raises(BadTable, match="name: another row has it"):
        table(own)


@pytest.mark.parametrize("lines", [["x" * 10_000] * 8_000, ["ab " * 10_000_000], ["\r".join(["y" * 99] * 300_000)]])
def test_long_lines_take_seconds(lines: list[str]) -> None:
    began = time.monotonic()
    assert named([*lines, *log_of("gpu_out_of_memory")]) == "gpu_out_of_memory"
    assert time.monotonic() - began < 20.0


def test_of_a_long_line_the_beginning_and_the_end_are_read() -> None:
    for line in ("OSError: [Errno 28] No space left" + "x" * 99_999, "ERROR " + "x" * 99_999 + " [Errno 28] "):
        assert named([line]) == "disk_full"


def test_a_million_lines_take_seconds() -> None:
    line = " 10%|█         | {0}/1000000 [00:04<00:11,  2.56it/s]"
    lines = [line.format(number) for number in range(1_000_000)] + log_of("gpu_out_of_memory")
    began = time.monotonic()
    assert named(lines) == "gpu_out_of_memory"
    assert time.monotonic() - began < 20.0
