"""Greedy and beam generation with a KV cache against a loop without any cache that knows all types."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from test_hsa_models import FAMILIES, batch, lora, positions  # noqa: E402

STEPS = 9
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def loop(model, ids, mask, types, steps=STEPS):
    """Argmax, the whole sequence anew at every step; what is generated is GLOBAL_CONDITION."""
    for _ in range(steps):
        places = (mask.cumsum(-1) - 1).clamp(0)
        if positions(model, ids).dim() == 3:
            places = places.expand(3, -1, -1)
        logits = model(
            input_ids=ids, attention_mask=mask, semantic_ids=types, position_ids=places, use_cache=False
        ).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        types = torch.cat([types, torch.zeros_like(types[:, :1])], 1)
    return ids


def prompt():
    """Two prompts, the first left-padded, with noise and landmarks among them."""
    ids, types = batch(seed=5, length=14)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    types[0, :4] = 2
    return ids, mask, types


@pytest.mark.parametrize("policy", ["distance", "hierarchical"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_is_the_loop_without(family, policy):
    ids, mask, types = prompt()
    model = tiny.patched(family, hsa_policy=policy)
    got = model.generate(input_ids=ids, attention_mask=mask, semantic_ids=types, **GREEDY)
    assert torch.equal(got, loop(model, ids, mask, types))


def test_types_change_what_is_generated():
    ids, mask, types = prompt()
    model = tiny.patched("qwen3", hsa_policy="hierarchical")
    plain = model.generate(input_ids=ids, attention_mask=mask, **GREEDY)
    assert torch.equal(plain, tiny.model("qwen3").generate(input_ids=ids, attention_mask=mask, **GREEDY))
    assert not torch.equal(plain, model.generate(input_ids=ids, attention_mask=mask, semantic_ids=types, **GREEDY))


def test_generation_through_peft():
    ids, mask, types = prompt()
    wrapped = lora(tiny.model("qwen2"))
    from llamafactory.model.hsa_patch import apply_hsa_patch

    apply_hsa_patch(wrapped, tiny.hsa_arguments())
    wrapped.eval()
    got = wrapped.generate(input_ids=ids, attention_mask=mask, semantic_ids=types, **GREEDY)
    assert torch.equal(got, loop(wrapped, ids, mask, types))


def test_generation_with_a_static_cache():
    ids, mask, types = prompt()
    model = tiny.patched("llama")
    got = model.generate(
        input_ids=ids, attention_mask=mask, semantic_ids=types, cache_implementation="static", **GREEDY
    )
    assert torch.equal(got, loop(model, ids, mask, types))


def test_beam_search_with_a_cache_is_beam_search_without():
    ids, mask, types = prompt()
    model = tiny.patched("qwen3")
    found = [
        model.generate(
            input_ids=ids, attention_mask=mask, semantic_ids=types, num_beams=3, num_return_sequences=2,
            use_cache=cached, **GREEDY,
        )
        for cached in (True, False)
    ]  # fmt: skip
    assert torch.equal(found[0], found[1])
    assert found[0].shape == (4, 14 + STEPS)


def test_a_cached_step_by_hand_takes_the_types_so_far():
    ids, _, types = prompt()
    model = tiny.patched("llama")
    whole = model(input_ids=ids[1:], semantic_ids=types[1:]).logits
    first = model(input_ids=ids[1:, :10], semantic_ids=types[1:, :10], use_cache=True)
    rest = model(input_ids=ids[1:, 10:], semantic_ids=types[1:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 10:], rtol=1e-4, atol=1e-5)


def test_other_unknown_arguments_are_still_refused():
    ids, mask, _ = prompt()
    with pytest.raises(ValueError, match="semantic_idz"):
        tiny.patched("qwen3").generate(input_ids=ids, attention_mask=mask, semantic_idz=ids, **GREEDY)


@pytest.mark.parametrize("length", [5, 20])
def test_types_of_another_length_than_the_prompt_are_refused(length):
    ids, mask, types = prompt()
    wrong = types[:, :1].expand(-1, length)
    with pytest.raises(ValueError, match="give the type of every token"):
        tiny.patched("qwen3").generate(input_ids=ids, attention_mask=mask, semantic_ids=wrong, **GREEDY)


def test_two_threads_generate_at_once():
    """A server has several; each announces its own pass."""
    ids, mask, types = prompt()
    model = tiny.patched("qwen3")
    alone = model.generate(input_ids=ids, attention_mask=mask, semantic_ids=types, **GREEDY)
    plain = model.generate(input_ids=ids, attention_mask=mask, **GREEDY)
    gate = threading.Barrier(4)

    def run(given):
        gate.wait()
        return [model.generate(input_ids=ids, attention_mask=mask, **given, **GREEDY) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, [{"semantic_ids": types}, {}, {"semantic_ids": types}, {}]))
    for number, outputs in enumerate(results):
        assert all(torch.equal(output, plain if number % 2 else alone) for output in outputs)
