"""Lines of a stored file, by reading bounded parts of it."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from dataclasses import dataclass

from inranker_flow.corpora.sources import layout
from inranker_flow.errors import UserError
from inranker_flow.storage import uris
from inranker_flow.storage.listing import FileInfo

#: Bytes of one part of a file. Up to `WHOLE` it is read whole, and counted exactly; of a larger one `PARTS` are read.
PART = 2**20
WHOLE, PARTS = 8 * PART, 4
#: Decompressed bytes at most.
UNPACKED = 4 * WHOLE


@dataclass(frozen=True)
class Lines:
    """``sample`` are whole lines, ``runs`` the same as they stand together; ``total`` lines of the file, ``exact`` or not."""

    runs: list[list[bytes]]
    total: int
    exact: bool

    @property
    def sample(self) -> list[bytes]:
        return [line for run in self.runs for line in run]


def read_lines(file: FileInfo) -> Lines:
    """Read the lines of a file that hold something, or of a large one those of some parts."""
    if layout.unpacked(file.uri) != file.uri:
        return _packed_lines(file)
    if file.size <= WHOLE:
        lines = [line for line in uris.read_part(file.uri, 0, file.size).split(b"\n") if line.strip()]
        return Lines([lines], len(lines), True)
    step = (file.size - PART) // (PARTS - 1)
    runs = []
    for number in range(PARTS):
        part = uris.read_part(file.uri, number * step, PART).split(b"\n")
        # What is cut at its beginning or end is no line.
        runs.append([line for line in part[bool(number) : -1] if line.strip()])
    return _scaled(runs, file.size)


def _packed_lines(file: FileInfo) -> Lines:
    packed = uris.read_part(file.uri, 0, min(file.size, WHOLE))
    try:
        text, used, whole = (_zstd if file.uri.endswith(".zst") else _gzip)(packed)
    except zlib.error as error:
        raise UserError(f"{file.uri}: not a gzip file ({error}); fetch it again", code="collection-damaged") from error
    lines = [line for line in text.split(b"\n") if line.strip()]
    if whole:
        return Lines([lines], len(lines), True)
    return Lines([lines[:-1]], round(len(lines) * file.size / max(used, 1)), False)


def _gzip(packed: bytes) -> tuple[bytes, int, bool]:
    """Return the content, the bytes that it was read from, and whether that is all."""
    unpack = zlib.decompressobj(31)
    text = unpack.decompress(packed, UNPACKED)
    used = len(packed) - len(unpack.unconsumed_tail) - len(unpack.unused_data)
    return text, used, unpack.eof and not unpack.unused_data


def _zstd(packed: bytes) -> tuple[bytes, int, bool]:
    """Return the same of zstd; what is damaged is `prepare_corpus`' to tell."""
    import pyarrow as pa

    raw = io.BytesIO(packed)
    text, whole = b"", False
    with suppress(OSError):  # the end of what was read of it
        stream = pa.CompressedInputStream(raw, "zstd")
        while len(text) < UNPACKED and (part := stream.read(PART)):
            text += part
        whole = len(text) < UNPACKED
    return text, raw.tell(), whole


def _scaled(runs: list[list[bytes]], size: int) -> Lines:
    lines = [line for run in runs for line in run]
    mean = sum(len(line) + 1 for line in lines) / len(lines) if lines else 0
    return Lines(runs, round(size / mean) if mean else 0, False)
