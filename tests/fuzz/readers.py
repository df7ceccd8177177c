"""What every reading of a collection must end in, whatever its files hold: a collection, or one clear line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import FILENAME, read_manifest
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.errors import UserError
from inranker_flow.stages.prepare_corpus import prepare_corpus

#: Longer than any of our sentences, shorter than a value that somebody has put whole into one.
LINE = 1_000


def read(files: Mapping[str, bytes], uri: str = "{folder}", labels: str = "", on_problem: str = "refuse") -> str:
    """Read a collection of ``files``; the message where it is refused, else "". Anything else is an error of ours.

    ``uri`` and ``labels`` are its addresses, with {folder} where the files are.
    """
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for name, content in files.items():
            (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "in" / name).write_bytes(content)
        corpus = CorpusConfig(uri=uri.format(folder=root / "in"), name="fuzz", labels=labels.format(folder=root / "in"))
        config = PrepareConfig(on_problem="repair" if on_problem == "repair" else "refuse")
        return _checked(lambda: prepare_corpus(config, corpus, root / "out").documents, root)
    finally:
        shutil.rmtree(root)


def _checked(prepare: Callable[[], int], root: Path) -> str:
    out = root / "out"
    try:
        documents = prepare()
    except UserError as error:
        message = str(error)
        assert message.isprintable() and len(message) < LINE, f"not one readable line: {message[:LINE]!r}"
        assert str(root / "in") in message, f"names no file: {message}"
        assert not (out / FILENAME).exists(), "a manifest although it was refused"
        assert not [each for each in out.glob("*") if each.name.startswith(".")], "half-written files"
        return message
    assert documents > 0
    manifest = read_manifest(out)
    for table in (tables.CORPUS, tables.QUERIES, tables.QRELS, tables.LABELS):
        if table is tables.LABELS and table.filename not in manifest.files:
            continue
        again = root / "again" / table.filename
        # The writer's own checks: types, keys, numbers.
        tables.write(table, again, tables.read(table, out))
    assert tables.count(tables.CORPUS, out) == documents
    return ""
