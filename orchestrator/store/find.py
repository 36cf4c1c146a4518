"""Where things of a sweep are: its directory and its points by name. Knows names and files, opens nothing."""

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


def find_point(ids: Iterable[str], prefix: str, where: str) -> str:
    """The one id that is `prefix`, or begins with it; InputError when none or several do.

    where: what the ids are of, for the message, like the sweep's directory.
    """
    known = sorted(ids)
    found = [id for id in known if id == prefix] or [id for id in known if id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise InputError(f"{where}: several points begin with {prefix!r}: {some}: give more of the id")
    raise InputError(f"{where}: no point begins with {prefix!r}: `kdsweep results {where}` lists them")
