"""Files whole or not there, and logs whose broken lines do no harm."""

from pathlib import Path

import pytest

from kd.errors import InputError
from kd.files import (
    append_json_line,
    read_json,
    read_json_lines,
    write_atomically,
    write_json,
    write_text,
)


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "né", durable=durable)

    def half(temporary: Path) -> None:
        temporary.write_text("half")
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
