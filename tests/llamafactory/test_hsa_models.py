"""HSA on every family: against a float64 reference of attention, through PEFT, checkpointing, packing and padding."""

import copy

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.hsa.attention import hsa_attention  # noqa: E402
from llamafactory.model.hsa_patch import apply_hsa_patch  # noqa: E402
from test_hsa_bias import expected  # noqa: E402

FAMILIES = (*tiny.TEXT_FAMILIES, *tiny.VISION_FAMILIES)


def batch(seed=0, length=12, rows=2):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, 300, (rows, length), generator=generator)
    types = torch.randint(0, 3, (rows, length), generator=generator)
    return ids, types


def eager_bias_model(family, ids, types, attention_mask, policy="distance", **config):
    """The unpatched model under a finished 4D mask from the double loop: an independent way to the same logits."""
    plain = tiny.model(family, **config)
    length = ids.shape[1]
    window = 6 if family == "mistral_sliding" else length
    masks = []
    for b in range(len(ids)):
        seen = [
            [bool(attention_mask[b, j]) and j <= i and i - j < window for j in range(length)] for i in range(length)
        ]
        row = types[b].tolist()
        loop = expected(seen, row, row, policy, 0.05, 0.5, 3, 0)
        lowest = torch.finfo(torch.float32).min
        masks.append([[lowest if entry is None else entry for entry in line] for line in loop])
    return plain(input_ids=ids, attention_mask=torch.tensor(masks)[:, None], position_ids=positions(plain, ids)).logits


def positions(model, ids):
    """Positions as the model itself counts them without padding."""
    plain = torch.arange(ids.shape[1]).expand(len(ids), -1)
    return plain.expand(3, -1, -1) if "text_config" in type(model.config).sub_configs else plain


@pytest.mark.parametrize("policy", ["distance", "hierarchical"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model_under_the_looped_bias(family, policy):
    ids, types = batch()
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    model = tiny.patched(family, hsa_policy=policy)
    got = model(input_ids=ids, attention_mask=mask, semantic_ids=types, position_ids=positions(model, ids)).logits
    wanted = eager_bias_model(family, ids, types, mask, policy)
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], rtol=2e-4, atol=2e-5)
    plain = tiny.model(family)(input_ids=ids, attention_mask=mask, position_ids=positions(model, ids)).logits
    assert (got - plain)[mask.bool()].abs().max() > 1e-3, "the types changed nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_without_types_or_all_global_it_is_plain_attention(family):
    ids, types = batch()
    model, plain = tiny.patched(family), tiny.model(family)
    wanted = plain(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=0, atol=0)
    zero = model(input_ids=ids, attention_mask=torch.ones_like(ids), semantic_ids=torch.zeros_like(types)).logits
    torch.testing.assert_close(zero, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_text_part_gets_hsa(family):
    model = tiny.patched(family)
    assert model.get_decoder().config._attn_implementation == "hsa"
    if family in tiny.VISION_FAMILIES:
        assert model.config.vision_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_images_go_through_the_untouched_vision_tower(family):
    from llamafactory.hsa import attention

    patch = 16 if family == "qwen3_vl" else 14
    grid = torch.tensor([[1, 4, 4]])
    pixels = torch.randn(16, 3 * 2 * patch * patch, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[30, 3, 6, 6, 6, 6, 4, 40, 41, 42]])
    types = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 2, 2, 0]])
    model = tiny.patched(family, trainable=True)
    calls = []
    original = attention.sdpa_attention_forward

    def counting(module, *args, **kwargs):
        calls.append(type(module).__name__)
        return original(module, *args, **kwargs)

    attention.sdpa_attention_forward = counting
    try:
        kinds = {"mm_token_type_ids": (ids == 6).long()}
        out = model(
            input_ids=ids, pixel_values=pixels, image_grid_thw=grid, semantic_ids=types, labels=ids,
            attention_mask=torch.ones_like(ids), **kinds,
        )  # fmt: skip
    finally:
        attention.sdpa_attention_forward = original
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert len(calls) == 2, "two text layers, no vision layer"
    assert not any("Vision" in name for name in calls)


def test_the_mask_is_built_once_and_shared_in_the_models_dtype():
    from llamafactory.hsa.attention import TypedForward

    ids, types = batch()
    model = tiny.patched("llama", config={"num_hidden_layers": 4}).to(torch.bfloat16)
    seen, built = [], []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda m, a, k: seen.append(k["attention_mask"]), with_kwargs=True)
    original = TypedForward.additive

    def counting(self, *args):
        built.append(1)
        return original(self, *args)

    TypedForward.additive = counting
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), semantic_ids=types)
    finally:
        TypedForward.additive = original
    assert len(built) == 1
    assert len({id(mask) for mask in seen}) == 1
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].shape == (2, 1, 12, 12)


def lora(model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_moe", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_peft_and_checkpointing_give_the_same_loss_and_gradients(family, reentrant):
    """``reentrant`` through LLaMA-Factory's own checkpointing function; None is without checkpointing."""
    from types import MethodType

    from llamafactory.model.model_utils.checkpointing import _gradient_checkpointing_enable

    ids, types = batch()
    wrapped = lora(tiny.model(family))
    apply_hsa_patch(wrapped, tiny.hsa_arguments(), is_trainable=True)
    wrapped.train()
    reference = copy.deepcopy(wrapped)
    if reentrant is not None:
        base = wrapped.get_base_model()
        base.gradient_checkpointing_enable = MethodType(_gradient_checkpointing_enable, base)
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    results = []
    for model in (reference, wrapped):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), semantic_ids=types, labels=ids).loss
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
        results.append((loss, grads))
    assert results[0][0] == results[1][0]
    for name, grad in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], grad, rtol=1e-5, atol=1e-7)


def test_packed_sequences_are_as_if_alone():
    """Three sequences in one row, with segments or with LLaMA-Factory's own 4D mask: each as computed by itself."""
    from llamafactory.data.collator import prepare_4d_attention_mask

    model = tiny.patched("qwen3")
    lengths = [5, 4, 6]
    ids, types = batch(length=sum(lengths) + 3, rows=1)
    segments = torch.tensor([[n + 1 for n, size in enumerate(lengths) for _ in range(size)] + [0] * 3])
    places = torch.tensor([[p for size in lengths for p in range(size)] + [0] * 3])
    packed = model(
        input_ids=ids, attention_mask=(segments > 0).long(), position_ids=places, semantic_ids=types,
        semantic_segments=segments,
    ).logits  # fmt: skip
    four = prepare_4d_attention_mask(segments, torch.float32)
    ready = model(input_ids=ids, attention_mask=four, position_ids=places, semantic_ids=types).logits
    at = 0
    for size in lengths:
        part = slice(at, at + size)
        alone = model(input_ids=ids[:, part], semantic_ids=types[:, part]).logits
        torch.testing.assert_close(packed[:, part], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ready[:, part], alone, rtol=1e-4, atol=1e-5)
        at += size
    assert torch.isfinite(packed).all()


def test_left_padding_moves_nothing():
    model = tiny.patched("llama")
    ids, types = batch(length=8, rows=1)
    alone = model(input_ids=ids, semantic_ids=types).logits
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(11) >= 3).long()[None]
    padded_types = torch.cat([torch.full((1, 3), 2), types], 1)
    got = model(
        input_ids=padded, attention_mask=mask, semantic_ids=padded_types, position_ids=(mask.cumsum(-1) - 1).clamp(0)
    ).logits
    torch.testing.assert_close(got[:, 3:], alone, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(got).all()


def test_autocast_gets_its_mask_in_bfloat16_and_stays_finite():
    model = tiny.patched("qwen2", trainable=True)
    ids, types = batch(length=40)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask, semantic_ids=types, labels=ids).loss
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_float32_mask_does_not_become_infinite_in_a_smaller_dtype():
    module = torch.nn.Module()
    q = torch.randn(1, 1, 3, 8).bfloat16()
    mask = torch.full((1, 1, 3, 3), torch.finfo(torch.float32).min)
    out, _ = hsa_attention(module, q, q, q, mask)
    assert torch.isfinite(out).all()


def test_training_without_types_is_an_error():
    model = tiny.patched("qwen3", trainable=True)
    with pytest.raises(ValueError, match="without `semantic_ids`"):
        model(input_ids=batch()[0])


def test_types_of_another_length_are_an_error():
    ids, types = batch()
    model = tiny.patched("qwen3")
    for wrong in (types[:, :-1], types[:1], torch.cat([types, types], 1)):
        with pytest.raises(ValueError, match="do not fit"):
            model(input_ids=ids, semantic_ids=wrong)
    torch.testing.assert_close(model(input_ids=ids).logits, tiny.model("qwen3")(input_ids=ids).logits)


def test_a_failing_forward_leaves_nothing_behind():
    from llamafactory.hsa import attention

    ids, types = batch()
    model = tiny.patched("qwen3")
    with pytest.raises(IndexError):
        model(input_ids=ids + 10_000, semantic_ids=types)
    assert attention._CURRENT.get() is None


def test_a_second_patch_replaces_the_first():
    model = tiny.patched("qwen3")
    apply_hsa_patch(model, tiny.hsa_arguments(hsa_lambda_noise=0.0, hsa_lambda_landmark=0.0, hsa_window=10_000))
    ids, types = batch()
    got = model(input_ids=ids, semantic_ids=types).logits
    torch.testing.assert_close(got, tiny.model("qwen3")(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_off_touches_nothing():
    model = tiny.model("qwen3")
    apply_hsa_patch(model, tiny.hsa_arguments(use_hsa=False))
    assert model.config._attn_implementation == "sdpa"
    assert not model.model._forward_pre_hooks
    assert "prepare_inputs_for_generation" not in vars(model)


def test_a_saved_config_names_no_implementation(tmp_path):
    tiny.patched("qwen3").save_pretrained(tmp_path)
    assert "hsa" not in (tmp_path / "config.json").read_text(encoding="utf-8")


def refused(made, match):
    with pytest.raises(ValueError, match=match):
        apply_hsa_patch(made, tiny.hsa_arguments())


def test_models_out_of_reach_are_refused():
    import transformers as t

    made = tiny.model("qwen3")
    type(made.model)._supports_attention_backend, kept = False, type(made.model)._supports_attention_backend
    try:
        refused(made, "attention interface")
    finally:
        type(made.model)._supports_attention_backend = kept
    small = tiny.TEXT_CONFIG
    refused(t.Gemma2ForCausalLM(t.Gemma2Config(**small, head_dim=16)), "soft-caps")
    mixed = t.Qwen3NextConfig(**small, head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32)
    refused(t.Qwen3NextForCausalLM(mixed), "layers without attention scores")
    refused(t.T5ForConditionalGeneration(t.T5Config(vocab_size=64, d_model=32, num_layers=1, num_heads=2)), "T5")
    flash = tiny.model("qwen3")
    flash.config._attn_implementation_internal = "flash_attention_2"
    refused(flash, "flash_attn: auto")


def test_a_model_that_builds_no_mask_is_noticed():
    model = tiny.patched("qwen3")
    model.model.forward = lambda **kwargs: torch.zeros(1)
    with pytest.raises(RuntimeError, match="had no effect"):
        model.model(input_ids=batch()[0], semantic_ids=batch()[1])
