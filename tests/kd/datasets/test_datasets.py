"""Recognising formats, the .npz of recordings, and pickles that must not run."""

import collections
import functools
import json
import os
import pickle
import pickletools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kd import datasets
from kd.datasets.pickles import read_pickle
from kd.datasets.reading import listing, read_columns
from kd.errors import InputError
from kd.recordings import ACC


def save_npz(path, entries, arrays):
    np.savez(path, meta_json=np.frombuffer(json.dumps(entries).encode(), np.uint8), **arrays)


def two_sets(path, **more):
    """An .npz with a wrist and a BIDMC recording, in int16 as real files are."""
    signal = (np.random.default_rng(0).standard_normal((2, 1000)) * 8000).astype(np.int16)
    entries = [
        {"name": "w1", "dataset": "wrist", "subject": "a", "fs": 25, "channels": 2},
        {"name": "b1", "dataset": "BIDMC", "subject": "b", "fs": 25.0} | more,
    ]
    hr = np.linspace(60, 90, 17, dtype=np.float32)
    save_npz(path, entries, {"w1/ppg": signal, "w1/hr": hr, "b1/ppg": signal[:1], "b1/hr": hr})
    return signal, hr


def test_recordings_npz_gives_what_is_in_it(tmp_path):
    signal, hr = two_sets(tmp_path / "r.npz")
    name, (wrist, bidmc) = datasets.load(tmp_path / "r.npz")
    assert name == "recordings_npz"
    assert (wrist.name, wrist.dataset, wrist.subject, wrist.fs) == ("w1", "wrist", "a", 25.0)
    assert wrist.ppg.dtype == np.float32
    np.testing.assert_array_equal(wrist.ppg, signal)
    np.testing.assert_array_equal(wrist.hr, hr)
    assert (wrist.hr_window_s, wrist.hr_stride_s, wrist.hr_start_s) == (8.0, 2.0, 0.0)
    assert bidmc.hr_start_s == -6.0, "the monitor's lag: label k + 3 belongs to window k"


def test_recordings_npz_takes_options_and_times(tmp_path):
    two_sets(tmp_path / "r.npz", hr_window_s=10, hr_stride_s=5, hr_start_s=1.5)
    (only,) = datasets.load(tmp_path / "r.npz", options={"datasets": "BIDMC", "bidmc_lag_s": 0})[1]
    assert (only.hr_window_s, only.hr_stride_s, only.hr_start_s) == (10.0, 5.0, 1.5)
    assert len(datasets.load(tmp_path, options={"datasets": ["BIDMC", "wrist"]})[1]) == 2
    with pytest.raises(InputError, match="no recording of BAMI-1: it has BIDMC, wrist"):
        datasets.load(tmp_path / "r.npz", options={"datasets": ["BIDMC", "BAMI-1"]})


def test_recordings_npz_may_have_an_accelerometer(tmp_path):
    signal, hr = two_sets(tmp_path / "r.npz")
    acc = (np.random.default_rng(1).standard_normal((3, 2000)) * 900).astype(np.int16)
    entries = [
        {"name": "w1", "dataset": "wrist", "subject": "a", "fs": 25, "acc_fs": 50, "acc_axes": 3},
        {"name": "w2", "dataset": "wrist", "subject": "b", "fs": 25},
    ]
    two = {"w1/ppg": signal, "w1/hr": hr, "w1/acc": acc, "w2/ppg": signal, "w2/hr": hr}
    save_npz(tmp_path / "r.npz", entries, two)
    with_acc, without = datasets.load(tmp_path / "r.npz")[1]
    assert with_acc.sensors[ACC].fs == 50
    np.testing.assert_array_equal(with_acc.sensors[ACC].values, acc)
    assert with_acc.sensors[ACC].values.dtype == np.float32
    assert without.sensors == {}
    del entries[0]["acc_fs"]  # then the PPG's rate, at which it would be twice as long
    save_npz(tmp_path / "r.npz", entries, two)
    with pytest.raises(InputError, match=r"w1/acc: 2000 samples at 25 Hz last 80 s.*rates contradict"):
        datasets.load(tmp_path / "r.npz")
    save_npz(tmp_path / "r.npz", entries, {**two, "w1/acc": acc[:2]})
    with pytest.raises(InputError, match=r"says acc_axes 3 of w1, and w1/acc has shape \(2, 2000\)"):
        datasets.load(tmp_path / "r.npz")
    del two["w1/acc"]
    save_npz(tmp_path / "r.npz", entries, two)
    with pytest.raises(InputError, match="says acc_axes 3 of w1, and w1/acc is missing"):
        datasets.load(tmp_path / "r.npz")


def broken_npz(path, kind):
    if kind == "no zip":
        path.write_bytes(b"PK\x03\x04 and then nothing")
    elif kind == "cut short":
        two_sets(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "objects":
        np.savez(path, meta_json=np.array([{"name": "a"}], dtype=object))
    elif kind == "no json":
        np.savez(path, meta_json=np.frombuffer(b"not json", np.uint8))
    elif kind == "no subject":
        save_npz(path, [{"name": "a", "dataset": "d", "fs": 25}], {})
    elif kind == "no list":
        save_npz(path, {"name": "a"}, {})
    elif kind == "no hr":
        save_npz(
            path,
            [{"name": "a", "dataset": "d", "subject": "s", "fs": 25}],
            {"a/ppg": np.zeros((1, 300), np.int16)},
        )
    elif kind == "fs":
        save_npz(path, [{"name": "a", "dataset": "d", "subject": "s", "fs": "fast"}], {"a/ppg": 0, "a/hr": 0})
    elif kind == "twice":
        entry = {"name": "a", "dataset": "d", "subject": "s", "fs": 25}
        save_npz(path, [entry, entry], {"a/ppg": np.zeros((1, 300)), "a/hr": np.zeros(1)})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("no zip", "not a readable .npz"),
        ("cut short", "not a readable .npz"),
        ("objects", "not a readable .npz"),
        ("no json", "meta_json is not UTF-8 JSON"),
        ("no subject", "entry 0 has no subject"),
        ("no list", "entry 0 has no name"),
        ("no hr", "a/hr is missing"),
        ("fs", "meta_json entry 0: fs is 'fast'"),
        ("twice", "two recordings are called d/a"),
    ],
)
def test_recordings_npz_that_are_broken_are_refused_by_name(tmp_path, kind, says):
    path = tmp_path / "broken.npz"
    broken_npz(path, kind)
    with pytest.raises(InputError, match=says) as error:
        datasets.load(path)
    assert "broken.npz" in str(error.value)


def test_nothing_known_lists_what_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="no known recordings here") as error:
        datasets.recognise(tmp_path)
    assert all(name in str(error.value) for name in datasets.FORMATS)
    with pytest.raises(InputError, match="no such file"):
        datasets.recognise(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no spc recordings here"):
        datasets.load(tmp_path, "spc")
    with pytest.raises(InputError, match="did you mean wildppg"):
        datasets.load(tmp_path, "wildpgp")
    with pytest.raises(InputError, match="did you mean datasets"):
        datasets.full_options("recordings_npz", {"dataset": "a"})


def test_a_folder_of_two_formats_is_not_half_read(tmp_path):
    two_sets(tmp_path / "r.npz")
    (tmp_path / "S1.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"several formats \(recordings_npz, ppg_dalia\)"):
        datasets.recognise(tmp_path)
    assert len(datasets.load(tmp_path, "recordings_npz")[1]) == 2


def test_a_folder_is_walked_once_whatever_the_number_of_formats(tmp_path, monkeypatch):
    for k in range(20):
        (tmp_path / f"d{k}").mkdir()
        (tmp_path / f"d{k}" / "x.txt").touch()
    two_sets(tmp_path / "d3" / "r.npz")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "S1.pkl").touch()
    (tmp_path / "._S2.pkl").touch()
    scanned = []
    real = os.scandir

    def count(path):
        scanned.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", count)
    assert datasets.recognise(tmp_path) == "recordings_npz"
    assert len(scanned) == len(set(scanned)) == 21


def test_listing_is_sorted_and_takes_a_single_file(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    assert [p.name for p in listing(tmp_path)] == ["a", "b", "c"]
    assert listing(tmp_path / "a") == [tmp_path / "a"]
    assert listing(tmp_path / "d") == []


def test_columns_by_name_with_blanks_and_empty_cells(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeff a, b ,c\n1, 2,x\n3,,y\n 5 ,6 ,z\n")
    b, a = read_columns(path, ["b", "a"])
    np.testing.assert_array_equal(b, [2, np.nan, 6])
    np.testing.assert_array_equal(a, [1, 3, 5])
    path.write_text("a,b\n")
    assert [len(c) for c in read_columns(path, ["a", "b"])] == [0, 0]
    with pytest.raises(InputError, match=r"t\.csv: no column d; it has a, b"):
        read_columns(path, ["a", "d"])
    path.write_text("a,b\n1,two\n")
    with pytest.raises(InputError, match="isn't a number"):
        read_columns(path, ["a", "b"])
    path.write_bytes(b"\xff\xfe\x00\x81\x8d")
    with pytest.raises(InputError, match="not a text file"):
        read_columns(path, ["a"])


class Reduces:
    """Pickles to a call of anything."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def touch(path):
    return Reduces(os.system, (f"touch {path}",))


EVIL = {
    "os.system": touch,
    "in a dict": lambda path: {"signal": {"wrist": {"BVP": touch(path)}}, "label": np.zeros(2)},
    "in an object array": lambda path: np.array([touch(path), 1], dtype=object),
    "eval": lambda path: Reduces(eval, (f"open({str(path)!r}, 'w')",)),
    "open": lambda path: Reduces(open, (str(path), "w")),
    "getattr": lambda path: Reduces(getattr, ("", "join")),
    "partial": lambda path: Reduces(functools.partial, (print, "x")),
    "numpy load": lambda path: Reduces(np.load, (str(path),)),
    "numpy fromfile": lambda path: Reduces(np.fromfile, (str(path),)),
    "a class": lambda path: collections.Counter("aab"),
    "an array subclass": lambda path: np.ma.array([1, 2]),
    "a matrix of structures": lambda path: np.zeros(3, dtype=[("a", "f8"), ("b", "O")]),
    "a dtype of structures": lambda path: np.dtype([("a", "O")]),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", EVIL)
def test_pickles_that_would_run_something_are_refused(tmp_path, name, protocol):
    mark, path = tmp_path / "ran", tmp_path / "S1.pkl"
    path.write_bytes(pickle.dumps(EVIL[name](mark), protocol=protocol))
    with pytest.raises(InputError, match="refused to open this pickle"):
        read_pickle(path)
    assert not mark.exists()


def test_the_refused_pickle_would_have_run(tmp_path):
    """The test above can fail: what it refuses does run in Python's own unpickler."""
    pickle.loads(pickle.dumps(touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def array_of(dtype, shape, content):
    """Pickles as numpy's arrays do, but with any state."""
    return Reduces(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, content))


def dtype_of(name, order="|", subarray=None, names=None, fields=None, size=-1, flags=0):
    """Pickles as numpy's dtypes do, but with any state."""
    state = (3, order, subarray, names, fields, size, 1, flags)
    return Reduces(np.dtype, (name, False, True), state)


RECONSTRUCT, SCALAR = np.zeros(1).__reduce__()[0], np.float64(1).__reduce__()[0]
EIGHT = b"\x08\x07\x06\x05\x04\x03\x02\x01"
LIES = {
    "more values than bytes": array_of(np.dtype("f8"), (127,), EIGHT),
    "more objects than the list has": array_of(np.dtype("O"), (127,), [1, 2]),
    "numbers as objects": array_of(np.dtype("O"), (1,), EIGHT),
    "numbers as objects in a structure, without its flags": array_of(
        dtype_of("V8", names=("a",), fields={"a": (np.dtype("O"), 0)}, size=8), (1,), EIGHT
    ),
    "a field outside the structure": array_of(
        dtype_of("V8", names=("a",), fields={"a": (np.dtype("f8"), 4096)}, size=8), (1,), EIGHT
    ),
    "a subarray": array_of(dtype_of("V8", subarray=(np.dtype("O"), (1,)), size=8), (1,), EIGHT),
    "a byte order that is none": array_of(dtype_of("f8", order="?"), (1,), EIGHT),
    "a number as one object": Reduces(SCALAR, (np.dtype("O"), EIGHT)),
    "a negative shape": array_of(np.dtype("f8"), (-1,), EIGHT),
    "no dtype": array_of("f8", (1,), EIGHT),
}


NDARRAY_CALL = (
    b"\x80\x02cnumpy\nndarray\nK\x01\x85U\x01OU\x08" + b"A" * 8 + b"\x87R."
)  # ndarray((1,), "O", b"A" * 8): the bytes as a pointer
F1 = b"cnumpy\ndtype\nU\x02S1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
RECONSTRUCTED = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
FILLED = RECONSTRUCTED + b"(K\x01K\x01\x85" + F1 + b"\x89U\x01atb"
GADGETS = {
    "ndarray called": NDARRAY_CALL,
    "ndarray called, by its new name": NDARRAY_CALL.replace(b"cnumpy\n", b"cnumpy._core.multiarray\n"),
    "ndarray as an object's class": b"\x80\x02cnumpy\nndarray\nK\x01\x85U\x01O\x86\x81.",
    "ndarray with keywords": b"\x80\x04cnumpy\nndarray\n)}\x92.",
    "an instance of protocol 0": b"(S'id'\nios\nsystem\n.",
    "an object of protocol 1": b"(cos\nsystem\nU\x02ido.",
    "a name of protocol 4": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "a name with a path": b"\x80\x04\x8c\x08builtins\x8c\x0bset.__new__\x93)R.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\nU\x01aU\x01b\x86R.",
    "a persistent id": b"Pid\n.",
    "a persistent id of protocol 1": b"\x80\x02U\x02idQ.",
    "an extension": b"\x80\x02\x82\xf0.",
    "a buffer out of band": b"\x80\x05\x97.",
    "a state of a dictionary": b"\x80\x02}}U\x09__class__Nsb.",
    "a state of a filled array": b"\x80\x02" + FILLED + b"(K\x01K\x02\x85" + F1 + b"\x89U\x02abtb.",
    "a member of an array": b"\x80\x02" + FILLED + b"K\x00K\x01s.",
    "an array without content": b"\x80\x02" + RECONSTRUCTED + b".",
    "an array without content in a list": b"\x80\x02]" + RECONSTRUCTED + b"a.",
    "an array of another class": b"\x80\x02"
    + RECONSTRUCTED.replace(b"cnumpy\nndarray", b"cnumpy\nmemmap")
    + b".",
    "a function as a value": b"\x80\x02c__builtin__\nset\n.",
    "a function in a list": b"\x80\x02]c__builtin__\nset\na.",
    "a function as a key": b"\x80\x02}c__builtin__\nset\nNs.",
    "a function in a call's argument": b"\x80\x02c__builtin__\nset\nc__builtin__\nset\n\x85R.",
    "memory by a number": b"\x80\x02c__builtin__\nbytearray\nL99999999999L\n\x85R.",
    "a mark as a value": b"\x80\x02(.",
    "codecs": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x03hex\x86R.",
}


@pytest.mark.parametrize("name", LIES)
def test_arrays_that_lie_about_themselves_are_refused(tmp_path, name):
    """Sizes and dtypes that numpy would believe, and then read memory it must not."""
    path = tmp_path / "S1.pkl"
    path.write_bytes(pickle.dumps(LIES[name], protocol=2))
    with pytest.raises(InputError, match=r"S1\.pkl"):
        read_pickle(path)


def test_code_registered_by_number_is_refused(tmp_path):
    """The unpickler's extension registry is another way to a function."""
    import copyreg

    copyreg.add_extension("os", "system", 240)
    try:
        path = tmp_path / "S1.pkl"
        path.write_bytes(
            pickle.dumps(touch(tmp_path / "ran"), protocol=2).replace(b"cposix\nsystem\n", b"\x82\xf0")
        )
        with pytest.raises(InputError):
            read_pickle(path)
        assert not (tmp_path / "ran").exists()
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize("name", GADGETS)
def test_gadgets_are_refused(tmp_path, name):
    """Programs that reach functions or memory otherwise than by a plain call, some of them through numpy."""
    path = tmp_path / "S1.pkl"
    path.write_bytes(GADGETS[name])
    with pytest.raises(InputError, match="refused to open this pickle"):
        read_pickle(path)


@pytest.mark.parametrize("size", ["1" * 19, "9" * 400])
def test_a_claimed_size_takes_no_memory(tmp_path, size):
    path = tmp_path / "S1.pkl"
    path.write_bytes(NDARRAY_CALL.replace(b"K\x01\x85", b"L" + size.encode() + b"L\n\x85"))
    tracemalloc.start()
    with pytest.raises(InputError):
        read_pickle(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_content_copied_over_and_over_is_refused(tmp_path):
    """A few bytes of program may not make many arrays of the same long content."""
    once = RECONSTRUCTED + b"(K\x01M\x10\x27\x85" + F1 + b"\x89h\x00tb"
    program = b"\x80\x02X\x10\x27\x00\x00" + b"a" * 10000 + b"q\x000" + b"](" + once * 200 + b"e."
    (tmp_path / "few.pkl").write_bytes(program.replace(once * 200, once * 3))
    assert [a.shape for a in read_pickle(tmp_path / "few.pkl")] == [(10000,)] * 3
    (tmp_path / "many.pkl").write_bytes(program)
    with pytest.raises(InputError, match="over and over"):
        read_pickle(tmp_path / "many.pkl")


def test_a_deep_nest_neither_recurses_nor_hashes(tmp_path):
    path = tmp_path / "S1.pkl"
    path.write_bytes(b"\x80\x02)" + b"\x85" * 200_000 + b".")
    assert isinstance(read_pickle(path), tuple)
    path.write_bytes(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")
    with pytest.raises(InputError, match="a key"):
        read_pickle(path)


def test_random_programs_end_in_a_value_or_an_input_error():
    """In a process of its own with bounded memory, so that a crash is seen as one."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fuzz_pickles.py")), "20000", "0"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "20000 programs" in done.stdout


CONTENTS = {
    "floats": np.linspace(0, 1, 7)[:, None],
    "float32": np.float32([1, 2, 3]),
    "integers": np.arange(12, dtype=np.int16).reshape(3, 4),
    "columns first": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">i4"),
    "booleans": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["walking", "sitting"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3)),
    "no axes": np.array(3.5),
    "strided": np.arange(20.0)[::3],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", CONTENTS)
def test_arrays_come_through_every_protocol(tmp_path, name, protocol):
    path = tmp_path / "S1.pkl"
    path.write_bytes(pickle.dumps({name: CONTENTS[name]}, protocol=protocol))
    got = read_pickle(path)[name]
    assert got.dtype.newbyteorder("=") == CONTENTS[name].dtype.newbyteorder("=")
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(np.asarray(got), CONTENTS[name])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_through_every_protocol(tmp_path, protocol):
    value = {
        "a": [1, 2.5, 10**30, -1, True, None, "x", b"y", (1,), {2}, frozenset({3}), 1j, bytearray(b"z")],
        "scalars": [np.float64(1.5), np.int32(-3), np.bool_(True), np.float32(0.1)],
        "ordered": collections.OrderedDict(b=1, a=2),
    }
    path = tmp_path / "S1.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_pickle(path) == value


def test_a_pickle_of_python_2_is_read(tmp_path):
    """As PPG-DaLiA's are written: text in bytes, numpy's old package names."""
    content = np.array([60.5, 61.25]).tobytes()
    old = (
        b"\x80\x02}U\x05labelcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x10" + content + b"tbs."
    )
    pickletools.dis(old, out=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    np.testing.assert_array_equal(pickle.loads(old, encoding="latin1")["label"], [60.5, 61.25])
    path = tmp_path / "S1.pkl"
    path.write_bytes(old)
    np.testing.assert_array_equal(read_pickle(path)["label"], [60.5, 61.25])


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"a": np.zeros(9)})[:-20]])
def test_broken_pickles_are_named(tmp_path, content):
    path = tmp_path / "S1.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"S1\.pkl"):
        read_pickle(path)
