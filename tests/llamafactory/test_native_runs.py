"""LLaMA-Factory's own commands, off against the unpatched checkout, and on."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny

tiny.require()

CHECKOUT = tiny.SRC.parent


@pytest.mark.upstream_heavy
@pytest.mark.parametrize(
    "extra", [{}, {"neat_packing": True}, {"val_size": 4, "eval_strategy": "steps", "eval_steps": 5}]
)
def test_patched_but_off_is_the_upstream_bit_for_bit(unpatched, text_model, data_folder, tmp_path, extra):
    found = []
    for name, src in (("before", unpatched / "src"), ("after", tiny.SRC)):
        losses = tiny.train(tiny.settings(text_model, data_folder, tmp_path / name, **extra), src=src)
        weights = (tmp_path / name / "adapter_model.safetensors").read_bytes()
        found.append((losses, hashlib.sha256(weights).hexdigest()))
    assert len(found[0][0]) == 10
    assert found[0] == found[1]


def falls(losses):
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.05, losses


@pytest.mark.upstream_heavy
def test_both_switches_packed_train(text_model, data_folder, tmp_path):
    falls(
        tiny.train(
            tiny.settings(
                text_model, data_folder, tmp_path / "on", dataset="typed,plain", use_hsa=True, use_feedback=True,
                neat_packing=True, hsa_policy="hierarchical", per_device_train_batch_size=2,
            )
        )
    )  # fmt: skip


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("dataset", ["images", "typed"])
@pytest.mark.parametrize("family", tiny.VISION_FAMILIES)
def test_both_switches_packed_with_images_train(family, dataset, data_folder, tmp_path):
    """``typed`` has no image, so the collator adds a fake one behind the packed row."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    folder = tiny.save_vision_model(tmp_path / "model", family)
    template = "qwen3_vl_nothink" if family == "qwen3_vl" else "qwen2_vl"
    falls(
        tiny.train(
            tiny.settings(
                folder, data_folder, tmp_path / "on", dataset=dataset, template=template, use_hsa=True,
                use_feedback=True, neat_packing=True, cutoff_len=256, per_device_train_batch_size=1,
                learning_rate=3.0e-3,
            )
        )
    )  # fmt: skip


@pytest.mark.upstream_heavy
def test_images_unpacked_train(data_folder, tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    folder = tiny.save_vision_model(tmp_path / "model")
    given = tiny.settings(
        folder, data_folder, tmp_path / "on", dataset="images,typed", template="qwen2_vl", use_hsa=True
    )
    falls(tiny.train(given | {"use_feedback": True, "learning_rate": 3.0e-3}))


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3_moe"])
def test_other_families_train_with_upstreams_reentrant_checkpointing(family, data_folder, tmp_path):
    folder = tiny.save_text_model(tmp_path / "model", family)
    falls(tiny.train(tiny.settings(folder, data_folder, tmp_path / "on", dataset="typed", use_hsa=True)))


@pytest.mark.upstream_heavy
def test_two_processes_train(text_model, data_folder, tmp_path):
    given = tiny.settings(text_model, data_folder, tmp_path / "on", dataset="typed", use_hsa=True, use_feedback=True)
    falls(tiny.train(given | {"ddp_backend": "gloo", "max_steps": 10}, processes=2))


@pytest.mark.upstream_heavy
def test_evaluation_during_training_runs(text_model, data_folder, tmp_path):
    given = tiny.settings(text_model, data_folder, tmp_path / "on", dataset="typed", use_hsa=True, val_size=4)
    falls(tiny.train(given | {"eval_strategy": "steps", "eval_steps": 5}))


@pytest.mark.upstream_heavy
def test_prediction_generates_from_typed_prompts(text_model, data_folder, tmp_path):
    for name in ("jieba", "nltk", "rouge_chinese"):
        pytest.importorskip(name, reason=f"LLaMA-Factory's prediction metrics need {name}")
    texts = []
    for on in (True, False):
        given = tiny.settings(
            text_model, data_folder, tmp_path / str(on), eval_dataset="typed", use_hsa=on, do_train=False
        )
        given |= {"do_predict": True, "predict_with_generate": True, "max_new_tokens": 12, "hsa_policy": "hierarchical"}
        given |= {"per_device_eval_batch_size": 4, "hsa_lambda_landmark": 0.5, "do_sample": False, "num_beams": 2}
        del given["dataset"]
        tiny.train(given)
        lines = (tmp_path / str(on) / "generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
        texts.append([json.loads(line) for line in lines])
    assert [row["prompt"] for row in texts[0]] == [row["prompt"] for row in texts[1]]
    assert [row["predict"] for row in texts[0]] != [row["predict"] for row in texts[1]]


@pytest.mark.upstream_heavy
def test_upstreams_own_tests_give_the_same_results(unpatched, tmp_path):
    """Its whole suite without a hub: tests that need one fail before and after; every outcome must be the same."""
    outcomes = []
    for name, folder in (("before", unpatched), ("after", CHECKOUT)):
        path = [str(folder / "src"), tiny.stub_path(), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in path if p), "HF_HUB_OFFLINE": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rA",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(folder),
            "tests",
        ]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
        lines = [
            line.split(" - ")[0]
            for line in ran.stdout.splitlines()
            if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED"))
        ]
        outcomes.append(sorted(line.replace(str(folder), "") for line in lines))
        print(name, ran.stdout.splitlines()[-1])
    assert sum(line.startswith("PASSED") for line in outcomes[0]) > 40
    assert any("PASSED tests/data/test_converter.py" in line for line in outcomes[0])
    assert outcomes[0] == outcomes[1]


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("pack", ["hsa", "feedback"])
def test_each_pack_works_alone(pack, text_model, data_folder, tmp_path):
    """The checkout's HEAD with one pack: it trains with that switch, and has no trace of the other."""
    own = tiny.ROOT / ".venvs" / "engine" / "bin" / "python"
    engine = os.environ.get("GRAFT_ENGINE_PYTHON") or (str(own) if own.exists() else sys.executable)
    if subprocess.run([engine, "-c", "import libcst, shtab"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the engine's libraries (requirements.txt) are not installed")
    root = tmp_path / "project"
    root.mkdir()
    for name in ("apply.py", "upstream.lock"):
        shutil.copy(tiny.ROOT / name, root / name)
    for name in ("graft", "look", "patches", "overlays"):
        shutil.copytree(tiny.ROOT / name, root / name)
    checkout = root / "upstreams" / "LLaMA-Factory"
    if subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(checkout)], check=False).returncode != 0:
        pytest.skip(f"{CHECKOUT} is no git checkout")
    command = [engine, "apply.py", "apply", "LLaMA-Factory", "--pack", pack]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted(f for f in ("hsa", "feedback") if (checkout / "src" / "llamafactory" / f).exists()) == [pack]
    given = tiny.settings(text_model, data_folder, tmp_path / "on", dataset="typed", neat_packing=True)
    falls(tiny.train(given | {f"use_{pack}": True}, src=checkout / "src"))
