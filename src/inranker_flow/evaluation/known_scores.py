"""A few pairs of an evaluation with the scores that a student got there: whoever serves it checks that it still does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.model_registry.reference_scores import ReferenceScores

#: As many pairs; of those whose passage is not longer, where there are enough.
COUNT, CHARACTERS = 8, 2000
#: So many of them are of one query: what a person sees as an example.
ALIKE = 3


def choose(sets: Sequence[JudgedSet], scores: np.ndarray, dtype: str) -> ReferenceScores | None:
    """Return the first candidates of a query and others spread over the candidates of ``sets``, with their ``scores`` (of all
    sets, one after another), computed in ``dtype``; None where there are no candidates.

    A candidate that is scored by several passages has no score of one text, and is left out.
    """
    found: list[tuple[tuple[str, str], float]] = []
    offset = 0
    for each in sets:
        ends = [*each.starts.tolist(), len(each.pairs)]
        for row, (first, end) in enumerate(pairwise(ends)):
            if end - first == 1:
                found.append((each.pairs[first], float(scores[offset + row])))
        offset += len(each.starts)
    short = [each for each in found if len(each[0][1]) <= CHARACTERS]
    chosen = short if len(short) >= COUNT else found
    if not chosen:
        return None
    own = [n for n, ((query, _), _) in enumerate(chosen) if query == chosen[0][0][0]][:ALIKE]
    spread = np.linspace(0, len(chosen) - 1, COUNT + 1 - len(own)).astype(np.int64).tolist()
    places = sorted({*own, *spread})
    return ReferenceScores(dtype, [chosen[n][0] for n in places], [chosen[n][1] for n in places])
