"""What a frozen teacher leaves behind, and what its students see of it: outputs by training-window index."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd.errors import InputError
from kd.files import load_array, sha256, write_atomically
from kd.training.recipe import Spec

MODEL, LOGITS, FEATURES = "model.safetensors", "logits.npy", "features.npy"
EVAL_BATCH = 1024  # windows a forward pass takes when no gradient is kept
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]  # logits and features of windows; a model is one


class TeacherOutputs:
    """A frozen teacher as its students see it: logits (N, K) and features (N, F) by training-window index.

    windows: N, of which the first `labelled` have labels (all by default). besides: the indices of the
    others that students see, the share `sure` of them with the lowest entropy.
    """

    def __init__(
        self,
        spec: Spec,
        folder: Path | None,
        windows: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        labelled: int | None = None,
        sure: float = 1.0,
    ) -> None:
        if folder is None or not (folder / LOGITS).exists():
            raise InputError(
                f"point {spec.id} ({spec.strategy}) needs the outputs of teacher {spec.teacher}, "
                f"but {folder} has none: train the teacher first"
            )
        self.model = folder / MODEL
        self.sha256 = sha256(self.model)
        remedy = f"delete {folder} and train it again"
        self.logits = as_tensor(load_array(folder / LOGITS, remedy)).to(device, dtype)
        self.features = as_tensor(load_array(folder / FEATURES, remedy)).to(device, dtype)
        if len(self.logits) != windows or len(self.features) != windows:
            raise InputError(
                f"teacher {spec.teacher} has outputs for {len(self.logits)} windows, the data has {windows}: "
                f"delete {folder} and train it again"
            )

        self.besides = torch.arange(windows if labelled is None else labelled, windows, dtype=torch.int32)
        if sure < 1 and len(self.besides):
            surest = entropy(self.logits[-len(self.besides) :]).cpu().argsort(stable=True)
            self.besides = self.besides[surest[: max(round(sure * len(surest)), 1)].sort().values]

    def check_unchanged(self) -> None:
        """A teacher is frozen: assert that nobody trained it while a student learned from it."""
        if sha256(self.model) != self.sha256:
            raise AssertionError(f"{self.model} changed while a student learned from it")


def entropy(logits: Tensor) -> Tensor:
    """Of the distributions that logits (N, K) are of, (N,) in nats; some at a time, as they are many."""
    parts = (part.float().log_softmax(1) for part in logits.split(EVAL_BATCH))
    return torch.cat([-(log_p.exp() * log_p).sum(1) for log_p in parts])


def write_teacher_outputs(forward: Forward, x: Tensor, folder: Path) -> None:
    """Run a trained teacher over the training windows x (N, C, S) once and keep its outputs in `folder`.

    Each batch is written when it is there: (N, 180) numbers are never held. logits.npy appears last.
    """

    def write(*paths: Path) -> None:
        with ExitStack() as opened:
            files = [opened.enter_context(path.open("wb")) for path in paths]
            for parts in batches(forward, x):
                for file, part in zip(files, parts, strict=True):
                    array = part.cpu().numpy()
                    if file.tell() == 0:
                        header = np.lib.format.header_data_from_array_1_0(array)
                        header["shape"] = (len(x), *array.shape[1:])
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(array.tobytes())

    def write_both(logits: Path) -> None:
        write_atomically(folder / FEATURES, lambda features: write(logits, features))

    write_atomically(folder / LOGITS, write_both)


def batches(forward: Forward, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (n, K) and features (n, F) of windows x (N, C, S), some at a time, without gradients.

    A model is put into evaluation mode.
    """
    if isinstance(forward, nn.Module):
        forward.eval()
    if not len(x):
        raise InputError("no window to evaluate: a split is empty; add subjects to it")
    for i in range(0, len(x), EVAL_BATCH):
        with torch.inference_mode():
            parts = forward(x[i : i + EVAL_BATCH])
        yield parts


def outputs(forward: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
    """What `batches` gives, at once: logits (N, K) and features (N, F)."""
    logits, features = zip(*batches(forward, x), strict=True)
    return torch.cat(logits), torch.cat(features)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the same memory, also when it is a read-only memory map (nothing here writes to it)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
