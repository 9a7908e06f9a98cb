"""Prompts by turns: what a human asks, what the model answers."""

from __future__ import annotations

from abc import ABC, abstractmethod


class PromptBuilder(ABC):
    def __init__(self, model_family: str, system_prompt: str | None = None) -> None:
        self.model_family, self.system_prompt = model_family, system_prompt
        self.bos, self.eos = "<s>", "</s>"
        self.prompt, self.turn_count = "", 0

    @abstractmethod
    def wrap_human(self, msg: str) -> str: ...

    def wrap_gpt(self, msg: str) -> str:
        return f"{msg or ' '}{self.eos}"

    def add_turn(self, role: str, message: str) -> str:
        expected = "gpt" if self.turn_count % 2 else "human"
        assert role == expected, f"turn {self.turn_count} is the {expected}'s, not the {role}'s"
        message = message.replace("<image>", "").strip()
        added = self.wrap_gpt(message) if self.turn_count % 2 else self.wrap_human(message)
        self.prompt += added
        self.turn_count += 1
        return added

    def get_potential_prompt(self, message: str) -> str:
        return (self.prompt + self.wrap_human(message)).removeprefix(self.bos).rstrip()

    def get_prompt(self) -> str:
        return self.prompt.removeprefix(self.bos).rstrip()


class PurePromptBuilder(PromptBuilder):
    def wrap_human(self, msg: str) -> str:
        return f"In: {msg}\nOut: "
