"""The source and the targets in BEIR layout: seeded choices of real questions, and for targets nothing to train on."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from inranker_flow.storage.local import atomic_folder

log = logging.getLogger(__name__)

#: Questions of the source for phase 1, others of it (as many tokens as the pairs of phase 2 have), and test questions.
SOURCE, TRAIN, MORE, TEST = "squad", 6_000, 2_200, 100


@dataclass(frozen=True)
class Target:
    """A collection below the data's folder. ``most``: test queries at most (0: all). ``title``: whether titles stay."""

    name: str
    place: str
    split: str = "test"
    most: int = 0
    title: bool = True


#: In the order in which queries are written for them: first many or well-judged queries, then the small ones.
TARGETS = (
    Target("squadshifts-amazon", "train/squadshifts-amazon", "train", most=200),
    Target("squadshifts-reddit", "train/squadshifts-reddit", "train", most=200),
    # A title there is a question that its answer was given to, so it would be copied.
    Target("liveqa-med", "collections/liveqa-med", title=False),
    Target("vaswani", "collections/vaswani"),
    Target("cisi", "collections/cisi"),
    Target("trec-dl-2019-pool", "collections/trec-dl-2019-pool"),
    Target("cacm", "collections/cacm"),
    Target("dbpedia-entity-5k", "collections/dbpedia-entity-5k"),
    Target("medline", "collections/medline"),
)


def make(data: Path, out: Path) -> None:
    """Write a folder for the source and for each target below ``out``."""
    if not data.is_dir():
        sys.exit(f"SKIPPED: {data}: the real collections are not here; name their folder with --data")
    if not (out / SOURCE).is_dir():
        _source(data / "train" / "squad-v1.1-train", out / SOURCE)
    for target in TARGETS:
        if not (out / target.name).is_dir():
            _target(target, data / target.place, out / target.name)


def _source(place: Path, out: Path) -> None:
    """Training questions, and test questions about paragraphs that no training question is about."""
    judged = list(_judgements(place / "qrels" / "train.tsv"))
    judged.sort(key=lambda row: _order(row[0]))
    train, more, rest = judged[:TRAIN], judged[TRAIN : TRAIN + MORE], judged[TRAIN + MORE :]
    seen = {document for _, document, _ in train + more}
    test = [row for row in rest if row[1] not in seen][:TEST]
    _write(place, out, {"train": train, "more": more, "test": test}, title=True)


def _target(target: Target, place: Path, out: Path) -> None:
    judged = list(_judgements(place / "qrels" / f"{target.split}.tsv"))
    relevant = {query for query, _, score in judged if score > 0}
    chosen = set(sorted(relevant, key=_order)[: target.most or None])
    _write(place, out, {"test": [row for row in judged if row[0] in chosen]}, target.title)


def _write(place: Path, out: Path, qrels: dict[str, list[tuple[str, str, int]]], title: bool) -> None:
    wanted = {query for rows in qrels.values() for query, _, _ in rows}
    with atomic_folder(out) as made:
        documents = (each if title else {**each, "title": ""} for each in _rows(place / "corpus.jsonl"))
        count = _write_rows(made / "corpus.jsonl", documents)
        queries = (each for each in _rows(place / "queries.jsonl") if each["_id"] in wanted)
        _write_rows(made / "queries.jsonl", sorted(queries, key=lambda each: _order(each["_id"])))
        (made / "qrels").mkdir()
        for split, rows in qrels.items():
            lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
            (made / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    counts = ", ".join(f"{len({row[0] for row in rows}):,} {split} queries" for split, rows in qrels.items())
    log.info("%s: %s documents, %s", out.name, f"{count:,}", counts)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    # Texts hold other characters that end a line for Python.
    with open(path, encoding="utf-8", newline="\n") as lines:
        yield from map(json.loads, lines)


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    with open(path, encoding="utf-8", newline="\n") as lines:
        next(lines)
        for line in lines:
            query, document, score = line.rstrip("\n").split("\t")
            yield query, document, int(score)


def _order(name: str) -> bytes:
    """Return a key that draws: the same choice whatever the order of a file."""
    return blake2b(name.encode(), digest_size=8, key=b"1").digest()
