"""Importable stand-in for torchaudio on a machine where the real package is missing or does not load."""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"torchaudio.{name}: this environment has a stand-in for torchaudio, because the real package did not import; "
        "audio needs a torchaudio build that matches the installed torch"
    )
