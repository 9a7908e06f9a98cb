from .base_llm import LLMBackbone

__all__ = ["LLMBackbone"]
