"""What runs behind launchers: values of their options are not taken for the script."""

from __future__ import annotations

import ast
import shlex
import subprocess
from pathlib import Path

import pytest

from runners.supervise.environments import bins_of
from runners.supervise.launchers import UnknownCommand, interpreter_of, launchers, target_of

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path("/project")

CALLS = [
    ("python train.py --a 1", "script", "/project/train.py", "--a"),
    ("python3.11 -u -W ignore -X dev train.py a", "script", "/project/train.py", "a"),
    ("/venv/bin/python -Bu sub/train.py x", "script", "/project/sub/train.py", "x"),
    ("./train.py x", "script", "/project/train.py", "x"),
    ("python -m pack.train x", "module", "pack.train", "x"),
    ("python -u -m pack.train x", "module", "pack.train", "x"),
    ("torchrun train.py x", "script", "/project/train.py", "x"),
    ("torchrun --nproc_per_node 2 --nnodes=1 train.py x", "script", "/project/train.py", "x"),
    ("torchrun --standalone --nproc-per-node 2 --log-dir old.py train.py x", "script", "/project/train.py", "x"),
    ("torchrun --rdzv-id 7 --rdzv-endpoint h:1 -t 3 -r3 train.py x", "script", "/project/train.py", "x"),
    ("torchrun --nproc-per-node 2 -m pack.train x", "module", "pack.train", "x"),
    ("torchrun --no-python prog x", "command", "prog", "x"),
    (".venvs/X/bin/python -m torch.distributed.run --nproc-per-node 2 train.py x", "script", "/project/train.py", "x"),
    ("python /venv/bin/torchrun --node_rank 0 train.py x", "script", "/project/train.py", "x"),
    ("accelerate launch train.py x", "script", "/project/train.py", "x"),
    ("accelerate launch --config_file c.yaml --num_processes 8 --multi_gpu t.py x", "script", "/project/t.py", "x"),
    ("accelerate launch --use-deepspeed --deepspeed_config_file d.py t.py x", "script", "/project/t.py", "x"),
    ("accelerate launch --num_processes=2 -m pack.train x", "module", "pack.train", "x"),
    ("accelerate-launch --cpu --num_processes 2 t.py x", "script", "/project/t.py", "x"),
    ("python -m accelerate.commands.launch --mixed_precision bf16 t.py x", "script", "/project/t.py", "x"),
    ("python -m accelerate.commands.accelerate_cli launch --cpu t.py x", "script", "/project/t.py", "x"),
    ("deepspeed --num_gpus 2 train.py x", "script", "/project/train.py", "x"),
    ("deepspeed --hostfile=h --include host:0,1 --no_ssh --master_port 1 t.py x", "script", "/project/t.py", "x"),
    ("deepspeed --num_gpus 2 --module pack.train x", "module", "pack.train", "x"),
    ("srun -n 4 -N2 --gres gpu:4 --kill-on-bad-exit=1 -l torchrun t.py x", "script", "/project/t.py", "x"),
    ("srun --exclusive --ntasks 4 --label python -u t.py x", "script", "/project/t.py", "x"),
    ("env A=B C=train.py python t.py x", "script", "/project/t.py", "x"),
    ("env -i -u HOME A=B torchrun --nnodes 2 t.py x", "script", "/project/t.py", "x"),
    ("nohup nice -n 10 python t.py x", "script", "/project/t.py", "x"),
    ("timeout -k 5 3600 xvfb-run -a -s 'screen 0' python t.py x", "script", "/project/t.py", "x"),
    ("conda run -n base --no-capture-output python t.py x", "script", "/project/t.py", "x"),
    ("python runners/openvla_on_cpu.py vla-scripts/finetune.py x", "script", "/project/vla-scripts/finetune.py", "x"),
    ("torchrun --standalone r/runners/seeded.py 7 r/runners/openvla_on_cpu.py t.py x", "script", "/project/t.py", "x"),
    ("python runners/seeded.py 7 runners/starvla_on_cpu.py t.py x", "script", "/project/t.py", "x"),
    ("llamafactory-cli train x.yaml", "command", "llamafactory-cli", "train"),
    ("python /venv/bin/llamafactory-cli train x.yaml", "command", "llamafactory-cli", "train"),
    ("uv run train.py x", "script", "/project/train.py", "x"),
    ("uv run --with rich -p 3.12 --project sub --no-sync python -u t.py x", "script", "/project/t.py", "x"),
    ("uv run --frozen -m pack.train x", "module", "pack.train", "x"),
    ("uv run -- llamafactory-cli train x.yaml", "command", "llamafactory-cli", "train"),
    ("mpirun -np 4 python t.py x", "script", "/project/t.py", "x"),
    (
        "mpirun -n 4 -H a:2,b:2 -x PATH -x A=1 --mca btl ^openib --bind-to none -npernode 2 python t.py x",
        "script",
        "/project/t.py",
        "x",
    ),
    ("mpiexec -genv A train.py -ppn 2 -hosts a,b -l torchrun t.py x", "script", "/project/t.py", "x"),
    ("mpirun --allow-run-as-root --oversubscribe -np=2 python -m pack.train x", "module", "pack.train", "x"),
    ("nsys profile -o old.py -t cuda,nvtx --stats=true -f true python t.py x", "script", "/project/t.py", "x"),
    ("ncu --set full -o old.py -c 10 --target-processes all -f python t.py x", "script", "/project/t.py", "x"),
    ("bash run.sh", "command", "bash", "run.sh"),
]


@pytest.mark.parametrize(("line", "kind", "name", "first"), CALLS, ids=[call[0] for call in CALLS])
def test_the_script_behind_launchers(line: str, kind: str, name: str, first: str) -> None:
    words = shlex.split(line)
    target = target_of(words, FOLDER)
    assert (target.kind, target.name) == (kind, name)
    assert words[target.begin] == first


def test_variables_of_env_are_seen_with_their_word() -> None:
    words = ["srun", "-n", "2", "env", "A=B", "PATH=/x", "python", "t.py"]
    assert target_of(words, FOLDER).variables == {"A": 4, "PATH": 5}


@pytest.mark.parametrize("line", ["", "python", "torchrun --nnodes 2", "python -m", "env A=B", "srun -n 4"])
def test_a_command_without_a_script_is_refused(line: str) -> None:
    with pytest.raises(UnknownCommand, match="names no script"):
        target_of(line.split(), FOLDER)


def test_code_on_the_line_is_refused() -> None:
    with pytest.raises(UnknownCommand, match="put it into a script"):
        target_of(["python", "-c", "print(1)"], FOLDER)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("setsid -f python t.py", "seem done. Leave it out"),
        ("nohup setsid python t.py", "seem done. Leave it out"),
        ("docker run --gpus all image python t.py", "inside the container"),
        ("sbatch job.sh", "in the job's script"),
    ],
)
def test_what_leaves_the_command_behind_is_refused(line: str, says: str) -> None:
    with pytest.raises(UnknownCommand, match=says):
        target_of(line.split(), FOLDER)


def program(place: Path, name: str, head: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(head, encoding="utf-8")
    (place / name).chmod(0o755)
    return place / name


@pytest.mark.parametrize(
    ("line", "where", "variables"),
    [
        ("conda run -n x prog train", "root/envs/x", {"CONDA_EXE": "root/condabin/conda"}),
        ("mamba run --name=x prog train", "root/envs/x", {"MAMBA_ROOT_PREFIX": "root"}),
        ("conda run -n x prog train", "mine/x", {"CONDA_ENVS_PATH": "other:mine"}),
        ("conda run -n x prog train", "listed/x", {}),
        ("conda run -n base prog train", "root", {"CONDA_EXE": "root/bin/conda"}),
        ("conda run -p ./here/x prog train", "here/x", {}),
        ("conda run prog train", "now", {"CONDA_PREFIX": "now"}),
        ("uv run prog train", ".venv", {}),
        ("uv run --project sub prog train", "sub/.venv", {}),
        ("uv run prog train", "env", {"UV_PROJECT_ENVIRONMENT": "env"}),
        ("uv run prog train", "active", {"VIRTUAL_ENV": "active"}),
    ],
)
def test_the_program_of_an_environment_that_a_launcher_names(
    tmp_path: Path, line: str, where: str, variables: dict[str, str]
) -> None:
    expected = tmp_path / where / "bin"
    program(expected, "prog", "#!/its/own/python\n")
    program(tmp_path / "path", "prog", "#!/another/python\n")
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda" / "environments.txt").write_text(f"{tmp_path}/listed/x\n", encoding="utf-8")
    told = {name: ":".join(str(tmp_path / each) for each in value.split(":")) for name, value in variables.items()}
    bins = bins_of(target_of(line.split(), tmp_path), tmp_path, {"HOME": str(tmp_path), "PATH": "/bin", **told})
    assert bins == [str(expected)]
    assert interpreter_of("prog", tmp_path, f"{bins[0]}:{tmp_path / 'path'}") == "/its/own/python"


def test_an_environment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownCommand, match=r"conda run: no environment x was found \(looked at .*: give -p PREFIX"):
        bins_of(target_of(["conda", "run", "-n", "x", "prog"], tmp_path), tmp_path, {"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("head", "python"),
    [
        ("#!/venv/bin/python\n", "/venv/bin/python"),
        ("#!/venv/bin/python3.11 -E\n", "/venv/bin/python3.11"),
        ('#!/bin/sh\n\'\'\'exec\' "/a long/venv/bin/python" "$0" "$@"\n', "/a long/venv/bin/python"),
        ("#!/bin/sh\n'''exec' /long/venv/bin/python \"$0\" \"$@\"\n", "/long/venv/bin/python"),
        ("#!/usr/bin/env python3\n", "own"),
    ],
)
def test_the_interpreter_of_a_console_script(tmp_path: Path, head: str, python: str) -> None:
    (tmp_path / "torchrun").write_text(head + "import sys\n", encoding="utf-8")
    (tmp_path / "python3").touch()
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    expected = str(tmp_path / "python3") if python == "own" else python
    assert interpreter_of("torchrun", Path("/"), str(tmp_path)) == expected


def test_a_program_that_is_not_there_or_names_no_python_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownCommand, match="torchrun is not on the PATH: activate"):
        interpreter_of("torchrun", Path("/"), str(tmp_path))
    (tmp_path / "prog").write_text("#!/bin/bash\n", encoding="utf-8")
    with pytest.raises(UnknownCommand, match="does not say which Python runs it"):
        interpreter_of("./prog", tmp_path, None)


PARSERS = {
    "torchrun": ("LLaMA-Factory", "from torch.distributed.run import get_args_parser as parser"),
    "accelerate": ("LLaMA-Factory", "from accelerate.commands.launch import launch_command_parser as parser"),
    "deepspeed": (
        "starVLA",
        "import argparse, deepspeed.launcher.runner as r\n"
        "kept = []\n"
        "argparse.ArgumentParser.parse_args = lambda self, *a, **k: kept.append(self)\n"
        "try: r.parse_args([])\n"
        "except Exception: pass\n"
        "parser = lambda: kept[0]",
    ),
}


@pytest.mark.upstream
@pytest.mark.parametrize("name", PARSERS)
def test_the_table_has_the_options_without_a_value_of_the_real_parser(name: str) -> None:
    place, code = PARSERS[name]
    python = ROOT / ".venvs" / place / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there: `make starvla` builds it")
    asked = f"{code}\nprint([s for a in parser()._actions if a.nargs == 0 for s in a.option_strings])"
    run = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    real = {word if len(word) < 3 else "-" + word[1:].replace("_", "-") for word in ast.literal_eval(
        run.stdout.splitlines()[-1])}  # fmt: skip
    row = next(launcher for launcher in launchers() if launcher.name == name)
    assert real - (row.flags | row.module | row.program) == set()
