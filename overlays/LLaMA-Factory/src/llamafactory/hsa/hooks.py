"""Hooks on a model: types into the text backbone's forward pass, and into ``generate``."""

import functools
import inspect
import threading
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch

from .attention import TypedForward, compute_dtype, enter, leave
from .bias import HSARule
from .types import SemanticType


@dataclass
class BackboneHook:
    """Takes ``semantic_ids`` and ``semantic_segments`` out of a backbone's arguments for the time of a forward pass."""

    rule: HSARule
    backend: str
    _open: dict[int, list[Any]] = field(default_factory=dict)  # by thread: a server generates in several

    @property
    def _passes(self) -> list[Any]:
        return self._open.setdefault(threading.get_ident(), [])

    def before(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Announce the pass.

        Raises:
            ValueError: training without types, or types that do not fit the input.
        """
        kwargs = dict(kwargs)
        types, segments = kwargs.pop("semantic_ids", None), kwargs.pop("semantic_segments", None)
        forward = None
        if types is None:
            if module.training:
                raise ValueError(
                    "HSA is on, but a training step came without `semantic_ids`: the data was tokenized with "
                    "`use_hsa: false`, or this training stage does not pass them on."
                )
        else:
            forward = self._announce(module, args, kwargs, types, segments)

        self._passes.append((enter(forward), forward))
        return args, kwargs

    def after(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """End the pass, also when it failed."""
        if not self._passes:
            return

        token, forward = self._passes.pop()
        leave(token)
        if forward is not None and not forward.used and output is not None:
            raise RuntimeError(
                f"{type(module).__name__} did not build its attention mask through transformers' mask interface, "
                "so HSA had no effect: set `use_hsa: false` for this model."
            )

    def _announce(
        self,
        module: Any,
        args: tuple,
        kwargs: dict[str, Any],
        types: torch.Tensor,
        segments: torch.Tensor | None,
    ) -> TypedForward:
        tokens = kwargs.get("inputs_embeds")
        if tokens is None:
            tokens = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]

        batch, length = tokens.shape[:2]
        cache = kwargs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None else 0
        types = types.to(device=tokens.device, dtype=torch.long)
        given = types.shape[1]
        generated = start + length - given
        if types.shape[0] != batch or (generated != 0 and cache is None):
            raise ValueError(
                f"`semantic_ids` {tuple(types.shape)} do not fit an input of {batch} x {length} tokens "
                f"behind {start} cached ones: give the types of all tokens so far."
            )

        if generated > 0:
            types = torch.nn.functional.pad(types, (0, generated), value=int(SemanticType.GLOBAL_CONDITION))

        types = types[:, : start + length]
        segments = None if segments is None else segments.to(device=tokens.device, dtype=torch.long)
        flex = self.backend == "flex" or (self.backend == "auto" and tokens.device.type == "cuda")
        forward = TypedForward(self.rule, types, segments, start, length, flex)
        dtype = tokens.dtype if tokens.is_floating_point() else module.get_input_embeddings().weight.dtype
        self._replace_ready_mask(kwargs, forward, compute_dtype(dtype, tokens.device))
        return forward

    @staticmethod
    def _replace_ready_mask(kwargs: dict[str, Any], forward: TypedForward, dtype: torch.dtype) -> None:
        """Add the bias to a mask that is finished already (4D, or one for each kind of layer), which transformers
        passes on without asking the mask function; cut a 2D one that is longer than the input."""
        mask = kwargs.get("attention_mask")
        keys = forward.start + forward.length

        def combine(ready: torch.Tensor | None) -> torch.Tensor:
            if ready is None:  # causal without padding
                key = torch.arange(keys, device=forward.types.device)
                ready = (key <= key[forward.start :, None])[None, None]

            allowed = ready if ready.dtype == torch.bool else ready > torch.finfo(ready.dtype).min / 2
            return forward.additive(allowed, 0, dtype)

        if isinstance(mask, dict):
            kwargs["attention_mask"] = {kind: combine(ready) for kind, ready in mask.items()}
        elif isinstance(mask, torch.Tensor) and mask.dim() == 4:
            kwargs["attention_mask"] = combine(mask)
        elif isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] > keys:
            kwargs["attention_mask"] = mask[:, :keys]


def hook_backbone(backbone: torch.nn.Module, rule: HSARule, backend: str) -> list[Any]:
    """Register the hooks; returns their handles."""
    hook = BackboneHook(rule, backend)
    return [
        backbone.register_forward_pre_hook(hook.before, with_kwargs=True),
        backbone.register_forward_hook(hook.after, with_kwargs=True, always_call=True),
    ]


def allow_types_in_generate(model: Any) -> None:
    """Let ``model.generate(semantic_ids=...)`` pass, with types [B, P] of the prompt.

    ``generate`` itself carries the tensor along, repeated for beams, so a KV cache, left padding and beam search need
    nothing else. What is generated is GLOBAL_CONDITION.
    """
    original = type(model).prepare_inputs_for_generation

    @functools.wraps(original)
    def prepare_inputs_for_generation(
        self: Any, input_ids: torch.Tensor, *args: Any, semantic_ids: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = original(self, input_ids, *args, **kwargs)
        if semantic_ids is not None:
            cache = kwargs.get("past_key_values")
            begins = cache is not None and cache.get_seq_length() == 0  # without a cache no step tells it is the first
            given, wanted = semantic_ids.shape[1], input_ids.shape[1]
            if given > wanted or (begins and given != wanted):
                raise ValueError(
                    f"`semantic_ids` are for {given} tokens, the prompt has {wanted}: "
                    "give the type of every token of the prompt."
                )

            generated = max(input_ids.shape[1] - semantic_ids.shape[1], 0)
            inputs["semantic_ids"] = torch.nn.functional.pad(
                semantic_ids, (0, generated), value=int(SemanticType.GLOBAL_CONDITION)
            )

        return inputs

    # `generate` refuses arguments that this signature does not name
    signature = inspect.signature(original)
    parameters = list(signature.parameters.values())
    last = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
    parameters.insert(last, inspect.Parameter("semantic_ids", inspect.Parameter.KEYWORD_ONLY, default=None))
    prepare_inputs_for_generation.__signature__ = signature.replace(parameters=parameters)
    model.prepare_inputs_for_generation = MethodType(prepare_inputs_for_generation, model)
