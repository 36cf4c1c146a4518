"""One line on what else than the point differs between results, and where it is said."""

import shutil
from types import SimpleNamespace

from click.testing import CliRunner

from orchestrator.commands.main import cli
from orchestrator.laws.document import read_document
from orchestrator.report.records import reproduce
from orchestrator.store.mixed import mixed
from orchestrator.store.store import Store

SAID = "trained with torch 2 (1 students), 3 (2)"


def result(torch: str | None, device: str | None = "cpu", role: str = "student") -> dict:
    return {"role": role, "device": device, "versions": torch and {"torch": torch}}


def test_mixed_results_are_counted_by_version_and_device():
    assert mixed([]) == []
    assert mixed([result("2"), result("2"), result("3", "H100", "teacher")]) == []
    rest = ": small differences between these may come from that"
    assert mixed([result("3"), result("2"), result("3")]) == [SAID + rest]
    both = mixed([result("3"), result("2", "H100"), result(None, None)])
    assert both == [
        "trained with torch 2 (1 students), 3 (1), unknown (1) and on H100 (1 students), cpu (1), unknown (1)"
        + rest
    ]


def test_status_fit_query_and_report_say_it(fitted_sweep, tiny_sweep, tmp_path):
    for name, folder in (("tiny", tiny_sweep), ("fitted", fitted_sweep)):
        store = Store(shutil.copytree(folder, tmp_path / name))
        for r in store.results():
            if name == "fitted" and r["role"] == "student" and (r["strategy"], r["arch"]) != ("soft", "mlp"):
                shutil.rmtree(store.folder(r["id"]))  # one law is enough, and soon fitted
        for r in [r for r in store.results() if r["role"] == "student"][:2]:
            store.write_result(r["id"], r | {"versions": {"torch": "3"}})

    def said(*words: str) -> str:
        run = CliRunner().invoke(cli, [words[0], str(tmp_path / words[1]), *words[2:]])
        assert run.exit_code == 0, run.output
        return " ".join(run.output.split())

    assert "mixed trained with torch 2 (4 students), 3 (2): small differences" in said("status", "tiny")
    assert "note: trained with torch 2 (" in said("fit", "fitted")
    assert ", 3 (2): small differences" in said("query", "fitted", "--max-params", "30000")
    document = read_document(tmp_path / "fitted" / "laws.json")
    sweep = SimpleNamespace(
        document=document, source="", results=list(store.results()), metric="mean over windows"
    )
    assert dict(reproduce(sweep))["trained with"].endswith("; torch 3 (2 models)")
