import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder of a submission, yet empty."""
    folder = tmp_path / "slurm" / "20260101-000000-aaaaaa"
    folder.mkdir(parents=True)
    return folder
