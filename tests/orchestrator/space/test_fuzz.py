"""Mutated search spaces and site profiles: what can't be read is one error, which names file and key.

More than CI does: KDSWEEP_FUZZ=20000 pytest tests/orchestrator/space/test_fuzz.py
"""

import copy
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd.errors import InputError
from orchestrator.space.schema import load_space, space_text, strategy_points
from slurm.errors import SiteError
from slurm.job import Job, scripts
from slurm.site import EXAMPLES, load_site

N = int(os.environ.get("KDSWEEP_FUZZ", "200"))  # of each kind
SPACES = sorted((Path(__file__).resolve().parents[3] / "search_spaces").glob("*.yaml"))
SITES = sorted(EXAMPLES.glob("*.yaml"))
NESTED: Any = "x"
for _ in range(60):
    NESTED = [NESTED]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e-9, 2**31, 2**32, 2**63, 2**64, 10**400, float("nan"),
    float("inf"), -float("inf"), "", " ", "1e0", "six", "²", "٣", "yes", "1:30", "2026-01-01", "null", "~",
    "-x", "#", "a\nb", "a\u2028b", "a\x85b", "\x1b[2J", "$(id)", "`id`", "'", '"', "é", "😀", "a" * 500,
    "../x", "/", "[red]", [], {}, [[]], [None], [1, 1], ["soft", "soft"], {"": 1}, {1: 2}, {None: None},
    {"a": {"b": 1}}, NESTED, ["scratch", "soft"], list(range(300)), "gpu:2", "resnet1d", "pruned", "auto",
]  # fmt: skip
TEXTS = ["&a ", "*a", "[", "{", "]", "- ", ": ", "\t", "\x00", "\ufeff", "!!int ", "!!python/none ", "? ",
         "<<: *a\n", "%", "|", ">", '"\\ud800"', "---\n", "...\n", "1:30:00", "0x", "9" * 5000,
         "[" * 300, "'"]  # fmt: skip


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from places(node[key])


def mutated(rng: random.Random, content: Any) -> bytes:
    """One to three changes of structure, and sometimes one of the text or of its bytes."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        found = list(places(content))
        if not found:
            break
        node, key = rng.choice(found)
        match rng.randrange(6):
            case 0 | 1 | 2:
                node[key] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                node[key] = [node[key], copy.deepcopy(rng.choice(VALUES))]
            case 4 if isinstance(node, dict):
                node[rng.choice([v for v in VALUES if not isinstance(v, list | dict)])] = node.pop(key)
            case _:
                del node[key]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=rng.random() < 0.5)
    if rng.random() < 0.3:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(TEXTS) + text[at + rng.randrange(3) :]
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + bytes([rng.randrange(256)]) + data[at:]
    return text.encode("utf-16") if rng.random() < 0.02 else data


def read_space(path: Path) -> None:
    space = load_space(path)
    for strategies in [space.strategies, *(b.strategies or {} for b in space.students)]:
        list(strategy_points(strategies))
    space.recipe("student")
    again = path.with_name("again.yaml")
    again.write_text(space_text(space), encoding="utf-8")
    assert load_space(again) == space


def read_site(path: Path) -> None:
    site = load_site(str(path))
    scripts(Job("1-a", "x", Path("/x"), site, ("python", "run")))


def key_named(message: str, file: str) -> bool:
    """Every line starts with the file; then a line's number or a key says where."""
    rest = [line.removeprefix(file) for line in message.splitlines()]
    return all(r.startswith((":", " is not UTF-8")) and len(r) > 5 for r in rest)


@pytest.mark.parametrize(
    ("files", "read", "error"), [(SPACES, read_space, InputError), (SITES, read_site, SiteError)]
)
def test_only_one_kind_of_error_comes_out(
    files: list[Path], read: Callable[[Path], None], error: type[Exception], tmp_path: Path
) -> None:
    rng, path = random.Random(int(os.environ.get("KDSWEEP_FUZZ_SEED", "0"))), tmp_path / "file.yaml"
    contents, refused = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files], 0
    for k in range(N):
        data = mutated(rng, rng.choice(contents))
        path.write_bytes(data)
        said = None
        try:
            read(path)
        except error as refusal:
            said = str(refusal)
        except Exception as other:
            raise AssertionError(f"program {k}: {other!r:.300}\n{data[:2000]!r}") from other
        assert said is None or key_named(said, str(path)), f"program {k}: {said}\n{data[:500]!r}"
        refused += said is not None
    assert N / 5 < refused < N  # some get through
