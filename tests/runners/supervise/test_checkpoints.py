"""Checkpoints: found, judged, moved aside, freed and rescaled, for each kind of upstream."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.supervise.carry import carried
from runners.supervise.checkpoints import (
    Checkpoint,
    Unfit,
    aside,
    complaint,
    found,
    last_good,
    mark,
    older,
    quarantine,
)
from runners.supervise.command import Command, families, recognise
from runners.supervise.whole import full

ROOT = Path(__file__).resolve().parents[3]
OWN = """
[[families]]
name = "own"
style = "flags"
match.scripts = ["own.py"]
settings = { output = "output" }
checkpoints = 'checkpoint-(?P<step>\\d+)'
complete = ["state.json", "whole.json"]
weights = ["state.json"]
resume = { resume = "{checkpoint}" }
restores = "all"
"""


def safetensors(path: Path, data: bytes = struct.pack("<4f", 1, 2, 3, 4), dtype: str = "F32") -> None:
    width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "I64": 8}[dtype]
    entry = {"dtype": dtype, "shape": [len(data) // width], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def archive(path: Path) -> None:
    """A file of the form that torch writes: a zip without compression."""
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", b"\x80\x02" + bytes(400))
        out.writestr("archive/data/0", bytes(range(256)) * 8)


def huggingface(folder: Path, step: int, *, best: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    safetensors(path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        archive(path / name)
    state = {"global_step": step, "best_model_checkpoint": best, "log_history": [{"loss": float("nan")}]}
    (path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return path


def make(folder: Path, line: str, python: str = sys.executable) -> Command:
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "train.py").write_text("import llamafactory", encoding="utf-8")
    (folder / "own.toml").write_text(OWN, encoding="utf-8")
    return recognise([python, *line.split()], folder, {}, families(folder / "own.toml"))


@pytest.fixture
def trainer(tmp_path: Path) -> Command:
    return make(tmp_path, "src/train.py --output_dir out")


@pytest.fixture
def real_python() -> str:
    """An interpreter that has numpy and torch, as a trainer's has."""
    python = ROOT / ".venvs" / "LLaMA-Factory" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there: `make test` builds it")
    return str(python)


def test_found_by_name_earliest_step_first(trainer: Command, tmp_path: Path) -> None:
    assert found(trainer) == []
    for step in (100, 20, 3):
        huggingface(trainer.output, step)
    for name in ("checkpoint-x", "checkpoint-7.tmp", "damaged-checkpoint-9", "checkpoint-"):
        (trainer.output / name).mkdir()
    assert [(item.step, item.path.name) for item in found(trainer)] == [
        (step, f"checkpoint-{step}") for step in (3, 20, 100)
    ]


def test_found_of_the_other_upstreams(tmp_path: Path) -> None:
    starvla = "s/starVLA/training/train_starvla.py --config_yaml c.yaml"
    (tmp_path / "c.yaml").write_text("run_id: a\nrun_root_dir: r", encoding="utf-8")
    names = ["steps_5_pytorch_model.pt", "steps_40_model.safetensors", "steps_6_other.pt", "x_steps_7_pytorch_model.pt"]
    command = make(tmp_path, starvla)
    (command.output / "checkpoints").mkdir(parents=True)
    for name in names:
        (command.output / "checkpoints" / name).touch()
    assert [item.step for item in found(command)] == [5, 40]

    command = make(tmp_path, "vla-scripts/train.py")
    (command.output / "checkpoints").mkdir(parents=True)
    for name in ("step-002500-epoch-00-loss=0.5.pt", "step-000100-epoch-00-loss=inf.pt", "latest-checkpoint.pt"):
        (command.output / "checkpoints" / name).touch()
    assert [item.step for item in found(command)] == [100, 2500]
    assert found(make(tmp_path, "libero/lifelong/main.py")) == []


def test_all_parts_of_a_fine_tuning_are_found_with_the_whole_runs_steps(tmp_path: Path) -> None:
    line = "vla-scripts/finetune.py --run_root_dir r --max_steps 100 --save_latest_checkpoint_only False"
    command = make(tmp_path, line)
    begin = "openvla-7b+droid_wipe+b16+lr-{}+lora-r32+dropout-0.0{}--image_aug{}--{}_chkpt"
    parts = [(0.0005, "", "", 10), (0.0005, "--from10", "", 10), (2.5e-05, "--from20", "+surgery-0123abcd", 5)]
    others = [(0.0005, "--note", "", 10), (0.0005, "--from10x", "", 4), (0.0005, "", "", "x")]
    for part in parts + others:
        (tmp_path / "r" / begin.format(*part)).mkdir(parents=True)
    (tmp_path / "r" / "other-7b+droid_wipe+b16+lr-0.0005+lora-r32+dropout-0.0--image_aug--9_chkpt").mkdir()
    assert [item.step for item in found(command)] == [10, 20, 25]
    resumed = command.resumed(found(command)[-1])
    assert found(resumed) == found(command)
    noted = make(tmp_path, f"{line} --run_id_note note")
    assert [item.step for item in found(noted)] == [10]


def test_a_whole_checkpoint_has_no_complaint_and_nan_in_its_log_is_none(trainer: Command) -> None:
    huggingface(trainer.output, 5)
    assert complaint(found(trainer)[0], trainer, finite=False) is None


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        os.truncate(path / name, int((path / name).stat().st_size * share))

    return change


def flip(name: str, at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[at] ^= 1
        (path / name).write_bytes(data)

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_text(text, encoding="utf-8") and None


DAMAGE = [
    (remove("trainer_state.json"), "incomplete: it has no trainer_state.json"),
    (remove("model.safetensors"), r"it has no \*.safetensors or \*model\*.bin or global_step\* or pytorch_model_fsdp"),
    (remove("optimizer.pt"), r"it has no optimizer\.pt or optimizer\.bin"),
    (remove("scheduler.pt"), r"it has no scheduler\.pt"),
    (remove("rng_state.pth"), r"it has no rng_state\*\.pth"),
    (cut("trainer_state.json", 0.5), r"trainer_state\.json does not parse"),
    (cut("model.safetensors", 0.0), r"model\.safetensors is cut short: 0 bytes"),
    (cut("model.safetensors", 0.5), r"model\.safetensors is cut short"),
    (cut("model.safetensors", 0.95), r"model\.safetensors has \d+ bytes where its header promises"),
    (flip("model.safetensors", 8), r"model\.safetensors has a damaged header"),
    (cut("optimizer.pt", 0.0), r"optimizer\.pt is cut short"),
    (cut("optimizer.pt", 0.7), r"optimizer\.pt is cut short"),
    (flip("scheduler.pt", 900), r"scheduler\.pt is damaged: the checksum of archive/data/0"),
    (write("model.safetensors.index.json", '{"weight_map": {"a": "model-2.safetensors"}}'),
     r"index\.json names model-2\.safetensors, which is not there"),
    (lambda path: safetensors(path / "model-00001-of-00002.safetensors"),
     r"model-00001-of-00002\.safetensors is a shard, and model\.safetensors\.index\.json is not there"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), DAMAGE, ids=[says for _, says in DAMAGE])
def test_damage_is_named_with_its_file(trainer: Command, change: Callable[[Path], None], says: str) -> None:
    path = huggingface(trainer.output, 5)
    assert complaint(Checkpoint(path, 5), trainer, finite=False) is None
    change(path)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(complaint(Checkpoint(path, 5), trainer, finite=False))


def test_weights_alone_are_whole_where_the_command_saves_no_more(trainer: Command) -> None:
    path = huggingface(trainer.output, 5)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).unlink()
    assert "incomplete" in str(complaint(Checkpoint(path, 5), trainer, finite=False))
    command = trainer.with_settings({"save_only_model": "true"})
    assert complaint(Checkpoint(path, 5), command, finite=False) is None


def test_one_file_is_a_checkpoint_too(tmp_path: Path) -> None:
    command = make(tmp_path, "vla-scripts/train.py")
    path = command.output / "checkpoints" / "step-000100-epoch-00-loss=0.5.pt"
    path.parent.mkdir(parents=True)
    archive(path)
    item = found(command)[0]
    assert complaint(item, command, finite=False) is None
    os.truncate(path, 300)
    assert "is cut short" in str(complaint(item, command, finite=False))
    path.unlink()
    assert "is not there" in str(complaint(item, command))


def test_numbers_in_json_weights_are_looked_at(tmp_path: Path) -> None:
    command = make(tmp_path, "own.py --output out")
    path = command.output / "checkpoint-3"
    path.mkdir(parents=True)
    (path / "whole.json").write_text("{}", encoding="utf-8")
    for value, odd in ((1.0, None), (float("nan"), "NaN"), (float("-inf"), "-Infinity")):
        (path / "state.json").write_text(json.dumps({"weight": value}), encoding="utf-8")
        said = complaint(Checkpoint(path, 3), command)
        assert said == (f"{path / 'state.json'} holds {odd}" if odd else None)


# Little-endian bit patterns, by hand: the largest finite number of each type, then infinity or NaN, signed as well.
PATTERNS = [
    ("F32", "<I", [0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000000], [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001]),
    ("F64", "<Q", [0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF], [0x7FF0000000000000, 0xFFF8000000000000]),
    ("F16", "<H", [0x7BFF, 0xFBFF, 0x8000], [0x7C00, 0xFC00, 0x7E00, 0xFC01]),
    ("BF16", "<H", [0x7F7F, 0xFF7F, 0x7C00], [0x7F80, 0xFF80, 0x7FC0, 0xFF81]),
    ("F8_E5M2", "<B", [0x7B, 0xFB], [0x7C, 0xFC, 0x7F]),
    ("F8_E4M3", "<B", [0x7E, 0xFE, 0x7C], [0x7F, 0xFF]),
    ("I64", "<Q", [0x7FF0000000000000, 0xFFFFFFFFFFFFFFFF], []),
]


LOOK = """
import json, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
import weights
with ThreadPoolExecutor(2) as pool:
    files = sorted(pathlib.Path(sys.argv[2]).iterdir())
    print(json.dumps({path.stem: weights.look(path, pool)[0] for path in files}))
"""


def test_nan_and_inf_in_safetensors_of_every_type(tmp_path: Path, real_python: str) -> None:
    expected: dict[str, str | None] = {}

    def case(name: str, dtype: str, data: bytes, odd: bool) -> None:
        path = tmp_path / f"{name}.safetensors"
        safetensors(path, data, dtype)
        expected[name] = f"{path}: w ({dtype}) holds NaN or Inf" if odd else None

    for dtype, form, finite, odd in PATTERNS:
        width = struct.calcsize(form)
        # More than one part of what is looked at at a time, and a last one that is not whole.
        filler = struct.pack(form, finite[0]) * (700_000 // width) + b"".join(struct.pack(form, one) for one in finite)
        case(f"{dtype}-finite", dtype, filler, odd=False)
        for pattern in odd:
            case(f"{dtype}-{pattern:x}-first", dtype, struct.pack(form, pattern) + filler, odd=True)
            case(f"{dtype}-{pattern:x}-last", dtype, filler + struct.pack(form, pattern), odd=True)
    case("empty", "F32", b"", odd=False)
    folder = str(ROOT / "runners" / "supervise")
    run = subprocess.run([real_python, "-c", LOOK, folder, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == expected
    assert sum(map(bool, expected.values())) == 38


def test_a_checkpoint_with_nan_in_its_weights_is_no_good_one(trainer: Command, real_python: str) -> None:
    command = make(trainer.folder, "src/train.py --output_dir out", real_python)
    weights = huggingface(command.output, 5) / "model.safetensors"
    item = found(command)[0]
    assert complaint(item, command) is None
    safetensors(weights, struct.pack("<3f", 1, float("nan"), 2))
    assert complaint(item, command) == f"{weights}: w (F32) holds NaN or Inf"
    assert complaint(item, command, finite=False) is None
    item = Checkpoint(huggingface(command.output, 6), 6)
    with pytest.raises(Unfit, match=r"cannot be seen in .*/bare/python3: .*no numpy.*Install what is missing"):
        complaint(item, make(trainer.folder, "src/train.py --output_dir out", bare(trainer.folder)))


def bare(folder: Path) -> str:
    """An interpreter without any library."""
    path = folder / "bare" / "python3"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


TORCH = """
import sys, torch
folder = sys.argv[1]
torch.manual_seed(0)
layer = torch.nn.Linear(5, 3)
optimizer = torch.optim.AdamW([{"params": [layer.weight], "lr": 0.5}, {"params": [layer.bias], "lr": 0.25}])
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
for _ in range(3):
    layer(torch.randn(2, 5)).square().sum().backward()
    optimizer.step(); scheduler.step(); optimizer.zero_grad()
torch.save(optimizer.state_dict(), folder + "/optimizer.pt")
torch.save(scheduler.state_dict(), folder + "/scheduler.pt")
half = torch.zeros(2, dtype=torch.bfloat16)
torch.save({"model": {"a": layer.state_dict(), "b": [half]}}, folder + "/model_good.bin")
layer.bias.data[1] = float("inf")
torch.save({"model": {"a": layer.state_dict()}}, folder + "/model_odd.bin")
"""
READ = """
import json, sys, torch
a, b = (sys.argv[1:])
one, two = (torch.load(f + "/optimizer.pt", weights_only=True) for f in (a, b))
same = all(torch.equal(one["state"][i][k], two["state"][i][k]) for i in one["state"] for k in one["state"][i])
rates = [[(g["lr"], g["initial_lr"]) for g in x["param_groups"]] for x in (one, two)]
plans = [torch.load(f + "/scheduler.pt", weights_only=True) for f in (a, b)]
rest = [{k: v for k, v in g.items() if k not in ("lr", "initial_lr")} for x in (one, two) for g in x["param_groups"]]
print(json.dumps({"same": same and rest[:2] == rest[2:], "rates": rates, "base": [p["base_lrs"] for p in plans],
                  "last": [p["_last_lr"] for p in plans], "epoch": [p["last_epoch"] for p in plans]}))
"""


def test_torchs_files_rescaled_and_looked_at(tmp_path: Path, real_python: str) -> None:
    command = make(tmp_path, "src/train.py --output_dir out", real_python)
    path = huggingface(command.output, 3)
    subprocess.run([real_python, "-c", TORCH, str(path)], check=True)
    item = Checkpoint(path, 3)
    assert complaint(item, command) == f"{path / 'model_odd.bin'}: model.a.bias (F32) holds NaN or Inf"

    before = {name.name: name.read_bytes() for name in path.iterdir()}
    made = carried(item, command, 0.5, tmp_path / "rescaled")
    assert made == Checkpoint(tmp_path / "rescaled" / "checkpoint-3", 3)
    assert {name.name: name.read_bytes() for name in path.iterdir()} == before
    assert {name.name for name in made.path.iterdir()} == set(before)
    linked = {name for name in before if (made.path / name).samefile(path / name)}
    assert linked == set(before) - {"optimizer.pt", "scheduler.pt"}
    run = subprocess.run(
        [real_python, "-c", READ, str(path), str(made.path)], capture_output=True, text=True, check=True
    )
    # Three steps of 1 / (1 + step): a quarter of the first rates, 0.5 and 0.25.
    assert json.loads(run.stdout) == {
        "same": True,
        "rates": [[[0.125, 0.5], [0.0625, 0.25]], [[0.0625, 0.25], [0.03125, 0.125]]],
        "base": [[0.5, 0.25], [0.25, 0.125]],
        "last": [[0.125, 0.0625], [0.0625, 0.03125]],
        "epoch": [3, 3],
    }
    again = carried(item, command, 2.0, tmp_path / "rescaled")
    assert again == made
    assert sorted(name.name for name in (tmp_path / "rescaled").iterdir()) == ["checkpoint-3"]


@pytest.mark.parametrize("name", ["global_step5", "optimizer_0"])
def test_a_sharded_optimizer_is_not_rescaled(trainer: Command, tmp_path: Path, name: str) -> None:
    path = huggingface(trainer.output, 5)
    (path / name).mkdir()
    with pytest.raises(Unfit, match=f"{name} holds an optimizer that DeepSpeed or FSDP sharded.*start a new run"):
        carried(Checkpoint(path, 5), trainer, 0.5, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_where_the_command_line_holds_the_rate_the_checkpoint_stays(tmp_path: Path) -> None:
    command = make(tmp_path, "vla-scripts/train.py")
    item = Checkpoint(tmp_path / "step-000100-epoch-00-loss=0.5.pt", 100)
    archive(item.path)
    assert carried(item, command, 0.5, tmp_path / "into") is item


def test_last_good_passes_over_the_damaged_and_says_so(trainer: Command) -> None:
    for step in (1, 2, 3):
        huggingface(trainer.output, step)
    command = trainer.with_environment({})
    (trainer.output / "checkpoint-3" / "trainer_state.json").unlink()
    os.truncate(trainer.output / "checkpoint-2" / "optimizer.pt", 100)
    (trainer.output / "checkpoint-1" / "model.safetensors").unlink()
    said: list[str] = []
    assert last_good(command, said.append) is None
    assert [line.split(":")[0] for line in said] == [f"passes over checkpoint-{step}" for step in (3, 2, 1)]


def test_last_good_of_a_trainer_of_ones_own(tmp_path: Path) -> None:
    command = make(tmp_path, "own.py --output out")
    for step in (1, 2, 3):
        path = command.output / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "state.json").write_text('{"weight": 1.0}' if step < 3 else '{"weight": NaN}', encoding="utf-8")
        (path / "whole.json").write_text("{}", encoding="utf-8")
    said: list[str] = []
    good = last_good(command, said.append)
    assert good == Checkpoint(command.output / "checkpoint-2", 2)
    assert len(said) == 1
    assert "state.json holds NaN" in said[0]


def test_quarantine_keeps_everything_under_names_that_no_upstream_takes(trainer: Command) -> None:
    path = huggingface(trainer.output, 5)
    before = sorted(name.name for name in path.iterdir())
    first = quarantine(Checkpoint(path, 5))
    assert found(trainer) == []
    assert sorted(name.name for name in first.iterdir()) == before
    second = quarantine(Checkpoint(huggingface(trainer.output, 5), 5))
    assert first != second
    assert first.exists()
    # What transformers counts against save_total_limit, and removes: everything that begins with checkpoint-.
    assert list(trainer.output.glob("checkpoint-*")) == []


def test_older_leaves_the_last_two_whole_ones_and_the_best(trainer: Command) -> None:
    for step in (1, 2, 3, 4, 5, 6):
        huggingface(trainer.output, step, best=str(trainer.output / "checkpoint-2"))
    (trainer.output / "checkpoint-6" / "trainer_state.json").unlink()
    os.truncate(trainer.output / "checkpoint-4" / "optimizer.pt", 100)
    assert [item.step for item in older(trainer)] == [1, 4, 6]


def test_older_removes_nothing_where_nothing_is_whole(trainer: Command) -> None:
    (huggingface(trainer.output, 1) / "trainer_state.json").unlink()
    assert older(trainer) == []
    huggingface(trainer.output, 2)
    assert [item.step for item in older(trainer)] == [1]


def own_checkpoint(folder: Path, step: int, files: int = 0) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in (*(f"s{at}.json" for at in range(files)), "state.json", "whole.json"):
        (path / name).write_text("{}", encoding="utf-8")
    return path


def test_what_vanishes_while_it_is_looked_at_is_not_there(tmp_path: Path) -> None:
    """As transformers' save_total_limit does: folders come and go all the time."""
    command = make(tmp_path, "own.py --output out")
    command.output.mkdir()
    stop = threading.Event()

    def rotate() -> None:
        for step in itertools.count(5, 5):
            own_checkpoint(command.output, step, files=30)
            shutil.rmtree(command.output / f"checkpoint-{step - 10}", ignore_errors=True)
            if stop.is_set():
                return

    thread = threading.Thread(target=rotate)
    thread.start()
    told: list[str | None] = []
    try:
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            for item in found(command):
                told.append(complaint(item, command, finite=False))
                mark(item, command)
            older(command)
    finally:
        stop.set()
        thread.join()
    assert None in told
    assert any(said and "is not there" in said for said in told)


def test_a_link_that_leads_nowhere_is_no_checkpoint(tmp_path: Path) -> None:
    command = make(tmp_path, "own.py --output out")
    own_checkpoint(command.output, 5)
    for step, target in ((6, "gone"), (7, "checkpoint-7")):
        (command.output / f"checkpoint-{step}").symlink_to(target)
    said = [complaint(item, command, finite=False) for item in found(command)]
    assert said[0] is None
    assert all(text and "is not there" in text for text in said[1:])
    assert [mark(item, command).rpartition("@")[2] for item in found(command)[1:]] == ["gone", "gone"]
    assert [item.step for item in older(command)] == [6, 7]
    passed: list[str] = []
    good = last_good(command, passed.append)
    assert good is not None
    assert good.step == 5
    assert len(passed) == 2


def test_a_checkpoint_stays_the_same_until_it_is_written_anew(tmp_path: Path) -> None:
    command = make(tmp_path, "own.py --output out")
    path = own_checkpoint(command.output, 10)
    item = Checkpoint(path, 10)
    before = mark(item, command)
    (path / "note").touch()
    os.utime(path)
    assert mark(item, command) == before
    shutil.rmtree(path)
    own_checkpoint(command.output, 10)
    assert mark(item, command) != before
    (tmp_path / "steps.pt").write_text("a", encoding="utf-8")
    single = Checkpoint(tmp_path / "steps.pt", 3)
    before = mark(single, command)
    assert mark(single, command) == before
    os.utime(single.path, ns=(1, 1))
    assert mark(single, command) != before


def test_what_was_moved_aside_oldest_first(tmp_path: Path) -> None:
    command = make(tmp_path, "own.py --output out")
    for step in (30, 10, 10, 20):
        quarantine(Checkpoint(own_checkpoint(command.output, step), step))
        time.sleep(0.02)
    (command.output / "damaged-goods").mkdir()
    names = [item.path.name for item in aside(command)]
    assert names == [
        "damaged-checkpoint-30",
        "damaged-checkpoint-10",
        "damaged-2-checkpoint-10",
        "damaged-checkpoint-20",
    ]
    assert [item.step for item in aside(command)] == [30, 10, 10, 20]
    assert found(command) == []
    assert aside(make(tmp_path, "own.py --output nowhere")) == []


def test_a_disk_is_full_where_what_is_needed_finds_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not full(tmp_path / "not" / "there" / "yet")
    free = os.statvfs(tmp_path)
    assert full(tmp_path, free.f_bavail * free.f_frsize * 2)
    assert list(tmp_path.iterdir()) == []

    def refused(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", refused)
    assert full(tmp_path)


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="a small disk needs `unshare -rm`, which this system refuses",
)
@pytest.mark.parametrize(
    ("options", "expected"), [("size=700k", "True"), ("size=9m,nr_inodes=2", "True"), ("size=9m", "False")]
)
def test_a_small_disk(tmp_path: Path, options: str, expected: str) -> None:
    look = "import sys, pathlib; from runners.supervise.whole import full; print(full(pathlib.Path(sys.argv[1])))"
    script = f'mount -t tmpfs -o {options} tmpfs {tmp_path} && touch {tmp_path}/one; "$@"'
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", look, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == expected
