"""Fit a sweep and write what came out beside its results: laws.json and laws.png."""

import json
from pathlib import Path
from typing import Any

from kd.files import write_atomically, write_text
from orchestrator.laws.configurations import with_channels
from orchestrator.laws.document import laws_file, make_document, sealed
from orchestrator.tracking.reader import Source, model_input, model_shape


def write_laws(
    source: Source,
    folder: Path,
    seed: int = 0,
    recipe: str | None = None,
    tracked: bool | None = None,
) -> dict[str, Any]:
    """The document of laws.json, written into `folder`, whose space.yaml tells the models' shape.

    seed: of the bootstrap. tracked: of errors with the tracker behind students, or without, in files of
    their own where the sweep's metric is the other (`laws_file`); None: as the metric has it.
    recipe: which students, where a sweep has several recipes. Raises InputError when no student is finished.
    """
    from orchestrator.laws.picture import draw

    shape = model_shape(folder / "space.yaml")
    judge, path = source.headline.with_tracker(tracked), laws_file(folder, source.headline, tracked)
    document = make_document(source.name, source.results, shape, seed, recipe, judge)
    students = [r for r in source.results if r["role"] == "student"]
    document["input"] = model_input(folder / "space.yaml") | with_channels(shape, students)
    write_text(path, json.dumps(sealed(document), separators=(",", ":"), allow_nan=False))
    write_atomically(path.with_suffix(".png"), lambda picture: draw(document, picture))
    return document
