"""The miniature world: what its two domains hold, and that the small models read it the way the project does."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inranker_flow.demo import vocabulary, world
from inranker_flow.rankers import monot5_prompt

MODELS = Path(world.__file__).parent / "models"
SEEDS = (1, 7)


@pytest.mark.parametrize("domain", ["source", "target"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_world_has_the_promised_shape(domain: world.Domain, seed: int) -> None:
    made = world.make_world(domain, seed)
    doc_ids = {doc_id for doc_id, _, _ in made.corpus}
    query_ids = {query_id for query_id, _, _ in made.queries}
    assert len(doc_ids) == len(made.corpus) == 1200
    assert len(query_ids) == len(made.queries)
    splits = [split for _, _, split in made.queries]
    assert splits.count("test") == 200
    assert splits.count("train") == {"source": 1000, "target": 0}[domain]
    assert {query_id for query_id, _, _, _ in made.qrels} == query_ids
    assert {doc_id for _, doc_id, _, _ in made.qrels} <= doc_ids
    for text in [f"{title} {text}" for _, title, text in made.corpus] + [text for _, text, _ in made.queries]:
        assert text.isascii() and text == text.lower()


def test_no_test_query_and_no_test_passage_is_trained_on() -> None:
    made = world.make_world("source", 3)
    asked = {split: {text for _, text, s in made.queries if s == split} for split in ("train", "test")}
    judged = {split: {doc for _, doc, _, s in made.qrels if s == split} for split in ("train", "test")}
    assert not asked["train"] & asked["test"]
    assert not judged["train"] & judged["test"]


def test_no_test_query_of_the_target_is_trained_on_in_the_source() -> None:
    trained = {seed: {text for _, text, _ in world.make_world("source", seed).queries} for seed in range(1, 9)}
    tested = {seed: {text for _, text, _ in world.make_world("target", seed).queries} for seed in range(1, 9)}
    assert not any(trained[seed] & tested[seed] for seed in trained)
    # Worlds of different seeds do share queries, so the rule has something to do.
    assert any(trained[one] & tested[other] for one in trained for other in tested)


def test_the_same_seed_gives_the_same_world_in_every_process(tmp_path: Path) -> None:
    for number in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "inranker_flow.demo.world", "--domain=target", "--seed=7", "--out", number],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "qrels/train.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert world.make_world("target", 7) != world.make_world("target", 8)


def test_beir_files_hold_the_whole_world(tmp_path: Path) -> None:
    made = world.make_world("source", 1, queries=30)
    world.write_beir(made, tmp_path)
    passages = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    assert [(p["_id"], p["title"], p["text"]) for p in passages] == made.corpus
    queries = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [(q["_id"], q["text"]) for q in queries] == [(query_id, text) for query_id, text, _ in made.queries]
    for split, count in (("train", 30), ("test", 200)):
        with (tmp_path / "qrels" / f"{split}.tsv").open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert list(rows[0]) == ["query-id", "corpus-id", "score"] and len(rows) == count


@pytest.mark.parametrize("queries", [-1, 1001])
def test_an_impossible_number_of_queries_is_refused(queries: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1000"):
        world.make_world("source", 1, queries=queries)


def test_no_two_words_fall_together_in_the_first_stage() -> None:
    stemmer = pytest.importorskip("Stemmer").Stemmer("english")
    stems = [stemmer.stemWord(word) for word in world.words()]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_bm25_finds_the_entity_and_not_the_fact(domain: world.Domain) -> None:
    bm25s = pytest.importorskip("bm25s")
    stemmer = pytest.importorskip("Stemmer").Stemmer("english")
    made = world.make_world(domain, 5)

    def analyse(texts: list[str]) -> object:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    engine = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    engine.index(analyse([f"{title} {text}" for _, title, text in made.corpus]), show_progress=False)
    right = {query_id: doc_id for query_id, doc_id, _, _ in made.qrels}
    asked = [(query_id, text) for query_id, text, split in made.queries if split == "test"]
    found, _ = engine.retrieve(analyse([text for _, text in asked]), k=30, show_progress=False)
    places = [
        [made.corpus[i][0] for i in row].index(right[query_id]) for (query_id, _), row in zip(asked, found, strict=True)
    ]  # .index raises when the right passage is not among the thirty
    assert max(places) < 20
    assert sum(place == 0 for place in places) / len(places) < 0.15  # one in twenty, by chance


def test_the_saved_tokenizer_and_the_word_list_agree() -> None:
    transformers = pytest.importorskip("transformers")
    made = world.make_world("target", 2)
    for name in ("teacher", "student", "generator"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / name)
        assert isinstance(tokenizer, transformers.T5Tokenizer)
        assert tokenizer.convert_tokens_to_ids(["▁false", "▁true"]) == [vocabulary.FALSE, vocabulary.TRUE]
        _, title, text = made.corpus[0]
        query, document = made.queries[0][1], f"{title} {text}"
        parts = tokenizer([f"Query: {query}", f"Document: {document}", "Relevant:"], add_special_tokens=False)
        together = [*(i for part in parts["input_ids"] for i in part), tokenizer.eos_token_id]
        assert together == vocabulary.prompt_ids(vocabulary.word_ids(query), vocabulary.word_ids(document))
        assert together == monot5_prompt.Renderer(tokenizer).render(query, document)
        strange = 'Any ASCII text, even "this": <a@b.c> {1+2=3} ~|\\^`'
        ids = tokenizer(strange, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == strange
        assert tokenizer.unk_token_id in tokenizer("Zürich")["input_ids"]


def test_the_models_load_whole_and_are_small() -> None:
    transformers = pytest.importorskip("transformers")
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 3_000_000
    for name in ("teacher", "student", "generator"):
        model, info = transformers.T5ForConditionalGeneration.from_pretrained(MODELS / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert model.generation_config.decoder_start_token_id == 0


def test_the_teacher_knows_the_target_and_the_student_does_not_yet() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from random import Random

    from inranker_flow.demo import build, curriculum

    random = Random(11)
    groups = [curriculum.sentences("target")(random) for _ in range(100)]
    share = {}
    for name in ("teacher", "student"):
        model = transformers.T5ForConditionalGeneration.from_pretrained(MODELS / name).eval()
        with torch.no_grad():
            pairs = build.logits(model, (vocabulary.prompt_ids(g.query, d) for g in groups for d in g.documents))
        best = (pairs[:, 1] - pairs[:, 0]).view(len(groups), -1).argmax(dim=1)
        share[name] = (best == 0).float().mean().item()
    assert share["teacher"] >= 0.95
    assert share["student"] <= 0.7


def test_the_generator_asks_about_its_passage() -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from random import Random

    from inranker_flow.demo import build

    transformers.set_seed(5)
    model = transformers.T5ForConditionalGeneration.from_pretrained(MODELS / "generator").eval()
    assert build.generator_accuracy(model, Random(5), passages=100) >= 0.93


def test_a_lesson_that_is_not_learned_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from inranker_flow.demo import build, curriculum

    lesson = curriculum.Stage("easy", curriculum.easy, groups=2, gate=1.01, learning_rate=1e-3, limit=21)
    monkeypatch.setattr(build, "STUDENT_STAGES", [lesson])
    (tmp_path / "models" / "student").mkdir(parents=True)
    (tmp_path / "models" / "student" / "old").touch()
    with pytest.raises(build.GateNotReached, match=r"'easy' reached accuracy .* in 21 steps, below its gate 1\.01"):
        build.build(1, tmp_path / "models", only="student")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == ["models/student/old"]
