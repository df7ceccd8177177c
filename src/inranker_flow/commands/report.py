"""`make report`: the page with the evidence of the last local run, in a browser."""

from __future__ import annotations

import webbrowser

from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, command
from inranker_flow.errors import UserError


@command
def main(arguments: list[str] | None = None) -> int:
    """Open the page, and say where it is: there may be no browser here."""
    parser = Parser("inranker report")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT))
    page = folder.checked(parser.parse_args(arguments).run_dir) / "report.html"
    if not page.is_file():
        raise UserError(
            f"RUN_DIR: no local run has written {page}; make run writes it, or give another RUN_DIR", code="run-unknown"
        )
    print(page.as_uri(), flush=True)
    webbrowser.open(page.as_uri())
    return 0
