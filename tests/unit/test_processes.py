"""The processes of a local run's tasks: forked with libraries loaded, or started anew, they do the same."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

#: A program like `inranker run`: it holds a folder and starts a task, TASK.py beside it, once or more.
PROGRAM = """
    import os, sys
    from pathlib import Path
    from inranker_flow.commands import folder, forked
    from inranker_flow.commands.processes import Processes

    if __name__ == "__main__":
        forked.possible = lambda: {forked}
        forked._PRELOADED = "preloaded_for_this_test"
        with folder.working(Path(sys.argv[1])) as hold:
            if forked.possible():
                forked.prepare(hold.temporary)
            os.environ["AFTER"] = "set after the libraries were loaded"
            processes = Processes(hold)
            with processes.ending():
                print([processes.start("task", list(each.split()), {{"ADDED": "one more"}}) for each in sys.argv[2:]])
"""
TASK = """
    import atexit, fcntl, json, os, random, signal, sys

    atexit.register(lambda: print("goodbye"))
    what = sys.argv[1]
    if what == "tell":
        names = [name for name in ("AFTER", "ADDED", "GONE") if name in os.environ]
        told = {"arguments": sys.argv[1:], "variables": names, "loaded": "preloaded_for_this_test" in sys.modules,
                "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "name": __name__}
        print(json.dumps(told), flush=True)
        print("to standard error \\udce4", file=sys.stderr)
        print(random.random())
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raise":
        raise ValueError("unexpected")
    else:
        sys.exit(int(what))
"""


@pytest.fixture(params=["forked", "anew"])
def start(request, tmp_path):
    """Runs a program that starts the task once for each of some command lines; returns what both print, by line."""
    if request.param == "forked" and sys.platform != "linux":
        pytest.skip("tasks are forked on Linux alone")
    files = {"program": PROGRAM.format(forked=request.param == "forked"), "task": TASK, "preloaded_for_this_test": ""}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    def started(*tasks):
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "run"), *tasks]
        done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": path})
        assert not done.stderr
        return done.stdout.splitlines()

    started.forked = request.param == "forked"
    return started


def test_a_task_has_its_arguments_its_environment_and_its_output(start):
    told, *rest = start("tell a b", "tell c")
    told = json.loads(told)
    assert told == {
        "arguments": ["tell", "a", "b"], "variables": ["AFTER", "ADDED"], "loaded": start.forked,
        "interrupt": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,
        "name": "__main__",
    }  # fmt: skip
    first, *_ = rest
    assert first == "to standard error \\udce4" and rest[2] == "goodbye" and rest[-1] == "[0, 0]"
    assert rest[1] != rest[5], "two tasks do not share one state of random numbers"


def test_the_status_is_the_tasks(start):
    *_, statuses = start("0", "2", "raise", "die")
    assert json.loads(statuses) == [0, 2, 1, -9]


def test_the_folder_is_free_when_all_has_ended(start, tmp_path):
    start("0")
    locks = [each for each in (tmp_path / "run").rglob("*") if each.is_file()]
    for each in locks:
        with open(each) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert locks
