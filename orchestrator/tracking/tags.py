"""The names under which MLflow holds a sweep: what one writes and the other finds. Imports nothing."""

SWEEP, POINT, FINISHED_AT = "kdsweep.sweep", "kdsweep.point", "kdsweep.finished_at"
METRIC = "kdsweep.metric"  # what error_bpm is; of the parent run with its weights, as plan.json has them
BY_METRIC = "kdsweep.by_metric"  # what another metric would make of a point: `metric.by_metric` as JSON
STATE, LOGGED = "kdsweep.state", "kdsweep.logged_epochs"  # done, failed or paused; epochs of the last pause
SPACE = "kdsweep.space"  # tags of a parent run that hold its spaces, cut to what a tag may hold
TAG_LENGTH = 4000
FINAL = {"val_mae_bpm": "best_val_mae_bpm"}  # a result's figure that would end the curve of that name


def space_tags(space: str) -> dict[str, str]:
    """A search space as tags of a parent run."""
    pieces = [space[i : i + TAG_LENGTH] for i in range(0, len(space), TAG_LENGTH)]
    return {f"{SPACE}.{i}": piece for i, piece in enumerate(pieces)}
