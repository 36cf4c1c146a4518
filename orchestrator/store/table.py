"""The results of a sweep as rows of a table, and as pandas frames. Knows result.json.

pandas is imported where a frame is asked for.
"""

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kd.errors import InputError
from orchestrator.store.metric import Headline, mae_by_subject

if TYPE_CHECKING:
    import pandas as pd

WHOLE, REAL, TEXT, TIME = "Int64", "Float64", "string", "datetime64[ns, UTC]"
# column -> pandas type; what a result.json has besides (strategy arguments, recipe, versions) follows these
COLUMNS = {
    "point": TEXT,
    "role": TEXT,
    "arch": TEXT,
    "depth": WHOLE,
    "width": WHOLE,
    "init": TEXT,
    "strategy": TEXT,
    "teacher": TEXT,
    "fold": WHOLE,
    "seed": WHOLE,
    "params": WHOLE,
    "macs": WHOLE,
    "error_bpm": REAL,
    "mae_bpm": REAL,
    "rmse_bpm": REAL,
    "within_5_bpm": REAL,
    "mae_bpm_argmax": REAL,
    "mae_bpm_tracked": REAL,
    "coverage_90_tracked": REAL,
    "step_63_s": REAL,
    "step_5_bpm_s": REAL,
    "val_mae_bpm": REAL,
    "epochs": WHOLE,
    "best_epoch": WHOLE,
    "train_seconds": REAL,
    "total_seconds": REAL,
    "weight_bytes": WHOLE,
    "weight_bytes_int8": WHOLE,
    "activation_bytes": WHOLE,
    "device": TEXT,
    "data_fingerprint": TEXT,
    "data_group": TEXT,
    "teacher_group": TEXT,
    "recipe_version": WHOLE,
    "git_commit": TEXT,
    "finished_at": TIME,
}
NESTED = {"strategy_args": "args", "recipe": "recipe"}  # key of a result -> prefix of its columns
HEADLINE = "error_bpm"  # the error by the sweep's metric: of no result itself
GROUPS = ("subject", "dataset")
Row = dict[str, Any]
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def rows_of(results: Iterable[dict[str, Any]], headline: Headline) -> list[Row]:
    """A flat row a result, all with the same columns: COLUMNS, args.<name>, recipe.<name>; None = absent."""
    found = []
    for result in results:
        row = {"point": result["id"], **{key: result.get(key) for key in COLUMNS if key != "point"}}
        row[HEADLINE] = headline(result)
        for key, prefix in NESTED.items():
            row |= {f"{prefix}.{name}": _flat(value) for name, value in (result.get(key) or {}).items()}
        found.append(row)
    more = sorted({name for row in found for name in row} - set(COLUMNS))
    return [{name: row.get(name) for name in (*COLUMNS, *more)} for row in found]


def rows_by(results: Iterable[dict[str, Any]], group: str) -> list[Row]:
    """A row a point and test subject, or data set: {point, subject, mae_bpm}. InputError for another group.

    Of a subject also mae_bpm_tracked, windows, rmse_bpm and within_5_bpm (a share); None where a result has
    only its mae_bpm.
    """
    if group not in GROUPS:
        raise InputError(f"by={group!r}: results are kept by {' and by '.join(GROUPS)}")
    if group == "dataset":
        return [
            {"point": result["id"], group: name, "mae_bpm": mae}
            for result in results
            for name, mae in (result.get("mae_by_dataset") or {}).items()
        ]
    rows = []
    for result in results:
        sums, tracked = result.get("subjects") or {}, result.get("mae_by_subject_tracked") or {}
        for name, mae in mae_by_subject(result).items():
            both = {"mae_bpm": mae, "mae_bpm_tracked": tracked.get(name)}
            rows.append({"point": result["id"], group: name, **both, **_spread(sums.get(name))})
    return rows


def columns_by(group: str) -> tuple[str, ...]:
    """The columns of `rows_by`."""
    more = ("mae_bpm_tracked", *_spread(None)) if group == "subject" else ()
    return ("point", group, "mae_bpm", *more)


def _spread(sums: dict[str, Any] | None) -> Row:
    """What a subject's sums come to."""
    if not sums:
        return dict.fromkeys(("windows", "rmse_bpm", "within_5_bpm"))
    n = sums["windows"]
    return {"windows": n, "rmse_bpm": math.sqrt(sums["sq_sum"] / n), "within_5_bpm": sums["within_5"] / n}


def frame(rows: Sequence[Row], columns: Iterable[str] = COLUMNS) -> "pd.DataFrame":
    """Rows as a typed DataFrame: Int64, Float64, string, UTC times; `columns` also when there is no row."""
    import pandas as pd

    names = list(rows[0]) if rows else list(columns)
    data = {name: [row[name] for row in rows] for name in names}
    return pd.DataFrame({name: _series(name, values) for name, values in data.items()})


def keep(rows: Sequence[Row], conditions: Iterable[str], names: Iterable[str] = ()) -> list[Row]:
    """The rows that meet all conditions, each like `arch=mlp`, `params<20000` or `teacher=` (none).

    names: the columns there are, when there may be no row. Text is compared as text,
    ISO times too. Raises InputError for what is no condition, or a column that doesn't exist.
    """
    kept, known = list(rows), list(rows[0]) if rows else list(names) or list(COLUMNS)
    for condition in conditions:
        name, sign, wanted = _parsed(condition)
        check_column(name, known)
        kept = [row for row in kept if _meets(row[name], sign, wanted, condition)]
    return kept


def ordered(rows: Sequence[Row], by: str) -> list[Row]:
    """Rows by a column, least first; `-column` for the greatest first; absent values last either way."""
    name, down = by.removeprefix("-"), by.startswith("-")
    check_column(name, list(rows[0]) if rows else list(COLUMNS))
    there = [row for row in rows if row[name] is not None]
    there.sort(key=lambda row: (isinstance(row[name], str), row[name]), reverse=down)
    return there + [r for r in rows if r[name] is None]


def check_column(name: str, known: Sequence[str]) -> None:
    """InputError, with the nearest name, when there is no such column."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"no column {name!r}: {hint}")


def _parsed(condition: str) -> tuple[str, str, str]:
    places = {sign: condition.find(sign) for sign in OPERATORS if sign in condition}
    if not places:
        raise InputError(f"{condition!r} is no condition: write it like arch=mlp or 'params<20000'")
    at = min(places.values())
    sign = max((s for s, place in places.items() if place == at), key=len)  # <= before <
    return condition[:at].strip(), sign, condition[at + len(sign) :].strip()


def _meets(value: Any, sign: str, wanted: str, condition: str) -> bool:
    if value is None:
        return (wanted == "") == (sign == "=") and sign in ("=", "!=")
    if isinstance(value, str):
        return OPERATORS[sign](value, wanted)
    if wanted == "":
        return sign == "!="
    if isinstance(value, bool):
        return OPERATORS[sign](str(value).lower(), wanted.lower())
    try:
        return OPERATORS[sign](value, float(wanted))
    except ValueError:
        raise InputError(f"{condition!r}: the column holds numbers, {wanted!r} is none") from None


def _flat(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _series(name: str, values: list[Any]) -> Any:
    import pandas as pd

    kind = COLUMNS.get(name) or (WHOLE if name == "windows" else _kind(values))
    if kind == TIME:
        times: Any = pd.to_datetime(pd.Series(values, dtype="object"), utc=True, format="ISO8601")
        return times.astype(TIME)
    return pd.Series(values, dtype=kind)


def _kind(values: list[Any]) -> Any:
    """The type of a column that isn't in COLUMNS, from what it holds."""
    there = [v for v in values if v is not None]
    if all(isinstance(v, bool) for v in there):
        return "boolean" if there else "object"
    if all(isinstance(v, int) for v in there) and not any(isinstance(v, bool) for v in there):
        return WHOLE
    numbers = all(isinstance(v, int | float) and math.isfinite(v) for v in there)
    return REAL if numbers else (TEXT if all(isinstance(v, str) for v in there) else "object")
