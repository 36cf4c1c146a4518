"""Finds a sweep's directory by name. Knows names and files, opens nothing."""

from pathlib import Path

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
