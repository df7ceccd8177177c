"""One model folder, four loaders: the code of the model card, run as it stands there, gives the same scores.

The libraries are the real ones. `rerankers` cuts prompts in its own way; the tests say exactly how.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.model_registry import stored_files
from inranker_flow.rankers.base import Ranker
from inranker_flow.rankers.loading import load_ranker
from tests.models import DATA, real_t5_tokenizer
from tests.promoting import evaluation, promote, student, use_database

#: (query, its passages)
Groups = list[tuple[str, list[str]]]


@dataclass
class Loaded:
    """The objects that the card's code made of one registered model; ``rerankers`` is None where it is not installed."""

    folder: Path
    max_length: int
    plain: Any
    pyfunc: Any
    own: Ranker
    rerankers: Any

    def scores(self, groups: Groups) -> dict[str, list[np.ndarray]]:
        """Loader -> scores of the passages of each query."""
        found: dict[str, list[np.ndarray]] = {
            "own": [own_scores(self.own, query, passages) for query, passages in groups],
            "transformers": [np.array([self.plain(query, each) for each in passages]) for query, passages in groups],
        }
        rows = pandas.DataFrame([{"query": query, "passages": passages} for query, passages in groups])
        found["pyfunc"] = [np.array(each) for each in self.pyfunc.predict(rows)]
        return found

    def probabilities(self, groups: Groups) -> list[np.ndarray]:
        """P(true) of the passages of each query, as `rerankers` gives it."""
        found = []
        for query, passages in groups:
            results = self.rerankers.rank(query=query, docs=passages, doc_ids=list(range(len(passages)))).results
            by_id = {each.document.doc_id: each.score for each in results}
            assert [each.score for each in results] == sorted(by_id.values(), reverse=True)
            found.append(np.array([by_id[number] for number in range(len(passages))]))
        return found

    def tokens(self, query: str, passage: str) -> int:
        """Length of the prompt that nobody cuts."""
        return len(self.own.renderer.tokenizer(f"Query: {query} Document: {passage} Relevant:")["input_ids"])


def own_scores(ranker: Ranker, query: str, passages: list[str]) -> np.ndarray:
    logits = ranker.score([(query, passage) for passage in passages])
    return logits[:, 1] - logits[:, 0]


def logistic(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def load(name: str, max_length: int, monkeypatch) -> Loaded:
    """Run the four pieces of code of the champion's card."""
    folder = stored_files.fetch(f"models:/{name}@champion")
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    made = []
    for block in blocks:
        space = {"FOLDER": str(folder), "QUERY": "a query", "PASSAGES": ["one passage", "and another one"]}
        if "from rerankers" in block:
            try:
                import rerankers  # noqa: F401
            except ImportError:
                made.append({"ranker": None})
                continue
        exec(block, space)
        made.append(space)
    plain, pyfunc, own, other = made
    if other["ranker"]:
        assert len(other["found"].results) == 2
        other["ranker"].verbose = 0
    return Loaded(folder, max_length, plain["score"], pyfunc["model"], own["ranker"], other["ranker"])


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """name, checkpoint, max_length -> the champion of that name, loaded in four ways."""
    import mlflow

    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        patch.setenv(name, "")
    folder = tmp_path_factory.mktemp("mlflow")
    use_database(folder)

    def make(name: str, checkpoint: Path, max_length: int) -> Loaded:
        model = student(folder / name, 0, str(checkpoint), max_length)
        promote(name, model, evaluation(folder / f"{name}-e", bm25=0.2, phase2=0.6))
        return load(name, max_length, patch)

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
    folder = DATA / "collections" / "liveqa-med"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: real collections are not part of the project")
    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, tokenizer = load_seq2seq(f"init:tiny?tokenizer={real_t5_tokenizer()}&seed=3")
    checkpoint = tmp_path_factory.mktemp("real") / "model"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    texts = {name: _texts(folder / f"{name}.jsonl") for name in ("queries", "corpus")}
    with next((folder / "qrels").glob("*.tsv")).open(encoding="utf-8") as lines:
        pairs = [line.split("\t")[:2] for line in islice(lines, 1, 501)]
    groups = [
        (texts["queries"][query], list(dict.fromkeys(texts["corpus"][doc] for _, doc in found)))
        for query, found in groupby(pairs, key=lambda pair: pair[0])
    ]
    return registered("real", checkpoint, 512), groups


def _texts(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as lines:
        return {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in map(json.loads, lines)}


COLLECTIONS = pytest.mark.parametrize("collection", ["demo", pytest.param("real", marks=pytest.mark.long)])


# --- the tests --------------------------------------------------------------------------------------------------------


@COLLECTIONS
def test_the_first_three_give_the_same_scores_and_ranks_whatever_the_length(collection, request):
    loaded, groups = request.getfixturevalue(collection)
    long = sum(loaded.tokens(query, each) > loaded.max_length for query, passages in groups for each in passages)
    assert long >= 50, "there must be something to cut"
    assert sum(len(passages) for _, passages in groups) >= 450
    scores = loaded.scores(groups)
    for name in ("transformers", "pyfunc"):
        for own, other in zip(scores["own"], scores[name], strict=True):
            np.testing.assert_allclose(other, own, rtol=0, atol=1e-4)
            np.testing.assert_array_equal(np.argsort(-other, kind="stable"), np.argsort(-own, kind="stable"))


@COLLECTIONS
def test_rerankers_gives_the_same_where_nothing_is_cut(collection, request):
    loaded, groups = request.getfixturevalue(collection)
    if loaded.rerankers is None:
        pytest.skip("the library `rerankers` is not installed")
    short = [
        (query, fitting)
        for query, passages in groups
        if len(fitting := [each for each in passages if loaded.tokens(query, each) <= loaded.max_length]) > 1
    ]
    assert sum(len(passages) for _, passages in short) >= 200
    for own, other in zip(loaded.scores(short)["own"], loaded.probabilities(short), strict=True):
        np.testing.assert_allclose(other, logistic(own), rtol=0, atol=1e-4)
        np.testing.assert_array_equal(np.argsort(-other, kind="stable"), np.argsort(-own, kind="stable"))


@COLLECTIONS
def test_rerankers_cuts_long_prompts_on_the_right_at_512_tokens_as_the_card_says(collection, request):
    loaded, groups = request.getfixturevalue(collection)
    if loaded.rerankers is None:
        pytest.skip("the library `rerankers` is not installed")
    long = [
        (query, cut)
        for query, passages in groups
        if (cut := [each for each in passages if loaded.tokens(query, each) > loaded.max_length])
    ]
    assert sum(loaded.tokens(query, each) > 512 for query, passages in long for each in passages) >= 40
    reference = load_ranker(str(loaded.folder), ScoringConfig(max_length=512, truncation="reference"))
    furthest = 0.0
    for (query, passages), other in zip(long, loaded.probabilities(long), strict=True):
        same = logistic(own_scores(reference, query, passages))
        np.testing.assert_allclose(other, same, rtol=0, atol=1e-4)
        furthest = max(furthest, np.abs(other - logistic(own_scores(loaded.own, query, passages))).max())
    assert furthest > 1e-3, "without ` Relevant:` the model must say something else, or this test sees nothing"
    card = (loaded.folder / "README.md").read_text(encoding="utf-8")
    assert "`rerankers` cuts a prompt on the right at 512 tokens" in card and 'truncation="reference"' in card
    assert ("This model was trained with 64 tokens" in card) == (loaded.max_length == 64)
