"""What a frozen teacher leaves behind, and what its students see of it: outputs by training-window index."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd.errors import InputError
from kd.files import load_array, save_array, sha256
from kd.training.recipe import Spec

MODEL, LOGITS, FEATURES = "model.safetensors", "logits.npy", "features.npy"
EVAL_BATCH = 1024  # windows a forward pass takes when no gradient is kept


class TeacherOutputs:
    """A frozen teacher as its students see it: logits (N, K) and features (N, F) by training-window index."""

    def __init__(
        self,
        spec: Spec,
        folder: Path | None,
        windows: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
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

    def check_unchanged(self) -> None:
        """A teacher is frozen: assert that nobody trained it while a student learned from it."""
        if sha256(self.model) != self.sha256:
            raise AssertionError(f"{self.model} changed while a student learned from it")


def write_teacher_outputs(model: nn.Module, x: Tensor, folder: Path) -> None:
    """Run a trained teacher over the training windows x (N, C, S) once and keep its outputs in `folder`."""
    logits, features = outputs(model, x)
    save_array(folder / LOGITS, logits.cpu().numpy())
    save_array(folder / FEATURES, features.cpu().numpy())


def outputs(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and features (N, F) of windows x (N, C, S), in evaluation mode, without gradients."""
    model.eval()
    with torch.inference_mode():
        parts = [model(x[i : i + EVAL_BATCH]) for i in range(0, len(x), EVAL_BATCH)]
    if not parts:
        raise InputError("no window to evaluate: a split is empty; add subjects to it")
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the same memory, also when it is a read-only memory map (nothing here writes to it)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
