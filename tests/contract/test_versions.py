"""No stage whose results are reused changes without a look at its version."""

from __future__ import annotations

import copy
import json

from inranker_flow.store import stage_results
from inranker_flow.store.sharing import HELPS
from pipelines import sources, versions
from pipelines.placement import PLACEMENT


def test_every_version_stands_for_the_sources_as_they_are():
    assert versions.changed(json.loads(versions.LOCK.read_text()), versions.current()) == []


def test_a_change_of_the_sources_asks_for_a_decision_and_a_new_version_for_its_record():
    now = versions.current()
    other = copy.deepcopy(now)
    other["retrieve"]["sources"] = "another"
    [line] = versions.changed(now, other)
    assert line.startswith("retrieve: its sources have changed.") and "stage_results.VERSIONS['retrieve']" in line
    other["retrieve"]["version"] = "9"
    [line] = versions.changed(now, other)
    assert line == "retrieve: version 9 is not in pipelines/versions.lock; run: make versions"


def test_what_looks_at_the_world_or_changes_it_is_always_done():
    assert set(PLACEMENT) - set(stage_results.VERSIONS) == {
        *("preflight", "discover", "prepare_corpus", "promote", "notify"),
        *HELPS,  # what they make is in the store of labels or queries
    }


def names(stage):
    return {str(path.relative_to(sources.SRC / "inranker_flow")) for path in versions.sources_of(stage)}


def test_sources_are_what_a_stage_imports_wherever_it_does():
    assert {"retrieval/bm25.py", "words.py", "config/retrieval.py"} <= names("retrieve")
    assert {"retrieval/nearest.py", "retrieval/bi_encoder.py", "retrieval/first_stages/searched.py"} <= names(
        "retrieve"
    )
    assert {"generation/backends/openai.py", "generation/prompts/inpars-v1.txt"} <= names("generate_queries")
    assert {"rankers/t5_forward.py", "rankers/model_types.txt"} <= names("teacher_label") & names("labels")
    assert {"distillation/losses.py", "rankers/checkpoints.py"} <= names("distill_phase1") == names("distill_phase2")
    assert "distillation/losses.py" not in names("evaluate") and "tracking/runs.py" not in names("retrieve")


def test_a_comment_changes_no_digest_and_a_number_does(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SRC", tmp_path)
    path = tmp_path / "inranker_flow" / "part.py"
    path.parent.mkdir()
    digests = []
    for text in ('"""Say."""\nX = 1\n', '"""Say more."""\n# why\nX = (1)\n', '"""Say."""\nX = 2\n'):
        path.write_text(text)
        sources._content.cache_clear()
        digests.append(sources.digest([path]))
    assert digests[0] == digests[1] != digests[2]
