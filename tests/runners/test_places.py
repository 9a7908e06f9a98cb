"""Where data, caches and work lie, and what is refused."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from runners.places import GIB, Places, Refused, add_options, claim, refuse_below, resolve


def places_of(*arguments: str, **environment: str) -> Places:
    parser = argparse.ArgumentParser()
    add_options(parser, "method")
    return resolve(parser.parse_args(arguments), "method", {"HOME": "/home/someone", **environment})


def test_defaults_lie_in_the_home_folder_and_downloads_where_the_libraries_look() -> None:
    places = places_of()
    assert places.work == Path("/home/someone/.local/share/graft/method")
    assert places.hf_home == Path("/home/someone/.cache/huggingface")
    assert places.data_root is None
    assert "HF_ENDPOINT" not in places.environment()


def test_the_environment_moves_them() -> None:
    places = places_of(
        GRAFT_WORK="/w", GRAFT_DATA_ROOT="/d", GRAFT_CACHE="/c", HF_HOME="/h", HF_ENDPOINT="https://mirror"
    )
    assert (places.work, places.data_root, places.cache) == (Path("/w/method"), Path("/d"), Path("/c"))
    assert places.environment()["HF_HOME"] == "/h"
    assert places.environment()["HF_ENDPOINT"] == "https://mirror"
    assert places.environment()["TORCH_HOME"] == "/c/torch"
    assert places.hub == Path("/h/hub")
    assert places_of(HF_HOME="/h", HF_HUB_CACHE="/hub").hub == Path("/hub")
    assert places_of(XDG_DATA_HOME="/x", XDG_CACHE_HOME="/y").work == Path("/x/graft/method")


def test_an_option_wins_over_the_environment() -> None:
    places = places_of(
        *(
            "--work",
            "/o/w",
            "--data-root",
            "/o/d",
            "--cache",
            "/o/c",
            "--hf-home",
            "/o/h",
            "--hf-endpoint",
            "https://o",
        ),
        **{
            "GRAFT_WORK": "/w",
            "GRAFT_DATA_ROOT": "/d",
            "GRAFT_CACHE": "/c",
            "HF_HOME": "/h",
            "HF_ENDPOINT": "https://e",
        },
    )
    assert (places.work, places.data_root, places.cache) == (Path("/o/w"), Path("/o/d"), Path("/o/c"))
    assert (places.hf_home, places.hf_endpoint) == (Path("/o/h"), "https://o")
    assert places.environment()["HF_ENDPOINT"] == "https://o"


def test_a_cache_that_was_chosen_holds_the_hub_s_files_too() -> None:
    assert places_of("--cache", "/c").hf_home == Path("/c/huggingface")


def test_wandb_stays_what_the_caller_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert places_of().environment()["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert places_of().environment()["WANDB_MODE"] == "online"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("option", ["--work", "--cache", "--hf-home"])
def test_gibs_below_a_repository_are_refused_by_the_option_s_name(repository: Path, option: str) -> None:
    places = places_of(option, str(repository / "not" / "there yet"))
    for amount in (None, GIB, 30 * GIB):
        with pytest.raises(Refused, match=option) as refusal:
            refuse_below(places, {option: amount})
        assert str(repository) in str(refusal.value)
    refuse_below(places, {option: GIB - 1})


def test_it_may_be_allowed_and_outside_nothing_is_refused(repository: Path, tmp_path: Path) -> None:
    refuse_below(places_of("--work", str(repository), "--allow-below-repository"), {"--work": None})
    refuse_below(places_of("--work", str(tmp_path / "outside")), {"--work": None})


def test_a_link_out_of_the_repository_is_outside(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (repository / "work").symlink_to(tmp_path / "big disk")
    refuse_below(places_of("--work", str(repository / "work")), {"--work": None})


def test_a_folder_of_somebody_s_own_is_not_taken(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    claim(mine)
    claim(mine)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").touch()
    with pytest.raises(Refused, match="--work"):
        claim(other)
    assert sorted(path.name for path in other.iterdir()) == ["cat.png"]
