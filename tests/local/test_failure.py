"""A run that fails, or may not start: one line, a status, the right record, and nothing in the way of the next run."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inranker_flow.commands import folder
from inranker_flow.demo.world import make_world, write_beir
from inranker_flow.storage.local import disk_errors
from inranker_flow.tracking import connection
from tests.processes import MAKE_RUN, alive, wait_for
from tests.refusals import refuses

pytestmark = pytest.mark.timeout(900)  # a machine may be busy; nothing here is decided by time

ROOT = Path(__file__).parents[2]


def start(folder: Path, *options: str, **more: str) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [
        *MAKE_RUN,
        "inranker",
        "--profile",
        "smoke",
        "--run-dir",
        str(folder),
        *options,
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env={**env, **more}, stdout=pipe, stderr=pipe, text=True, start_new_session=True,
        # A shell starts background jobs deaf to Ctrl-C, and children inherit that; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def runs(folder: Path) -> dict[str, str]:
    """Name -> status of the MLflow runs in ``folder``."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        return dict(database.execute("select name, status from runs").fetchall())


def test_a_refused_source_ends_the_run_before_any_model_works(tmp_path):
    source = tmp_path / "broken"
    source.mkdir()
    (source / "corpus.jsonl").write_text('{"_id": "1", "text": "one"}\n{"_id": "2", "text": \n')
    (source / "queries.jsonl").write_text('{"_id": "q", "text": "which one"}\n')
    (source / "qrels").mkdir()
    (source / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    child = start(tmp_path / "run", "--source", str(source), "--set", "corpus.on_problem=refuse")
    out, error = child.communicate()
    assert child.returncode == 1
    failed = [line for line in error.splitlines() if line.startswith("FAILED: ")]
    assert len(failed) == 1 and "prepare_corpus broken" in failed[0] and "corpus.jsonl line 2: not JSON" in failed[0]
    assert "Traceback" not in error and "generate_queries" not in out
    found = runs(tmp_path / "run")
    assert found.pop("prepare_corpus broken") == "FAILED" and set(found.values()) == {"FAILED"}


@pytest.mark.long
def test_a_refused_target_leaves_the_other_going_and_is_tried_again_when_it_was_mended(tmp_path):
    target = tmp_path / "broken"
    write_beir(make_world("target", 5, queries=0), target)
    whole = (target / "corpus.jsonl").read_text()
    (target / "corpus.jsonl").write_text(whole + '{"_id": "2", "text": \n')
    settings = ("corpus.on_problem=refuse", "corpus.max_test_queries=20", "generation.documents=20",
        "evaluation.teacher=false", "generation.min_document_words=100000")  # fmt: skip

    def run(*settings: str, targets: str = f"demo:target/1,{target}") -> tuple[int, str, str]:
        options = ("--targets", targets, *(word for each in settings for word in ("--set", each)))
        child = start(tmp_path / "run", *options)
        out, error = child.communicate()
        return child.returncode, out, error

    status, out, error = run(*settings[:-1])
    assert status == 0, out[-3000:] + error[-3000:]
    last = [line for line in out.splitlines() if line.startswith("LEFT OUT: ")]
    assert len(last) == 1 and "target broken: prepare_corpus: " in last[0] and "not JSON" in last[0]
    assert "Left out: broken" in (tmp_path / "run" / "report.html").read_text()
    assert "inranker-smoke version 1" in out and "teacher_label broken] LEFT OUT: target broken: prepare_corpus" in out

    (target / "corpus.jsonl").write_text(whole)
    status, out, error = run(*settings[:-1])
    assert status == 0, out[-3000:] + error[-3000:]
    assert "LEFT OUT" not in out and "Left out" not in (tmp_path / "run" / "report.html").read_text()
    assert "teacher_label broken] done" in out

    status, out, error = run(*settings)
    assert status == 1 and "every target was left out, so there is nothing to adapt to: " in error


def test_an_interrupt_is_one_line_and_the_next_run_starts(tmp_path):
    child = start(tmp_path / "run")
    wait_for(lambda: any("] started" in each.read_text() for each in tmp_path.rglob("*.log")), child)
    os.killpg(child.pid, signal.SIGINT)
    _, error = child.communicate()
    assert child.returncode == 130
    assert "INTERRUPTED: what is finished is kept" in error and "Traceback" not in error
    assert not alive(tmp_path / "run")
    with folder.working(tmp_path / "run"):
        assert set(runs(tmp_path / "run").values()) <= {"FAILED", "KILLED", "FINISHED"}


def test_one_run_at_a_time_in_a_folder(tmp_path):
    with folder.working(tmp_path):
        child = start(tmp_path)
        _, error = child.communicate()
        assert child.returncode == 2 and f"FAILED: RUN_DIR: another run is working in {tmp_path}" in error
    with folder.working(tmp_path):
        pass


def test_a_run_dir_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    child = start(tmp_path / "file")
    _, error = child.communicate()
    assert child.returncode == 2 and error.startswith("FAILED: RUN_DIR: ") and len(error.splitlines()) == 1


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "nonsense"), ("MLFLOW_TRACKING_URI", "foo://bar")])
def test_an_address_that_is_none_is_one_line(tmp_path, name, value):
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", name: value}
    options = ("--source", "s3://bucket/corpus") if name.startswith("AWS") else ()
    child = start(tmp_path / "run", *options, **keys)
    _, error = child.communicate()
    assert child.returncode == 2 and f"FAILED: {name}" in error and len(error.splitlines()) == 1


def test_a_database_that_was_not_finished_is_never_under_its_name(tmp_path):
    """Killed at any moment of MLflow's first migration, the next attempt starts anew."""
    path = tmp_path / "mlflow.db"
    script = (
        "from pathlib import Path; from inranker_flow.tracking import connection; "
        f"connection.create_database(Path({str(path)!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    while not list(tmp_path.iterdir()) and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    child.wait()
    # Killed a moment later it may have been whole: what is under the name never is less.
    assert connection.create_database(path) == f"sqlite:///{path}"
    with sqlite3.connect(path) as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)


@pytest.mark.parametrize(
    "said", ["(sqlite3.OperationalError) database or disk is full", "I/O error: No space left on device"]
)
def test_a_full_disk_behind_another_librarys_error_is_told(said):
    with (
        refuses("disk-full"),
        disk_errors("out"),
    ):
        try:
            raise RuntimeError(said)
        except RuntimeError as error:
            raise ValueError("wrapped") from error
