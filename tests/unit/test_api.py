"""`distil`: what is wrong is one line of the process that does it; a whole run is in tests/contract/test_package.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from inranker_flow import Distilled, UserError, distil
from tests.refusals import refuses


def test_what_is_wrong_is_raised_as_the_command_says_it(tmp_path, capsys):
    with refuses("stage-failed", "BEIR"):
        distil(tmp_path / "nowhere", [tmp_path], out=tmp_path / "out")
    assert "FAILED: source: " in capsys.readouterr().out
    assert not (tmp_path / "out" / "outcome.json").exists()


def test_settings_reach_their_sections_and_collections_of_ones_own_the_smoke_profile(tmp_path):
    with pytest.raises(UserError, match=r"^smoke.yaml: phase1.loss: 'cosine' is none of mse"):
        distil(tmp_path, [tmp_path], out=tmp_path / "out", seed=3, phase1={"loss": "cosine"})


def test_targets_are_a_list(tmp_path):
    with pytest.raises(UserError, match=r"targets: expected a list of collections, got 'data/handbook'; give \['data/"):
        distil("data/squad", "data/handbook", out=tmp_path)


def test_the_table_has_a_row_for_each_data_set():
    measures = {"inns": {"bm25": 0.25, "phase2": 0.9}, "medicines": {"bm25": 0.5}}
    made = Distilled("HOLD", "why", "nDCG@10", measures, Path("s"), Path("r"), "inranker", "1")
    assert made.table.splitlines() == [
        "nDCG@10      bm25  phase2",
        "-------------------------",
        "inns       0.2500  0.9000",
        "medicines  0.5000       -",
    ]


def test_every_public_name_is_there():
    import inranker_flow

    assert all(getattr(inranker_flow, name).__name__ == name for name in inranker_flow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distill'"):
        _ = inranker_flow.distill
