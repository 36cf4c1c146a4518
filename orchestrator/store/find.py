"""Finds a sweep's directory by name. Knows names and files, opens nothing."""

from collections.abc import Iterable
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


def find_point(ids: Iterable[str], wanted: str, where: str) -> str:
    """The id that is `wanted`, or the only one that starts with it.

    where: what the ids are of, for the error. Raises InputError when none or several fit.
    """
    found = sorted(id for id in ids if id.startswith(wanted))
    if wanted in found or len(found) == 1:
        return wanted if wanted in found else found[0]
    if found:
        raise InputError(
            f"{where}: {len(found)} points start with {wanted!r}: {', '.join(found[:5])}: give more of the id"
        )
    raise InputError(f"{where}: no point {wanted!r}: `kdsweep status --all` lists the points")
