"""The material of the benchmark on real text: nothing that is tested can be trained on."""

from __future__ import annotations

import json

import pytest

from benchmarks.real_text import domains, queries
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, PrepareConfig
from inranker_flow.generation import conflicts
from inranker_flow.stages.prepare_corpus import prepare_corpus
from tests import beir


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Every collection of the benchmark, small; a text of each holds a line end that is none in JSON lines."""
    monkeypatch.setattr(domains, "TRAIN", 15)
    monkeypatch.setattr(domains, "MORE", 12)
    monkeypatch.setattr(domains, "TEST", 5)
    places = ["train/squad-v1.1-train", *(target.place for target in domains.TARGETS)]
    for place in places:
        documents = [{"_id": f"p{n}", "title": f"title {n}", "text": f"one\u0085line {n}"} for n in range(40)]
        asked = [{"_id": f"q{n}", "text": f"question {n} of {place}"} for n in range(80)]
        judged = [(f"q{n}", f"p{n // 2}", n % 10 and 1) for n in range(80)]
        split = "train" if place.startswith("train") else "test"
        told = {"train": None, "test": None, split: beir.tsv(judged)}
        beir.write(tmp_path / "data" / place, corpus=beir.jsonl(documents), queries=beir.jsonl(asked), **told)
    return tmp_path / "data"


def judgements(folder, split):
    path = folder / "qrels" / f"{split}.tsv"
    return [line.split("\t") for line in path.read_text().splitlines()[1:]] if path.exists() else []


def test_targets_have_nothing_to_train_on_and_the_source_tests_on_other_paragraphs(data, tmp_path):
    domains.make(data, tmp_path / "out")
    source = tmp_path / "out" / domains.SOURCE
    train, more, test = (judgements(source, split) for split in ("train", "more", "test"))
    assert (len(train), len(more), len(test)) == (15, 12, 5)
    assert not {row[1] for row in train + more} & {row[1] for row in test}
    assert not {row[0] for row in train} & {row[0] for row in more}
    for target in domains.TARGETS:
        folder = tmp_path / "out" / target.name
        assert [path.name for path in (folder / "qrels").iterdir()] == ["test.tsv"]
        stats = prepare_corpus(
            PrepareConfig(), CorpusConfig(uri=str(folder), name="x"), tmp_path / "prepared" / target.name
        )
        assert (stats.documents, stats.train_queries, stats.test_queries) == (40, 0, 72), (
            "those with a relevant document"
        )
        with open(folder / "corpus.jsonl", newline="\n") as lines:
            first = json.loads(next(lines))
        assert first == {"_id": "p0", "title": "title 0" if target.title else "", "text": "one\u0085line 0"}


def test_the_choice_of_questions_does_not_depend_on_their_order_and_is_made_once(data, tmp_path):
    domains.make(data, tmp_path / "out")
    path = data / "train" / "squad-v1.1-train" / "qrels" / "train.tsv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    domains.make(data, tmp_path / "turned")
    chosen = [{row[0] for row in judgements(tmp_path / each / domains.SOURCE, "train")} for each in ("out", "turned")]
    assert chosen[0] == chosen[1]
    marked = tmp_path / "out" / "vaswani" / "corpus.jsonl"
    marked.write_text("kept")
    domains.make(data, tmp_path / "out")
    assert marked.read_text() == "kept"


def test_without_the_data_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match=r"^SKIPPED: .*nowhere"):
        domains.make(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize("kind", queries.KINDS)
def test_the_sections_of_both_kinds_are_the_stages(kind, tmp_path):
    section = json.loads(json.dumps(queries.KINDS[kind](tmp_path)))
    conflicts.check(parse(GenerateConfig, section, "generation"))
