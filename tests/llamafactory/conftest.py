"""Shared by the tests that run inside the grafted LLaMA-Factory; ``tiny.py`` makes what they run on."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "upstream_heavy: native runs of the upstream's own commands, minutes long")


@pytest.fixture(scope="session")
def patched_llamafactory() -> Path:
    """The ``src`` folder of the grafted checkout."""
    import tiny

    tiny.require()
    return tiny.SRC


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Qwen3 with its tokenizer."""
    import tiny

    return tiny.save_text_model(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    return tiny.write_data(tmp_path_factory.mktemp("data"))
