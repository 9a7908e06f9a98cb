"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_common(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """A verb with ``--json``, which all of them take."""
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return verb


def mirror_and_offline(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--mirror", type=Path, metavar="DIR", help="a folder of clones to fetch from first")
    verb.add_argument("--offline", action="store_true", help="use what is on this machine only")
