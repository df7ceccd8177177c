"""Labelling by one, two and three processes with every kind of teacher: not a bit of a label differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inranker_flow import schemas
from inranker_flow.config import ScoringConfig, TeacherConfig
from inranker_flow.labelling import teacher_label
from tests import models, teachers

NOUNS = [word for word in models.WORDS.split() if word.isalpha()]
#: ``init:small`` is t5-small's shape: large enough for products that threads share.
TEACHERS = {"monot5": lambda: "init:small", "causal": teachers.causal, "encoder": teachers.encoder}


@pytest.mark.parametrize("kind", TEACHERS)
def test_labels_do_not_depend_on_the_number_of_processes(kind, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    random = np.random.default_rng(0)
    documents = {f"d{i:03}": " ".join(random.choice(NOUNS, random.integers(1, 90))) for i in range(120)}
    queries = {f"q{i}": f"where is the {NOUNS[20 + i]}" for i in range(6)}
    pairs = [(query, document) for query in queries for document in list(documents)[int(query[1:]) :: 6]]
    collection = models.collection(tmp_path / "collection", documents)
    candidates = models.candidates(tmp_path / "candidates", queries, pairs)
    config = TeacherConfig(TEACHERS[kind](), scoring=ScoringConfig(batch_tokens=512), shard_pairs=50)
    found = []
    for count in (1, 2, 3):
        stats = teacher_label(replace(config, processes=count), collection, candidates, tmp_path / f"{count}")
        table = schemas.read(schemas.LABELS, tmp_path / f"{count}")
        found.append((stats.tokens, stats.cut_queries, table))
    assert found[0][2].num_rows == len(pairs) and found[0] == found[1] == found[2]
