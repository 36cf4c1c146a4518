"""`kdsweep evaluate SWEEP POINT --data PATH`: evaluate a trained point on new recordings."""

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.store.find import sweep_folder
from orchestrator.words import escaped_lines

NAMED = 10  # subjects in a warning


@click.command()
@click.argument("sweep", type=SWEEP)
@click.argument("point", type=POINT)
@click.option(
    "--data", "path", required=True, type=click.Path(path_type=Path), help="Path of the recordings."
)
@click.option("--format", default="auto", show_default=True, help="Format, if it isn't detected.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(sweep: str, point: str, path: Path, format: str, as_json: bool) -> None:
    """Evaluate POINT of SWEEP on new recordings.

    POINT is an id, a unique prefix of one, or "best": the student with the lowest error. The recordings are
    filtered and cut like the sweep's own.
    """
    import sys

    from orchestrator.edge.evaluate import evaluate_point

    def tell(line: str) -> None:
        if sys.stderr.isatty():
            echo(line, err=True)

    found = evaluate_point(sweep_folder(sweep), point, path, format, tell)
    if own := found["subjects_of_the_sweep"]:
        echo(
            f"note: {len(own)} of these subjects are the sweep's own test subjects, so these are its own "
            "recordings; the point may have been trained on the other subjects",
            err=True,
        )
    if known := found["trained_on"]:
        echo(
            f"warning: {found['point']} was trained on {len(known)} of these {len(found['by_subject'])} "
            f"subjects ({_few(known)}): its error on them says nothing of other people",
            err=True,
        )
    click.echo(json.dumps(found, indent=2, allow_nan=False) if as_json else escaped_lines(in_words(found)))


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def in_words(found: dict[str, Any]) -> str:
    """The same as text."""
    teacher = f" from teacher {found['teacher']}" if found["teacher"] else ""
    rows = [(f"{name}", f) for name, f in found["by_dataset"].items()]
    if len(rows) > 1:
        rows.append(("all", found))
    wide = max(len("data set"), *(len(name) for name, _ in rows))
    lines = [
        f"point {found['point']}: {found['arch']} depth {found['depth']} width {found['width']} "
        f"({found['params']:,} parameters), {found['strategy']}{teacher}",
        "",
        f"{'data set':{wide}}  windows  MAE, BPM   RMSE  within 5  FFT peak  constant",
    ]
    for name, f in rows:
        lines.append(
            f"{name:{wide}}  {f['windows']:7,}  {f['mae_bpm']:8.2f}  {f['rmse_bpm']:5.2f}  "
            f"{f['within_5_bpm']:8.0%}  {f['baselines']['fft_peak']['mae_bpm']:8.2f}  "
            f"{f['baselines']['constant']['mae_bpm']:8.2f}"
        )
    if t := found["tracked"]:
        sure = "" if t["mae_bpm_sure"] is None else f", {t['mae_bpm_sure']:.2f} of the others"
        lines += [
            "",
            f"with its tracker: {t['mae_bpm']:.2f} BPM, {t['coverage_90']:.0%} inside the 90 % interval; "
            f"unsure of {t['unsure']:.0%}{sure}",
        ]
    by_subject = sorted(found["by_subject"].items(), key=lambda item: item[1]["mae_bpm"])
    lines += ["", "subject, MAE in BPM (windows)"]
    known = set(found["trained_on"])
    lines += [
        f"{f['mae_bpm']:8.2f}  {name} ({f['windows']:,}){', trained on' if name in known else ''}"
        for name, f in by_subject
    ]
    own = found["refitted"] or f"on the sweep's own test subjects: {found['test_mae_bpm']:.2f} BPM"
    lines += ["", own]
    if found["dropped"]:
        what = ", ".join(f"{n:,} {reason}" for reason, n in found["dropped"].items())
        lines.append(f"windows dropped: {what}")
    return "\n".join(lines)
