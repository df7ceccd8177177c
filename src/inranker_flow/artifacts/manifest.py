"""`manifest.json`: what an artifact folder holds, of which dataset, where it comes from, with content digests.

The dataset's name travels inside the artifact, so that lists of artifacts are joined by name and never by position. Who
reads an artifact asks first whether it still is what its manifest says (:func:`check`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inranker_flow.errors import UserError
from inranker_flow.storage.listing import check_names
from inranker_flow.storage.local import atomic_write, digest_file, digest_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILENAME = "manifest.json"


@dataclass(frozen=True)
class Origin:
    """The origin of an artifact: ``parents`` (input -> content digests), ``configuration`` (digest), ``code``."""

    parents: dict[str, list[str]] = field(default_factory=dict)
    configuration: str = ""
    code: str = ""


@dataclass(frozen=True)
class Manifest:
    """``dataset`` name, ``stage`` that wrote it, ``files`` -> sha256 hex digest, free-form JSON ``details``, ``sizes`` of the
    files in bytes (empty in a manifest of older code).

    ``tables``: Parquet file -> table, version, rows, columns (name -> type) and a digest of the rows. ``content`` is a digest
    of dataset, rows and other files: the same content has the same digest, whatever code made it (``origin``, see
    :class:`Origin`) and whichever version of the Parquet library wrote it.
    """

    dataset: str
    stage: str
    files: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


_origin: ContextVar[Origin | None] = ContextVar("origin", default=None)


@contextmanager
def made_from(origin: Origin) -> Iterator[None]:
    """Manifests that are written in the block say that their artifact was made from ``origin``."""
    before = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(before)


def write_manifest(folder: str | os.PathLike[str], *, dataset: str, stage: str, **details: Any) -> Manifest:
    """Digest every file in ``folder`` and write its manifest, last and atomically: its presence says "complete"."""
    folder = Path(folder)
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILENAME)
    names = {path.relative_to(folder).as_posix(): path for path in found}
    files = {name: digest_file(path) for name, path in names.items()}
    tables = {name: _table(path) for name, path in names.items() if path.suffix == ".parquet"}
    content = _content(dataset, files, tables)
    origin = _origin.get()
    sizes = {name: path.stat().st_size for name, path in names.items()}
    manifest = Manifest(dataset, stage, files, details, tables, content, asdict(origin) if origin else {}, sizes)
    with atomic_write(folder / FILENAME) as out:
        out.write(json.dumps(asdict(manifest), indent=1, sort_keys=True).encode())
    return manifest


def _table(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        about = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key in _ABOUT}
        columns = {each.name: str(each.type) for each in schema}
        return {**about, "rows": file.metadata.num_rows, "columns": columns, "digest": _rows_digest(file)}


#: What `tables` writes into a table's own metadata.
_ABOUT = (b"table", b"version")


def _rows_digest(file: pq.ParquetFile) -> str:
    """Return sha256 over the values of every column, in the order of the rows, however they are cut into groups and packed."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from inranker_flow.artifacts.tables import stream

    columns = [(sha256(), sha256()) for _ in file.schema_arrow]
    for batch in stream(file):
        for (sizes, values), column in zip(columns, batch.columns, strict=True):
            if pa.types.is_string(column.type):
                sizes.update(pc.fill_null(pc.binary_length(column), -1).to_numpy().astype("<i4").tobytes())
                first, last = np.frombuffer(column.buffers()[1], np.int32)[[column.offset, column.offset + len(column)]]
                data = column.buffers()[2]
                values.update(data.slice(int(first), int(last - first)) if data else b"")
            else:
                values.update(_plain(column))
    return sha256("".join(each.hexdigest() for pair in columns for each in pair).encode()).hexdigest()


def _plain(column: pa.Array) -> bytes:
    values = column.to_numpy(zero_copy_only=False)
    if column.null_count or values.dtype.kind not in "biuf":
        return json.dumps(column.to_pylist(), default=str).encode()
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _content(dataset: str, files: Mapping[str, str], tables: Mapping[str, Any]) -> str:
    """Of the tables' rows, and of the bytes of everything else."""
    found = {name: tables[name]["digest"] if name in tables else digest for name, digest in files.items()}
    columns = {name: each["columns"] for name, each in tables.items()}
    return sha256(json.dumps([dataset, found, columns], sort_keys=True).encode()).hexdigest()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read an artifact's manifest; :class:`UserError` when it is missing, malformed, or says another digest than it has."""
    path = Path(folder) / FILENAME
    try:
        found = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        _check_form(found)
        check_names([*found.files, *found.tables], str(path), Path(folder))
        content = _content(found.dataset, found.files, found.tables)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: missing, so the stage that should have written this artifact did not end; {_remedy(path.parent)}",
            code="artifact-missing",
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); {_remedy(path.parent)}", code="artifact-unreadable"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest: {error}; {_remedy(path.parent)}", code="artifact-damaged") from error
    if found.content != content:
        raise UserError(
            f"{path}: was changed after it was written, so nothing can rest on it; {_remedy(path.parent)}",
            code="artifact-damaged",
        )
    return found


def _check_form(manifest: Manifest) -> None:
    """Refuse values of another kind than :class:`Manifest` says: not all of them are in its digest."""
    for name, value in asdict(manifest).items():
        kind = type(getattr(_EMPTY, name))
        each = {"files": str, "tables": dict, "sizes": int}.get(name, object)
        if type(value) is not kind or (kind is dict and not all(isinstance(one, each) for one in value.values())):
            raise ValueError(f"its {name!r} is not of the right kind")


_EMPTY = Manifest("", "")


def _remedy(folder: Path) -> str:
    return f"remove {folder} and run its stage again (on a cluster: with KFP's cache off)"


def content_digest(path: str | os.PathLike[str]) -> str:
    """Digest of an artifact's content: its manifest's, or for a single file or a folder without one that of its bytes."""
    if Path(path, FILENAME).is_file():
        return read_manifest(path).content
    return digest_folder(path) if Path(path).is_dir() else digest_file(path)


#: Files that this process has compared with a digest, as they were then.
_compared: set[tuple[str, str, int, int, int]] = set()
#: A file that was changed less than so many ns before may change again without another time.
_SETTLED = 2 * 10**9


def check(folder: str | os.PathLike[str], *, whole: bool = False) -> Manifest:
    """Return the manifest of an artifact that is still what it says.

    Sizes are compared always, the content of a file where it was written after the manifest, or ``whole``. A transfer
    writes files anew, so what came over a network is read once. A model folder holds nothing else, and no artifact another
    table: loaders and stages read what they find. Raises :class:`UserError` naming file, artifact and remedy.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    written = (folder / FILENAME).stat().st_mtime_ns
    for name, digest in manifest.files.items():
        problem = _problem(folder / name, digest, manifest.sizes.get(name), written, whole)
        if problem:
            raise _refused(folder, name, problem, manifest)
    for path in sorted(folder.iterdir()):
        if path.name in manifest.files or path.name == FILENAME or path.name[0] == ".":
            continue
        if path.suffix == ".parquet" or ("config.json" in manifest.files and path.is_file()):
            raise _refused(folder, path.name, "a file that its manifest does not know", manifest)
    return manifest


def _refused(folder: Path, name: str, problem: str, manifest: Manifest) -> UserError:
    stage = f"{manifest.stage} {manifest.dataset}".strip()
    return UserError(
        f"{folder / name}: {problem}, so this artifact is not what {stage} wrote; {_remedy(folder)}",
        code="artifact-damaged",
    )


def _problem(path: Path, digest: str, size: int | None, written: int, whole: bool) -> str:
    """Return the fault of a file whose artifact's manifest was ``written`` at that time (ns); "" where nothing is."""
    try:
        found = path.stat()
        if not path.is_file():
            return "no file"
        # As the kernel keeps it, a file's last change cannot be set back, as its modification time can.
        changed = max(found.st_mtime_ns, found.st_ctime_ns)
        if size is not None and found.st_size != size:
            return f"{found.st_size:,} bytes long and not {size:,}"
        seen = (str(path.absolute()), digest, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if (whole or size is None or changed >= written) and seen not in _compared:
            if digest_file(path) != digest:
                return "other content than its manifest says"
            if time.time_ns() - changed > _SETTLED:
                _compared.add(seen)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""
