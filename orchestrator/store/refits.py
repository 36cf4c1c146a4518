"""Students trained on everybody: `<sweep>/refit/<id>/`, as points but without a test error. Knows files."""

from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import read_json
from orchestrator.store import records
from orchestrator.store.store import RESULT, Store

REFITTED = "r"  # their ids begin with it, which no point's does
FOLDER = "refit"
ESTIMATE = {"mae_bpm": records.NOT_NEGATIVE, "error_bpm": records.NOT_NEGATIVE, "how": str}
KEYS = {name: spec for name, spec in records.RESULT.items() if name != "mae_bpm"} | {
    "of_point": str,
    "of_points": [str],
    "trained_on": [str],
    "estimate": ESTIMATE,
}


class Refits(Store):
    """The refitted students of a sweep and their teachers."""

    def folder(self, id: str) -> Path:
        """Where its files are."""
        return self.path / FOLDER / id

    def ids(self) -> list[str]:
        """Ids of all that were begun."""
        folder = self.path / FOLDER
        return [p.name for p in folder.iterdir() if p.name.startswith(REFITTED)] if folder.is_dir() else []

    def done(self) -> set[str]:
        """Ids of all that are trained."""
        return {id for id in self.ids() if self.is_done(id)}

    def result(self, id: str) -> dict[str, Any]:
        """What result.json says. Raises InputError if it is damaged."""
        path, remedy = self.folder(id) / RESULT, "delete its folder and run kdsweep refit again"
        found = read_json(path, remedy)
        if why := records.problem(found, KEYS):
            raise InputError(f"{path}: {why}: {remedy}")
        return found

    def of(self, point: str) -> dict[str, Any] | None:
        """The latest refit of a point's configuration."""
        found = [r for r in map(self.result, self.done()) if point in r["of_points"]]
        return max(found, key=lambda r: (r["of_point"] == point, r["finished_at"]), default=None)


def store_of(folder: Path, id: str) -> Store:
    """The store that holds a point, or a refitted student, of a sweep."""
    return Refits(folder) if id.startswith(REFITTED) else Store(folder)


def said_of(result: dict[str, Any]) -> str:
    """What it was trained on, and what its error is an estimate of."""
    estimate = result["estimate"]
    interval = estimate.get("interval_90")
    among = f" (90 % interval {interval[0]:.2f} to {interval[1]:.2f} over subjects)" if interval else ""
    return (
        f"trained on all {len(result['trained_on'])} subjects; error estimated {estimate['how']}: "
        f"{estimate['error_bpm']:.2f} BPM{among}, {estimate['metric']}"
    )
