"""What the tests run on: the same bytes each time, and the layout that openvla counts on."""

from __future__ import annotations

from pathlib import Path

import native


def test_the_same_seed_gives_the_same_bytes(grafted: Path, materials: Path, tmp_path: Path) -> None:
    native.run(grafted, tmp_path, native.HERE / "materials.py", tmp_path / "again")
    for part in ("openvla-tiny", "llm-tiny", "tokenizer"):
        native.same_bytes(tmp_path / "again" / part, materials / part)
    # Upstream leaves its statistics in the data set's folder when it first reads it.
    for path in (tmp_path / "again" / "rlds").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (materials / path.relative_to(tmp_path / "again")).read_bytes(), path


def test_tokens_stand_where_llama_has_them(materials: Path) -> None:
    from transformers import AutoTokenizer

    folder = materials / "openvla-tiny"
    fast, slow = (AutoTokenizer.from_pretrained(folder, use_fast=use_fast) for use_fast in (True, False))
    prompt = "In: What action should the robot take to put the red block on the plate?\nOut: "
    ids = fast(prompt).input_ids
    assert ids == slow(prompt).input_ids
    assert (ids[0], ids[-1]) == (1, 29871)
    assert (fast.vocab_size, fast.pad_token_id) == (32000, 32000)
    actions = list(range(31744, 32000))
    assert fast(prompt + fast.decode(actions)).input_ids[-256:] == actions
