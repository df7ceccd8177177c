"""The whole method as one call: what `inranker run` does, with its result as an object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inranker_flow.commands import outcome
from inranker_flow.commands.outcome import Distilled
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError


def distil(
    source: str | Path = "",
    targets: Sequence[str | Path] = (),
    *,
    out: str | Path,
    teacher: str = "",
    student: str = "",
    generator: str = "",
    profile: str | Path = "",
    **settings: Any,
) -> Distilled:
    """Distil ``teacher`` into ``student`` for the ``targets``, in two phases, and return what came out.

    ``source``: collection with supervised queries; ``targets``: collections without any (folders in BEIR layout,
    ``s3://...``, ``ir_datasets:ID``). ``teacher``, ``student``, ``generator``: hub ids, folders or ``s3://...``. What is
    not given, the ``profile`` says: demo, smoke, small, encoder, paper, or a YAML file. By default it is smoke for collections of
    your own (minutes, random models: does the data go through?), otherwise demo. ``settings`` replace its values by
    section: ``seed=3, phase1={"max_steps": 2000}, generation={"documents": 500}``.

    Everything is kept below the folder ``out``. The same call continues after a failure or a kill, and does nothing twice.
    Log lines go to standard output. The stages are processes of their own: nothing of this process is changed. Raises
    :class:`UserError` with the one line that says what is wrong and what to do.
    """
    folder = Path(out).expanduser().absolute()
    fields = {"source": source, "teacher": teacher, "student": student, "generator": generator, "profile": profile}
    options = [f"--{name}={value}" for name, value in fields.items() if str(value)]
    if isinstance(targets, str | Path):
        raise UserError(
            f"targets: expected a list of collections, got {str(targets)!r}; give [{str(targets)!r}]",
            code="setting-type",
        )
    named = [str(target) for target in targets]
    if named:
        options.append(f"--set=targets={json.dumps(named)}")
    options += [f"--set={key}={json.dumps(value)}" for key, value in _flat(settings)]
    _run([sys.executable, "-m", "inranker_flow", "run", f"--run-dir={folder}", *options])
    return outcome.read(folder)


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (dotted key, value) of each setting. Only sections are taken apart: what is deeper may be a value."""
    found = []
    for section, value in settings.items():
        if isinstance(value, Mapping):
            found += [(f"{section}.{key}", each) for key, each in value.items()]
        else:
            found.append((section, value))
    return found


def _run(command: Sequence[str]) -> None:
    """Run it, print its lines as they come. Raises :class:`UserError` with the line in which it failed."""
    package = str(Path(__file__).parents[1])
    paths = [package, *filter(None, [variables.python_path()])]
    environment = changes.for_child({"PYTHONPATH": os.pathsep.join(paths)})
    failed = ""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        bufsize=1, errors="backslashreplace",
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith("FAILED: "):
                    failed = line.removeprefix("FAILED: ").strip()
                print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise UserError(
            failed or f"inranker run ended with status {process.returncode}; its last lines say why",
            code="stage-failed",
        )
