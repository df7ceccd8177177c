"""What a person sees of a run, on a real terminal (a pty): a line for each stage, nothing wider than the window."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios

import pytest

from inranker_flow import profiles
from inranker_flow.commands.screen import two_numbers
from inranker_flow.progress import duration, of_duration
from inranker_flow.workflow.pipelines import tasks_of
from inranker_flow.workflow.tasks import STAGES

#: Lines as stages of the demo print them, with the spaces that KFP's runner sets before them.
LINES = """\
16:54:14 [preflight] started
16:54:15 [preflight] done in 0.6 s: checks 8, skipped 1
16:54:27 [teacher_label inns] started
16:54:28 [teacher_label inns] labelling: 33,000 of 66,352 tokens (49%), 56,000 tokens/s, ETA 0m01s
16:54:28 [teacher_label inns] WARNING: 21 negatives are missing: BM25 finds too few other passages for some of these queries
16:54:29 [teacher_label inns] done in 2.1 s: queries 1,000, pairs 4,000, published 0, pairs_per_second 3,406
16:54:30 [distill_phase2] started
16:54:30 [distill_phase2] distilling: 7,056 of 37,241 pairs (18%), 1,398 pairs/s, ETA 0m21s, step 50, loss 1.952
16:54:34 [distill_phase2] taken from the store in 0.2 s: steps 650, heldout_kendall 0.7808
16:54:35 [evaluate] started
16:54:36 [evaluate] FAILED: a line that is much longer than any window is wide, and that names what is wrong and what to do
16:54:37 [notify] started
16:54:37 [notify] done in 0.0 s: succeeded 0
"""
CHILD = """
import sys, time
from inranker_flow.commands import console, screen
tasks = [("preflight", "")] + [("other", str(i)) for i in range(7)] + [("teacher_label", "inns")]
tasks += [("distill_phase2", ""), ("evaluate", ""), ("promote", "")]
seconds = {("teacher_label", "inns"): 4.2, ("other", "3"): 9.0, ("evaluate", ""): 51.0}
shown = screen.Screen(sys.stdout, screen.Expected(tasks, seconds))
with open(sys.argv[2], "w") as log, shown.shown():
    tee = console.Tee(sys.stdout, log, False)
    for line in open(sys.argv[1]):
        tee.write("    ")
        tee.write(line)
        shown._live.refresh()
screen.results("nDCG@10", ["bm25", "phase2"], {"inns": {"bm25": 0.2, "phase2": 0.9}, "other": {"bm25": 0.1}})
screen.verdict("PROMOTE", "inranker", "7", "mean nDCG@10 gain over BM25 is +0.0735 on 2 datasets, and none is worse")
screen.commands([("make report RUN_DIR=/somewhere", "the evidence, in a browser")])
"""


def on_terminal(command: list[str], columns: int, **more: str) -> str:
    """Run a command on a terminal of its own; returns all that it wrote there."""
    child, terminal = pty.fork()
    if child == 0:
        names = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM"}
        kept = {key: value for key, value in os.environ.items() if key not in names}
        os.execve(command[0], command, {**kept, "TERM": "xterm-256color", **more})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the child has ended
            break
        if not part:
            break
        written += part
    os.close(terminal)
    os.waitpid(child, 0)
    return written.decode()


def plain(written: str) -> list[str]:
    """Lines as they are on the screen at some time, without colours and movements."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", written)]


@pytest.fixture
def shown(tmp_path):
    (tmp_path / "lines").write_text(LINES)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "lines"), str(tmp_path / "log")]
    return lambda columns, **more: on_terminal(command, columns, **more)


def test_each_stage_is_a_line_with_its_two_numbers_and_the_bars_tell_the_rest(shown, tmp_path):
    lines = plain(shown(80))
    said = "\n".join(lines)
    assert "[ 1/12] preflight                     0.6 s  8 checks" in lines
    assert "[ 2/12] teacher_label inns            2.1 s  4,000 pairs, 3,406 pairs/s" in lines
    # Its place is known, though a cache answered what comes before.
    assert "[10/12] distill_phase2               reused  650 steps, Kendall's tau 0.781" in lines
    assert any(line.startswith("[10/12] distill_phase2") and "18% 1,398 pairs/s ETA 0m21s" in line for line in lines)
    # The plan says 4.2 s and 60 s for two others; the first took half, so half of these is left. One of them is before phase
    # 2 and never began: a cache has answered it.
    assert "about 0m30s left" in said and "about 0m25s left" in said
    assert "published" not in said and "notify" not in said
    assert "WARNING: 21 negatives are missing" in said and "FAILED: a line that" in said
    assert (tmp_path / "log").read_text().replace("    ", "") == LINES, "the log has every line"


@pytest.mark.parametrize("columns", [80, 50])
def test_nothing_is_wider_than_the_terminal(shown, columns):
    assert max(map(len, plain(shown(columns)))) <= columns


def test_colours_are_there_unless_they_are_not_wanted(shown):
    assert "\x1b[32m" in shown(80) and "\x1b[1;32m" in shown(80)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown(80, NO_COLOR="1"))


def test_a_refusal_is_broken_between_words_on_a_terminal_alone(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "inranker_flow", "run", "--run-dir", str(tmp_path / "file")]
    lines = [line for line in plain(on_terminal(command, 60, PYTHONPATH=os.pathsep.join(sys.path))) if line]
    assert lines[0].startswith("FAILED: RUN_DIR:") and len(lines) > 1
    assert all(len(line) <= 60 or " " not in line for line in lines)


def test_zeros_are_hidden_and_an_unknown_stage_shows_its_first_numbers():
    assert two_numbers("generate_queries", "generated 2,400, queries 0, empty 0") == "of 2,400"
    assert two_numbers("another", "bytes 0, files 12, seconds_saved 1.25, more 3") == "files 12, seconds saved 1.25"
    assert two_numbers("retrieve", "") == ""


def test_the_tasks_of_a_run_are_those_of_the_pipeline():
    profile = profiles.load("demo")
    tasks = tasks_of("inranker", profile.as_data())
    assert tasks[0] == ("preflight", "") and tasks[-1] == ("promote", "") and len(set(tasks)) == len(tasks)
    assert {stage for stage, _ in tasks} == set(STAGES) - {"discover", "notify"}
    assert tasks.count(("teacher_label", "medicines")) == 1 and tasks_of("retrain", profile.as_data()) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (2.13, "2.1 s"), (81, "81 s"), (720, "12 min"), (11_520, "3 h 12 min")]
)
def test_a_duration_is_in_words_that_can_be_read_again(seconds, text):
    assert duration(seconds) == text
    assert of_duration(text) == pytest.approx(seconds, rel=0.02)
    assert of_duration("a while") is None
