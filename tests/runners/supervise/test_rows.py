"""Every remedy with a child that really dies, and the resumed run against one that was never interrupted."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runners.supervise.cause_table import TABLE
from tests.runners.supervise.supervised import supervised, trained


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> object:
    return trained(tmp_path_factory.mktemp("uninterrupted") / "output")


def marks(tmp_path: Path) -> list[str]:
    return ["--marks", str(tmp_path / "marks")]


@pytest.mark.parametrize(
    ("fault", "row"),
    [("kill", "killed/resume"), ("term", "asked_to_end/resume"), ("segfault", "segfault/resume")],
)
def test_a_command_that_a_signal_ended_goes_on(tmp_path: Path, uninterrupted: object, fault: str, row: str) -> None:
    run = supervised(tmp_path, "--fault", fault, *marks(tmp_path))
    assert run.code == 0, run.said
    assert run.remedies == [row]
    assert run.final() == uninterrupted
    # Killed in step 23; checkpoints every 5 steps: only 21 and 22 are trained twice.
    assert run.steps() == [*range(1, 23), *range(21, 41)]


def test_killed_three_times(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "kill", "--times", "3", *marks(tmp_path))
    assert (run.code, run.remedies) == (0, ["killed/resume"] * 3), run.said
    assert run.final() == uninterrupted


def test_a_smaller_batch_with_more_accumulation(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "gpu_memory")
    assert (run.code, run.remedies) == (0, ["gpu_out_of_memory/halve_batch"] * 2), run.said
    assert run.of("attempt")[-1]["set"] == {"batch": "2", "accumulation": "4"}
    assert run.final() == uninterrupted


def test_memory_of_the_host(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "host_memory", "--workers", "0")
    assert run.code == 0, run.said
    assert {*run.remedies} == {"host_out_of_memory/halve_batch"}
    assert run.final() == uninterrupted


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    run = supervised(tmp_path, "--fault", "nan")
    assert (run.code, run.remedies) == (0, ["nan_loss/lower_rate"]), run.said
    # At step 23 the gradient is NaN, and so is every checkpoint from 25 on: it goes on from 20 at half the rate.
    assert run.of("attempt")[-1]["begun"].endswith("checkpoint-20")
    assert run.final() == trained(tmp_path / "lowered", "--rate-at", "20:0.025")


DRAWING = Path(__file__).resolve().parents[3] / ".venvs" / "LLaMA-Factory" / "bin" / "python"


@pytest.mark.skipif(not DRAWING.exists(), reason="no environment with MuJoCo: `make test` builds one")
def test_another_way_to_draw(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "gl", environment={"MUJOCO_GL": "glfw"}, python=str(DRAWING))
    assert (run.code, run.remedies) == (0, ["no_display/other_gl"]), run.said
    assert run.final() == uninterrupted


@contextmanager
def serving(codes: list[int]) -> Iterator[str]:
    """A server on loopback that answers with each of `codes` in turn, then with 200."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes.pop(0) if codes else 200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_a_mirror_in_place_of_a_hub_that_is_not_reached(tmp_path: Path, uninterrupted: object) -> None:
    hub = tmp_path / "hub"
    hub.write_text(f"http://127.0.0.1:{closed_port()}", encoding="utf-8")
    with serving([]) as mirror:
        run = supervised(tmp_path, "--fault", "hub", "--marks", str(hub), options=["--hf-mirror", mirror])
    assert (run.code, run.remedies) == (0, ["hub_unreachable/mirror"]), run.said
    assert run.of("attempt")[-1]["set"] == {"HF_ENDPOINT": mirror}
    assert run.final() == uninterrupted


def test_without_a_server_for_curves(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "wandb", environment={"WANDB_MODE": "online"})
    assert (run.code, run.remedies) == (0, ["wandb_unreachable/offline"]), run.said
    assert run.final() == uninterrupted


def mounts() -> bool:
    """Whether this user may mount a file system of its own, as `unshare` lets most."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not mounts(), reason="a small disk needs `unshare -rm`, which this system refuses")
def test_a_full_disk(tmp_path: Path, uninterrupted: object) -> None:
    # The output is a disk of 700 KB that holds four checkpoints of 150 KB.
    (tmp_path / "output").mkdir()
    script = (
        f'mount -t tmpfs -o size=700k tmpfs {tmp_path}/output && "$@"; code=$?; '
        f"cp -r {tmp_path}/output/. {tmp_path}/kept; exit $code"
    )
    run = supervised(tmp_path, "--ballast", "150000", before=["unshare", "-rm", "sh", "-c", script, "sh"], patience=60)
    assert run.code == 0, run.said
    assert {*run.remedies} == {"disk_full/free_checkpoints"}
    kept = run.output.parent / "kept"
    assert trained(tmp_path / "again") == uninterrupted
    assert (kept / "final.json").read_text() == (tmp_path / "again" / "final.json").read_text()


def test_more_time_for_ranks_that_wait(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "timeout")
    assert (run.code, run.remedies) == (0, ["nccl_timeout/longer_timeout"]), run.said
    assert run.of("attempt")[-1]["set"] == {"timeout": "240"}
    assert run.final() == uninterrupted


def test_a_port_that_is_taken(tmp_path: Path, uninterrupted: object) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        run = supervised(tmp_path, "--fault", "port", environment={"MASTER_PORT": port})
    assert (run.code, run.remedies) == (0, ["port_in_use/new_port"]), run.said
    assert run.of("attempt")[-1]["set"]["MASTER_PORT"] != port
    assert run.final() == uninterrupted


def wheel(folder: Path) -> None:
    """A package of one line as a wheel, the least that pip takes."""
    import zipfile

    folder.mkdir()
    named = "tinymissing-1.0.dist-info"
    with zipfile.ZipFile(folder / "tinymissing-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr("tinymissing.py", "here = True\n")
        packed.writestr(f"{named}/METADATA", "Metadata-Version: 2.1\nName: tinymissing\nVersion: 1.0\n")
        packed.writestr(
            f"{named}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{named}/RECORD", "")


def test_a_package_that_is_missing_is_installed_only_where_that_was_allowed(
    tmp_path: Path, uninterrupted: object
) -> None:
    wheel(tmp_path / "wheels")
    into = tmp_path / "site"
    environment = {
        **{"PIP_TARGET": str(into), "PYTHONPATH": str(into), "PIP_NO_INDEX": "1"},
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }
    refused = supervised(tmp_path, "--fault", "package", environment=environment)
    assert refused.code == 1
    assert "tinymissing" in refused.said
    assert "--may-install" in refused.said
    assert not into.exists()
    run = supervised(tmp_path, "--fault", "package", environment=environment, options=["--may-install"])
    assert (run.code, run.remedies) == (0, ["missing_package/install"]), run.said
    assert run.final() == uninterrupted


@pytest.mark.parametrize("fault", ["torn", "power"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path, uninterrupted: object, fault: str) -> None:
    run = supervised(tmp_path, "--fault", fault, *marks(tmp_path))
    assert (run.code, run.remedies) == (0, ["killed/resume"]), run.said
    assert run.of("attempt")[-1]["begun"].endswith("checkpoint-15")
    assert [path.name for path in run.output.iterdir() if "20" in path.name and path.name != "checkpoint-20"]
    assert run.final() == uninterrupted


def test_a_checkpoint_that_cannot_be_read_is_moved_aside(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "unreadable", *marks(tmp_path))
    assert run.code == 0, run.said
    assert run.remedies == ["killed/resume", "checkpoint_damaged/drop_checkpoint"]
    assert run.of("attempt")[-1]["begun"].endswith("checkpoint-15")
    assert run.final() == uninterrupted


def test_data_without_workers(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "workers")
    assert (run.code, run.remedies) == (0, ["shared_memory/fewer_workers"]), run.said
    assert run.final() == uninterrupted


def test_more_open_files(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "files", before=["sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh"])
    assert (run.code, run.remedies) == (0, ["too_many_files/more_files"]), run.said
    assert run.final() == uninterrupted


def test_a_server_that_asks_for_patience(tmp_path: Path, uninterrupted: object) -> None:
    causes = tmp_path / "causes.toml"
    own = TABLE.read_text(encoding="utf-8")
    causes.write_text(own.replace("seconds = 60", "seconds = 0.2"), encoding="utf-8")
    run = supervised(tmp_path, "--fault", "busy", *marks(tmp_path), options=["--causes", str(causes)])
    assert (run.code, run.remedies) == (0, ["hub_rate_limited/wait"]), run.said
    assert run.final() == uninterrupted


def test_a_command_without_a_word(tmp_path: Path, uninterrupted: object) -> None:
    run = supervised(tmp_path, "--fault", "hang", *marks(tmp_path), options=["--hang-after", "2"])
    assert (run.code, run.remedies) == (0, ["hung/resume"]), run.said
    assert run.final() == uninterrupted


@pytest.mark.parametrize(("fault", "cause", "line"), [
    ("assert", "device_assert", "device-side assert triggered"),
    ("option", "bad_option", "unrecognized arguments"),
    ("odd", "unknown", "OddError: the moon is full"),
])  # fmt: skip
def test_what_no_remedy_helps_is_told_with_its_lines(tmp_path: Path, fault: str, cause: str, line: str) -> None:
    run = supervised(tmp_path, "--fault", fault)
    assert run.code == 1
    assert [item["cause"] for item in run.of("stop")] == [cause]
    assert any(line in text for text in run.of("stop")[0]["lines"])
    assert line in run.said
