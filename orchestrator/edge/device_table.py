"""Microcontrollers for `--device`: a YAML file each, which says of every number where it is from.

    --device nrf52840        a file of devices/
    --device m4@64MHz        a processor at a clock
    --device m4              a processor alone: its instructions
    --device my-chip.yaml    your own

No pydantic: queries do without.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd.edge.c.instructions import shipped
from kd.errors import InputError
from orchestrator.store.records import ABOVE_0, Each, problem

FILES = Path(__file__).parent / "devices"
NUMBERS = ("clock_mhz", "instructions_per_cycle", "active_mw", "nj_per_instruction")
SPEC = {
    "name": str,
    "core": str,
    **{f"{number}?": ABOVE_0 for number in NUMBERS},
    "sources": Each(str),
}
_CLOCKED = re.compile(r"([a-z0-9]+)(?:@(\d+(?:\.\d+)?)\s*MHz)?", re.IGNORECASE)


@dataclass(frozen=True)
class Chip:
    """One microcontroller; None where a number isn't known. active_mw: while it computes.

    sources: number -> where it is from.
    """

    name: str
    core: str
    clock_mhz: float | None = None
    instructions_per_cycle: float | None = None
    active_mw: float | None = None
    nj_per_instruction: float | None = None
    sources: tuple[tuple[str, str], ...] = ()

    def ms(self, instructions: float) -> float | None:
        """Milliseconds of so many instructions; None without clock or instructions per cycle."""
        if self.clock_mhz is None or self.instructions_per_cycle is None:
            return None
        return instructions / (self.clock_mhz * 1e3 * self.instructions_per_cycle)

    def uj(self, instructions: float) -> float | None:
        """Microjoules of so many instructions; None where neither energy nor power and time are known."""
        if self.nj_per_instruction is not None:
            return instructions * self.nj_per_instruction * 1e-3
        ms = self.ms(instructions)
        return None if ms is None or self.active_mw is None else ms * self.active_mw


def find(wanted: str | None, profiled: Iterable[str]) -> Chip | None:
    """The microcontroller that --device names; None for a device that the sweep was profiled on, or none.

    Raises InputError for a file that isn't one, and where nothing has this name.
    """
    if wanted is None or wanted in (profiled := sorted(profiled)):
        return None
    if wanted.endswith((".yaml", ".yml")):
        return read(Path(wanted))
    known = {path.stem: path for path in sorted(FILES.glob("*.yaml"))}
    if wanted in known and wanted not in shipped()["targets"]:
        return read(known[wanted])
    match = _CLOCKED.fullmatch(wanted)
    core = match[1].lower() if match else ""
    if match and core in shipped()["targets"]:
        chip = read(known[core]) if core in known else Chip(core, core)
        if match[2] is None:
            return Chip(core, core)
        clock = float(match[2])
        sources = dict(chip.sources) | {"clock_mhz": "--device"}
        return replace(chip, name=f"{core}@{clock:g}MHz", clock_mhz=clock, sources=tuple(sources.items()))
    raise InputError(
        f"--device {wanted}: this sweep was profiled on {', '.join(profiled) or 'no device'}, and the table "
        f"has {', '.join(known)}; or give a processor ({', '.join(shipped()['targets'])}), with its clock as "
        "m4@64MHz, or a YAML file of your own (docs/firmware.md)"
    )


def read(path: Path) -> Chip:
    """A chip's file; InputError with file, key and remedy for one that isn't whole."""
    from slurm.bounded_yaml import BadYaml, read_yaml

    remedy = "see docs/firmware.md for a whole one"
    try:
        document, lines = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--device {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--device {path}: can't be read ({error}): {remedy}") from None
    except BadYaml as bad:
        raise InputError(f"--device {bad.at(path)}") from None
    if why := problem(document, SPEC):
        raise InputError(f"{path}: {why}: {remedy}")
    given: dict[str, Any] = document
    for key in given:
        if key not in (*NUMBERS, "name", "core", "sources"):
            where = f"{path}:{lines[key,]}" if (key,) in lines else str(path)
            raise InputError(f"{where}: {key}: there is no such key: leave it out, or {remedy}")
    if given["core"] not in shipped()["targets"]:
        raise InputError(f"{path}: core is {given['core']!r}: use one of {', '.join(shipped()['targets'])}")
    for number in NUMBERS:
        if given.get(number) is not None and not given["sources"].get(number):
            raise InputError(f"{path}: sources.{number} is missing: say where the number is from")
    for key in given["sources"]:
        if given.get(key) is None:
            raise InputError(f"{path}: sources.{key} is of no number here: write {key}, or leave it out")
    numbers = {number: float(given[number]) for number in NUMBERS if given.get(number) is not None}
    return Chip(given["name"], given["core"], sources=tuple(given["sources"].items()), **numbers)
