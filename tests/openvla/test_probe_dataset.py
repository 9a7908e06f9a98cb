"""Probe sets: which samples are taken, what lies on disk, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from research.probe.coverage import Candidate, Coverage
from research.probe.probe_dataset import ProbeConfig, ProbeError, ProbeSet, build
from research.probe.probe_set import write_probe_set

OVERLAY = Path(__file__).parents[2] / "overlays" / "openvla"


def picture(seed: int, size: tuple[int, int] = (6, 4)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def episode(instruction: str, number: int, frames: int) -> list[Candidate]:
    return [Candidate(picture(1000 * number + frame), instruction) for frame in range(frames)]


# Five episodes of three instructions, one of them with far more frames.
EPISODES = [
    episode("open the drawer", 0, 12),
    episode("push the plate", 1, 3),
    episode("open the drawer", 2, 4),
    episode("turn on the stove", 3, 2),
    episode("push the plate", 4, 3),
]


def take(episodes: list[list[Candidate]], n: int, seed: int = 7) -> list[Candidate]:
    coverage = Coverage(n, seed)
    for frames in episodes:
        coverage.offer(frames)
    return coverage.taken()


def pixels(samples: list[Candidate]) -> list[bytes]:
    return [sample.picture.tobytes() for sample in samples]


def reference(episodes: list[list[Candidate]], n: int, seed: int) -> list[bytes]:
    """The rule written down plainly, over everything at once."""

    def key(sample: Candidate) -> str:
        text = sample.instruction.encode()
        header = f"{seed}\0{len(text)} {'x'.join(map(str, sample.picture.shape))}\0".encode()
        return hashlib.sha256(header + text + sample.picture.tobytes()).hexdigest()

    queues: dict[str, list[tuple[int, str, bytes]]] = {}
    for frames in episodes:
        for repeat, sample in enumerate(sorted(frames, key=key)):
            queues.setdefault(sample.instruction, []).append((repeat, key(sample), sample.picture.tobytes()))
    queues = {instruction: sorted(queue) for instruction, queue in queues.items()}
    taken: list[bytes] = []
    for turn in itertools.count():
        round_ = sorted(queue[turn] for queue in queues.values() if turn < len(queue))
        if not round_:
            return taken[:n]
        taken += [entry[2] for entry in round_]


@pytest.mark.parametrize("n", [1, 3, 7, 11, 24, 100])
@pytest.mark.parametrize("seed", [7, 8])
def test_samples_are_the_rules_first_n(n: int, seed: int) -> None:
    assert pixels(take(EPISODES, n, seed)) == reference(EPISODES, n, seed)


def test_distinct_instructions_come_first_then_distinct_episodes() -> None:
    taken = take(EPISODES, 9)
    assert len({sample.instruction for sample in taken[:3]}) == 3
    assert len({sample.instruction for sample in taken[3:6]}) == 3
    assert Counter(sample.instruction for sample in taken).most_common()[0][1] <= 4
    home = {sample.picture.tobytes(): number for number, frames in enumerate(EPISODES) for sample in frames}
    drawers = [home[sample.picture.tobytes()] for sample in taken if sample.instruction == "open the drawer"]
    assert set(drawers[:2]) == {0, 2}


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_order_of_reading_does_not_matter(n: int) -> None:
    expected = pixels(take(EPISODES, n))
    for seed in range(6):
        shuffled = [random.Random(seed).sample(frames, len(frames)) for frames in EPISODES]
        random.Random(seed).shuffle(shuffled)
        assert pixels(take(shuffled, n)) == expected


def test_the_seed_matters_and_duplicates_count_once() -> None:
    assert pixels(take(EPISODES, 9, 7)) != pixels(take(EPISODES, 9, 8))
    assert pixels(take(EPISODES + EPISODES[:2], 30)) == pixels(take(EPISODES, 30))
    alike = [EPISODES[0][:3], EPISODES[0][2:]]
    assert pixels(take(alike, 12)) == pixels(take(alike[::-1], 12))


def test_only_n_samples_are_held() -> None:
    coverage = Coverage(4, 7)
    for frames in EPISODES:
        coverage.offer(frames)
        assert len(coverage._kept) <= 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A JSONL file with three instructions and two pictures each, one of them gray."""
    images = tmp_path / "pictures"
    images.mkdir()
    lines = []
    for number, instruction in enumerate(["Open the Drawer", "put it on the stove", "ÖFFNE die Tür"]):
        for view in range(2):
            name = f"{number}-{view}.png"
            Image.fromarray(picture(10 * number + view)).convert("L" if view else "RGB").save(images / name)
            lines.append({"image": name, "instruction": instruction, "id": f"user-{number}-{view}"})
    (tmp_path / "probe-source.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return tmp_path


def config(source: Path, out: str = "probe", **changes: Any) -> ProbeConfig:
    fields = {"jsonl": source / "probe-source.jsonl", "images": source / "pictures", "n": 4} | changes
    return ProbeConfig(out=source / out, **fields)


def test_a_probe_set_from_jsonl(source: Path) -> None:
    probe = build(config(source))
    assert len(probe) == 4
    assert {sample.instruction for sample in probe.samples[:3]} == {
        "open the drawer",
        "put it on the stove",
        "öffne die tür",
    }
    for sample in probe.sub_batch([3, 0]):
        _, number, view = sample.id.split("-")
        with Image.open(source / "pictures" / f"{number}-{view}.png") as original:
            assert sample.image.tobytes() == original.convert("RGB").tobytes()
        assert sample.image.mode == "RGB"
    assert [sample.id for sample in probe.sub_batch([3, 0])] == [probe.samples[3].id, probe.samples[0].id]
    assert sorted(path.name for path in source.iterdir()) == ["pictures", "probe", "probe-source.jsonl"]
    assert probe.meta["source"]["kind"] == "jsonl"
    assert (probe.meta["n"], probe.meta["seed"], probe.meta["instructions"]) == (4, 7, 3)


def test_the_hash_is_of_instructions_and_pixels_in_order(source: Path) -> None:
    probe = build(config(source))
    digest = hashlib.sha256()
    for sample in probe.samples:
        text, image = sample.instruction.encode(), np.asarray(sample.image)
        digest.update(f"{len(text)} {'x'.join(map(str, image.shape))}\0".encode() + text + image.tobytes())
    assert probe.hash == digest.hexdigest()
    assert ProbeSet.load(probe.folder) == probe
    assert build(config(source, "again")).hash == probe.hash
    assert build(config(source, "other", seed=8)).hash != probe.hash


def rewrite(folder: Path, name: str, change: Any) -> None:
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    (folder / name).write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def repaint(folder: Path) -> None:
    path = folder / "images" / "00002.png"
    with Image.open(path) as image:
        changed = np.asarray(image).copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (repaint, "have changed"),
        (lambda folder: rewrite(folder, "probe.jsonl", lambda lines: lines[::-1]), "have changed"),
        (lambda folder: rewrite(folder, "probe.jsonl", lambda lines: lines[:-1]), "have changed"),
        (lambda folder: rewrite(folder, "probe.jsonl", lambda lines: [*lines, lines[0]]), "the same id"),
        (lambda folder: rewrite(folder, "probe.jsonl", lambda lines: ["{", *lines]), "cannot be read"),
        (lambda folder: rewrite(folder, "probe.jsonl", lambda lines: ["{}", *lines]), "missing"),
        (lambda folder: rewrite(folder, "probe.jsonl", lambda lines: []), "cannot be read|no samples"),
        (lambda folder: (folder / "images" / "00001.png").unlink(), "cannot read the picture"),
        (lambda folder: (folder / "images" / "00001.png").write_bytes(b"no picture"), "cannot read the picture"),
        (lambda folder: (folder / "meta.json").unlink(), "no probe set in"),
        (lambda folder: (folder / "meta.json").write_text('{"format": 0, "hash": "", "n": 4}'), "format 0"),
        (lambda folder: (folder / "meta.json").write_text("[]"), "missing"),
    ],
)
def test_a_changed_or_broken_set_is_refused(source: Path, damage: Any, message: str) -> None:
    folder = build(config(source)).folder
    damage(folder)
    with pytest.raises(ProbeError, match=message):
        ProbeSet.load(folder)


def test_compressing_a_picture_anew_is_no_change(source: Path) -> None:
    probe = build(config(source))
    path = probe.samples[0].path
    with Image.open(path) as image:
        image.load()
    image.save(path, compress_level=1)
    assert ProbeSet.load(probe.folder).hash == probe.hash


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 7: no JSON"),
        ('["0-0.png"]', "line 7: needs an object"),
        ('{"image": "0-0.png"}', "line 7: needs an object"),
        ('{"image": "0-0.png", "instruction": "  "}', "line 7: empty instruction"),
        ('{"image": "9-9.png", "instruction": "a"}', "line 7: cannot read the picture"),
        ('{"image": "../probe-source.jsonl", "instruction": "a"}', "line 7: .* is outside"),
        ('{"image": "/etc/hostname", "instruction": "a"}', "line 7: .* is outside"),
        ('{"image": "0-0.png", "instruction": "a", "id": "user-0-0"}', "line 7: id 'user-0-0'"),
        ('{"image": "0-0.png", "instruction": "a", "id": 3}', "line 7: id 3"),
    ],
)
def test_a_bad_line_is_named_and_nothing_written(source: Path, line: str, message: str) -> None:
    rewrite(source, "probe-source.jsonl", lambda lines: [*lines[:6], line])
    with pytest.raises(ProbeError, match=message):
        build(config(source))
    assert sorted(path.name for path in source.iterdir()) == ["pictures", "probe-source.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "give either"),
        ({"data_root_dir": Path("data")}, "give either"),
        ({"jsonl": None, "images": None, "dataset_name": "bridge"}, "give either"),
        ({"split": "test"}, "--split test"),
        ({"n": 0}, "at least 1"),
        ({"max_episodes": 0}, "at least 1"),
        ({"jsonl": Path("nowhere.jsonl")}, "cannot read nowhere.jsonl"),
    ],
)
def test_options_that_do_not_fit_are_refused(source: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        build(config(source, **changes))
    assert not (source / "probe").exists()


def test_what_is_there_is_not_overwritten(source: Path) -> None:
    build(config(source))
    before = (source / "probe" / "meta.json").read_bytes()
    with pytest.raises(ProbeError, match="is there already"):
        build(config(source, seed=9))
    assert (source / "probe" / "meta.json").read_bytes() == before


def test_a_set_is_written_whole_or_not_at_all(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space"):
        build(config(source))
    assert sorted(path.name for path in source.iterdir()) == ["pictures", "probe-source.jsonl"]


def test_no_samples_make_no_set(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="no samples"):
        write_probe_set(tmp_path / "probe", [], 7, {"kind": "rlds"})
    assert not list(tmp_path.iterdir())


def test_max_episodes_stops_the_reading(source: Path) -> None:
    rewrite(source, "probe-source.jsonl", lambda lines: [*lines[:3], "{"])
    assert len(build(config(source, max_episodes=3))) == 3


def test_the_command(source: Path) -> None:
    words = [sys.executable, "-m", "research.probe.probe_dataset", "--n", "100", "--out", str(source / "cli")]
    words += ["--jsonl", str(source / "probe-source.jsonl"), "--images", str(source / "pictures")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OVERLAY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    probe = ProbeSet.load(source / "cli")
    assert len(probe) == 6
    assert "6 samples (100 were asked for" in done.stdout
    assert probe.hash in done.stdout
