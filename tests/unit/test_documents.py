"""Documents as they are: tables by a mapping of their columns, packed files, folders of text, and passages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import shlex
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inranker_flow import profiles, words
from inranker_flow.artifacts import tables
from inranker_flow.commands import collection
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.passages import Section, Size, cut
from inranker_flow.corpora.sources import html, markdown
from inranker_flow.planning.counting import count
from inranker_flow.preflight.collections import check_collection
from inranker_flow.settings.profile import overrides, split
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.storage import uris
from tests import beir
from tests.hub_server import HubServer
from tests.refusals import refuses

#: No part of the collection of `tests/beir.py`.
NOTHING: dict[str, None] = dict.fromkeys(("corpus", "queries", "train", "test"))
SHOP = [
    {"sku": "a1", "name": "Oak table", "about": 'A "table", of oak.\n\nIt is big.', "brand": "Acme", "price": 10},
    {"sku": "a2", "name": "Chair", "about": "Sit; down\there, ünder.", "brand": None, "price": None},
    {"sku": "a3", "name": "Lamp", "about": None, "brand": None, "price": 2.5},
]
FIELDS = {"id": "sku", "title": "name", "text": "{about} {brand}"}
READ = [
    {"doc_id": "a1", "title": "Oak table", "text": 'A "table", of oak.\n\nIt is big. Acme'},
    {"doc_id": "a2", "title": "Chair", "text": "Sit; down\there, ünder."},
    {"doc_id": "a3", "title": "Lamp", "text": ""},
]


def corpus(uri, **section) -> CorpusConfig:
    return CorpusConfig(uri=str(uri), name="sample", **section)


def prepared(uri, folder, mode="refuse", **section):
    prepare_corpus(PrepareConfig(on_problem=mode), corpus(uri, **section), folder)
    return tables.read(tables.CORPUS, folder).to_pylist()


def delimited(between: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, SHOP[0], delimiter=between, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(SHOP)
    return out.getvalue().encode()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(SHOP), out)
    return out.getvalue()


PACKINGS = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("shop.csv", delimited(",")),
        ("shop.csv", delimited(";")),
        ("shop.tsv", delimited("\t")),
        ("shop.jsonl", beir.jsonl(SHOP)),
        ("shop.csv", delimited(",").decode().encode("utf-16")),
        ("shop.parquet", parquet()),
    ],
)
def test_every_form_and_packing_of_a_table_gives_the_same_documents(tmp_path, name, content, packing):
    if name.endswith("parquet") and packing:
        return
    file = tmp_path / "in" / f"{name}{packing}"
    file.parent.mkdir()
    file.write_bytes(PACKINGS[packing](content))
    assert prepared(file, tmp_path / "a", fields=FIELDS) == READ
    assert prepared(file.parent, tmp_path / "b", fields=FIELDS) == READ, "a folder with one table is that table"
    assert check_collection(corpus(file, fields=FIELDS)) == f"{file}: there"
    assert count(corpus(file, fields=FIELDS), PrepareConfig()).documents == 3


def test_a_table_on_s3_is_counted_and_checked_by_its_beginning(tmp_path, s3):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "shop.csv").write_bytes(delimited(","))
    uris.upload(tmp_path / "in", f"{s3}/shop")
    for uri in (f"{s3}/shop/shop.csv", f"{s3}/shop"):
        assert check_collection(corpus(uri, fields=FIELDS)) == f"{uri}: readable"
        assert count(corpus(uri, fields=FIELDS), PrepareConfig()).documents == 3
        with refuses("collection-column", "shop.csv", "prize", "fields.text"):
            check_collection(corpus(uri, fields={**FIELDS, "text": "{prize}"}))
    assert prepared(f"{s3}/shop", tmp_path / "out", fields=FIELDS) == READ


def test_judgements_beside_a_mapped_table_are_used(tmp_path):
    folder = beir.write(
        tmp_path / "in",
        {"export.jsonl": beir.jsonl({"key": each["_id"], "_source": each} for each in beir.CORPUS)},
        corpus=None,
    )
    fields = {"id": "key", "title": "{_source.title}", "text": "_source.text"}
    stats = prepare_corpus(PrepareConfig(), corpus(folder, fields=fields), tmp_path / "out")
    plain = prepare_corpus(PrepareConfig(), corpus(beir.write(tmp_path / "beir")), tmp_path / "plain")
    assert stats == plain and stats.judgements == 4


@pytest.mark.parametrize(
    ("name", "content", "fields", "facts"),
    [
        ("a.csv", delimited(","), {"id": "sku", "text": "abuot"}, ("abuot", "about", "fields.text")),
        ("a.parquet", parquet(), {"id": "key", "text": "about"}, ("key", "sku", "fields.id")),
        ("a.jsonl", beir.jsonl(SHOP), {"id": "sku", "text": "{about}{x.y}"}, ("x.y", "sku", "fields.text")),
        ("a.jsonl", beir.jsonl(SHOP), {"id": "sku", "title": "x", "text": "about"}, ("x", "fields.title")),
        ("a.csv", delimited(","), {}, ("doc_id", "sku", "fields: {id:")),
        ("a.parquet", parquet(), {}, ("doc_id", "sku", "fields: {id:")),
        ("a.csv", b"id,id,text\n1,1,x\n", {}, ("2 columns id",)),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, name, content, fields, facts):
    (tmp_path / name).write_bytes(content)
    with refuses("collection-column", name, *facts):
        prepared(tmp_path / name, tmp_path / "out", fields=fields)
    if fields or name.endswith("csv"):
        with refuses("collection-column", name, *facts[:2]):
            check_collection(corpus(tmp_path / name, fields=fields))


def test_rows_that_cannot_be_read_are_told_by_line_and_dropped_on_repair(tmp_path):
    rows = b'id,text\n1,Oak\n2,"Elm\ntree"\n3,Fir,extra\n,Ash\n4,"Yew" x\n5,Box\n'
    (tmp_path / "a.csv").write_bytes(rows)
    with refuses("collection-row", "a.csv line 5", "3 columns", "3 malformed rows"):
        prepared(tmp_path / "a.csv", tmp_path / "out")
    assert [row["text"] for row in prepared(tmp_path / "a.csv", tmp_path / "out", "repair")] == [
        "Oak",
        "Elm\ntree",
        "Box",
    ]


def test_fields_are_refused_where_there_are_none(tmp_path):
    for uri in ("ir_datasets:beir/nfcorpus", "demo:source/1"):
        with refuses("setting-conflict", "fields"):
            prepared(uri, tmp_path / "out", fields=FIELDS)


# --- files of text ----------------------------------------------------------------------------------------------------

GUIDE = """---
title: The guide
tags: [a, b]
---
Before all.

# Guide {#guide}

Intro of
two lines.

## Install ##

```sh
# no heading
make install
```

### Linux

Take the package.

* one
* two

Windows
-------

| a | b |
|---|---|
| 1 | 2 |

---

The end.
"""


def test_markdown_is_read_by_headings_and_fences():
    found = [(" > ".join(each.path), each.text) for each in markdown.sections(GUIDE, "guide") if each.text]
    assert found == [
        ("The guide", "Before all."),
        ("Guide", "Intro of two lines."),
        ("Guide > Install", "# no heading\nmake install"),
        ("Guide > Install > Linux", "Take the package.\n* one\n* two"),
        ("Guide > Windows", "| a | b |\n| 1 | 2 |\nThe end."),
    ]
    assert [each.path for each in markdown.sections("---\n\nrule, no front matter\n\n---\n", "x")][0] == ("x",)
    assert [each.text for each in markdown.sections("````\n```\n# x\n````\n# y\n", "x")] == ["```\n# x", ""]


@pytest.mark.parametrize(
    "line", ["#" + " " * 200_000 + "x", "# x" + " " * 200_000 + "#x", "a\n" + "-" * 200_000 + "x", "- " * 100_000 + "x"]
)
def test_a_long_odd_line_is_read_at_once(line):
    """No expression goes through it again and again: with one that does, this takes hours."""
    assert "x" in str(list(markdown.sections(line, "name")))


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("#=-`~|>* \n\tab<h1/>&;{}é漢"), max_size=80))
def test_any_text_is_read_as_markdown_and_as_html(text):
    # What stands in front matter, in a fence's first line or in an attribute is left out.
    left_out = text.startswith("---") or any(each in text for each in "{`~")
    letters = set() if left_out else {each for each in text if each in "aé漢"}
    assert letters <= set(str(list(markdown.sections(text, "")))), "a letter is lost"
    html.sections(text, "")


def test_html_is_read_by_headings_without_scripts_and_menus():
    page = """<!doctype html><html><head><title>Install &mdash; Docs</title><style>p{}</style></head><body>
    <nav><h2>Menu</h2><a>Home</a></nav><h1>Install<a>¶</a></h1><p>Take   the <b>package</b>.<br>Then run it.
    <h2>On
    Linux</h2><ul><li>one<li>two &amp; three</ul><pre>make
  install</pre><table><tr><th>a</th><th>b</th></tr><tr><td>1<td>2</table><script>x()</script><footer>2026</footer>"""
    found = [(" > ".join(each.path), each.text) for each in html.sections(page, "x") if each.text]
    assert found == [
        ("Install", "Take the package.\nThen run it."),
        ("Install > On Linux", "one\ntwo & three\nmake\n  install\na | b\n1 | 2"),
    ]
    assert [(each.path, each.text) for each in html.sections("a <b>b", "name")] == [(("name",), "a b")]


def test_a_folder_of_text_is_a_collection_of_passages(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    files = {
        "guide/My guide.md": GUIDE.encode(), "notes.txt.gz": b"One.\r\n\r\nTwo.", "a/b/c/d/e/deep.html": b"<p>Deep.</p>",
        "logo.png": b"\x89PNG", "qrels/test.tsv": b"q1 0 notes.txt.gz 1\n", "queries.jsonl": b'{"_id": "q1", "text": "two"}\n',
    }  # fmt: skip
    folder = beir.write(tmp_path / "in", files, **NOTHING)
    rows = prepared(folder, tmp_path / "out")
    assert "not read: 1 .png" in caplog.text
    with refuses("setting-conflict", "files of text", "fields"):
        prepared(folder, tmp_path / "other", fields=FIELDS)
    assert [row["doc_id"] for row in rows] == [
        "a/b/c/d/e/deep.html#1", *(f"guide/My%20guide.md#{number}" for number in range(1, 6)), "notes.txt.gz#1",
    ]  # fmt: skip
    assert rows[3]["title"] == "Guide > Install" and rows[-1] == {
        "doc_id": "notes.txt.gz#1", "title": "notes", "text": "One.\nTwo.",
    }  # fmt: skip
    parts = tables.read(tables.PASSAGES, tmp_path / "out").to_pylist()
    assert [each["doc_id"] for each in parts] == [row["doc_id"] for row in rows]
    assert {each["document_id"] for each in parts} == {"a/b/c/d/e/deep.html", "guide/My%20guide.md", "notes.txt.gz"}
    assert tables.read(tables.QRELS, tmp_path / "out").to_pylist() == [
        {"query_id": "q1", "doc_id": "notes.txt.gz", "relevance": 1}
    ]
    counted = count(corpus(folder), PrepareConfig())
    assert (counted.documents, counted.test_queries) == (7, 1)
    assert check_collection(corpus(folder)) == f"{folder}: there"


def test_what_is_wrong_with_a_text_is_told_by_file(tmp_path):
    files = {
        "good.md": b"Good.", "latin.txt": "n\nö".encode("latin-1"), "empty.html": b"<script>1</script>", "binary.txt": b"\0\0",
    }  # fmt: skip
    folder = beir.write(tmp_path / "in", files, **NOTHING)
    with refuses("collection-row", "binary.txt", "NUL", "1 documents without any text", "1 rows that are not UTF-8"):
        prepared(folder, tmp_path / "out")
    assert [row["doc_id"] for row in prepared(folder, tmp_path / "out", "repair")] == ["good.md#1"]


# --- passages ---------------------------------------------------------------------------------------------------------


def test_long_sections_are_cut_between_sentences_with_an_overlap():
    text = " ".join(f"This is sentence number {number}{number}." for number in range(10))
    parts = [part for _, part in cut([Section(("T",), text)], Size(12, 5))]
    assert parts[:2] == [
        "This is sentence number 00. This is sentence number 11.", "This is sentence number 11. This is sentence number 22.",
    ]  # fmt: skip
    assert len(parts) == 9
    assert [part for _, part in cut([Section((), "a b c d e f g")], Size(3))] == ["a b c", "d e f", "g"]
    assert list(cut([Section(("A",), ""), Section(("A", "B"), "x")], Size(3))) == [("A > B", "x")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["Oak.", "elm", "Fir tree!", "\n", "\n\n", "漢字の文。", "ไทย", "x" * 9]), max_size=60),
    st.integers(1, 9), st.integers(0, 8),
)  # fmt: skip
def test_passages_lose_no_word_and_keep_their_size(words_, tokens, overlap):
    text = " ".join(words_)
    parts = [part for _, part in cut([Section(("T",), text)], Size(tokens, min(overlap, tokens - 1)))]
    assert all(words.count(part) <= tokens for part in parts)
    whole = [part for _, part in cut([Section(("T",), text)], Size(tokens))]
    assert "".join("".join(whole).split()) == "".join(text.split())


def test_rows_of_a_table_become_passages_if_that_is_asked_for(tmp_path):
    rows = prepared(beir.write(tmp_path / "beir"), tmp_path / "out", passage_tokens=3)
    assert [row["doc_id"] for row in rows][:2] == ["d1#1", "d1#2"] and rows[0]["title"] == "Oak"
    assert rows[0]["text"] == "Oaks are trees" and rows[1]["text"] == "with acorns."
    judged = {row["doc_id"] for row in tables.read(tables.QRELS, tmp_path / "out").to_pylist()}
    assert judged == {"d1", "d2", "d3", "d4"}, "judgements name documents"
    prepared(beir.write(tmp_path / "beir"), tmp_path / "out")
    assert not (tmp_path / "out" / "passages.parquet").exists()
    with refuses("setting-conflict", "passage_overlap", "passage_tokens"):
        prepared(tmp_path / "beir", tmp_path / "out", passage_tokens=3, passage_overlap=3)


def test_rows_that_are_passages_name_their_document(tmp_path):
    chunks = [{"id": f"d1-{number}", "text": f"part {number}", "of": "d1"} for number in range(3)]
    folder = beir.write(
        tmp_path / "in", {"corpus.jsonl": beir.jsonl(chunks)}, corpus=None, train=None, test=b"q1 0 d1 1\n"
    )
    section = {"fields": {"document": "of"}}
    assert [row["doc_id"] for row in prepared(folder, tmp_path / "out", **section)] == ["d1-0", "d1-1", "d1-2"]
    assert {row["document_id"] for row in tables.read(tables.PASSAGES, tmp_path / "out").to_pylist()} == {"d1"}
    limited = PrepareConfig(max_documents=1)
    stats = prepare_corpus(limited, corpus(folder, **section), tmp_path / "out")
    assert stats.documents == 3, "passages of a judged document stay"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_a_collection_and_writes_it_in_beirs_layout(tmp_path, capsys):
    rows = [*beir.CORPUS, {"_id": "d5", "text": ""}, {"_id": "d6", "text": "Дождь идёт из облаков."}]
    folder = beir.write(tmp_path / "in", corpus=beir.jsonl([*rows, {"_id": "d7", "text": "Granite is a hard rock."}]))
    assert collection.main([str(folder), "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for fact in (
        "6 passages", "25% 5, 50% 5", "latin 83.3%, cyrillic 16.7%", "1 documents without any text", "'d7' repeats another",
        "4: 2 training queries (of a source), 1 test queries", f"make run SOURCE={tmp_path / 'out'}",
    ):  # fmt: skip
        assert fact in said, said
    assert prepared(tmp_path / "out", tmp_path / "a") == prepared(folder, tmp_path / "b", "repair")
    for name in ("queries", "qrels"):
        written, before = (tables.read(getattr(tables, name.upper()), tmp_path / each) for each in "ab")
        assert sorted(written.to_pylist(), key=str) == sorted(before.to_pylist(), key=str)
    assert collection.main([str(folder), "--to", str(tmp_path / "out")]) == 2
    assert "TO: " in capsys.readouterr().err


def test_the_next_command_reads_what_was_shown(tmp_path, capsys):
    (tmp_path / "it's.csv").write_bytes(delimited(","))
    fields = json.dumps({**FIELDS, "text": '{about} "{brand}"'})
    options = ["--set", f"source.fields={fields}", "--set", "source.passage_tokens=4"]
    assert collection.main([str(tmp_path / "it's.csv"), *options, "--to", str(tmp_path / "out")]) == 0
    written = capsys.readouterr().out
    assert collection.main([str(tmp_path / "it's.csv"), *options]) == 0
    read = capsys.readouterr().out
    documents = []
    for said in (written, read):
        [_, _, given] = shlex.split(said.splitlines()[-1].removeprefix("Next"))
        [target] = profiles.load("smoke", overrides(split(given.removeprefix("SET=")), {})).targets
        prepare_corpus(PrepareConfig(), target, tmp_path / "read")
        documents.append(tables.read(tables.PASSAGES, tmp_path / "read").to_pylist())
    assert documents[0] == documents[1] and documents[0][0] == {"doc_id": "a1#1", "document_id": "a1"}
    assert collection.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"FAILED: {tmp_path / 'nowhere'}: no such file or folder")


MEMORY = """
import resource, sys
from pathlib import Path
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.stages.prepare_corpus import prepare_corpus
section = CorpusConfig(sys.argv[1], "x", fields={"id": "key", "text": "{a} {b}"})
stats = prepare_corpus(PrepareConfig(), section, Path(sys.argv[2]))
print(stats.documents, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_rows_of_a_table(tmp_path):
    def peak(rows: int) -> int:
        file = tmp_path / f"{rows}.csv.gz"
        with gzip.open(file, "wt", compresslevel=1) as out:
            out.write("key,a,b\n")
            for number in range(rows):
                out.write(f"k{number},{'some words of text ' * 50}{number},more of it\n")
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(file), str(tmp_path / "out")], capture_output=True, text=True, check=True
        )
        found, megabytes = map(int, done.stdout.split())
        assert found == rows
        return megabytes

    few, many = peak(60_000), peak(180_000)
    # The texts of the other rows alone have 115 MB.
    assert many - few < 60, f"{few} MB, then {many} MB"


def test_a_mapping_of_the_usual_names_changes_nothing(tmp_path):
    folder = beir.write(tmp_path / "in")
    mapped = prepared(folder, tmp_path / "a", fields={"id": "_id", "title": "title", "text": "text"})
    assert mapped == prepared(folder, tmp_path / "b")


# --- the hub ----------------------------------------------------------------------------------------------------------


def hub_rows(**columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def test_data_sets_of_the_hub_are_read(tmp_path, monkeypatch):
    """Against a server that answers as the hub's API is documented; no test asks the hub itself."""
    plain = {
        f"data/train-0000{number}-of-00002.parquet": hub_rows(id=[number], text=[f"text {number}"]) for number in (0, 1)
    }
    judged = {
        "corpus/corpus-00000-of-00001.parquet": hub_rows(_id=["d1"], title=["Oak"], text=["A tree."]),
        "queries/queries-00000-of-00001.parquet": hub_rows(_id=["q1"], text=["tree"]),
        "data/test-00000-of-00001.parquet": hub_rows(**{"query-id": ["q1"], "corpus-id": ["d1"], "score": [1]}),
    }
    datasets = {
        ("org/plain", "main"): {**plain, "README.md": b"# Plain", "image.png": b"x"},
        ("org/plain", "v1"): {"old.jsonl": beir.jsonl([{"id": "o", "text": "old"}])},
        ("org/judged", "main"): judged,
        ("org/script", "main"): {"script.py": b"x"},
        ("org/script", "refs/convert/parquet"): {"en/train/0000.parquet": hub_rows(id=["c"], text=["converted"])},
    }
    with HubServer(datasets) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        section = {"fields": {"text": "text"}}

        def read(uri, **given):
            assert check_collection(corpus(uri)).startswith("datasets/org/")
            return [(row["doc_id"], row["text"]) for row in prepared(uri, tmp_path / "out", **given)]

        assert read("hf://datasets/org/plain", **section) == [("0", "text 0"), ("1", "text 1")]
        assert read("hf://datasets/org/plain/data", **section) == [("0", "text 0"), ("1", "text 1")]
        assert read("hf://datasets/org/plain/data/train-00001-of-00002.parquet") == [("1", "text 1")]
        assert read("hf://datasets/org/plain@v1/old.jsonl") == [("o", "old")]
        assert read("hf://datasets/org/script/en", **section) == [("c", "converted")]
        assert read("hf://datasets/org/judged") == [("d1", "A tree.")]
        assert tables.count(tables.QRELS, tmp_path / "out") == 1
        assert not any(each.path.endswith(".png") for each in hub.requests), "what is no table is not fetched"
        with refuses("not-found", "org/plain/nowhere"):
            prepared("hf://datasets/org/plain/nowhere", tmp_path / "out")
        with refuses("hub-refused", "org/nothing"):
            prepared("hf://datasets/org/nothing", tmp_path / "out")
        with refuses("hub-refused", "org/nothing"):
            check_collection(corpus("hf://datasets/org/nothing"))
    with refuses("address-form", "hf://datasets/OWNER/NAME"):
        check_collection(corpus("hf://datasets/name"))


# --- PDF and DOCX -----------------------------------------------------------------------------------------------------


def pdf(text: str) -> bytes:
    """A page with one line of text; none where it is empty."""
    drawn = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    out, places = "%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    tail = f"trailer << /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return f"{out}xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}{tail}".encode()


def docx(*paragraphs: tuple[str, str]) -> bytes:
    """A document of (style, text)."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    rows = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{level}"><w:name w:val="heading {level}"/></w:style>'
        for level in (1, 2)
    )
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType="application/'
        'vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{office}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{office}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{relation}/officeDocument" '
        'Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{relation}/styles" Target="styles.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body>{rows}</w:body></w:document>',
        "word/styles.xml": f'<w:styles xmlns:w="{word}">{styles}</w:styles>',
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


OFFICE = {"b.docx": docx(("Heading1", "Guide"), ("Normal", "Intro."), ("Heading2", "Install"), ("Normal", "Take it."))}


def test_pdf_and_docx_become_passages(tmp_path):
    pytest.importorskip("markitdown", reason="the extra documents is not installed")
    folder = beir.write(tmp_path / "in", {**OFFICE, "a.pdf": pdf("Oaks are trees.")}, **NOTHING)
    assert [(row["doc_id"], row["title"], row["text"]) for row in prepared(folder, tmp_path / "out")] == [
        ("a.pdf#1", "a", "Oaks are trees."), ("b.docx#1", "Guide", "Intro."), ("b.docx#2", "Guide > Install", "Take it."),
    ]  # fmt: skip
    for name, content, fact in (("c.pdf", pdf(""), "no text is found"), ("d.docx", b"x", "cannot be converted")):
        bad = beir.write(tmp_path / name[0], {name: content}, **NOTHING)
        with refuses("collection-row", f"{name} line 1", fact):
            prepared(bad, tmp_path / "out")


def test_pdf_and_docx_are_not_left_out_where_their_converter_is_missing(tmp_path):
    """In a process of its own, in which the converter cannot be imported."""
    folder = beir.write(tmp_path / "in", {**OFFICE, "a.md": b"Text."}, **NOTHING)
    script = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "markitdown" else find(name, *rest)
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.preflight.collections import check_collection
check_collection(CorpusConfig(sys.argv[1], "x"))
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "1 of its files are PDF or DOCX (b.docx)" in last and "pip install 'inranker-flow[documents]'" in last
