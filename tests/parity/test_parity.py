"""One prompt, everywhere: what trains is what scores, and scores are those of a plain `transformers` forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import ScoringConfig
from inranker_flow.distillation.data import load_examples
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.rankers.monot5 import MonoT5Reader
from inranker_flow.rankers.monot5_prompt import Renderer
from tests import models

BAR = 1e-5  # float32 on a CPU, whatever the batch

QUERIES = [
    "what is bread",
    "  spaces   everywhere ",
    "Größe & Maß: naïve café?",
    "漢字 とかな",
    "emoji 🙂 and ½ ﬁne",
    "tab\tand\nline end",
    "<extra_id_0> true false",
    "",
    "Query: Document: Relevant:",
]
DOCUMENTS = [
    "the bridge is in the north",
    "Two  spaces,\ta tab,\n\na paragraph; U+0085:\x85 and a no-break\u00a0space",
    "“Quoted” – dashes — and an ellipsis…",
    "Ünïcödé ﬃ ² ㎏ ｆｕｌｌ width",
    "中文文本没有空格",
    "e\u0301 combining, zero\u200bwidth, soft\u00adhyphen",
    "1,234.56 % of C++ & R&D <b>markup</b>",
    " leading and trailing ",
    "",
]
LONG = "the river and the stone in the garden of the north " * 60
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS] + [(query, LONG) for query in QUERIES[:2]]
SHORT = PAIRS[:-2]


def prompt(query: str, document: str) -> str:
    """The template as the original inference code writes it (InRanker, rankers.py)."""
    return f"Query: {query} Document: {document} Relevant:"


def tokenizers():
    return [pytest.param(models.tokenizer_folder, id="words"), pytest.param(models.real_t5_tokenizer, id="t5")]


@pytest.fixture(params=tokenizers())
def tokenizer(request):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request.param())


@pytest.fixture(params=[False, True], ids=["v1.0", "v1.1"])
def checkpoint(request):
    return models.t5(untied=request.param)


@pytest.fixture(scope="module")
def plain():
    """(query, document), checkpoint -> logits of the original: whole string, one at a time, the full vocabulary."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    loaded = {}

    def score(checkpoint, pairs, max_length=512):
        if checkpoint not in loaded:
            loaded[checkpoint] = (
                AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval(),
                AutoTokenizer.from_pretrained(checkpoint),
            )
        model, tokenizer = loaded[checkpoint]
        labels = [tokenizer.get_vocab()[word] for word in ("▁false", "▁true")]
        logits = []
        for pair in pairs:
            inputs = tokenizer(prompt(*pair), truncation=True, max_length=max_length, return_tensors="pt")
            with torch.no_grad():
                output = model(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id]]),
                )
            logits.append(output.logits[0, 0, labels].double().numpy())
        return np.array(logits)

    return score


# --- ids --------------------------------------------------------------------------------------------------------------


def test_assembled_ids_are_those_of_the_whole_string(tokenizer):
    """Parts that are tokenised once and put together give the ids of the finished prompt, ``</s>`` included."""
    renderer = Renderer(tokenizer, max_length=10_000)
    pairs = [*PAIRS, *zip(QUERIES * 100, models.real_passages(300), strict=False)]
    whole = tokenizer([prompt(*pair) for pair in pairs])["input_ids"]
    different = [pair for pair, ids in zip(pairs, whole, strict=True) if renderer.render(*pair) != ids]
    assert not different
    assert all(ids[-1] == tokenizer.eos_token_id for ids in whole)


def test_ten_thousand_real_prompts_have_the_ids_of_the_whole_string():
    """Queries and passages of several collections, some made worse; each text is tokenised once, as labelling does it."""
    from transformers import AutoTokenizer

    from inranker_flow.rankers.monot5_pairs import Plan

    queries, documents = models.real_texts()
    if not documents:
        pytest.skip(f"{models.DATA} is absent: real collections are not part of the project")
    rng = np.random.default_rng(0)
    worse = [
        "{} </s>",
        "</s> {}",
        "a </s> {} b</s>",
        "\u00a0{}\u3000",
        "{}\x85\n",
        "漢字 {} ½ﬁ",
        "{} <extra_id_3> ",
        "🙂{}e\u0301 ",
    ]
    for texts in (queries, documents):
        for place in rng.choice(len(texts), len(texts) // 5, replace=False):
            texts[place] = worse[int(rng.integers(len(worse)))].format(texts[place])
    pairs = np.stack([rng.integers(len(queries), size=10_000), rng.integers(len(documents), size=10_000)], axis=1)
    tokenizer = AutoTokenizer.from_pretrained(models.real_t5_tokenizer())
    plan = Plan.of(Renderer(tokenizer, max_length=100_000), queries, documents, pairs)
    whole = tokenizer([prompt(queries[q], documents[d]) for q, d in pairs])["input_ids"]
    assert sum(ids.count(tokenizer.eos_token_id) > 1 for ids in whole) > 500, "literal end marks are among them"
    different = []
    for start in range(0, len(pairs), 500):
        rows = np.arange(start, start + 500)
        ids, mask = plan.inputs(rows, pad_to=8)
        different += [
            row for row, found, kept in zip(rows, ids, mask, strict=True) if found[kept == 1].tolist() != whole[row]
        ]
    assert not different


def test_the_exception_a_special_token_in_the_text(tokenizer):
    """A literal ``</s>`` becomes the end mark in transformers, in parts as in the whole (sentencepiece spells it)."""
    renderer = Renderer(tokenizer)
    pair = ("what is </s>", "a moon </s> and a stone")
    ids = renderer.render(*pair)
    assert ids == tokenizer(prompt(*pair))["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 3


def training_set(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """A labels/ folder with every pair; ids are positions."""
    folder.mkdir()
    queries = {text: f"q{i}" for i, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
    documents = {text: f"d{i}" for i, text in enumerate(dict.fromkeys(document for _, document in pairs))}
    contents = {
        tables.QUERIES: [(key, text, "supervised", None) for text, key in queries.items()],
        tables.CORPUS: [(key, "", text) for text, key in documents.items()],
        tables.LABELS: [(queries[query], documents[document], 0.0, 1.0) for query, document in pairs],
    }
    for table, rows in contents.items():
        columns = map(list, zip(*rows, strict=True))
        tables.write(table, folder / table.filename, dict(zip(table.schema.names, columns, strict=True)))
    write_manifest(folder, dataset="toy", stage="teacher_label")
    return folder


@pytest.mark.parametrize("truncation", ["document", "reference"])
@pytest.mark.parametrize("max_length", [32, 512])
def test_training_reads_the_ids_that_scoring_reads(tmp_path, truncation, max_length):
    """From the labels artifact to the model's input, against (query, passage) to the model's input."""
    ranker = load_ranker(models.t5(), ScoringConfig(max_length=max_length, truncation=truncation))
    renderer = Renderer(ranker.tokenizer, max_length, truncation)
    # default_text strips passages; nothing else may happen to a text on its way.
    pairs = list(dict.fromkeys((query, document.strip()) for query, document in PAIRS))
    examples = load_examples([training_set(tmp_path / "labels", pairs)], MonoT5Reader(renderer), centre=True, seed=0)
    batch = examples.batch(np.arange(len(pairs)))
    trained = {tuple(ids[mask == 1]) for ids, mask in zip(*batch.inputs, strict=True)}

    scored = []
    inner = ranker.forward

    def recording(ids, mask):
        scored.extend(tuple(row[kept == 1]) for row, kept in zip(ids, mask, strict=True))
        return inner(ids, mask)

    ranker.forward = recording
    ranker.score(pairs)
    assert len(scored) == len(pairs) and set(scored) == trained
    assert trained == {tuple(renderer.render(*pair)) for pair in pairs}


# --- truncation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [32, 128, 512])
def test_long_documents_keep_the_question(tokenizer, max_length):
    renderer = Renderer(tokenizer, max_length)
    suffix = [*renderer._suffix, tokenizer.eos_token_id]
    query = renderer.encode_queries(["what is bread"])[0]
    ids = renderer.render("what is bread", LONG)
    assert len(ids) == max_length and ids[-len(suffix) :] == suffix and ids[: len(query)] == query
    document = renderer.encode_documents([LONG])[0]
    assert ids[len(query) : -len(suffix)] == document[: max_length - len(query) - len(suffix)]


@pytest.mark.parametrize("document", ["", "a moon", LONG])
def test_a_long_query_leaves_room_for_the_document_and_the_question(tokenizer, document):
    """The original code's document budget becomes negative here, and the question is cut off."""
    renderer = Renderer(tokenizer, 64)
    suffix = [*renderer._suffix, tokenizer.eos_token_id]
    ids = renderer.render(LONG, document)
    room = 64 - len(suffix)
    parts = renderer.encode_queries([LONG])[0], renderer.encode_documents([document])[0]
    kept = min(len(parts[1]), room - room // 2)
    assert len(ids) == 64 and ids[-len(suffix) :] == suffix
    assert ids[: room - kept] == parts[0][: room - kept] and ids[room - kept : room] == parts[1][:kept]


@pytest.mark.parametrize("max_length", [32, 128, 512])
def test_reference_truncation_is_the_original_codes(tokenizer, max_length):
    renderer = Renderer(tokenizer, max_length, "reference")
    for pair in [*PAIRS, (LONG, "a moon")]:
        ids = renderer.render(*pair)
        assert ids == tokenizer(prompt(*pair), truncation=True, max_length=max_length)["input_ids"]
    cut = renderer.render("what is bread", LONG)
    assert len(cut) == max_length and cut[-1] == tokenizer.eos_token_id
    assert cut[-1 - len(renderer._suffix) : -1] != renderer._suffix, "the question is gone: 5a.9 of the reference"


def test_the_real_vocabulary_is_what_the_reference_says():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.real_t5_tokenizer())
    assert tokenizer.convert_tokens_to_ids(["▁true", "▁false", "<pad>", "</s>"]) == [1176, 6136, 0, 1]
    assert len(Renderer(tokenizer)._suffix) == 3


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_plain_forward_pass(checkpoint, plain):
    scores = load_ranker(checkpoint, ScoringConfig(truncation="reference")).score(PAIRS)
    expected = plain(checkpoint, PAIRS)
    assert np.abs(scores - expected).max() < BAR
    assert np.abs(expected[:, 1] - expected[:, 0]).std() > 0.01, "the scores differ, so an agreement means something"
    # What is not truncated has the same ids in both settings, and so the same scores.
    assert np.abs(load_ranker(checkpoint, ScoringConfig()).score(SHORT) - expected[:-2]).max() < BAR


def test_scores_with_the_real_vocabulary(plain):
    checkpoint = models.t5(tokenizer=models.real_t5_tokenizer())
    scores = load_ranker(checkpoint, ScoringConfig(truncation="reference")).score(PAIRS)
    assert np.abs(scores - plain(checkpoint, PAIRS)).max() < BAR


def test_the_trained_teacher_scores_as_a_plain_forward_pass_does(plain):
    from inranker_flow.rankers.checkpoints import locate

    pairs = [("clever hammer whereabouts", "for clever hammer the location is winter spring ."), *SHORT[:20]]
    scores = load_ranker("demo:teacher", ScoringConfig()).score(pairs)
    assert np.abs(scores - plain(str(locate("demo:teacher")), pairs)).max() < BAR


def test_the_batch_does_not_matter(checkpoint):
    scores = load_ranker(checkpoint, ScoringConfig()).score(PAIRS)
    order = np.random.default_rng(0).permutation(len(PAIRS))
    shuffled = load_ranker(checkpoint, ScoringConfig()).score([PAIRS[i] for i in order])
    assert np.abs(shuffled - scores[order]).max() < BAR
    for batch_tokens in (1, 700):  # one by one, and some
        others = load_ranker(checkpoint, ScoringConfig(batch_tokens=batch_tokens)).score(PAIRS)
        assert np.abs(others - scores).max() < BAR


def test_without_the_attention_mask_these_tests_would_fail(checkpoint):
    """The same padded batches, every position attended to: far beyond the bar."""
    ranker = load_ranker(checkpoint, ScoringConfig(batch_tokens=100_000))
    scores = ranker.score(SHORT)
    inner = ranker.forward
    ranker.forward = lambda ids, mask: inner(ids, np.ones_like(mask))
    assert np.abs(ranker.score(SHORT) - scores).max() > 1000 * BAR


def test_the_end_mark_matters(checkpoint):
    """Training without ``</s>`` and scoring with it, as the original does, are different inputs (5a.6)."""
    ranker = load_ranker(checkpoint, ScoringConfig())
    ids = np.array([ranker.renderer.render("what is bread", "a moon")])
    with_end = ranker.forward(ids, np.ones_like(ids)).numpy()
    without = ranker.forward(ids[:, :-1], np.ones_like(ids[:, :-1])).numpy()
    assert np.abs(with_end - without).max() > 100 * BAR
