"""The MLflow pyfunc of a student: ``predict([{query, passages}]) -> [[score, ...]]``. MLflow runs this file as it is.

Scores are true_logit - false_logit: the order is that of P(true), without its ties near 0 and 1.
"""

from __future__ import annotations

from typing import Any

import mlflow


class Reranker(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A plain Hugging Face folder (artifact ``checkpoint``) behind the project's own ranker.

    The folder says how its model reads. MLflow's ``model_config`` says the rest: passages of long documents, and how it is
    computed.
    """

    def load_context(self, context: Any) -> None:
        from pathlib import Path

        from inranker_flow import reading
        from inranker_flow.config.parsing import parse
        from inranker_flow.config.sections import ScoringConfig
        from inranker_flow.rankers.loading import load_ranker
        from inranker_flow.reranker import Reranker as Scorer

        given = dict(context.model_config or {})
        passages = {name: given.pop(name) for name in ("passage_words", "passage_stride") if name in given}
        served = parse(reading.Served, passages, "model_config").passages
        folder = context.artifacts["checkpoint"]
        scoring = reading.scoring_of(Path(folder), parse(ScoringConfig, given, "model_config"))
        self.reranker = Scorer.of(load_ranker(folder, scoring), served)

    # No type hints on the data: MLflow would replace the model's signature by one derived from them.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """``model_input``: a data frame with columns query (string) and passages (list of strings)."""
        queries, passages = list(model_input["query"]), [list(each) for each in model_input["passages"]]
        scores = iter(
            self.reranker.score(
                [(query, text) for query, group in zip(queries, passages, strict=True) for text in group]
            ).tolist()
        )
        return [[next(scores) for _ in group] for group in passages]


mlflow.models.set_model(Reranker())
