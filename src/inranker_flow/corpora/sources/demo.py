"""The demo's collections, made on the spot."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.sources.stored import StoredCollection
from inranker_flow.demo.world import make_world, write_beir
from inranker_flow.errors import UserError
from inranker_flow.text_files import shown


@contextmanager
def open_demo(name: str, corpus: CorpusConfig) -> Iterator[StoredCollection]:
    """The collection demo:``name``, as a folder that is there while the context is open."""
    with tempfile.TemporaryDirectory(prefix="inranker-demo-") as folder:
        _write_demo(name, Path(folder))
        yield StoredCollection(Path(folder), corpus.uri, corpus)


def _write_demo(name: str, folder: Path) -> None:

    domain, seed = parse_demo(name)
    write_beir(make_world(domain, seed), folder)


def parse_demo(name: str) -> tuple[Literal["source", "target"], int]:
    """Return the domain and seed of the collection demo:``name``. Raises :class:`UserError` for one that there is not."""
    # isdigit() is true of other scripts' digits and of superscripts too.
    found = re.fullmatch("(source|target)/([0-9]{1,9})", name)
    if not found:
        raise UserError(
            f"demo:{shown(name)}: the demo's collections are demo:source/SEED and demo:target/SEED, SEED a whole number",
            code="demo-unknown",
        )
    return ("source" if found[1] == "source" else "target"), int(found[2])
