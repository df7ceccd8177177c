"""The demo's collections, made on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inranker_flow.config import CorpusConfig
from inranker_flow.corpora.sources.stored import StoredCollection
from inranker_flow.errors import UserError


@contextmanager
def open_demo(name: str, corpus: CorpusConfig) -> Iterator[StoredCollection]:
    """The collection demo:``name``, as a folder that is there while the context is open."""
    with tempfile.TemporaryDirectory(prefix="inranker-demo-") as folder:
        _write_demo(name, Path(folder))
        yield StoredCollection(Path(folder), corpus.uri, corpus)


def _write_demo(name: str, folder: Path) -> None:
    from inranker_flow.demo.world import make_world, write_beir

    domain, _, seed = name.partition("/")
    if domain == "source" and seed.isdigit():
        write_beir(make_world("source", int(seed)), folder)
    elif domain == "target" and seed.isdigit():
        write_beir(make_world("target", int(seed)), folder)
    else:
        raise UserError(f"demo:{name}: the demo's collections are demo:source/SEED and demo:target/SEED")
