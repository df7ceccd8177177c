"""One registered model, loaded as the code of its card says: the same scores whatever the library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from inranker_flow import reading
from inranker_flow.model_registry import stored_files

#: (query, its passages)
Groups = list[tuple[str, list[str]]]
#: How a piece of code begins to use a library -> its name here.
LIBRARIES = {
    "from sentence_transformers": "sentence_transformers",
    "from transformers": "transformers",
    "from rerankers": "rerankers",
    "import mlflow": "pyfunc",
    "from inranker_flow": "own",
}
#: What the card of each kind has code for.
OF_KIND = {
    "monot5": {"transformers", "pyfunc", "own", "rerankers"},
    "encoder": {"sentence_transformers", "transformers", "rerankers", "pyfunc", "own"},
    "causal": {"transformers", "pyfunc", "own"},
}
#: Optional in the development packages: absent where an index does not have them.
OPTIONAL = ("rerankers", "sentence_transformers")


@dataclass
class Loaded:
    """What the card's code made of one registered model: library -> its names; of optional ones that are not installed none."""

    folder: Path
    reads: reading.Trained
    made: dict[str, dict[str, Any]]

    def scores(self, groups: Groups) -> dict[str, list[np.ndarray]]:
        """Library -> scores of the passages of each query; `rerankers` is asked for by itself."""
        pairs = [[(query, each) for each in passages] for query, passages in groups]
        found: dict[str, list[np.ndarray]] = {
            "own": self.own(groups),
            "transformers": [
                np.array([self.made["transformers"]["score"](*pair) for pair in each], dtype=np.float64)
                for each in pairs
            ],
        }
        rows = pandas.DataFrame([{"query": query, "passages": passages} for query, passages in groups])
        found["pyfunc"] = [np.array(each) for each in self.made["pyfunc"]["model"].predict(rows)]
        if "sentence_transformers" in self.made:
            model = self.made["sentence_transformers"]["model"]
            found["sentence_transformers"] = [model.predict(each) for each in pairs]
        return found

    def own(self, groups: Groups) -> list[np.ndarray]:
        ranker = self.made["own"]["ranker"]
        return [ranker.score([(query, each) for each in passages]) for query, passages in groups]

    def ranked(self, groups: Groups) -> list[np.ndarray]:
        """What `rerankers` gives for the passages of each query: P(true) for a monoT5, else the score."""
        if "rerankers" not in self.made:
            pytest.skip("the library `rerankers` is not installed")
        found = []
        for query, passages in groups:
            ranker = self.made["rerankers"]["ranker"]
            results = ranker.rank(query=query, docs=passages, doc_ids=list(range(len(passages)))).results
            by_id = {each.document.doc_id: each.score for each in results}
            assert [each.score for each in results] == sorted(by_id.values(), reverse=True)
            found.append(np.array([by_id[number] for number in range(len(passages))]))
        return found

    def tokens(self, query: str, passage: str) -> int:
        """Length of the input that nobody cuts."""
        tokenizer = self.made["transformers"]["tokenizer"]
        texts = {
            "monot5": (f"Query: {query} Document: {passage} Relevant:",),
            "encoder": (query, passage),
            "causal": (self.reads.prompt.replace("{query}", query).replace("{document}", passage),),
        }[self.reads.kind]
        return len(tokenizer(*texts)["input_ids"])

    def fit(self, groups: Groups, fitting: bool) -> Groups:
        """Those pairs of ``groups`` whose input fits, or does not."""
        return [
            (query, chosen)
            for query, passages in groups
            if (chosen := [each for each in passages if (self.tokens(query, each) <= self.reads.max_length) == fitting])
        ]


def assert_same(found: list[np.ndarray], own: list[np.ndarray]) -> None:
    """Scores to 1e-4, and the same ranks but for passages that are as near as that."""
    for theirs, ours in zip(found, own, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
        order = np.argsort(-theirs, kind="stable")
        assert np.diff(ours[order]).max(initial=-1) < 2e-4, "another order than by these scores"


def load(name: str) -> Loaded:
    """Run the pieces of code of the champion's card."""
    folder = stored_files.fetch(f"models:/{name}@champion")
    reads = reading.of_folder(folder)
    first, *blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    given: dict[str, Any] = {}
    exec(first, given)
    assert given["FOLDER"] == "." and given["QUERY"] and len(given["PASSAGES"]) >= 2
    made = {}
    for block in blocks:
        library = next(name for line, name in LIBRARIES.items() if line in block)
        space = {**given, "FOLDER": str(folder)}
        try:
            exec(block, space)
        except ModuleNotFoundError as error:
            assert error.name == library and library in OPTIONAL
            continue
        made[library] = space
    assert set(made) | set(OPTIONAL) >= OF_KIND[reads.kind] >= set(made)
    for library in {"own", "sentence_transformers"} & set(made):
        assert len(made[library]["scores"]) == len(given["PASSAGES"])
    if "rerankers" in made:
        assert len(made["rerankers"]["found"].results) == len(given["PASSAGES"])
        made["rerankers"]["ranker"].verbose = 0
    return Loaded(folder, reads, made)
