"""``semantic_ids`` through LLaMA-Factory's data collators."""

from typing import TYPE_CHECKING, Any

import torch

from ..extras import logging
from .types import PAD_TYPE

if TYPE_CHECKING:
    from ..data.collator import MultiModalDataCollatorForSeq2Seq


logger = logging.get_logger(__name__)


def take_semantic_ids(
    collator: "MultiModalDataCollatorForSeq2Seq", features: list[dict[str, Any]]
) -> list[list[int]] | None:
    """Remove ``semantic_ids`` from the features, which the tokenizer cannot pad, and return them.

    Returns None where the data has none, or where the collator's model runs without HSA.

    Raises:
        ValueError: the model runs HSA and a feature has no ``semantic_ids`` (data tokenized without the switch).
    """
    rows = [feature.pop("semantic_ids", None) for feature in features]
    missing = sum(row is None for row in rows)
    model = getattr(collator, "model", None)
    enabled = getattr(model, "hsa_rule", None) is not None
    if (enabled and missing) or 0 < missing < len(rows):
        raise ValueError(
            f"HSA is on, but {missing} of {len(rows)} samples in a batch have no `semantic_ids`: the data was "
            "tokenized with `use_hsa: false`. Remove `tokenized_path` (or that folder) and tokenize it again."
        )

    if missing:
        return None

    if model is not None and not enabled:
        logger.warning_rank0_once("The data has `semantic_ids`, but `use_hsa` is off: they are not used.")
        return None

    return rows


def put_semantic_ids(
    collator: "MultiModalDataCollatorForSeq2Seq", batch: dict[str, Any], rows: list[list[int]] | None
) -> None:
    """Add ``semantic_ids`` [B, S] (int64), padded with type 2 on the tokenizer's padding side.

    Tokens that the collator itself added to a sample lie on that side too, and count as padding. With neat packing the
    numbers of the packed sequences move from ``attention_mask`` to ``semantic_segments`` [B, S] (0 is padding), and
    the collator leaves out its own 4D mask: HSA builds mask and bias in one.
    """
    if rows is None:
        return

    length = batch["input_ids"].shape[1]
    padded = []
    for row in rows:
        padding = [PAD_TYPE] * (length - len(row))
        padded.append(row + padding if collator.tokenizer.padding_side == "right" else padding + row)

    batch["semantic_ids"] = torch.tensor(padded, dtype=torch.long)
    if getattr(collator, "neat_packing", False):
        batch["semantic_segments"] = batch["attention_mask"].long()
        batch["attention_mask"] = (batch["attention_mask"] > 0).long()
        collator.block_diag_attn = False
