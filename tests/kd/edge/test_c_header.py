"""The C header compiles without a warning and computes what Python does: filter, windows, decoding."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from kd.edge.c_header import c_header
from kd.edge.export import preprocess_json
from kd.shipped import example, grid
from kd.signals.prepare import DataConfig
from kd.signals.preprocess import Preprocess


def config_of(preprocess: Preprocess | None = None, channels: int = 1) -> dict:
    return preprocess_json(DataConfig(preprocess=preprocess or Preprocess()), channels)


PROGRAM = """
#include <stdio.h>
#include "kdsweep_model.h"
int main(void) {
    float x[KDS_SAMPLES], logits[KDS_CLASSES];
    kds_filter f;
    for (int i = 0; i < KDS_SAMPLES; i++) if (scanf("%f", &x[i]) != 1) return 1;
    kds_filter_start(&f, x[0]);
    for (int i = 0; i < KDS_SAMPLES; i++) x[i] = kds_filter_step(&f, x[i]);
    for (int i = 0; i < KDS_SAMPLES; i++) printf("%.7g\\n", (double)x[i]);
    kds_normalise(x, KDS_SAMPLES);
    for (int i = 0; i < KDS_SAMPLES; i++) printf("%.7g\\n", (double)x[i]);
    for (int k = 0; k < KDS_CLASSES; k++) {
        float off = (float)k - 50.25f;
        logits[k] = -0.5f * off * off;
    }
    printf("%.7g %d %g %d\\n", (double)kds_bpm(logits), KDS_STRIDE, (double)KDS_FS, KDS_NORMALISE);
    return 0;
}
"""


def said_by(program: str, config: dict, folder: Path, given: str = "") -> list[str]:
    """What a C99 program says that includes the header of this config."""
    (folder / "kdsweep_model.h").write_text(c_header(config, "p"))
    (folder / "main.c").write_text(program)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wdouble-promotion", "-Wconversion", "-Werror", "-O1"]
    subprocess.run(["gcc", *flags, "main.c", "-lm", "-o", "main"], cwd=folder, check=True)
    done = subprocess.run([folder / "main"], input=given, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_c_header_compiles_and_computes_the_same(tmp_path):
    config = config_of()
    raw = 200 + np.random.default_rng(0).standard_normal(200).cumsum().astype(np.float32)
    said = said_by(PROGRAM, config, tmp_path, "\n".join(map(str, raw)))
    numbers = np.array(said, float)
    zi = np.array(config["filter"]["zi"]) * float(raw[0])
    wanted, _ = example.filtered(raw, config["filter"]["sos"], zi)
    np.testing.assert_allclose(numbers[:200], wanted, atol=2e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(
        numbers[200:400], example.normalised(numbers[None, :200], config)[0], atol=1e-4
    )
    assert numbers[400] == pytest.approx(80.25, abs=1e-3)
    assert list(numbers[401:]) == [50, 25, 1]


STARTS = """
#include <stdio.h>
#include "kdsweep_model.h"
int main(void) {
#ifdef KDS_STRIDE
    printf("%d\\n", KDS_STRIDE);
#else
    printf("none\\n");
#endif
    for (long k = 0; k < 20000; k++) printf("%ld\\n", kds_window_start(k));
    return 0;
}
"""


@pytest.mark.parametrize(
    ("fs", "stride", "whole"),
    [
        (25.0, 2.0, "50"),
        (25.0, 0.5, "none"),
        (25.0, 0.1, "none"),
        (25.0, 0.28, "7"),
        (49.97, 2.0, "none"),
        (64.0, 0.7, "none"),
        (100.3, 0.3, "none"),
    ],
)
def test_windows_start_where_python_starts_them(fs, stride, whole, tmp_path):
    said = said_by(STARTS, config_of(Preprocess(fs=fs, stride_s=stride)), tmp_path)
    assert said[0] == whole
    k = np.arange(20000)
    np.testing.assert_array_equal(np.array(said[1:], int), grid.first_sample(grid.start_s(k, stride), fs, fs))
