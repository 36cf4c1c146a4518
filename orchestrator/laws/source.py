"""Where results come from: a sweep directory. Knows the store, nothing of fitting."""

from pathlib import Path
from typing import Any

from kd.errors import InputError


def sweep_folder(sweep: str) -> Path:
    """The directory of a sweep given by path or by name under `sweeps/`; InputError when there is none."""
    for folder in (Path(sweep), Path("sweeps") / sweep):
        if (folder / "space.yaml").is_file() or (folder / "points").is_dir():
            return folder
    raise InputError(
        f"no sweep at {sweep} or sweeps/{sweep}: give the directory that `kdsweep run` printed, "
        f"or run the search space first"
    )


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results of a sweep directory, in the order of their ids."""
    from orchestrator.store import Store

    return sorted(Store(folder).results(), key=lambda r: r["id"])


def model_shape(folder: Path) -> dict[str, int]:
    """Channels, samples and classes of the sweep's models, as `kd.sizes.size` takes them."""
    from orchestrator.space import load_space

    data = load_space(folder / "space.yaml", []).data_config()
    samples = round(data.preprocess.fs * data.preprocess.window_s)
    return {"samples": samples, "classes": data.classes}
