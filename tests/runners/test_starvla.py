"""The runner of SA-GR Flow on a fake checkout: order, arguments, resuming, failures, what it refuses."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import shutil
from pathlib import Path

import pytest

from runners.starvla_plan import LOST
from runners.starvla_sagr_flow import main
from runners.supervise import checkpoints
from tests.runners.fake_starvla import Fake, make

STAGES = ["alignment", "dynamics", "imitation", "correction"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    for name in ("GRAFT_WORK", "GRAFT_DATA_ROOT", "HF_HUB_CACHE", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    return make(tmp_path)


def weights(fake: Fake, stage: str) -> Path:
    return fake.work / stage / "runs" / stage / "final_model" / "pytorch_model.pt"


def test_four_stages_run_in_order_once_and_the_second_run_does_nothing(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fake.arguments()) == 0
    assert fake.take_notes() == STAGES
    said = capsys.readouterr().out
    assert said.count("loss: 1 at the first logging step, 0.3333 at the last") == 4
    assert said.rstrip().endswith(str(weights(fake, "correction")))
    assert main(fake.arguments()) == 0
    assert fake.take_notes() == []
    assert capsys.readouterr().out.count(": kept (") == 4


def test_each_stage_starts_from_the_weights_of_the_one_before(fake: Fake) -> None:
    assert main(fake.arguments()) == 0
    given = fake.given()
    assert "trainer.pretrained_checkpoint" not in given["alignment"]
    for before, after in itertools.pairwise(STAGES):
        assert given[after]["trainer.pretrained_checkpoint"] == str(weights(fake, before))
        assert given[after]["framework.sagr.stage"] == after
    assert given["dynamics"]["framework.sagr.losses.w_dyn"] == "1.0"
    assert given["dynamics"]["framework.sagr.losses.w_fm"] == "0.0"
    assert given["dynamics"]["trainer.freeze_modules"].split(",") == [
        *("qwen_vl_interface", "action_model", "geometry_encoder", "fusion_module"),
    ]
    assert float(given["correction"]["framework.sagr.perturbation"]) > 0
    for each in given.values():
        assert each["framework.name"] == "MapAnythingLlava3DPI"
        assert each["datasets.vla_data.data_mix"] == "toy_next"
        assert each["seed"] == "42"


def test_a_checkpoint_to_begin_with_goes_to_the_first_stage(fake: Fake) -> None:
    begin = fake.root / "begin.pt"
    begin.write_text(json.dumps({"qwen_vl_interface.weight": 5.0}), encoding="utf-8")
    assert main(fake.arguments("--checkpoint", str(begin))) == 0
    assert fake.given()["alignment"]["trainer.pretrained_checkpoint"] == str(begin)
    assert json.loads(weights(fake, "correction").read_text())["qwen_vl_interface.weight"] == 5.0


def test_feedback_tokens_ask_for_the_frame_before_where_they_are_trained(fake: Fake) -> None:
    assert main(fake.arguments("--feedback", "--execute-steps", "3")) == 0
    given = fake.given()
    switch = "framework.action_model.enable_causal_feedback_token"
    assert [given[stage][switch] for stage in STAGES] == ["false", "false", "true", "true"]
    assert [given[stage].get("datasets.vla_data.past_offset") for stage in STAGES] == [
        *(None, None, "[1,2,3]", "[1,2,3]")
    ]


def test_a_change_reruns_what_depends_on_it_and_nothing_before(fake: Fake) -> None:
    assert main(fake.arguments()) == 0
    fake.take_notes()
    assert main(fake.arguments("--steps", "3,3,5,3")) == 0
    assert fake.take_notes() == ["imitation", "correction"]
    rate = "imitation:trainer.learning_rate.base=0.01"
    assert main(fake.arguments("--steps", "3,3,5,3", "--set", rate)) == 0
    assert fake.take_notes() == ["imitation", "correction"]
    assert fake.given()["imitation"]["trainer.learning_rate.base"] == "0.01"
    assert "trainer.learning_rate.base" not in fake.given()["correction"]


@pytest.mark.parametrize("name", ["data/toy/data/episode.parquet", "run.yaml", "Qwen2.5-VL-fake/config.json"])
def test_other_data_model_or_configuration_reruns_everything(fake: Fake, name: str) -> None:
    assert main(fake.arguments()) == 0
    fake.take_notes()
    (fake.root / name).write_text("{} ", encoding="utf-8")
    assert main(fake.arguments()) == 0
    assert fake.take_notes() == STAGES


def test_a_data_set_that_the_mixture_does_not_read_may_change(fake: Fake) -> None:
    arguments = fake.arguments("--data-sets", "toy")
    assert main(arguments) == 0
    fake.take_notes()
    (fake.root / "data" / "other").mkdir()
    (fake.root / "data" / "other" / "episode.parquet").write_text("more", encoding="utf-8")
    assert main(arguments) == 0
    assert fake.take_notes() == []


def test_a_failure_blocks_the_rest_and_the_next_run_goes_on_there(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.tell("break imitation")
    assert main(fake.arguments()) == 1
    assert fake.take_notes() == ["alignment", "dynamics", "imitation"]
    said = capsys.readouterr()
    assert "out of memory, as imitation was told" in said.out
    assert "did not end well: imitation, correction" in said.err
    fake.tell("")
    assert main(fake.arguments()) == 0
    assert fake.take_notes() == ["imitation", "correction"]


@pytest.fixture
def finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are taken for finite: to look into them needs numpy and torch."""
    monkeypatch.setattr(checkpoints, "_not_finite", lambda *_: None)


def test_what_a_stage_that_died_has_saved_is_moved_aside_and_named(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.tell("die in imitation")
    assert main(fake.arguments()) == 1
    capsys.readouterr()
    fake.tell("")
    assert main(fake.arguments()) == 0
    aside = fake.work / "imitation.before-1"
    assert f"what was there is now {aside}" in capsys.readouterr().out
    assert (aside / "runs" / "imitation" / "checkpoints" / "steps_2_pytorch_model.pt").is_file()
    assert fake.given()["imitation"]["trainer.is_resume"] == "false"


@pytest.mark.usefixtures("finite")
def test_it_goes_on_inside_a_stage_where_asked_and_its_record_says_so(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.tell("die in imitation")
    assert main(fake.arguments()) == 1
    fake.take_notes()
    capsys.readouterr()
    fake.tell("")
    assert main(fake.arguments("--resume-inside")) == 0
    assert fake.take_notes() == ["imitation", "from step 2", "correction"]
    said = capsys.readouterr().out
    assert f"imitation: not finished before, goes on (not as in one go: {LOST})" in said
    assert "passes over steps_3_pytorch_model.pt" in said
    record = json.loads((fake.work / "imitation" / "stage.json").read_text(encoding="utf-8"))
    assert (record["inexact"], record["attempts"]) == (LOST, 2)
    # Without the option it is kept, and still told; what followed trained on its weights.
    assert main(fake.arguments()) == 0
    assert fake.take_notes() == []
    assert f"s then); not as in one go: {LOST}" in capsys.readouterr().out
    assert "inexact" not in json.loads((fake.work / "correction" / "stage.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("finite")
def test_a_folder_aside_can_be_named_back_and_gone_on_with(fake: Fake) -> None:
    fake.tell("die in imitation")
    assert main(fake.arguments()) == 1
    fake.tell("")
    assert main(fake.arguments()) == 0
    fake.take_notes()
    shutil.rmtree(fake.work / "imitation")
    (fake.work / "imitation.before-1").rename(fake.work / "imitation")
    assert main(fake.arguments("--resume-inside")) == 0
    assert fake.take_notes()[:2] == ["imitation", "from step 2"]


@pytest.mark.usefixtures("finite")
def test_inside_a_stage_without_a_checkpoint_it_begins_anew(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.tell("break imitation")
    assert main(fake.arguments()) == 1
    fake.tell("")
    assert main(fake.arguments("--resume-inside")) == 0
    assert "imitation: not finished before, begins anew (it has no whole checkpoint)" in capsys.readouterr().out
    assert "inexact" not in json.loads((fake.work / "imitation" / "stage.json").read_text(encoding="utf-8"))


def test_a_stage_that_trained_what_it_was_to_freeze_is_not_taken(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.tell("thaw dynamics")
    assert main(fake.arguments()) == 1
    said = capsys.readouterr()
    assert "qwen_vl_interface.weight: it was frozen, and is not what the stage started from" in said.out
    assert "world_predictor.weight" not in said.out
    assert "did not end well: dynamics, imitation, correction" in said.err


def test_what_a_user_leaves_unfrozen_is_no_complaint(fake: Fake) -> None:
    assert main(fake.arguments("--set", "imitation:trainer.freeze_modules=geometry_encoder")) == 0
    assert fake.given()["imitation"]["trainer.freeze_modules"] == "geometry_encoder"
    before, after = (json.loads(weights(fake, stage).read_text()) for stage in ("dynamics", "imitation"))
    assert before["qwen_vl_interface.weight"] != after["qwen_vl_interface.weight"]
    assert before["geometry_encoder.weight"] == after["geometry_encoder.weight"]


def test_stages_that_are_left_out_are_kept_where_they_hold(fake: Fake) -> None:
    assert main(fake.arguments("--stages", "alignment,dynamics")) == 0
    assert fake.take_notes() == ["alignment", "dynamics"]
    assert main(fake.arguments("--stages", "imitation")) == 0
    assert fake.take_notes() == ["imitation"]


def test_a_dry_run_prints_every_command_and_writes_nothing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fake.arguments("--dry-run")) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if "train_starvla.py" in line]
    assert [next(word for word in words if word.startswith("--run_id=")) for words in commands] == [
        f"--run_id={stage}" for stage in STAGES
    ]
    assert fake.take_notes() == []
    assert not (fake.root / "work").exists()


def test_on_gpus_it_is_upstreams_own_launcher(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    deepspeed = fake.root / "starVLA" / "starVLA" / "config" / "deepseeds" / "deepspeed_zero2.yaml"
    arguments = [each for each in fake.arguments("--dry-run", "--nproc", "4") if each != "--cpu"]
    assert main(arguments) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "train_starvla.py" in line)
    words = shlex.split(line)
    at = words.index("accelerate.commands.launch")
    assert words[at + 1 : at + 5] == ["--num_processes", "4", "--config_file", str(deepspeed)]
    assert "starvla_on_cpu.py" not in line


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--steps", "3,3"], "--steps 3,3: give one number above 0, or 4 with commas"),
        (["--steps", "0"], "--steps 0: give one number"),
        (["--stages", "alignment,finish"], "--stages: finish; there are alignment, dynamics"),
        (["--set", "trainer.max_train_steps=3"], "the runner sets trainer.max_train_steps itself (--steps)"),
        (["--set", "finish:seed=3"], "with one of alignment, dynamics, imitation, correction as STAGE"),
        (["--set", "nothing"], "--set nothing: it is KEY=VALUE"),
        (["--execute-steps", "0"], "--execute-steps has to be at least 1"),
        (["--base-vlm", "/nowhere/model"], "/nowhere/model is not there"),
        (["--data-root", "/nowhere"], "/nowhere is not there: fetch the data, or name another with --data-root"),
        (["--data-sets", "other"], "other is not there: fetch the data set"),
        (["--python", "/nowhere/python"], "/nowhere/python is not there: build the environment"),
        (["--checkpoint", "/nowhere.pt"], "/nowhere.pt is not there: train it first"),
        (["--config-yaml", "/nowhere.yaml"], "/nowhere.yaml is not there"),
        (["--checkout", "/nowhere"], "run `python apply.py starVLA` first"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    fake: Fake, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main(fake.arguments(*more)) == 2
    assert says in capsys.readouterr().err
    assert not (fake.root / "work").exists()


def test_a_checkout_without_the_graft_is_refused(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    (fake.root / "starVLA" / "starVLA" / "sagr" / "stages.py").unlink()
    assert main(fake.arguments()) == 2
    assert "stages.py is not there: run `python apply.py starVLA` first" in capsys.readouterr().err


def test_a_folder_of_somebody_elses_is_not_touched(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    (fake.work / "alignment").mkdir(parents=True)
    (fake.work / "alignment" / "thesis.tex").write_text("mine", encoding="utf-8")
    assert main(fake.arguments()) == 2
    assert "holds files that no run of this kind wrote" in capsys.readouterr().err
    assert (fake.work / "alignment" / "thesis.tex").read_text(encoding="utf-8") == "mine"


def test_a_model_to_be_fetched_is_not_fetched_below_a_repository_and_its_room_is_not_promised(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fake.arguments("--base-vlm", "someone/model")
    (fake.root / "mine" / ".git").mkdir(parents=True)
    assert main([*arguments, "--hf-home", str(fake.root / "mine" / "hf")]) == 2
    assert "outside with --hf-home" in capsys.readouterr().err
    main([*arguments, "--hf-home", str(fake.root / "hf"), "--stages", "alignment"])
    assert "whether they fit on the disk is not checked before it is there" in capsys.readouterr().out


def test_nothing_begins_where_the_checkpoints_that_upstream_keeps_do_not_fit(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake.root / "run.yaml").write_text("trainer: {save_interval: 2}", encoding="utf-8")
    model = sum(path.stat().st_size for path in (fake.root / "Qwen2.5-VL-fake").iterdir())
    room = argparse.Namespace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    # Five steps leave three checkpoints (after 2, after 4, final); dynamics is told to save each step, and leaves six.
    given = fake.arguments("--steps", "5", "--set", "dynamics:trainer.save_interval=1")
    room.free = model * (3 + 6 + 3 + 3) - 1
    assert main(given) == 2
    assert "the run (alignment, dynamics, imitation, correction) needs about" in capsys.readouterr().err
    assert fake.take_notes() == []
    room.free += 1
    assert main(given) == 0
    # What is kept asks for no room: only what is left to do.
    room.free = 0
    assert main(given) == 0
