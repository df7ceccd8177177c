"""What ends a run ends all that it started, and the next run of the folder finds nothing in its way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from inranker_flow import lifeline, scratch
from inranker_flow.commands import folder as runs_folder
from inranker_flow.errors import UserError
from inranker_flow.storage import uris
from tests.processes import MAKE_RUN, alive, wait_for
from tests.refusals import refuses

pytestmark = pytest.mark.timeout(900)  # a machine may be busy; nothing here is decided by time

ROOT = Path(__file__).parents[2]


def script(text: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(text), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **more}, cwd=ROOT)


#: A run whose task is a shell, as KFP's are, with a stage below it, whose workers are in sessions of their own (torchrun's).
RUN = """
    import subprocess, sys, time
    from pathlib import Path
    from inranker_flow.commands import folder

    WORKER = "import sys, time, inranker_flow; from pathlib import Path; Path(sys.argv[1]).touch(); time.sleep(3600)"
    STAGE = (
        "import subprocess, sys, time, inranker_flow; folder = sys.argv[1]; "
        "subprocess.Popen([sys.executable, '-c', sys.argv[2], folder + '/worker'], start_new_session=True); "
        "time.sleep(3600)"
    )
    with folder.working(Path(sys.argv[1])) as run:
        shell = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", STAGE, sys.argv[1], WORKER]
        subprocess.Popen(shell, pass_fds=[run.lock])
        print("going on", flush=True)
        time.sleep(3600)
"""


def started(path: Path, text: str = RUN) -> subprocess.Popen[str]:
    child = script(text, str(path))
    wait_for((path / "worker").exists, child)
    assert len(alive(path)) >= 4, alive(path)  # the run, its shell, the stage, the worker
    return child


def test_stages_and_their_workers_end_with_a_run_that_is_killed(tmp_path):
    child = started(tmp_path / "runs")
    child.kill()
    child.wait()  # not its output: its stages hold that, too
    wait_for(lambda: not alive(tmp_path / "runs"))
    with runs_folder.working(tmp_path / "runs") as run:
        [(file, known)] = runs_folder.tidy(run).items()
        assert known["process"] == child.pid and file.exists() and not Path(known["temporary"]).exists()


def test_a_stage_alone_holds_the_lock_of_its_folder(tmp_path, monkeypatch):
    """Also where it is none of ours, and follows nobody."""
    text = RUN.replace("time, inranker_flow;", "time;")
    child = script(text, str(tmp_path / "runs"))
    wait_for((tmp_path / "runs" / "worker").exists, child)
    child.kill()
    child.wait()  # not its output: its stages hold that, too
    monkeypatch.setattr(runs_folder, "PATIENCE", 0.5)
    left = alive(tmp_path / "runs")
    assert left
    with refuses("folder-in-use") as said:
        runs_folder.working(tmp_path / "runs").__enter__()
    assert all(str(number) in str(said.value) for number in left)
    [file] = runs_folder.files(tmp_path / "runs")
    assert set(lifeline.end(file)) == set(left)
    wait_for(lambda: not alive(tmp_path / "runs"))


def test_a_second_run_names_the_first(tmp_path):
    named = rf"another run is working in {tmp_path} \(process {os.getpid()}\)"
    with runs_folder.working(tmp_path), pytest.raises(UserError, match=named):
        runs_folder.working(tmp_path).__enter__()
    with runs_folder.working(tmp_path):
        assert len(runs_folder.files(tmp_path)) == 1
    assert not runs_folder.files(tmp_path)


def test_a_search_process_ends_with_the_stage_that_opened_it(tmp_path):
    text = """
        import sys, time
        from pathlib import Path
        from multiprocessing import get_context
        from inranker_flow import lifeline

        def work(path):
            lifeline.end_with_parent()
            Path(path).touch()
            time.sleep(3600)

        if __name__ == "__main__":
            get_context("spawn").Process(target=work, args=(sys.argv[1],)).start()
    """
    (tmp_path / "stage.py").write_text(textwrap.dedent(text))
    child = subprocess.Popen([sys.executable, tmp_path / "stage.py", str(tmp_path / "ready")], cwd=tmp_path)
    wait_for((tmp_path / "ready").exists)
    child.kill()
    child.wait()
    wait_for(lambda: not alive(tmp_path))


WRITERS = {
    "file": "with local.atomic_write(path) as out: out.write(b'x' * 100_000); out.flush(); ready()",
    "folder": "with local.atomic_folder(path) as out: (out / 'big').write_bytes(b'x' * 100_000); ready()",
    "table": "writer = tables.TableWriter(path, tables.CORPUS); ready()",
    "worker": "with scratch.aside(path, folder=True) as out: (out / 'big').write_bytes(b'x' * 100_000); ready()",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_does_not_fill_with_each_writer_that_is_killed(tmp_path, kind):
    text = f"""
        import sys, time
        from pathlib import Path
        from inranker_flow import scratch
        from inranker_flow.artifacts import tables
        from inranker_flow.storage import local

        def ready():
            print("ready", flush=True)
            time.sleep(3600)

        path = Path(sys.argv[1])
        {WRITERS[kind]}
    """
    (tmp_path / "out").mkdir()
    other = tmp_path / ".notes.tmp"  # in another folder
    other.touch()
    for _ in range(3):
        child = script(text, str(tmp_path / "out" / "name"))
        assert child.stdout and child.stdout.readline() == "ready\n", child.communicate()
        living = script(text, str(tmp_path / "out" / "name"))
        assert living.stdout and living.stdout.readline() == "ready\n", living.communicate()
        assert len(list((tmp_path / "out").iterdir())) == 2, "what a living writer holds stays"
        for each in (child, living):
            each.kill()
            each.communicate()
    uris.put(b"done", str(tmp_path / "out" / "other"))
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["other"]
    assert other.exists(), "another folder is not this writer's business"


def test_a_run_removes_what_a_killed_one_left_in_all_of_its_folders(tmp_path):
    deep = tmp_path / "artifacts" / "old" / "retrieve"
    deep.mkdir(parents=True)
    (deep / ".pairs.parquet.abc.tmp").write_bytes(b"half")
    (deep / "pairs.parquet").write_bytes(b"whole")
    (tmp_path / "artifacts" / ".content.xyz.tmp").mkdir()
    (tmp_path / "artifacts" / ".content.xyz.tmp" / "file").write_bytes(b"half")
    (tmp_path / ".run-dead.json").write_text('{"temporary": "/etc"}')  # damaged: nothing outside is ever touched
    with scratch.aside(deep / "living") as living, runs_folder.working(tmp_path) as run:
        assert list(runs_folder.tidy(run)) == [tmp_path / ".run-dead.json"]
        assert living.exists()
    assert sorted(each.name for each in deep.iterdir()) == ["pairs.parquet"]
    assert not (tmp_path / "artifacts" / ".content.xyz.tmp").exists() and Path("/etc").is_dir()


@pytest.mark.parametrize("damage", ["", "{", "[]", "\x00", '"text"'])
def test_a_damaged_entry_of_kfps_cache_is_a_task_to_do_again(tmp_path, damage, capsys):
    cache = tmp_path / "artifacts" / ".kfp_cache"
    cache.mkdir(parents=True)
    (cache / "bad.json").write_text(damage)
    (cache / "good.json").write_text("{}")
    with runs_folder.working(tmp_path) as run:
        runs_folder.tidy(run)
    assert [each.name for each in cache.iterdir()] == ["good.json"] and "bad.json: damaged" in capsys.readouterr().err


def statuses(path: Path) -> dict[str, str]:
    with sqlite3.connect(path / "mlflow.db") as database:
        return dict(database.execute("select name, status from runs").fetchall())


@pytest.mark.long
def test_a_run_that_is_killed_and_the_next_one_that_is_told_to_end(tmp_path):
    """The whole of it, with KFP's own runner: SIGKILL to the run alone, then SIGTERM to the make of the next one."""
    path = tmp_path / "my runs"
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_", "MAKE"))
    }
    pipe = subprocess.PIPE
    log = tmp_path / "out"

    def at_work(lines):
        return lambda: "[prepare_corpus" in "".join(log.read_text().splitlines(keepends=True)[lines:])

    options = ["--profile", "smoke", "--run-dir", str(path)]
    with open(log, "w") as out:
        child = subprocess.Popen(
            [*MAKE_RUN, *options],
            cwd=ROOT,
            env=env,
            stdout=out,
            stderr=pipe,
            text=True,
        )
    wait_for(at_work(0), child)
    child.kill()
    child.communicate()
    wait_for(lambda: not alive(path))
    before = statuses(path)
    assert set(before.values()) <= {"RUNNING", "FINISHED"} and "RUNNING" in before.values()

    # make's stub of an environment: this Python, as it is.
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".ready").touch()
    with open(log, "w") as out:
        child = subprocess.Popen(
            ["make", f"VENV={tmp_path / 'venv'}", "run", "PROFILE=smoke", f"RUN_DIR={path}"], cwd=ROOT, env=env,
            stdout=out, stderr=pipe, text=True,
        )  # fmt: skip
    wait_for(at_work(0), child)
    now = statuses(path)
    assert all(now[name] == ("KILLED" if status == "RUNNING" else status) for name, status in before.items())
    assert "A run was killed here" in log.read_text()
    child.terminate()
    _, error = child.communicate()
    assert child.returncode in (-signal.SIGTERM, 143, 2)
    assert error.count("TERMINATED: ") == 1 and "Traceback" not in error and "FAILED" not in error
    # make waits for what it started, and that for its stages.
    assert not alive(path)
    assert set(statuses(path).values()) <= {"FINISHED", "FAILED", "KILLED"} and not list(path.glob(".run-*.json"))
