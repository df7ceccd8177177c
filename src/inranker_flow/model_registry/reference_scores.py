"""The reference scores of a version: a few pairs of its evaluation with their scores, in a file beside its weights.

Whoever loads the version scores them again. Another score means that another model, prompt or library is at work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from inranker_flow.errors import UserError
from inranker_flow.storage.local import atomic_write

log = logging.getLogger(__name__)

FILENAME = "reference_scores.json"
#: Largest difference of two scores of one pair: both computed in float32, or one of them in fewer bits.
EXACT, ROUNDED = 1e-3, 0.5

#: A query with passages, where no evaluation has some.
SAMPLE = ("which passage answers this?", ("This one may.", "And another one."))


@dataclass(frozen=True)
class ReferenceScores:
    """``pairs`` (query, passage) and their ``scores``, true_logit - false_logit, computed in ``dtype``."""

    dtype: str
    pairs: Sequence[tuple[str, str]]
    scores: Sequence[float]


def write(found: ReferenceScores, folder: Path) -> None:
    """Write the file into ``folder``."""
    with atomic_write(folder / FILENAME) as out:
        out.write(json.dumps(asdict(found), indent=1, ensure_ascii=False).encode())


def read(folder: Path) -> ReferenceScores | None:
    """Return the reference scores in ``folder``; None where an older version has none."""
    path = folder / FILENAME
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(str(query), str(passage)) for query, passage in found["pairs"]]
        scores = [float(each) for each in found["scores"]]
        if len(pairs) != len(scores) or not pairs:
            raise ValueError(f"{len(pairs)} pairs with {len(scores)} scores")
        return ReferenceScores(str(found["dtype"]), pairs, scores)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no reference scores ({error}); restore the file", code="registry-damaged") from error


def example(folder: Path) -> tuple[str, Sequence[str]]:
    """Return a query and passages to try a model with: of the reference scores in ``folder``, where there are some."""
    found = read(folder)
    if found is None:
        return SAMPLE
    first = found.pairs[0][0]
    return first, list(dict.fromkeys(passage for query, passage in found.pairs if query == first))


def check(folder: Path, dtype: str, score: Callable[[Sequence[tuple[str, str]]], np.ndarray]) -> None:
    """Score the reference pairs in ``folder`` with ``score``, which computes in ``dtype``.

    Raises :class:`UserError` where a score is another one, or not finite. Where either side rounds to fewer bits than
    float32, the log says by how much they differ.
    """
    found = read(folder)
    pairs = found.pairs if found else [("a query", "a passage")]
    scores = score(pairs)
    if not np.isfinite(scores).all():
        raise UserError(
            f"{folder.name}: its score of a pair is not a finite number; it may not serve", code="scores-not-finite"
        )
    if found is None:
        return
    allowed = EXACT if found.dtype == dtype == "float32" else ROUNDED
    differences = np.abs(scores - np.array(found.scores))
    worst = int(np.argmax(differences))
    if differences[worst] > allowed:
        raise UserError(
            f"{FILENAME}: pair {worst} was evaluated at {found.scores[worst]:.4f} and scores {scores[worst]:.4f} here "
            f"(allowed difference: {allowed:g}); this is not the model that was evaluated, or not its libraries",
            code="scores-changed",
        )
    if allowed == ROUNDED:
        log.info(
            "%s: in %s the scores of %s pairs differ from those of the evaluation, in %s, by %.2g at most",
            folder.name, dtype, len(pairs), found.dtype, differences[worst],
        )  # fmt: skip
