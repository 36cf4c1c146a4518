"""`kdsweep export SWEEP [POINT]`: export a student as a folder, and to MLflow's model registry."""

import json
from pathlib import Path
from typing import Any

import click

from kd.errors import InputError
from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.query import budget_options
from orchestrator.store.find import sweep_folder

EPOCHS = 3  # of quantisation-aware fine-tuning (docs/firmware.md says what they gave)


@click.command()
@click.argument("sweep", type=SWEEP)
@click.argument("point", type=POINT, required=False)
@budget_options
@click.option(
    "-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Output directory."
)
@click.option(
    "--c", "with_c", is_flag=True, help="Include the student as C99 for microcontrollers, in --precision."
)
@click.option(
    "--qat",
    type=click.IntRange(1, 100),
    is_flag=False,
    flag_value=EPOCHS,
    metavar="[EPOCHS]",
    help=f"With --c --precision int8: fine-tune for the integers before.  [{EPOCHS} epochs unless said]",
)
@click.option(
    "--device-fs",
    type=float,
    metavar="HZ",
    help="With --c: the rate of the device's samples, which the C resamples.  [default: the model's]",
)
@click.option("--tflite", is_flag=True, help="Include the student as a .tflite of 8-bit integers only.")
@click.option(
    "--mcu-env",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --tflite: Python environment, created if missing.  [default: that of kdsweep profile --mcu]",
)
@click.option("--with-recordings", is_flag=True, help="Include the test subjects' raw recordings.")
@click.option(
    "--register", "registering", is_flag=True, help="Also register the model in MLflow's model registry."
)
@click.option("--name", help="With --register: model name.  [default: the sweep's name]")
@click.option(
    "--tracking-uri", help="With --register: MLflow server.  [default: sqlite in the sweep directory]"
)
@click.option(
    "--no-refit", is_flag=True, help="Export the point itself, though it was refitted on everybody."
)
@click.option("--dry-run", is_flag=True, help="Print which point would be exported, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print what was exported as JSON.")
def export(
    sweep: str,
    point: str | None,
    out: Path,
    with_c: bool,
    qat: int | None,
    device_fs: float | None,
    tflite: bool,
    mcu_env: Path | None,
    with_recordings: bool,
    registering: bool,
    name: str | None,
    tracking_uri: str | None,
    no_refit: bool,
    dry_run: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Export POINT of SWEEP, or the trained student that `kdsweep query` selects for a budget.

    Prefers what `kdsweep refit` trained of it on all subjects. Writes ONNX float32 and int8, weights,
    preprocessing, a model card, a C header, and example.py, which needs only numpy and onnxruntime. Nothing
    is written unless the files reproduce the sweep's test error.

    With --qat the integers in C are of weights that were fine-tuned for them, with the point's own objective
    and teacher; the epoch is chosen on the validation subjects. Interrupted, the same command goes on.

    With --tflite also the int8 .tflite that `kdsweep profile --mcu` measures, made and run in its environment
    (the extra [mcu], some 2 GB, installed when it is first asked for).
    """
    from orchestrator.edge.export import export_point, point_of, register
    from orchestrator.edge.mcu import default_environment, environment
    from orchestrator.space.resolve import open_space
    from orchestrator.store.refits import REFITTED, Refits, said_of
    from orchestrator.store.store import Store
    from orchestrator.tracking.writer import default_uri

    if qat and not (with_c and limits["precision"] == "int8"):
        raise InputError("--qat fine-tunes the integers of the C: add --c --precision int8, or leave it out")
    if device_fs is not None and not with_c:
        raise InputError("--device-fs is the rate of samples in C: add --c, or leave it out")
    folder = sweep_folder(sweep)
    store = Store(folder)
    result = point_of(store, point) if point else best_for(folder, store, limits)
    fold = result.get("fold")
    if not no_refit and not result["id"].startswith(REFITTED):
        result = Refits(folder).of(result["id"]) or result
    what = f"{result['id']}: {result['arch']} {result['depth']}x{result['width']}, " + (
        said_of(result) if "estimate" in result else f"{result['mae_bpm']:.3f} BPM"
    )
    if dry_run:
        echo(what)
        return

    def say(text: str) -> None:
        echo(text, err=True)

    python = environment(mcu_env or default_environment(), say) if tflite else None
    opened = open_space(str(folder), [], None, say).of_fold(fold)
    test = export_point(
        opened,
        result,
        out,
        with_recordings=with_recordings,
        with_c=with_c,
        precision=limits["precision"],
        qat_epochs=qat,
        device_fs=device_fs,
        mcu_python=python,
        say=say,
    )
    done = {"folder": str(out), "point": result["id"], **test}
    if registering:
        uri = tracking_uri or default_uri(store)
        done["model"] = name or opened.plan.name
        done["version"] = register(opened, result, out, uri, done["model"])
    if as_json:
        click.echo(json.dumps(done))
        return
    echo(f"{out}: point {what}")
    echo(
        f"MAE {test['mae_bpm']:.4f} BPM "
        f"{'on people it was trained on' if 'estimate' in result else 'as the sweep measured'}, "
        f"int8 {test['mae_bpm_int8']:.4f}, "
        f"streaming {test['mae_bpm_streaming']:.4f}, causal filter only {test['mae_bpm_causal']:.4f}"
    )
    if "int8_c" in test:
        from orchestrator.edge.int8 import said

        echo(f"int8 in C costs {said(test['int8_c'])}")
    if registering:
        echo(f"registered as models:/{done['model']}/{done['version']}")


def best_for(folder: Path, store: Any, limits: dict[str, Any]) -> dict[str, Any]:
    """The result of the trained student that `kdsweep query` selects. Raises InputError without a limit."""
    from orchestrator.answers.best import answer
    from orchestrator.answers.candidates import Budget
    from orchestrator.edge.export import chosen_by
    from orchestrator.laws.document import read_document

    budget = Budget(**limits)
    if not budget.given:
        raise InputError("name a POINT, or give a budget, for example --max-params 20000")
    return chosen_by(answer(read_document(folder / "laws.json", budget.device), budget), store)
