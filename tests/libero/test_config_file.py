"""LIBERO's file of paths at first import: no question where nobody answers, the questions where somebody does."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

from tests.libero.overlays import LIBERO, load  # noqa: E402

config_file = load(LIBERO / "libero/config_file.py")


@pytest.fixture
def defaults(tmp_path: Path) -> dict[str, str]:
    """What upstream would write for a package at ``here``, whose folders exist but for the data sets."""
    here = tmp_path / "here"
    paths = {"benchmark_root": str(here), "datasets": str(tmp_path / "datasets")}
    paths |= {key: str(here / key) for key in ("bddl_files", "init_states", "assets")}
    for key, path in paths.items():
        if key != "datasets":
            Path(path).mkdir(parents=True, exist_ok=True)
    return paths


def prepare(monkeypatch: pytest.MonkeyPatch, stdin: Any, file: Path, defaults: dict[str, str]) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    config_file.prepare_config(str(file), defaults)


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


@pytest.mark.parametrize("stdin", [None, closed(), io.StringIO("")], ids=["no stdin", "closed", "replaced"])
def test_where_nobody_answers_the_defaults_are_written(
    stdin: Any, tmp_path: Path, defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / "new/config.yaml"
    prepare(monkeypatch, stdin, file, defaults)
    assert yaml.safe_load(file.read_text()) == defaults
    assert os.listdir(file.parent) == ["config.yaml"]
    assert str(file) in capsys.readouterr().out


def test_dev_null_does_not_answer(tmp_path: Path, defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as stdin:
        prepare(monkeypatch, stdin, tmp_path / "config.yaml", defaults)
    assert (tmp_path / "config.yaml").is_file()


def test_an_open_pipe_that_stays_silent_does_not_hang(
    tmp_path: Path, defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    began = time.monotonic()
    with os.fdopen(reading) as stdin:
        prepare(monkeypatch, stdin, tmp_path / "config.yaml", defaults)
    os.close(writing)
    assert time.monotonic() - began < 5
    assert (tmp_path / "config.yaml").is_file()


def test_piped_answers_are_left_for_the_questions(
    tmp_path: Path, defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"y\n/somewhere\n")
    os.close(writing)
    with os.fdopen(reading) as stdin:
        prepare(monkeypatch, stdin, tmp_path / "config.yaml", defaults)
        assert not (tmp_path / "config.yaml").exists()
        assert stdin.read() == "y\n/somewhere\n"


def test_a_terminal_is_asked(tmp_path: Path, defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    controlling, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        prepare(monkeypatch, stdin, tmp_path / "config.yaml", defaults)
    os.close(controlling)
    assert not (tmp_path / "config.yaml").exists()


def test_a_good_file_is_not_mentioned(tmp_path: Path, defaults: dict[str, str], capsys: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.dump(defaults))
    config_file.prepare_config(str(file), defaults)
    assert capsys.readouterr() == ("", "")


def test_paths_of_a_checkout_that_moved_are_named(tmp_path: Path, defaults: dict[str, str], capsys: Any) -> None:
    file = tmp_path / "config.yaml"
    old = {key: path.replace("here", "gone") for key, path in defaults.items()}
    file.write_text(yaml.dump(old))
    before = file.read_bytes()
    config_file.prepare_config(str(file), defaults)
    said = capsys.readouterr().err
    for word in (str(file), old["bddl_files"], old["init_states"], defaults["benchmark_root"], "LIBERO_CONFIG_PATH"):
        assert word in said
    assert old["datasets"] not in said, "data sets may be missing"
    assert file.read_bytes() == before


def test_the_files_of_another_libero_are_named(tmp_path: Path, defaults: dict[str, str]) -> None:
    file = tmp_path / "config.yaml"
    other = tmp_path / "other"
    other.mkdir()
    file.write_text(yaml.dump({**defaults, "benchmark_root": str(other)}))
    (said,) = config_file.complaints(str(file), defaults)
    assert str(other) in said
    assert defaults["benchmark_root"] in said


@pytest.mark.parametrize("content", ["a: [", "- 1\n", ""])
def test_a_file_that_is_no_mapping_is_named(content: str, tmp_path: Path, defaults: dict[str, str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    (said,) = config_file.complaints(str(file), defaults)
    assert str(file) in said
    assert "Delete it" in said
