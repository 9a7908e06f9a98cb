"""The runner from end to end on a fake checkout: order, commands, resuming, failures, exit codes, the report."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runners import orphans, table
from runners.openvla_arms import ARMS
from runners.openvla_gradient_surgery import main
from tests.runners.fake_openvla import Fake, make

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    for name in ("GRAFT_WORK", "GRAFT_DATA_ROOT", "HF_HUB_CACHE", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    return make(tmp_path)


def report(fake: Fake) -> str:
    return (fake.work / "report.html").read_text(encoding="utf-8")


TWO = ["--seeds", "0,1"]
TRAINED = ["finetune baseline-seed0", "finetune baseline-seed1", "finetune method-seed0", "finetune method-seed1"]
EVALUATED = ["eval before libero_object"] + [
    f"eval {arm}-seed{seed} {suite}"
    for arm in ("baseline", "method")
    for seed in (0, 1)
    for suite in ("libero_spatial", "libero_object")
]


def test_everything_runs_in_order_once_and_the_second_run_does_nothing(fake: Fake) -> None:
    assert main(fake.arguments(*TWO)) == 0
    assert fake.take_notes() == ["probe", "icsm vulnerability", *TRAINED, *EVALUATED]
    html = report(fake)
    assert main(fake.arguments(*TWO)) == 0
    assert fake.take_notes() == []
    assert cut_time(report(fake)) == cut_time(html)


def cut_time(html: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d|done|kept", "", html)


def test_the_scores_in_the_report_are_those_of_the_checkpoints(fake: Fake) -> None:
    assert main(fake.arguments(*TWO)) == 0
    lost = {}
    for arm in ("baseline", "method"):
        configs = [fake.work / "train" / arm / f"seed{seed}" / "runs" for seed in (0, 1)]
        kept = [json.loads(next(path.glob("*/config.json")).read_text(encoding="utf-8"))["kept"] for path in configs]
        assert kept[0] != kept[1]
        lost[arm] = [0.9 - round(1000 * value) / 1000 for value in kept]
    html = report(fake)
    for values in lost.values():
        mean, half = sum(values) / 2, 12.7062047 * abs(values[0] - values[1]) / 2
        assert f">{100 * mean:.1f} % ± {100 * half:.1f} (2 seeds)</td>" in html
    assert "is not the pinned upstream" in html
    assert str(fake.root / "LIBERO") in html
    # The same seed gives both arms the same numbers at the start: the runs are paired.
    assert lost["baseline"][0] - lost["method"][0] == pytest.approx(0.4, abs=1.1e-3)


def test_a_change_reruns_what_depends_on_it(fake: Fake) -> None:
    assert main(fake.arguments()) == 0
    fake.take_notes()
    (fake.root / "data" / "libero_spatial_no_noops" / "episodes").write_text("others", encoding="utf-8")
    assert main(fake.arguments("--set", "icsm.layers=2")) == 0
    notes = fake.take_notes()
    assert notes[:4] == ["probe", "icsm vulnerability", "finetune baseline-seed0", "finetune method-seed0"]
    # The same checkpoints came out, so what was evaluated holds.
    assert notes[4:] == []
    script = fake.root / "openvla" / "experiments" / "robot" / "libero" / "run_libero_eval.py"
    script.write_text(script.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    assert main(fake.arguments("--set", "icsm.layers=2")) == 0
    assert len(fake.take_notes()) == 4 + 5


def test_a_new_module_in_the_checkout_is_a_change(fake: Fake) -> None:
    assert main(fake.arguments("--arms", "baseline")) == 0
    fake.take_notes()
    (fake.root / "openvla" / "research" / "new.py").write_text("x = 1\n", encoding="utf-8")
    assert main(fake.arguments("--arms", "baseline")) == 0
    assert fake.take_notes()[0] == "finetune baseline-seed0"


def test_one_more_arm_trains_only_that(fake: Fake) -> None:
    assert main(fake.arguments()) == 0
    fake.take_notes()
    assert main(fake.arguments("--arms", "all", "--guard-new-task")) == 0
    arms = ("higher_rate", "no_icsm_rerank", "no_hsw", "no_thermostat", "random_subspace", "input_guard")
    assert fake.take_notes() == [
        *("icsm singular_value", "icsm random"),
        *(f"finetune {arm}-seed0" for arm in arms),
        *(f"eval {arm}-seed0 {suite}" for arm in arms for suite in ("libero_spatial", "libero_object")),
    ]


def test_an_arms_factor_on_the_learning_rate_is_its_alone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def rates() -> dict[str, str]:
        """By arm: what its stage's record says, the rate and the command."""
        found = {}
        for arm in ("baseline", "input_guard", "higher_rate"):
            record = json.loads((fake.work / "train" / arm / "seed0" / "stage.json").read_text(encoding="utf-8"))
            found[arm] = record["parts"]["option learning rate"]
            assert f"--learning_rate {found[arm]} " in record["command"]
        return found

    arguments = ["--arms", "baseline,input_guard,higher_rate", "--guard-new-task"]
    assert main(fake.arguments(*arguments)) == 0
    trained = [f"finetune {arm}-seed0" for arm in ("baseline", "higher_rate", "input_guard")]
    assert [note for note in fake.take_notes() if note.startswith("finetune")] == trained
    assert rates() == {"baseline": "0.0005", "input_guard": "0.005", "higher_rate": "0.005"}
    assert report(fake).count("<td>0.005 (10 times)</td>") == 2
    monkeypatch.setitem(ARMS, "input_guard", dataclasses.replace(ARMS["input_guard"], rate=4.0))
    assert main(fake.arguments(*arguments)) == 0
    # The same checkpoint came out, so what was evaluated holds.
    assert fake.take_notes() == ["finetune input_guard-seed0"]
    assert rates() == {"baseline": "0.0005", "input_guard": "0.002", "higher_rate": "0.005"}
    assert "<td>0.002 (4 times)</td>" in report(fake)
    assert main(fake.arguments(*arguments, "--set", "finetune.learning_rate=2e-5")) == 0
    assert fake.take_notes() == trained
    assert rates() == {"baseline": "2e-05", "input_guard": "8e-05", "higher_rate": "0.0002"}


def test_a_failure_stops_what_needs_it_and_the_rest_goes_on(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.breaks("finetune method-seed1")
    assert main(fake.arguments(*TWO)) == 1
    assert fake.take_notes() == [
        "probe",
        "icsm vulnerability",
        *TRAINED,
        *(e for e in EVALUATED if "method-seed1" not in e),
    ]
    said = capsys.readouterr()
    assert "out of memory, as finetune method-seed1 was told" in said.out
    assert "method/seed1" in said.err
    html = report(fake)
    assert "method/seed1: failed" in html
    assert "method, seed 1, libero_object" in html
    assert "(one seed: no interval)" in html
    fake.breaks("")
    assert main(fake.arguments(*TWO)) == 0
    assert fake.take_notes() == ["finetune method-seed1", *(e for e in EVALUATED if "method-seed1" in e)]
    assert "Did not end well" not in report(fake)


def test_a_broken_probe_leaves_the_baseline(fake: Fake) -> None:
    fake.breaks("probe")
    assert main(fake.arguments()) == 1
    assert fake.take_notes() == [
        "probe",
        "finetune baseline-seed0",
        *(e for e in EVALUATED if "seed" not in e or "baseline-seed0" in e),
    ]


def test_stages_left_out_are_kept_or_block(fake: Fake) -> None:
    assert main(fake.arguments("--stages", "method")) == 1
    assert fake.take_notes() == []
    assert main(fake.arguments("--stages", "probe,icsm")) == 0
    assert main(fake.arguments("--stages", "method")) == 0
    assert fake.take_notes() == ["probe", "icsm vulnerability", "finetune method-seed0"]
    assert not (fake.work / "report.html").exists()


def commands(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The commands that a dry run printed, by stage."""
    lines = capsys.readouterr().out.splitlines()
    found = {}
    for name, command in itertools.pairwise(lines):
        if name.startswith("    ") and command.startswith("        "):
            found[name.strip().rstrip(":")] = shlex.split(command)
    return found


def options_of(command: list[str]) -> dict[str, str]:
    start = next(i for i, word in enumerate(command) if word.startswith("--") and "nnodes" not in word and i > 8)
    pairs = command[start:]
    assert all(word.startswith("--") for word in pairs[::2])
    return dict(zip([word[2:] for word in pairs[::2]], pairs[1::2], strict=True))


def test_a_dry_run_prints_every_command_and_writes_nothing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--arms",
        "all",
        "--guard-new-task",
        "--nproc",
        "4",
        "--set",
        "finetune.batch_size=2",
        "--set",
        "surgery.log_every=1",
    ]
    assert main(fake.arguments(*arguments, "--num-tasks", "1", "--dry-run")) == 0
    found = commands(capsys)
    assert fake.take_notes() == []
    assert not (fake.root / "work").exists()
    assert len(found) == 1 + 3 + 8 + 1 + 16
    method = found["method/seed0"]
    python, scripts = str(fake.root / "python"), fake.root / "openvla"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nnodes", "1", "--nproc-per-node", "4"]
    assert method[: 1 + len(torchrun)] == [python, *torchrun]
    assert method[8:11] == [
        str(REPOSITORY / "runners" / "seeded.py"),
        "0",
        str(scripts / "vla-scripts" / "finetune.py"),
    ]
    on = options_of(method)
    assert on["batch_size"] == "2"
    assert (on["max_steps"], on["save_steps"]) == ("3", "3")
    assert (on["surgery.enabled"], on["surgery.log_every"], on["surgery.seed"]) == ("True", "1", "0")
    assert on["surgery.subspace_dir"] == str(fake.work / "icsm" / "vulnerability" / "icms_vulnerability")
    off = options_of(found["baseline/seed0"])
    assert not [key for key in off if key.startswith("surgery")]
    assert off["run_root_dir"] != on["run_root_dir"]
    assert {k: v for k, v in off.items() if v != on[k]}.keys() == {"run_root_dir", "adapter_tmp_dir", "run_id_note"}
    assert options_of(found["no_hsw/seed0"])["surgery.hsw"] == "False"
    assert options_of(found["no_thermostat/seed0"])["surgery.thermostat.enabled"] == "False"
    assert options_of(found["random_subspace/seed0"])["surgery.subspace_dir"].endswith("icsm/random/icms_random")
    assert options_of(found["input_guard/seed0"])["surgery.input_guard"] == "0.99"
    higher = options_of(found["higher_rate/seed0"])
    assert {key: value for key, value in higher.items() if value != off[key]}.keys() == {
        *("run_root_dir", "adapter_tmp_dir", "run_id_note", "learning_rate")
    }
    rates = {arm: options_of(found[f"{arm}/seed0"])["learning_rate"] for arm in ARMS}
    assert {arm for arm, rate in rates.items() if rate == "0.005"} == {"input_guard", "higher_rate"}
    assert set(rates.values()) == {"0.0005", "0.005"}
    rank_by = found["icsm/singular_value"][found["icsm/singular_value"].index("--rank_by") + 1]
    assert rank_by == "singular_value"
    assert found["probe"][1:3] == ["-m", "research.probe.probe_dataset"]
    assert found["probe"][-2:] == ["--image_size", "64"]
    evaluate = found["eval/method/seed0/libero_object"]
    assert evaluate[:2] == [python, str(scripts / "experiments" / "robot" / "libero" / "run_libero_eval.py")]
    assert evaluate[evaluate.index("--num_tasks") + 1] == "1"


def test_on_the_processor_the_launcher_runs_the_script(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fake.arguments("--cpu", "--dry-run")) == 0
    found = commands(capsys)
    launcher = str(REPOSITORY / "runners" / "openvla_on_cpu.py")
    finetune = str(fake.root / "openvla" / "vla-scripts" / "finetune.py")
    assert found["baseline/seed0"][1:5] == [str(REPOSITORY / "runners" / "seeded.py"), "0", launcher, finetune]
    assert found["eval/baseline/seed0/libero_spatial"][1] == launcher


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--arms", "baseline,metod"], "metod"),
        (["--seeds", "0,0"], "--seeds"),
        (["--seeds", "a"], "--seeds"),
        (["--stages", "train"], "--stages"),
        (["--max-steps", "0"], "--max-steps"),
        (["--set", "finetune.max_steps=4"], "--max-steps"),
        (["--set", "finetune.learning_rate=0"], "finetune.learning_rate=0"),
        (["--set", "finetune.learning_rate=fast"], "finetune.learning_rate=fast"),
        (["--set", "finetune.surgery.input_guard=0.5"], "--set surgery.input_guard=0.5"),
        (["--set", "lora_rank=4"], "GROUP.KEY=VALUE"),
        (["--arms", "all"], "--probe-jsonl FILE --probe-images DIR"),
        (["--arms", "input_guard", "--probe-dataset", "libero_spatial"], "--probe-dataset NAME"),
        (["--general-suites", "libero_spatial"], "--general-suites"),
        (["--general-suites", "libero_10"], "--statistics"),
        (["--suite", "libero_10"], "--statistics"),
        (["--vla-path", "someone/model", "--hf-home", "/nowhere"], "download someone/model`"),
        (
            ["--vla-path", "someone/model", "--hf-home", "/nowhere", "--hf-endpoint", "https://mirror"],
            "HF_HOME=/nowhere HF_ENDPOINT=https://mirror",
        ),
        (["--data-root", "/nowhere"], "--data-root"),
        (["--checkout", "/nowhere"], "apply.py openvla"),
        (["--python", "/nowhere/python"], "--python"),
        (["--general-command", "own=score {checkpoint}"], "{results}"),
        (["--general-command", "own=score {checkpoint} {results} {typo}"], "typo"),
        (["--vla-path", "/nowhere/model"], "--vla-path"),
        (["--probe-jsonl", "x"], "--probe-images"),
        (["--probe-dataset", "nothing"], "--probe-dataset"),
        (["--probe-dataset", "x", "--probe-jsonl", "x", "--probe-images", "x"], "give either"),
        (["--statistics", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_what_cannot_work_is_refused_by_name_before_anything_is_written(
    fake: Fake, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    assert main(fake.arguments(*arguments)) == 2
    assert word in capsys.readouterr().err
    assert not (fake.root / "work").exists()


SET_BY_AN_ARM = sorted({key for arm in ARMS.values() for key in arm.surgery})


@pytest.mark.parametrize("key", SET_BY_AN_ARM)
def test_what_an_arm_sets_of_the_method_is_set_for_no_other(
    fake: Fake, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert main(fake.arguments("--set", f"surgery.{key}=0.5", "--dry-run")) == 2
    assert f"the runner sets {key} itself (--arms)" in capsys.readouterr().err


def test_the_input_guard_takes_another_data_set_and_not_the_same_by_another_name(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fake.root / "data"
    (data / "libero_object_no_noops").mkdir()
    (data / "linked").symlink_to(data / "libero_spatial_no_noops")
    pairs = fake.root / "pairs.jsonl"
    pairs.touch()

    def asked(*probe: str) -> int:
        return main(fake.arguments("--arms", "input_guard", "--dry-run", *probe))

    assert asked("--probe-dataset", "libero_object_no_noops") == 0
    assert asked("--probe-jsonl", str(pairs), "--probe-images", str(data)) == 0
    assert asked("--guard-new-task") == 0
    capsys.readouterr()
    assert asked("--probe-dataset", "linked") == 2
    assert "the probe set would be of linked, which is trained on" in capsys.readouterr().err


def test_statistics_of_a_suite_may_come_from_a_file(fake: Fake) -> None:
    extra = fake.root / "extra.json"
    extra.write_text(json.dumps({"libero_10_no_noops": {}}), encoding="utf-8")
    arguments = ["--general-suites", "libero_10", "--statistics", str(extra), "--arms", "baseline"]
    assert main(fake.arguments(*arguments)) == 0
    assert "eval before libero_10" in fake.take_notes()


OTHER = """
import json, pathlib, sys
kept = json.loads((pathlib.Path(sys.argv[1]) / "config.json").read_text())["kept"]
result = {"complete": True, "task_suite_name": "own", "episodes": 1000, "successes": round(1000 * kept), "errors": 0}
pathlib.Path(sys.argv[2]).write_text(json.dumps(result))
"""


def test_a_general_suite_may_be_a_command_of_one_s_own(fake: Fake) -> None:
    script = fake.root / "a script.py"
    script.write_text(OTHER, encoding="utf-8")
    own = ["--general-suites", "", "--general-command", f"own={{python}} '{script}' {{checkpoint}} {{results}}"]
    assert main(fake.arguments(*own)) == 0
    assert fake.take_notes()[-2:] == ["eval baseline-seed0 libero_spatial", "eval method-seed0 libero_spatial"]
    assert ">90.0 %</td>" in report(fake)
    script.write_text(OTHER.replace("1000 * kept", "500 * kept"), encoding="utf-8")
    assert main(fake.arguments(*own)) == 0
    assert fake.take_notes() == []
    assert ">45.0 %</td>" in report(fake)


@pytest.mark.parametrize(("text", "word"), [(None, "FileNotFoundError"), ("{", "JSONDecodeError"), ("1", "TypeError")])
def test_a_model_whose_configuration_cannot_be_read_is_refused(
    fake: Fake, capsys: pytest.CaptureFixture[str], text: str | None, word: str
) -> None:
    config = fake.root / "model" / "config.json"
    config.unlink() if text is None else config.write_text(text, encoding="utf-8")
    assert main(fake.arguments("--general-suites", "")) == 2
    said = capsys.readouterr().err
    assert str(config) in said
    assert word in said
    assert not (fake.root / "work").exists()


def test_without_an_evaluation_no_statistics_are_asked_for(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--vla-path", "someone/model", "--hf-home", str(fake.root / "hf"), "--dry-run"]
    assert main(fake.arguments(*arguments, "--stages", "baseline")) == 0
    assert main(fake.arguments(*arguments, "--general-suites", "")) == 0


def test_the_probe_set_comes_from_where_it_is_said(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def probe(*more: str) -> dict[str, str]:
        assert main(fake.arguments(*more, "--dry-run")) == 0
        words = commands(capsys)["probe"]
        return dict(zip(words[3::2], words[4::2], strict=True))

    other = fake.root / "data" / "bridge_orig"
    other.mkdir()
    (other / "episodes").write_text("what must not be forgotten", encoding="utf-8")
    held_out = probe()
    assert (held_out["--dataset_name"], held_out["--split"]) == ("libero_spatial_no_noops", "held_out")
    assert probe("--set", "probe.split=train")["--split"] == "train"
    elsewhere = probe("--probe-dataset", "bridge_orig")
    assert (elsewhere["--dataset_name"], elsewhere["--split"]) == ("bridge_orig", "train")
    own = probe("--probe-jsonl", str(other / "episodes"), "--probe-images", str(other))
    assert (own["--jsonl"], own["--images"]) == (str(other / "episodes"), str(other))
    assert not {"--dataset_name", "--data_root_dir", "--split"} & own.keys()


def test_another_probe_set_is_a_change_and_so_is_its_content(fake: Fake) -> None:
    other = fake.root / "data" / "bridge_orig"
    other.mkdir()
    (other / "episodes").write_text("a", encoding="utf-8")
    arguments = ["--arms", "method", "--stages", "probe"]
    assert main(fake.arguments(*arguments)) == 0
    assert fake.take_notes() == ["probe"]
    for content in ("a", "b"):
        (other / "episodes").write_text(content, encoding="utf-8")
        for expected in (["probe"], []):
            assert main(fake.arguments(*arguments, "--probe-dataset", "bridge_orig")) == 0
            assert fake.take_notes() == expected


def test_a_model_on_the_hub_below_a_repository_is_refused(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--vla-path", "openvla/openvla-7b", "--work", str(fake.root / "openvla" / "runs")]
    assert main(fake.arguments(*arguments, "--general-suites", "")) == 2
    assert "--work" in capsys.readouterr().err


def test_a_model_whose_weights_are_still_to_be_fetched_is_no_small_one(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = fake.root / "hf" / "hub" / "models--someone--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc", encoding="utf-8")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "snapshots" / "abc" / "config.json").write_bytes((fake.root / "model" / "config.json").read_bytes())
    arguments = fake.arguments("--vla-path", "someone/model", "--hf-home", str(fake.root / "hf"), "--arms", "baseline")
    assert main([*arguments, "--work", str(fake.root / "openvla" / "runs")]) == 2
    assert "an amount not known beforehand would be written to" in capsys.readouterr().err
    main([*arguments, "--stages", "baseline"])
    assert "whether they fit on the disk is not checked before it is there" in capsys.readouterr().out


def test_a_model_in_the_hub_s_cache_is_looked_at_before_anything_runs(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = fake.root / "hf" / "hub" / "models--someone--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc", encoding="utf-8")
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / "abc").symlink_to(fake.root / "model")
    arguments = ["--vla-path", "someone/model", "--hf-home", str(fake.root / "hf"), "--dry-run"]
    assert main(fake.arguments(*arguments)) == 0
    assert main(fake.arguments(*arguments, "--general-suites", "libero_10")) == 2
    assert "no action statistics for libero_10" in capsys.readouterr().err


def test_it_runs_as_a_command_from_anywhere(fake: Fake) -> None:
    command = table.command("openvla-gradient-surgery", *fake.arguments("--dry-run"), python=sys.executable)
    run = subprocess.run(command, cwd=fake.root, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "==> report" not in run.stdout


def test_an_evaluation_whose_runner_is_killed_goes_on_at_its_next_task(fake: Fake) -> None:
    """SIGKILL of the real command line in the middle of an evaluation, and the same command again."""
    command = [sys.executable, "-m", "runners", "openvla-gradient-surgery", *fake.arguments("--arms", "baseline")]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0
    expected = scores_in(fake)
    shutil.rmtree(fake.work / "eval")
    fake.take_notes()
    (fake.root / "slow").touch()
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    notes = fake.root / "notes"
    deadline = time.monotonic() + 60
    while not notes.exists() or "task 4" not in notes.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.kill()
    run.wait()
    # The evaluation outlives its runner, and is ended here as by a machine that goes down.
    left = []
    for pid in orphans.all_processes():
        with contextlib.suppress(OSError):  # somebody else's, or gone
            if fake.work in Path(os.readlink(f"/proc/{pid}/cwd")).parents:
                left.append(pid)
    assert left
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    before = fake.take_notes()
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "eval/before/libero_object: not finished before, goes on" in again.stdout
    played = [int(note.split()[1]) for note in fake.take_notes() if note.startswith("task")][:10]
    first = int(before[-1].split()[1])
    assert played[: 10 - first] == list(range(first, 10))
    assert scores_in(fake) == expected


def scores_in(fake: Fake) -> dict[str, dict[str, object]]:
    """The last account of every evaluation, by its folder."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted((fake.work / "eval").rglob("*.results.json")):
        found[str(path.parent)] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_training_needs_room_for_a_checkpoint_of_the_model_each(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = sum(path.stat().st_size for path in (fake.root / "model").rglob("*") if path.is_file())
    room = argparse.Namespace(free=2 * model - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    assert main(fake.arguments("--arms", "baseline,method")) == 2
    said = capsys.readouterr().err
    assert "the run (baseline/seed0, method/seed0) needs about" in said
    assert "--work" in said
    assert fake.take_notes() == []
    room.free = 2 * model
    assert main(fake.arguments("--arms", "baseline,method", "--stages", "probe,icsm,baseline,method")) == 0
