"""Whatever bytes a collection's files hold: a collection comes out, or one line says what is wrong; never a traceback."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inranker_flow.corpora.sources import lines
from tests import beir
from tests.fuzz.readers import read

#: Derandomised: the same examples in every run. `tests/fuzz/fuzz_corpora.py` looks for new ones.
quick = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

MODES = st.sampled_from(["refuse", "repair"])
ODD = st.sampled_from(
    [b"", b"\0", b"\xef\xbb\xbf", b"\xff\xfe{\0", b"\r", b"\r\n", b" ", b"\t", b"\x85", b"\xc2\x85", b"{}", b"[]", b"null",
     b'"', b"\\ud800", b"9" * 5_000, b"[" * 5_000, b"x" * 70_000, b'{"_id": "d1"', b"\xc2\xa0", b"1e999", b"NaN"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["d1", "d2", "q1", "q2"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))


def rows(*keys: str):
    """Lines of JSON: objects with some of these keys and any values."""
    mapping = st.fixed_dictionaries({}, optional=dict.fromkeys(keys, VALUES))
    return mapping.map(lambda row: json.dumps(row).encode())


def files(good: bytes, line):
    """A file whose lines are good ones, ``line``s and noise, in any order, perhaps cut or with other line ends."""
    known = good.splitlines()
    part = st.one_of(st.sampled_from(known), line, ODD, st.binary(max_size=12))

    def joined(parts, end, last, cut):
        content = end.join([*parts]) + last
        return content[: len(content) - cut]

    some = st.lists(part, max_size=6).flatmap(lambda odd: st.permutations([*known, *odd]))
    return st.one_of(
        st.just(good),
        st.binary(max_size=40),
        st.builds(joined, some, st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"", b"\n"]), st.integers(0, 9)),
    )


JUDGED = st.lists(st.sampled_from([b"q1", b"q2", b"d1", b"d2", b"0", b"1", b"-1", b"1.5", b"x"]) | ODD, max_size=5)
HUB = beir.jsonl(dict(zip(("query-id", "corpus-id", "score"), row, strict=True)) for row in beir.TEST)
FOLDERS = st.fixed_dictionaries(
    {"corpus.jsonl": files(beir.jsonl(beir.CORPUS), rows("_id", "title", "text"))},
    optional={
        "queries.jsonl": files(beir.jsonl(beir.QUERIES), rows("_id", "text")),
        "qrels/train.tsv": files(beir.tsv(beir.TRAIN), JUDGED.map(b"\t".join)),
        "qrels/test.tsv": files(beir.tsv(beir.TEST), JUDGED.map(b" ".join)),
        "qrels/test.jsonl": files(HUB, rows("query-id", "corpus-id", "score")),
        "qrels/test.csv": files(beir.tsv(beir.TEST).replace(b"\t", b","), JUDGED.map(b",".join)),
    },
)


@settings(quick, max_examples=150)
@given(FOLDERS, MODES)
def test_any_beir_folder_ends_in_a_collection_or_in_one_clear_line(contents, on_problem):
    read(contents, on_problem=on_problem)


def _packed(content: bytes, at: int, put: bytes, cut: int) -> bytes:
    data = bytearray(gzip.compress(content, mtime=0))
    at %= len(data)
    data[at : at + len(put)] = put
    return bytes(data[: len(data) - cut])


DAMAGED = st.builds(
    _packed, st.just(beir.jsonl(beir.CORPUS)), st.integers(0, 400), st.binary(max_size=3), st.integers(0, 30)
)


@settings(quick, max_examples=80)
@given(DAMAGED, MODES)
def test_a_damaged_gzip_file_is_refused_as_such(content, on_problem):
    message = read({"corpus.jsonl.gz": content}, on_problem=on_problem)
    try:
        whole = gzip.decompress(content) == beir.jsonl(beir.CORPUS)
    except Exception:
        whole = False
    assert whole or "corpus.jsonl.gz" in message


def test_a_gzip_file_that_lies_about_its_content_is_refused(tmp_path):
    """Its checksum fits the compressed bytes in no way; zlib says so, not gzip."""
    data = bytearray(gzip.compress(beir.jsonl(beir.CORPUS) * 50))
    data[12] ^= 0xFF
    assert "not a whole gzip file" in read({"corpus.jsonl.gz": bytes(data)})


KINDS = {
    "string": (pa.string(), st.text(max_size=5) | st.sampled_from(["d1", "q1", "train", "supervised"])),
    "large_string": (pa.large_string(), st.text(max_size=5)),
    "words": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b"])),
    "binary": (pa.binary(), st.binary(max_size=3)),
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "bool": (pa.bool_(), st.booleans()),
    "float": (pa.float64(), st.floats()),
    "date": (pa.date64(), st.integers(-(2**61), 2**61)),
    "time": (pa.timestamp("ns"), st.integers(-(2**63) + 1, 2**63 - 1)),
    "list": (pa.list_(pa.string()), st.lists(st.text(max_size=2), max_size=2)),
    "struct": (pa.struct({"text": pa.string()}), st.fixed_dictionaries({"text": st.text(max_size=2)})),
    "null": (pa.null(), st.none()),
}  # fmt: skip


@st.composite
def tables(draw, *columns: str) -> bytes:
    """A Parquet file with some of these columns, each of any type, one of them perhaps twice."""
    names = draw(st.lists(st.sampled_from(columns), min_size=1, max_size=4))
    size = draw(st.integers(0, 4))
    arrays = []
    for _ in names:
        kind, values = KINDS[draw(st.sampled_from([*KINDS, "string", "string"]))]
        filled = draw(st.lists(st.none() | values, min_size=size, max_size=size))
        arrays.append(pa.array(filled, kind))
    return parquet(pa.Table.from_arrays(arrays, names=names))


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


PARQUET = st.fixed_dictionaries(
    {"corpus.parquet": tables("doc_id", "_id", "title", "text")},
    optional={
        "queries.parquet": tables("query_id", "_id", "text", "origin"),
        "qrels.parquet": tables("query_id", "corpus-id", "score", "relevance", "doc_id", "split"),
    },
)


@settings(quick, max_examples=150)
@given(PARQUET, MODES)
def test_any_parquet_schema_ends_in_a_collection_or_in_one_clear_line(contents, on_problem):
    read(contents, on_problem=on_problem)


GOOD = parquet(pa.table({key: [row[key] for row in beir.CORPUS] for key in ("_id", "title", "text")}))


@settings(quick, max_examples=100)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4), st.integers(0, 40), MODES)
def test_a_damaged_parquet_file_ends_in_a_collection_or_in_one_clear_line(at, put, cut, on_problem):
    data = bytearray(GOOD)
    data[at : at + len(put)] = put
    read({"corpus.parquet": bytes(data[: len(data) - cut])}, on_problem=on_problem)


def test_parquet_text_that_is_not_utf_8_is_one_clear_line():
    words = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    content = parquet(pa.Table.from_arrays([pa.array(["d1"]), words], names=["doc_id", "text"]))
    assert "not UTF-8" in read({"corpus.parquet": content})


PUBLISHED = beir.jsonl(
    {"query": query, "contents": text, "true_logit": 1.5, "false_logit": -1.5}
    for query, text in [("hard rock", "Granite."), ("wet", "Rain."), ("wet", "Granite.")]
)


@settings(quick, max_examples=80)
@given(files(PUBLISHED, rows("query", "contents", "true_logit", "false_logit")), MODES)
def test_any_published_jsonl_ends_in_a_collection_or_in_one_clear_line(content, on_problem):
    read({"file.jsonl": content}, "inranker-beir:{folder}/file.jsonl", on_problem=on_problem)


@settings(quick, max_examples=80)
@given(files(b"1\t-1\tq1\td2\n0.5\t-2\tq3\td1\n", JUDGED.map(b"\t".join)), MODES)
def test_any_published_tsv_ends_in_a_collection_or_in_one_clear_line(content, on_problem):
    contents = {
        "corpus.jsonl": beir.jsonl(beir.CORPUS), "queries.jsonl": beir.jsonl(beir.QUERIES),
        "qrels/train.tsv": beir.tsv(beir.TRAIN), "labels.tsv": content,
    }  # fmt: skip
    read(contents, labels="inranker-msmarco:{folder}/labels.tsv", on_problem=on_problem)


# --- what the fuzz cannot reach by size -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_line_that_is_too_long_to_be_a_document_is_named_and_not_held_in_memory(monkeypatch, name):
    monkeypatch.setattr(lines, "LINE_BYTES", 1_000)
    content = b'{"_id": "d0", "text": "' + b"x" * 5_000 + b'"}\n' + beir.jsonl(beir.CORPUS)
    content = gzip.compress(content) if name.endswith(".gz") else content
    assert "line 1: longer than 1,000 bytes" in read({name: content})
    assert read({name: content}, on_problem="repair") == ""


def test_a_file_with_nothing_but_a_byte_order_mark_is_empty():
    assert "is empty" in read({"corpus.jsonl": b"\xef\xbb\xbf"})


def test_an_unfit_value_is_shown_in_part():
    message = read({"corpus.jsonl": json.dumps({"_id": "x " * 50_000, "text": "y"}).encode()})
    assert "line 1: id 'x x x" in message and len(message) < 1_000
