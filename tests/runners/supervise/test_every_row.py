"""Every row of the table: a child that really dies of it, the remedy, and the run that ends as if nothing had been.

`CASES` has one child for each remedy of each row that acts. It does what kills, where that can be had here; else it
says what the row's own log says, and goes on dying until the remedy was taken. Rows that only report need no child of
their own: theirs says the row's log and ends.
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runners.supervise.cause_table import TABLE, Cause, table
from runners.supervise.logtext import clean
from tests.runners.supervise.supervised import Run, supervised, trained

HERE = Path(__file__).resolve().parent
LOGS = HERE / "logs"
DRAWING = HERE.parents[2] / ".venvs" / "LLaMA-Factory" / "bin" / "python"
ROWS = {cause.name: cause for cause in table()}
PAIRS = [(cause.name, remedy.name) for cause in table() for remedy in cause.remedies if remedy.name != "report"]
REPORTED = [name for name, cause in ROWS.items() if all(remedy.name == "report" for remedy in cause.remedies)]
AT_ONCE = 2
"""Supervisors at a time: each mostly waits."""


@dataclass(frozen=True)
class Child:
    """What is run, and what the supervisor must have taken by its end: the pair last, and those named before."""

    arguments: Sequence[str]
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    python: str = sys.executable
    first: Sequence[str] = ()
    """Remedies of the table that have to come before: `cause/remedy`."""
    times: int = 1
    """How often the remedy is taken."""
    like: Sequence[str] = ()
    """What an uninterrupted run is told that does what the remedy does."""


Making = Callable[[Path, ExitStack], Child]
CASES: dict[tuple[str, str], Making] = {}


def case(cause: str, remedy: str) -> Callable[[Making], Making]:
    def kept(making: Making) -> Making:
        CASES[cause, remedy] = making
        return making

    return kept


def says(name: str, folder: Path, *more: str, exit_code: int = 1) -> list[str]:
    """The words of a trainer that says what a row's log says."""
    own = ["--fault", "says", "--says", str(LOGS / f"{ROWS[name].log}.log"), "--exit", str(exit_code)]
    return [*own, "--marks", str(folder / "marks"), *more]


def happens(fault: str, folder: Path, *more: str) -> list[str]:
    return ["--fault", fault, "--marks", str(folder / "marks"), *more]


def simply(cause: str, remedy: str, make: Callable[[Path], Sequence[str]], **more: object) -> None:
    """A case that needs nothing but words."""
    CASES[cause, remedy] = lambda folder, _: Child(make(folder), **more)  # type: ignore[arg-type]


# What ends a process from outside, or native code.
simply("killed", "resume", lambda folder: happens("kill", folder))
simply("asked_to_end", "resume", lambda folder: happens("term", folder))
simply("segfault", "resume", lambda folder: happens("segfault", folder))
simply("aborted", "resume", lambda folder: happens("abort", folder))
simply("hung", "resume", lambda folder: happens("hang", folder), options=["--hang-after", "2"])

# Memory, files and disks.
simply("gpu_out_of_memory", "halve_batch", lambda folder: happens("gpu_memory", folder), times=2)
simply("shared_memory", "fewer_workers", lambda folder: happens("bus", folder))
simply("host_out_of_memory", "fewer_workers", lambda folder: says("host_out_of_memory", folder, "--until", "workers"))
simply("host_out_of_memory", "halve_batch", lambda folder: happens("host_memory", folder, "--workers", "0"), times=2)
ALONE = ["--workers", "0", "--batch", "1", "--accumulation", "8"]
simply("host_out_of_memory", "resume", lambda folder: says("host_out_of_memory", folder, *ALONE))
simply("quota", "free_checkpoints", lambda folder: says("quota", folder, "--until", "checkpoints"))
simply("disk_full", "free_checkpoints", lambda folder: happens("full", folder, "--until", "checkpoints"))
simply("disk_unreachable", "wait", lambda folder: says("disk_unreachable", folder))
simply(
    *("too_many_files", "more_files"),
    lambda folder: happens("files", folder),
    before=["sh", "-c", 'ulimit -Sn 150; exec "$@"', "sh"],
)
simply(
    *("too_many_files", "fewer_workers"),
    lambda folder: happens("files", folder),
    before=["sh", "-c", 'ulimit -n 150; exec "$@"', "sh"],
)
simply("worker_died", "resume", lambda folder: says("worker_died", folder))
simply(
    *("worker_died", "fewer_workers"),
    lambda folder: says("worker_died", folder, "--until", "workers"),
    first=["worker_died/resume"],
)
simply("gpu_fault", "wait", lambda folder: says("gpu_fault", folder))

# Ranks.
simply("rendezvous_failed", "wait", lambda folder: says("rendezvous_failed", folder))
simply("nccl_timeout", "longer_timeout", lambda folder: says("nccl_timeout", folder, "--until", "timeout"))
simply(
    *("nccl_timeout", "resume"),
    lambda folder: says("nccl_timeout", folder, "--times", "3"),
    first=["nccl_timeout/longer_timeout"] * 2,
)

# Servers.
simply(
    *("wandb_unreachable", "offline"),
    lambda folder: says("wandb_unreachable", folder, "--until", "WANDB_MODE=offline"),
    environment={"WANDB_MODE": "online"},
)
simply("hub_rate_limited", "wait", lambda folder: says("hub_rate_limited", folder))


def downloaded(folder: Path) -> dict[str, str]:
    """A cache of the hub that is not empty."""
    (folder / "hub" / "models--tiny").mkdir(parents=True)
    return {"HF_HUB_CACHE": str(folder / "hub")}


@case("hub_rate_limited", "offline")
def _(folder: Path, _: ExitStack) -> Child:
    words = says("hub_rate_limited", folder, "--until", "HF_HUB_OFFLINE=1", "--at", "1")
    waits = ROWS["hub_rate_limited"].remedies[0].limit
    return Child(words, environment=downloaded(folder), first=["hub_rate_limited/wait"] * waits)


def hangs(folder: Path, *more: str) -> list[str]:
    """The words of a trainer that hears no more after the last word of the row's log."""
    last = clean((LOGS / "wandb_hung.log").read_text(encoding="utf-8").splitlines()[-1])
    (folder / "last.log").write_text(f"{last}\n", encoding="utf-8")
    return [*happens("says", folder, "--says", str(folder / "last.log"), "--hang", "600"), *more]


@case("wandb_hung", "offline")
def _(folder: Path, _: ExitStack) -> Child:
    words = hangs(folder, "--until", "WANDB_MODE=offline")
    return Child(words, options=["--hang-after", "2"], environment={"WANDB_MODE": "online"})


@case("wandb_hung", "resume")
def _(folder: Path, _: ExitStack) -> Child:
    return Child(hangs(folder), options=["--hang-after", "2"], environment={"WANDB_MODE": "offline"})


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server on loopback."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that does not trust it breaks off

    server = Server(("127.0.0.1", 0), Answers)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}"


def asks(folder: Path, *addresses: str) -> list[str]:
    """The words of a trainer that asks the hub, at one address after the other."""
    (folder / "addresses").write_text("\n".join(addresses), encoding="utf-8")
    return ["--fault", "hub", "--marks", str(folder / "addresses")]


@case("hub_unreachable", "mirror")
def _(folder: Path, stack: ExitStack) -> Child:
    return Child(asks(folder, nowhere()), options=["--hf-mirror", stack.enter_context(serving())])


@case("hub_unreachable", "wait")
def _(folder: Path, stack: ExitStack) -> Child:
    return Child(asks(folder, nowhere(), nowhere(), stack.enter_context(serving())), times=2)


@case("hub_unreachable", "offline")
def _(folder: Path, _: ExitStack) -> Child:
    waits = next(remedy.limit for remedy in ROWS["hub_unreachable"].remedies if remedy.name == "wait")
    words = asks(folder, nowhere())
    return Child(words, environment=downloaded(folder), first=["hub_unreachable/wait"] * waits)


@case("certificate", "mirror")
def _(folder: Path, stack: ExitStack) -> Child:
    own = [folder / "key.pem", folder / "certificate.pem"]
    making = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*making, "-keyout", str(own[0]), "-out", str(own[1])], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own[1], own[0])
    words = asks(folder, stack.enter_context(serving(context)))
    return Child(words, options=["--hf-mirror", stack.enter_context(serving())])


@case("port_in_use", "new_port")
def _(folder: Path, stack: ExitStack) -> Child:
    taken = stack.enter_context(socket.socket())
    taken.bind(("127.0.0.1", 0))
    return Child(happens("port", folder), environment={"MASTER_PORT": str(taken.getsockname()[1])})


# What is installed, what draws, what was saved, and what the loss does.
def wheel(folder: Path) -> None:
    """A package of one line as a wheel, the least that pip takes."""
    folder.mkdir()
    named = "tinymissing-1.0.dist-info"
    with zipfile.ZipFile(folder / "tinymissing-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr("tinymissing.py", "here = True\n")
        packed.writestr(f"{named}/METADATA", "Metadata-Version: 2.1\nName: tinymissing\nVersion: 1.0\n")
        packed.writestr(
            f"{named}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{named}/RECORD", "")


def with_wheel(folder: Path) -> dict[str, str]:
    """Variables with which pip installs from a folder into a folder, and reaches nothing else."""
    wheel(folder / "wheels")
    into = str(folder / "site")
    return {
        **{"PIP_TARGET": into, "PYTHONPATH": into, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        "PIP_FIND_LINKS": str(folder / "wheels"),
    }


@case("missing_package", "install")
def _(folder: Path, _: ExitStack) -> Child:
    return Child(happens("package", folder), options=["--may-install"], environment=with_wheel(folder))


@case("no_display", "other_gl")
def _(folder: Path, _: ExitStack) -> Child:
    return Child(happens("gl", folder), environment={"MUJOCO_GL": "glfw"}, python=str(DRAWING))


simply(
    *("checkpoint_damaged", "drop_checkpoint"),
    lambda folder: happens("unreadable", folder),
    first=["killed/resume"],
)
# At step 23 the gradient is NaN, and so is every checkpoint from 25 on: it goes on from 20 at half the rate.
simply("nan_loss", "lower_rate", lambda folder: happens("nan", folder), like=["--rate-at", "20:0.025"])


def without_waiting(into: Path) -> Path:
    """The table with waits of next to nothing."""
    own = TABLE.read_text(encoding="utf-8")
    changed = re.sub(r"(name = \"wait\".*seconds = )\d+", r"\g<1>0.01", own)
    assert changed.count("seconds = 0.01") == sum(name == "wait" for _, name in PAIRS)
    into.write_text(changed, encoding="utf-8")
    return into


def runs(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """The pairs of this session's tests."""
    found = [getattr(item, "callspec", None) for item in request.session.items if item.path == Path(__file__)]
    return [spec.params["pair"] for spec in found if spec and "pair" in spec.params]


def child_of(pair: tuple[str, str], folder: Path, stack: ExitStack) -> Child:
    cause, remedy = pair
    if remedy != "report":
        return CASES[pair](folder, stack)
    return Child(says(cause, folder, exit_code=2 if cause == "bad_option" else 1))


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[tuple[str, str], Future[tuple[Child, Run]]]]:
    """The supervised runs of this session's pairs, two at a time."""
    causes = without_waiting(tmp_path_factory.mktemp("causes") / "causes.toml")
    folders = {pair: tmp_path_factory.mktemp("-".join(pair)) for pair in runs(request)}

    def run(pair: tuple[str, str]) -> tuple[Child, Run]:
        with ExitStack() as stack:
            child = child_of(pair, folders[pair], stack)
            own = [*child.options, "--causes", str(causes)]
            told = {"options": own, "environment": child.environment, "before": child.before, "python": child.python}
            return child, supervised(folders[pair], *child.arguments, **told)  # type: ignore[arg-type]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {pair: pool.submit(run, pair) for pair in folders if pair[1] == "report" or pair in CASES}
        yield futures
        for future in futures.values():
            future.cancel()


def test_every_pair_of_the_table_has_a_child_and_every_child_a_pair() -> None:
    assert {*CASES} == {*PAIRS}
    assert {*REPORTED} | {cause for cause, _ in PAIRS} == {*ROWS}
    assert shutil.which("openssl"), "a certificate that nobody trusts needs openssl"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> object:
    return trained(tmp_path_factory.mktemp("uninterrupted") / "output")


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_a_remedy_and_the_same_end(
    pair: tuple[str, str],
    ended: Mapping[tuple[str, str], Future[tuple[Child, Run]]],
    uninterrupted: object,
    tmp_path: Path,
) -> None:
    if pair == ("no_display", "other_gl") and not DRAWING.exists():
        pytest.skip("no environment with MuJoCo: `make test` builds one")
    child, run = ended[pair].result()
    assert run.code == 0, run.said
    assert run.remedies == [*child.first, *["/".join(pair)] * child.times], run.said
    assert run.final() == (trained(tmp_path / "output", *child.like) if child.like else uninterrupted)


@pytest.mark.parametrize("pair", [(name, "report") for name in REPORTED], ids="/".join)
def test_a_row_without_a_remedy_stops_and_tells(
    pair: tuple[str, str], ended: Mapping[tuple[str, str], Future[tuple[Child, Run]]]
) -> None:
    _, run = ended[pair].result()
    cause: Cause = ROWS[pair[0]]
    assert (run.code, run.remedies, len(run.of("attempt"))) == (1, [], 1), run.said
    stop = run.of("stop")[-1]
    assert stop["cause"] == cause.name
    assert cause.says in run.said
    printed, said = (words((LOGS / f"{cause.log}.log").read_text(encoding="utf-8")), words(run.said))
    assert stop["lines"]
    for line in map(words, stop["lines"]):
        assert line.removesuffix(" …") in printed
        assert line in said


def words(text: str) -> str:
    """A text with one blank wherever it has some, and no tabs, as the view shows it."""
    return " ".join(text.split())
