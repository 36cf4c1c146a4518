"""Damaged recordings of every format: whatever is in them, they load or an InputError names the file.

    python tests/kd/datasets/fuzz_recordings.py 100000 0

Files are ordinary ones with bytes changed, or with values, types, shapes and sizes changed where the format
has them. What loads is cut into windows too. Prints how it ended, by format; any other exception, or more
memory than MEMORY, ends it. KDSWEEP_FUZZ=20 makes the tests try 20 times as many.
"""

import contextlib
import io
import json
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.io import savemat

from kd import datasets
from kd.datasets import bami, matlab, spc, wildppg
from kd.errors import InputError
from kd.signals.preprocess import Preprocess
from kd.signals.windows import make_windows

MEMORY = 4 * 2**30
SCALARS = (
    *(None, True, 0, -1, 1, 25, 2.5, 1e-300, 1e308, 10**400, -(10**19), np.nan, np.inf, -np.inf),
    *("", " ", "a", "25", "\ud800", "\x1b]0;x\x07", "é", [], {}, [1], {"a": None}, [[]]),
)
CELLS = (
    *("", "nan", "inf", "-inf", "1e308", "-1", "0", "x", '"', "1,2", "\0", "#", "1_0", "ENTER"),
    *("9" * 400, "1e400"),
)


def signal(dice, fs, seconds=24.0):
    """A pulse (samples,), so that windows are kept."""
    t = np.arange(round(seconds * fs)) / fs
    return np.sin(2 * np.pi * dice.uniform(1, 2) * t) * 1000


def array(dice, value):
    """An array of another type, shape, length or content; sometimes no array."""
    value = np.atleast_1d(value)
    if value.dtype.kind in "OU":
        return dice.choice([value, value[:0], np.zeros(3), np.array(["text"])])
    change = dice.randrange(13)
    if change == 0:
        return value.T
    if change == 1:
        return value[:0]
    if change == 2:
        return value[..., : dice.randrange(4)]
    if change == 3:
        return value.ravel() if value.ndim > 1 else value[None, :, None]
    if change == 4:
        return np.asarray(dice.choice([0, 1.5, np.nan, -1]))
    if change == 5:
        value = value.astype(np.float64)
        value.flat[:: dice.randrange(1, 9)] = dice.choice([np.nan, np.inf, -np.inf, 1e308, -1e-308, 0, 300])
        return value
    if change == 6:
        return value.astype(dice.choice(["U8", "S8", "c8", "?", "f2", "i8", ">f8", "u1", "f4,i4", "g"]))
    if change == 7:
        return np.zeros((3000, 2))
    if change == 8:
        return np.repeat(value, dice.randrange(2, 40), axis=-1)
    if change == 9:
        return np.array(["text"])
    if change == 10:
        return np.asfortranarray(value)
    if change == 11:
        return np.zeros(dice.choice([(0, 0), (1, 0), (0,), (1, 1, 1), (65, 70)]))
    return value


def damaged(dice, data, most=6):
    """Some bytes changed, taken out or put in."""
    data = bytearray(data)
    for _ in range(dice.randrange(1, most)):
        at = dice.randrange(len(data) + 1)
        change = dice.randrange(6)
        if change == 0 and at < len(data):
            data[at] = dice.choice([0, 1, 12, 14, 127, 255, dice.randrange(256)])
        elif change == 1 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif change == 2:
            del data[at : at + dice.randrange(1, 9)]
        elif change == 3:
            data[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif change == 4 and dice.random() < 0.3:
            del data[at:]
        elif change == 5 and at + 4 < len(data):
            data[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)])
    return bytes(data)


def recordings_npz(dice, folder):
    """Two recordings; members, headers and the zip's directory damaged."""
    names = ("a", "b")
    entries = [{"name": n, "dataset": "d", "subject": n, "fs": 25, "hr_stride_s": 2.0} for n in names]
    arrays = {}
    for n in names:
        arrays[f"{n}/ppg"] = np.stack([signal(dice, 25.0)] * 2).astype(dice.choice([np.int16, np.float32]))
        arrays[f"{n}/hr"] = np.full(9, 80.0, np.float32)
    for _ in range(dice.randrange(3)):
        entry = dice.choice(entries)
        if dice.random() < 0.2:
            entry.pop(dice.choice(list(entry)), None)
        else:
            key = dice.choice(
                ["name", "dataset", "subject", "fs", "hr_window_s", "hr_stride_s", "hr_start_s"]
            )
            entry[key] = dice.choice(SCALARS)
    for key in dice.sample(sorted(arrays), dice.randrange(3)):
        arrays[key] = array(dice, arrays[key])
    if dice.random() < 0.1:
        arrays.pop(dice.choice(sorted(arrays)))
    text = json.dumps(entries if dice.random() < 0.96 else dice.choice(SCALARS))
    meta = text.encode("utf-8" if dice.random() < 0.97 else "utf-16")
    if dice.random() < 0.1:
        meta = damaged(dice, meta)
    if dice.random() < 0.05:
        meta = meta.replace(b'"fs"', b'"name"', 1)
    if dice.random() < 0.02:
        meta = b"[" * 100_000
    arrays["meta_json"] = np.frombuffer(meta, np.uint8)
    if dice.random() < 0.05:
        arrays["meta_json"] = array(dice, arrays["meta_json"])
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", dice.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for key, value in arrays.items():
            content = io.BytesIO()
            np.save(content, value)
            data = content.getvalue()
            header = dice.random()
            if header < 0.03:
                data = damaged(dice, data[:128], 3) + data[128:]
            elif header < 0.04:
                data = data[: data.index(b"shape")] + b"shape': (999999999999,), }".ljust(60) + data[128:]
            archive.writestr(f"{key}.npy", data)
    data = whole.getvalue()
    if dice.random() < 0.15:  # the directory, which names sizes
        at = data.index(b"PK\x01\x02")
        data = data[:at] + damaged(dice, data[at:], 3)
    elif dice.random() < 0.1:
        data = damaged(dice, data)
    (folder / "r.npz").write_bytes(data)


def mat(dice, path, content):
    """A MATLAB file with variables, their types and bytes damaged."""
    for key in dice.sample(sorted(content), dice.randrange(2)):
        content[key] = array(dice, content[key])
    if dice.random() < 0.05:
        content.pop(dice.choice(sorted(content)))
    try:
        savemat(path, content, do_compression=dice.random() < 0.3)
    except (TypeError, ValueError, KeyError):  # of types that MATLAB has none for
        savemat(path, {"other": 1})
    if dice.random() < 0.5:
        data = path.read_bytes()
        head = dice.choice([128, 400, len(data)])  # where types and sizes stand
        path.write_bytes(damaged(dice, data[:head]) + data[head:])


def spc_files(dice, folder):
    mat(dice, folder / "DATA_01_TYPE01.mat", {"sig": np.stack([signal(dice, 125.0)] * 6)})
    mat(dice, folder / "DATA_01_TYPE01_BPMtrace.mat", {"BPM0": np.full((9, 1), 80.0)})


def bami_files(dice, folder):
    rows = np.stack([signal(dice, 50.0)] * 3)
    mat(dice, folder / "BAMI1_1.mat", {"rawPPG": rows, "bpm_ecg": np.full((1, 9), 80.0)})


def wildppg_files(dice, folder):
    if dice.random() < 0.5:
        cells = np.empty((2, 2), dtype=object)
        for k in range(2):
            cells[k, 0], cells[k, 1] = signal(dice, 25.0).reshape(3, 200), np.full((3, 1), 80.0)
            if dice.random() < 0.3:
                cells[k, dice.randrange(2)] = array(dice, cells[k, 0])
        rows, labels = cells[:, :1], cells[:, 1:]
        mat(dice, folder / "WildPPG.mat", {"data_ppg_wrist": rows, "data_bpm_values": labels})
        return
    sensor = {"v": signal(dice, 128.0)[:, None], "fs": 128.0}
    wrist, sternum = {"ppg_g": dict(sensor)}, {"ecg": dict(sensor)}
    if dice.random() < 0.4:
        part = dice.choice([wrist["ppg_g"], sternum["ecg"]])
        key = dice.choice(["v", "fs"])
        part[key] = dice.choice([array(dice, part[key]), 0, -1.0, 1e300, np.nan, "x", {"v": 1}])
    mat(dice, folder / "WildPPG_Part_an0.mat", {"id": "an0", "wrist": wrist, "sternum": sternum})


def table(dice, path, header, *columns):
    """A CSV file with cells, lines, header and bytes damaged."""
    rows = [header, *([str(cell) for cell in row] for row in zip(*columns, strict=True))]
    for _ in range(dice.choice([0, 0, 1, 2])):
        row = dice.choice(dice.choice([rows, rows[:1], rows[-1:]]))
        change = dice.randrange(4)
        if change < 2:
            row[dice.randrange(len(row))] = dice.choice(CELLS)
        elif change == 2:
            row.append("1")
        elif len(row) > 1:
            row.pop()
    if dice.random() < 0.05:
        rows = rows[: dice.randrange(3)]
    data = "\n".join(",".join(row) for row in rows).encode(dice.choice(["utf-8"] * 15 + ["utf-16"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(damaged(dice, data) if dice.random() < 0.3 else data)


def bidmc_files(dice, folder):
    values = signal(dice, 125.0)
    time = np.arange(len(values)) / 125
    table(dice, folder / "bidmc_01_Signals.csv", ["Time [s]", "PLETH"], time.round(3), values.round(3))
    table(dice, folder / "bidmc_01_Numerics.csv", ["Time [s]", "HR"], range(25), [80] * 25)


def galaxyppg_files(dice, folder):
    values, start = signal(dice, 25.0), 1_700_000_000_000
    clock = start + 40 * np.arange(len(values))
    table(dice, folder / "P02/GalaxyWatch/PPG.csv", ["timestamp", "ppg"], clock, values.round(3))
    seconds = start + 32_400_000 + 1000 * np.arange(25)
    table(dice, folder / "P02/PolarH10/HR.csv", ["phoneTimestamp", "hr"], seconds, [80] * 25)
    events = [start, start + 24_000], ["rest"] * 2, ["ENTER", "EXIT"]
    table(dice, folder / "P02/Event.csv", ["timestamp", "session", "status"], *events)


def ppg_dalia_files(dice, folder):
    def value(plain):
        kind = dice.random()
        if kind < 0.5:
            return plain
        return array(dice, plain) if kind < 0.8 else dice.choice([*SCALARS, [1, [2]], b"12", plain.tolist()])

    content = {
        "signal": {"wrist": {"BVP": value(signal(dice, 64.0)[:, None])}},
        "label": value(np.full(9, 80.0)),
    }
    data = pickle.dumps(content, protocol=2)
    (folder / "S1.pkl").write_bytes(damaged(dice, data) if dice.random() < 0.2 else data)


FORMATS = {
    "recordings_npz": recordings_npz,
    "spc": spc_files,
    "bami": bami_files,
    "bidmc": bidmc_files,
    "ppg_dalia": ppg_dalia_files,
    "wildppg": wildppg_files,
    "galaxyppg": galaxyppg_files,
}


class Reader:
    """One process that reads MATLAB files for all loads, until a file kills it: starting it takes longest."""

    def __init__(self):
        self.stack, self.read, self.deaths = contextlib.ExitStack(), None, 0

    @contextlib.contextmanager
    def __call__(self):
        yield self.ask

    def ask(self, path, *names):
        if self.read is None:
            self.read = self.stack.enter_context(matlab.mat_reader())
        try:
            return self.read(path, *names)
        except InputError as error:
            if "reading it" in str(error):
                self.deaths += 1
                self.close()
            raise

    def close(self):
        self.stack.close()
        self.read = None


def main(files, seed):
    """Load that many damaged folders, from this seed on."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    reader = Reader()
    for module in (spc, bami, wildppg):
        module.mat_reader = reader
    matlab.SECONDS = 2  # a hanging file ends soon
    dice, ended = random.Random(seed), {name: Counter() for name in FORMATS}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary, contextlib.closing(reader):
        folder = Path(temporary) / "set"
        for n in range(files):
            name = dice.choice(sorted(FORMATS))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            FORMATS[name](dice, folder)
            try:
                recordings = datasets.load(folder, name)[1]
                make_windows(recordings, Preprocess())
                ended[name]["read"] += 1
            except InputError as error:
                line = str(error)
                assert "\n" not in line, line
                assert str(folder) in line, line
                ended[name]["refused"] += 1
            except BaseException:
                kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{seed}-{n}-{name}-"))
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"folder {n} of seed {seed}: {name}, kept in {kept}", file=sys.stderr)
                raise
    took = time.monotonic() - start
    ends = {name: dict(count) for name, count in ended.items()}
    print(f"{files} folders in {took:.0f} s: {ends}, MATLAB readers killed: {reader.deaths}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
