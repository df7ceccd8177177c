"""What `make run` shows a person: a line for each finished stage, bars for those at work, the verdict in a panel.

Only where standard output is a terminal: elsewhere, and with VERBOSE=1, the stages' lines come as they are
(:class:`.console.Tee`). The lines are what this reads, so a container's say as much as a process's.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from inranker_flow.progress import clock, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Stage -> the two numbers that matter, by their names in its last line, with the words around them.
TOLD = {
    "preflight": (("checks", "{} checks"),),
    "discover": (("corpora", "{} corpora"), ("new", "{} new")),
    "prepare_corpus": (("documents", "{} documents"), ("test_queries", "{} test queries")),
    "retrieve": (("pairs", "{} pairs"), ("queries_per_second", "{} queries/s")),
    "generate_queries": (("queries", "{} queries kept"), ("generated", "of {}")),
    "teacher_label": (("pairs", "{} pairs"), ("pairs_per_second", "{} pairs/s")),
    "distill_phase1": (("steps", "{} steps"), ("heldout_kendall", "Kendall's tau {}")),
    "distill_phase2": (("steps", "{} steps"), ("heldout_kendall", "Kendall's tau {}")),
    "evaluate": (("queries", "{} queries"), ("pairs", "{} pairs")),
    "export": (("variants", "{} variants"), ("left_out", "{} left out")),
    "promote": (),
}
#: These wait for all others before them, so their place is known whatever a cache answered.
_AFTER_ALL = ("distill_phase2", "evaluate", "promote")
_LINE = re.compile(r"\d\d:\d\d:\d\d \[([^\]]+)\] (.*)")
_DONE = re.compile(r"(done|taken from the store) in ([\d.]+) s: ?(.*)")
_NUMBER = re.compile(r"(\w+) (-?[\d,.]+(?:e[+-]\d+)?)(?:, |$)")
_PROGRESS = re.compile(r".*: [\d,]+ of [\d,]+ .* \((\d+)%\), ([\d,]+ [^/]+/s), ETA (\S+?)(?:,|$)")
#: Percent of a task after which its own pace tells how long it will take; and the stages whose progress is that of one work.
_TELLING, _ONE_WORK = 10, ("generate_queries", "teacher_label", "distill_phase1", "distill_phase2")
#: The last line of a work, of which a stage may have several.
_WORKED = re.compile(r".* in [\d.]+ s \([\d,]+/s\)")
#: What stays on the screen of a stage's other lines.
_KEPT = re.compile(r"WARNING: |FAILED: |LEFT OUT: |without target ")


@dataclass
class Task:
    """A stage at work: its ``number`` among all, when it ``began``, and what its last progress line said."""

    number: int
    stage: str
    began: float
    percent: int = 0
    rate: str = ""
    eta: str = ""
    said: str = ""


@dataclass
class Expected:
    """What a run will do, as far as that is known: its ``tasks`` (stage, collection) in their order, and the ``seconds`` of
    each that computes with a model."""

    tasks: Sequence[tuple[str, str]] = ()
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def key(self, label: str) -> tuple[str, str]:
        """Return the task of a line's label, ``STAGE [COLLECTION]``."""
        stage, _, dataset = label.partition(" ")
        return (stage, dataset) if (stage, dataset) in self.tasks else (stage, "")

    def number(self, label: str, started: int) -> int:
        """Return the place of a task of which ``started`` others have begun before."""
        key = self.key(label)
        known = key in self.tasks and key[0] in _AFTER_ALL
        return self.tasks.index(key) + 1 if known else started + 1


class Screen(io.TextIOBase):
    """Reads the stages' lines as they are written to it, and shows them."""

    def __init__(self, terminal: TextIO, expected: Expected | None = None) -> None:
        from rich.live import Live

        self.console = _console(terminal)
        self.expected = expected or Expected()
        self._working: dict[str, Task] = {}
        self._started: set[str] = set()
        #: Tasks that have begun and wait for all before them.
        self._reached: list[Task] = []
        self._ended: dict[tuple[str, str], float] = {}
        self._begin = time.monotonic()
        self._rest = ""
        self._live = Live(
            console=self.console, get_renderable=self._shown, refresh_per_second=4, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show within the block what is printed there."""
        with self._live, redirect_stdout(self):
            yield

    def write(self, text: str) -> int:
        """Take what a run prints; a line counts when it is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            found = _LINE.match(line)
            if found and found[1] != "notify":  # it tells others
                self._read(found[1], found[2])
        return len(text)

    def isatty(self) -> bool:
        """Say no: what is written here is read."""
        return False

    def _read(self, label: str, message: str) -> None:
        if message == "started":
            number = self.expected.number(label, len(self._started))
            self._started.add(label)
            self._working[label] = Task(number, label, time.monotonic())
            if label.partition(" ")[0] in _AFTER_ALL:
                self._reached.append(self._working[label])
        task = self._working.get(label) or Task(len(self._started), label, time.monotonic())
        if found := _DONE.fullmatch(message):
            self._working.pop(label, None)
            self._ended[self.expected.key(label)] = float(found[2])
            self._print(self._finished(task, found))
        elif found := _PROGRESS.match(message):
            task.percent, task.rate, task.eta = int(found[1]), found[2], found[3]
        elif _KEPT.match(message):
            if message.startswith(("FAILED", "LEFT OUT")):
                self._working.pop(label, None)
            self._print(f"{self._place(task)} {label}: {message}", "red" if message.startswith("FAILED") else "yellow")
        else:
            task.said = message
            if _WORKED.fullmatch(message):
                task.percent = 0

    def _print(self, line: str, style: str = "") -> None:
        """Print a line, wrapped between words."""
        self.console.print(line, style=style, markup=False, highlight=False)

    def _place(self, task: Task) -> str:
        total = len(self.expected.tasks)
        if not total:
            return f"[{task.number}]"
        return f"[{task.number:{len(str(total))}}/{max(total, task.number)}]"

    def _finished(self, task: Task, found: re.Match[str]) -> str:
        stage = task.stage.partition(" ")[0]
        took = "reused" if found[1] != "done" else duration(float(found[2]))
        numbers = two_numbers(stage, found[3])
        # The time stands in one column where there is room for one.
        name = f"{self._place(task)} {task.stage}"
        return f"{name:<35} {took:>7}  {numbers}".rstrip()

    def _shown(self) -> RenderableType:
        """Return the bars of the stages at work, and how long the whole will take."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        bars.add_column(width=12)
        bars.add_column(no_wrap=True, overflow="ellipsis", justify="right")
        for task in list(self._working.values()):
            bar = ProgressBar(100, task.percent, width=12) if task.percent else Text("")
            told = f"{task.percent}% {task.rate} ETA {task.eta}" if task.percent else clock(now - task.began)
            bars.add_row(Text(f"{self._place(task)} {task.stage}"), bar, Text(told))
        said = next((task.said for task in self._working.values() if task.said), "")
        whole = f"{clock(now - self._begin)} so far"
        if left := self._left(now):
            whole += f", about {clock(left)} left"
        last = Text(f"{whole}  {said}", style="dim", no_wrap=True, overflow="ellipsis")
        return Group(bars, last)

    def _left(self, now: float) -> float:
        """Return the seconds that the tasks with a model will still take: as planned, times what the plan was wrong by so far;
        0 where the plan does not know."""
        planned = self.expected.seconds
        working = {self.expected.key(label): task for label, task in list(self._working.items())}
        took = dict(self._ended)
        for key, task in working.items():
            if task.percent >= _TELLING and key[0] in _ONE_WORK:
                took[key] = (now - task.began) * 100 / task.percent
        known = [key for key in took if planned.get(key)]
        factor = sum(took[key] for key in known) / sum(planned[key] for key in known) if known else 1.0
        # What stands before a task that waits for all of it was answered by a cache, where it did not begin.
        last = max((each.number for each in self._reached), default=0)
        over = set(self.expected.tasks[: last - 1]) - set(working) if last else set()
        left = 0.0
        for key, seconds in planned.items():
            if key not in self._ended and key not in over:
                spent = now - working[key].began if key in working else 0.0
                left += max(took.get(key, factor * seconds) - spent, 0.0)
        return left


def two_numbers(stage: str, sentence: str) -> str:
    """Return what matters of a stage's last line, without what is 0; of a stage that `TOLD` does not know its first two."""
    numbers = {name: value for name, value in _NUMBER.findall(sentence) if float(value.replace(",", ""))}
    told = TOLD.get(stage)
    if told is None:
        told = tuple((name, name.replace("_", " ") + " {}") for name in list(numbers)[:2])
    words = [form.format(_short(numbers[name])) for name, form in told if name in numbers]
    return ", ".join(words).replace(", of", " of")


def _short(number: str) -> str:
    value = float(number.replace(",", ""))
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def on(verbose: bool, stream: TextIO | None = None) -> bool:
    """Return whether a person looks on: standard output is a terminal, and not all lines were asked for."""
    return not verbose and (stream or sys.stdout).isatty()


def announce(text: str) -> None:
    """Print a line that is wrapped to the terminal's width, where there is one."""
    print(wrapped(text, sys.stdout), flush=True)


def wrapped(text: str, stream: TextIO) -> str:
    """Return ``text`` with its lines broken between words where ``stream`` is a terminal; a long word stays whole, so that it
    can be copied."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) if len(line) > width else line
        for line in text.split("\n")
    )


def results(measure: str, systems: Sequence[str], means: Mapping[str, Mapping[str, float]]) -> None:
    """Print the means by data set and system, the best of each row in bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column(measure, overflow="fold")
    for system in systems:
        shown.add_column(system, justify="right", overflow="fold")
    for dataset, found in means.items():
        best = max(found.values(), default=0.0)
        cells = (
            Text(f"{found[each]:.4f}", "bold" if found[each] == best else "") if each in found else "-"
            for each in systems
        )
        shown.add_row(dataset, *cells)
    _console(sys.stdout).print(shown)


def verdict(word: str, model: str, version: str, reason: str) -> None:
    """Print the verdict in a panel of its colour."""
    from rich.panel import Panel
    from rich.text import Text

    colour = {"PROMOTE": "green", "HOLD": "yellow"}.get(word, "red")
    text = Text.assemble((word, f"bold {colour}"), f" {model} version {version}: {reason}")
    _console(sys.stdout).print(Panel(text, border_style=colour))


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=False)


def commands(rows: Sequence[tuple[str, str]]) -> None:
    """Print what to do next: a command, and what it does."""
    wide = max(len(command) for command, _ in rows)
    for command, about in rows:
        announce(f"  {command:<{wide}}  {about}")
