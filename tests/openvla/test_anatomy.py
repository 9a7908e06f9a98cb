"""The parts of a model are found through every wrapper, and a model without them is named."""

import pytest
import torch
from icms_models import HIDDEN, LAYERS, PATCHES, sharp_llama
from peft import LoraConfig, get_peft_model
from research.anatomy import AnatomyError, anatomy, hidden_of, unwrap
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper


class FullyShardedDataParallel(nn.Module):
    """By its name, which is all that unwrap looks at; FSDP itself would need a process group."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def native(model):
    """The same parts under the names of PrismaticVLM."""
    made = nn.Module()
    made.vision_backbone, made.llm_backbone = model.vision_backbone, nn.Module()
    made.llm_backbone.llm = model.language_model
    return made


@pytest.mark.parametrize("family", ["hf", "prismatic"])
def test_parts_of_both_families(family):
    model = sharp_llama()
    parts = anatomy(model if family == "hf" else native(model))
    llm = model.language_model
    assert parts.family == family
    assert parts.decoder is llm.model
    assert parts.layers is llm.model.layers
    assert parts.norm is llm.model.norm
    assert parts.lm_head is llm.lm_head
    assert parts.vision is model.vision_backbone
    assert (parts.hidden_size, parts.num_layers, parts.num_patches) == (HIDDEN, LAYERS, PATCHES)


def test_wrappers_in_any_order():
    model = sharp_llama()
    block = model.language_model.model.layers[1]
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    for wrapped in (tuned, FullyShardedDataParallel(tuned), checkpoint_wrapper(tuned)):
        assert unwrap(wrapped) is model
        assert anatomy(wrapped).layers[1] is block
    assert unwrap(checkpoint_wrapper(block)) is block


def test_parts_that_are_wrapped_inside():
    model = native(sharp_llama())
    llm = model.llm_backbone.llm
    wrapped = FullyShardedDataParallel(llm.model.layers[0])
    llm.model.layers[0] = wrapped
    model.llm_backbone = FullyShardedDataParallel(model.llm_backbone)
    model.vision_backbone = FullyShardedDataParallel(model.vision_backbone)
    parts = anatomy(FullyShardedDataParallel(model))
    assert parts.decoder is llm.model
    assert parts.num_patches == PATCHES
    assert parts.layers[0] is wrapped, "hooks belong on the outermost module of a block"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: setattr(m, "language_model", None), "language_model.model.layers"),
        (lambda m: setattr(m.language_model, "lm_head", None), "no .lm_head"),
        (lambda m: setattr(m.language_model.model, "layers", nn.Linear(1, 1)), "not an nn.ModuleList"),
        (lambda m: setattr(m, "vision_backbone", None), "no .vision_backbone"),
    ],
)
def test_what_is_missing_is_named(damage, said):
    model = sharp_llama()
    damage(model)
    with pytest.raises(AnatomyError, match=said):
        anatomy(model)


def test_patches_that_nobody_counts():
    model = sharp_llama()
    del model.vision_backbone.num_patches
    with pytest.raises(AnatomyError, match=r"num_patches.*give the vision backbone"):
        _ = anatomy(model).num_patches


def test_block_outputs():
    state = torch.ones(1, 2, 3)
    assert hidden_of(state) is state
    assert hidden_of((state, None)) is state
    with pytest.raises(AnatomyError, match="dict"):
        hidden_of({"hidden": state})
