"""The stand-in's world: what is asked can be seen in the picture, and a checkpoint's figures mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from toy_world.batches import actions_of, encode, prompt_ids
from toy_world.evaluate import accuracy, evaluate, predict
from toy_world.pretrain import make_model, make_processor, train_general
from toy_world.scenes import COLOURS
from toy_world.tasks import Sample, is_right, make_world


def test_samples_follow_from_the_seed_and_splits_differ() -> None:
    for kind in ("general", "downstream"):
        first, again = make_world(3).samples(kind, 5), make_world(3).samples(kind, 8)[:5]
        for one, other in zip(first, again, strict=True):
            assert one.instruction == other.instruction
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.action, other.action)
        for other in (make_world(4).samples(kind, 5), make_world(3).samples(kind, 5, "test")):
            assert any((a.image != b.image).any() for a, b in zip(first, other, strict=True))
    with pytest.raises(ValueError, match="no tasks 'generals'"):
        make_world(0).samples("generals", 1)


def place_seen(sample: Sample, colour: str) -> tuple[float, float]:
    """Middle of the cell with most pixels near a colour: read off the picture alone."""
    distance = np.abs(sample.image.astype(float) - COLOURS[colour]).sum(-1).reshape(4, 8, 4, 8)
    row, column = np.unravel_index((distance < 110).sum((1, 3)).argmax(), (4, 4))
    return column * 0.5 - 0.75, row * 0.5 - 0.75


def test_the_right_action_can_be_read_from_picture_and_words() -> None:
    signs = {"avoid": -1.0}
    checked = 0
    for sample in make_world(1).samples("general", 60):
        words = sample.instruction.split()
        if words[2] in ("white", "black"):  # the table's brightness varies, so pixels alone are not enough for these
            continue
        x, y = place_seen(sample, words[2])
        assert tuple(sample.action[:2]) == (x * signs.get(words[0], 1.0), y * signs.get(words[0], 1.0))
        assert sample.action[3] == pytest.approx({"slowly": -0.6, "quickly": 0.6}.get(words[4] if words[4:] else "", 0))
        assert sample.action[6] == float(words[0] in ("reach", "avoid"))
        checked += 1
    assert checked > 30


def test_one_cell_off_is_wrong_and_a_bin_off_is_right() -> None:
    action = np.array([-0.75, 0.25, -0.5, 0.0, 0.5, 0.0, 1.0])
    assert is_right(action, action)
    assert is_right(action + 0.01, action)
    for number in range(7):
        off = action.copy()
        off[number] += 0.5
        assert not is_right(off, action)


def test_batches_have_the_action_at_the_end() -> None:
    processor, sample = make_processor(), make_world(0).samples("general", 1)[0]
    batch = encode([sample], processor.tokenizer, processor.image_processor.apply_transform)
    prompt = prompt_ids(processor.tokenizer, sample.instruction)
    assert (prompt[0], prompt[-1]) == (1, 29871)
    assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
    expected = [32000 - int(np.digitize(number, np.linspace(-1, 1, 256))) for number in sample.action]
    assert batch["input_ids"][0, len(prompt) :].tolist() == [*expected, 2]
    assert batch["labels"][0].tolist() == [-100] * len(prompt) + [*expected, 2]


@pytest.fixture(scope="module")
def trained() -> tuple:
    """Three layers, and no help with finding things: that pays off only after a few hundred steps."""
    torch.set_num_threads(1)
    model, processor = make_model(0, num_hidden_layers=3), make_processor()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toy_world.pretrain.HELP", 0.0)
        patch.setattr("toy_world.pretrain.GROUND", 10)
        losses = train_general(model, make_world(0), processor, steps=100, samples=400)
    return model, processor, losses


def test_training_learns_what_words_alone_decide(trained: tuple) -> None:
    """A hundred steps are too few to find a thing; speed, turn and gripper are learned by then."""
    model, processor, losses = trained
    assert losses[-1] < 0.15 * losses[0]
    samples = make_world(0).samples("general", 64, "test")
    near = np.abs(predict(model, processor, samples) - actions_of(samples)) <= 0.2
    assert near[:, 3:].mean() > 0.75  # no single answer is right more often than 0.55


def test_batched_answers_are_those_of_predict_action(trained: tuple) -> None:
    model, processor, _ = trained
    samples = make_world(0).samples("general", 6, "test")
    batched = predict(model, processor, samples)
    for sample, answer in zip(samples, batched, strict=True):
        inputs = processor(
            f"In: What action should the robot take to {sample.instruction}?\nOut:", Image.fromarray(sample.image)
        )
        np.testing.assert_array_equal(model.predict_action(**inputs, unnorm_key="general"), answer)


def test_a_policy_that_knows_everything_scores_one(trained: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, _ = trained
    samples = make_world(0).samples("downstream", 16, "test")
    assert accuracy(model, processor, samples) == 0.0
    monkeypatch.setattr("toy_world.evaluate.predict", lambda *_: actions_of(samples))
    assert accuracy(model, processor, samples) == 1.0


def test_evaluation_leaves_the_mode_as_it_was(trained: tuple) -> None:
    model, processor, _ = trained
    for training in (True, False):
        model.train(training)
        found = evaluate(model, processor, make_world(0), count=8)
        assert set(found) == {"general_accuracy", "downstream_success"}
        assert model.training is training


def test_logits_with_labels_are_the_models_own_where_labels_are(trained: tuple) -> None:
    model, processor, _ = trained
    samples = make_world(0).samples("general", 3)
    batch = encode(samples, processor.tokenizer, processor.image_processor.apply_transform)
    with torch.no_grad():
        given = model(**batch)
        free = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    patches = model.vision_backbone.featurizer.patch_embed.num_patches
    assert given.logits.shape == free.shape == (3, batch["input_ids"].shape[1] + patches, 32064)
    where = batch["labels"][:, 1:] != -100
    torch.testing.assert_close(given.logits[:, patches + 1 - 1 : -1][where], free[:, patches:-1][where])
    expected = torch.nn.functional.cross_entropy(free[:, patches:-1][where].double(), batch["labels"][:, 1:][where])
    assert given.loss.item() == pytest.approx(expected.item(), rel=1e-5)
