"""Running the blocks above a layer again gives what the model's own forward gives; and leaves the model as it was."""

import pytest
import torch
from icms_models import LAYERS, linear_model, probe_batch, sharp_llama
from research.anatomy import anatomy
from research.icms.quiet import quiet
from research.icms.replay import Upper, capture, forward
from research.icms.tasks import tasks


def outputs(batch):
    return batch.output_position.unsqueeze(1)


def own_logits(model, batch):
    with quiet(model), torch.no_grad():
        logits = forward(model, batch).logits
    return logits[torch.arange(len(batch.ids)), batch.output_position].unsqueeze(1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("vary", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("start", [0, 2, LAYERS - 1])
def test_replay_is_the_models_own_forward(attention, vary, start):
    # Unpadded sdpa has no mask at all; padded has a 4-D one of one row a sample; eager a causal one.
    model, batch = sharp_llama(attention=attention).eval(), probe_batch(vary=vary)
    with quiet(model), torch.no_grad():
        seen = capture(model, batch, [start], outputs(batch))
        found = Upper(anatomy(model), torch.float32).logits(start, seen.hidden[start], seen)
        many = Upper(anatomy(model), torch.float32).logits(start, seen.hidden[start].repeat(3, 1, 1), seen)
    torch.testing.assert_close(found, own_logits(model, batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(many, found.repeat(3, 1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_tuple", [True, False])
def test_blocks_that_return_tuples_and_tensors(as_tuple):
    model, batch = linear_model(as_tuple), probe_batch()
    with quiet(model), torch.no_grad():
        seen = capture(model, batch, [0], outputs(batch))
        found = Upper(anatomy(model), torch.float64).logits(0, seen.hidden[0], seen)
    torch.testing.assert_close(found, own_logits(model, batch))


def test_captured_states_are_raw_also_at_the_last_block():
    model, batch = sharp_llama().eval(), probe_batch()
    normed = {}
    handle = anatomy(model).norm.register_forward_pre_hook(lambda module, args: normed.update(before=args[0]))
    with quiet(model):
        seen = capture(model, batch, [LAYERS - 1], outputs(batch))
    handle.remove()
    assert torch.equal(seen.hidden[LAYERS - 1], normed["before"])


def test_a_cache_that_the_forward_filled_is_left_out():
    """Some models fill one whatever they are told; running a block with it again would show it every token twice."""
    model, batch = sharp_llama().eval(), probe_batch()
    own = model.language_model.forward
    model.language_model.forward = lambda **kwargs: own(**{**kwargs, "use_cache": True})
    with quiet(model), torch.no_grad():
        seen = capture(model, batch, [1], outputs(batch))
        found = Upper(anatomy(model), torch.float32).logits(1, seen.hidden[1], seen)
        again = Upper(anatomy(model), torch.float32).logits(1, seen.hidden[1], seen)
    torch.testing.assert_close(found, own_logits(model, batch), rtol=1e-4, atol=1e-4)
    assert torch.equal(found, again)


def test_bfloat16_model_is_computed_in_float32_above():
    """The cast replay of a bfloat16 model is the float32 forward of the same (rounded) weights."""
    model, batch = sharp_llama(dtype=torch.bfloat16).eval(), probe_batch()
    with quiet(model), torch.no_grad():
        seen = capture(model, batch, [1], outputs(batch))
        found = Upper(anatomy(model), torch.float32).logits(1, seen.hidden[1], seen)
    assert found.dtype == torch.float32
    wide = sharp_llama().eval()
    wide.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    with quiet(wide), torch.no_grad():
        hook = (
            anatomy(wide)
            .layers[1]
            .register_forward_hook(
                lambda module, args, out: (
                    (seen.hidden[1].float(), *out[1:]) if isinstance(out, tuple) else seen.hidden[1].float()
                )
            )
        )
        expected = forward(wide, batch).logits[torch.arange(len(batch.ids)), batch.output_position].unsqueeze(1)
        hook.remove()
    # The rotary table that transformers 5 hands down is the model's own, rounded to bfloat16.
    assert (found - expected).abs().max() < 0.01
    with quiet(model), torch.no_grad():
        narrow = Upper(anatomy(model), torch.bfloat16).logits(1, seen.hidden[1], seen)
    assert (narrow - expected).abs().max() > 0.02, "the bound above tells the dtypes apart"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_perturbation_survives_the_dtype_that_the_public_method_loses_it_in():
    """1e-3 times a unit vector, added in bfloat16 to states of unit variance at D = 4096, is mostly rounded away."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(64, 4096, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(4096, generator=generator), dim=0)

    def made(state, delta):
        return (state + (delta * direction).to(state.dtype)).double() - state.double()

    def cosine(change):
        return torch.nn.functional.cosine_similarity(change, direction.double().expand_as(change)).mean()

    public = made(state.bfloat16(), 1e-3)
    assert (public != 0).double().mean() < 0.02
    assert cosine(public) < 0.3
    ours = made(state.bfloat16().float(), 0.05 * 4096**0.5)
    assert (ours != 0).double().mean() > 0.999
    assert cosine(ours) > 0.99999


def test_quiet_restores_every_flag_also_after_an_error():
    model = sharp_llama().train()
    model.vision_backbone.eval()
    model.language_model.lm_head.weight.requires_grad_(False)
    training = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    assert len({*training}) == 2
    assert len({*wanted}) == 2

    def fail():
        with quiet(model):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


def test_quantised_weights_are_refused():
    model = sharp_llama()
    block = anatomy(model).layers[0]
    block.packed = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(TypeError, match=r"packed is torch\.uint8: load the teacher without"):
        Upper(anatomy(model), torch.float32)


def test_a_block_that_was_not_run_is_named():
    model, batch = sharp_llama().eval(), probe_batch()
    model.language_model.forward = lambda **kwargs: None
    with pytest.raises(RuntimeError, match=r"did not run decoder blocks \[1, 2, 3\]"):
        capture(model, batch, [1], outputs(batch))


def test_whole_action_has_the_models_greedy_tokens_as_context():
    """Against a plain loop, one sample at a time and without padding."""
    model, batch = sharp_llama().eval(), probe_batch()
    (task,) = tasks(model, [batch], 4)
    assert task.outputs.tolist() == [[p, p + 1, p + 2, p + 3] for p in batch.output_position.tolist()]
    assert task.batch.instruction_mask.sum() == batch.instruction_mask.sum()
    with quiet(model), torch.no_grad():
        together = forward(model, task.batch).logits
        for i in range(len(batch.ids)):
            length = int(batch.attention_mask[i].sum())
            ids = batch.input_ids[i : i + 1, :length]
            for step in range(4):
                alone = model(ids, torch.ones_like(ids), batch.pixel_values[i : i + 1]).logits[0, -1]
                torch.testing.assert_close(together[i, task.outputs[i, step]], alone, rtol=1e-4, atol=1e-4)
                ids = torch.cat([ids, alone.argmax().view(1, 1)], 1)
            assert task.batch.input_ids[i, : length + 3].tolist() == ids[0, :-1].tolist()
