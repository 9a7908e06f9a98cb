"""Whether accelerate takes gradient accumulation from its environment variable, or from a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runners.supervise.launchers import UnknownCommand

if TYPE_CHECKING:
    from runners.supervise.command import Command

STEPS = "gradient_accumulation_steps"
FILE = "deepspeed_config_file"
HOME = "~/.cache/huggingface"


def steps_are_free(command: Command) -> bool:
    """Whether $ACCELERATE_GRADIENT_ACCUMULATION_STEPS decides (accelerate's DeepSpeedPlugin and launch.py).

    It does not where the launcher's option, its configuration, or DeepSpeed's configuration says a number.
    """
    file = command.variable("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    begins = [at for name, at in command.target.launchers if name.startswith("accelerate")]
    if begins:
        options = _options(command.words[begins[-1] : command.begin])
        home = command.variable("HF_HOME") or HOME
        default = Path(home).expanduser() / "accelerate" / "default_config.yaml"
        config = options.get("config_file") or (str(default) if default.is_file() else None)
        said = _read(command.folder / config).get("deepspeed_config", {}) if config else {}
        if STEPS in options or STEPS in said:
            return False
        file = options.get(FILE) or said.get(FILE) or file
    if not file or file == "none":
        return True
    # Without the key, accelerate takes 1.
    return bool(_read(command.folder / os.path.expanduser(file)).get(STEPS, 1) == "auto")


def _options(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value if sign else words[at + 1] if at + 1 < len(words) else ""
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnknownCommand(f"the launcher's configuration {path} cannot be read: {error}") from None
    return read if isinstance(read, dict) else {}
