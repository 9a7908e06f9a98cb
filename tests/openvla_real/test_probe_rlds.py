"""The probe on the real openvla: samples by its RLDS pipeline, prompts as it trains and evaluates, exact states."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.upstream_heavy

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / "overlays" / "openvla"
CHECKOUT = Path(os.environ.get("GRAFT_OPENVLA_SRC") or ROOT / "upstreams" / "openvla")
PITFALLS = [
    "Open the upper drawer",
    "open the drawer.",
    "put it on the plate (the blue one)",
    "what is this?",
    "what is this??",
    "t",
    "out:",
    "put in: what action should the robot take to open the drawer?\nout: a",
    "What action should the robot take to put?\nOut:",
    "  pick   up  ",
    "öffne die schublade für das café",
    "把碗放在盘子上",
    "pick up the 🥣",
]


@pytest.fixture(scope="module", autouse=True)
def paths() -> Any:
    """The checkout and the overlay as packages, without a graft: the probe opens no seam."""
    if not (CHECKOUT / "prismatic").is_dir():
        pytest.fail(f"no openvla in {CHECKOUT}: run python apply.py openvla, or set GRAFT_OPENVLA_SRC")
    added = [str(OVERLAY), str(CHECKOUT), str(Path(__file__).parent)]
    sys.path[:0] = added
    yield
    for path in added:
        sys.path.remove(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """[FOLDER]/openvla-tiny and [FOLDER]/rlds, as materials.py makes them."""
    import materials

    folder = tmp_path_factory.mktemp("materials")
    materials.make(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizers(made: Path) -> dict[str, Any]:
    """The same vocabulary read by the fast tokenizer and by SentencePiece itself."""
    from transformers import LlamaTokenizer, LlamaTokenizerFast

    slow = LlamaTokenizer(str(made / "tokenizer" / "tokenizer.model"), legacy=False, model_max_length=2048)
    slow.add_special_tokens({"pad_token": "<PAD>"})
    return {"fast": LlamaTokenizerFast.from_pretrained(made / "tokenizer"), "slow": slow}


@pytest.fixture(scope="module")
def sentencepiece(made: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(made / "tokenizer" / "tokenizer.model"))


@pytest.fixture(scope="module")
def frames(made: Path) -> dict[tuple[str, bytes], int]:
    """Every frame that upstream's own training pipeline delivers: instruction and pixels."""
    import numpy as np
    from prismatic.models.backbones.llm.prompting import PurePromptBuilder
    from prismatic.vla.datasets import RLDSBatchTransform, RLDSDataset
    from tiny_episodes import INSTRUCTIONS, NAME, STEPS

    seen: dict[tuple[str, bytes], int] = {}

    class Seeing(RLDSBatchTransform):
        def __call__(self, frame: dict[str, Any]) -> dict[str, Any]:
            words = frame["task"]["language_instruction"].decode().lower()
            key = (words, np.asarray(frame["observation"]["image_primary"][0]).tobytes())
            seen[key] = seen.get(key, 0) + 1
            return {}

    stream = iter(
        RLDSDataset(
            made / "rlds",
            NAME,
            Seeing(None, None, None, PurePromptBuilder),
            resize_resolution=(64, 64),
            shuffle_buffer_size=8,
            image_aug=False,
        )
    )
    # Upstream repeats for ever; several rounds show every frame of the training split.
    for _ in range(6 * len(INSTRUCTIONS) * STEPS):
        next(stream)
    return seen


def command(out: Path, made: Path, *options: str) -> str:
    from tiny_episodes import NAME

    words = [sys.executable, "-m", "research.probe.probe_dataset", "--out", str(out), "--image_size", "64", *options]
    words += ["--data_root_dir", str(made / "rlds"), "--dataset_name", NAME]
    path = os.pathsep.join([str(OVERLAY), str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "NO_GCE_CHECK": "true"}
    done = subprocess.run(words, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_probe_set_from_rlds(made: Path, frames: dict[tuple[str, bytes], int], tmp_path: Path) -> None:
    from research.probe.probe_dataset import ProbeConfig, ProbeSet, build
    from tiny_episodes import INSTRUCTIONS, NAME

    known = {words for words, _ in frames}
    assert known <= {words.lower() for words in INSTRUCTIONS}
    assert len(known) >= 7
    count = len(known) + 5
    out = tmp_path / "probe"
    assert f"{count} samples, {len(known)} instructions" in command(out, made, "--n", str(count))
    probe = ProbeSet.load(out)
    keys = [(sample.instruction, sample.image.tobytes()) for sample in probe.samples]
    assert set(keys) <= set(frames), "not the frames that upstream trains on"
    assert len(set(keys)) == count
    assert {words for words, _ in keys[: len(known)]} == known
    again = build(
        ProbeConfig(out=tmp_path / "again", n=count, data_root_dir=made / "rlds", dataset_name=NAME, image_size=64)
    )
    assert again.hash == probe.hash
    assert [sample.id for sample in again.samples] == [sample.id for sample in probe.samples]
    everything = build(
        ProbeConfig(out=tmp_path / "all", n=10_000, data_root_dir=made / "rlds", dataset_name=NAME, image_size=64)
    )
    assert {(sample.instruction, sample.image.tobytes()) for sample in everything.samples} == set(frames)


def test_prompts_are_those_of_training_and_of_evaluation(tokenizers: dict[str, Any]) -> None:
    import numpy as np
    from prismatic.vla.action_tokenizer import ActionTokenizer
    from prismatic.vla.datasets import RLDSBatchTransform
    from research.probe.hidden_and_mask import prompt_builder_for, prompt_tokens, template_of

    tokenizer = tokenizers["fast"]
    for vla_path in ("openvla/openvla-7b", "openvla/openvla-v01-7b"):
        builder = prompt_builder_for(vla_path)
        training = RLDSBatchTransform(ActionTokenizer(tokenizer), tokenizer, np.asarray, builder)
        template = template_of(builder)
        assert template.text.endswith("ASSISTANT:" if "v01" in vla_path else "\nOut:")
        for instruction in PITFALLS:
            frame = {
                "dataset_name": b"",
                "action": np.linspace(-0.9, 0.9, 7, dtype=np.float32)[None],
                "observation": {"image_primary": np.zeros((1, 4, 4, 3), np.uint8)},
                "task": {"language_instruction": instruction.encode()},
            }
            prompt = template.prompt(instruction)
            # Seven action tokens and </s> follow.
            assert training(frame)["input_ids"][:-8].tolist() == prompt_tokens(tokenizer, prompt)
            assert evaluated(vla_path, instruction) == prompt


def evaluated(vla_path: str, instruction: str) -> str:
    """The prompt that upstream's evaluation hands to the processor."""
    import numpy as np
    from experiments.robot import openvla_utils

    class Asked(Exception):
        pass

    def processor(prompt: str, image: Any) -> None:
        raise Asked(prompt)

    observation = {"full_image": np.zeros((8, 8, 3), np.uint8)}
    with pytest.raises(Asked) as asked:
        openvla_utils.get_vla_action(None, processor, vla_path, observation, instruction, "key")
    return str(asked.value)


@pytest.mark.parametrize("vla_path", ["openvla/openvla-7b", "openvla/openvla-v01-7b"])
@pytest.mark.parametrize("instruction", PITFALLS)
def test_sentencepiece_and_offsets_agree(
    tokenizers: dict[str, Any], sentencepiece: Any, vla_path: str, instruction: str
) -> None:
    from research.probe.hidden_and_mask import instruction_span, prompt_builder_for, prompt_tokens, template_of

    template = template_of(prompt_builder_for(vla_path))
    prompt = template.prompt(instruction)
    assert tokenizers["fast"].is_fast
    assert not tokenizers["slow"].is_fast
    fast, slow = (prompt_tokens(tokenizers[name], prompt) for name in ("fast", "slow"))
    assert fast == slow
    assert fast[-1] == 29871
    first, last = instruction_span(tokenizers["fast"], template, prompt)
    assert instruction_span(tokenizers["slow"], template, prompt) == (first, last)
    # SentencePiece's own account of where its pieces lie, by bytes: the space before the instruction belongs to it.
    pieces = sentencepiece.encode(prompt, out_type="immutable_proto").pieces
    begin, end = len(template.prefix.rstrip().encode()), len(prompt.encode()) - len(template.suffix.encode())
    ends = list(itertools.accumulate(len(piece.surface.encode()) for piece in pieces))
    # A character's bytes but its last have no surface of their own and stand where the character begins.
    starts = [0, *ends[:-1]]
    inside = [at for at, (low, high) in enumerate(zip(starts, ends, strict=True)) if low < end and high > begin]
    assert (first, last) == (inside[0] + 1, inside[-1] + 2)


def test_states_of_the_real_model(made: Path) -> None:
    """Raw block outputs bit for bit, with LoRA on every linear layer, in bfloat16 under autocast as in finetune.py."""
    import torch
    from peft import LoraConfig, get_peft_model
    from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
    from research.anatomy import anatomy
    from research.probe.hidden_and_mask import collate, pooled_states, prompt_builder_for, run_to
    from research.probe.probe_dataset import ProbeConfig, build
    from tiny_episodes import NAME
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

    AutoConfig.register("openvla", OpenVLAConfig, exist_ok=True)
    AutoImageProcessor.register(OpenVLAConfig, PrismaticImageProcessor, exist_ok=True)
    AutoProcessor.register(OpenVLAConfig, PrismaticProcessor, exist_ok=True)
    checkpoint = made / "openvla-tiny"
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = OpenVLAForActionPrediction.from_pretrained(checkpoint, torch_dtype=torch.bfloat16)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.3)
    model = get_peft_model(model, lora).train()
    config = ProbeConfig(out=made / "states", n=3, data_root_dir=made / "rlds", dataset_name=NAME, image_size=64)
    parts = anatomy(model)
    samples = build(config).sub_batch([0, 1, 2])
    batch = collate(samples, processor, prompt_builder_for(str(checkpoint)), parts.num_patches)

    expected: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, args, output: expected.append(output[0])) for block in parts.layers
    ]
    pixels = batch.pixel_values.to(torch.bfloat16)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels)
    for handle in handles:
        handle.remove()
    model.train()
    assert output.logits.shape[:2] == batch.instruction_mask.shape
    with torch.autocast("cpu", torch.bfloat16):
        found = run_to(model, batch, [0, 2, 3])
        pooled = pooled_states(model, batch, [2])[2]
    assert all(torch.equal(found[layer], expected[layer]) for layer in (0, 2, 3))
    for row in range(3):
        mean = expected[2][row, batch.instruction_mask[row]].double().mean(dim=0)
        torch.testing.assert_close(pooled[row].double(), mean, rtol=1e-5, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
