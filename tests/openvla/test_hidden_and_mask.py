"""Probe batches and the hidden states on them: exact, cut short, and without a trace in model or optimizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import probe_models as models
import pytest
import torch
from PIL import Image
from probe_text import BOS, EMPTY, PAD, BatchTransform, Pure, Slow, fast
from research.anatomy import anatomy
from research.probe.hidden_and_mask import (
    ProbeBatch,
    collate,
    instruction_span,
    pooled_states,
    run_to,
    template_of,
)

LAYERS = range(models.LAYERS)


def raw_outputs(model: torch.nn.Module, batch: ProbeBatch) -> list[torch.Tensor]:
    """What every block returns in the model's own whole forward, in evaluation mode."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in anatomy(model).layers]
    model.eval()
    with torch.no_grad():
        model(batch.input_ids, batch.attention_mask, batch.pixel_values)
    for handle in handles:
        handle.remove()
    return seen


def batch_for(kind: type[torch.nn.Module], samples: int = 3) -> ProbeBatch:
    batch = models.batch(samples)
    if kind is models.Prismatic:
        batch.pixel_values = {"dino": batch.pixel_values}
    return batch


@pytest.fixture(params=[models.HF, models.Prismatic])
def kind(request: pytest.FixtureRequest) -> type[torch.nn.Module]:
    return request.param


@pytest.mark.parametrize("layers", [[0], [1, 3], [4, 0], [4]])
@pytest.mark.parametrize("stop_early", [True, False])
def test_run_to_gives_the_raw_outputs_bit_for_bit(kind: Any, layers: list[int], stop_early: bool) -> None:
    batch = batch_for(kind)
    expected = raw_outputs(models.make(kind), batch)
    found = run_to(models.make(kind).train(), batch, layers, stop_early=stop_early)
    assert sorted(found) == sorted(layers)
    for layer in layers:
        assert found[layer].shape == (3, models.PATCHES + batch.input_ids.shape[1], models.HIDDEN)
        assert torch.equal(found[layer], expected[layer])


def test_the_last_layer_is_raw_too() -> None:
    """``output_hidden_states`` would have given the normalised one."""
    model, batch = models.make(), models.batch()
    last = run_to(model, batch, [models.LAYERS - 1])[models.LAYERS - 1]
    assert not torch.allclose(last, anatomy(model).norm(last), atol=1e-2)
    assert torch.equal(last, raw_outputs(model, batch)[-1])


@pytest.mark.parametrize(("stop_early", "blocks", "positions"), [(True, 3, 1), (False, models.LAYERS, 12 + 2)])
def test_run_to_stops_at_the_highest_layer(stop_early: bool, blocks: int, positions: int) -> None:
    model, batch = models.make(), models.batch()
    ran: list[int] = []
    widths: list[int] = []
    for number, block in enumerate(anatomy(model).layers):
        block.register_forward_hook(lambda module, args, output, number=number: ran.append(number))
    anatomy(model).lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    layers = anatomy(model).layers
    run_to(model, batch, [0, 2], stop_early=stop_early)
    assert ran == list(range(blocks))
    assert widths == [positions]
    assert model.language_model.model.layers is layers
    assert len(layers) == models.LAYERS


def test_a_failing_forward_leaves_the_model_whole() -> None:
    model, batch = models.make().train(), models.batch()
    batch.pixel_values = batch.pixel_values[:, :2]
    layers = anatomy(model).layers
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    with pytest.raises(RuntimeError):
        run_to(model, batch, [1])
    assert model.language_model.model.layers is layers
    assert all(module.training for module in model.modules())
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_flags_and_random_state_are_restored() -> None:
    model, batch = models.make().train(), models.batch()
    model.projector.eval()
    flags = {name: module.training for name, module in model.named_modules()}

    def draw(module: Any, args: Any, output: Any) -> None:
        torch.rand(3)

    model.vision_backbone.proj.register_forward_hook(draw)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    run_to(model, batch, [1])
    assert torch.equal(torch.rand(4), expected)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert not flags["projector"]


@pytest.mark.parametrize("layers", [[], [models.LAYERS], [-1], [0, 99]])
def test_a_layer_that_is_not_there_is_refused(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="layers 0 to 4"):
        run_to(models.make(), models.batch(), layers)


def test_a_forward_that_skips_a_block_is_refused() -> None:
    model = models.make()
    model.forward = lambda **batch: None
    with pytest.raises(RuntimeError, match=r"did not run decoder blocks \[0, 2\]"):
        run_to(model, models.batch(), [0, 2])


def test_pooled_states_against_a_loop_in_float64(kind: Any) -> None:
    batch = batch_for(kind)
    model = models.make(kind)
    pooled = pooled_states(model, batch, [1, 4])
    for layer in (1, 4):
        hidden = raw_outputs(model, batch)[layer]
        for row in range(3):
            chosen = [hidden[row, at].double() for at in range(hidden.shape[1]) if batch.instruction_mask[row, at]]
            torch.testing.assert_close(pooled[layer][row].double(), sum(chosen) / len(chosen), rtol=1e-5, atol=1e-6)
    assert pooled[1].dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_summed_in_float32(autocast: bool) -> None:
    """A bfloat16 model, and a float32 one under bfloat16 autocast: the caller's autocast holds inside."""
    model, batch = models.make(), models.batch()
    if not autocast:
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = run_to(model, batch, [2])[2]
        pooled = pooled_states(model, batch, [2])[2]
    assert autocast or hidden.dtype == torch.bfloat16
    assert pooled.dtype == torch.float32
    for row in range(3):
        expected = hidden[row, batch.instruction_mask[row]].double().mean(dim=0)
        torch.testing.assert_close(pooled[row].double(), expected, rtol=1e-5, atol=1e-6)
    if autocast:
        assert not torch.equal(hidden, run_to(model, batch, [2])[2])


def test_a_sample_without_instruction_is_named() -> None:
    batch = models.batch()
    batch.instruction_mask[1] = False
    with pytest.raises(ValueError, match="probe samples s1 have no instruction"):
        pooled_states(models.make(), batch, [0])


def test_padding_does_not_reach_the_instruction() -> None:
    """A sample alone and one padded next to longer ones have the same states, within rounding."""
    model, batch = models.make(), models.batch()
    together = pooled_states(model, batch, [4])[4]
    for row in range(3):
        alone = batch.slice(row, row + 1)
        length = int(alone.attention_mask.sum())
        alone.input_ids, alone.attention_mask = alone.input_ids[:, :length], alone.attention_mask[:, :length]
        alone.instruction_mask = alone.instruction_mask[:, : models.PATCHES + length]
        torch.testing.assert_close(pooled_states(model, alone, [4])[4][0], together[row], rtol=1e-4, atol=1e-5)


def training_step(model: Any, optimizer: Any, batch: ProbeBatch, probe: Any) -> torch.Tensor:
    """A step with a probe forward between backward and optimizer."""
    loss = model(batch.input_ids, batch.attention_mask, batch.pixel_values, labels=batch.input_ids).loss
    loss.backward()
    probe()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def test_nothing_of_the_probe_reaches_a_parameter() -> None:
    """No graph to go back through, no gradient written, no bit of a weight or of training changed."""
    batch, probe = models.batch(seed=1), models.batch(seed=2)

    def train(probing: bool) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        model = models.make().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)

        def look() -> None:
            if not probing:
                return
            before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
            for states in (run_to(model, probe, [0, 3]), pooled_states(model, probe, [0, 3])):
                for state in states.values():
                    assert not state.requires_grad
                    assert state.grad_fn is None
                    with pytest.raises(RuntimeError, match="does not require grad"):
                        state.sum().backward()
            for name, parameter in model.named_parameters():
                assert torch.equal(parameter, before[name][0])
                assert torch.equal(parameter.grad, before[name][1])
                assert parameter.requires_grad

        losses = [training_step(model, optimizer, batch, look) for _ in range(3)]
        return losses, model.state_dict()

    losses, weights = train(probing=True)
    expected_losses, expected_weights = train(probing=False)
    assert all(map(torch.equal, losses, expected_losses))
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def test_probe_batches_hold_nothing_to_learn() -> None:
    fields = {"input_ids", "attention_mask", "pixel_values", "instruction_mask", "output_position", "ids"}
    assert set(vars(models.batch())) == fields


def test_a_training_forward_in_the_same_autocast_block_still_learns() -> None:
    """Autocast remembers the weights it cast; those that the probe cast have no graph."""
    batch = models.batch()

    def gradients(probing: bool) -> list[torch.Tensor]:
        model = models.make().eval()
        with torch.autocast("cpu", torch.bfloat16):
            if probing:
                run_to(model, batch, [4])
            loss = model(batch.input_ids, batch.attention_mask, batch.pixel_values, labels=batch.input_ids).loss
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(map(torch.equal, gradients(True), gradients(False)))


def test_run_to_under_peft() -> None:
    peft = pytest.importorskip("peft")
    batch = models.batch()
    targets = ["q_proj", "v_proj", "down_proj", "lm_head", "fc", "proj"]
    model = peft.get_peft_model(
        models.make(), peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, lora_dropout=0.5)
    )
    expected = raw_outputs(model, batch)
    found = run_to(model.train(), batch, [0, 3])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[3], expected[3])
    assert not torch.equal(found[3], run_to(models.make(), batch, [3])[3])
    assert all(parameter.grad is None for parameter in model.parameters())


def sample(name: str, instruction: str, shade: int = 0) -> SimpleNamespace:
    return SimpleNamespace(id=name, instruction=instruction, image=Image.new("RGB", (8, 8), (shade, shade, shade)))


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.full((3, 8, 8), float(image.getpixel((0, 0))[0]))


SAMPLES = [sample("a", "Pick up the bowl", 1), sample("b", "open", 2), sample("c", "put it on the plate.", 3)]


@pytest.mark.parametrize("tokenizer", [fast(), Slow()], ids=["fast", "slow"])
def test_collate(tokenizer: Any) -> None:
    template = template_of(Pure, BatchTransform)
    batch = collate(SAMPLES, (tokenizer, pixels_of), template, num_patches=5)
    longest = 0
    for row, entry in enumerate(SAMPLES):
        prompt = template.prompt(entry.instruction)
        ids = [*tokenizer(prompt, add_special_tokens=True).input_ids, EMPTY]
        longest = max(longest, len(ids))
        first, last = instruction_span(tokenizer, template, prompt)
        length = len(ids)
        assert batch.input_ids[row, :length].tolist() == ids
        assert set(batch.input_ids[row, length:].tolist()) <= {PAD}
        assert batch.attention_mask[row].tolist() == [at < length for at in range(batch.input_ids.shape[1])]
        assert batch.instruction_mask[row].nonzero().flatten().tolist() == list(range(5 + first, 5 + last))
        assert batch.output_position[row] == 5 + length - 1
    assert batch.input_ids.shape == (3, longest)
    assert batch.instruction_mask.shape == (3, 5 + longest)
    assert (batch.input_ids[:, 0] == BOS).all()
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert batch.ids == ["a", "b", "c"]
    assert batch.attention_mask.dtype == batch.instruction_mask.dtype == torch.bool


def test_collate_takes_a_processor_and_dicts_of_pixels() -> None:
    processor = SimpleNamespace(
        tokenizer=fast(), image_processor=SimpleNamespace(apply_transform=lambda image: {"dino": pixels_of(image)})
    )
    batch = collate(SAMPLES, processor, template_of(Pure, BatchTransform), num_patches=5)
    assert batch.pixel_values["dino"].shape == (3, 3, 8, 8)
    part = batch.slice(1, 3).to("cpu")
    assert part.pixel_values["dino"][:, 0, 0, 0].tolist() == [2.0, 3.0]
    assert part.ids == ["b", "c"]
    assert len(part) == 2
    assert part.input_ids.shape == (2, batch.input_ids.shape[1])
    assert torch.equal(part.instruction_mask, batch.instruction_mask[1:])
    assert torch.equal(part.output_position, batch.output_position[1:])


def test_pad_to_makes_batches_of_one_length() -> None:
    template = template_of(Pure, BatchTransform)
    batch = collate(SAMPLES, (fast(), pixels_of), template, num_patches=5, pad_to=40)
    plain = collate(SAMPLES, (fast(), pixels_of), template, num_patches=5)
    assert batch.input_ids.shape == (3, 40)
    assert batch.instruction_mask.shape == (3, 45)
    assert torch.equal(batch.output_position, plain.output_position)
    assert torch.equal(batch.instruction_mask[:, : plain.instruction_mask.shape[1]], plain.instruction_mask)
    assert batch.attention_mask.sum() == plain.attention_mask.sum()


def test_collate_names_the_sample_it_refuses() -> None:
    template = template_of(Pure, BatchTransform)
    with pytest.raises(ValueError, match="probe sample nobody: empty instruction"):
        collate([*SAMPLES, sample("nobody", " ")], (fast(), pixels_of), template, 5)
    with pytest.raises(ValueError, match=r"probe sample c: its prompt has \d+ tokens, 16 is the most"):
        collate([SAMPLES[1], SAMPLES[2]], (fast(), pixels_of), template, 5, pad_to=16)
    with pytest.raises(ValueError, match="no probe samples"):
        collate([], (fast(), pixels_of), template, 5)


def test_collate_refuses_a_tokenizer_without_padding() -> None:
    tokenizer = Slow()
    tokenizer.pad_token_id = None
    with pytest.raises(ValueError, match="no padding token"):
        collate(SAMPLES, (tokenizer, pixels_of), template_of(Pure, BatchTransform), 5)
