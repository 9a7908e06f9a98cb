"""The toy world behind LIBERO's names."""

from pathlib import Path


def get_libero_path(query_key: str) -> str:
    return str(Path(__file__).parent / query_key)
