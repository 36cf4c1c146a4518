"""The one picture of `kdsweep fit`: drawn for any sweep, and no run is outside it."""

from pathlib import Path

import pytest

from orchestrator.laws.document import make_document
from orchestrator.laws.picture import draw
from orchestrator.laws.simulate import FakeSweep


@pytest.mark.parametrize(
    "sweep",
    [
        FakeSweep(seeds=1, widths=(4, 8, 16), teachers=("T1", "T2"), strategies=("scratch", "soft")),
        FakeSweep(seeds=1, widths=(4, 8, 16), archs=("mlp",), strategies=("scratch",)),
        FakeSweep(seeds=1, widths=(4, 8), archs=("resnet1d",), strategies=("dkd",)),  # refused: two sizes
    ],
    ids=["two teachers", "none", "refused"],
)
def test_a_picture_is_drawn(sweep: FakeSweep, tmp_path: Path) -> None:
    document = make_document("fake", sweep.results(), {})
    draw(document, tmp_path / "laws.png")
    content = (tmp_path / "laws.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000
