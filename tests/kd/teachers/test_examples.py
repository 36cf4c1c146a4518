"""The example ports in docs/: encoders of real sizes, random weights, from raw recordings to outputs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kd.signals.prepare import DataConfig, prepare
from kd.signals.splits import Split
from kd.teachers.bring import Bringing
from kd.teachers.facts import facts
from kd.teachers.source import Source, contents, port_says
from kd.teachers.windows import lead_s

PORTS = Path(__file__).parents[3] / "docs" / "teachers" / "ports.py"
CONFIG = DataConfig(options={"subjects": 6, "minutes": 0.5}, split=Split(scheme="kfold", folds=3))


@pytest.mark.parametrize(
    ("symbol", "params", "fs", "window_s", "embedding"),
    [
        ("Encoder6M", 5.8e6, 125, 10, 512),
        ("Encoder28M", 28.5e6, 50, 8, 512),
        ("Encoder4M", 4.0e6, 125, 8, 512),
        ("Encoder1M", 1.2e6, 25, 10, 256),
    ],
)
def test_encoders_of_real_sizes_run_end_to_end(
    tmp_path: Path, symbol: str, params: float, fs: float, window_s: float, embedding: int
) -> None:
    assert port_says(PORTS, symbol) == (fs, window_s)
    source = Source(
        symbol, "port", str(PORTS), symbol, fs=fs, window_s=window_s, band_hz=(0.5, 12.0), output="embedding"
    )
    source = dataclasses.replace(source, content=contents(source), epochs=1)
    config = dataclasses.replace(CONFIG, lead_s=lead_s(source, CONFIG.preprocess))
    known = facts(source, config, tmp_path)
    assert known.params == pytest.approx(params, rel=0.02)
    assert known.macs > 1e7
    data = prepare(config, tmp_path)
    run = Bringing("a", source, data, config, tmp_path, tmp_path / "point", "cpu")
    while run.step() != [None]:
        pass
    assert run.finish()["mae_bpm"] > 0
    assert np.load(tmp_path / "point" / "features.npy").shape == (len(data.train), embedding)
