"""How many members a stack gets."""

import dataclasses

import numpy as np
import pytest
import torch

from kd.errors import out_of_gpu_memory
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


SPEC = Spec(id="p", role="student", arch="mlp", depth=1, width=5, recipe=Recipe(batch_size=48))
GIB = 2**30


class Device:
    """The memory of a GPU: what a stack took stays cached until it is released."""

    total, held, cached = 16 * GIB, 0, 0

    def __init__(self, monkeypatch, taken):
        self.sizes: list[int] = []
        self._taken = taken
        monkeypatch.setattr(probe, "rate_of", self.rate_of)
        monkeypatch.setattr(probe, "_free", lambda device: self.total - self.held - self.cached)
        monkeypatch.setattr(probe, "_release", self.release)

    def release(self, device):
        self.cached = 0

    def rate_of(self, spec, shape, x, bpm, labels, members, *, convolution):
        self.release(x.device)
        self.sizes.append(members)
        self.cached = self._taken(members)
        return float(members), self.cached


def test_a_stack_fits_beside_all_that_will_be_on_the_device(small_data, monkeypatch, tmp_path):
    """1 GiB a member: 8 of them fit into 80 % of 16 GiB; not beside teachers' outputs of 7 GiB."""
    device = Device(monkeypatch, lambda members: members * GIB)
    chosen = probe.choose(SPEC, small_data, "cpu", 1000)
    assert chosen == probe.Choice(8, rate=8.0, taken=8 * GIB)
    assert device.sizes == [1, 2, 4, 8]  # 16 are not tried: they would not fit
    assert device.cached == 0  # the next to come finds it released
    device.held = 5 * GIB  # somebody else's
    assert probe.choose(SPEC, small_data, "cpu", 1000).members == 8
    device.held = 7 * GIB
    assert probe.choose(SPEC, small_data, "cpu", 1000).members == 4
    device.held = 0
    (tmp_path / "logits.npy").touch()
    with (tmp_path / "features.npy").open("wb") as file:
        file.truncate(7 * GIB)  # takes no room on the disk
    assert probe.choose(SPEC, small_data, "cpu", 1000, teachers=[tmp_path]).members == 4
    assert probe.beside(small_data, [tmp_path]) == 7 * GIB + small_data.val.x.nbytes


def test_a_stack_that_took_more_than_foreseen_is_not_chosen(small_data, monkeypatch):
    device = Device(monkeypatch, lambda members: {4: 13}.get(members, members) * GIB)
    assert probe.choose(SPEC, small_data, "cpu", 1000).members == 2
    assert device.sizes == [1, 2, 4]


def in_a_capture(error):
    """What leaves a capture that was broken off."""
    try:
        try:
            raise error
        finally:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error in capture")
    except RuntimeError as broken:
        return broken


SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    in_a_capture(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
]
BROKEN = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    in_a_capture(RuntimeError("CUDA error: operation not permitted when stream is capturing")),
    ValueError("some error"),
    AssertionError(),
]


@pytest.mark.parametrize("error", SHORT, ids=lambda e: str(e)[:40])
def test_want_of_memory_ends_the_search_whatever_its_class(small_data, monkeypatch, error):
    assert out_of_gpu_memory(error)
    said: list[str] = []

    def rate_of(spec, shape, x, bpm, labels, members, *, convolution):
        if members > 2:
            raise error
        return float(members), 0

    monkeypatch.setattr(probe, "rate_of", rate_of)
    assert probe.choose(SPEC, small_data, "cpu", 1000, say=said.append).members == 2
    assert not said


@pytest.mark.parametrize("error", BROKEN, ids=lambda e: str(e)[:40])
@pytest.mark.parametrize("at", [1, 4])
def test_a_probe_that_fails_means_one_at_a_time_and_says_why(small_data, monkeypatch, error, at):
    assert not out_of_gpu_memory(error)
    said: list[str] = []

    def rate_of(spec, shape, x, bpm, labels, members, *, convolution):
        if members >= at:
            raise error
        return float(members), 0

    monkeypatch.setattr(probe, "rate_of", rate_of)
    assert probe.choose(SPEC, small_data, "cpu", 1000, say=said.append) == probe.Choice()
    (line,) = said
    assert type(error).__name__ in line
    assert str(error).split("\n")[0] in line


def test_what_a_stack_takes_includes_validation_and_test(small_data, monkeypatch):
    """Both run before the memory is read."""
    ran: list[str] = []
    stack_predict, outputs = probe.Stack.predict, probe.outputs
    monkeypatch.setattr(
        probe.Stack, "predict", lambda self, x: ran.append("validation") or stack_predict(self, x)
    )
    monkeypatch.setattr(probe, "outputs", lambda model, x: ran.append("test") or outputs(model, x))
    frees = iter([10, 7])
    monkeypatch.setattr(probe, "_free", lambda device: ran.append("free") or next(frees))
    shape = Shape("mlp", 1, 5, 1, small_data.train.x.shape[2], 180)
    x, bpm = torch.from_numpy(np.array(small_data.train.x)), torch.from_numpy(np.array(small_data.train.bpm))
    labels = Labels(torch.arange(30.0, 210.0), 1.5)
    assert probe.rate_of(SPEC, shape, x, bpm, labels, 2)[1] == 3
    assert ran == ["free", "validation", "test", "free"]
