"""LIBERO's file of paths at first import: written where nobody can answer questions, and checked for stale paths.

``LIBERO_CONFIG_PATH`` names the folder of the file, as upstream has it; without it the folder is ``~/.libero``.
"""

import os
import select
import sys
import tempfile

import yaml

OURS = ("benchmark_root", "bddl_files", "init_states", "assets")  # "datasets" may be missing until they are downloaded
WAIT_S = 0.2  # for answers that a pipe brings


def prepare_config(config_file, defaults):
    """Sees to it that the file exists where nobody can be asked, and names paths in it that have gone stale.

    Args:
        config_file (str): the YAML file of paths.
        defaults (dict[str, str]): what upstream would write without an answer.
    """
    if os.path.exists(config_file):
        for line in complaints(config_file, defaults):
            print(f"[Warning] {line}", file=sys.stderr)
    elif not can_answer():
        _write(config_file, defaults)
        print(f"LIBERO: nobody to ask for paths here, so the default ones were written to {config_file}")


def can_answer(stdin=None):
    """Whether a question would be answered: by a terminal, or by lines that wait in a pipe or a file."""
    stdin = sys.stdin if stdin is None else stdin
    try:
        if stdin is None or stdin.closed:
            return False
        if stdin.isatty():
            return True
        waiting, _, _ = select.select([stdin.fileno()], [], [], WAIT_S)
        return bool(waiting) and bool(stdin.buffer.peek(1))
    except (AttributeError, OSError, ValueError):  # a replaced stdin without a file, or one that cannot be waited for
        return False


def complaints(config_file, defaults):
    """What is wrong with the paths of an existing file, in sentences; none where all is well."""
    try:
        with open(config_file) as file:
            config = yaml.safe_load(file)
    except yaml.YAMLError as error:
        return [f"{config_file} is not YAML ({error}). Delete it to have the default paths written again."]
    if not isinstance(config, dict):
        return [f"{config_file} holds no paths. Delete it to have the default ones written again."]
    stale = [f"{key}: {config[key]}" for key in OURS if key in config and not os.path.exists(config[key])]
    here = defaults["benchmark_root"]
    if stale:
        return [
            f"{config_file} names paths that do not exist ({'; '.join(stale)}), while this LIBERO is at {here}. "
            "If it has moved, delete the file, or set LIBERO_CONFIG_PATH to another folder."
        ]
    root = config.get("benchmark_root")
    if root is not None and os.path.realpath(root) != os.path.realpath(here):
        return [f"{config_file} names the files of another LIBERO, at {root}, while this one is at {here}."]
    return []


def _write(config_file, paths):
    """Writes the file whole or not at all: several processes may import LIBERO for the first time at once."""
    folder = os.path.dirname(config_file)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".yaml")
    with os.fdopen(handle, "w") as file:
        yaml.dump(paths, file)
    os.replace(temporary, config_file)
