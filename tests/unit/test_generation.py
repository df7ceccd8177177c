"""The stage `generate_queries` with real (small) generators, causal and encoder-decoder."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
from random import Random

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, PrepareConfig
from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.generation.backends import load_backend
from inranker_flow.generation.backends.transformers import TransformersBackend
from inranker_flow.generation.documents import Seen, Texts, sample
from inranker_flow.generation.examples import with_examples
from inranker_flow.generation.filters import REASONS, Query, first_line, keep
from inranker_flow.retrieval.analyser import in_language
from inranker_flow.stages.generate_queries import generate_queries
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.words import pieces
from tests import languages, models
from tests.models import read_queries as read
from tests.models import told
from tests.refusals import refuses

NOUNS = [word for word in models.WORDS.split() if word.isalpha()][20:]
DOCUMENTS = {f"d{i}": " ".join(NOUNS[(i + k) % len(NOUNS)] for k in range(2 + i * 7 % 13)) for i in range(30)}


def talkative():
    """A T5 whose greedy output is text: a tied random one repeats its start, ``<pad>``."""
    return models.t5(untied=True)


def config(**changes):
    defaults = {
        "checkpoint": models.t5(),
        "prompt": "document",
        "queries_per_document": 2,
        "temperature": 1.0,
        "max_new_tokens": 6,
        "batch_size": 4,
        "shard_documents": 8,
        "seed": 3,
    }
    return GenerateConfig(**{**defaults, **changes})


def load(**changes):
    setting = config(**changes)
    return load_backend(setting, prompts.load(setting.prompt))


@pytest.fixture
def collection(tmp_path):
    return models.collection(tmp_path / "collection", DOCUMENTS, {"t1": ("test", "where is the moon")})


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_queries_are_joined_to_their_documents(collection, tmp_path):
    stats = generate_queries(config(), collection, tmp_path / "queries")
    rows = read(tmp_path / "queries")
    assert all(row["query_id"] in (f"{row['source_doc_id']}#q0", f"{row['source_doc_id']}#q1") for row in rows)
    assert {row["origin"] for row in rows} == {"synthetic"} and {row["source_doc_id"] for row in rows} <= set(DOCUMENTS)
    assert (stats.documents, stats.generated) == (30, 60)
    assert stats.generated == stats.queries + sum(getattr(stats, reason) for reason in REASONS) == 60
    assert stats.queries == len(rows) > 40 and stats.tokens > 60 and stats.tokens_per_second > 0
    manifest = read_manifest(tmp_path / "queries")
    assert (manifest.dataset, manifest.stage) == ("toy", "generate_queries")
    assert manifest.details["counts"]["queries"] == len(rows)
    texts = {row["text"]: row["source_doc_id"] for row in rows}
    assert len(manifest.details["samples"]) == 20
    for shown in manifest.details["samples"]:
        assert texts[shown["query"]] == shown["doc_id"] and shown["document"] == DOCUMENTS[shown["doc_id"]]


def test_the_demos_documents_answer_the_queries_that_are_kept(tmp_path):
    from inranker_flow import profiles
    from inranker_flow.demo.world import answers

    prepare_corpus(PrepareConfig(), CorpusConfig(uri="demo:target/5", name="medicines"), tmp_path / "collection")
    documents = {row["doc_id"]: row for row in tables.read(tables.CORPUS, tmp_path / "collection").to_pylist()}
    own = profiles.load("demo").generation
    shares = []
    for changes in ({}, {"temperature": 1.0}, {"temperature": 1.0, "keep_probable": 300}):
        setting = dataclasses.replace(own, documents=300, **changes)
        stats = generate_queries(setting, tmp_path / "collection", tmp_path / "queries")
        rows = [(row["text"], documents[row["source_doc_id"]]) for row in read(tmp_path / "queries")]
        good = sum(answers("target", document["title"], document["text"], query) for query, document in rows)
        shares.append(good / stats.queries)
    as_it_is, wild, probable = shares
    assert as_it_is >= 0.99 and wild < 0.95 and probable >= 0.99, "what is wrong is improbable"


def test_texts_of_drawn_documents_are_read_when_they_are_asked_for(tmp_path):
    words = {"a": "moon " * 5_000 + "over the long river", "b": "stone garden"}
    drawn = sample(
        config(documents=2, max_document_tokens=16), models.collection(tmp_path / "collection", words)
    ).documents
    assert {each.doc_id: each.text for each in drawn} == words and list(Texts(drawn)) == [each.text for each in drawn]
    shown = Seen(drawn, 16)
    assert (set(shown), shown["b"]) == ({"a", "b"}, "stone garden")
    assert shown["a"] == words["a"][: len(shown["a"])] and len(shown["a"]) < 1_000


def test_the_same_again_whatever_happened_in_between(collection, tmp_path, monkeypatch):
    whole = generate_queries(config(), collection, tmp_path / "whole")
    inner, calls = TransformersBackend.generate, []

    def dies(backend, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return inner(backend, *args)

    with monkeypatch.context() as patched:
        patched.setattr(TransformersBackend, "generate", dies)
        with pytest.raises(KeyboardInterrupt):
            generate_queries(config(), collection, tmp_path / "queries")
    assert not (tmp_path / "queries" / "manifest.json").exists()
    import torch

    torch.rand(11)  # the process's own random state does not matter
    stats = generate_queries(config(), collection, tmp_path / "queries")
    assert stats.resumed_documents == 16 and stats.tokens < whole.tokens
    assert read(tmp_path / "queries") == read(tmp_path / "whole")
    assert told(tmp_path / "queries") == told(tmp_path / "whole")
    assert generate_queries(config(), collection, tmp_path / "again").resumed_documents == 0

    generate_queries(config(seed=4), collection, tmp_path / "other")
    assert read(tmp_path / "other") != read(tmp_path / "whole")


def test_documents_are_drawn_by_id_and_seed_not_by_file_order(tmp_path):
    forwards = models.collection(tmp_path / "a", DOCUMENTS)
    backwards = models.collection(tmp_path / "b", dict(reversed(DOCUMENTS.items())))
    for number, folder in enumerate((forwards, backwards)):
        stats = generate_queries(config(documents=10), folder, tmp_path / f"q{number}")
        assert stats.documents == 10
    assert read(tmp_path / "q0") == read(tmp_path / "q1")
    generate_queries(config(documents=10, seed=8), forwards, tmp_path / "q2")
    drawn = [{row["source_doc_id"] for row in read(tmp_path / f"q{number}")} for number in (0, 2)]
    assert len(drawn[0] & drawn[1]) < 9
    # A smaller sample is part of the bigger one: raising `documents` later wastes nothing.
    generate_queries(config(documents=4), forwards, tmp_path / "q3")
    assert {row["source_doc_id"] for row in read(tmp_path / "q3")} <= drawn[0]


def test_every_document_is_as_likely_as_any_other(tmp_path):
    collection = models.collection(tmp_path / "collection", {f"d{i}": "moon" for i in range(50)})
    drawn = [
        each.doc_id for seed in range(200) for each in sample(config(seed=seed, documents=10), collection).documents
    ]
    counts = [drawn.count(f"d{i}") for i in range(50)]
    # 200 x 10 / 50 = 40 each; binomial, standard deviation 5.7
    assert sum(counts) == 2000 and min(counts) > 40 - 23 and max(counts) < 40 + 23


def test_short_documents_are_left_out_and_counted(tmp_path):
    documents = {"a": "moon", "b": "moon stone", "c": "moon  \n stone river", "d": " "}
    stats = generate_queries(
        config(min_document_words=2), models.collection(tmp_path / "collection", documents), tmp_path / "queries"
    )
    assert {row["source_doc_id"] for row in read(tmp_path / "queries")} == {"b", "c"}
    assert (stats.documents, stats.short_documents, stats.long_documents) == (2, 2, 0)
    stats = generate_queries(config(max_document_words=2), tmp_path / "collection", tmp_path / "queries")
    assert {row["source_doc_id"] for row in read(tmp_path / "queries")} == {"a", "b"}
    assert (stats.documents, stats.short_documents, stats.long_documents) == (2, 1, 1)


def test_what_equals_a_test_query_is_dropped(collection, tmp_path):
    generate_queries(config(), collection, tmp_path / "first")
    leak = read(tmp_path / "first")[7]
    test = "  " + leak["text"].upper().replace(" ", "  ") + " "
    again = models.collection(
        tmp_path / "again", DOCUMENTS, {"t1": ("test", test), "s1": ("supervised", read(tmp_path / "first")[8]["text"])}
    )
    stats = generate_queries(config(), again, tmp_path / "second")
    assert stats.leaked >= 1
    assert read(tmp_path / "second") == [row for row in read(tmp_path / "first") if row != leak]


def test_equal_documents_give_one_query(tmp_path):
    documents = {"a": "moon stone", "b": "moon stone", "c": "river bread moon"}
    stats = generate_queries(
        config(checkpoint=talkative(), queries_per_document=1, temperature=0.0),
        models.collection(tmp_path / "collection", documents),
        tmp_path / "queries",
    )
    assert stats.duplicate >= 1 and read(tmp_path / "queries")[0]["query_id"] == "a#q0"


def test_cleaning_keeps_the_first_and_counts_each_reason(tmp_path):
    texts = {
        ("b", 0): " What  is\tbread ",
        ("a", 0): "what is bread?",
        ("a", 1): "WHAT is bread",
        ("a", 2): "what is bread made of",
        ("c", 0): " \nwhat comes after the line end is no query",
        ("c", 1): "where is the moon\nDocument: and so on",
        ("c", 2): "Where is the Moon, then?",
        ("d", 0): "how",
        ("d", 1): "how long does it take to grow",
        ("d", 2): "takes long to grow",
        ("d", 3): "long to grow",
    }
    raw = [Query(*key, first_line(text, chat=False)) for key, text in texts.items()]
    setting = config(min_query_words=2, max_query_words=6, drop_copied=True, leak_similarity=0.75)
    documents = dict.fromkeys("abcd", "") | {"d": "A tree takes long, to grow."}
    kept, dropped = keep(setting, reversed(raw), documents, ["where is the moon"], tmp_path)
    assert [(each.doc_id, each.number, each.text) for each in kept] == [
        ("a", 0, "what is bread?"),
        ("a", 2, "what is bread made of"),
        ("d", 3, "long to grow"),
    ]
    assert {reason: count for reason, count in dropped.items() if count} == {
        "empty": 1, "too_short": 1, "too_long": 1, "copied": 1, "leaked": 2, "duplicate": 2,
    }  # fmt: skip


def test_consistent_queries_find_their_document(tmp_path):
    documents = {f"d{i}": f"the {noun} is in the {NOUNS[i - 1]}" for i, noun in enumerate(NOUNS[:20])}
    collection = models.collection(tmp_path / "collection", documents)
    queries = [
        Query("d1", 0, f"where is the {NOUNS[1]}"),
        Query("d2", 0, f"{NOUNS[9]} {NOUNS[8]}"),
        Query("d3", 0, "xyz"),
    ]
    kept, dropped = keep(config(consistency_depth=2), queries, documents, [], collection)
    assert [each.doc_id for each in kept] == ["d1"] and dropped["inconsistent"] == 2
    assert len(keep(config(), queries, documents, [], collection)[0]) == 3


def test_the_index_of_the_consistency_filter_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    documents = {f"d{i}": f"the {noun} is in the {NOUNS[i - 1]}" for i, noun in enumerate(NOUNS[:20])}
    collection = models.collection(tmp_path / "collection", documents)
    queries = [Query("d1", 0, f"where is the {NOUNS[1]}")]
    keep(config(consistency_depth=2), queries, documents, [], collection)
    assert [each for each in (tmp_path / "scratch").rglob("*") if each.is_file()] == []

    def fails(bm25, task):
        assert list((tmp_path / "scratch").rglob("doc_ids.arrow"))
        raise OSError("trouble")

    monkeypatch.setattr("inranker_flow.generation.filters.search", fails)
    with pytest.raises(OSError, match="trouble"):
        keep(config(consistency_depth=2), queries, documents, [], collection)
    assert [each for each in (tmp_path / "scratch").rglob("*") if each.is_file()] == []


def test_consistency_is_asked_of_the_runs_own_retrieval(tmp_path):
    """With no stemmer a plural does not find its singular, with Portuguese' it does."""
    documents = {"a": "a inundação do rio", "b": "o deserto seco", "c": "a montanha alta"}
    collection = models.collection(tmp_path / "collection", documents)
    queries = [Query("a", 0, "inundações"), Query("b", 0, "desertos")]

    def kept(retrieval, language=""):
        settings = in_language(retrieval, language)
        return [
            each.doc_id for each in keep(config(consistency_depth=1), queries, documents, [], collection, settings)[0]
        ]

    assert kept(RetrieveConfig(stemmer="", stopwords="")) == []
    assert (
        kept(RetrieveConfig(stemmer="portuguese", stopwords="portuguese")) == ["a", "b"] == kept(RetrieveConfig(), "pt")
    )


@pytest.mark.parametrize("language", ["chinese", "japanese", "thai", "korean", "hindi", "arabic", "vietnamese"])
def test_filters_count_the_words_of_all_scripts(tmp_path, language):
    """`small` drops what has fewer than three words."""
    given = languages.sample(language)
    documents = {f"d{i}": text for i, text in enumerate(given.passages)}
    queries = [Query(f"d{i}", 0, text) for i, text in enumerate(given.queries)]
    collection = models.collection(tmp_path / "collection", documents)
    setting = config(min_query_words=3, max_query_words=32, drop_copied=True, consistency_depth=3)
    kept, dropped = keep(setting, queries, documents, [], collection)
    assert len(kept) > 0.8 * len(queries), dropped
    copied = [Query(f"d{i}", 1, "".join(pieces(text)[1:-1]).strip()) for i, text in enumerate(given.passages)]
    assert keep(config(drop_copied=True), copied, documents, [], collection)[1]["copied"] == len(copied)
    found = sample(config(documents=100, min_document_words=5), collection)
    assert (found.short, len(found.documents)) == (0, len(documents))


def test_diverse_documents_come_from_every_topic_alike(tmp_path):
    topics = {"tree": ("leaf root bark bud", 90), "sea": ("wave salt fish tide", 6), "sky": ("cloud star wind sun", 4)}
    random, documents = Random(1), {}
    for topic, (words, count) in topics.items():
        for i in range(count):
            documents[f"{topic}{i}"] = f"{topic} {words} {random.choice(words.split())}"
    forwards = models.collection(tmp_path / "a", documents)
    backwards = models.collection(tmp_path / "b", dict(reversed(documents.items())))

    def drawn(collection, **changes):
        found = sample(config(documents=9, clusters=3, sampling="diverse", **changes), collection).documents
        return [each.doc_id for each in found]

    found = drawn(forwards)
    assert sorted(doc_id.rstrip("0123456789") for doc_id in found) == ["sea"] * 3 + ["sky"] * 3 + ["tree"] * 3
    assert drawn(backwards) == found and drawn(forwards, seed=8) != found
    uniform = sample(config(documents=9), forwards).documents
    assert sum(each.doc_id.startswith("tree") for each in uniform) >= 6
    # What is too small to choose from is taken whole.
    assert len(sample(config(documents=500, sampling="diverse"), forwards).documents) == 100


def test_published_synthetic_queries_pass_through(tmp_path):
    queries = {"s1": ("synthetic", "a moon"), "s2": ("synthetic", "a river"), "t1": ("test", "a test")}
    collection = models.collection(tmp_path / "collection", DOCUMENTS, queries, {("s1", "d1"): (0.0, 1.0)})
    setting = config(checkpoint="/no/such/generator")
    stats = generate_queries(setting, collection, tmp_path / "queries", tmp_path / "report.md")
    assert "| passed through | 2 |" in (tmp_path / "report.md").read_text()
    assert [row["query_id"] for row in read(tmp_path / "queries")] == ["s1", "s2"]
    assert (stats.passed_through, stats.queries, stats.generated) == (2, 2, 0)


# --- the backend ------------------------------------------------------------------------------------------------------

PROMPTS = ["moon", "the bridge is in the north of the valley", "bread " * 20, "a stone"]


@pytest.mark.parametrize("make", [talkative, models.causal])
def test_batches_of_any_size_write_the_same(make):
    """Greedy: padding, its side and its mask must not show."""
    settings = {"checkpoint": make(), "queries_per_document": 1, "temperature": 0.0, "max_new_tokens": 12}
    counted = []
    together = load(**settings, batch_size=4).generate(PROMPTS, 0, counted.append)
    alone = load(**settings, batch_size=1).generate(PROMPTS, 0, counted.append)
    assert together.texts == alone.texts and [len(each) for each in together.texts] == [1] * 4
    assert len({each[0] for each in together.texts}) > 1, "else a mix-up would not show"
    assert counted == [4, 1, 1, 1, 1]


def test_causal_output_follows_the_prompt_as_transformers_writes_it():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend = load(checkpoint=models.causal(), queries_per_document=1, temperature=0.0)
    model = AutoModelForCausalLM.from_pretrained(models.causal())
    tokenizer = AutoTokenizer.from_pretrained(models.causal())
    written = backend.generate(PROMPTS, 0, lambda count: None)
    for prompt, (text,) in zip(PROMPTS, written.texts, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        for _ in range(6):
            following = model(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, following.view(1, 1)], dim=1)
            if "\n" in tokenizer.decode(following):
                break
        assert text == tokenizer.decode(ids[0, len(tokenizer(prompt)["input_ids"]) :], skip_special_tokens=True)


@pytest.mark.parametrize("make", [talkative, models.causal])
def test_log_probabilities_are_those_of_a_forward_pass_over_the_text(make):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    backend = load(checkpoint=make(), temperature=0.6, keep_probable=1, max_new_tokens=9, batch_size=3)
    causal = make is models.causal
    model = (AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM).from_pretrained(make())
    seen = {}  # (prompt's ids) -> written ids, as they left the model
    inner = backend._generate

    def spy(ids):
        rows, means = inner(ids)
        for at, (row, mean) in enumerate(zip(rows.tolist(), means, strict=True)):
            seen[tuple(ids[at // 2]), at % 2] = row, mean
        return rows, means

    backend._generate = spy
    written = backend.generate(PROMPTS, 0, lambda count: None)
    given = [mean for means in written.log_probabilities for mean in means]
    assert sorted(given) == sorted(mean for _, mean in seen.values()) and len(given) == 8
    for (prompt, _), (row, mean) in seen.items():
        ends = [at for at, token in enumerate(row) if token in backend.stops]
        row = torch.tensor(row[: ends[0] + 1] if ends else row)
        if causal:
            logits = model(input_ids=torch.cat([torch.tensor(prompt), row])[None]).logits[0, len(prompt) - 1 : -1]
        else:
            start = torch.cat([torch.tensor([model.config.decoder_start_token_id]), row[:-1]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start[None]).logits[0]
        expected = logits.log_softmax(-1).gather(1, row[:, None]).mean().item()
        assert mean == pytest.approx(expected, abs=1e-4)
    assert load(checkpoint=make()).generate(PROMPTS, 0, lambda count: None).log_probabilities is None


def test_log_probabilities_survive_a_kill(collection, tmp_path, monkeypatch):
    setting = config(checkpoint=talkative(), keep_probable=20)
    whole = generate_queries(setting, collection, tmp_path / "whole")
    inner, calls = TransformersBackend.generate, []

    def dies(backend, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(backend, *args)

    with monkeypatch.context() as patched:
        patched.setattr(TransformersBackend, "generate", dies)
        with pytest.raises(KeyboardInterrupt):
            generate_queries(setting, collection, tmp_path / "queries")
    # What is kept of the texts can be decided anew: the finished shards are still there.
    less = generate_queries(config(checkpoint=talkative(), keep_probable=10), collection, tmp_path / "queries")
    assert whole.improbable > 0 and (whole.queries, less.queries, less.resumed_documents) == (20, 10, 16)
    ids = [{row["query_id"] for row in read(tmp_path / name)} for name in ("queries", "whole")]
    assert ids[0] < ids[1], "the most probable ten of the most probable twenty"


def test_causal_models_stop_at_the_line_end(tmp_path):
    settings = config(checkpoint=models.causal(), max_new_tokens=60, temperature=3.0, batch_size=32)
    raw = load_backend(settings, prompts.load(settings.prompt)).generate(["moon"] * 60, 1, lambda count: None)
    ends = [text for texts in raw.texts for text in texts if "\n" in text]
    assert len(ends) > 3 and all(text.index("\n") == len(text) - 1 for text in ends)
    stats = generate_queries(settings, models.collection(tmp_path / "c", DOCUMENTS), tmp_path / "queries")
    assert all("\n" not in row["text"] and row["text"].strip() == row["text"] for row in read(tmp_path / "queries"))
    assert stats.queries > 50


def test_a_checkpoints_own_generation_settings_do_not_matter(tmp_path):
    from transformers import GenerationConfig

    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, tokenizer = load_seq2seq(models.t5())
    model.generation_config = GenerationConfig(
        max_length=3,
        num_beams=3,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        decoder_start_token_id=0,
        eos_token_id=1,
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    written = [
        load(checkpoint=each).generate(PROMPTS, 5, lambda count: None).texts for each in (models.t5(), str(tmp_path))
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize("make", [models.t5, models.causal, models.real_t5_tokenizer])
def test_documents_are_cut_by_tokens_and_stay_as_they_are(make):
    place = make()
    checkpoint = f"init:tiny?tokenizer={place}" if make is models.real_t5_tokenizer else place
    backend = load(checkpoint=checkpoint)
    texts = ["Naïve café – 漢字 ½ ﬁne, Moon's  stone!" * 5, "moon", "", "word " * 50, *models.real_passages(50)]
    for text, cut in zip(texts, backend.prompter.cut(texts, 12), strict=True):
        assert text.startswith(cut)
        count = len(backend.tokenizer(cut, add_special_tokens=False)["input_ids"])
        assert count <= 13  # a cut inside a word may spell its part differently
        if len(backend.tokenizer(text, add_special_tokens=False)["input_ids"]) <= 12:
            assert cut == text
        else:
            assert count >= 10


def test_a_document_longer_than_the_context_is_cut_and_counted(tmp_path):
    documents = {"long": "moon " * 200, "short": "moon river", "longest": "stone " * 300}
    collection = models.collection(tmp_path / "collection", documents)
    settings = {"checkpoint": models.causal(positions=128), "max_document_tokens": 125, "temperature": 3.0}
    stats = generate_queries(config(**settings), collection, tmp_path / "queries")
    assert (stats.documents, stats.generated, stats.cut_documents) == (3, 6, 2)
    assert read_manifest(tmp_path / "queries").details["counts"]["cut_documents"] == 2
    # 128 places: six for new tokens, and what is left for the prompt is used to the last.
    ids, cut = load(**settings).prompter.fit(list(documents.values()))
    assert [len(each) for each in ids] == [122, 10, 122] and cut == [True, False, True]

    with pytest.raises(
        UserError, match=r"its context of 128 tokens has no room for a document: prompt inpars-v1 alone has"
    ):
        generate_queries(config(**settings, prompt="inpars-v1"), collection, tmp_path / "none")
    # An encoder has its own room.
    assert generate_queries(config(max_document_tokens=16), collection, tmp_path / "t5").cut_documents == 2


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_inpars_has_three_examples_and_asks_for_the_fourth():
    text = prompts.load("inpars-v1").fill("THE DOCUMENT {document} {braces}")
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [f"Example {i}:" for i in (1, 2, 3, 4)]
    for block in blocks[:3]:
        _, document, query = block.splitlines()
        assert document.startswith("Document: ") and query.startswith("Relevant Query: ") and len(query) > 30
    assert blocks[3] == "Example 4:\nDocument: THE DOCUMENT {document} {braces}\nRelevant Query:"


def test_the_document_is_in_the_inpars_prompt_of_a_causal_model(tmp_path):
    setting = config(
        checkpoint=models.causal(positions=4096),
        prompt="inpars-v1",
        max_document_tokens=20,
        documents=3,
        temperature=3.0,
    )
    stats = generate_queries(setting, models.collection(tmp_path / "c", DOCUMENTS), tmp_path / "queries")
    assert stats.generated == 6
    assert read_manifest(tmp_path / "queries").details["prompt"] == "inpars-v1"


def test_a_template_of_ones_own(tmp_path, collection):
    (tmp_path / "mine.txt").write_text("Wörter {x}: {document} ?\n", encoding="utf-8")
    assert prompts.load(str(tmp_path / "mine.txt")).fill("moon") == "Wörter {x}: moon ?"
    mine = generate_queries(config(prompt=str(tmp_path / "mine.txt"), documents=4), collection, tmp_path / "a")
    assert mine.generated == 8
    generate_queries(config(documents=4), collection, tmp_path / "b")
    assert read(tmp_path / "a") != read(tmp_path / "b")


def test_a_prompt_shows_the_corpuss_own_training_queries(tmp_path):
    queries = {f"s{i}": ("supervised", f"own query {i}") for i in range(6)} | {"t": ("test", "the secret test")}
    collection = models.collection(tmp_path / "collection", DOCUMENTS, queries)
    qrels = [(f"s{i}", f"d{i}", 1) for i in range(5)] + [("s0", "d20", 2), ("s5", "d6", 0), ("t", "d9", 1)]
    columns = dict(zip(tables.QRELS.schema.names, map(list, zip(*qrels, strict=True)), strict=True))
    tables.write(tables.QRELS, collection / tables.QRELS.filename, columns)
    write_manifest(collection, dataset="toy", stage="prepare_corpus")

    template = with_examples(prompts.load("corpus-examples"), collection, "toy", seed=1)
    text = template.fill("THE {examples} {query}")
    blocks = text.split("\n\n")
    assert len(blocks) == 5 and blocks[-1] == "Document: THE {examples} {query}\nQuery:" and "secret" not in text
    for block in blocks[:4]:
        document, query = block.removeprefix("Document: ").split("\nQuery: own query ")
        assert document == DOCUMENTS["d20" if query == "0" else f"d{query}"], "its most relevant document"
    other = with_examples(prompts.load("corpus-examples"), collection, "toy", seed=2)
    assert (
        other.digest != template.digest == with_examples(prompts.load("corpus-examples"), collection, "toy", 1).digest
    )

    # The prompt as it comes from a file and as the text itself, and a corpus with too few queries.
    setting = config(prompt=prompts.read("corpus-examples").replace("examples: 4", "examples: 6"))
    with pytest.raises(
        UserError, match=r"of its own text shows 6 of the corpus's own queries, and toy has 5 judged training"
    ):
        generate_queries(setting, collection, tmp_path / "queries")
    assert (
        generate_queries(config(prompt="corpus-examples", documents=3), collection, tmp_path / "queries").documents == 3
    )


def test_a_chat_prompt_is_written_by_the_models_chat_template(tmp_path, collection):
    from transformers import AutoTokenizer

    place = tmp_path / "chatty"
    shutil.copytree(models.causal(positions=2048), place)
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
    tokenizer.save_pretrained(place)
    (tmp_path / "mine.txt").write_text("---\nsystem: Be short.\nstop: [x]\n---\nAbout: {document}\n")
    setting = {"checkpoint": str(place), "prompt": str(tmp_path / "mine.txt"), "max_document_tokens": 4}
    backend = load(**setting)
    ids, cut = backend.prompter.fit(["moon stone"])
    assert backend.tokenizer.decode(ids[0]) == "<system>Be short.<user>About: moon<answer>" and cut == [True]
    assert all("x" in backend.tokenizer.decode(token) for token in backend.stops[1:])
    assert generate_queries(config(**setting), collection, tmp_path / "queries").generated == 60
    for checkpoint in (models.causal(), models.t5()):
        with refuses("prompt-no-chat"):
            generate_queries(config(checkpoint=checkpoint, prompt="instruct"), collection, tmp_path / "none")


@pytest.mark.parametrize("name", prompts.names())
def test_every_template_holds_the_document(name):
    template = prompts.load(name)
    assert "THE DOCUMENT" in template.fill("THE DOCUMENT") and f"`{name}`" in (prompts.FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nchat: true\n{document}\n", "the settings at its beginning have no end"),
        ("---\n[a\n---\n{document}", "its settings: not valid YAML"),
        ("---\n- a\n---\n{document}", "its settings must be keys with values"),
        ("---\nchatt: true\n---\n{document}", "unknown setting 'chatt'; it knows: chat, system, stop"),
        ("---\nstop: x\n---\n{document}", "stop: 'x' is not of the kind list"),
        ("---\nexamples: 2\nexample: x\n---\n{document}", "{examples} (where) need each other"),
        ("{examples}\n{document}", "{examples} (where) need each other"),
        ("---\nexamples: 2\nexample: '{document}'\n---\n{examples}{document}", "its `example` has no {query}"),
        ("---\nsystem: '{document}'\n---\nWrite a query.", "the template has no {document}"),
    ],
)
def test_settings_of_a_template_that_cannot_work(text, message):
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        prompts.load(text)
    assert "\n" not in str(refused.value)


def test_templates_that_cannot_work(tmp_path, collection):
    (tmp_path / "bad.txt").write_text("Write a query: {doc}")
    with refuses("prompt-form", "bad.txt"):
        generate_queries(config(prompt=str(tmp_path / "bad.txt")), collection, tmp_path / "queries")
    with refuses("prompt-missing", "inpars-v9", "inpars-gbq", "inpars-v1"):
        generate_queries(config(prompt="inpars-v9"), collection, tmp_path / "queries")


# --- what people see ---


def test_the_report_tells_what_was_dropped_and_shows_queries(tmp_path):
    documents = {"a": "moon | <b>stone</b>", "b": "river `bread`", "c": " "}
    collection = models.collection(tmp_path / "collection", documents)
    generate_queries(config(seed=1), collection, tmp_path / "queries", tmp_path / "report.md")
    text, details = (tmp_path / "report.md").read_text(), read_manifest(tmp_path / "queries").details
    assert "# Synthetic queries for toy" in text and "| short documents | 1 |" in text
    assert "tokens per second" in text and details["tokens_per_second"] > 0
    assert r"moon \| &lt;b>stone" in text and r"river \`bread\`" in text
    assert sum(details["lengths"].values()) == details["counts"]["queries"]
    words = [len(row["text"].split()) for row in read(tmp_path / "queries")]
    assert details["lengths"] == {str(count): words.count(count) for count in sorted(set(words))}
    assert details["backend"] == "transformers" and details["versions"]["transformers"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"temperature: 0 writes the same query each time, but queries_per_document is 2"),
        ({"batch_size": 0}, r"generation\.batch_size: 0 must be 1 or more"),
        ({"top_p": 0.0}, r"top_p above 0"),
        ({"request_fields": {"a": 1}}, r"request_fields: are for the backend openai, and this is transformers"),
        ({"min_query_words": 9, "max_query_words": 8}, r"max_query_words: 8 is below generation.min_query_words \(9\)"),
        ({"checkpoint": "./nowhere"}, r"\./nowhere: no such checkpoint folder"),
        ({"min_document_words": 100}, r"no document of toy has 100 words or more \(30 are shorter\)"),
    ],
)
def test_settings_that_cannot_work(collection, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        generate_queries(config(**changes), collection, tmp_path / "queries")
    assert "\n" not in str(refused.value) and not (tmp_path / "queries" / "manifest.json").exists()


def test_a_corpus_without_documents(tmp_path):
    with refuses("nothing-to-ask"):
        generate_queries(config(), models.collection(tmp_path / "c", {}), tmp_path / "queries")


@pytest.mark.parametrize(
    ("heads", "gpus", "over"), [(16, 8, 8), (12, 8, 4), (12, 3, 2), (7, 4, 1), (32, 1, 1), (32, 0, 1), (64, 6, 4)]
)
def test_a_model_is_split_over_the_gpus_that_its_heads_come_out_even_on(heads, gpus, over):
    from inranker_flow.generation.backends.vllm import _split

    assert _split(heads, gpus) == over


def test_vllm_that_is_not_installed(collection, tmp_path):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(UserError, match=r"vllm is not installed here .*SET=\"generation\.backend=transformers\""):
        generate_queries(config(backend="vllm"), collection, tmp_path / "queries")


def test_a_generator_that_writes_nothing_useful(tmp_path):
    import torch

    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, tokenizer = load_seq2seq(models.t5())
    with torch.no_grad():  # every logit equal: greedy takes <pad>, which is no text
        model.shared.weight.zero_()
    model.save_pretrained(tmp_path / "mute")
    tokenizer.save_pretrained(tmp_path / "mute")
    setting = config(checkpoint=str(tmp_path / "mute"), queries_per_document=1, temperature=0.0)
    with pytest.raises(UserError, match=r"30 of its 30 answers for toy hold no query: '' \| '' \| ''; have"):
        generate_queries(setting, models.collection(tmp_path / "c", DOCUMENTS), tmp_path / "queries")


def told_by(monkeypatch, answer):
    """The generator's texts are what ``answer`` makes of their number."""
    inner = TransformersBackend.generate

    def answers(self, documents, *rest):
        written = inner(self, documents, *rest)
        texts = [[answer(int(text.split()[-1])) for _ in range(self.config.queries_per_document)] for text in documents]
        return dataclasses.replace(written, texts=texts)

    monkeypatch.setattr(TransformersBackend, "generate", answers)


NUMBERED = {f"d{i}": f"the stone {i}" for i in range(40)}
GREETING = "Fein beobachtet ist hier die Frage: "


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda i: f"{GREETING}{i} steine" if i % 3 else f"stein {i}",
            "26 of its 40 answers for toy begin alike ('fein beobachtet",
        ),
        (
            lambda i: "I'm sorry, but I cannot help with that." if i % 4 else f"stone {i}",
            "30 of its 40 answers for toy hold no query: ",
        ),
        (
            lambda i: "<think>\nthe user wants",
            "40 of its 40 answers for toy hold no query: '<think> the user wants' | '<think>",
        ),
        (lambda i: f"以下の質問をお楽しみください{i}", "answers for toy begin alike ('以 下 の 質')"),
        (lambda i: "the same for all of them", "40 of its 40 answers for toy begin alike"),
    ],
)
def test_answers_that_are_mostly_of_no_use(tmp_path, monkeypatch, answer, message):
    told_by(monkeypatch, answer)
    collection = models.collection(tmp_path / "c", NUMBERED)
    setting = config(queries_per_document=1)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        generate_queries(setting, collection, tmp_path / "queries")
    told = str(refused.value)
    assert "\n" not in told and told.count(" | ") == 2 and "generation.max_unusable: 1" in told and len(told) < 900


@pytest.mark.parametrize(
    "answer",
    [
        lambda i: f"what is the stone number {i}",
        lambda i: f"{GREETING}{i} steine" if i % 2 else f"stein {i}",
        lambda i: "" if i % 2 else f"stone {i}",
        lambda i: f"1. stone {i}\n2. none",
    ],
)
def test_answers_that_are_of_use(tmp_path, monkeypatch, answer):
    told_by(monkeypatch, answer)
    collection = models.collection(tmp_path / "c", NUMBERED)
    stats = generate_queries(config(queries_per_document=1), collection, tmp_path / "queries", tmp_path / "report.md")
    told = (tmp_path / "report.md").read_text()
    assert stats.queries + stats.empty == 40 and (f"| empty | {stats.empty} |" in told) == bool(stats.empty)


def test_answers_of_no_use_may_be_kept(tmp_path, monkeypatch):
    told_by(monkeypatch, lambda i: f"fein beobachtet ist hier {i}" if i else "")
    collection = models.collection(tmp_path / "c", NUMBERED)
    stats = generate_queries(config(queries_per_document=1, max_unusable=1), collection, tmp_path / "queries")
    assert stats.queries == 39 and stats.empty == 1


def test_a_model_of_no_use_is_refused_before_it_has_written_all(tmp_path, monkeypatch):
    from inranker_flow.stages import generate_queries as stage

    monkeypatch.setattr(stage, "_MANY_ANSWERS", 8)
    asked = []
    told_by(monkeypatch, lambda i: asked.append(i) or "None")
    with pytest.raises(UserError, match=r"8 of its 8 answers for toy hold no query"):
        generate_queries(
            config(queries_per_document=1), models.collection(tmp_path / "c", NUMBERED), tmp_path / "queries"
        )
    assert len(asked) == 8


def test_the_log_says_what_was_dropped(tmp_path, monkeypatch, caplog):
    told_by(monkeypatch, lambda i: f"what is stone {i}")
    with caplog.at_level("INFO", logger="inranker_flow"):
        generate_queries(
            config(queries_per_document=1), models.collection(tmp_path / "c", NUMBERED), tmp_path / "queries"
        )
    assert "40 queries kept of 40 (none dropped)" in caplog.text


# --- the store of written queries -------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A store, and the documents that each call of the generator was asked about."""
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    inner, calls = TransformersBackend.generate, []
    monkeypatch.setattr(
        TransformersBackend,
        "generate",
        lambda self, texts, *rest: calls.append(list(texts)) or inner(self, texts, *rest),
    )
    return calls


def by_document(folder):
    found: dict[str, list[str]] = {}
    for row in read(folder):
        found.setdefault(row["source_doc_id"], []).append(row["text"])
    return found


def test_only_changed_and_new_documents_are_asked_about_again(collection, tmp_path, asked):
    generate_queries(config(), collection, tmp_path / "first")
    assert sum(map(len, asked)) == 30
    asked.clear()
    stats = generate_queries(config(), collection, tmp_path / "again")
    assert not asked and (stats.resumed_documents, stats.tokens) == (30, 0)
    assert read_manifest(tmp_path / "again").content == read_manifest(tmp_path / "first").content

    changed = {**DOCUMENTS, "d7": "quite other words", "new": "one more"}
    del changed["d3"]
    generate_queries(config(), models.collection(tmp_path / "changed", changed), tmp_path / "next")
    assert sorted(text for call in asked for text in call) == ["one more", "quite other words"]
    before, after = by_document(tmp_path / "first"), by_document(tmp_path / "next")
    same = set(before) & set(after) - {"d7"}
    # A query that is a duplicate of one of a changed document's may come or go with it.
    assert len(same) > 20 and sum(before[each] == after[each] for each in same) >= len(same) - 2
    assert "d3" not in after


def test_a_killed_generation_continues_on_another_machine(collection, tmp_path, asked, monkeypatch):
    generate_queries(config(), collection, tmp_path / "whole")
    shutil.rmtree(tmp_path / "store")
    inner, calls = TransformersBackend.generate, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TransformersBackend, "generate", dies)
        generate_queries(config(), collection, tmp_path / "queries")
    asked.clear()
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "another"))
    assert generate_queries(config(), collection, tmp_path / "queries").resumed_documents == 16
    assert [len(call) for call in asked] == [8, 6]
    assert read_manifest(tmp_path / "queries").content == read_manifest(tmp_path / "whole").content


@pytest.mark.parametrize("change", [{"seed": 4}, {"temperature": 0.7}, {"prompt": "inpars-v1"}, {"max_new_tokens": 5}])
def test_what_was_written_with_other_settings_is_not_taken(collection, tmp_path, asked, change):
    generate_queries(config(documents=6), collection, tmp_path / "first")
    assert generate_queries(config(documents=6, **change), collection, tmp_path / "other").resumed_documents == 0
    assert generate_queries(config(documents=8), collection, tmp_path / "more").resumed_documents == 6


@pytest.mark.parametrize(
    "source",
    [
        "---\nchat: true\n---\nAbout {document}",
        "--- \nchat: true\n---\t\nAbout {document}",
        "\n\n---\nchat: true\n---\nAbout {document}",
        "\ufeff\r\n---\r\nchat: true\r\n---\r\nAbout {document}\r\n",
    ],
)
def test_settings_of_a_template_are_read_whatever_an_editor_put_around_their_lines(tmp_path, source):
    (tmp_path / "mine.txt").write_bytes(source.encode())
    template = prompts.load(str(tmp_path / "mine.txt"))
    assert template.chat and template.fill("THE DOCUMENT") == "About THE DOCUMENT"


def test_a_line_of_dashes_within_a_template_is_its_text():
    template = prompts.load("Read this:\n---\n{document}\n---\nIts query:")
    assert template.fill("x") == "Read this:\n---\nx\n---\nIts query:"
    assert prompts.load("---\n---\nAbout {document}").text == "About {document}"
