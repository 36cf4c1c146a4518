"""Files whole or not there, and logs whose broken lines do no harm."""

import errno
import os
import random
import stat
from pathlib import Path

import numpy as np
import pytest

from kd.errors import InputError
from kd.files import (
    append_json_line,
    load_array,
    read_json,
    read_json_lines,
    save_array,
    write_atomically,
    write_json,
    write_text,
)


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "né", durable=durable)

    def half(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_atomically(path, half, durable=durable)
    assert path.read_bytes() == "né".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"mae": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_log_survives_lines_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert list(read_json_lines(path)) == []
    append_json_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'[1]\n{"n": "\xff\n{"n":')
    append_json_line(path, {"n": 2})
    assert list(read_json_lines(path)) == [{"n": 1}, {"n": 2}]


def test_text_that_is_not_utf8_and_json_that_is_no_mapping_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, said in [
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "holds list"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=said) as caught:
            read_json(path)
        assert str(path) in str(caught.value)
    path.write_text('{"a": "é"}', encoding="utf-8")
    assert read_json(path) == {"a": "é"}


def test_a_damaged_array_is_named_whatever_its_bytes(tmp_path: Path) -> None:
    path, array, dice = tmp_path / "a.npy", np.arange(12.0).reshape(3, 4), random.Random(0)
    save_array(path, array)
    np.testing.assert_array_equal(load_array(path, "make it again"), array)
    whole, refused = path.read_bytes(), 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(128)] = dice.randrange(256)
        path.write_bytes(bytes(data[: dice.choice([len(data), dice.randrange(len(data))])]))
        try:
            load_array(path, "make it again")
        except InputError as error:
            refused += 1
            said = str(error)
            assert said.startswith(f"{path} is not a readable array")
            assert said.endswith(": make it again")
    assert refused > 400
    with pytest.raises(InputError, match=r"gone\.npy is not a readable array"):
        load_array(tmp_path / "gone.npy", "make it again")
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match="make it again"):
        load_array(path, "make it again")


def test_files_follow_the_umask_and_the_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(0o002)
    try:

        def private(path: Path) -> None:  # as safetensors does
            path.unlink(missing_ok=True)
            path.touch(0o600)

        write_atomically(tmp_path / "model.safetensors", private)
        write_text(tmp_path / "a.json", "{}")
        append_json_line(tmp_path / "ledger.jsonl", {})
        save_array(tmp_path / "a.npy", np.zeros(2))
        os.umask(0o077)
        write_text(tmp_path / "mine.json", "{}")
    finally:
        os.umask(before)
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
    assert modes.pop("mine.json") == 0o600
    assert modes == dict.fromkeys(("model.safetensors", "a.json", "ledger.jsonl", "a.npy"), 0o664)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_leaves_no_half(tmp_path: Path, number: int) -> None:
    def write(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / "a.json", "{}")
    with pytest.raises(OSError, match="run again") as caught:
        write_atomically(tmp_path / "a.json", write)
    assert caught.value.filename == str(tmp_path / "a.json")
    assert [f.read_text(encoding="utf-8") for f in tmp_path.iterdir()] == ["{}"]
