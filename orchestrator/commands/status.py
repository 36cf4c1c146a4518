"""`kdsweep status SWEEP`: status of a sweep, from its directory alone."""

import json
import time
from typing import Any

import click

from orchestrator.run.status import standing
from orchestrator.store.find import sweep_folder

WATCH_S = 2.0


@click.command()
@click.argument("sweep")
@click.option("--watch", is_flag=True, help="Refresh every 2 seconds until the sweep ends.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON, one line per refresh.")
def status(sweep: str, watch: bool, as_json: bool) -> None:
    """Show the status of SWEEP: points done, running, failed, blocked; rate, ETA, best so far; Slurm jobs."""
    folder = sweep_folder(sweep)
    if not watch:
        _show(standing(folder), as_json)
        return
    import sys

    clear = sys.stdout.isatty() and not as_json
    while True:
        now = standing(folder)
        if clear:
            click.clear()
        _show(now, as_json)
        if now["state"] != "running" and not _active(now.get("jobs", [])):
            return
        time.sleep(WATCH_S)


def _active(jobs: list[dict[str, Any]]) -> bool:
    return any(job.get("active") for job in jobs)


def _show(now: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(now) if as_json else in_words(now))


def in_words(now: dict[str, Any]) -> str:
    """The same as text."""
    from orchestrator.words import duration

    width = 30
    filled = width * now["done"] // max(now["total"], 1)
    lines = [
        f"{now['sweep']}: {now['state']}  [{'#' * filled}{'.' * (width - filled)}] "
        f"{now['done']}/{now['total']} done"
        + "".join(f", {now[k]} {k}" for k in ("failed", "blocked", "left") if now[k])
    ]
    if now["state"] == "running":
        rate = f"{now['rate_per_h'] / 60:.1f} points/min" if now["rate_per_h"] else "rate unknown"
        eta = f"ETA {duration(now['eta_s'])}" if now["eta_s"] is not None else "ETA unknown"
        lines.append(f"  {now['slots']} slots on {now['host']} and others, {rate}, {eta}")
    for where in now["running"]:
        val = f", validation {where['val_mae_bpm']:.2f} BPM" if where.get("val_mae_bpm") is not None else ""
        lines.append(f"  running  {where['point']}  epoch {where['epoch']}/{where['max_epochs']}{val}")
    for kind, best in now["best"].items():
        lines.append(
            f"  best     {kind:8} {best['mae_bpm']:6.2f} BPM  {best['model']}  {best['params']:,} params  "
            f"{best['point']}"
        )
    for id, why in now["failures"].items():
        lines.append(f"  failed   {id}  {why.splitlines()[0]:.100}")
    if now["failures"]:
        lines.append(f"  why:     kdsweep logs {now['folder']} --failed")
    lines += [
        "  job      " + "  ".join(str(job[k]) for k in ("id", "kind", "state", "reason") if job.get(k))
        for job in now.get("jobs", [])
    ]
    if now.get("ray_nodes"):
        lines.append(f"  Ray      {len(now['ray_nodes'])} nodes: {', '.join(now['ray_nodes'])}")
    used = now["used"]
    lines.append(
        f"  used     {used['slot_hours']:.2f} slot-hours, {used['gpu_hours']:.2f} GPU-hours, "
        f"{used['train_hours']:.2f} of them training finished points; "
        f"left: about {now['hours_left']['slot_hours']:.2f} slot-hours, "
        f"{now['hours_left']['gpu_hours']:.2f} GPU-hours"
    )
    if now["used_by"]:
        by = (f"{kind} {row['gpu_hours'] or row['slot_hours']:.3f}" for kind, row in now["used_by"].items())
        unit = "GPU-hours" if any(row["gpu_hours"] for row in now["used_by"].values()) else "slot-hours"
        lines.append(f"  {unit} of finished points: " + ", ".join(by))
    return "\n".join(lines)
