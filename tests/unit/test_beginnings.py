"""Long texts are cut before they are tokenised, and their first ids stay what they are."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.beginnings import Beginnings, chunks
from inranker_flow.config.sections import GenerateConfig, ScoringConfig
from inranker_flow.rankers.loading import load_reader
from inranker_flow.rankers.monot5_prompt import Renderer, common
from tests import models, teachers

BERT = models.DATA / "tokenizers" / "bert-base-uncased" / "vocab.txt"


@cache
def tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer, BertTokenizer

    if name == "real T5":
        return AutoTokenizer.from_pretrained(models.real_t5_tokenizer())
    if name == "real BERT":
        if not BERT.is_file():
            pytest.skip(f"{BERT} is absent: the real vocabulary is not part of the project")
        return BertTokenizer(vocab=str(BERT))
    if name == "demo":
        return AutoTokenizer.from_pretrained(Path(models.__file__).parents[1] / "src/inranker_flow/demo/models/student")
    if name == "bytes without words":
        return AutoTokenizer.from_pretrained(models.causal())
    return {"Qwen": teachers.bpe, "Llama": teachers.metaspace, "XLM-R": teachers.unigram}[name]()


TOKENIZERS = ("real T5", "real BERT", "demo", "Qwen", "Llama", "XLM-R", "bytes without words")
CHINESE = "你好世界的了是在不我有这他们中来上大为和国地到以说时要就出会，。"
CHARACTERS = f"abcdefghij \n.,;-'ÄÖé🙂{CHINESE[:6]} ﬁ㎏  <>/123"


def texts(most: int) -> Iterator[str]:
    """Of several kinds, each long enough to be cut."""
    random_ = random.Random(most)
    size = most * 40
    words = [*models.WORDS.split(), *" ".join(models.real_passages(40)).split()]
    yield " ".join(random_.choices(words, k=size // 4))
    yield "".join(random_.choices(CHARACTERS, k=size))
    yield "".join(random_.choices(CHINESE, k=4 * size))
    yield "".join(random_.choices("abcdefgh", k=3 * size))
    for unit in ("a", "ab", "abc", "the river\n\n", " ", "\u0301e", "</s>", "<|im_end|>x"):
        yield (unit * size)[: 2 * size + random_.randrange(9)]
    mixed = ("the river ", "x" * 200, " " * 30, CHINESE[:4], "</s>", "[SEP]", "e\u0301" * 5, "don't ", "?\n")
    yield "".join(random_.choices(mixed, k=size // 4))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("before", ["", "Document: "])
def test_the_first_ids_are_those_of_the_whole_text(name, before):
    read, most = tokenizer(name), 24
    beginnings = Beginnings(read, most, before)
    shorter = 0
    for text in texts(most):
        cut = beginnings.cut(text)
        assert text.startswith(cut)
        if len(cut) == len(text):
            continue
        shorter += 1
        # Whatever follows the beginning: the end of the input, or the template's next words.
        whole, alone, followed = read(
            [before + text, before + cut, f"{before}{cut} Relevant:"], add_special_tokens=False, truncation=False
        )["input_ids"]
        enough = most + len(read(before, add_special_tokens=False)["input_ids"])
        assert alone[:enough] == whole[:enough] == followed[:enough] and len(alone) >= enough
    assert shorter >= 3


@pytest.mark.parametrize("name", ["real T5", "real BERT", "Qwen", "Llama"])
def test_what_is_handed_to_the_tokenizer_does_not_grow_with_the_text(name, monkeypatch):
    read, most = tokenizer(name), 64
    given = []
    encode = Beginnings._encode
    monkeypatch.setattr(Beginnings, "_encode", lambda self, text: given.append(len(text)) or encode(self, text))
    for words in (1_000, 10_000, 100_000):
        given.clear()
        cut = Beginnings(read, most).cut("the river and the stone " * (words // 5))
        given.append(len(cut))
        assert max(given) <= 64 * most, f"{words} words"


def test_a_short_text_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(Beginnings, "_encode", lambda self, text: pytest.fail("tokenised twice"))
    assert Beginnings(tokenizer("Qwen"), 512).cut("the river " * 500) == "the river " * 500


def test_chunks_hold_few_texts_and_few_characters():
    found = list(chunks(["a" * 30, "b" * 30, "c" * 50, "d", "e", "f", "g" * 200], 3, 60))
    assert [[text[0] for text in chunk] for chunk in found] == [["a", "b"], ["c", "d", "e"], ["f"], ["g"]]
    assert list(chunks([("ab", "c")], 3, 1)) == [[("ab", "c")]] and not list(chunks([], 3))


LONG = ["the river and the stone in winter " * 3000, CHINESE * 900, "q" * 9000, "bread " * 20, ""]


@pytest.mark.parametrize("make", [models.t5, teachers.causal, teachers.encoder, lambda: teachers.encoder("roberta")])
@pytest.mark.parametrize("max_length", [150, 256])
def test_prompts_of_long_texts_are_those_of_the_whole(make, max_length, monkeypatch):
    pairs = np.array([(query, document) for query in range(3) for document in range(len(LONG))])
    queries = ["what is bread", "where is the moon " * 2000, CHINESE * 200]
    reader = load_reader(make(), ScoringConfig(max_length=max_length))
    cut = reader.prepare(queries, LONG, pairs)
    monkeypatch.setattr(Beginnings, "cut", lambda self, text: text)
    whole = reader.prepare(queries, LONG, pairs)
    rows = np.arange(len(pairs))
    assert (cut.lengths == whole.lengths).all() and cut.cut_queries == whole.cut_queries > 0
    for one, other in zip(cut.inputs(rows), whole.inputs(rows), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(("truncation", "eos"), [("document", True), ("reference", True), ("reference", False)])
def test_rendered_prompts_of_long_texts_are_those_of_the_whole(truncation, eos):
    renderer = Renderer(tokenizer("real T5"), 64, truncation, eos)
    queries = ["what is bread", "where is the moon " * 2000]
    short = zip(renderer.begin_queries(queries), queries, strict=True)
    for query, whole_query in short:
        for document, whole in zip(renderer.begin_documents(LONG), LONG, strict=True):
            query_ids, ids = renderer.encode_queries([query])[0][:64], renderer.encode_documents([document])[0][:64]
            expected = renderer.assemble(
                renderer.encode_queries([whole_query])[0][:64], renderer.encode_documents([whole])[0][:64]
            )
            assert renderer.assemble(query_ids, ids) == expected


def test_a_generators_documents_are_cut_where_they_were(monkeypatch):
    from inranker_flow.generation import prompts
    from inranker_flow.generation.backends.local import Prompter

    config = GenerateConfig(checkpoint="x", max_document_tokens=40)
    for name in ("real T5", "Qwen", "Llama"):
        prompter = Prompter(tokenizer(name), prompts.load("inpars-v1"), config)
        found = prompter.fit(LONG)
        with monkeypatch.context() as patch:
            patch.setattr(Beginnings, "cut", lambda self, text: text)
            assert prompter.fit(LONG) == found


def test_memory_does_not_grow_with_the_documents_length(tmp_path):
    """Python's own memory alone: the tokenizer's is bounded by what it is given (above)."""
    reader = load_reader(models.t5(), ScoringConfig(max_length=64))
    pairs = np.array([(0, place) for place in range(40)])
    peaks = []
    for words in (2_000, 20_000):
        text = "the river and the stone " * (words // 5)
        tracemalloc.start()
        reader.prepare(["moon"], (f"{place} {text}" for place in range(40)), pairs)
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * len(text))  # a text, its copy, one that is made
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_rows_of_long_texts_are_read_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_BYTES", 100_000)
    for name, rows in {"other": [f"{n} {'x' * 4_000}" for n in range(200)], "same": ["x" * 4_000] * 200}.items():
        tables.write(
            tables.CORPUS,
            tmp_path / name / tables.CORPUS.filename,
            {"doc_id": [f"d{n}" for n in range(200)], "title": [""] * 200, "text": rows},
        )
        batches = list(tables.read_batches(tables.CORPUS, tmp_path / name))
        assert [text for batch in batches for text in batch.column("text").to_pylist()] == rows
        assert max(batch.num_rows for batch in batches) <= 30


def test_what_two_arrays_have_in_common():
    random_ = np.random.default_rng(0)
    for size in (0, 1, 5, 40):
        known = np.unique(random_.integers(0, 60, size))
        values = random_.integers(0, 60, 30)
        places, numbers = common(values, known)
        assert places.tolist() == np.flatnonzero(np.isin(values, known)).tolist()
        assert (known[numbers] == values[places]).all()
    assert all(a <= b for a, b in pairwise(places))


@pytest.mark.parametrize("make", [models.t5, teachers.causal, teachers.encoder])
def test_cut_queries_are_one_line_for_a_model(make, caplog):
    """Latency is measured query by query."""
    reader = load_reader(make(), ScoringConfig(max_length=150))
    long = "where is the moon " * 200
    for queries in ([long], [long], ["moon"], [long]):
        reader.prepare(queries, ["the river"], np.array([(0, 0)]))
    assert caplog.text.count("1 queries leave no room for a passage and are cut") == 1
    reader.prepare([long, f"{long}!"], ["the river"], np.array([(0, 0), (1, 0)]))
    assert caplog.text.count("leave no room for a passage and are cut") == 2
