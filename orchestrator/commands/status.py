"""`kdsweep status SWEEP`: status of a sweep, from its directory alone."""

import json
import shutil
import sys
import textwrap
import time
from typing import Any

import click

from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.commands.tables import WIDE
from orchestrator.run.status import standing
from orchestrator.store.find import sweep_folder
from orchestrator.words import escaped, escaped_lines, model_name, quoted

WATCH_S = 2.0
COUNTED = ("failed", "blocked", "paused", "left")
EXIT = {
    "partly failed": 3,
    "not reached": 3,
    "unknown": 69,
    "stopped": 75,
}  # as `run`; 69: Slurm doesn't answer


@click.command(cls=Hosted)
@click.argument("sweep", type=SWEEP)
@click.option(
    "--watch", is_flag=True, help="Refresh every 2 seconds, Slurm's jobs every 30, until the sweep ends."
)
@click.option("--all", "show_all", is_flag=True, help="Also every point with its state and error.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the status and every point as JSON, one line per refresh."
)
def status(sweep: str, watch: bool, show_all: bool, as_json: bool) -> None:
    """Show the status of SWEEP: points done, running, failed, blocked; rate, ETA, best so far; Slurm jobs."""
    folder = sweep_folder(sweep)
    if not watch:
        now = standing(folder)
        _show(now, show_all, as_json)
        sys.exit(EXIT.get(now["state"], 0))
    from orchestrator.run.jobs import Jobs

    jobs = Jobs(folder)
    clear = sys.stdout.isatty() and not as_json
    while True:
        now = standing(folder, jobs)
        if clear:
            click.clear()
        _show(now, show_all, as_json)
        if now["state"] != "running" and not _active(now.get("jobs", [])):
            sys.exit(EXIT.get(now["state"], 0))
        time.sleep(WATCH_S)


def _active(jobs: list[dict[str, Any]]) -> bool:
    return any(job.get("active") for job in jobs)


def _show(now: dict[str, Any], show_all: bool, as_json: bool) -> None:
    click.echo(json.dumps(now) if as_json else escaped_lines(in_words(now)))
    if show_all and not as_json:
        echo()
        _table(now["points"])
        echo(f"error BPM: {now['metric_words']}")


def _table(points: list[dict[str, Any]]) -> None:
    """Every point, in the order of the plan."""
    from orchestrator.commands.tables import Column, console, show

    errors = ["" if p["error_bpm"] is None else f"{p['error_bpm']:.2f}" for p in points]
    tracked = ["" if p.get("tracked_bpm") is None else f"{p['tracked_bpm']:.2f}" for p in points]
    folds = ["" if p["fold"] is None else str(p["fold"]) for p in points]
    show(
        console(),
        [
            Column("point", [p["id"] for p in points]),
            Column("strategy", ["teacher" if p["role"] == "teacher" else p["strategy"] for p in points]),
            Column("architecture", [model_name(p["arch"], p["depth"], p["width"]) for p in points]),
            *([Column("fold", folds, 1)] if any(folds) else []),
            Column("seed", [str(p["seed"]) for p in points], 1),
            Column("state", [p["state"] for p in points]),
            Column("error BPM", errors, right=True),
            *([Column("tracked", tracked, 2, right=True)] if any(tracked) else []),
        ],
    )


def job_line(job: dict[str, Any]) -> str:
    """A Slurm job: for one that waits, why, and when Slurm expects to start it."""
    from orchestrator.words import escaped

    said = "  ".join(escaped(str(job[k])) for k in ("id", "kind", "state", "reason") if job.get(k))
    if job.get("why"):
        said += f": {job['why']}"
    if job["state"] == "PENDING" and job.get("start"):
        said += time.strftime("; expected to start %Y-%m-%d %H:%M", time.localtime(job["start"]))
    return f"  job      {said}"


def in_words(now: dict[str, Any]) -> str:
    """The same as text."""
    from orchestrator.words import duration

    columns = shutil.get_terminal_size((WIDE, 24)).columns
    title = f"{now['sweep']}: {now['state']}"
    counts = f"{now['done']}/{now['total']} done"
    counts += "".join(f", {now[k]} {k}" for k in COUNTED if now.get(k))
    width = max(5, min(30, columns - len(f"{title}  [] {counts}")))
    filled = width * now["done"] // max(now["total"], 1)
    lines = [f"{title}  [{'#' * filled}{'.' * (width - filled)}] {counts}"]
    if now.get("answer"):
        lines.append(f"  answer   {now['answer']['in_words']}")
    if now["state"] == "running":
        rate = f"{now['rate_per_h'] / 60:.1f} points/min" if now["rate_per_h"] else "rate unknown"
        eta = f"ETA {duration(now['eta_s'])}" if now["eta_s"] is not None else "ETA unknown"
        lines.append(f"  {now['slots']} slots on {now['host']} and others, {rate}, {eta}")
    for where in now["running"]:
        val = f", validation {where['val_mae_bpm']:.2f} BPM" if where.get("val_mae_bpm") is not None else ""
        lines.append(f"  running  {where['point']}  epoch {where['epoch']}/{where['max_epochs']}{val}")
    for kind, best in now["best"].items():
        lines.append(
            f"  best     {kind:8} {best['error_bpm']:6.2f} BPM  {best['model']}  {best['params']:,} params  "
            + (f"over {best['folds']} of {len(now['folds'])} folds" if best["folds"] else best["point"])
        )
    if now["best"]:
        lines.append(f"           errors: {now['metric_words']}")
    tracked = {kind: best.get("tracked_bpm") for kind, best in now["best"].items()}
    if each := [f"{kind} {bpm:.2f}" for kind, bpm in tracked.items() if bpm is not None]:
        text = f"           tracked, BPM: {', '.join(each)}"
        lines += textwrap.wrap(text, columns, subsequent_indent=" " * 11)
    for id, why in now["failures"].items():
        line = f"  failed   {id}  {escaped(next(iter(why.splitlines()), ''))}"
        lines.append(line if len(line) <= columns else f"{line[: columns - 3]}...")
    if now["failures"]:
        lines.append(f"  why:     kdsweep logs {quoted(now['folder'])} --failed")
    lines += [job_line(job) for job in now.get("jobs", [])]
    last = now.get("last_link") or {}
    if last.get("verdict") == "stop" and now["state"] != "running":
        lines.append(f"  stopped  {escaped(last['why'])}")
    if now.get("excluded"):
        text = "; ".join(f"{node}: {why}" for node, why in now["excluded"].items())
        line = f"  excluded {escaped(text)}"
        lines.append(line if len(line) <= columns else f"{line[: columns - 3]}...")
    if now.get("ray_nodes"):
        lines.append(f"  Ray      {len(now['ray_nodes'])} nodes: {', '.join(now['ray_nodes'])}")
    for line in now["mixed"]:
        lines += textwrap.wrap(f"  mixed    {escaped(line)}", columns, subsequent_indent=" " * 11)
    used = now["used"]
    lines.append(
        f"  used     {used['slot_hours']:.2f} slot-hours, {used['gpu_hours']:.2f} GPU-hours, "
        f"{used['train_hours']:.2f} of them in finished points"
    )
    lines.append(
        f"  left     about {now['hours_left']['slot_hours']:.2f} slot-hours, "
        f"{now['hours_left']['gpu_hours']:.2f} GPU-hours"
    )
    if now["used_by"]:
        by = (f"{kind} {row['gpu_hours'] or row['slot_hours']:.3f}" for kind, row in now["used_by"].items())
        unit = "GPU-hours" if any(row["gpu_hours"] for row in now["used_by"].values()) else "slot-hours"
        text = f"  {unit} of finished points: " + ", ".join(by)
        lines += textwrap.wrap(text, columns, subsequent_indent=" " * 11, break_long_words=False)
    return "\n".join(lines)
