"""No stage whose results are reused changes without a look at its version."""

from __future__ import annotations

import copy
import json

from inranker_flow import reuse
from inranker_flow.sharing import HELPS
from pipelines import versions
from pipelines.placement import PLACEMENT


def test_every_version_stands_for_the_sources_as_they_are():
    assert versions.changed(json.loads(versions.LOCK.read_text()), versions.current()) == []


def test_a_change_of_the_sources_asks_for_a_decision_and_a_new_version_for_its_record():
    now = versions.current()
    other = copy.deepcopy(now)
    other["retrieve"]["sources"] = "another"
    [line] = versions.changed(now, other)
    assert line.startswith("retrieve: its sources have changed.") and "reuse.VERSIONS['retrieve']" in line
    other["retrieve"]["version"] = "9"
    [line] = versions.changed(now, other)
    assert line == "retrieve: version 9 is not in pipelines/versions.lock; run: make versions"


def test_what_looks_at_the_world_or_changes_it_is_always_done():
    assert set(PLACEMENT) - set(reuse.VERSIONS) == {
        *("preflight", "discover", "prepare_corpus", "promote", "notify"),
        *HELPS,  # what they make is in the store of labels or queries
    }
    assert set(versions.SOURCES) == {*reuse.VERSIONS, "labels"}
