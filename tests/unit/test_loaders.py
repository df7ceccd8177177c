"""One model folder, many loaders: the code of the model card, run as it stands there, gives the same scores.

The libraries are the real ones. Where one cuts long texts in its own way, the tests say exactly how.
"""

from __future__ import annotations

import json
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inranker_flow import reading
from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.model_registry import model_card
from inranker_flow.rankers.base import Ranker
from inranker_flow.rankers.loading import load_ranker
from tests import starts, teachers
from tests.loaders import OF_KIND, Groups, Loaded, assert_same, load
from tests.models import DATA, real_t5_tokenizer
from tests.promoting import evaluation, promote, student, use_database


def count(groups: Groups) -> int:
    return sum(len(passages) for _, passages in groups)


def own_scores(ranker: Ranker, query: str, passages: list[str]) -> np.ndarray:
    logits = ranker.score([(query, passage) for passage in passages])
    return logits[:, 1] - logits[:, 0]


def logistic(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """name, checkpoint, max_length -> the champion of that name, loaded as its card says."""
    import mlflow

    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        patch.setenv(name, "")
    folder = tmp_path_factory.mktemp("mlflow")
    use_database(folder)

    def make(name: str, checkpoint: Path, max_length: int) -> Loaded:
        model = student(folder / name, 0, str(checkpoint), max_length)
        promote(name, model, evaluation(folder / f"{name}-e", bm25=0.2, phase2=0.6))
        return load(name)

    yield make
    mlflow.set_tracking_uri(None)
    patch.undo()


# --- the texts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(registered) -> tuple[Loaded, Groups]:
    """The demo's student and 500 pairs of its texts; two passages of each ten are longer than its 64 tokens, and one
    of these than 512."""
    from inranker_flow.demo.world import make_world
    from inranker_flow.rankers.checkpoints import DEMO

    world = make_world("target", 1)
    passages = [text for _, _, text in world.corpus]
    groups: Groups = []
    for number, (_, query, _) in enumerate(world.queries[:50]):
        mine = passages[8 * number : 8 * number + 8]
        groups.append((query, [*mine, " ".join(mine), " ".join(passages[number : number + 120])]))
    return registered("demo", DEMO / "student", 64), groups


@pytest.fixture(scope="module")
def real(registered, tmp_path_factory) -> tuple[Loaded, Groups]:
    """A random T5 with the real vocabulary, and 500 judged pairs of a real collection, many of them over-long."""
    groups = real_groups()
    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, tokenizer = load_seq2seq(f"init:tiny?tokenizer={real_t5_tokenizer()}&seed=3")
    checkpoint = tmp_path_factory.mktemp("real") / "model"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    return registered("real", checkpoint, 512), groups


def real_groups() -> Groups:
    """500 judged pairs of a real collection, many of them over-long; skips the test where it is absent."""
    folder = DATA / "collections" / "liveqa-med"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: real collections are not part of the project")
    texts = {name: _texts(folder / f"{name}.jsonl") for name in ("queries", "corpus")}
    with next((folder / "qrels").glob("*.tsv")).open(encoding="utf-8") as lines:
        pairs = [line.split("\t")[:2] for line in islice(lines, 1, 501)]
    return [
        (texts["queries"][query], list(dict.fromkeys(texts["corpus"][doc] for _, doc in found)))
        for query, found in groupby(pairs, key=lambda pair: pair[0])
    ]


def _texts(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as lines:
        return {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in map(json.loads, lines)}


COLLECTIONS = pytest.mark.parametrize("collection", ["demo", pytest.param("real", marks=pytest.mark.long)])


# --- monoT5 -----------------------------------------------------------------------------------------------------------


@COLLECTIONS
def test_the_first_three_give_the_same_scores_and_ranks_whatever_the_length(collection, request):
    loaded, groups = request.getfixturevalue(collection)
    assert count(loaded.fit(groups, False)) >= 50, "there must be something to cut"
    assert count(groups) >= 450
    scores = loaded.scores(groups)
    for name in ("transformers", "pyfunc"):
        assert_same(scores[name], scores["own"])


@COLLECTIONS
def test_rerankers_gives_the_same_where_nothing_is_cut(collection, request):
    loaded, groups = request.getfixturevalue(collection)
    short = [(query, passages) for query, passages in loaded.fit(groups, True) if len(passages) > 1]
    assert count(short) >= 200
    assert_same(loaded.ranked(short), [logistic(own) for own in loaded.own(short)])


@COLLECTIONS
def test_rerankers_cuts_long_prompts_on_the_right_at_512_tokens_as_the_card_says(collection, request):
    loaded, groups = request.getfixturevalue(collection)
    long = loaded.fit(groups, False)
    assert sum(loaded.tokens(query, each) > 512 for query, passages in long for each in passages) >= 40
    reference = load_ranker(str(loaded.folder), ScoringConfig(max_length=512, truncation="reference"))
    furthest = 0.0
    for (query, passages), other, own in zip(long, loaded.ranked(long), loaded.own(long), strict=True):
        same = logistic(own_scores(reference, query, passages))
        np.testing.assert_allclose(other, same, rtol=0, atol=1e-4)
        furthest = max(furthest, np.abs(other - logistic(own)).max())
    assert furthest > 1e-3, "without ` Relevant:` the model must say something else, or this test sees nothing"
    card = (loaded.folder / "README.md").read_text(encoding="utf-8")
    assert "`rerankers` cuts a prompt on the right at 512 tokens" in card and 'truncation="reference"' in card
    assert ("This model was trained with 64 tokens" in card) == (loaded.reads.max_length == 64)


# --- encoders and causal models ---------------------------------------------------------------------------------------


#: Name -> folder of a student. Prompts with and without seams, and tokenizers of every sort.
STUDENTS = {
    "bert": lambda: starts.student("bert"),
    "xlm-roberta": lambda: starts.student("roberta"),
    "modernbert": lambda: starts.student("modernbert"),
    "llama": lambda: starts.student("llama"),
    "qwen3": lambda: starts.as_student(teachers.causal("qwen3"), DistillConfig(max_length=256), "loaded-qwen3"),
    "seams": lambda: starts.as_student(
        teachers.causal("qwen3"),
        DistillConfig(max_length=256, prompt="bge-reranker-v2-gemma", true_token="yes"),
        "loaded-seams",
    ),
    "metaspace": lambda: starts.as_student(
        teachers.causal("metaspace"),
        DistillConfig(max_length=64, prompt="plain", true_token="▁yes", false_token="▁no"),
        "loaded-metaspace",
    ),
}


@pytest.fixture(scope="module")
def others(registered) -> Any:
    """name -> that student, registered and loaded once."""
    known: dict[str, Loaded] = {}

    def get(name: str) -> Loaded:
        if name not in known:
            folder = Path(STUDENTS[name]())
            known[name] = registered(name, folder, reading.of_folder(folder).max_length)
        return known[name]

    return get


@pytest.mark.parametrize("name", STUDENTS)
def test_every_library_gives_the_same_scores_and_ranks(name, others, demo):
    loaded, (_, groups) = others(name), demo
    # 500 pairs; of other prompts and tokenizers, which change the inputs alone, fewer.
    groups = groups if name in ("bert", "xlm-roberta", "modernbert", "llama") else groups[:10]
    assert count(loaded.fit(groups, False)) >= len(groups), "there must be something to cut"
    assert count(groups) in (500, 100)
    scores = loaded.scores(groups)
    own = scores.pop("own")
    assert np.std(np.concatenate(own)) > 1e-2, "scores that tell passages apart"
    assert set(scores) >= {"transformers", "pyfunc"}
    for found in scores.values():
        assert_same(found, own)
    if loaded.reads.kind == "encoder":
        assert_same(loaded.ranked(groups), own)


@pytest.mark.long
def test_every_library_gives_the_same_with_a_real_vocabulary(registered, tmp_path):
    vocabulary = DATA / "tokenizers" / "bert-base-uncased"
    if not vocabulary.is_dir():
        pytest.skip(f"{vocabulary} is absent: real vocabularies are not part of the project")
    start = teachers.encoder("bert", tokenizer=vocabulary)
    folder = Path(starts.as_student(start, DistillConfig(max_length=512), "real-bert"))
    loaded, groups = registered("real-bert", folder, 512), real_groups()
    # Longer queries are cut otherwise.
    groups = [group for group in groups if loaded.tokens(group[0], "") <= 256]
    assert count(loaded.fit(groups, False)) >= 50 and count(groups) >= 400
    scores = loaded.scores(groups)
    own = scores.pop("own")
    for found in [*scores.values(), loaded.ranked(groups)]:
        assert_same(found, own)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert"])
def test_an_encoders_long_query_is_cut_otherwise_as_the_card_says(name, others, demo):
    """All others cut the longer text first; that is another input as soon as the query takes more than a half."""
    loaded, (_, groups) = others(name), demo
    doubled = [(f"{query} {query}", passages[-2:]) for query, passages in groups]
    most = loaded.reads.max_length
    longer = [group for group in doubled if most // 2 + 4 < loaded.tokens(group[0], "") < most - 4][:10]
    assert len(longer) == 10
    scores = loaded.scores(longer)
    for found in (scores.get("sentence_transformers", scores["transformers"]), loaded.ranked(longer)):
        assert_same(found, scores["transformers"])
    assert np.abs(np.concatenate(scores["transformers"]) - np.concatenate(scores["own"])).max() > 1e-3
    assert "(`longest_first`)" in (loaded.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["llama", "qwen3", "seams", "metaspace"])
def test_a_causal_models_long_query_is_cut_alike(name, others, demo):
    loaded, (_, groups) = others(name), demo
    longer = [(" ".join([query] * 40), passages[-2:]) for query, passages in groups[:5]]
    scores = loaded.scores(longer)
    assert_same(scores["transformers"], scores["own"])


def test_every_kind_of_student_has_a_card():
    from inranker_flow.students.loading import KINDS

    folder = Path(model_card.__file__).parent / "cards"
    assert {each.name.partition(".")[0] for each in folder.iterdir()} == {*KINDS, "shared"} == {*OF_KIND, "shared"}
