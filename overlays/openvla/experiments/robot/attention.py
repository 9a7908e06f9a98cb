"""Which attention implementation a policy is loaded with."""

from typing import Any


def flash_attention_works() -> bool:
    """Whether transformers would accept ``flash_attention_2``: the package, a version that it knows, and CUDA."""
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def attention_implementation(model_class: Any) -> str:
    """``flash_attention_2`` where it works, as upstream asks for; else what the model class has instead, and says so.

    Args:
        model_class: the class that is loaded; transformers' ``_supports_sdpa`` on it says whether it has sdpa.
    """
    if flash_attention_works():
        return "flash_attention_2"
    other = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    print(f"[*] flash-attn cannot be used here (it needs the package and CUDA): attention is {other} instead")
    return other
