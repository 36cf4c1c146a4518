"""How many members a stack gets."""

import dataclasses

import numpy as np
import torch

from kd.training import probe
from kd.training.objective import Labels
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape


def test_the_probe_chooses_what_it_measured(small_data, monkeypatch):
    """Twice as fast with each doubling up to 8 members, matrix products ahead from 4: so it stops at 8."""
    measured = []

    def rate_of(spec, shape, x, bpm, labels, members, *, convolution):
        measured.append((members, convolution))
        return min(members, 8) * (1.5 if convolution == "matmul" and members >= 4 else 1.0), 0

    monkeypatch.setattr(probe, "rate_of", rate_of)
    recipe = Recipe(batch_size=48)
    spec = Spec(id="p", role="student", arch="resnet1d", depth=2, width=4, recipe=recipe)
    assert probe.choose(spec, small_data, "cpu", 1000) == probe.Choice(8, "matmul", 12.0)
    assert measured[0] == (1, "grouped")
    assert max(measured)[0] == 16
    measured.clear()
    assert probe.choose(spec, small_data, "cpu", 6) == probe.Choice(6, "matmul", 9.0, bounded=True)
    assert max(measured)[0] == 6  # no time is lost on stacks there are no points for
    monkeypatch.setattr(probe, "MOST", 6)
    assert probe.choose(spec, small_data, "cpu", 1000) == probe.Choice(6, "matmul", 9.0)
    monkeypatch.undo()
    shape = Shape("mlp", 1, 5, 1, small_data.train.x.shape[2], 180)
    x, bpm = torch.from_numpy(np.array(small_data.train.x)), torch.from_numpy(np.array(small_data.train.bpm))
    labels = Labels(torch.arange(30.0, 210.0), 1.5)
    chosen = dataclasses.replace(spec, arch="mlp", depth=1, width=5)
    rate, _ = probe.rate_of(chosen, shape, x, bpm, labels, 2)
    assert rate > 0
