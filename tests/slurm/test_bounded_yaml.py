"""YAML within bounds: bombs are refused before they are built, each with its line; text stays text."""

import time

import pytest

from slurm.bounded_yaml import DEEPEST, LONGEST, MOST, BadYaml, read_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
MERGED = "a: &a {k: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}\n" for i in range(9)
)
REFUSED = {
    "laughs": (LAUGHS, 5, "aliases counted each time"),
    "laughs, merged": (MERGED, 5, "aliases counted each time"),
    "deep, flow": ("a: " + "[" * 100_000, 1, "nested deeper"),
    "deep, mappings": ("{a: " * 2000, 1, "nested deeper"),
    "deep, block": ("\n" + "- " * 2000 + "x", 2, "nested deeper"),
    "deep, indented": ("".join(" " * i + "a:\n" for i in range(DEEPEST + 9)), DEEPEST, "nested deeper"),
    "itself": ("\na: &a [*a]", 2, "inside what it names"),
    "itself, deeper": ("a: &a\n  b: {c: *a}", 2, "inside what it names"),
    "long": ("#" * (LONGEST + 1), None, "characters"),
    "twice": ("a:\n  b: 1\n  b: 2", 3, "a.b is given twice"),
    "digits": ("a: " + "9" * 5000, 1, "can't be read as int"),
    "no int": ("\na: !!int ''", 2, "can't be read as int"),
    "no date": ("a: !!timestamp x", 1, "can't be read as timestamp"),
    "no bool": ("a: !!bool maybe", 1, "can't be read as bool"),
    "surrogate": (r'a: "\ud800"', 1, "surrogate"),
    "key": ("? [a]\n: 1", 1, "a key is one word"),
    "tag": ("a: !!python/name:os.system x", 1, "not YAML"),
    "control": ("a: \x1b", None, "not YAML"),
    "open": ("a: [", 1, "not YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once_with_its_line(name: str) -> None:
    text, line, says = REFUSED[name]
    began = time.process_time()
    with pytest.raises(BadYaml, match=says) as error:
        read_yaml(text)
    assert time.process_time() - began < 1.0  # milliseconds, on a machine with nothing else to do
    assert error.value.line == line
    assert error.value.at("file").startswith(f"file:{line}: " if line else "file: ")


def test_many_values_are_too_many() -> None:
    with pytest.raises(BadYaml, match=f"{MOST:,}"):
        read_yaml("a: [" + "1," * MOST + "]")


def test_dates_and_sexagesimal_numbers_are_text_and_the_rest_is_as_before() -> None:
    text = "{a: 1:30, b: 2026-01-01, c: 1.5:30, d: 1.5, e: 0x10, f: yes, g: 1e3, h: .inf, i: 1_000, j: ~}"
    content, _ = read_yaml(text)
    wanted = {"a": "1:30", "b": "2026-01-01", "c": "1.5:30", "d": 1.5, "e": 16, "f": True}
    assert content == {**wanted, "g": "1e3", "h": float("inf"), "i": 1000, "j": None}


def test_aliases_and_lines() -> None:
    content, lines = read_yaml("grid: &g {width: [2, 4]}\nstudents:\n  - <<: *g\n    depth: 1\n  - *g\n")
    assert content["students"] == [{"width": [2, 4], "depth": 1}, {"width": [2, 4]}]
    assert lines["students", 0, "depth"] == 4
    assert lines["students", 1] == 1  # where the alias's values stand
    assert read_yaml("# nothing\n") == (None, {})
