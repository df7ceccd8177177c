"""Judgements of documents that were cut into passages: in retrieval, in training pairs, and in the evaluation."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, EvaluateConfig, PrepareConfig
from inranker_flow.evaluation import judged_sets, measures
from inranker_flow.generation import prompts
from inranker_flow.generation.examples import with_examples
from inranker_flow.reading import Passages
from inranker_flow.retrieval.judged_documents import as_passages
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from tests import beir
from tests.refusals import refuses

HANDBOOK = {
    "oak.md": b"# Oak\n\n## Leaf\n\nThe leaf is lobed.\n\n## Acorn\n\nAn acorn is the fruit of an oak tree.\n",
    "elm.md": b"# Elm\n\nAn elm tree has a leaf.\n\n## Leaf\n\nThe leaf of an elm is oval; a leaf, a leaf.\n",
    "rock.md": b"# Granite\n\nGranite is hard rock.\n",
}
QUERIES = [{"_id": "q1", "text": "acorn fruit"}, {"_id": "q2", "text": "leaf"}]


@pytest.fixture
def handbook(tmp_path):
    """Prepared and searched: q1 trains, q2 tests."""

    def made(test: bytes = b"q2 0 oak.md 1\n", negatives: int = 9):
        folder = beir.write(
            tmp_path / "in", HANDBOOK, corpus=None, queries=beir.jsonl(QUERIES), train=b"q1 0 oak.md 1\n", test=test
        )
        collection, candidates = tmp_path / "collection", tmp_path / "candidates"
        prepare_corpus(PrepareConfig(), CorpusConfig(str(folder), "handbook"), collection)
        retrieve(RetrieveConfig(negatives=negatives), collection, None, candidates)
        return collection, candidates

    return made


def loaded(folders, by="passage", **config):
    return judged_sets.load("handbook", *folders, EvaluateConfig(by=by, **config))


def test_the_relevant_passage_of_a_document_is_the_one_with_the_querys_words(handbook):
    _, candidates = handbook()
    pairs = tables.read(tables.PAIRS, candidates).to_pylist()
    assert [(row["doc_id"], row["role"]) for row in pairs if row["role"] == "positive"] == [("oak.md#2", "positive")]
    assert not [row for row in pairs if row["role"] == "negative" and row["doc_id"].startswith("oak.md")]


def test_a_passage_that_is_called_as_its_document_is_meant_itself(tmp_path):
    chunks = [{"_id": "d", "text": "An oak.", "of": "d"}, {"_id": "d-2", "text": "An acorn fruit.", "of": "d"}]
    folder = beir.write(
        tmp_path / "in", corpus=beir.jsonl(chunks), queries=beir.jsonl(QUERIES), train=b"q1 0 d 1\n", test=None
    )
    prepare_corpus(PrepareConfig(), CorpusConfig(str(folder), "chunks", fields={"document": "of"}), tmp_path / "out")
    assert as_passages(tmp_path / "out", {"q1": {"d": "positive"}}, {"q1": "acorn fruit"}) == {"q1": {"d": "positive"}}


def test_a_prompts_examples_show_that_passage(handbook):
    collection, _ = handbook()
    template = prompts.load("---\nexamples: 1\nexample: '{document}: {query}'\n---\n{examples}\n{document}")
    shown = with_examples(template, collection, "handbook", 0).shown
    assert shown == "Oak > Acorn An acorn is the fruit of an oak tree.: acorn fruit"


def test_judgements_that_name_documents_are_counted_by_document(handbook, caplog):
    caplog.set_level(logging.INFO)
    folders = handbook()
    found = loaded(folders)
    assert "counted by document" in caplog.text
    rows = found.run.column("doc_id").to_pylist()
    assert sorted(rows) == ["elm.md", "oak.md"] and found.qrels == {"q2": {"oak.md": 1}}
    assert dict(zip(rows, found.members, strict=True))["elm.md"] == ("elm.md#2", "elm.md#1")
    texts = [text for _, text in found.pairs]
    assert len(texts) == 3 and texts[found.starts[rows.index("oak.md")]] == "Oak > Leaf The leaf is lobed."
    best = dict(zip(rows, found.best(np.array([1.0, 2.0, 3.0])).tolist(), strict=True))
    assert best["elm.md"] == found.starts[rows.index("elm.md")] + 2, "its second passage is the better one"
    assert len(found.cut(Passages(3, 3)).pairs) > 3, "a passage may be read in parts, too"


@pytest.mark.parametrize("by", ["passage", "document"])
def test_judgements_of_passages_are_counted_by_passage_unless_documents_are_asked_for(handbook, by):
    found = loaded(handbook(b"q2 0 oak.md#1 2\nq2 0 oak.md#2 0\nq2 0 elm.md#1 0\n"), by)
    ranks = dict(zip(found.run.column("doc_id").to_pylist(), found.run.column("rank").to_pylist(), strict=True))
    if by == "passage":
        assert set(ranks) == {"elm.md#1", "elm.md#2", "oak.md#1"} and not found.members
        assert found.qrels == {"q2": {"oak.md#1": 2, "oak.md#2": 0, "elm.md#1": 0}}
    else:
        assert set(ranks) == {"elm.md", "oak.md"} and found.qrels == {"q2": {"oak.md": 2, "elm.md": 0}}
    [measured] = measures.per_query(measures.parse(["RR"]), found.qrels, found.run).values()
    assert measured == {"q2": 1 / ranks["oak.md#1" if by == "passage" else "oak.md"]}


def test_labels_of_documents_that_were_cut_are_refused(tmp_path):
    """A label is of one pair of texts, and no row of the corpus has the text of a whole document any more."""
    (tmp_path / "own.tsv").write_text("query_id\tdoc_id\tscore\nq1\td2\t3\n")
    section = {"labels": f"soft-labels:{tmp_path / 'own.tsv'}", "passage_tokens": 3}
    corpus = CorpusConfig(str(beir.write(tmp_path / "in")), "sample", **section)
    with refuses("collection-row", "own.tsv line 2", "d2"):
        prepare_corpus(PrepareConfig(), corpus, tmp_path / "out")
