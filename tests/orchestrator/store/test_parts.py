"""Parquet parts are only a faster way to what the JSON files say, whatever happened to either."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store import parts
from orchestrator.store import store as stores
from orchestrator.store.check import check, repair, train_again
from orchestrator.store.metric import by_metric
from orchestrator.store.store import Store

OLD_S = 1_000_000_000


def plain(store: Store) -> list[dict[str, Any]]:
    """What the result.json files alone say."""
    found = []
    for path in sorted(store.path.glob("points/*/result.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            continue
    return found


def write(store: Store, result: dict[str, Any], at: int = 0) -> None:
    """A result that was written long ago: young ones go into no part."""
    store.write_result(result["id"], result)
    os.utime(store.folder(result["id"]) / "result.json", (OLD_S + at, OLD_S + at))


def part_files(store: Store) -> list[Path]:
    return sorted((store.path / "results").glob("*.parquet"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which few points are many."""
    for name, value in {"MANY": 3, "LARGE": 5, "FULL": 10, "SMALL": 3}.items():
        monkeypatch.setattr(parts, name, value)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The points whose result.json was opened."""
    opened: list[str] = []
    whole = Store.result

    def result(self: Store, id: str) -> dict[str, Any]:
        opened.append(id)
        return whole(self, id)

    monkeypatch.setattr(Store, "result", result)
    return opened


@pytest.fixture
def many(tmp_path: Path, small: None, whole_result: Any) -> Store:
    """Twelve results, and parts of them."""
    store = Store(tmp_path)
    for i in range(12):
        write(store, whole_result(f"{i:02}", mae_bpm=3 + i, versions={"torch": "2"}, more={"x": [i]}))
    store.compact()
    assert part_files(store)
    return store


def test_the_second_reading_opens_no_json(many: Store, reads: list[str]) -> None:
    assert list(many.results()) == plain(many)
    assert [f["mae_bpm"] for f in many.figures()] == [3.0 + i for i in range(12)]
    assert reads == []


def test_figures_are_those_of_the_results(many: Store) -> None:
    from_parts = list(many.figures())
    names = (*parts.FIGURES, "versions")
    assert from_parts == [
        {name: r.get(name) for name in names} | {"by_metric": by_metric(r)} for r in plain(many)
    ]
    for path in part_files(many):
        path.unlink()
    assert list(many.figures()) == from_parts


def test_parts_are_tables_that_others_read(many: Store) -> None:
    import pandas as pd

    table = pd.concat(map(pd.read_parquet, part_files(many)))
    assert {"id", "size", "mtime_ns", "json", "mae_bpm", "params", "finished_at"} <= set(table.columns)
    assert sorted(table["id"]) == [r["id"] for r in plain(many)]
    assert [json.loads(text) for text in table.sort_values("id")["json"]] == plain(many)


@pytest.mark.parametrize("how", ["retry", "delete", "rewrite"])
def test_what_is_withdrawn_or_changed_is_not_read_from_a_part(
    many: Store, whole_result: Any, how: str
) -> None:
    if how == "retry":
        train_again(many.folder("03"))
    elif how == "delete":
        (many.folder("03") / "result.json").unlink()
    else:
        write(many, whole_result("03", mae_bpm=99.0), at=1)
    found = {r["id"]: r["mae_bpm"] for r in many.results()}
    assert found == {r["id"]: r["mae_bpm"] for r in plain(many)}
    assert found.get("03") == (99.0 if how == "rewrite" else None)
    assert many.failures() == {}


def test_a_result_that_was_damaged_since_is_told(many: Store) -> None:
    (many.folder("03") / "result.json").write_text("{}", encoding="utf-8")
    assert "03" not in {r["id"] for r in many.results()}
    assert set(many.failures()) == {"03"}


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more", "bits"])
def test_a_damaged_part_is_told_once_and_replaced(
    many: Store, capsys: pytest.CaptureFixture[str], damage: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_warned", set())
    first = part_files(many)[0]
    if isinstance(damage, str):
        column = pq.ParquetFile(first).metadata.row_group(0).column(3)
        content = bytearray(first.read_bytes())
        content[column.data_page_offset + column.total_compressed_size - 20] ^= 1
        damage = bytes(content)
    first.write_bytes(damage)
    for _ in range(2):
        assert list(many.results()) == plain(many)
        assert list(many.figures())
    assert capsys.readouterr().err.count("warning") == 1
    assert first not in part_files(many)


def test_check_finds_a_damaged_part_and_removes_it(many: Store) -> None:
    first = part_files(many)[0]
    assert not [f for f in check(many) if f.path.suffix == ".parquet"]
    first.write_bytes(b"PAR1")
    found = [f for f in check(many) if f.path == first]
    assert [f.how for f in found] == ["remove"]
    repair(many, found)
    assert not first.exists()
    assert list(many.results()) == plain(many)


def test_rows_that_other_rules_checked_are_checked_anew(
    many: Store, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = part_files(many)
    monkeypatch.setattr(parts, "RULES", "newer")
    assert list(many.results()) == plain(many)
    assert len(reads) == 12
    assert not set(before) & set(part_files(many))
    assert list(many.results()) == plain(many)
    assert len(reads) == 12


def test_where_nothing_can_be_written_there_are_no_parts(
    many: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise OSError(30, "Read-only file system")

    for path in part_files(many):
        path.unlink()
    monkeypatch.setattr(parts, "write_atomically", refuse)
    assert list(many.results()) == plain(many)
    assert not part_files(many)
    assert capsys.readouterr().err == ""


def test_many_small_parts_are_merged(tmp_path: Path, small: None, whole_result: Any) -> None:
    store = Store(tmp_path)
    counts = []
    for i in range(0, 60, 3):
        for k in range(i, i + 3):
            write(store, whole_result(f"{k:03}"))
        store.compact()
        counts.append(len(part_files(store)))
    assert max(counts) <= 60 / parts.FULL + parts.SMALL
    assert list(store.results()) == plain(store)


def test_what_no_column_holds_is_read_from_json(many: Store, whole_result: Any, reads: list[str]) -> None:
    odd: dict[str, Any] = {"big": {"seed": 2**70}, "odd": {"arch": "\ud800"}}
    for id, more in odd.items():
        write(many, whole_result(id, **more))
    many.compact()
    assert list(many.results()) == plain(many)
    del reads[:]
    assert list(many.results()) == plain(many)
    assert reads == ["big", "odd"]


def test_young_results_go_into_no_part(many: Store, whole_result: Any) -> None:
    """A file of this moment may be changed again without its time showing it."""
    many.write_result("young", whole_result("young"))
    many.compact()
    path = many.folder("young") / "result.json"
    stat = path.stat()
    path.write_text(
        path.read_text(encoding="utf-8").replace('"mae_bpm": 3.0', '"mae_bpm": 9.0'), encoding="utf-8"
    )
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert next(r for r in many.results() if r["id"] == "young")["mae_bpm"] == 9.0


def test_a_small_sweep_imports_no_pyarrow(tmp_path: Path, whole_result: Any) -> None:
    Store(tmp_path).write_result("a", whole_result("a"))
    code = "import sys; from orchestrator.store.store import Store; s = Store(sys.argv[1])\n"
    code += "assert len(list(s.results())) == len(list(s.figures())) == 1; s.compact(); s.failures()\n"
    code += "print([m for m in ('numpy', 'pyarrow', 'pandas', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_error_is_read_once_while_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    whole = stores.read_json
    monkeypatch.setattr(stores, "read_json", lambda path, *more: opened.append(path) or whole(path, *more))
    for _ in range(3):
        store = Store(tmp_path)  # as `status --watch` makes one at every refresh
        if not opened:
            store.write_error("a", {"id": "a", "type": "Diverged", "message": "boom"})
        assert store.failures()["a"]["message"] == "boom"
    assert len(opened) == 1
    store.write_error("a", {"id": "a", "type": "Diverged", "message": "again"})
    assert store.failures()["a"]["message"] == "again"


def _read_and_compact(path: Path, n: int) -> None:
    parts.MANY, parts.LARGE, parts.FULL, parts.SMALL = 3, 5, 10, 3
    for i in range(n):
        store = Store(path)
        assert len(list(store.results() if i % 2 else store.figures())) == 40
        store.compact()


def test_readers_that_write_parts_at_once_do_no_harm(
    tmp_path: Path, small: None, whole_result: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    for i in range(40):
        write(store, whole_result(f"{i:02}"))
    context = multiprocessing.get_context("spawn")
    readers = [context.Process(target=_read_and_compact, args=(tmp_path, 6)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert list(store.results()) == plain(store)
    assert capfd.readouterr().err == ""


IDS = [f"{i:02}" for i in range(8)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "write", "write", "retry", "damage", "delete", "compact", "race", "break", "read"]
        ),
        st.sampled_from(IDS),
        st.integers(1, 9),
    ),
    min_size=8,
    max_size=30,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_results_are_what_the_json_says_after_anything(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    whole_result: Any,
    small: None,
    steps: list[tuple[str, str, int]],
) -> None:
    monkeypatch.setattr(stores, "warn", lambda text: None)
    store = Store(tmp_path_factory.mktemp("any"))
    for at, (what, id, n) in enumerate(steps):
        path = store.folder(id) / "result.json"
        if what == "write":
            write(store, whole_result(id, mae_bpm=float(n)), at)
        elif what == "retry":
            train_again(store.folder(id))
        elif what == "damage" and path.exists():
            path.write_text(path.read_text(encoding="utf-8")[:-n], encoding="utf-8")
        elif what == "delete":
            path.unlink(missing_ok=True)
        elif what == "compact":
            store.compact()
        elif what == "race" and len(store.ids()) >= parts.MANY:  # two read, then both write
            readers = [Store(store.path)._read(whole=bool(n % 2), least=1) for _ in range(2)]
            for pair in zip(*readers, strict=False):
                assert pair[0] == pair[1]
            for reader in readers:
                list(reader)
        elif what == "break" and (files := part_files(store)):
            files[n % len(files)].write_bytes(b"PAR1" * n)
        assert list(store.results()) == plain(store)
        assert [f["mae_bpm"] for f in store.figures()] == [r["mae_bpm"] for r in plain(store)]
