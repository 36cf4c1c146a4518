"""Damaged, hostile and mistaken recordings: one line that names file and fault, in bounded memory."""

import contextlib
import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from kd import datasets
from kd.datasets import matlab, npz
from kd.errors import InputError

HR = np.full(9, 80.0, np.float32)


def wave(fs, seconds=24):
    return np.sin(2 * np.pi * 1.3 * np.arange(round(seconds * fs)) / fs)


def refused(path, says, **options):
    with pytest.raises(InputError, match=says) as error:
        datasets.load(path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# ---- MATLAB files


def write_bami(folder, **variables):
    content = {"rawPPG": np.stack([wave(50)] * 3), "bpm_ecg": HR} | variables
    savemat(folder / "BAMI1_1.mat", content, do_compression=True)


def nested_cells(name, levels):
    """A MATLAB file with a cell in a cell in a cell: a reader that recurses runs off its stack."""
    named, unnamed = struct.pack("<II", 1, len(name)) + name.ljust(8, b"\0"), struct.pack("<II", 1, 0)
    labels = [named, *[unnamed] * (levels - 1)]
    sizes = [0]  # of each level's content, from the innermost on
    for label in reversed(labels):
        sizes.append(sizes[-1] + 40 + len(label))
    file = [b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"]
    for label, size, inside in zip(labels, sizes[:0:-1], range(levels - 1, -1, -1), strict=True):
        flags, shape = struct.pack("<IIII", 6, 8, 1, 0), struct.pack("<IIii", 5, 8, 1, min(inside, 1))
        file += [struct.pack("<II", 14, size - 8), flags, shape, label]
    return b"".join(file)


def test_a_crash_of_the_reader_is_an_error_of_the_file(tmp_path):
    write_bami(tmp_path)
    (tmp_path / "BAMI1_1.mat").rename(tmp_path / "BAMI1_0.mat")
    (tmp_path / "BAMI1_1.mat").write_bytes(nested_cells(b"rawPPG", 50_000))
    refused(tmp_path, r"BAMI1_1\.mat: reading it crashed with signal 11: download it again")


def test_the_reader_has_limits(tmp_path, monkeypatch):
    """Of memory, and of time."""
    write_bami(tmp_path)
    monkeypatch.setattr(matlab, "MEMORY", 2**24)  # too little for scipy itself
    monkeypatch.setattr(matlab, "MEMORY_RATIO", 0)
    refused(tmp_path, r"BAMI1_1\.mat: reading it failed with exit code 1 \(.*\): download it again")
    monkeypatch.undo()
    monkeypatch.setattr(matlab, "WAIT", 0.0)
    refused(tmp_path, r"BAMI1_1\.mat: reading it took too long or too much memory: download it again")


def load_in_a_worker(path):
    datasets.load(path)
    os._exit(7)


def test_the_reader_starts_in_a_daemon_and_takes_no_module_from_where_it_is(tmp_path, monkeypatch):
    """As workers of a cluster are; daemons may have no children of multiprocessing."""
    write_bami(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken from here')")
    monkeypatch.chdir(tmp_path)
    start = multiprocessing.get_context("fork").Process
    daemon = start(target=load_in_a_worker, args=(tmp_path,), daemon=True)
    daemon.start()
    daemon.join(60)
    assert daemon.exitcode == 7


def test_no_reader_stays_behind(tmp_path, monkeypatch):
    write_bami(tmp_path, bpm_ecg="fast")
    monkeypatch.setenv("STARTED_BY", str(tmp_path))  # others may read at the same time
    refused(tmp_path, "bpm_ecg doesn't hold numbers")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or not ours
            if f"STARTED_BY={tmp_path}".encode() in (process / "environ").read_bytes().split(b"\0"):
                assert b"matlab_child" not in (process / "cmdline").read_bytes()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"rawPPG": np.zeros((1200, 3))},
            r"rawPPG has shape \(1200, 3\), not \(3, 'n'\): it looks transposed",
        ),
        ({"rawPPG": np.zeros((3, 0)), "bpm_ecg": np.zeros(0)}, "rawPPG has shape"),
        ({"rawPPG": {"a": 1}}, "rawPPG doesn't hold numbers"),
        ({"rawPPG": 1j * np.ones((3, 1200))}, "rawPPG doesn't hold numbers"),
    ],
)
def test_variables_of_another_kind(tmp_path, variables, says):
    write_bami(tmp_path, **variables)
    refused(tmp_path, says)


# ---- .npz


def write_npz(path, entries=None, meta=None, **arrays):
    """Two recordings, a and b, with other entries or arrays."""
    plain = [{"name": n, "dataset": "d", "subject": n, "fs": 25} for n in "ab"]
    meta = json.dumps(plain if entries is None else entries).encode() if meta is None else meta
    ppg = np.stack([wave(25)] * 2).astype(np.float32)
    arrays = {"a/ppg": ppg, "a/hr": HR, "b/ppg": ppg, "b/hr": HR} | arrays
    np.savez(path, meta_json=np.frombuffer(meta, np.uint8), **arrays)


def with_entry(**more):
    return [{"name": n, "dataset": "d", "subject": n, "fs": 25} | (more if n == "b" else {}) for n in "ab"]


NAMES = [None, True, "", " ", " b", 1.5, [], {}, "b\n", "\x1b]0;b", "\ud800"]
RATES = [None, True, "25", 0, -25, 4, 1e9, 10**400, [25], {}]
ENTRIES = {
    **{f"{key} {value!r:.20}": (key, value) for key in ("name", "dataset", "subject") for value in NAMES},
    **{f"fs {value!r:.20}": ("fs", value) for value in RATES},
    **{f"stride {value!r:.20}": ("hr_stride_s", value) for value in [None, "2", 0, -2, 1e9]},
    **{f"start {value!r:.20}": ("hr_start_s", value) for value in [None, "0", 1.7e9]},
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_entry_is_named_with_its_key(tmp_path, case):
    """Without a look, null would be the subject "None", and all who have it one person."""
    key, value = ENTRIES[case]
    write_npz(tmp_path / "r.npz", with_entry(**{key: value}))
    refused(tmp_path, rf"r\.npz: meta_json entry 1: {key} is .*: give ")


TEXT = b'[{"name": "a", "dataset": "d", "subject": "s", "fs": 25}]'
METAS = {
    "twice": (TEXT.replace(b'"fs"', b'"subject": "t", "fs"'), "the key 'subject' stands twice"),
    "NaN": (TEXT.replace(b"25", b"NaN"), "NaN is no JSON"),
    "infinity": (TEXT.replace(b"25", b"-Infinity"), "-Infinity is no JSON"),
    "latin-1": (TEXT.replace(b'"s"', b'"\xe9"'), "can't decode byte 0xe9"),
    "UTF-16": (TEXT.decode().encode("utf-16"), "can't decode byte 0xff"),
    "deep": (b"[" * 100_000, "recursion"),
    "many digits": (TEXT.replace(b"25", b"9" * 10_000), "digits"),
}


@pytest.mark.parametrize("case", METAS)
def test_metadata_that_is_no_json(tmp_path, case):
    meta, says = METAS[case]
    write_npz(tmp_path / "r.npz", meta=meta)
    refused(tmp_path, rf"r\.npz: meta_json is not UTF-8 JSON in uint8 \(.*{says}.*\): build the file again")


ARRAYS = {
    "transposed": ("ppg", np.zeros((3000, 2)), "3000 channels of 2 samples: it looks transposed"),
    "transposed, of a short signal": (
        "ppg",
        np.zeros((70, 100)),
        "70 channels of 100 samples: it looks trans",
    ),
    "one axis": (
        "ppg",
        np.zeros(600),
        r"shape \(600,\), not \(channels, samples\): save one channel as \(1,",
    ),
    "three axes": ("ppg", np.zeros((1, 2, 600)), r"not \(channels, samples\)"),
    "no samples": ("ppg", np.zeros((2, 0)), "is empty"),
    "no labels": ("hr", np.zeros(0), "is empty"),
    "labels of two axes": ("hr", np.zeros((9, 1)), r"shape \(9, 1\), not \(windows,\)"),
    "labels of another recording": (
        "hr",
        np.full(900, 80.0),
        "900 labels from 0 to 1806 s, but its 600 samples",
    ),
    "an accelerometer of two axes": ("acc", np.zeros((2, 600)), r"not \(3, samples\): save the axes"),
    "an accelerometer of one axis": ("acc", np.zeros(600), r"not \(channels, samples\)"),
    "text": ("ppg", np.array([["1", "2"]]), "<U1, not of numbers"),
    "complex": ("ppg", np.zeros((1, 600), complex), "complex128, not of numbers"),
    "dates": ("ppg", np.zeros((1, 600), "M8[s]"), "not of numbers"),
    "structures": ("ppg", np.zeros((1, 600), "f4,f4"), "not of numbers"),
    "objects": ("ppg", np.zeros((1, 600), object), "object, not of numbers"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_another_shape_or_kind(tmp_path, case):
    field, value, says = ARRAYS[case]
    write_npz(tmp_path / "r.npz", **{f"b/{field}": value})
    refused(tmp_path, rf"r\.npz.*b/{field}.*{says}")


def test_one_person_is_not_two_and_two_are_not_one(tmp_path):
    write_npz(tmp_path / "r.npz", with_entry(name="a", dataset="e"))
    refused(tmp_path, "two recordings are called d/a")
    entries = with_entry(dataset="d/x", subject="y")
    entries[0]["subject"] = "x/y"
    write_npz(tmp_path / "r.npz", entries)
    refused(tmp_path, "subjects of two data sets would both be d/x/y")
    write_npz(tmp_path / "r.npz", with_entry(subject=7))
    assert [r.subject for r in datasets.load(tmp_path)[1]] == ["a", "7"]
    write_npz(tmp_path / "r.npz", [])
    refused(tmp_path, "hold no recording")


def packed(path, name, member, **claims):
    """An .npz whose directory claims another size for one member."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", member)
        for claim, value in claims.items():
            setattr(archive.getinfo(f"{name}.npy"), claim, value)


def header_of(shape, content=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


BOMBS = {
    "zeros": (header_of((1, 2**28), bytes(2**26)), {}, "takes 1073741824 bytes, and 67108864 are there"),
    "a large shape": (
        header_of((10**6, 10**6), bytes(40)),
        {},
        "takes 4000000000000 bytes, and 40 are there",
    ),
    "a shape beyond numbers": (header_of((2**62, 2**62)), {}, "and 0 are there"),
    "a negative shape": (header_of((-1, -10), bytes(40)), {}, "shape"),
    "a directory that lies": (
        header_of((1, 10**12)),
        {"file_size": 4 * 10**12 + 128},
        "would unpack to 3,72",
    ),
    "a directory that lies low": (
        header_of((1, 10**7), bytes(4 * 10**7)),
        {"file_size": 168},
        "Bad CRC",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_sizes_are_looked_at_before_anything_is_unpacked(tmp_path, case):
    member, claims, says = BOMBS[case]
    path = tmp_path / "r.npz"
    write_npz(path, with_entry(name="z"))
    with np.load(path) as archive:
        rest = {name: archive[name] for name in archive.files}
    np.savez(path, **rest, **{"z/hr": HR})
    packed(path, "z/ppg", member, **claims)
    tracemalloc.start()
    refused(tmp_path, says)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_what_packs_too_well_is_refused_and_what_is_large_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "UNPACKED", 2**16)
    path = tmp_path / "r.npz"
    write_npz(path, **{"a/ppg": np.zeros((1, 10**6), np.float32)})
    assert len(datasets.load(path)[1]) == 2
    with np.load(path) as archive:
        np.savez_compressed(path, **{name: archive[name] for name in archive.files})
    write_npz(tmp_path / "s.npz")  # beside others it is not passed over
    refused(
        tmp_path, "r.npz: would unpack to 0.0 GiB, over 100 times its size: if that is meant, save it with"
    )


def test_a_half_copied_file_beside_others_is_not_passed_over(tmp_path):
    """Its subjects would be missing, and nobody the wiser."""
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz", with_entry(name="c"))
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:3000])
    np.savez(tmp_path / "other.npz", x=HR)
    refused(tmp_path, r"b\.npz: not a readable \.npz")


# ---- CSV files


def write_bidmc(folder, signals=None, numerics=None):
    t, ppg = np.arange(3000) / 125, wave(125)
    rows = "".join(f"{a:.3f},{b:.4f}\n" for a, b in zip(t, ppg, strict=True))
    shown = "".join(f"{k},80\n" for k in range(25))
    for name, text in (("Signals", signals), ("Numerics", numerics)):
        text = text or (lambda plain: plain.encode())
        plain = f"Time [s], PLETH\n{rows}" if name == "Signals" else f"Time [s], HR\n{shown}"
        (folder / f"bidmc_01_{name}.csv").write_bytes(text(plain))


CSVS = {
    "empty": (lambda text: b"", "no column Time .s.; it has no header"),
    "latin-1 far below": (lambda text: text.encode()[:20_000] + b"\xe9\n", "not a text file in UTF-8"),
    "UTF-16": (lambda text: text.encode("utf-16"), "not a text file in UTF-8"),
    "a row cut short": (
        lambda text: text.encode()[:-4].rpartition(b",")[0],
        "a cell isn't a number or is missing",
    ),
    "a column twice": (
        lambda text: text.replace("PLETH", "PLETH,PLETH", 1).encode(),
        "the column PLETH twice",
    ),
    "the header only": (lambda text: text.partition("\n")[0].encode() + b"\n", "0 samples, too few"),
    "control characters": (
        lambda text: text.replace("PLETH", "\x1b]0;", 1).encode(),
        r"it has .*'\\x1b\]0;'",
    ),
    "a time that is wrong": (lambda text: text.encode() + b"1e300,1\n", "the rate by its Time .s. is"),
    "no time": (lambda text: text.encode() + b"nan,1\n", "out of order"),
}


@pytest.mark.parametrize("case", CSVS)
def test_tables_that_are_none(tmp_path, case):
    text, says = CSVS[case]
    write_bidmc(tmp_path, signals=text)
    refused(tmp_path, rf"bidmc_01_Signals\.csv: .*{says}")


@pytest.mark.parametrize(
    ("end", "says"),
    [(b"1e300,80\n", "ends long after"), (b"3,80\n", "out of order"), (b"nan,80\n", "out of order")],
)
def test_labels_of_another_time(tmp_path, end, says):
    write_bidmc(tmp_path, numerics=lambda text: text.encode() + end)
    refused(tmp_path, rf"bidmc_01_Numerics\.csv: .*{says}")


# ---- files that are none


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "r.npz")
    with pytest.raises(InputError, match="no known recordings"):
        datasets.recognise(tmp_path)
    os.mkfifo(tmp_path / "S1.pkl")
    refused(tmp_path, r"S1\.pkl: not a file that can be read", format="ppg_dalia")
    (tmp_path / "S1.pkl").unlink()
    (tmp_path / "S1.pkl").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="not a file that can be read: remove it, or mend the link"):
        datasets.fingerprint(tmp_path, "ppg_dalia")


def test_a_folder_whose_name_is_no_text(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    folder.mkdir()
    write_bami(folder)
    assert datasets.fingerprint(tmp_path, "bami")
    assert len(datasets.load(tmp_path)[1]) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_memory_of_hashes_is_made_again(tmp_path, text):
    write_npz(tmp_path / "r.npz")
    whole = datasets.fingerprint(tmp_path / "r.npz", "recordings_npz")
    memory = tmp_path / "hashes.json"
    memory.write_bytes(text)
    assert datasets.fingerprint(tmp_path / "r.npz", "recordings_npz", tmp_path) == whole
    assert list(json.loads(memory.read_text()).values())


@pytest.mark.parametrize(
    ("format", "options", "says"),
    [
        ("recordings_npz", {"bidmc_lag_s": "six"}, "data.options.bidmc_lag_s is 'six': give a number"),
        ("recordings_npz", {"bidmc_lag_s": float("nan")}, "data.options.bidmc_lag_s is nan"),
        ("recordings_npz", {"datasets": None}, "data.options.datasets is None: give a list of texts"),
        ("recordings_npz", {"datasets": [1]}, "data.options.datasets is .1.: give a list of texts"),
        ("galaxyppg", {"device": None}, "data.options.device is None: give text, as 'watch'"),
        ("wildppg", {"rows_fs": True}, "data.options.rows_fs is True: give a number"),
    ],
)
def test_options_of_another_kind(format, options, says):
    with pytest.raises(InputError, match=says):
        datasets.full_options(format, options)


def test_random_damage_ends_in_recordings_or_an_input_error():
    """In a process of its own with bounded memory, so that a crash is seen as one."""
    folders = int(os.environ.get("KDSWEEP_FUZZ", "1")) * 500
    script = Path(__file__).with_name("fuzz_recordings.py")
    done = subprocess.run([sys.executable, str(script), str(folders), "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{folders} folders" in done.stdout
