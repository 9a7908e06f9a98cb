from .base_prompter import PromptBuilder, PurePromptBuilder
from .vicuna_v15_prompter import VicunaV15ChatPromptBuilder

__all__ = ["PromptBuilder", "PurePromptBuilder", "VicunaV15ChatPromptBuilder"]
