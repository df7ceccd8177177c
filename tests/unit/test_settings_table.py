"""The table of settings says of each one what `config/sections.py` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from inranker_flow.commands import settings
from inranker_flow.profiles import load
from inranker_flow.settings.keys import keys

ROOT = Path(__file__).parents[2]


def test_the_page_is_current(capsys):
    assert settings.main(["--markdown"]) == 0
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page, "inranker settings --markdown > docs/settings.md"


def test_every_setting_has_a_type_and_a_meaning():
    rows = settings.settings()
    assert len(rows) == len({each.key for each in rows}) > 100
    assert not [each.key for each in rows if not each.type or not each.meaning]


def leaves(data, prefix=""):
    for key, value in data.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def test_no_setting_of_a_profile_is_left_out():
    known = {each.key for each in settings.settings()}
    for profile in ("demo", "paper"):
        for key in leaves({**load(profile).as_data(), "source": load(profile).as_data()["source"]}):
            section = key.partition(".")[0]
            assert (
                key in known
                or key in ("targets", *load(profile).as_data())
                or section == "targets"
                or key.endswith((".scoring", ".server", ".judge", "retrieval.dense", "retrieval.bands"))
            ), key


@pytest.mark.parametrize(
    "key,type_,default,range_",
    [
        ("phase1.batch_size", "whole number", "32", "1 to 1,000,000"),
        ("phase1.learning_rate", "number", "7e-05", "above 0 to 1"),
        ("phase1.dropout", "number", "-1", "0 below 1, or -1"),
        ("phase1.batching", "`iid` or `grouped`", '"iid"', ""),
        ("evaluation.measures", "list of texts", '["nDCG@10", "RR@10", "R@100"]', ""),
        ("teacher.checkpoint", "text", "", ""),
        ("cluster.resources.NAME.cpu", "text", '""', "number of CPUs (2, 0.5, 500m)"),
    ],
)
def test_rows(key, type_, default, range_):
    (row,) = [each for each in settings.settings() if each.key == key]
    assert (row.type, row.default, row.range) == (type_, default, range_)


def test_a_section_that_is_not_there_is_refused(capsys):
    assert settings.main(["fase1"]) == 2
    assert "no such section or setting; there is: seed" in capsys.readouterr().err


#: Another value of each setting that changes no result.
OTHER = {
    "processes": 2, "batch_tokens": 999, "shard_pairs": 7, "endpoint": "http://other:1/v1", "concurrency": 3,
    "request_timeout": 9.0, "retries": 1, "micro_batch_tokens": 512, "gradient_checkpointing": True, "save_every": 5,
    "request_pairs": 2, "request_queries": 2, "alarm_days": 30,
}  # fmt: skip


def test_settings_that_change_no_result_are_in_no_key():
    free = {each.key for each in settings.settings() if not each.decides and "[]" not in each.key}
    assert {key.rpartition(".")[2] for key in free} == set(OTHER)
    usual = load("demo")
    for key in free:
        other = load("demo", {key: OTHER[key.rpartition(".")[2]]})
        assert other != usual and keys("inranker", other, "code") == keys("inranker", usual, "code"), key
    changed = load("demo", {"phase1.learning_rate": 0.5})
    assert keys("inranker", changed, "code")["work_key"] != keys("inranker", usual, "code")["work_key"]
