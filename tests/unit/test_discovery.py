"""Which corpora are there, what is new about them, and is a run due: real folders, a real S3 server, a real registry."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from inranker_flow.config.parsing import as_dict, without_defaults
from inranker_flow.config.sections import CorporaConfig, CorpusConfig, DistillConfig, PrepareConfig, PromoteConfig
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.model_registry import registry
from inranker_flow.model_registry.trained_on import DATA_TAG, identity, trained_on
from inranker_flow.stages import discover as discovery
from inranker_flow.stages.discover import DiscoverStats, discover
from inranker_flow.storage import uris
from inranker_flow.store import claims
from inranker_flow.tracking import connection
from tests.http_server import Answer, HttpServer
from tests.promoting import use_database
from tests.refusals import refuses

FIXED = CorpusConfig(uri="demo:target/1", name="medicines", fingerprint="f")
SOURCE = CorpusConfig(uri="demo:source/1", name="inns", fingerprint="s")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A registry; each test has a model name of its own."""
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT")}
    use_database(tmp_path_factory.mktemp("mlflow"))
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def look(database, tmp_path, request, monkeypatch):
    """`discover` over ``tmp_path/corpora`` with a store beside it, or as ``changes`` say."""
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    (tmp_path / "corpora").mkdir()

    def run(
        work: str = "work", uri: str = "", targets=(), start: str = "phase1", run_id: str = "me", **corpora
    ) -> DiscoverStats:
        config = CorporaConfig(uri=uri or str(tmp_path / "corpora"), **{"settle_seconds": 0, **corpora})
        return discover(
            config, PrepareConfig(), SOURCE, tuple(targets), DistillConfig(start=start), PromoteConfig(request.node.name),
            work, run_id, tmp_path / "report.md",
        )  # fmt: skip

    run.name, run.corpora, run.report = request.node.name, tmp_path / "corpora", tmp_path / "report.md"
    return run


def corpus(folder: Path, *texts: str, **files: str) -> Path:
    """A corpus in BEIR layout, complete; ``files``: further ones, by name with _ for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"_id": str(number), "title": "", "text": text}) for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    (folder / "_SUCCESS").touch()
    return folder


def train(
    look,
    found: DiscoverStats,
    work: str = "work",
    promoted: bool = True,
    against: str = "",
    left_out: str = "",
    **data: str,
) -> registry.Version:
    """Register a version as `promote` does after the run that ``found`` says is due, which ``left_out`` a target; ``data``:
    digests of training sets."""
    targets = [CorpusConfig(**each) for each in found.targets if each["name"] != left_out]
    without = {left_out: "generate_queries: no usable query"} if left_out else {}
    client = connection.client()
    registry.create_model(look.name, "")
    tags = {**trained_on(targets, work, without), "inranker.against": against, "run_key": found.run_key}
    tags |= {f"{DATA_TAG}{name}": digest for name, digest in data.items()}
    made = client.create_model_version(look.name, "file:///nowhere", tags=tags)
    client.set_registered_model_alias(look.name, registry.CHALLENGER, made.version)
    if promoted:
        client.set_registered_model_alias(look.name, registry.CHAMPION, made.version)
    return registry.version(look.name, str(made.version))


def names(found: DiscoverStats) -> list[str]:
    return [each["name"] for each in found.targets]


def test_the_first_look_finds_every_corpus_and_the_second_nothing_to_do(look):
    corpus(look.corpora / "b", "some text")
    corpus(look.corpora / "a", "other text")
    (look.corpora / "README.md").write_text("files beside the folders are none of our business")
    (look.corpora / ".trash").mkdir()
    found = look()
    assert (found.go, names(found), found.new) == ("yes", ["a", "b"], 2)
    assert found.found == ("yes", found.targets, without_defaults(SOURCE), found.run_key, "", "")
    train(look, found)
    again = look()
    assert (again.go, again.targets) == ("no", [])
    assert again.reason.endswith("was trained in this way, on just these corpora: a, b")
    assert "# Nothing to do" in look.report.read_text() and "| a | same |" in look.report.read_text()
    assert look.report.read_text().endswith("/1 serves; no retrain has ended well before.\n")


def test_new_changed_and_removed_corpora_are_reasons_and_all_that_is_there_is_trained_on(look):
    for name in "abc":
        corpus(look.corpora / name, f"text of {name}")
    champion = train(look, look())
    corpus(look.corpora / "b", "text of b", "and more")
    shutil.rmtree(look.corpora / "c")
    corpus(look.corpora / "d", "text of d")
    found = look()
    assert found.reason == f"since {champion.reference}: new d; changed b; removed c"
    assert (found.go, names(found)) == ("yes", ["a", "b", "d"])
    assert (found.new, found.changed, found.removed) == (1, 1, 1)
    assert found.champion == champion.reference and found.start == ""
    assert look(start="champion").start == champion.reference


def test_content_decides_not_times_or_names_of_uploads(look):
    folder = corpus(look.corpora / "a", "some words")
    train(look, look())
    os.utime(folder / "corpus.jsonl", ns=(1, 1))
    assert look().go == "no", "touched, but the same"
    (folder / "corpus.jsonl").write_text((folder / "corpus.jsonl").read_text().replace("words", "terms"))
    assert look().changed == 1, "as long as before"


def test_an_unchanged_corpus_is_not_read_again(look, monkeypatch):
    corpus(look.corpora / "a", "text")
    train(look, look())
    read = []
    monkeypatch.setattr(discovery, "digest_folder", lambda path: read.append(path) or "")
    monkeypatch.setattr(discovery, "prepare_corpus", lambda *_: read.append("prepare"))
    assert look().go == "no" and read == []


def test_another_configuration_or_fixed_target_is_a_reason_too(look):
    corpus(look.corpora / "a", "text")
    champion = train(look, look(targets=[FIXED]))
    assert look(targets=[FIXED]).go == "no"
    assert look("other", targets=[FIXED]).reason == f"since {champion.reference}: another configuration"
    other = CorpusConfig(uri="demo:target/1", name="medicines", fingerprint="g")
    assert look(targets=[other]).reason == f"since {champion.reference}: other settings for medicines"
    assert look().reason == f"since {champion.reference}: removed medicines"


def test_corpora_know_the_training_set_that_was_made_of_them_before(look, tmp_path):
    for name in "ab":
        corpus(look.corpora / name, f"text of {name}")
    first = look(targets=[FIXED])
    assert {each.get("earlier", "") for each in first.targets} == {""} == {first.source.get("earlier", "")}
    kept = {"a": "1" * 64, "medicines": "2" * 64, "inns": "3" * 64}
    for digest in kept.values():
        uris.put_if_absent(b"a record", str(tmp_path / "store" / "pairs" / f"{digest}.parquet"))
    train(look, first, **kept, b="4" * 64)  # of which nothing is stored
    corpus(look.corpora / "a", "text of a", "and more")
    found = look(targets=[FIXED])
    assert {each["name"]: each.get("earlier", "") for each in found.targets} == {
        "a": kept["a"], "b": "", "medicines": kept["medicines"]
    }  # fmt: skip
    assert found.source.get("earlier", "") == kept["inns"]
    assert found.run_key == look(targets=[CorpusConfig(**{**as_dict(FIXED), "earlier": "5" * 64})]).run_key
    other = look("other", targets=[FIXED])
    assert [each.get("earlier", "") for each in other.targets] == [each.get("earlier", "") for each in found.targets]


def test_what_was_held_against_this_champion_is_not_tried_again_every_night(look):
    corpus(look.corpora / "a", "text")
    champion = train(look, look())
    corpus(look.corpora / "b", "text")
    found = look()
    held = train(look, found, promoted=False, against=champion.reference)
    assert look().reason.startswith(f"{held.reference} was trained in this way")
    # Another champion is another question.
    connection.client().set_registered_model_alias(look.name, registry.CHAMPION, train(look, found, "x").version)
    assert look().go == "yes"


def test_a_target_that_was_left_out_is_tried_again_every_night(look):
    for name in ("a", "b"):
        corpus(look.corpora / name, "text")
    found = look(targets=[FIXED])
    assert [each["refused"] for each in found.targets] == ["leave_out"] * 3, "the profile's and those that were found"
    champion = train(look, found, left_out="b")
    again = look(targets=[FIXED])
    assert (again.go, again.reason) == ("yes", f"since {champion.reference}: left out then: b")
    assert sorted(names(again)) == ["a", "b", "medicines"]
    # Held against this champion, it would be held again: but not with that target in it.
    held = train(look, again, promoted=False, against=champion.reference, left_out="medicines")
    again = look(targets=[FIXED])
    assert (again.go, again.reason) == ("yes", f"since {held.reference}: left out then: medicines")
    train(look, again, promoted=False, against=champion.reference)
    assert look(targets=[FIXED]).go == "no"


def test_a_strict_profile_and_the_only_corpus_end_the_run(look):
    corpus(look.corpora / "a", "text")
    assert [each["refused"] for each in look().targets] == ["end"]
    corpus(look.corpora / "b", "text")
    assert [each["refused"] for each in look(refused="end").targets] == ["end", "end"]


def test_a_repeat_of_a_run_that_promoted_is_measured_against_the_champion_before(look):
    corpus(look.corpora / "a", "text")
    first = train(look, look())
    corpus(look.corpora / "a", "another text")
    found = look()
    assert found.champion == first.reference
    train(look, found, against=first.reference)
    assert look(work="work").go == "no"
    assert look().run_key == found.run_key and look().champion == first.reference


def test_tables_and_folders_of_text_are_corpora_as_their_corpus_yaml_says(look):
    for name, files in {
        "shop": {"shop.csv": "sku,about\n1,Oak.\n", "corpus.yaml": "fields: {id: sku, text: about}\n"},
        "docs": {"a/b.md": "# Oak\n\nA tree.\n", "corpus.yaml": "passage_tokens: 40\npassage_overlap: 5\n"},
        "wrong": {"shop.csv": "sku,about\n1,Oak.\n", "corpus.yaml": "fields: {id: sku, text: abuot}\n"},
    }.items():
        for file, text in files.items():
            (look.corpora / name / file).parent.mkdir(parents=True, exist_ok=True)
            (look.corpora / name / file).write_text(text)
    found = look()
    read = {each["name"]: each for each in found.targets}
    assert set(read) == {"shop", "docs"} and found.quarantined == 1
    assert read["shop"]["fields"] == {"id": "sku", "text": "about"}
    assert (read["docs"]["passage_tokens"], read["docs"]["passage_overlap"]) == (40, 5)
    assert "has no column abuot (it has: sku, about); correct fields.text" in look.report.read_text()


def test_a_broken_corpus_is_set_aside_with_its_reason_and_stops_no_other(look):
    corpus(look.corpora / "good", "text")
    (corpus(look.corpora / "rows", "text") / "corpus.jsonl").write_text('{"_id": "1", "text": "cut o')
    corpus(look.corpora / "wishes", "text", corpus_yaml="promt: inpars-v1\n")
    corpus(look.corpora / "yaml", "text", corpus_yaml="prompt: [\n")
    corpus(look.corpora / "prompt", "text", corpus_yaml="prompt: no-such-prompt\n")
    corpus(look.corpora / "with space", "text")
    (look.corpora / "nothing").mkdir()
    (look.corpora / "nothing" / "notes.odt").write_text("no corpus")
    found = look()
    assert (found.go, names(found), found.quarantined) == ("yes", ["good"], 6)
    report = look.report.read_text()
    for text in (
        "rows/corpus.jsonl", "wishes/corpus.yaml.promt: unknown key; did you mean 'prompt'?", "not valid YAML",
        "no-such-prompt", "rename the folder", "holds neither corpus.jsonl",
    ):  # fmt: skip
        assert text in report, text
    train(look, found)
    assert look().go == "no", "what is broken is no reason for a run"


def test_a_known_corpus_that_broke_is_not_taken_for_removed(look):
    folder = corpus(look.corpora / "a", "text")
    corpus(look.corpora / "b", "text")
    train(look, look())
    (folder / "corpus.jsonl").write_text("{")
    found = look()
    assert (found.quarantined, found.removed, found.go) == (1, 0, "no")


PASSING = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied"),
    MemoryError(),
    UserError("s3://b/c: S3 at http://x answered AccessDenied: no"),
    NoAnswer("nobody answers"),
    RuntimeError("a kind of trouble that nobody has thought of"),
    BrokenPipeError(),
]  # fmt: skip


@pytest.mark.parametrize("trouble", PASSING, ids=lambda each: re.sub(r"\W+", "-", f"{type(each).__name__} {each}")[:40])
def test_trouble_that_passes_sets_a_corpus_aside_for_one_night_and_no_other(look, monkeypatch, trouble):
    """What kind it is does not matter: only what readers raise about content is remembered."""
    corpus(look.corpora / "a", "text")
    corpus(look.corpora / "b", "text")
    real = discovery.prepare_corpus

    def reading(config, wanted, folder):
        if wanted.name == "a":
            raise trouble
        return real(config, wanted, folder)

    monkeypatch.setattr(discovery, "prepare_corpus", reading)
    found = look()
    assert (found.go, names(found), found.unread, found.quarantined) == ("yes", ["b"], 1, 0)
    assert "| a | unread | not read tonight: " in look.report.read_text()
    monkeypatch.setattr(discovery, "prepare_corpus", real)
    found = look()
    assert (names(found), found.unread, found.new) == (["a", "b"], 0, 2)


def test_no_room_for_temporary_files_is_not_the_corpus_fault(look, monkeypatch, tmp_path):
    corpus(look.corpora / "a", "text")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    found = look()
    assert (found.go, found.unread, found.quarantined) == ("no", 1, 0)
    assert found.reason == "a could not be read: the next run tries again"
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert look().go == "yes"


def test_a_file_that_changes_while_it_is_read_is_read_again_the_next_night(look, monkeypatch):
    folder = corpus(look.corpora / "a", "text")
    real = discovery.prepare_corpus

    def reading(*arguments):
        (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "cut o')  # a new version is on its way
        return real(*arguments)

    monkeypatch.setattr(discovery, "prepare_corpus", reading)
    found = look()
    assert (found.unread, found.quarantined) == (1, 0) and "it changed while it was read" in look.report.read_text()
    monkeypatch.setattr(discovery, "prepare_corpus", real)
    corpus(look.corpora / "a", "text", "more")
    assert look().go == "yes"


def test_a_known_corpus_that_cannot_be_read_is_waited_for(look, monkeypatch):
    folder = corpus(look.corpora / "a", "text")
    corpus(look.corpora / "b", "text")
    champion = train(look, look())
    corpus(look.corpora / "c", "text")
    (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "another"}')
    monkeypatch.setattr(discovery, "digest_folder", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    found = look()
    assert (found.go, found.removed) == ("no", 0)
    assert found.reason.endswith(
        f"could not be read, which {champion.reference} was trained on: the next run tries again"
    )


def test_what_the_reader_found_wrong_is_remembered_and_nothing_else(look, monkeypatch):
    (corpus(look.corpora / "rows", "text") / "corpus.jsonl").write_text("{")
    corpus(look.corpora / "good", "text")
    look()
    monkeypatch.setattr(discovery, "prepare_corpus", lambda *_: pytest.fail("read again"))
    found = look()
    assert (found.quarantined, names(found)) == (1, ["good"]) and "not JSON" in look.report.read_text()


def test_judgements_of_which_none_is_used_set_a_corpus_aside(look):
    folder = corpus(look.corpora / "a", "text", queries_jsonl='{"_id": "q", "text": "what"}\n')
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("")
    assert look().quarantined == 1 and "qrels/test.tsv: is empty" in look.report.read_text()


def test_odd_folders_and_names_are_reported_one_line_each(look):
    corpus(look.corpora / "good", "text")
    for name in (b"caf\xe9", b"two\nlines"):
        corpus(look.corpora / os.fsdecode(name), "text")
    os.mkfifo(look.corpora / "pipe")
    (look.corpora / "loop").symlink_to("loop")
    (look.corpora / "hole").mkdir()
    os.mkfifo(look.corpora / "hole" / "corpus.jsonl")
    odd = corpus(look.corpora / "odd", "text")
    (odd / os.fsdecode(b"caf\xe9.txt")).write_text("a file with a name that is no UTF-8")
    found = look()
    assert names(found) == ["good", "odd"] and found.quarantined >= 2
    report = look.report.read_text()
    assert "| caf\\\\xe9 | quarantined |" in report and "| two\\\\nlines | quarantined |" in report


def test_a_corpus_that_changes_while_it_is_looked_at_is_left_for_the_next_run(look, monkeypatch):
    corpus(look.corpora / "a", "text")
    growing = corpus(look.corpora / "b", "text")
    (growing / "_SUCCESS").unlink()

    def upload(seconds):
        assert seconds == 60
        with open(growing / "corpus.jsonl", "a") as file:
            file.write('{"_id": "9", "text": "the rest"}\n')

    monkeypatch.setattr(discovery.time, "sleep", upload)
    found = look(settle_seconds=60)
    assert (names(found), found.uploading) == (["a"], 1) and "still being uploaded" in look.report.read_text()
    train(look, found)
    monkeypatch.setattr(discovery.time, "sleep", lambda _: None)
    found = look(settle_seconds=60)
    assert (names(found), found.new) == (["a", "b"], 1)
    train(look, found)
    with open(growing / "corpus.jsonl", "a") as file:
        file.write('{"_id": "10", "text": "a new version"}\n')
    monkeypatch.setattr(discovery.time, "sleep", upload)
    corpus(look.corpora / "c", "text")
    found = look(settle_seconds=60)
    assert found.go == "no" and found.reason == "b is being uploaded anew: the next run takes it", (
        "b must not be forgotten"
    )


def test_wishes_of_a_corpus_become_its_settings(look):
    corpus(look.corpora / "a", "text", corpus_yaml="prompt: inpars-v1\ndocuments: 50\ntest_split: dev\n")
    (target,) = look().targets
    assert (target["prompt"], target["documents"], target["test_split"]) == ("inpars-v1", 50, "dev")
    plain = CorpusConfig("u", "a", "f")
    assert identity(plain) == identity(CorpusConfig("elsewhere", "a", "f")), (
        "the address of known content does not matter"
    )
    assert identity(plain) != identity(CorpusConfig("u", "a", "f", documents=5))
    assert identity(CorpusConfig("u", "a")) != identity(CorpusConfig("v", "a"))


def test_nothing_there_is_said_and_a_wrong_address_is_refused(look, tmp_path):
    assert look().reason == f"there is no corpus to adapt to below {look.corpora}"
    with refuses("corpora-none", "corpora.uri"):
        look(uri=str(tmp_path / "elsewhere"))


def test_corpora_on_s3_by_their_etags(look, s3, tmp_path):
    where = f"{s3}/corpora"
    uris.upload(corpus(tmp_path / "a", "text"), f"{where}/a")
    packed = corpus(tmp_path / "b", "text")
    with gzip.open(packed / "corpus.jsonl.gz", "wt") as file:
        file.write((packed / "corpus.jsonl").read_text())
    (packed / "corpus.jsonl").unlink()
    uris.upload(packed, f"{where}/b")
    found = look(uri=f"{where}/")
    assert (found.go, names(found)) == ("yes", ["a", "b"]) and found.targets[0]["uri"] == f"{where}/a"
    train(look, found)
    assert look(uri=where).go == "no"
    uris.upload(corpus(tmp_path / "a", "text", "more"), f"{where}/a")
    assert look(uri=where).changed == 1


# --- one run for one piece of work ------------------------------------------------------------------------------------


@pytest.fixture
def kfp(monkeypatch):
    with HttpServer() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        yield server


def _state(server: HttpServer, run_id: str, state: str) -> None:
    server.answers[f"/apis/v2beta1/runs/{run_id}"] = [Answer(body={"run_id": run_id, "state": state})]


def test_of_two_runs_that_find_the_same_only_one_goes(look, kfp):
    corpus(look.corpora / "a", "text")
    assert look(run_id="by-schedule").go == "yes"
    _state(kfp, "by-schedule", "RUNNING")
    second = look(run_id="by-event")
    assert (second.go, second.reason) == ("no", "run by-schedule is doing this very work already")
    assert look(run_id="by-schedule").go == "yes", "a retried task of the run that has the claim"
    _state(kfp, "by-schedule", "FAILED")
    assert look(run_id="by-event").go == "yes", "the work of a failed run is free"
    _state(kfp, "by-event", "RUNNING")
    assert look(run_id="third").reason == "run by-event is doing this very work already"
    corpus(look.corpora / "b", "text")
    assert look(run_id="third").go == "yes", "other corpora are other work"


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_of_many_claims_at_once_exactly_one_is_granted(where, tmp_path, kfp, monkeypatch, request):
    root = str(tmp_path)
    if where == "s3":
        root = request.getfixturevalue("s3")
    monkeypatch.setenv("INRANKER_STORE", root)
    runs = [f"run-{number}" for number in range(8)]
    for run in runs:
        _state(kfp, run, "RUNNING")
    owners: list[str] = []
    threads = [threading.Thread(target=lambda run=run: owners.append(claims.claim("work", run))) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == 8 and len(set(owners)) == 1


def test_a_claim_is_respected_where_nobody_says_that_its_run_is_over(tmp_path, kfp, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path))
    assert claims.claim("work", "first") == "first"
    kfp.answers["/apis/v2beta1/runs/first"] = [Answer(500)]
    with refuses("server-no-answer"):
        claims.claim("work", "second")
    del kfp.answers["/apis/v2beta1/runs/first"]  # 404: the run was deleted
    assert claims.claim("work", "second") == "second"


def test_the_claim_of_a_run_whose_workflow_went_with_its_recurring_run_is_free(tmp_path, kfp, monkeypatch):
    """KFP calls such a run RUNNING for ever."""
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path))
    assert claims.claim("work", "first") == "first"
    run = {"run_id": "first", "state": "RUNNING", "recurring_run_id": "nightly"}
    kfp.answers["/apis/v2beta1/runs/first"] = [Answer(body=run)]
    for said in (Answer(body={"recurring_run_id": "nightly"}), Answer(403)):
        kfp.answers["/apis/v2beta1/recurringruns/nightly"] = [said]
        assert claims.claim("work", "second") == "first"
    del kfp.answers["/apis/v2beta1/recurringruns/nightly"]  # 404
    assert claims.claim("work", "second") == "second"


def test_without_a_cluster_nobody_else_does_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path))
    assert claims.claim("work", "one") == "one" and claims.claim("work", "two") == "two"
