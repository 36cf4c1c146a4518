"""The published JSON schemas: as the command prints them, and they accept and refuse what kdsweep does."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # comes with ray
import pytest
import yaml
from click.testing import CliRunner

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES
from kd.models.inits import INITS
from kd.training.strategies import STRATEGIES, defaults
from orchestrator.commands.schema import SITE_FILE, SPACE_FILE, schema
from orchestrator.space.schema import SearchSpace, load_space
from slurm.site import load_site

ROOT = Path(__file__).resolve().parents[3]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
SITES = sorted((ROOT / "slurm" / "sites").glob("*.yaml"))


def printed(*args: str) -> str:
    out = CliRunner().invoke(schema, args, catch_exceptions=False)
    assert out.exit_code == 0
    return out.stdout


@pytest.fixture(scope="module")
def space() -> Any:
    content = json.loads(printed())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


@pytest.fixture(scope="module")
def site() -> Any:
    content = json.loads(printed("--site"))
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


@pytest.mark.parametrize(("file", "args"), [(SPACE_FILE, ()), (SITE_FILE, ("--site",))])
def test_what_is_published_is_what_is_printed(file: str, args: tuple[str, ...]) -> None:
    text = (ROOT / "docs" / file).read_text(encoding="utf-8")
    assert text == printed(*args), f"kdsweep schema {' '.join(args)} > docs/{file}"


@pytest.mark.parametrize("path", [*SPACES, *SITES], ids=lambda path: path.stem)
def test_shipped_files_name_their_schema_and_keep_to_it(path: Path, space: Any, site: Any) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    start = "# yaml-language-server: $schema="
    assert first.startswith(start)
    assert (path.parent / first.removeprefix(start)).resolve().is_file()
    (space if path in SPACES else site).validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    if path in SITES:
        load_site(str(path))


FINE = {"students": {"arch": "mlp", "depth": 1, "width": 4}}


@pytest.mark.parametrize(
    "more",
    [
        {"seeds": 3},
        {"seeds": [0, 1]},
        {"strategies": {"scratch": None, "soft": {"temperature": 2}}},
        {"strategies": {"dkd": [{}, {"beta": [1, 8]}]}},
        {"students": [{"arch": ["mlp", "resnet1d"], "depth": [1], "width": 2, "init": "pruned"}]},
        {"data": {"source": "spc", "path": "x"}, "training": {"lr": 0.1, "teachers": {"max_epochs": 3}}},
        {"name": "wrist", "resources": {"gpus": "auto"}},
    ],
)
def test_it_accepts_what_a_space_may_say(more: dict, space: Any) -> None:
    SearchSpace.model_validate(FINE | more)
    space.validate(FINE | more)


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 3},
        {"seeds": []},
        {"seeds": [-1]},
        {"strategies": {"softt": None}},
        {"strategies": {"soft": {"temprature": 2}}},
        {"strategies": {}},
        {"students": {"arch": "lstm", "depth": 1, "width": 1}},
        {"students": {"arch": "mlp", "depth": 1, "width": 1, "init": "prunned"}},
        {"students": {"arch": "mlp", "depth": 0, "width": 1}},
        {"students": {"arch": "mlp", "depth": 1}},
        {"training": {"max_epoch": 3}},
        {"name": "a/b"},
    ],
)
def test_it_refuses_what_kdsweep_refuses(more: dict, space: Any, tmp_path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        space.validate(FINE | more)
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(FINE | more))
    with pytest.raises(InputError):
        load_space(path)


def test_names_and_defaults_are_those_of_the_registries() -> None:
    defs = json.loads(printed())["$defs"]
    strategies = defs["Strategies"]["properties"]
    assert set(strategies) == set(STRATEGIES)
    for name, said in strategies.items():
        assert {k: v["default"] for k, v in said["anyOf"][1]["properties"].items()} == defaults(
            name, unlabelled=True
        )
        assert said["description"]
    arch, init = (defs["Students"]["properties"][key]["anyOf"][0]["enum"] for key in ("arch", "init"))
    assert set(arch) == set(ARCHITECTURES)
    assert init == list(INITS)
