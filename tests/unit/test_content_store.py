"""Rows by content: found again, whoever wrote them and however the files lie; damage is never read."""

from __future__ import annotations

import logging
import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.storage import uris
from inranker_flow.store import kept_rows
from inranker_flow.store.kept_rows import ContentStore, combine, distinct, numbers

SCHEMA = pa.schema([pa.field("value", pa.float64(), nullable=False), pa.field("text", pa.string(), nullable=False)])


def keys(*names):
    return hash_rows(names)


def table(*values):
    return pa.table({"value": values, "text": [f"text {value}" for value in values]}, schema=SCHEMA)


def files(folder):
    return sorted(Path(folder).glob("*.parquet"))


def found(store, *names, **options):
    """Name -> value of those that are there."""
    there, rows = store.find(keys(*names), **options)
    return dict(zip(np.array(names)[there].tolist(), rows.column("value").to_pylist(), strict=True))


@pytest.fixture
def store(tmp_path):
    return ContentStore(str(tmp_path / "store"), SCHEMA)


def test_what_was_put_is_found_by_anyone_in_the_order_of_the_question(store):
    assert found(store, "a") == {} and store.find(keys("a"))[1].schema.names == ["value", "text"]
    assert store.put(keys("a", "b", "c"), table(1.0, 2.0, 3.0)) and store.put(keys("d"), table(4.0))
    other = ContentStore(store.uri, SCHEMA)
    there, rows = other.find(keys("d", "x", "b", "d", "a"))
    assert there.tolist() == [True, False, True, True, True]
    assert rows.to_pylist() == table(4.0, 2.0, 4.0, 1.0).to_pylist()
    assert numbers(rows.select(["value"])).tolist() == [[4.0], [2.0], [4.0], [1.0]]


def test_the_same_rows_are_one_file_in_whatever_order_they_came(store):
    assert store.put(keys("a", "b", "a"), table(1.0, 2.0, 1.0))
    assert not store.put(keys("b", "a"), table(2.0, 1.0))
    assert len(files(store.uri)) == 1 and pq.read_metadata(files(store.uri)[0]).num_rows == 2
    assert not store.put(keys(), table()) and len(files(store.uri)) == 1


def test_keys_that_share_their_first_half_are_told_apart(store):
    similar = np.array([[7, 1], [7, 2], [7, 3], [9, 1]], np.uint64)
    store.put(similar[[0, 2]], table(1.0, 3.0))
    store.put(similar[[3]], table(9.0))
    there, rows = store.find(similar)
    assert there.tolist() == [True, False, True, True] and rows.column("value").to_pylist() == [1.0, 3.0, 9.0]


def test_a_store_like_any_dictionary(store):
    generator, known = random.Random(3), {}
    for _ in range(30):
        names = [f"n{generator.randrange(400)}" for _ in range(generator.randrange(1, 40))]
        fresh = [name for name in dict.fromkeys(names) if name not in known]
        if fresh:
            known |= {name: float(len(known) + place) for place, name in enumerate(fresh)}
            store.put(keys(*fresh), table(*(known[name] for name in fresh)))
        asked = [f"n{generator.randrange(500)}" for _ in range(60)]
        expected = {name: known[name] for name in asked if name in known}
        assert found(ContentStore(store.uri, SCHEMA), *asked) == expected
        if generator.random() < 0.2:
            store.compact(2)


def test_only_new_files_are_looked_at_again(store):
    store.put(keys("own"), table(0.0))
    other = ContentStore(store.uri, SCHEMA)
    other.put(keys("a"), table(1.0))
    assert found(store, "a", "own", only_new=True) == {"a": 1.0}, "one's own files are known"
    assert found(store, "a", only_new=True) == {}
    other.put(keys("b"), table(2.0))
    assert found(store, "a", "b", only_new=True) == {"b": 2.0}
    assert found(store, "a", "own") == {"a": 1.0, "own": 0.0}


def test_of_two_rows_for_one_key_every_reader_takes_the_same(tmp_path):
    answers = set()
    for name, order in (("one", (0, 1)), ("two", (1, 0))):
        store = ContentStore(str(tmp_path / name), SCHEMA)
        rows = [(keys("a", "b"), table(1.5, 2.0)), (keys("a", "c"), table(1.25, 3.0))]
        for place in order:
            store.put(*rows[place])
        before = found(store, "a", "b", "c")
        assert store.compact(2) == 2 and len(files(store.uri)) == 1
        assert found(store, "a", "b", "c") == before
        answers.add(tuple(before.items()))
    assert answers == {(("a", 1.25), ("b", 2.0), ("c", 3.0))}


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_a_damaged_file_is_never_read(store, caplog, damage):
    store.put(keys("a", "b"), table(1.0, 2.0))
    store.put(keys("c"), table(3.0))
    bad = next(path for path in files(store.uri) if pq.read_metadata(path).num_rows == 2)
    data, good = bad.read_bytes(), next(path for path in files(store.uri) if path != bad)
    broken = {"cut": data[:-20], "bit": data[:40] + bytes([data[40] ^ 1]) + data[41:], "empty": b""}
    bad.write_bytes(broken.get(damage, good.read_bytes()))
    other = ContentStore(store.uri, SCHEMA)
    with caplog.at_level(logging.WARNING):
        assert found(other, "a", "b", "c") == {"c": 3.0}
    assert caplog.text.count(bad.name) == 1 and "computed again" in caplog.text
    assert other.compact(1) == 0 and bad.exists(), "what is damaged is a person's to remove"
    assert other.put(keys("a", "b"), table(1.0, 2.0)), "the same rows take its place"
    assert bad.read_bytes() == data and found(ContentStore(store.uri, SCHEMA), "a", "b", "c") == {
        "a": 1.0, "b": 2.0, "c": 3.0,
    }  # fmt: skip


def test_a_file_that_is_none_of_the_stores_is_left_out(store, caplog):
    store.put(keys("a"), table(1.0))
    Path(store.uri, "notes.parquet").write_bytes(b"mine")
    Path(store.uri, ".half.parquet.tmp").write_bytes(b"half")
    foreign = ContentStore(store.uri, pa.schema([pa.field("number", pa.int64())]))
    foreign.put(keys("a"), pa.table({"number": [5]}, schema=pa.schema([pa.field("number", pa.int64())])))
    with caplog.at_level(logging.WARNING):
        assert found(ContentStore(store.uri, SCHEMA), "a") == {"a": 1.0}
    assert "not a file of this store" in caplog.text


def test_a_reader_misses_nothing_while_files_are_put_together(store, monkeypatch):
    for name in "abcdef":
        store.put(keys(name), table(float(ord(name))))
    reader, inner = ContentStore(store.uri, SCHEMA), uris.read
    first = files(store.uri)[-1].name

    def read(uri):
        if uri.endswith(first):  # the reader has listed all six, and read none
            monkeypatch.setattr(uris, "read", inner)
            assert store.compact(2) == 6
        return inner(uri)

    monkeypatch.setattr(kept_rows, "_AT_ONCE", 1)
    monkeypatch.setattr(uris, "read", read)
    assert found(reader, *"abcdef") == {name: float(ord(name)) for name in "abcdef"}
    assert len(files(store.uri)) == 1


def _write(uri, number):
    store = ContentStore(uri, SCHEMA)
    for start in range(0, 200, 10):
        names = [f"k{start + place}" for place in range(10)]  # the same for all
        store.put(keys(*names), table(*(float(start + place) for place in range(10))))
        store.put(keys(f"{number}/{start}"), table(float(number)))
        store.compact(8)


def test_many_processes_at_once_lose_nothing_and_double_nothing(tmp_path):
    uri = str(tmp_path / "store")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(uri, number)) for number in range(3)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(60)
    assert [each.exitcode for each in writers] == [0, 0, 0]
    store = ContentStore(uri, SCHEMA)
    expected = {f"k{place}": float(place) for place in range(200)}
    expected |= {f"{number}/{start}": float(number) for number in range(3) for start in range(0, 200, 10)}
    assert found(store, *expected) == expected
    store.compact(2)
    assert sum(pq.read_metadata(path).num_rows for path in files(uri)) == len(expected)


def test_a_key_is_of_all_its_parts_in_their_order():
    a, b = keys("a", "b", "a"), keys("x", "x", "y")
    combined = combine(a, b)
    assert combined.shape == (3, 2) and len({tuple(row) for row in combined.tolist()}) == 3
    assert (combine(b, a) != combined).any(axis=1).all()
    assert (combine(a[1:2], b[1:2]) == combined[1:2]).all()
    first, number = distinct(np.concatenate([combined, combined[1:]]))
    assert sorted(first.tolist()) == [0, 1, 2]
    assert (combined[first[number]] == np.concatenate([combined, combined[1:]])).all()


def test_of_many_threads_that_put_the_same_one_writes(store):
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda _: ContentStore(store.uri, SCHEMA).put(keys("a"), table(1.0)), range(8)))
    assert wrote.count(True) == 1 and len(files(store.uri)) == 1
