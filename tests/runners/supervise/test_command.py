"""Commands of every family: what they are, their settings, and the same command with others."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runners.supervise.checkpoints import Checkpoint
from runners.supervise.command import Command, UnknownCommand, families, recognise
from runners.supervise.families import TABLE
from runners.supervise.tables import BadTable

YAML = """
# what a user wrote
per_device_train_batch_size: 4
learning_rate: 1.0e-4
output_dir: saves/run
max_steps: 100
schedule: {chunk_steps: 20}
"""
STARVLA = """
run_id: base
run_root_dir: ${oc.env:RUNS,runs}
seed: 42
datasets: {vla_data: {per_device_batch_size: 16}}
trainer:
  max_train_steps: 100000
  save_interval: 5000
  learning_rate: {base: 2.5e-05, qwen_vl_interface: 1.0e-05, action_model: 1.0e-04}
"""
STARVLA_SCRIPT = "starVLA/training/train_starvla.py"


def made(line: str, folder: Path, environment: Mapping[str, str] | None = None, extra: Path | None = None) -> Command:
    return recognise(shlex.split(line), folder, environment or {}, families(extra))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "train.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "starvla.yaml").write_text(STARVLA, encoding="utf-8")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("from llamafactory.train.tuner import run_exp", encoding="utf-8")
    return tmp_path


RECOGNISED = [
    ("llamafactory-cli train train.yaml", "LLaMA-Factory", "4"),
    ("lmf train train.yaml per_device_train_batch_size=2", "LLaMA-Factory", "2"),
    ("python -m llamafactory.cli train train.yaml", "LLaMA-Factory", "4"),
    ("llamafactory-cli train --per_device_train_batch_size 3 --output_dir x", "LLaMA-Factory", "3"),
    ("llamafactory-cli train --per-device-train-batch-size=3", "LLaMA-Factory", "3"),
    ("llamafactory-cli train --output_dir x", "LLaMA-Factory", "8"),
    ("torchrun --nproc_per_node 2 a/src/llamafactory/launcher.py train.yaml", None, None),
    ("torchrun --nproc_per_node 2 src/train.py train.yaml", "LLaMA-Factory", "4"),
    ("deepspeed --num_gpus 2 src/train.py --output_dir x", "LLaMA-Factory", "8"),
    ("torchrun --standalone vla-scripts/finetune.py --batch_size 4", "openvla fine-tuning", "4"),
    ("python r/runners/seeded.py 3 r/runners/openvla_on_cpu.py vla-scripts/finetune.py", "openvla fine-tuning", "16"),
    ("torchrun vla-scripts/train.py --vla.type siglip-224px+mx-bridge", "openvla training", "32"),
    (f"accelerate launch --num_processes 2 {STARVLA_SCRIPT} --config_yaml starvla.yaml", "starVLA training", "16"),
    (f"python {STARVLA_SCRIPT} --config_yaml=starvla.yaml --datasets.vla_data.per_device_batch_size 8",
     "starVLA training", "8"),
    ("python libero/lifelong/main.py train.batch_size=8 seed=1", "LIBERO lifelong learning", "8"),
    ("python -m libero.lifelong.main seed=1", "LIBERO lifelong learning", "32"),
    ("lifelong.main ++train.batch_size=9", "LIBERO lifelong learning", "9"),
    ("python experiments/robot/libero/run_libero_eval.py", "openvla evaluation on LIBERO", None),
    ("python examples/LIBERO/eval_files/eval_libero.py --args.port 1", "starVLA evaluation on LIBERO", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "family", "batch"), RECOGNISED, ids=[row[0] for row in RECOGNISED])
def test_families_and_their_batch(here: Path, line: str, family: str | None, batch: str | None) -> None:
    if family is None:  # the script must be there and be LLaMA-Factory's
        with pytest.raises(UnknownCommand, match=r"launcher\.py, which is none of"):
            made(line, here)
        (here / "a/src/llamafactory").mkdir(parents=True)
        (here / "a/src/llamafactory/launcher.py").write_text("from llamafactory.train import x", encoding="utf-8")
        assert made(line, here).get("batch") == "4"
        return
    command = made(line, here)
    assert command.family.name == family
    assert command.get("batch") == batch
    assert command.words == tuple(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("bash run.sh", "Give the command that the script runs"),
        ("llamafactory-cli webui", "--upstreams FILE"),
        ("python my_train.py", "--upstreams FILE"),
        ("torchrun vla-scripts/other.py", "openvla fine-tuning"),
    ],
)
def test_what_is_not_known_is_named_with_a_remedy(here: Path, line: str, remedy: str) -> None:
    with pytest.raises(UnknownCommand) as refused:
        made(line, here)
    assert "none of: LLaMA-Factory (llamafactory-cli train)" in str(refused.value)
    assert remedy in str(refused.value)


def test_a_configuration_that_cannot_be_read_is_named(here: Path) -> None:
    with pytest.raises(UnknownCommand, match=r"gone\.yaml cannot be read"):
        made("llamafactory-cli train gone.yaml", here)
    (here / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UnknownCommand, match=r"bad\.yaml cannot be read"):
        made("llamafactory-cli train bad.yaml", here)


def test_roles_of_a_file_its_overrides_and_the_defaults(here: Path) -> None:
    command = made("llamafactory-cli train train.yaml learning_rate=2e-4", here)
    known = {"batch": "4", "rate": "2e-4", "accumulation": "1", "steps": "100", "seed": "42", "keep": None}
    assert {role: command.get(role) for role in known} == known
    assert command.get("eval_every") is None
    assert command.setting("schedule.chunk_steps") == "20"
    assert command.output == here / "saves" / "run"
    assert made("llamafactory-cli train train.yaml max_steps=-1", here).get("steps") is None


CLI = "llamafactory-cli train"
OVERRIDDEN = [
    (f"{CLI} train.yaml", {"batch": 2}, f"{CLI} train.yaml per_device_train_batch_size=2"),
    (f"{CLI} train.yaml learning_rate=1e-4 a=b", {"rate": 5e-5}, f"{CLI} train.yaml learning_rate=5.0e-05 a=b"),
    (f"{CLI} --learning-rate 1e-4 --x", {"rate": 0.25}, f"{CLI} --learning-rate 0.25 --x"),
    (f"{CLI} --learning_rate=1e-4 --x", {"rate": 0.25}, f"{CLI} --learning_rate=0.25 --x"),
    (f"{CLI} --seed 1 --seed 2", {"seed": 3}, f"{CLI} --seed 1 --seed 3"),
    (f"{CLI} --seed", {"seed": 3}, f"{CLI} --seed 3"),
    (f"{CLI} train.yaml", {"output": "a: b"}, f"{CLI} train.yaml 'output_dir=\"a: b\"'"),
    (
        "torchrun --max_restarts 9 vla-scripts/finetune.py --x 1",
        {"steps": 7},
        "torchrun --max_restarts 9 vla-scripts/finetune.py --x 1 --max_steps 7",
    ),
    (
        "python libero/lifelong/main.py +seed=1",
        {"seed": 2, "rate": 1e-5},
        "python libero/lifelong/main.py +seed=2 train.optimizer.kwargs.lr=1.0e-05",
    ),
]


@pytest.mark.parametrize(("line", "roles", "after"), OVERRIDDEN)
def test_overrides_in_upstreams_own_syntax(here: Path, line: str, roles: dict[str, Any], after: str) -> None:
    before = made(line, here)
    changed = before.with_roles(roles)
    assert changed.words == tuple(shlex.split(after))
    assert all(float(str(changed.get(role))) == value for role, value in roles.items() if role != "output")
    assert (here / "train.yaml").read_text(encoding="utf-8") == YAML
    assert before.words == tuple(shlex.split(line))


def test_a_role_that_a_family_lacks_is_refused(here: Path) -> None:
    with pytest.raises(UnknownCommand, match="openvla training has no setting for accumulation; it has batch, rate"):
        made("torchrun vla-scripts/train.py", here).with_roles({"accumulation": 2})


def test_variables_before_the_command_are_those_of_env(here: Path) -> None:
    command = made("CUDA_VISIBLE_DEVICES=0 A=b=c llamafactory-cli train train.yaml", here)
    assert command.words[:4] == ("env", "CUDA_VISIBLE_DEVICES=0", "A=b=c", "llamafactory-cli")
    assert (command.variable("CUDA_VISIBLE_DEVICES"), command.variable("A")) == ("0", "b=c")
    assert command.with_environment({"A": "d"}).words[2] == "A=d"


def test_the_python_of_a_program_in_an_environment_that_conda_names(here: Path) -> None:
    bin_ = here / "envs" / "x" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "llamafactory-cli").write_text("#!/its/own/python\n", encoding="utf-8")
    (bin_ / "llamafactory-cli").chmod(0o755)
    command = made(f"CONDA_ENVS_PATH={here / 'envs'} conda run -n x llamafactory-cli train train.yaml", here)
    assert command.python == "/its/own/python"


def test_variables_are_set_where_env_sets_them(here: Path) -> None:
    command = made("env HF_ENDPOINT=a MUJOCO_GL=egl llamafactory-cli train train.yaml", here, {"X": "1"})
    changed = command.with_environment({"HF_ENDPOINT": "b", "Y": "2"})
    assert changed.words[1] == "HF_ENDPOINT=b"
    assert changed.environment == {"X": "1", "Y": "2"}
    assert changed.variable("HF_ENDPOINT") == "b"
    assert changed.shown() == "X=1 Y=2 env HF_ENDPOINT=b MUJOCO_GL=egl llamafactory-cli train train.yaml"


def test_the_interpreter_is_the_word_before_the_script_or_the_launchers(here: Path) -> None:
    program = here / "bin" / "llamafactory-cli"
    program.parent.mkdir()
    program.write_text("#!/venv/bin/python3\n", encoding="utf-8")
    program.chmod(0o755)
    (here / "bin" / "python").touch(0o755)
    assert made("bin/llamafactory-cli train train.yaml", here).python == "/venv/bin/python3"
    assert made("bin/python src/train.py train.yaml", here).python == str(here / "bin" / "python")
    found = made("env PATH=bin llamafactory-cli train train.yaml", here, {"PATH": "/nowhere"})
    with pytest.raises(UnknownCommand, match="not on the PATH"):
        _ = made("llamafactory-cli train train.yaml", here, {"PATH": "/nowhere"}).python
    assert found.with_environment({"PATH": str(here / "bin")}).python == "/venv/bin/python3"


# The names that upstream's own code composes, spelled out here from finetune.py and train.py.
OUTPUTS = [
    ("vla-scripts/finetune.py", "runs/openvla-7b+droid_wipe+b16+lr-0.0005+lora-r32+dropout-0.0--image_aug"),
    ("vla-scripts/finetune.py --vla_path a/b/x --dataset_name d --batch_size 2 --grad_accumulation_steps 8 "
     "--learning_rate 2.0e-05 --lora_rank 16 --lora_dropout 0.1 --run_id_note n --image_aug False --run_root_dir /r",
     "/r/x+d+b16+lr-2e-05+lora-r16+dropout-0.1--n"),
    ("vla-scripts/finetune.py --use_lora false --run_root_dir=q", "q/openvla-7b+droid_wipe+b16+lr-0.0005--image_aug"),
    ("vla-scripts/finetune.py --use_quantization true",
     "runs/openvla-7b+droid_wipe+b16+lr-0.0005+lora-r32+dropout-0.0+q-4bit--image_aug"),
    ("vla-scripts/train.py", "runs/prism-dinosiglip-224px+mx-oxe-magic-soup-plus+n8+b32+x7"),
    ("vla-scripts/train.py --vla.type siglip-224px+mx-bridge --seed 3 --image_aug True --run_id_note n",
     "runs/siglip-224px+mx-bridge+n1+b32+x3--n--image_aug"),
    ("vla-scripts/train.py --run_id mine --run_root_dir r --image_aug True", "r/mine--image_aug"),
    (f"{STARVLA_SCRIPT} --config_yaml starvla.yaml", "runs/base"),
    (f"{STARVLA_SCRIPT} --config_yaml starvla.yaml --run_id x --run_root_dir /a", "/a/x"),
    ("libero/lifelong/main.py", "experiments/LIBERO_SPATIAL/Sequential/BCTransformerPolicy_seed10000"),
    ("libero/lifelong/main.py seed=1 lifelong.algo=ER benchmark_name=LIBERO_GOAL data.task_order_index=2 "
     "task_embedding_format=clip", "experiments_permute2_clip/LIBERO_GOAL/ER/BCTransformerPolicy_seed1"),
    ("experiments/robot/libero/run_libero_eval.py --local_log_dir l", "l"),
    ("examples/LIBERO/eval_files/eval_libero.py --args.video-out-path v", "v"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "output"), OUTPUTS, ids=[row[0] for row in OUTPUTS])
def test_outputs_are_composed_as_upstream_does(here: Path, line: str, output: str) -> None:
    assert made(f"python {line}", here).output == here / output


def test_references_in_a_configuration_are_filled_in(here: Path) -> None:
    line = f"python {STARVLA_SCRIPT} --config_yaml starvla.yaml"
    assert made(line, here, {"RUNS": "/disk"}).output == Path("/disk/base")
    (here / "starvla.yaml").write_text("run_id: a-${seed}\nseed: ${other.seed}\nother: {seed: 3}\n", encoding="utf-8")
    assert made(line, here).setting("run_id") == "a-3"
    (here / "starvla.yaml").write_text("run_id: ${now:%Y}\n", encoding="utf-8")
    with pytest.raises(UnknownCommand, match=r"\$\{now:%Y\}.*write the value itself"):
        made(line, here)


def test_all_learning_rates_of_starvla_change_together(here: Path) -> None:
    command = made(f"python {STARVLA_SCRIPT} --config_yaml starvla.yaml", here).with_roles({"rate": 1.25e-5})
    rates = {name: float(str(command.setting(f"trainer.learning_rate.{name}"))) for name in (
        "base", "qwen_vl_interface", "action_model")}  # fmt: skip
    assert rates == {"base": 1.25e-5, "qwen_vl_interface": 5e-6, "action_model": 5e-5}


def test_openvla_training_keeps_its_folder_and_its_global_batch_divides(here: Path) -> None:
    command = made("torchrun vla-scripts/train.py --vla.type siglip-224px+mx-bridge", here)
    changed = command.with_roles({"batch": 16})
    assert changed.setting("vla.global_batch_size") == "128"
    assert changed.output == command.output
    assert changed.setting("run_id") == "siglip-224px+mx-bridge+n1+b32+x7"
    again = changed.with_roles({"batch": 8})
    assert again.setting("vla.global_batch_size") == "64"
    assert again.output == command.output


ACCUMULATION = [
    ("python SCRIPT", {}, "1"),
    ("python SCRIPT", {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "3"}, "3"),
    ("accelerate launch --config_file fields.yaml SCRIPT", {}, "1"),
    ("accelerate launch --config_file steps.yaml SCRIPT", {}, None),
    ("accelerate launch --config_file file.yaml SCRIPT", {}, None),
    ("accelerate launch --config_file auto.yaml SCRIPT", {}, "1"),
    ("accelerate launch --gradient_accumulation_steps 2 --config_file fields.yaml SCRIPT", {}, None),
    ("python SCRIPT", {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "one.json"}, None),
]


@pytest.mark.parametrize(("line", "environment", "accumulation"), ACCUMULATION)
def test_accumulation_of_starvla_is_accelerates(
    here: Path, line: str, environment: dict[str, str], accumulation: str | None
) -> None:
    texts = {
        "fields.yaml": "deepspeed_config: {zero_stage: 2}",
        "steps.yaml": "deepspeed_config: {gradient_accumulation_steps: 4}",
        "file.yaml": "deepspeed_config: {deepspeed_config_file: one.json}",
        "auto.yaml": "deepspeed_config: {deepspeed_config_file: auto.json}",
        "one.json": '{"gradient_accumulation_steps": 1}',
        "auto.json": '{"gradient_accumulation_steps": "auto"}',
    }
    for name, text in texts.items():
        (here / name).write_text(text, encoding="utf-8")
    home = {"HF_HOME": str(here / "home"), **environment}
    command = made(line.replace("SCRIPT", f"{STARVLA_SCRIPT} --config_yaml starvla.yaml"), here, home)
    assert command.get("accumulation") == accumulation
    if accumulation:
        changed = command.with_roles({"accumulation": 2})
        assert changed.environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "2"
        assert changed.words == command.words


def test_llama_factory_resumes_from_a_path_and_keeps_its_log(here: Path) -> None:
    command = made("llamafactory-cli train train.yaml overwrite_output_dir=true", here)
    resumed = command.resumed(Checkpoint(here / "saves/run/checkpoint-50", 50))
    assert resumed.setting("resume_from_checkpoint") == str(here / "saves/run/checkpoint-50")
    assert resumed.setting("overwrite_output_dir") == "false"
    assert command.restores == "all"
    assert made("llamafactory-cli train train.yaml save_only_model=true", here).restores == "weights"


def test_openvla_training_resumes_at_step_and_epoch(here: Path) -> None:
    command = made("torchrun vla-scripts/train.py", here)
    path = command.output / "checkpoints" / "step-002500-epoch-08-loss=0.1234.pt"
    resumed = command.resumed(Checkpoint(path, 2500))
    wanted = {"pretrained_checkpoint": str(path), "is_resume": "True", "resume_step": "2500", "resume_epoch": "8"}
    assert {key: resumed.setting(key) for key in wanted} == wanted
    assert resumed.output == command.output


def test_openvla_fine_tuning_goes_on_by_a_link_with_the_steps_that_are_left(here: Path) -> None:
    plain = made("torchrun vla-scripts/finetune.py --vla_path openvla/openvla-7b --max_steps 9 --run_id_note a", here)
    assert plain.restores == "nothing"
    command = plain.resumable()
    assert command.restores == "weights"
    assert command.output == plain.output
    path = Path(f"{command.output}--4_chkpt")
    path.mkdir(parents=True)
    resumed = command.resumed(Checkpoint(path, 4))
    link = Path(str(resumed.setting("vla_path")))
    assert link.name == "openvla-7b"
    assert link.resolve() == path.resolve()
    assert resumed.get("steps") == "5"
    assert resumed.offset == 4
    assert resumed.output.name == command.output.name.replace("--a--", "--a-from4--")
    # From the part, as from the whole: the note names one step, and the steps left are the whole run's.
    later = Path(f"{resumed.output}--3_chkpt")
    later.mkdir(parents=True)
    again = resumed.resumed(Checkpoint(later, 7))
    assert again.setting("run_id_note") == "a-from7"
    assert again.get("steps") == "2"
    with pytest.raises(UnknownCommand, match="nothing is left to train"):
        command.resumed(Checkpoint(path, 9))


def test_starvla_resumes_only_what_it_would_find_itself(here: Path) -> None:
    command = made(f"python {STARVLA_SCRIPT} --config_yaml starvla.yaml", here)
    folder = command.output / "checkpoints"
    folder.mkdir(parents=True)
    for step in (5000, 10000):
        (folder / f"steps_{step}_pytorch_model.pt").touch()
    resumed = command.resumed(Checkpoint(folder / "steps_10000_pytorch_model.pt", 10000))
    assert resumed.words == (*command.words, "--trainer.is_resume", "true")
    with pytest.raises(UnknownCommand, match="move later ones aside"):
        command.resumed(Checkpoint(folder / "steps_5000_pytorch_model.pt", 5000))


def test_what_has_no_resume_says_so(here: Path) -> None:
    command = made("python libero/lifelong/main.py", here)
    with pytest.raises(UnknownCommand, match="LIBERO lifelong learning has no resume"):
        command.resumed(Checkpoint(here, 1))


def test_metrics_lie_below_the_output_or_where_wandb_writes(here: Path) -> None:
    command = made("llamafactory-cli train train.yaml", here)
    assert command.metrics[0] == "trainer_log.jsonl"
    assert command.metrics[-1] == "../../wandb/offline-run-*/run-*.wandb"
    assert command.with_environment({"WANDB_DIR": "w"}).metrics[-1] == "../../w/wandb/offline-run-*/run-*.wandb"


OWN = """
[[families]]
name = "mine"
style = "flags"
match.scripts = ["my_train.py"]
settings = { batch = "batch-size", output = "out", steps = "steps" }
defaults = { batch = 8, out = 1 }
checkpoints = 'checkpoint-(?P<step>\\d+)'
resume = { resume = "{checkpoint}" }
restores = "all"
"""


def test_a_file_of_the_users_adds_a_family(here: Path) -> None:
    (here / "own.toml").write_text(OWN.replace(", out = 1", ""), encoding="utf-8")
    command = made("python my_train.py --batch_size 4 --out o", here, extra=here / "own.toml")
    assert command.family.name == "mine"
    assert command.with_roles({"batch": 2}).words[-4:] == ("--batch_size", "2", "--out", "o")
    assert made("python my_train.py", here, extra=here / "own.toml").with_roles({"batch": 2}).words[-2:] == (
        "--batch-size", "2",
    )  # fmt: skip
    last = here / "o" / "checkpoint-3"
    assert command.resumed(Checkpoint(last, 3)).words[-2:] == ("--resume", str(last))
    assert made("llamafactory-cli train train.yaml", here, extra=here / "own.toml").family.name == "LLaMA-Factory"
    with pytest.raises(UnknownCommand, match="does not say where it writes: give out in the command"):
        _ = made("python my_train.py", here, extra=here / "own.toml").output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("", ""), "unknown role 'out'; known: accumulation"),
        ((", out = 1", ', x"'), ""),
        (("style", "stile"), "unknown key 'stile'"),
        (('"flags"', '"argparse"'), "unknown style 'argparse'; known: draccus"),
        (('name = "mine"', ""), "family 'without a name': "),
    ],
)
def test_a_bad_table_is_named_with_its_key(here: Path, change: tuple[str, str], says: str) -> None:
    (here / "own.toml").write_text(OWN.replace(*change) if change[0] else OWN, encoding="utf-8")
    with pytest.raises(BadTable) as refused:
        families(here / "own.toml")
    assert str(here / "own.toml") in str(refused.value)
    assert says in str(refused.value)


TYPES = """
[[families]]
name = "mine"
style = "flags"
match = { scripts = ["my_train.py"] }
settings = { batch = "batch-size" }
defaults = { batch = 8 }
checkpoints = 'checkpoint-(?P<step>\\d+)'
complete = ["state.json"]
resume = { resume = "{checkpoint}" }
restores = "all"
takes_latest = false
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('["my_train.py"]', '"my_train.py"'), "match.scripts is 'my_train.py', no list of texts"),
        (('{ scripts = ["my_train.py"] }', '"my_train.py"'), "match is 'my_train.py', no table"),
        (('"batch-size"', "3"), "settings.batch is 3, no text"),
        (("batch = 8", "batch = [8]"), "defaults.batch is [8], neither"),
        (('["state.json"]', '"state.json"'), "complete is 'state.json', no list of texts"),
        (('["state.json"]', "[3]"), "complete is [3], no list of texts"),
        (("'checkpoint-(?P<step>\\d+)'", "3"), "checkpoints is 3, no text"),
        (('"{checkpoint}"', "true"), "resume.resume is True, no text"),
        (('"{checkpoint}"', '"{chekpoint}"'), "unknown name in resume.resume: 'chekpoint'; known: checkpoint"),
        (('"{checkpoint}"', '"{checkpoint"'), "resume: resume is '{checkpoint'"),
        (("false", '"no"'), "takes_latest is 'no', neither true nor false"),
        (('"all"', "1"), "restores is 1, no text"),
    ],
)
def test_values_of_another_type_are_named_at_the_start(here: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in TYPES
    (here / "own.toml").write_text(TYPES, encoding="utf-8")
    families(here / "own.toml")
    (here / "own.toml").write_text(TYPES.replace(*change), encoding="utf-8")
    with pytest.raises(BadTable) as refused:
        families(here / "own.toml")
    assert f"{here / 'own.toml'}, family 'mine': " in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("(?P<step>\\d+)", "(\\d+)"), "checkpoints has no (?P<step>...)"),
        (("(?P<step>", "(?P<step>("), "checkpoints is no regular expression"),
        (('resume = { resume = "{checkpoint}" }', ""), "restores 'all' needs checkpoints and resume"),
    ],
)
def test_bad_checkpoints_are_named(here: Path, change: tuple[str, str], says: str) -> None:
    (here / "own.toml").write_text(OWN.replace(", out = 1", "").replace(*change), encoding="utf-8")
    with pytest.raises(BadTable) as refused:
        families(here / "own.toml")
    assert says in str(refused.value)


def test_the_projects_own_table_is_read() -> None:
    assert len(families()) == TABLE.read_text(encoding="utf-8").count("\n[[families]]")
