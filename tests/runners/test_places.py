"""Where data, caches and work lie, and what is refused."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runners.digests import Digests
from runners.places import FILE, OFFLINE, ORIGINS, Places, Refused, resolve
from runners.places_file import KEYS
from runners.places_options import add_options
from runners.room import GIB, free, need, refuse_below
from runners.stage import DONE, FAILED, Stage
from runners.stage_room import need_room
from runners.stages import Engine
from runners.table import ROOT
from runners.work_folder import claim


def places_of(*arguments: str, **environment: str) -> Places:
    parser = argparse.ArgumentParser()
    add_options(parser, "method")
    return resolve(
        parser.parse_args(arguments), "method", {"HOME": "/home/someone", "GRAFT_PLACES": os.devnull, **environment}
    )


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


def test_what_follows_from_a_cache_that_was_chosen_is_chosen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ORIGINS, "GRAFT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert places_of().chosen() == {}
    told = {"HF_HOME": "/c/huggingface", "TORCH_HOME": "/c/torch", "WANDB_CACHE_DIR": "/c/wandb"}
    for places, origin in ((places_of("--cache", "/c"), "--cache"), (places_of(GRAFT_CACHE="/c"), "$GRAFT_CACHE")):
        assert places.chosen() == told
        assert {places.origins[name] for name in ("hf_home", "hub", "torch_home", "wandb_cache")} == {origin}
    assert places_of("--hf-home", "/h").chosen() == {"HF_HOME": "/h"}
    monkeypatch.setenv("TORCH_HOME", "/t")
    mine = places_of("--cache", "/c", TORCH_HOME="/t")
    assert (mine.origins["torch_home"], mine.chosen()["TORCH_HOME"]) == ("$TORCH_HOME", "/t")


@pytest.mark.parametrize("name", ["GRAFT_WORK", "GRAFT_CACHE", "GRAFT_DATA_ROOT", "GRAFT_PLACES", "XDG_CACHE_HOME"])
def test_a_relative_path_in_a_variable_is_refused_and_an_option_s_is_this_folder_s(name: str) -> None:
    with pytest.raises(Refused, match=rf"^\${name} runs/x is no absolute path.*unset {name}"):
        places_of(**{name: "runs/x"})
    assert places_of("--work", "runs/x").work == Path.cwd() / "runs" / "x"


def test_the_hub_s_own_variables_may_be_relative_and_are_told_absolute() -> None:
    places = places_of(HF_HOME="h", HF_HUB_CACHE="models")
    assert (places.hf_home, places.hub) == (Path.cwd() / "h", Path.cwd() / "models")
    told = places.environment()
    assert (told["HF_HOME"], told["HF_HUB_CACHE"]) == (str(places.hf_home), str(places.hub))
    assert "HF_HUB_CACHE" not in places_of(HF_HOME="/h").environment()


def test_nobody_s_home_is_an_error_of_the_place_that_names_it(tmp_path: Path) -> None:
    wrong = "nobody here is called nosuchuser: write the whole path"
    with pytest.raises(Refused, match=rf"^\$GRAFT_WORK ~nosuchuser/w: {wrong}"):
        places_of(GRAFT_WORK="~nosuchuser/w")
    with pytest.raises(Refused, match=rf"^--work ~nosuchuser/w: {wrong}"):
        places_of("--work", "~nosuchuser/w")
    file = kept(tmp_path, 'work = "~nosuchuser/w"')
    with pytest.raises(Refused, match=rf"work = '~nosuchuser/w': {wrong}"):
        places_of(**file)


def test_the_file_s_name_may_begin_with_a_tilde_and_its_text_with_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.toml").write_bytes(b'\xef\xbb\xbfwork = "/f"\n')
    assert places_of(GRAFT_PLACES="~/p.toml").work == Path("/f/method")


def test_without_a_reader_of_toml_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    # None is how the import system keeps that a module is not there.
    monkeypatch.setitem(sys.modules, "tomli", None)
    file = kept(tmp_path, 'work = "/f"')
    with pytest.raises(Refused, match="-m pip install tomli"):
        places_of(**file)


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


def test_models_are_looked_for_where_the_hub_s_cache_really_is(repository: Path, tmp_path: Path) -> None:
    inside, outside = str(repository / "hub"), str(tmp_path / "hub")
    with pytest.raises(Refused, match=r"lies below the repository .* outside with HF_HUB_CACHE"):
        refuse_below(places_of("--hf-home", str(tmp_path / "h"), HF_HUB_CACHE=inside), {"--hf-home": None})
    refuse_below(places_of("--hf-home", str(repository / "h"), HF_HUB_CACHE=outside), {"--hf-home": None})


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


def kept(folder: Path, text: str) -> dict[str, str]:
    """The environment in which `text` is this machine's places.toml."""
    (folder / "places.toml").write_text(text, encoding="utf-8")
    return {"GRAFT_PLACES": str(folder / "places.toml")}


def test_the_file_holds_where_nothing_else_is_said(tmp_path: Path) -> None:
    file = kept(
        tmp_path,
        'work = "/f/w"\ndata_root = "~/d"\ncache = "/f/c"\nhf_endpoint = "https://f"\nhf_mirror = "http://m:80"\n'
        "offline = true\n",
    )
    places = places_of(**file)
    assert (places.work, places.cache, places.hub) == (Path("/f/w/method"), Path("/f/c"), Path("/f/c/huggingface/hub"))
    assert places.data_root == Path("~/d").expanduser()
    assert (places.hf_endpoint, places.hf_mirror, places.offline) == ("https://f", "http://m:80", True)
    assert set(places.origins.values()) == {file["GRAFT_PLACES"]}
    other = places_of("--no-offline", GRAFT_WORK="/e", HF_ENDPOINT="https://e", **file)
    assert (other.work, other.hf_endpoint, other.offline) == (Path("/e/method"), "https://e", False)
    assert [other.origins[name] for name in ("work", "hf_endpoint", "offline")] == [
        "$GRAFT_WORK",
        "$HF_ENDPOINT",
        "--no-offline",
    ]
    assert places_of("--work", "/o", GRAFT_WORK="/e", **file).work == Path("/o")
    assert places_of(HF_HUB_OFFLINE="0", **file).offline is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("work = ", "is no TOML"),
        ('wrok = "/x"', "wrok is no key, is it work\\?: there are work, cache"),
        ('work = "x/y"', "work = 'x/y' is no absolute path"),
        ('work = ""', "work = '' is no absolute path"),
        ("cache = 3", "cache = 3: write a text in quotes"),
        ('offline = "yes"', "offline = 'yes': write true or false"),
        ('hf_mirror = "mirror.example.org"', "hf_mirror = 'mirror.example.org': an address begins with https://"),
        ('[places]\nwork = "/x"', "places is no key"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_key_and_remedy(tmp_path: Path, text: str, says: str) -> None:
    file = kept(tmp_path, text)
    with pytest.raises(Refused, match=says) as refusal:
        places_of(**file)
    assert file["GRAFT_PLACES"] in str(refusal.value)


def test_a_named_file_that_is_not_there_and_an_endpoint_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"GRAFT_PLACES"):
        places_of(GRAFT_PLACES=str(tmp_path / "none.toml"))
    with pytest.raises(Refused, match=r"\$HF_ENDPOINT mirror: an address begins"):
        places_of(HF_ENDPOINT="mirror")


def test_every_line_of_the_example_can_be_used_as_it_stands(tmp_path: Path) -> None:
    example = FILE.with_name("places.example.toml").read_text(encoding="utf-8")
    keys = [line.removeprefix("# ") for line in example.splitlines() if re.match(r"# \w+ = ", line)]
    assert sorted(line.partition(" ")[0] for line in keys) == sorted(KEYS)
    places_of(**kept(tmp_path, "\n".join(keys)))


def test_offline_is_told_to_every_library_and_an_option_undoes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    assert not set(OFFLINE) & places_of().environment().keys()
    for places in (places_of("--offline"), places_of(HF_HUB_OFFLINE="yes"), places_of(TRANSFORMERS_OFFLINE="1")):
        assert {name: places.environment()[name] for name in OFFLINE} == dict.fromkeys(OFFLINE, "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    undone = places_of("--no-offline", HF_HUB_OFFLINE="1").environment()
    assert {name: undone[name] for name in OFFLINE} == dict.fromkeys(OFFLINE, "0")


def test_free_room_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> argparse.Namespace:
        asked.append(path)
        return argparse.Namespace(free=5 * GIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert free(tmp_path / "not" / "there") == 5 * GIB
    assert asked == [tmp_path]
    need(tmp_path / "x", 5 * GIB, "training")
    with pytest.raises(Refused) as refusal:
        need(tmp_path / "x", 5 * GIB + 1, "training", "--data-root")
    assert str(refusal.value) == (
        f"training needs about 5.0 GiB in {tmp_path / 'x'}, where 5.0 GiB are free: make room, or choose a folder on "
        "another disk with --data-root"
    )


def stage_of(folder: Path, space: int | None) -> Stage:
    script = "import pathlib; pathlib.Path('out').write_text('x')"
    return Stage("train", folder, [sys.executable, "-c", script], [folder / "out"], space=space)


def test_a_stage_does_not_begin_without_room_and_what_it_moves_aside_takes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=1000))
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "left").write_bytes(bytes(500))
    engine = Engine(Digests(), lambda _: None)
    with pytest.raises(Refused, match=r"the run \(train\) needs"):
        need_room(engine, [stage_of(folder, 1001)])
    refused = engine.run(stage_of(folder, 1001))
    assert (refused.state, (folder / "left").exists()) == (FAILED, True)
    assert "another disk with --work" in refused.why
    need_room(engine, [stage_of(folder, 1000), stage_of(tmp_path / "other", None)])
    assert engine.run(stage_of(folder, 1000)).state == DONE
    # What would be kept needs no room.
    need_room(engine, [stage_of(folder, 10**9)])


HUB = """
import sys
from huggingface_hub import hf_hub_download
try:
    hf_hub_download("someone/model", "config.json")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("offline", [False, True])
def test_a_command_obeys_the_endpoint_and_offline(tmp_path: Path, offline: bool) -> None:
    python = ROOT / ".venvs" / "LLaMA-Factory" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venvs/LLaMA-Factory, which has huggingface_hub: run `make llamafactory`")
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            places = places_of(
                *(["--offline"] if offline else ["--no-offline"]),
                *("--hf-endpoint", f"http://127.0.0.1:{hub.server_port}", "--hf-home", str(tmp_path / "hf")),
            )
            around = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
            around |= places.environment()
            command = [str(python), "-c", HUB]
            ran = subprocess.run(command, env=around, capture_output=True, text=True, timeout=120)
        finally:
            hub.shutdown()
            thread.join()
    assert ran.returncode == 0, ran.stderr
    if offline:
        assert asked == []
        assert ran.stdout.strip() in ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
    else:
        assert "/someone/model/resolve/main/config.json" in asked
