"""Small BEIR folders made on the spot."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CORPUS = [
    {"_id": "d1", "title": "Oak", "text": "Oaks are trees with acorns."},
    {"_id": "d2", "title": "", "text": "Granite is a hard rock."},
    {"_id": "d3", "title": "Whale", "text": "A whale is a mammal of the sea."},
    {"_id": "d4", "title": "Rain", "text": "Rain falls from clouds."},
]
QUERIES = [
    {"_id": "q1", "text": "hard rock"},
    {"_id": "q2", "text": "sea mammal"},
    {"_id": "q3", "text": "acorn trees"},
]
TRAIN = [("q1", "d2", 1), ("q3", "d1", 2)]
TEST = [("q2", "d3", 1), ("q2", "d4", 0)]


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def tsv(rows: Iterable[tuple[Any, ...]]) -> bytes:
    lines = [("query-id", "corpus-id", "score"), *rows]
    return "".join("\t".join(map(str, row)) + "\n" for row in lines).encode()


def write(folder: Path, files: Mapping[str, bytes] | None = None, **replaced: bytes | None) -> Path:
    """The collection above; ``replaced`` (corpus, queries, train, test) are other contents, None leaves a file out."""
    contents = {"corpus": jsonl(CORPUS), "queries": jsonl(QUERIES), "train": tsv(TRAIN), "test": tsv(TEST), **replaced}
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "train": "qrels/train.tsv", "test": "qrels/test.tsv"}
    for key, data in contents.items():
        if data is not None:
            _write(folder / names[key], data)
    for name, data in (files or {}).items():
        _write(folder / name, data)
    return folder


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
