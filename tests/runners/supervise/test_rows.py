"""Deaths that no row alone tells of: several in a run, small disks, torn checkpoints, what nobody knows."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runners.supervise.supervised import supervised, trained
from tests.runners.supervise.test_every_row import with_wheel


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> object:
    return trained(tmp_path_factory.mktemp("uninterrupted") / "output")


def marks(tmp_path: Path) -> list[str]:
    return ["--marks", str(tmp_path / "marks")]


def test_killed_three_times(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "kill", "--times", "3", *marks(tmp_path))
    assert (run.code, run.remedies) == (0, ["killed/resume"] * 3), run.said
    assert run.final() == uninterrupted
    # Killed in step 23; checkpoints every 5 steps: only 21 and 22 are trained again.
    assert run.steps() == [*range(1, 23), *[21, 22] * 2, *range(21, 41)]


def test_a_smaller_batch_where_a_resume_takes_the_old_one(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "gpu_memory")
    assert (run.code, run.remedies) == (0, ["gpu_out_of_memory/halve_batch"] * 2), run.said
    assert run.of("attempt")[-1]["set"] == {"batch": "2", "accumulation": "4"}
    # The trainer takes the batch from the checkpoint: with the old one it would die again, or see twice as much a step.
    assert (run.folder / "carried" / "checkpoint-20" / "state.json").is_file()
    assert '"batch": 8' in (run.output / "checkpoint-20" / "state.json").read_text(encoding="utf-8")
    assert '"batch": 2' in (run.output / "checkpoint-40" / "state.json").read_text(encoding="utf-8")
    assert run.final() == uninterrupted


def mounts() -> bool:
    """Whether this user may mount a file system of its own, as `unshare` lets most."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not mounts(), reason="a small disk needs `unshare -rm`, which this system refuses")
@pytest.mark.parametrize("small", ["output", "work"])
def test_a_full_disk(tmp_path: Path, uninterrupted: object, small: str) -> None:
    # A disk of 700 KB holds four checkpoints of 150 KB; in `work` are also the supervisor's own log and decisions.
    disk = tmp_path / ("output" if small == "output" else "disk")
    disk.mkdir()
    if small == "work":
        for name in ("output", "work"):
            (tmp_path / name).symlink_to(disk / name)
    made = f"mkdir {disk}/output {disk}/work; " if small == "work" else ""
    script = (
        f'mount -t tmpfs -o size=700k tmpfs {disk} && {{ {made}"$@"; code=$?; '
        f"cp -r {tmp_path}/output/. {tmp_path}/kept; "
        f"cp {tmp_path}/work/run/decisions.jsonl {tmp_path}/decided.jsonl; exit $code; }}"
    )
    before = ["unshare", "-rm", "sh", "-c", script, "sh"]
    run = supervised(tmp_path, "--ballast", "150000", before=before, patience=60)
    assert run.code == 0, run.said
    decided = (tmp_path / "decided.jsonl").read_text(encoding="utf-8")
    assert decided.endswith("\n")
    assert "removed" in decided
    assert "disk_full" in decided or '"room"' in decided
    assert trained(tmp_path / "again") == uninterrupted
    assert (tmp_path / "kept" / "final.json").read_text() == (tmp_path / "again" / "final.json").read_text()


def test_a_package_that_is_missing_is_not_installed_unasked(tmp_path: Path) -> None:
    run = supervised(tmp_path, "--fault", "package", environment=with_wheel(tmp_path))
    assert run.code == 1
    assert "tinymissing" in run.said
    assert "--may-install" in run.said
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("fault", ["torn", "power"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path, uninterrupted: object, fault: str) -> None:
    run = supervised(tmp_path, "--fault", fault, *marks(tmp_path))
    assert (run.code, run.remedies) == (0, ["killed/resume"]), run.said
    assert run.of("attempt")[-1]["begun"].endswith("checkpoint-15")
    assert [path.name for path in run.output.iterdir() if "20" in path.name and path.name != "checkpoint-20"]
    assert run.final() == uninterrupted


def test_what_nobody_knows_is_told_with_its_lines(tmp_path: Path) -> None:
    run = supervised(tmp_path, "--fault", "odd")
    assert (run.code, run.remedies) == (1, []), run.said
    assert [item["cause"] for item in run.of("stop")] == ["unknown"]
    assert "OddError: the moon is full" in run.of("stop")[0]["lines"]
    assert "OddError: the moon is full" in run.said
