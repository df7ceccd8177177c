"""Files as they come: other encodings, quotes, names and links, columns of other kinds. Read right, or refused in one line."""

from __future__ import annotations

import io
import json
import shlex
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow import profiles
from inranker_flow.artifacts import manifest, tables
from inranker_flow.commands import collection
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.folders import Folder
from inranker_flow.corpora.passages import Section, Size, cut
from inranker_flow.corpora.sources import markdown
from inranker_flow.planning.counting import count
from inranker_flow.preflight.collections import check_collection
from inranker_flow.settings.profile import overrides, split
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.storage import uris
from tests import beir
from tests.refusals import refuses

FIELDS = {"id": "sku", "text": "body"}


def prepared(uri, out, mode="refuse", **section):
    stats = prepare_corpus(PrepareConfig(on_problem=mode), CorpusConfig(str(uri), "sample", **section), out)
    return stats, {row["doc_id"]: row["text"] for row in tables.read(tables.CORPUS, out).to_pylist()}


def parquet(**columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "code", "facts"),
    [
        ("a.csv", b"sku,body\r1,x\r2,y\r", "collection-column", ("first line", "\\r alone")),
        ("a.csv", "sku,body\r\n1,x\r\n".encode("utf-16-le"), "text-encoding", ("NUL", "save it as UTF-8")),
        ("a.csv", "sku,body,größe\n1,x,2\n3,y,4\n".encode("latin-1"), "text-encoding", ("first line", "UTF-8")),
        ("a.jsonl", b'{"sku":"1","body":["a \\ud800"]}\n', "collection-row", ("line 1", "surrogate")),
        ("a.jsonl", b'{"sku":"1","body":"a","more":{"x":"\\udfff"}}\n', "collection-row", ("line 1", "surrogate")),
        ("a.jsonl", b'{"sku":7.0,"body":"a"}\n', "collection-row", ("line 1", "fraction", "whole numbers")),
        ("a.parquet", parquet(sku=[1.0, 2.0], body=["x", "y"]), "collection-row", ("line 1", "fraction")),
        (
            "a.parquet",
            parquet(sku=["1"], body=pa.array([2**60], pa.timestamp("us"))),
            "collection-damaged",
            ("out of range",),
        ),
    ],
)
def test_a_table_that_cannot_be_read_right_is_refused(tmp_path, name, content, code, facts):
    (tmp_path / name).write_bytes(content)
    for mode in ("refuse", "repair") if code != "collection-row" else ("refuse",):
        with refuses(code, name, *facts):
            prepared(tmp_path / name, tmp_path / "out", mode, fields=FIELDS)


def test_a_header_may_be_quoted_over_several_lines(tmp_path):
    (tmp_path / "a.csv").write_text('sku,"price\n(EUR)",body\n1,2,"x\ny"\n')
    assert prepared(tmp_path / "a.csv", tmp_path / "out", fields=FIELDS)[1] == {"1": "x\ny"}


def test_a_quote_that_is_not_closed_costs_its_own_line_alone(tmp_path):
    rows = [f"{number},row {number}" for number in range(4, 40)]
    for last in ("", '40,"closed" here'):
        text = "\n".join(["sku,body", "1,x", '2,"oops', '3,"two\nlines"', *rows, last])
        (tmp_path / "a.csv").write_text(text)
        with refuses("collection-row", "a.csv line 3", "not columns"):
            prepared(tmp_path / "a.csv", tmp_path / "out", fields=FIELDS)
        stats, found = prepared(tmp_path / "a.csv", tmp_path / "out", "repair", fields=FIELDS)
        assert stats.dropped == (2 if last else 1)
        assert set(found) == {"1", "3", *map(str, range(4, 40))} and found["3"] == "two\nlines"


def test_a_table_may_say_what_stands_between_its_columns(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\nsku;body\r\n1;x, y, z\r\n")
    assert prepared(tmp_path / "a.csv", tmp_path / "out", fields=FIELDS)[1] == {"1": "x, y, z"}


def test_passages_of_two_documents_of_one_id_are_not_mixed(tmp_path):
    texts = ["One two three. " * 3, "Four five six. " * 9, "Seven eight nine. " * 2]
    folder = beir.write(
        tmp_path / "in",
        corpus=beir.jsonl({"_id": name, "text": text} for name, text in zip("aab", texts, strict=True)),
        **dict.fromkeys(("queries", "train", "test")),
    )
    with refuses("collection-row", "corpus.jsonl line 2", "'a' is used again", "1 documents"):
        prepared(folder, tmp_path / "out", passage_tokens=3)
    stats, found = prepared(folder, tmp_path / "out", "repair", passage_tokens=3)
    assert stats.dropped == 1 and set(found) == {"a#1", "a#2", "a#3", "b#1", "b#2"}
    assert not any("Four" in text for text in found.values())


def test_between_tabs_a_quote_may_be_a_character(tmp_path):
    text = 'sku\tbody\n1\t"Big" TV\n2\t5" TV\n3\t"whole"\n4\t"not closed\n5\tx\n'
    (tmp_path / "a.tsv").write_text(text)
    stats, found = prepared(tmp_path / "a.tsv", tmp_path / "out", fields=FIELDS)
    assert not stats.dropped
    assert found == {"1": '"Big" TV', "2": '5" TV', "3": "whole", "4": '"not closed', "5": "x"}


def test_a_field_inside_a_column_of_parquet_must_be_there(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(sku=["1"], meta=[{"text": "x", "deep": {"er": "y"}}]))
    fields = {"id": "sku", "text": "{meta.text} {meta.deep.er}"}
    assert prepared(tmp_path / "a.parquet", tmp_path / "out", fields=fields)[1] == {"1": "x y"}
    for lost in ("meta.txt", "meta.deep.est", "sku.x"):
        with refuses("collection-column", "a.parquet", lost, "fields.text"):
            prepared(tmp_path / "a.parquet", tmp_path / "out", fields={**fields, "text": f"{{meta.text}} {{{lost}}}"})


def test_a_passage_names_a_document_that_trec_files_can_hold(tmp_path):
    fields = {**FIELDS, "document": "of"}
    for document, fact in (("", "has no of"), ("D 1", "'D 1'")):
        (tmp_path / "a.csv").write_text(f"sku,body,of\n1,x,D\n2,y,{document}\n")
        with refuses("collection-row", "a.csv line 3", fact):
            prepared(tmp_path / "a.csv", tmp_path / "out", fields=fields)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_any_name_of_a_file_is_a_title(tmp_path):
    (tmp_path / "in").mkdir()
    with open(bytes(tmp_path / "in") + b"/b\xff.md", "w") as file:
        file.write("text")
    (tmp_path / "in" / "~$open.docx").write_bytes(b"who has it open")
    assert prepared(tmp_path / "in", tmp_path / "out")[1] == {"b\\xff.md#1": "text"}


def test_a_table_beside_another_of_its_name_is_told(tmp_path, caplog):
    """Which of them is stale, nobody can see."""
    rows = beir.jsonl(beir.CORPUS)
    files = {"corpus.jsonl.gz": rows, "queries.ndjson": beir.jsonl(beir.QUERIES), "corpus/part-0.jsonl": rows,
        "notes/corpus.jsonl": rows, "corpus.md": b"x", "test.tsv": beir.tsv(beir.TEST)}  # fmt: skip
    again = ("corpus.jsonl.gz", "corpus/part-0.jsonl", "queries.ndjson", "test.tsv")
    folder = beir.write(tmp_path / "in", files)
    with caplog.at_level("WARNING"):
        assert len(prepared(folder, tmp_path / "out")[1]) == 4
    [said] = [each.getMessage() for each in caplog.records if "not read" in each.getMessage()]
    assert f"beside corpus.jsonl, queries.jsonl: {', '.join(again)};" in said
    assert ", ".join(again) in check_collection(CorpusConfig(str(folder), "sample"))
    caplog.clear()
    plain = beir.write(tmp_path / "plain")
    prepared(plain, tmp_path / "out")
    assert "not read" not in caplog.text + check_collection(CorpusConfig(str(plain), "sample"))


def test_what_is_hidden_is_no_part_of_a_folder_for_anybody(tmp_path):
    files = {"a.md": b"one", ".git/b.md": b"two", "sub/.c.md": b"three", ".old/corpus.jsonl": b"{}", "~$d.docx": b"x"}
    folder = beir.write(tmp_path / "in", files, **dict.fromkeys(("corpus", "queries", "train", "test")))
    assert prepared(folder, tmp_path / "out")[1] == {"a.md#1": "one"}
    assert count(CorpusConfig(str(folder), "sample"), PrepareConfig()).documents == 1
    look = uris.look(str(folder))
    assert Folder("in", str(folder), look).holds_documents
    assert not Folder("in", str(folder), [file for file in look if not file.uri.endswith("/a.md")]).holds_documents


def test_links_that_lead_back_are_not_followed_and_others_belong_to_the_content(tmp_path):
    folder, other = tmp_path / "in", tmp_path / "other"
    for each in (folder / "sub", other):
        each.mkdir(parents=True)
    (folder / "a.md").write_text("one")
    (folder / "sub" / "b.md").write_text("two")
    (other / "c.md").write_text("three")
    (folder / "loop").symlink_to(".")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "more").symlink_to(other)
    assert prepared(folder, tmp_path / "out")[1] == {"a.md#1": "one", "more/c.md#1": "three", "sub/b.md#1": "two"}
    assert [file.uri for file in uris.look(str(folder))] == [
        str(folder / name) for name in ("a.md", "more/c.md", "sub/b.md")
    ]
    before = uris.fingerprint(str(folder))
    (other / "c.md").write_text("changed")
    assert uris.fingerprint(str(folder)) != before


@pytest.mark.parametrize(
    ("headings", "passages"),
    [
        (["# A", "## B", "# C", "text"], [("A > B > C", "text")]),
        (["# A", "one", "## B", "## C", "two", "## D"], [("A", "one"), ("A > B > C", "two"), ("A > D", "")]),
        (["# A", "## B", "one", "## C", "### D", "# E", "two"], [("A > B", "one"), ("C > D > E", "two")]),
        (["# A", "## B", "one", "## B", "two"], [("A > B", "one"), ("A > B", "two")]),
        (["# A", *(f"## one two three {n}" for n in range(5)), "## C", "text"],
            [*((f"A > one two three {n}", "") for n in range(5)), ("A > C", "text")]),
    ],
)  # fmt: skip
def test_a_heading_without_text_is_in_some_passage(headings, passages):
    sections = markdown.sections("\n\n".join(headings), "name")
    assert list(cut(sections, Size(20))) == passages


def test_headings_alone_are_the_text_of_their_document(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "faq.md").write_text("# How do I get in?\n\n# Who may help?\n\n## By mail\n\n## By phone\n")
    (tmp_path / "in" / "page.html").write_text("<title>Page</title><h1>What else?</h1><h2></h2>")
    prepared(tmp_path / "in", tmp_path / "out")
    titles = [row["title"] for row in tables.read(tables.CORPUS, tmp_path / "out").to_pylist()]
    assert titles == ["How do I get in?", "Who may help? > By mail", "Who may help? > By phone", "What else?"]


def test_a_page_may_say_another_encoding(tmp_path):
    (tmp_path / "in").mkdir()
    for name, said, encoding, text in (
        ("a", '<meta charset="ISO-8859-1">', "windows-1252", "naïve 5 €"),
        ("b", "<meta http-equiv=x content='text/html; charset=shift_jis'>", "shift_jis", "東京"),
        ("c", '<?xml version="1.0" encoding="koi8-r"?>', "koi8-r", "дом"),
        ("d", '<meta charset="latin1">', "utf-8", "naïve"),
    ):
        (tmp_path / "in" / f"{name}.html").write_bytes(f"{said}<p>{text}</p>".encode(encoding))
    found = prepared(tmp_path / "in", tmp_path / "out")[1]
    assert list(found.values()) == ["naïve 5 €", "東京", "дом", "naïve"]
    for said in (b'<meta charset="utf-8">', b'<meta charset="no-such">', b"", b'<meta charset="shift_jis">'):
        (tmp_path / "in" / "e.html").write_bytes(said + b"<p>na\xefve \xff</p>")
        with refuses("collection-row", "e.html", "not UTF-8"):
            prepared(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(("tokens", "overlap"), [(10, 4), (10, 8), (10, 1), (7, 3)])
def test_text_without_sentences_overlaps_too(tokens, overlap):
    words = [f"w{number}" for number in range(60)]
    parts = [text.split() for _, text in cut([Section(("T",), " ".join(words))], Size(tokens, overlap))]
    assert max(map(len, parts)) <= tokens and list(dict.fromkeys(word for part in parts for word in part)) == words
    assert all(part[:overlap] == before[-overlap:] for before, part in pairwise(parts))


def test_a_judgement_of_a_file_that_is_called_otherwise_is_told_how_ids_are(tmp_path):
    folder = beir.write(
        tmp_path / "in", {"a b.md": b"# A\n\nrock\n"}, corpus=None, train=None, test=beir.tsv([("q2", "a b.md", 1)])
    )
    with refuses("collection-row", "test.tsv line 2", "'a b.md'", "they are like 'a%20b.md'"):
        prepared(folder, tmp_path / "out")
    (folder / "qrels" / "test.tsv").write_bytes(beir.tsv([("q2", "a%20b.md", 1)]))
    assert prepared(folder, tmp_path / "out")[0].test_queries == 1


# --- queries and runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", b"query;count\nfoo;3\nbar baz;\n"),
        ("log.csv", b'query,count\nfoo,3\n"bar\nbaz",1\n'),
        ("log.tsv", b"query\tcount\nfoo\t3\nbar baz\t\n???\t2\n"),
        ("log.parquet", parquet(query=["foo", "bar baz", None], count=[3, None, 1])),
    ],
)
def test_a_log_of_queries_is_read_as_documents_are(tmp_path, name, content):
    folder = beir.write(tmp_path / "beir")
    (tmp_path / name).write_bytes(content)
    stats, _ = prepared(folder, tmp_path / "out", queries="log", log=str(tmp_path / name))
    assert stats.logged_queries == 2
    queries = tables.read(tables.QUERIES, tmp_path / "out").to_pylist()
    assert {row["text"] for row in queries if row["origin"] == "log"} == {"foo", "bar baz"}
    left_out = {each["kind"]: each["count"] for each in manifest.read_manifest(tmp_path / "out").details["problems"]}
    assert left_out.get("wordless_query", 0) == (content.count(b"???") + name.endswith("parquet"))


@pytest.mark.parametrize(
    ("name", "content", "code", "fact"),
    [
        ("log.txt", "foo\nbar\n".encode("utf-16-le"), "text-encoding", "NUL"),
        ("log.txt", b"foo\rbar\r", "collection-row", "\\r alone"),
        ("log.csv", "query,zähler\nfoo,3\n".encode("latin-1"), "text-encoding", "first line"),
        ("log.csv", b"query\nred shoes, size 4\n", "collection-row", "2 columns"),
        ("log.parquet", parquet(query=[b"foo"]), "collection-row", "not text"),
        ("log.parquet", parquet(query=[["foo"]]), "collection-row", "not text"),
    ],
)
def test_a_log_that_would_be_read_wrong_is_refused(tmp_path, name, content, code, fact):
    (tmp_path / name).write_bytes(content)
    with refuses(code, name, fact):
        prepared(beir.write(tmp_path / "beir"), tmp_path / "out", queries="log", log=str(tmp_path / name))


def test_labels_may_stand_between_semicolons_and_not_in_parquet(tmp_path):
    folder = beir.write(tmp_path / "beir")
    (tmp_path / "own.csv").write_text("query_id;doc_id;score\nq1;d2;3\n")
    assert prepared(folder, tmp_path / "out", labels=f"soft-labels:{tmp_path / 'own.csv'}")[0].published_labels == 1
    (tmp_path / "own.parquet").write_bytes(parquet(query_id=["q1"], doc_id=["d2"], score=[1.0]))
    with refuses("collection-file", "own.parquet", "write it as .jsonl"):
        prepared(folder, tmp_path / "out", labels=f"soft-labels:{tmp_path / 'own.parquet'}")
    with refuses("labels-form", "own.parquet", ".jsonl"):
        prepared(f"soft-labels:{tmp_path / 'own.parquet'}", tmp_path / "out")
    (tmp_path / "own.jsonl").write_bytes(b'{"query":"q","pos":["\\ud800"],"scores":[1]}\n')
    with refuses("collection-row", "own.jsonl line 1", "surrogate"):
        prepared(f"soft-labels:{tmp_path / 'own.jsonl'}", tmp_path / "out")


def test_a_run_of_odd_ids_and_scores(tmp_path):
    documents = [{"_id": "d\u00a01", "text": "one"}, {"_id": "d2", "text": "two"}]
    folder = beir.write(
        tmp_path / "beir", corpus=beir.jsonl(documents), train=None, test=beir.tsv([("q2", "d\u00a01", 1)])
    )
    (tmp_path / "run.trec").write_text("q2 Q0 d\u00a01 1 2.5 a\nq2\tQ0\td2\t2\t1\tb\n")
    prepared(folder, tmp_path / "out", runs=(str(tmp_path / "run.trec"),))
    assert tables.read(tables.RUN, tmp_path / "out").column("doc_id").to_pylist() == ["d\u00a01", "d2"]
    for score in (["high"], [None], [float("nan")]):
        (tmp_path / "run.parquet").write_bytes(parquet(query_id=["q2"], doc_id=["d2"], score=score))
        with refuses("collection-row", "run.parquet line 1", "no score"):
            prepared(folder, tmp_path / "out", runs=(str(tmp_path / "run.parquet"),))


# --- the command ------------------------------------------------------------------------------------------------------


def test_what_the_command_writes_keeps_labels_queries_runs_and_settings(tmp_path, capsys):
    folder = beir.write(tmp_path / "it's here", queries=beir.jsonl([*beir.QUERIES, {"_id": "l1", "text": "asked"}]))
    (folder / "run.trec").write_text("q2 Q0 d1 1 1 x\n")
    (tmp_path / "own.tsv").write_text("query_id\tdoc_id\tscore\nq1\td2\t3\n")
    data = {
        "labels": f"soft-labels:{tmp_path / 'own.tsv'}",
        "language": "german",
        "queries": "log",
        "runs": ["run.trec"],
    }
    given = [f"--set=source.{key}={json.dumps(value)}" for key, value in data.items()]
    assert collection.main([str(folder), *given, "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "1 soft labels" in said and "1 queries that people asked" in said
    [_, _, given] = shlex.split(said.splitlines()[-1].removeprefix("Next"))
    [target] = profiles.load("smoke", overrides(split(given.removeprefix("SET=")), {})).targets
    assert (target.language, target.queries) == ("german", "log")
    before = prepared(folder, tmp_path / "a", **{**data, "runs": ("run.trec",)})
    prepare_corpus(PrepareConfig(), target, tmp_path / "b")
    for table in (tables.CORPUS, tables.QUERIES, tables.QRELS, tables.LABELS, tables.RUN):
        assert tables.read(table, tmp_path / "b").equals(tables.read(table, tmp_path / "a")), table.filename
    assert before[0].published_labels == 1


def test_the_command_tells_a_terminal_nothing_but_text(tmp_path, capsys):
    texts = [{"_id": "d\u202e1", "text": "\u001b[31mred\u0007 नमस्\u200dते"}]
    folder = beir.write(tmp_path / "beir", corpus=beir.jsonl(texts), queries=None, train=None, test=None)
    assert collection.main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "\\x1b[31mred\\x07 नमस्\u200dते" in said and "d\\u202e1" in said and not {"\x1b", "\u202e"} & set(said)
