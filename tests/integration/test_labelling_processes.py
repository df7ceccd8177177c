"""Labelling by one, two and three processes with every kind of teacher: not a bit of a label differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inranker_flow import cpus
from inranker_flow.artifacts import tables
from inranker_flow.config.sections import ScoringConfig, TeacherConfig
from inranker_flow.rankers.checkpoints import load_seq2seq
from inranker_flow.stages.teacher_label import teacher_label
from tests import models, teachers

NOUNS = [word for word in models.WORDS.split() if word.isalpha()]


def two_layers() -> str:
    """A random T5 of t5-small's widths, which are large enough for products that threads share."""
    path = models.folder() / "two-layers"
    if not path.is_dir():
        model, tokenizer = load_seq2seq("init:small")
        del model.encoder.block[2:], model.decoder.block[2:]
        model.config.num_layers = model.config.num_decoder_layers = 2
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return str(path)


TEACHERS = {"monot5": two_layers, "causal": teachers.causal, "encoder": teachers.encoder}


@pytest.fixture(autouse=True)
def all_cores(monkeypatch):
    """As many threads as a stage has by itself."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(cpus.available())
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "kind", ["monot5", *(pytest.param(each, marks=pytest.mark.long) for each in TEACHERS if each != "monot5")]
)
def test_labels_do_not_depend_on_the_number_of_processes(kind, tmp_path, request):
    random = np.random.default_rng(0)
    documents = {f"d{i:03}": " ".join(random.choice(NOUNS, random.integers(1, 90))) for i in range(30)}
    queries = {f"q{i}": f"where is the {NOUNS[20 + i]}" for i in range(6)}
    pairs = [(query, document) for query in queries for document in list(documents)[int(query[1:]) :: 6]]
    collection = models.collection(tmp_path / "collection", documents)
    candidates = models.candidates(tmp_path / "candidates", queries, pairs)
    config = TeacherConfig(TEACHERS[kind](), scoring=ScoringConfig(batch_tokens=512), shard_pairs=12)
    found = []
    for count in (1, 2, 3):
        if count == 3:  # two are started as a stage starts them, and each of them imports torch and transformers anew
            request.getfixturevalue("quick_processes")
        stats = teacher_label(replace(config, processes=count), collection, candidates, tmp_path / f"{count}")
        table = tables.read(tables.LABELS, tmp_path / f"{count}")
        found.append((stats.tokens, stats.cut_queries, table))
    assert found[0][2].num_rows == len(pairs) and found[0] == found[1] == found[2]
