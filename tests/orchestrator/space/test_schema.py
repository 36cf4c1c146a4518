"""Search spaces: what may be written, what is refused with its line, and that writing loses nothing."""

from pathlib import Path

import pytest

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES
from kd.signals.prepare import fingerprint
from kd.signals.preprocess import Preprocess
from orchestrator.space.schema import SearchSpace, Students, load_space, space_text, strategy_points

SPACES = sorted((Path(__file__).resolve().parents[3] / "search_spaces").glob("*.yaml"))
TEXT = """\
data: {options: {subjects: 9}}
teachers:
  - {arch: resnet1d, depth: 8, width: [16, 24]}
students:
  - {arch: [resnet1d, mlp], depth: [2, 4], width: 4}
strategies:
  scratch:
  soft: {temperature: [2, 4], weight: 1}
  dkd: [{beta: 8}, {beta: 1, ce: 0.5}]
training: {max_epochs: 3, lr: 1e-3, teachers: {max_epochs: 6}}
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str = TEXT, name: str = "space.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_single_values_and_lists_are_grids(write) -> None:
    space = load_space(write())
    assert space.name == "space"
    assert space.students[0].width == [4]
    assert space.students[0].arch == ["resnet1d", "mlp"]
    points = list(strategy_points(space.strategies))
    assert [name for name, _ in points] == ["scratch", "soft", "soft", "dkd", "dkd"]
    assert points[1][1] == {"ce": 0.5, "weight": 1.0, "temperature": 2.0}
    assert points[4][1]["beta"] == 1.0
    assert points[4][1]["temperature"] == 4.0  # the default, filled in


def test_recipes_by_role(write) -> None:
    space = load_space(write())
    assert space.recipe("student")["max_epochs"] == 3
    assert space.recipe("teacher")["max_epochs"] == 6
    assert space.recipe("teacher")["lr"] == space.recipe("student")["lr"] == 1e-3  # YAML reads 1e-3 as text


def test_overrides(write) -> None:
    space = load_space(
        write(), ["training.max_epochs=9", "students.0.width=[4, 8]", "data.preprocess.fs=32", "seeds=[0,1]"]
    )
    assert space.recipe("student")["max_epochs"] == 9
    assert space.students[0].width == [4, 8]
    assert space.data_config().preprocess.fs == 32
    assert space.seeds == [0, 1]


def test_channels_are_the_ppgs_or_every_sensors(write) -> None:
    """Text is what spaces said before there was an accelerometer, and says the same."""

    def read(said: str) -> SearchSpace:
        return load_space(write(f"data: {{preprocess: {said}}}\n"))

    plain = read("{channels: first}")
    assert plain.data_config().preprocess == Preprocess(channels="first")
    assert read("{channels: {ppg: first, acc: none}}").data_config() == plain.data_config()
    both = read("{channels: {acc: xyz}, acc_band_hz: [0.4, 6], acc_dropout: 0.2}")
    wanted = Preprocess(acc="xyz", acc_band_hz=(0.4, 6.0), acc_dropout=0.2)
    assert both.data_config().preprocess == wanted
    assert load_space(write(space_text(both))) == both


MANY = [*range(1, 100)]
REFUSED = {
    "trainng: {}": r"space.yaml:1: trainng: unknown key; did you mean training\?",
    "training: {lrr: 1}": r"space.yaml:1: training.lrr: unknown key; did you mean lr\?",
    "training: {max_epochs: 0}": "training.max_epochs is 0",
    "training: {lr: 0}": "training.lr is 0",
    "strategies: {soff: {}}": r"strategies.soff: unknown strategy; did you mean soft\?",
    "strategies: {soft: {temprature: 3}}": "no 'temprature': it takes ce, weight, temperature",
    "strategies: {soft: {temperature: 0}}": "temperature is 0",
    "strategies: {soft: {ce: 0, weight: 0}}": "every weight is 0",
    "students:\n  - {arch: resnet1d, depth: 2, width: 4}\n  - {arch: lstm, depth: 2, width: 4}": (
        r"space.yaml:3: students.1.arch.0: no such architecture; "
        r"known: resnet1d, mlp, resnet1d-post, tcn, dscnn, spectra \(got 'lstm'\)"
    ),
    "teachers: {arch: [mlp, resnet], depth: 2, width: 4}": r"no such architecture; did you mean resnet1d\?",
    "students: {arch: 3, depth: 2, width: 4}": "students.0.arch.0: Input should be a valid string",
    "students:\n  - {arch: mlp, depth: 2}": "students.0.width: Field required",
    "students: {arch: mlp, depth: 2, width: 4, init: prund}": r"unknown init 'prund'; did you mean pruned\?",
    "students: {arch: mlp, depth: 0, width: 4}": "greater than or equal to 1",
    "seeds: 0\nseeds: 1": "space.yaml:2: seeds is given twice",
    "name: ../up": "name",
    "data: {preprocess: {low_hz: 5}}": "low_hz",
    "students: {arch: [mlp, spectra], depth: 2, width: 4}\ndata: {preprocess: {fs: 32}}": (
        r"students.0.arch: spectra are of 25 Hz and classes from 30 BPM, not 32 Hz from 30 BPM: leave out"
    ),
    "teachers: {arch: spectra, depth: 2, width: 4}\ntask: {min_bpm: 40}": "teachers.0.arch: .*25 Hz from 40",
    "students: {arch: spectra, depth: 2, width: 4}\ndata: {preprocess: {channels: {ppg: all, acc: xyz}}}": (
        "students.0.arch: spectra take one channel of PPG beside the accelerometer: set"
    ),
    "data: {preprocess: {channels: {ppg: mean, gyro: xyz}}}": (
        "data.preprocess.channels.gyro: unknown key; known: ppg, acc"
    ),
    "data: {preprocess: {channels: {acc: norm}}}": "channels.acc is 'norm': use none, magnitude, xyz",
    "data: {preprocess: {channels: both}}": "channels is 'both': use mean, first or all",
    "data: {preprocess: {channels: [mean]}}": "data.preprocess.channels: Input should be",
    "data: {preprocess: {acc_dropout: 0.5}}": "give channels.acc, too",
    "data: {split: {scheme: random}}": "split.scheme",
    "task: {classes: 2}": "task.classes",
    "training: {lr: .nan}": "space.yaml:1: training.lr: .* finite",
    "training: {lr: -.inf}": "space.yaml:1: training.lr: .* finite",
    "training: {lr: 1e400}": "training.lr: .* finite",
    "training: {teachers: {lr: .nan}}": "training.teachers.lr: .* finite",
    "training: {max_epochs: yes}": "training.max_epochs: .* YAML reads yes and on as true",
    "training: {students: {max_epochs: on}}": "training.students.max_epochs: .* reads yes",
    "training: {lr: 1:30}": "training.lr: .*'1:30'",
    "training:": "training: .*leave the key out",
    "resources: {cpus: .inf}": "resources.cpus: .* finite",
    "data: {preprocess: {window_s: .nan}}": "data.preprocess.window_s: .* finite",
    "data: {split: {fractions: [.nan, 0.5, 0.5]}}": "data.split.fractions.0: .* finite",
    "data: {augment: {stretch: [yes, 2]}}": "data.augment.stretch.0: .* reads yes",
    "strategies: {soft: {temperature: .nan}}": "strategies.soft.0.temperature.0: .* finite",
    "strategies: {soft: {temperature: yes}}": "strategies.soft.0.temperature.0: .* reads yes",
    "strategies: [scratch, soft]": r"strategies: .* a mapping .* write \{scratch: \{\}, soft: \{\}\}",
    "strategies: soft": r"strategies: .* write \{soft: \{\}\}",
    "seeds: 18446744073709551616": "space.yaml:1: seeds.0: .*4294967295",
    "seeds: [0, 1, 0]": "space.yaml:1: seeds: 0 is given twice, .*: give each once",
    "seeds: yes": "seeds.0: .* reads yes",
    "data: {split: {seed: 4294967296}}": "data.split.seed: .*4294967295",
    "data: {options: {seed: 4294967296}}": "seed is 4294967296",
    "data: {options: {minutes: six}}": "data.options.minutes is 'six': write a number, such as 8.0",
    "data: {options: {minutes: null}}": "data.options.minutes is None",
    "data: {options: {minutes: [1]}}": r"data.options.minutes is \[1\]",
    "data: {options: {minutes: .inf}}": "data.options.minutes is inf",
    "data: {options: {minutes: 1:30}}": "data.options.minutes is '1:30'",
    "data: {options: {subjects: yes}}": "data.options.subjects is True: write a whole number",
    "data: {options: {subjects: 2.5}}": "data.options.subjects is 2.5: write a whole number",
    "data: {options: {subjects: 1000000000}}": "samples are more than",
    "data: {options: {subject: 3}}": "did you mean subjects",
    "data: {source: bidmc, options: {lags: 3}}": "data.options of bidmc: unknown option 'lags'",
    "data: {source: spx}": "unknown data format 'spx': did you mean spc",
    f"strategies: {{soft: {{ce: {MANY}, weight: {MANY}, temperature: {MANY}}}}}": (
        "strategies.soft: 970,299 sets of arguments, more than 10,000"
    ),
    f"students: {{arch: mlp, depth: {MANY}, width: {MANY}, seeds: {MANY}, init: [random, pruned]}}": (
        "a grid of up to 1,940,598 points"
    ),
    "1: 2": "1: Keys should be strings",
    "a: &a [*a]": "space.yaml:1: an alias stands inside",
    "data: {path: " + "[" * 999: "space.yaml:1: nested deeper",
    "": "is a mapping",
    "- a list": "is a mapping",
    "a: [": "not YAML",
}


@pytest.mark.parametrize("text", REFUSED)
def test_bad_input_is_refused_with_its_place(write, text: str) -> None:
    with pytest.raises(InputError, match=REFUSED[text]):
        load_space(write(text))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("training.max_epochs", "write key.sub=value"),
        ("students.3.width=4", "is a list of 1: no entry 3"),
        ("training.max_epochs.deep=1", "is a single value"),
        ("training.epochs=4", "did you mean max_epochs"),
        ("seeds=[", "not YAML"),
        ("students.².width=4", "is a list of 1: no entry ²"),  # isdigit() is true of it, int() refuses it
        ("students.٠.width=4", "no entry"),
        (f"students.{'9' * 5000}.width=4", "no entry"),
        (f"seeds={'[' * 5000}", "nested deeper"),
        ("training=&a {lr: *a}", "inside what it names"),
        ("training.lr=.nan", "training.lr: .* finite"),
    ],
)
def test_bad_overrides(write, override: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        load_space(write(), [override])


@pytest.mark.parametrize("content", [b"name: \xff", "name: x".encode("utf-16"), "name: é".encode("latin-1")])
def test_other_encodings_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "space.yaml").write_bytes(content)
    with pytest.raises(InputError, match="is not UTF-8"):
        load_space(tmp_path / "space.yaml")


def test_numbers_as_yaml_1_1_reads_them(write) -> None:
    """1e0 is text to it."""
    space = load_space(
        write("name: 2026-01-01\ndata: {options: {minutes: 1e0, subjects: 9}}\nseeds: 4294967295")
    )
    assert space.name == "2026-01-01"
    assert fingerprint(space.data_config()) == fingerprint(
        load_space(write("data: {options: {minutes: 1.0, subjects: 9.0}}")).data_config()
    )


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such search space"):
        load_space(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("path", [None, *SPACES], ids=lambda p: p.stem if p else "grid")
def test_written_and_read_again_it_is_the_same(write, path: Path | None) -> None:
    overrides = ["data.path=recordings.npz"] if path and path.stem == "wrist" else []
    space = load_space(path or write(), overrides)
    again = load_space(write(space_text(space), "again.yaml"))
    assert again == space


def test_nothing_is_executed(write) -> None:
    with pytest.raises(InputError, match="not YAML"):
        load_space(write("data: !!python/object/apply:os.system ['true']"))


def test_a_space_may_name_what_is_registered(write, monkeypatch) -> None:
    """And editors are told the same names."""
    monkeypatch.setitem(ARCHITECTURES, "lstm", ARCHITECTURES["mlp"])
    space = load_space(write("students: {arch: [lstm, mlp], depth: 2, width: 4}"))
    assert space.students[0].arch == ["lstm", "mlp"]
    schema = Students.model_json_schema(mode="validation")
    assert schema["properties"]["arch"]["items"]["enum"][-3:] == ["dscnn", "spectra", "lstm"]


WSD = {"name": "s", "students": [{"arch": "mlp", "depth": 1, "width": 4}]}


def test_a_recipe_of_before_there_was_a_choice_of_schedules_is_the_same() -> None:
    recipe = SearchSpace.model_validate(WSD).recipe("student")
    assert not {"schedule", "warmup_epochs", "cooldown_fraction"} & recipe.keys()
    said = SearchSpace.model_validate({**WSD, "training": {"schedule": "wsd"}}).recipe("student")
    added = {"schedule": "wsd", "warmup_epochs": 1.0, "cooldown_fraction": 0.2}
    assert said == {**recipe, **added}
    alone = SearchSpace.model_validate({**WSD, "training": {"students": {"schedule": "wsd"}}})
    assert alone.recipe("student") == said
    assert alone.recipe("teacher") == recipe


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ("{cooldown_fraction: 0.1}", "cooldown_fraction is of the schedule wsd"),
        ("{schedule: wsd, warmup_fraction: 0.1}", "warmup_fraction is of the schedule cosine"),
        ("{schedule: wsd, cooldown_fraction: 1.5}", "a share from 0 to 1"),
        ("{schedule: linear}", "'cosine' or 'wsd'"),
        (
            "{schedule: wsd, max_epochs: 3, warmup_epochs: 2.5}",
            "begins after 2 of max_epochs 3: low",
        ),
        ("{schedule: wsd}\nstrategies: {dkd: {warmup_fraction: [0, 0.5]}}", r"s.yaml:3: .* 0.5 is of the"),
        ("{students: {schedule: wsd}}\nstrategies: {dkd: [{}, {warmup_fraction: 1}]}", "0 for no ramp"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(tmp_path: Path, training: str, says: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"students: {{arch: mlp, depth: 1, width: 4}}\ntraining: {training}\n")
    with pytest.raises(InputError, match=says):
        load_space(file)


def test_without_a_ramp_or_with_the_usual_one_dkd_is_trained_by_wsd_too(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    dkd = "strategies: {dkd: {warmup_fraction: [0, 0.08333333333333333]}}"
    file.write_text(f"students: {{arch: mlp, depth: 1, width: 4}}\ntraining: {{schedule: wsd}}\n{dkd}\n")
    assert load_space(file).recipe("student")["schedule"] == "wsd"
