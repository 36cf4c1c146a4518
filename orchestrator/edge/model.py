"""A trained point as a network to call, and what turns recordings into its input.

Knows the store and a sweep's space; torch is imported where it is used.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.errors import InputError
from kd.recordings import Recording
from kd.signals.motion import scaled
from kd.signals.prepare import DataConfig, windows_of
from kd.signals.windows import WindowSet, make_windows
from orchestrator.edge.evaluate import trained
from orchestrator.edge.seen import preprocess_for
from orchestrator.store.check import check_model

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Preprocessing:
    """How a sweep turns recordings into windows, and a model's logits into heart rates.

    config: the sweep's own data settings, with the sensors that the model sees. channels: of a window.
    acc_scale: what the accelerometer is divided by.
    """

    config: DataConfig
    channels: int
    acc_scale: float = 1.0

    def __call__(
        self,
        recordings: Recording | Sequence[Recording] | str | Path,
        format: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> WindowSet:
        """Labelled windows of recordings, or of the files at a path.

        format, options: of the files, as in a space's data. Resampled, filtered, cut and normalised as the
        sweep's own; x is float32 (N, channels, samples). Raises InputError when there is no usable window, or
        windows have other channels than the model.
        """
        data = self.config
        if isinstance(recordings, str | Path):
            windows, dropped = windows_of(
                recordings,
                format,
                data.preprocess,
                options=options,
                min_bpm=data.min_bpm,
                classes=data.classes,
                acc_scale=self.acc_scale,
            )
        else:
            given = [recordings] if isinstance(recordings, Recording) else recordings
            last = float(data.min_bpm + data.classes - 1)
            windows, dropped = make_windows(given, data.preprocess, bpm_range=(float(data.min_bpm), last))
            if axes := data.preprocess.axes:
                windows = dataclasses.replace(windows, x=scaled(windows.x, axes, self.acc_scale))
        if len(windows) == 0:
            why = ", ".join(f"{n} {reason}" for reason, n in dropped.by_reason.items()) or "no labels"
            raise InputError(f"no usable window ({why})")
        if windows.x.shape[1] != self.channels:
            raise InputError(
                f"the recordings give windows of {windows.x.shape[1]} channel(s), the model was trained on "
                f"{self.channels}: give recordings with as many as the sweep's"
            )
        return windows

    def decode(self, logits: "Tensor") -> Any:
        """Heart rates (N,) in BPM, numpy, from logits (N, classes): the expectation over the classes."""
        from kd.training import metrics

        centres = metrics.class_centres(self.config.min_bpm, self.config.classes)
        return metrics.decode_expectation(logits.detach().cpu(), centres).numpy()


def load_point(folder: Path, point: str) -> "tuple[nn.Module, Preprocessing]":
    """The network of a trained point, in evaluation mode, and its preprocessing.

    point: an id, the beginning of one, or "best", the student of least error. Raises InputError when there is
    no such point, or its model file is missing.
    """
    from kd.models.sizes import size
    from kd.training.teacher import MODEL
    from kd.training.train import load_model
    from orchestrator.space.schema import load_space

    store, result = trained(folder, point)
    check_model(store, result)
    data = load_space(folder / "space.yaml").data_config()
    data = dataclasses.replace(data, preprocess=preprocess_for(data.preprocess, result))
    name = (result["arch"], result["depth"], result["width"])
    shape = {"samples": data.preprocess.samples, "classes": data.classes}
    channels = next(
        (n for n in range(1, 65) if size(*name, channels=n, **shape).params == result["params"]), None
    )
    source = store.folder(result["id"])
    if channels is None or not (source / MODEL).is_file():
        raise InputError(
            f"{source / MODEL}: missing, or trained on windows of another shape than space.yaml says: "
            f"remove {source} and run the sweep again"
        )
    model = load_model(source, arch=name[0], depth=name[1], width=name[2], channels=channels, **shape)
    return model, Preprocessing(data, channels, result.get("acc_scale", 1.0))
