"""FlexAttention's functions, entry by entry against the double loop, and its forward on a CPU at a small size."""

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.hsa.bias import HSARule  # noqa: E402
from llamafactory.hsa.flex import flex_mask, hsa_mask_mod, hsa_score_mod, slopes  # noqa: E402
from test_hsa_bias import MASKED, expected  # noqa: E402
from test_hsa_models import batch, positions  # noqa: E402
from transformers.masking_utils import and_masks, causal_mask_function  # noqa: E402


@pytest.mark.parametrize("policy", ["distance", "hierarchical"])
@pytest.mark.parametrize("start", [0, 3])
def test_mask_and_score_functions_pointwise(policy, start):
    keys = 10
    types = batch(seed=9, length=keys)[1]
    rule = HSARule(policy, 0.02, 0.4, 3)
    queries = types[:, start:]
    allowed = and_masks(causal_mask_function, lambda b, h, q, k: k >= 2)  # two tokens of left padding
    mask_mod = hsa_mask_mod(allowed, types, queries, rule, start)
    score_mod = hsa_score_mod(slopes(types, rule), start)
    score = torch.tensor(1.5, dtype=torch.float64)
    for b in range(2):
        seen = [[2 <= j <= start + i for j in range(keys)] for i in range(keys - start)]
        row = types[b].tolist()
        wanted = expected(seen, row, row[start:], policy, 0.02, 0.4, 3, start)
        for i, line in enumerate(wanted):
            for j, entry in enumerate(line):
                at = [torch.tensor(n) for n in (b, 0, i, j)]
                visible = mask_mod(at[0], at[1], at[2] + start, at[3])
                assert bool(visible) is (entry is not MASKED)
                if entry is not MASKED:
                    assert score_mod(score, *at).item() == pytest.approx(1.5 + entry, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral_sliding", "qwen2_5_vl"])
@pytest.mark.parametrize("policy", ["distance", "hierarchical"])
def test_flex_forward_is_the_additive_bias(family, policy):
    """A whole model on FlexAttention's eager CPU forward: padding, packing and sliding windows included."""
    ids, types = batch(length=140)
    mask = torch.ones_like(ids)
    mask[0, -9:] = 0
    segments = torch.ones_like(ids)
    segments[1, 60:] = 2
    segments[0, -9:] = 0
    given = {"attention_mask": mask, "semantic_ids": types, "semantic_segments": segments}
    given["position_ids"] = positions(tiny.model(family), ids)
    with torch.no_grad():
        flex = tiny.patched(family, hsa_policy=policy, hsa_backend="flex")
        seen = []
        flex.get_decoder().layers[0].register_forward_pre_hook(
            lambda m, a, k: seen.append(type(k["attention_mask"]).__name__), with_kwargs=True
        )
        got = flex(input_ids=ids, **given).logits
        wanted = tiny.patched(family, hsa_policy=policy, hsa_backend="sdpa")(input_ids=ids, **given).logits
    assert seen == ["BlockMask"]
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], rtol=1e-3, atol=1e-4)
    assert torch.isfinite(got).all()


def test_blocks_that_nobody_sees_are_left_out():
    """Far noise is no work: all but the diagonal blocks of a noise row are empty."""
    types = torch.full((1, 512), 2)
    block_mask = flex_mask(causal_mask_function, types, types, HSARule(window=50), 0)
    assert block_mask.to_dense()[0, 0].sum().item() == 4 + 3  # the diagonal, and the block below it


def test_flex_training_on_a_cpu_is_refused():
    from llamafactory.model.hsa_patch import apply_hsa_patch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is present")
    with pytest.raises(ValueError, match="cannot train without a CUDA device"):
        apply_hsa_patch(tiny.model("qwen3"), tiny.hsa_arguments(hsa_backend="flex"), is_trainable=True)
