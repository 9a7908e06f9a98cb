"""Labels up to and including a sample's first feedback token become IGNORE_INDEX.

What counts is the sample as it was written, before truncation: every id up to the token is marked where the template
has encoded it, and the mark travels in the id through truncation and reversal. So a label is masked for preceding the
token even where the token itself has been cut off.
"""

from typing import TYPE_CHECKING, Any

from ..extras import logging
from ..extras.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizer

    from ..data.processor.processor_utils import DatasetProcessor

Pairs = list[tuple[list[int], list[int]]]

logger = logging.get_logger(__name__)


class EarlyToken(int):
    """A token id up to and including the first feedback token of its sample."""

    before_feedback: bool


def feedback_token_id(tokenizer: "PreTrainedTokenizer", token: str) -> int:
    """Id of the feedback token.

    Raises:
        ValueError: the tokenizer does not know it as one token.
    """
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or tokenizer.encode(token, add_special_tokens=False) != [token_id]:
        raise ValueError(
            f"The tokenizer does not encode the feedback token {token!r} as one token. Set `use_feedback: true` in the "
            f"training arguments, which adds it, or `add_special_tokens: {token}`."
        )

    return token_id


def _mark(token: int) -> int:
    marked = EarlyToken(token) if type(token) is int else token
    marked.before_feedback = True
    return marked


def _unmark(token: int) -> int:
    return int(token) if type(token) is EarlyToken and len(vars(token)) == 1 else token


def mark_before_feedback(processor: "DatasetProcessor", encoded_pairs: Pairs) -> Pairs:
    """Mark the ids up to and including the first feedback token. Off, or no token: unchanged."""
    if not processor.data_args.use_feedback:
        return encoded_pairs

    token_id = feedback_token_id(processor.tokenizer, processor.data_args.feedback_token)
    flat = [token for pair in encoded_pairs for ids in pair for token in ids]
    if token_id not in flat:
        return encoded_pairs

    left = flat.index(token_id) + 1
    marked = []
    for pair in encoded_pairs:
        sides = []
        for ids in pair:
            early = min(left, len(ids))
            sides.append([_mark(token) for token in ids[:early]] + ids[early:])
            left -= early

        marked.append((sides[0], sides[1]))

    return marked


def mask_before_feedback(processor: "DatasetProcessor", input_ids: list[int], labels: list[int]) -> None:
    """Mask, in place, the labels of one sample and take the marks off its ids. Off: nothing happens.

    Where all that truncation left precedes the token, an end-of-sequence label that LLaMA-Factory appends is masked
    too: it would train the model to stop where the sample did not. Where the first token was dropped with the history
    (``mask_history``) and a later one is left, labels up to the later one are masked.
    """
    if not processor.data_args.use_feedback:
        return

    token_id = feedback_token_id(processor.tokenizer, processor.data_args.feedback_token)
    early = [i for i, token in enumerate(input_ids) if getattr(token, "before_feedback", False)]
    end = early[-1] + 1 if early else 0
    if token_id in input_ids:
        end = max(end, input_ids.index(token_id) + 1)
    elif early and processor.template.efficient_eos and end == len(input_ids) - 1:
        end = len(input_ids)

    input_ids[:] = [_unmark(token) for token in input_ids]
    labels[:] = [IGNORE_INDEX] * end + [_unmark(token) for token in labels[end:]]


def drop_unlabelled(processor: "DatasetProcessor", model_inputs: dict[str, list[Any]]) -> None:
    """Remove, in place, rows without any label. Off: nothing happens.

    The mean loss over no label is NaN and would spoil every weight: a row counts only with a label left.
    """
    if not processor.data_args.use_feedback or not model_inputs:
        return

    keep = [any(label != IGNORE_INDEX for label in labels) for labels in model_inputs["labels"]]
    if not all(keep):
        dropped = len(keep) - sum(keep)
        logger.warning_rank0(f"Dropped {dropped} of {len(keep)} rows: no label is left in them.")
        for name, column in model_inputs.items():
            model_inputs[name] = [value for value, kept in zip(column, keep, strict=True) if kept]
