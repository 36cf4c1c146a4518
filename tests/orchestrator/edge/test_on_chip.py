"""Budgets of instructions, milliseconds and microjoules on a microcontroller, and the device table."""

import json
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

from kd.edge import emulate
from kd.edge.c import instructions as law
from kd.edge.c import instructions8 as law8
from kd.errors import InputError
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.answers.shown import in_words
from orchestrator.commands.query import query
from orchestrator.edge import device_table
from orchestrator.edge.device_table import Chip, find, read
from orchestrator.edge.latency import attach, empty_profile, with_costs
from orchestrator.edge.on_chip import attach_chip
from orchestrator.laws.document import make_document, read_document, sealed
from orchestrator.laws.simulate import FakeSweep

SWEEP = FakeSweep(widths=(4, 6, 8, 12, 16, 32), strategies=("scratch",), seeds=2)
INPUT = {
    "fs": 25.0,
    "stride_s": 2.0,
    "samples": 200,
    "classes": 180,
    "channels": 1,
    "channels_are": "mean",
    "normalise": "zscore",
    "sections": 4,
}
WHOLE = """\
name: my-chip
core: m4
clock_mhz: 48
instructions_per_cycle: 0.5
nj_per_instruction: 0.2
sources: {clock_mhz: my board, instructions_per_cycle: DWT on my board, nj_per_instruction: my power analyser}
"""


@pytest.fixture(scope="module")
def fitted() -> dict:
    return make_document("fake", SWEEP.results(0), {}) | {"input": INPUT}


@pytest.fixture
def document(fitted: dict) -> dict:
    return deepcopy(fitted)


def on(document: dict, chip: Chip, profile: dict | None = None) -> dict:
    profile = profile or empty_profile()
    return attach_chip(attach(document, profile), profile, chip)


def test_every_shipped_device_is_whole_and_named_as_its_file():
    files = sorted(device_table.FILES.glob("*.yaml"))
    assert len(files) >= 3
    for file in files:
        chip = read(file)
        assert chip.name == file.stem
        assert chip.core in emulate.TARGETS
        assert chip.ms(1e6) > 0


def test_a_device_is_a_profiled_one_a_processor_a_clock_a_name_or_a_file(tmp_path):
    assert find(None, []) is None
    assert find("cpu-1", ["cpu-1"]) is None
    assert find("m55", []) == Chip("m55", "m55")
    at = find("m4@80MHz", [])
    assert (at.name, at.core, at.clock_mhz) == ("m4@80MHz", "m4", 80)
    assert at.ms(80e3 * 0.45) == pytest.approx(1)
    assert at.uj(1e6) is None
    assert find("nrf52840", []).uj(64e6 * 0.45) == pytest.approx(9900)  # a second
    file = tmp_path / "chip.yaml"
    file.write_text(WHOLE)
    assert find(str(file), []).uj(1e6) == pytest.approx(200)
    with pytest.raises(InputError, match=r"--device m9@1MHz: .*on cpu-1, and the table has m4, nrf52840"):
        find("m9@1MHz", ["cpu-1"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("core: m4", "core: m9", r"chip.yaml: core is 'm9': use one of m4"),
        ("core: m4\n", "", r"chip.yaml: core is missing"),
        ("clock_mhz: 48", "clock_mhz: -1", r"chip.yaml: clock_mhz is -1, not number > 0"),
        ("clock_mhz: 48", "clock_mhz: fast", r"chip.yaml: clock_mhz is 'fast'"),
        ("clock_mhz: 48", "clock_hz: 48\nclock_mhz: 48", r"chip.yaml:3: clock_hz: there is no such key"),
        ("clock_mhz: my board, ", "", r"chip.yaml: sources.clock_mhz is missing: say where"),
        ("nj_per_instruction: 0.2\n", "", r"chip.yaml: sources.nj_per_instruction is of no number"),
        ("name: my-chip", "name: [", r"chip.yaml:\d+: not YAML"),
    ],
)
def test_a_device_file_that_isnt_whole_is_refused(old, new, said, tmp_path):
    file = tmp_path / "chip.yaml"
    assert old in WHOLE
    file.write_text(WHOLE.replace(old, new))
    with pytest.raises(InputError, match=said):
        read(file)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.yaml")


def dense(*widths: int) -> list:
    return [("dense", (a, b, "RELU")) for a, b in pairwise(widths)]


@pytest.mark.parametrize(
    ("calls", "mhz", "published_ms", "most"),
    [
        # X-CUBE-AI 3.3.0 on an STM32F401 (M4F), float32, github.com/araobp/stm32-mcu NUCLEO-F401RE/AI
        (
            [
                ("convolve", (900, 1, 16, 9, 1, "RELU")),
                ("convolve", (169, 16, 32, 9, 1, "RELU")),
                *dense(1152, 3),
            ],
            84,
            99.4,
            0.3,
        ),
        # Cube.AI on an STM32WB55 (M4F), float32, github.com/Piorkos/tinyML-performance
        (dense(19, 19, 19, 38, 38, 38, 19, 19, 19, 19, 8, 1), 64, 1.08, 0.3),
        (  # its other network is not met: 36 % less
            [
                ("convolve", (24, 3, 16, 3, 1, "RELU")),
                ("convolve", (22, 16, 8, 3, 1, "RELU")),
                *dense(176, 64, 3),
            ],
            64,
            5.2,
            0.4,
        ),
    ],
)
def test_published_times_of_networks_of_the_same_shapes(calls, mhz, published_ms, most):
    """Another generator's code of the same layers on real chips, float32; 2-D convolutions as 1-D ones."""
    chip = find(f"m4@{mhz}MHz", [])
    said = chip.ms(law.network_instructions(calls, "m4"))
    assert said == pytest.approx(published_ms, rel=most)


def test_untrained_students_have_instructions_by_the_law_and_counted_ones_theirs(document):
    columns = document["architectures"]["resnet1d"]["configurations"]
    run = next(arm for arm in document["arms"] if arm["arch"] == "resnet1d")["runs"][0]
    shape = (run["depth"], run["width"])
    record = {"instructions": 123_456, "precision": "fp32"}
    point = {
        "arch": "resnet1d",
        "depth": shape[0],
        "width": shape[1],
        "devices": {},
        "targets": {"m4": record},
    }
    profile = empty_profile() | {"points": {run["id"]: point}}
    on(document, find("m4@64MHz", []), profile)
    shapes = list(zip(columns["depth"], columns["width"], strict=True))
    pipeline = law.Pipeline()
    for row in (0, len(shapes) // 2, len(shapes) - 1):
        if shapes[row] != shape:
            for precision, of in (("fp32", law), ("int8", law8)):
                said = of.per_window("resnet1d", *shapes[row], pipeline, "m4")
                assert columns[f"instructions_{precision}"][row] == round(said)
                assert columns[f"latency_ms_{precision}"][row] == pytest.approx(said / (64e3 * 0.45))
            assert columns["memory_bytes_int8"][row] == law8.arena_bytes("resnet1d", *shapes[row], pipeline)
    assert columns["instructions_fp32"][shapes.index(shape)] == 123_456
    assert columns["instructions_int8"][shapes.index(shape)] != 123_456
    assert set(columns["uj_fp32"]) == {None}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_no_law_knows_is_passed_by_where_a_chip_bounds_and_else_said_to_be_unknown(document, precision):
    document = json.loads(json.dumps(document).replace('"resnet1d"', '"spectra"'))
    on(document, find("m4@64MHz", []))
    free, bound = (
        with_costs(document, budget, answer(document, budget))
        for budget in (
            Budget(device="m4", precision=precision, max_flash_kb=80),
            Budget(device="m4", precision=precision, max_memory_kb=1000, max_instructions=1e12),
        )
    )
    assert (free["best"]["arch"], bound["best"]["arch"]) == ("spectra", "mlp")
    assert "instructions on m4 are unknown: no law computes them" in in_words(free)
    assert bound["best"]["cost"]["instructions"] > 0


@pytest.mark.parametrize(
    ("limit", "column", "device"),
    [
        ("max_instructions", "instructions_fp32", "m4"),
        ("max_latency_ms", "latency_ms_fp32", "m4@64MHz"),
        ("max_uj", "uj_fp32", "nrf52840"),
    ],
)
def test_a_budget_keeps_to_it_and_says_what_is_computed(document, limit, column, device):
    on(document, find(device, []))
    values = document["architectures"]["resnet1d"]["configurations"][column]
    most = float(np.median(values))
    budget = Budget(device=device, **{limit: most})
    result = with_costs(document, budget, answer(document, budget))
    assert result["verdict"] == "ok"
    cost = result["best"]["cost"]
    key = {"max_instructions": "instructions", "max_latency_ms": "latency_ms", "max_uj": "uj"}[limit]
    assert 0 < cost[key] <= most
    assert result["best"]["p_feasible"] == 1
    assert "computed from the shape" in cost["instructions_are"] or "counted" in cost["instructions_are"]
    assert "not cycles or wait states" in result["chip"]["about"]
    assert json.loads(json.dumps(result, allow_nan=False))["chip"]["core"] == "m4"


def counted_int8(run: dict, costs_bpm: float) -> dict:
    """A profile of a ResNet whose int8 C was counted on an M4 and tested."""
    test = {"mae_bpm": 6.0, "costs_bpm": costs_bpm, "drift_bpm": {"mean": 0.3}}
    record = {"instructions": 1234, "precision": "int8", "test": test}
    point = {"arch": "resnet1d", "depth": run["depth"], "width": run["width"], "devices": {}}
    return empty_profile() | {"points": {run["id"]: point | {"targets_int8": {"m4": record}}}}


@pytest.mark.parametrize("limit", ["max_instructions", "max_latency_ms", "max_uj", "max_memory_kb"])
def test_a_budget_of_integers_is_judged_by_integers(document, limit):
    device = "nrf52840"
    on(document, find(device, []))
    columns = document["architectures"]["resnet1d"]["configurations"]
    unit = 1000 if limit == "max_memory_kb" else 1
    name = {"max_memory_kb": "memory_bytes"}.get(limit, limit.removeprefix("max_"))
    most = float(np.median(columns[f"{name}_int8"])) / unit
    sizes = {}
    for precision in ("fp32", "int8"):
        budget = Budget(device=device, precision=precision, **{limit: most})
        result = with_costs(document, budget, answer(document, budget))
        sizes[precision] = result["best"]["params"]
    cost = result["best"]["cost"]
    assert sizes["int8"] > sizes["fp32"]  # the same milliseconds carry a larger student
    assert cost["instructions_are"] == "computed from the shape, int8 C"
    assert cost["memory_is"] == "the arena of the int8 C, computed"
    assert cost[{"max_memory_kb": "memory_bytes"}.get(limit, name)] <= most * unit
    assert result["int8"] is None
    assert "measured on no student: kdsweep profile --target m4 --precision int8" in in_words(result)


def test_what_integers_were_measured_to_cost_is_said_beside_the_answer(document):
    run = next(arm for arm in document["arms"] if arm["arch"] == "resnet1d")["runs"][-1]
    on(document, find("m4", []), counted_int8(run, 0.125))
    budget = Budget(device="m4", precision="int8", max_instructions=1234)  # so few has only the counted one
    result = with_costs(document, budget, answer(document, budget))
    best = result["best"]
    assert (best["depth"], best["width"]) == (run["depth"], run["width"])
    assert best["cost"]["instructions_are"] == "counted in QEMU, int8 C"
    assert best["cost"]["int8_costs_bpm"] == 0.125
    assert "int8 changed them by +0.125 BPM on average" in in_words(result)
    assert "and those of this shape by +0.125" in in_words(result)


def test_energy_is_of_the_window_and_of_the_samples_it_waits_for(document):
    chip = find("nrf52840", [])
    on(document, chip)
    columns = document["architectures"]["resnet1d"]["configurations"]
    pipeline = law.Pipeline()
    samples = 49 * law.per_sample(pipeline, "m4")
    window = law.per_window("resnet1d", columns["depth"][3], columns["width"][3], pipeline, "m4")
    assert columns["uj_fp32"][3] == pytest.approx(chip.uj(window + samples))


@pytest.mark.parametrize(
    ("budget", "device", "said"),
    [
        (
            Budget(max_instructions=1e6),
            None,
            r"--max-instructions: name a microcontroller.*--device m4@64MHz",
        ),
        (Budget(max_uj=10), None, r"--max-uj: name a microcontroller"),
        (Budget(max_uj=10), "m4@64MHz", r"--max-uj: of m4@64MHz active_mw is unknown.*--device FILE.yaml"),
        (Budget(max_latency_ms=10), "m7@200MHz", r"-ms: of m7@200MHz instructions_per_cycle is unknown"),
        (Budget(max_latency_ms=10), "m4", r"clock_mhz and instructions_per_cycle are unknown"),
    ],
)
def test_what_cant_be_known_is_refused(document, budget, device, said):
    if device:
        on(document, find(device, []))
    else:
        attach(document, empty_profile())
    with pytest.raises(InputError, match=said):
        answer(document, budget)


def test_laws_of_an_earlier_version_say_what_to_do(document):
    del document["input"]
    with pytest.raises(InputError, match="run `kdsweep fit fake` again"):
        on(document, find("m4", []))


def test_the_command_says_it_beside_the_number(document, tmp_path):
    (tmp_path / "laws.json").write_text(json.dumps(sealed(document)))
    (tmp_path / "space.yaml").write_text("name: fake\n")
    document = read_document(tmp_path / "laws.json", "m4@64MHz")
    most = document["architectures"]["resnet1d"]["configurations"]["latency_ms_fp32"]
    given = ["--max-latency-ms", f"{np.median(most)}", "--device", "m4@64MHz"]
    said = CliRunner().invoke(query, [str(tmp_path), *given], catch_exceptions=False)
    assert said.exit_code == 0
    assert "computed: instructions at 64 MHz and 0.45 instructions a cycle; meets the limit" in said.stdout
    assert "instructions a window on m4, computed from the shape" in said.stdout
    assert "QEMU counts instructions, not cycles or wait states" in said.stdout
    assert "SWCU192" in said.stdout
    said = CliRunner().invoke(query, [str(tmp_path), *given, "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["chip"]["sources"]["instructions_per_cycle"].startswith("computed")
