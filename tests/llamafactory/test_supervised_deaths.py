"""The supervisor over a trainer on torch that dies of what torch, gloo and the hub's client really say."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

tiny.require("torch", "huggingface_hub")
pytestmark = pytest.mark.upstream_heavy
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TRAINER = HERE / "torch_trainer.py"
ALONE = [sys.executable, str(TRAINER)]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRAFT_", "MASTER_"))}
    return clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""} | more


def trained(output: Path, *arguments: str, command: Sequence[str] = ALONE) -> Any:
    subprocess.run([*command, "--output", str(output), *arguments], check=True, capture_output=True, env=environment())
    return json.loads((output / "final.json").read_text(encoding="utf-8"))


def supervised(
    tmp_path: Path,
    *arguments: str,
    command: Sequence[str] = ALONE,
    options: Sequence[str] = (),
    told: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> tuple[list[str], str]:
    """Runs to a good end; the remedies taken as `cause/remedy`, and all that was said."""
    own = ["--work", str(tmp_path / "work"), "--name", "run", "--upstreams", str(HERE / "torch_trainer.toml")]
    words = [sys.executable, str(ROOT / "runners"), "supervise", *own, "--lang", "en", *options, "--", *command]
    run = subprocess.run(
        [*before, *words, "--output", str(tmp_path / "output"), *arguments],
        cwd=tmp_path,
        env=environment(**(told or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stdout
    lines = (tmp_path / "work" / "run" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    taken = [item for item in map(json.loads, lines) if item["kind"] == "remedy"]
    return [f"{item['cause']}/{item['remedy']}" for item in taken], run.stdout


def final(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "output" / "final.json").read_text(encoding="utf-8"))


def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def ranks() -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return [*launcher, str(TRAINER)]


def test_ranks_that_wait_for_a_slow_one(tmp_path: Path) -> None:
    taken, said = supervised(tmp_path, "--trouble", "slow", "--timeout", "5", command=ranks())
    assert taken == ["nccl_timeout/longer_timeout"], said
    assert final(tmp_path) == trained(tmp_path / "whole", command=ranks())


def test_torchs_allocator(tmp_path: Path) -> None:
    taken, said = supervised(tmp_path, "--trouble", "memory")
    assert {*taken} == {"host_out_of_memory/halve_batch"}, said
    assert final(tmp_path) == trained(tmp_path / "whole")


def test_a_loss_that_really_diverges(tmp_path: Path) -> None:
    """Beyond rate 1.5 or so it grows without bound: 3.2 does, its half does too, its quarter falls."""
    arguments = ["--steps", "1600", "--rate", "3.2"]
    taken, said = supervised(tmp_path, *arguments)
    assert taken == ["nan_loss/lower_rate"] * len(taken), said
    assert 1 <= len(taken) <= 3
    weight, bias = (float.fromhex(value) for value in final(tmp_path))
    assert (weight, bias) == pytest.approx((3.0, -1.0), abs=1e-6)


def test_a_file_without_a_checksum_that_is_cut_short(tmp_path: Path) -> None:
    taken, said = supervised(tmp_path, "--trouble", "pickled")
    assert taken == ["killed/resume", "checkpoint_damaged/drop_checkpoint"], said
    assert final(tmp_path) == trained(tmp_path / "whole")


def mounts() -> bool:
    found = shutil.which("unshare")
    return bool(found) and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not mounts(), reason="a small /dev/shm needs `unshare -rm`, which this system refuses")
def test_a_data_loader_in_too_little_shared_memory(tmp_path: Path) -> None:
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    taken, said = supervised(tmp_path, "--workers", "2", "--width", "65536", before=small)
    assert taken == ["shared_memory/fewer_workers"], said
    assert final(tmp_path) == trained(tmp_path / "whole")


@contextmanager
def hub() -> Iterator[str]:
    """A server on loopback with one file of one model, as the hub's client asks for it."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            for name, value in (("ETag", '"a1"'), ("X-Repo-Commit", "c" * 40), ("Content-Length", "2")):
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(b"{}")

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


def test_the_hubs_client_without_a_hub(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with hub() as mirror:
        taken, said = supervised(
            tmp_path, "--trouble", "hub", options=["--hf-mirror", mirror], told={"HF_ENDPOINT": dead}
        )
    assert taken == ["hub_unreachable/mirror"], said
    assert final(tmp_path) == trained(tmp_path / "whole")
