"""The prompt of the first openvla: a system sentence, USER and ASSISTANT."""

from __future__ import annotations

from prismatic.models.backbones.llm.prompting.base_prompter import PromptBuilder

SENTENCE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SYS_PROMPTS = {"prismatic": SENTENCE, "openvla": SENTENCE}


class VicunaV15ChatPromptBuilder(PromptBuilder):
    def __init__(self, model_family: str, system_prompt: str | None = None) -> None:
        super().__init__(model_family, system_prompt)
        self.system_prompt = (system_prompt or SYS_PROMPTS[model_family]).strip() + " "

    def wrap_human(self, msg: str) -> str:
        asked = f"USER: {msg} ASSISTANT: "
        return asked if self.turn_count else self.system_prompt + asked
