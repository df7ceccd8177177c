"""`inranker why`, and `make why` of a local run: one sentence about it from its record and its log."""

from __future__ import annotations

from pathlib import Path

from inranker_flow import error_codes
from inranker_flow.commands import console, folder
from inranker_flow.commands.command import Parser, listing
from inranker_flow.errors import UserError

#: Bytes at the end of a log that are looked at.
_END = 20_000


@listing
def main(arguments: list[str] | None = None) -> int:
    """Explain a local run; returns the exit status."""
    parser = Parser("inranker why")
    parser.add_argument("--run", default="", help="name of the run (default: the newest)")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT))
    options = parser.parse_args(arguments)
    run_dir = folder.checked(options.run_dir)
    log = log_of(run_dir, options.run)
    if log is None:
        what = f"RUN={options.run}: no such run" if options.run else "RUN_DIR: no run yet"
        raise UserError(f"{what} in {run_dir}", code="run-unknown")
    print(explain(run_dir, log))
    return 0


def log_of(run_dir: Path, name: str) -> Path | None:
    """Return the log of the run ``name``, of the newest for ""; None where there is none."""
    logs = sorted((run_dir / "logs").glob("*.log"), key=lambda each: each.stat().st_mtime)
    return next((each for each in reversed(logs) if name in ("", each.stem)), None)


def explain(run_dir: Path, log: Path) -> str:
    """Return the sentence, and where the log is."""
    name = log.stem
    events = console.read_events(run_dir / "artifacts" / "events" / f"{name}.jsonl")
    failed = next((each for each in events if each.get("error")), None)
    if failed:
        said = f"FAILED: task {failed['stage']} {failed['dataset']}".strip() + f": {failed['error']}"
        said = error_codes.with_row(said, failed.get("code", ""))
    elif any(each["stage"] == "notify" for each in events):
        reason = next((each["reason"] for each in events if each["stage"] == "discover" and each.get("reason")), "")
        said = f"SUCCEEDED: {reason or 'every task ended well'}."
    else:
        said = f"has no end: it is at work, or was killed; its log ends with {_last_line(log)!r}."
    return f"{name} {said}\nLog: {log}"


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(log.stat().st_size - _END, 0))
        lines = file.read().decode(errors="backslashreplace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
