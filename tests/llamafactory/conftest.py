"""Shared by the tests that run inside the grafted LLaMA-Factory; ``tiny.py`` makes what they run on."""

import subprocess
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


@pytest.fixture(scope="session")
def unpatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pin without the graft: what the checkout's HEAD holds."""
    import tiny

    folder, checkout = tmp_path_factory.mktemp("unpatched"), tiny.SRC.parent
    archive = subprocess.run(["git", "-C", str(checkout), "archive", "HEAD"], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"{checkout} is no git checkout: {archive.stderr.decode()[:200]}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    assert not (folder / "src" / "llamafactory" / "hsa").exists()
    assert not (folder / "src" / "llamafactory" / "infodyn").exists()
    return folder
