"""The section of a sweep that was trained for one question: when its answer settled, where hours went."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report import economy, page
from orchestrator.report.sweep import Sweep


def decision(number: int, regret: float | None, gpus: float = 0.0) -> dict[str, Any]:
    belief = {"advised": "abc" if regret else None, "p_best": 0.5, "regret_bpm": regret, "share_of_grid": 0.2}
    return {
        "event": "decision",
        "number": number,
        "spent_s": 3600.0 * number,
        "gpus_per_slot": gpus,
        "question": {"max_params": 60000.0},
        "until_regret": 0.1,
        "stop": "reached" if regret and regret <= 0.1 else None,
        "named": 3,
        "belief": belief,
    }


@pytest.fixture
def asked(fitted_sweep: Path) -> Sweep:
    regrets = [None, 2.0, 0.8, 0.0]
    told = [decision(n, regret) for n, regret in enumerate(regrets, 1)]
    where = {"train_seconds": 1800.0, "epoch": 3, "max_epochs": 9}
    return replace(Sweep.read(fitted_sweep), decisions=told, paused={"open": where})


def test_a_sweep_without_a_question_has_no_such_section(fitted_sweep: Path) -> None:
    found = Sweep.read(fitted_sweep)
    assert economy.settling(found) == []
    assert 'id="settling"' not in page.render(found)
    assert "settling.svg" not in page.sheets(found)


def test_the_regret_falls_over_hours_and_paused_points_are_told_apart(asked: Sweep) -> None:
    regret, went = economy.settling(asked)
    assert regret.label == "Believed regret fell from 2 to 0.001 BPM over 4 slot-hours"
    assert "asked for: 0.1" in regret.body
    paused = asked.plan["open"]
    assert f"{paused.strategy} 0.5" in went.label or f"{paused.strategy} " in went.label
    assert "faint" in went.body
    html = page.render(asked)
    assert 'id="settling"' in html
    assert "trained for one question (max params 60000)" in html
    said = "regret &lt;= 0 BPM with probability 0.9 after 20 % of the grid&#39;s cost"
    assert said in html
    ET.fromstring(page.sheets(asked)["settling.svg"])


def test_hours_are_of_gpus_where_slots_have_them(asked: Sweep) -> None:
    on_gpus = replace(asked, decisions=[decision(2, 2.0, gpus=0.25), decision(4, 0.5, gpus=0.25)])
    regret, went = economy.settling(on_gpus)
    assert regret.label == "Believed regret fell from 2 to 0.5 BPM over 1 GPU-hours"
    assert "GPU-hours" in went.title
    assert [row[1].text for row in economy.decisions(on_gpus).rows] == ["0.5", "1"]
