"""From a trained point of a sweep to a folder to ship, and into MLflow's registry. Needs the extra [edge]."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.files import read_json, write_json, write_text
from orchestrator.edge.latency import read_profile
from orchestrator.edge.mcu import measure_mcu
from orchestrator.edge.model_card import card
from orchestrator.edge.profile import calibration_windows, verification_windows
from orchestrator.edge.qat import fine_tuned
from orchestrator.edge.seen import opened_for, preprocess_for
from orchestrator.space.resolve import Opened
from orchestrator.store.check import check_model
from orchestrator.store.find import find_point
from orchestrator.store.refits import Refits, said_of
from orchestrator.store.store import Store
from orchestrator.tracking.client import told

RECORDINGS, TFLITE = "test_recordings.npz", "model.int8.tflite"
Say = Callable[[str], None]


def point_of(store: Store, wanted: str) -> dict[str, Any]:
    """The result of a trained point by its id or its beginning; InputError if none or several fit."""
    return store.result(find_point(store.done(), wanted, f"{store.path}, trained points"))


def chosen_by(answer: dict[str, Any], store: Store) -> dict[str, Any]:
    """The result of the student a query answered with; InputError if it was refused or isn't trained."""
    if answer["verdict"] == "refuse":
        raise InputError(f"no student to export: {answer['why']}")
    best = answer["best"]
    if not best["trained"]:
        raise InputError(
            f"the best student within this budget is not trained yet: {best['arch']} depth {best['depth']} "
            f"width {best['width']}, {best['strategy']}; train it (kdsweep suggest), or name a point of "
            f"{store.path} to export"
        )
    return store.result(best["point"])


def export_point(
    opened: Opened,
    result: dict[str, Any],
    out: Path,
    *,
    with_recordings: bool,
    with_c: bool = False,
    precision: str = "fp32",
    qat_epochs: int | None = None,
    device_fs: float | None = None,
    mcu_python: Path | None = None,
    say: Say,
) -> dict[str, Any]:
    """Write the folder `out`, whole or not at all; what preprocess.json says under "test".

    The exported pipeline is run on the tested subjects' raw recordings first: InputError if its error isn't
    the sweep's. with_recordings: put those recordings beside it, also when they aren't synthetic. with_c: put
    the student as C99 into its folder `c`, in `precision`, fp32 or int8. qat_epochs: of quantisation-aware
    fine-tuning before that, whose model the C is then; the ONNX files aren't. device_fs: the rate in Hz at
    which samples come to the C, default the model's own. mcu_python: put an int8 .tflite
    beside the ONNX files, made with this Python (`mcu.environment`).
    """
    from kd.edge import export, onnxfile
    from kd.edge.c.network import require_c
    from kd.edge.c.resampler import resampler
    from kd.edge.c_header import c_header
    from kd.signals.prepare import load_recordings
    from kd.signals.windows import subject_label
    from kd.training.teacher import MODEL
    from kd.training.tracking import FILE as TRACKER
    from kd.training.train import load_model
    from orchestrator.edge import int8

    onnxfile.require_extra()
    if out.exists() and any(out.iterdir()) and not (out / "preprocess.json").exists():
        raise InputError(f"{out} is not empty and not an earlier export: choose another folder with -o")
    store = Refits(opened.store.path) if "estimate" in result else opened.store
    preprocess_for(opened.data.preprocess, result)
    opened = opened_for(opened, result)
    data = opened.windows
    channels, samples = data.test.x.shape[1:]
    source = store.folder(result["id"])
    check_model(store, result)
    shape = {"channels": channels, "samples": samples, "classes": data.classes}
    model = load_model(source, arch=result["arch"], depth=result["depth"], width=result["width"], **shape)
    config = export.preprocess_json(opened.data, channels, result.get("acc_scale"))
    config |= {"sweep": opened.plan.name, "point": result["id"], "test": {}}
    known = read_json(source / TRACKER) if (source / TRACKER).is_file() else {}  # earlier versions have none
    if known:
        config["tracker"] = known["tracker"]
    in_c_config = config if device_fs is None else config | {"device_fs": device_fs}
    if with_c:  # refuses an architecture or a rate before anything is trained
        require_c(result["arch"])
        resampler(in_c_config)
    tuned, record = fine_tuned(opened, result, qat_epochs, say) if qat_epochs else (None, {})
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        say(f"exporting point {result['id']}")
        export.write_models(model, folder, data, calibration_windows(data), verification_windows(data))
        shutil.copyfile(source / MODEL, folder / "model.safetensors")
        write_json(folder / "preprocess.json", config, indent=1)
        say("running the exported model on the raw recordings of the test subjects, offline and streaming")
        tested = set(map(str, np.unique(data.test.subject)))
        recordings = [r for r in load_recordings(opened.data, say) if subject_label(r) in tested]
        config["test"] = test = export.evaluate(folder, recordings, data, opened.data.lead_s)
        export.same_as_sweep(test, _expected(model, result, data), len(data.test))
        if known and "estimate" not in result:
            export.same_as_sweep(test, result["mae_bpm_tracked"], len(data.test), "mae_bpm_tracked")
        if "estimate" in result:
            test["about"] = f"The model was trained on these people: {said_of(result)}."
        in_c: Any = model
        if with_c and precision == "int8":
            say("quantising the student for C")
            in_c = int8.quantised(model, result["arch"], data)
            test["int8_c"] = int8.cost(model, in_c, data)
            if tuned is not None:
                before, in_c = in_c, int8.quantised(tuned, result["arch"], data)
                test["int8_c"] = int8.aware_cost(model, before, in_c, data, record)
        write_json(folder / "preprocess.json", config, indent=1)
        export.write_scripts(folder)
        write_text(folder / "kdsweep_model.h", c_header(config, result["id"]))
        if with_recordings or opened.data.source == "synthetic":
            export.write_recordings(folder / RECORDINGS, recordings, config["label_lag_s"])
        measured = _measured(folder, store, result)
        if with_c:
            say("writing the student as C, and running it")
            inputs = min(len(r.ppg) for r in recordings)
            windows = verification_windows(data)
            measured["c"] = _write_c(in_c, result, in_c_config, inputs, folder / "c", windows)
        if mcu_python is not None:
            say("writing the student as int8 .tflite, and running it")
            made = measure_mcu(store, result, data, mcu_python, folder / TFLITE)
            measured |= {"mcu": made, "tflite": made["int8"] | {"windows": made["held_out_windows"]}}
        about = {key: known.get("tracked", {}).get(key) for key in ("risk", "within_5")}
        about["step"] = known.get("step") or {}
        write_text(folder / "README.md", card(opened, result, config | about, measured))
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return test


def _write_c(
    model: Any, result: dict[str, Any], config: dict[str, Any], inputs: int, folder: Path, windows: Any
) -> dict[str, Any]:
    """The student as C; its bytes, and under "checked" how far off it is, None without a compiler."""
    from kd.edge.c.check import check
    from kd.edge.c.resampler import resampler
    from kd.edge.c.source import write_c
    from kd.edge.c_tracker import write_tracker

    title = f"Heart rate from PPG: {result['arch']} {result['depth']}x{result['width']}, {result['id']}"
    folder.mkdir()
    sizes: dict[str, Any] = write_c(model, result["arch"], config, inputs, title, folder)
    sizes["device_fs"] = config["device_fs"] if resampler(config)["reach"] else None
    sizes["checked"] = check(folder, model, windows, config["class_centres_bpm"])
    return sizes | ({"tracker": write_tracker(config, folder)} if "tracker" in config else {})


def _expected(model: Any, result: dict[str, Any], data: Any) -> float:
    """The error in BPM that the files must reproduce: of a refitted model on people it was trained on."""
    if "estimate" not in result:
        return float(result["mae_bpm"])
    from kd.training import metrics
    from kd.training.teacher import as_tensor, outputs

    centres = metrics.class_centres(data.min_bpm, data.classes)
    predicted = metrics.decode_expectation(outputs(model, as_tensor(data.test.x))[0], centres).numpy()
    return metrics.error_figures(predicted, data.test.bpm)["mae_bpm"]


def register(opened: Opened, result: dict[str, Any], folder: Path, uri: str, name: str) -> str:
    """Put the exported model into MLflow's registry, with its signature; the version.

    It belongs to the point's run, which is written if this MLflow has it not yet. Loaded back, it must give
    the same outputs: AssertionError otherwise. Raises InputError for trouble with MLflow.
    """
    with told(uri):
        return _register(opened, result, folder, uri, name)


def _register(opened: Opened, result: dict[str, Any], folder: Path, uri: str, name: str) -> str:
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from kd.edge.onnxfile import run_onnx
    from orchestrator.tracking.writer import Tracker

    config = read_json(folder / "preprocess.json")
    _, channels, samples = config["input"]["shape"]
    classes = config["output"]["shape"][1]
    kind = np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(kind, (-1, channels, samples), config["input"]["name"])]),
        Schema([TensorSpec(kind, (-1, classes), config["output"]["name"])]),
    )
    mlflow.set_tracking_uri(uri)
    tracker = Tracker(opened.store, opened.plan, uri)
    point = result.get("of_point", result["id"])
    tracker.write([point])
    run_id = tracker.children[point].run
    needs = [f"{m.__name__}=={m.__version__}" for m in (onnx, np)]
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.onnx.log_model(
            onnx.load(folder / "model.onnx"),
            name="model",
            signature=signature,
            registered_model_name=name,
            pip_requirements=[*needs, "onnxruntime"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            metadata={
                "point": result["id"],
                "mae_bpm": result["estimate"]["mae_bpm"] if "estimate" in result else result["mae_bpm"],
                "decoding": config["decoding"],
            },
        )
        for file in ("preprocess.json", "README.md", "model.int8.onnx"):
            mlflow.log_artifact(str(folder / file), "export")
    version = str(logged.registered_model_version)
    windows = np.asarray(opened_for(opened, result).windows.test.x[:256])
    with tempfile.TemporaryDirectory() as there:  # the network alone: mlflow's loader runs what MLmodel names
        mlflow.artifacts.download_artifacts(f"models:/{name}/{version}/model.onnx", dst_path=there)
        got = run_onnx(Path(there) / "model.onnx", windows)
    difference = float((got - run_onnx(folder / "model.onnx", windows)).abs().max())
    if not difference <= 1e-5:
        raise AssertionError(
            f"models:/{name}/{version} answers otherwise than model.onnx, by {difference:.2g}"
        )
    return version


def _measured(folder: Path, store: Store, result: dict[str, Any]) -> dict[str, Any]:
    """File sizes, and what `kdsweep profile` measured of this point, and of which it was ("of").

    Of a refitted student that wasn't profiled itself, that of a point it is the refit of: the same shape, on
    which alone time and memory depend.
    """
    profiled = read_profile(store.path)["points"]
    measured: dict[str, Any] = {
        "devices": {},
        "mcu": None,
        "targets": {},
        "targets_int8": {},
        "of": result["id"],
    }
    sources = [result, *(Store(store.path).result(id) for id in _refit_of(result) if id in profiled)]
    for one in sources:
        point, sha = profiled.get(one["id"], {}), one["model_sha256"]
        devices = {key: r for key, r in point.get("devices", {}).items() if r["model_sha256"] == sha}
        if devices:
            counted = {
                name: {k: r for k, r in (point.get(name) or {}).items() if r["model_sha256"] == sha}
                for name in ("targets", "targets_int8")
            }
            measured = {"devices": devices, "mcu": point.get("mcu"), **counted, "of": one["id"]}
            break
    files = {name: (folder / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")}
    return {"files": files, **measured}


def _refit_of(result: dict[str, Any]) -> list[str]:
    """The points whose configuration it is, the one it was made of first; none unless it is a refit."""
    first = result.get("of_point")
    return [] if first is None else [first, *(id for id in result["of_points"] if id != first)]
