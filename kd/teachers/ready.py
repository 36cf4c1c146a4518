"""The index of a data config's windows, and ready outputs that belong to one. No torch.

A row a window, originals first, then copies, then those without labels: when it starts and ends in its
recording. The windows' name, a hash of everything that can change them, stands in the file's metadata.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.files import load_array, write_atomically
from kd.signals.prepare import DataConfig, Progress
from kd.signals.whole import Whole, wholes
from kd.signals.windows import subject_label
from kd.teachers.source import FEATURES_FILE, INDEX_FILE, LOGITS_FILE, Source
from kd.teachers.windows import each_played

HASH = b"kdsweep.windows"
REMEDY = "compute them again for the index that `kdsweep data windows` writes"
SOME = 4096  # windows that are looked at together
NUMBERS = {"copy": np.int16, "fs": np.float64, "start_s": np.float64, "end_s": np.float64, "bpm": np.float32}


def write_index(config: DataConfig, cache_dir: Path, path: Path, progress: Progress | None = None) -> int:
    """Write the index of all windows of a config as parquet; how many windows it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = wholes(config, cache_dir, progress)
    n, before = sum(map(len, known)), 0
    arrays = {key: np.zeros(n, kind) for key, kind in NUMBERS.items()}
    texts = {key: np.full(n, "", object) for key in ("dataset", "recording", "subject")}
    for whole in known:
        for played in each_played(whole):
            r, first = played.recording, before + played.first
            rows = slice(first, first + len(played.starts_s))
            said = {"dataset": r.dataset, "recording": r.name, "subject": subject_label(r)}
            for key, text in said.items():
                texts[key][rows] = text
            arrays["copy"][rows], arrays["fs"][rows], arrays["bpm"][rows] = played.copy, r.fs, played.bpm
            arrays["start_s"][rows] = played.starts_s
            arrays["end_s"][rows] = played.starts_s + config.preprocess.window_s
        before += len(whole)
    window = {"window": pa.array(np.arange(n))}
    table = pa.table({**window, **{k: pa.array(v.tolist()) for k, v in texts.items()}, **arrays})
    table = table.replace_schema_metadata({HASH: name_of(known).encode()})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return n


def name_of(known: Sequence[Whole]) -> str:
    """Names windows with labels and those without together."""
    return "+".join(whole.name for whole in known)


def read_outputs(source: Source, known: Sequence[Whole]) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Ready outputs (N, D) and features (N, F), memory maps, of all windows of a config.

    Raises InputError for outputs of other windows, of another number of them, or that are not finite.
    """
    folder, windows = Path(source.path), sum(map(len, known))
    if (found := _hash(source, folder / INDEX_FILE)) != name_of(known):
        if found == known[0].name:
            raise InputError(
                f"teacher {source.name}: {folder} has outputs for windows with labels only, and there is "
                "data.unlabelled: compute them again for its index (`kdsweep data windows`), which has both"
            )
        raise InputError(
            f"teacher {source.name}: {folder} holds outputs of other windows (hash {found}, this space has "
            f"{name_of(known)}): {REMEDY}"
        )
    out = load_array(folder / LOGITS_FILE, REMEDY)
    out = out[:, None] if out.ndim == 1 else out
    features = load_array(folder / FEATURES_FILE, REMEDY) if source.features else None
    for name, array in ((LOGITS_FILE, out), (FEATURES_FILE, features)):
        where = f"teacher {source.name}: {folder / name}"
        if array is None:
            continue
        if array.ndim != 2 or len(array) != windows:
            raise InputError(f"{where} has shape {array.shape}, the index {windows} windows: {REMEDY}")
        if array.dtype.kind not in "fiu":
            raise InputError(f"{where} holds no real numbers, but {array.dtype}: {REMEDY}")
        parts = (array[i : i + SOME] for i in range(0, windows, SOME))
        if bad := sum(int((~np.isfinite(part)).any(axis=1).sum()) for part in parts):
            raise InputError(f"{where}: outputs of {bad} of {windows} windows are not finite: {REMEDY}")
    if source.output == "embedding":
        features = out
    return out, features


def _hash(source: Source, index: Path) -> str:
    """The pool that an index is of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(index).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"teacher {source.name}: {index}: not an index ({error}): {REMEDY}") from None
    return str(metadata.get(HASH, b"none").decode(errors="replace"))
