"""The two cases that the method's authors ask for, on the patched LLaMA-Factory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "llamafactory"))

import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_model, load_tokenizer  # noqa: E402


def load(tmp_path, **switches):
    """Arguments, tokenizer, data and model of a native run, all through LLaMA-Factory's own functions."""
    folder = tiny.save_text_model(tmp_path / "model")
    given = tiny.settings(folder, tiny.write_data(tmp_path / "data"), tmp_path / "out", dataset="typed", **switches)
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(given)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    model = load_model(module["tokenizer"], model_args, finetuning_args, is_trainable=True)
    return module["tokenizer"], template, data, model


def test_labels_up_to_the_feedback_token_are_masked_and_the_rest_kept(tmp_path):
    tokenizer, _, on, _ = load(tmp_path / "on", use_feedback=True)
    _, _, off, _ = load(tmp_path / "off", add_special_tokens="<|feedback|>")
    token = tokenizer.convert_tokens_to_ids("<|feedback|>")
    held = 0
    for masked, plain in zip(on, off, strict=True):
        assert masked["input_ids"] == plain["input_ids"]
        if token not in masked["input_ids"]:
            assert masked["labels"] == plain["labels"]
            continue
        held += 1
        first = masked["input_ids"].index(token)
        assert any(label != -100 for label in plain["labels"][: first + 1]), "there was something to mask"
        assert masked["labels"][: first + 1] == [-100] * (first + 1)
        assert masked["labels"][first + 1 :] == plain["labels"][first + 1 :]
        assert any(label != -100 for label in masked["labels"])
    assert held == 12


def test_semantic_ids_are_shaped_like_input_ids_and_a_forward_gives_a_loss(tmp_path):
    tokenizer, template, data, model = load(tmp_path, use_hsa=True)
    collator = SFTDataCollatorWith4DAttentionMask(
        tokenizer=tokenizer, template=template, model=model, pad_to_multiple_of=8
    )
    batch = collator([dict(data[i]) for i in range(3)])
    assert batch["semantic_ids"].shape == batch["input_ids"].shape
    assert set(batch["semantic_ids"].unique().tolist()) == {0, 1, 2}
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    untyped = model(**(dict(batch) | {"semantic_ids": torch.zeros_like(batch["semantic_ids"])})).loss
    assert loss.item() != untyped.item()
