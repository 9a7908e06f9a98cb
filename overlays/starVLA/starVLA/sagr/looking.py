"""From the examples of a batch to task tokens: the instruction's words, the geometry, what the anchor finds in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from . import batch
from .fusion import FusionModule
from .geometry.inputs import collect
from .grounding import grounding_loss, named_share
from .timing import Timer


def words_of(examples: Sequence[dict], interface: Any) -> tuple[Tensor, Tensor]:
    """Embeddings of the instructions' tokens [B, L, width], and which are no padding [B, L]; `interface` is starVLA's
    of the vision-language model.
    """
    model = interface.model
    encoded = interface.processor.tokenizer(
        batch.instructions(examples), padding=True, add_special_tokens=False, return_tensors="pt"
    ).to(model.device)
    return model.get_input_embeddings()(encoded["input_ids"]), encoded["attention_mask"].bool()


def look(
    examples: Sequence[dict],
    suffix: str,
    words: tuple[Tensor, Tensor],
    encoder: nn.Module,
    fusion: FusionModule,
    timer: Timer,
    ground: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Task tokens [B, Ns, D] of the frame whose keys end with `suffix`, and with `ground` the grounding loss of the
    attention by which they were found.
    """
    views = collect(examples, suffix, encoder.needs)
    device = next(encoder.parameters()).device
    timer.mark(f"geometry_start{suffix}")
    views = [view.to(device) for view in views]
    geometry = encoder(views)
    found = fusion(*words, geometry.tokens, geometry.mask, return_attention=ground)
    timer.mark(f"geometry_end{suffix}")
    if not ground:
        return found.tokens, None
    share = named_share(views, geometry.grid, getattr(encoder, "patch", None), geometry.mask)
    return found.tokens, grounding_loss(found.attention, share)
