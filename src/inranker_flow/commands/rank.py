"""`inranker rank`: rank passages for a query.

    inranker rank --model models:/inranker@champion --query "opening hours" passages.txt

The file holds a passage on each line: text, or JSON with ``text`` and perhaps ``title`` and ``id``. ``-`` is standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from inranker_flow import text_files
from inranker_flow.commands.command import Parser, listing
from inranker_flow.errors import UserError
from inranker_flow.reranker import Passage, Ranked, Reranker


@listing
def main(arguments: list[str] | None = None) -> int:
    """Print the ranking, best first; returns the exit status."""
    parser = Parser("inranker rank")
    parser.add_argument("passages", help="file with a passage on each line, or - for standard input")
    parser.add_argument("--model", required=True, help="folder, hub id, s3://, or models:/NAME@champion")
    parser.add_argument("--query", required=True)
    parser.add_argument("--top-k", type=int, default=None, help="so many alone (default all)")
    parser.add_argument("--json", action="store_true", help="JSON lines: position, score, passage")
    options = parser.parse_args(arguments)
    passages = list(read_passages(options.passages))
    for each in Reranker(options.model).rank(options.query, passages, top_k=options.top_k):
        print(json.dumps(vars(each), ensure_ascii=False) if options.json else _line(each))
    return 0


def read_passages(name: str) -> Iterator[Passage]:
    """Yield the passages of a file. Raises :class:`UserError` naming the line that is none, and if there is no passage."""
    where = "standard input" if name == "-" else name
    text = sys.stdin.read() if name == "-" else text_files.read(Path(name))
    count = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        count += 1
        yield _passage(line, f"{where} line {number}")
    if not count:
        raise UserError(f"{where}: holds no passage; give one on each line", code="passages-missing")


def _passage(line: str, where: str) -> Passage:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: begins as JSON and is none ({error}); mend it", code="passage-form") from error
    if not isinstance(found.get("text"), str):
        raise UserError(
            f"{where}: has no text; a passage is a text, or JSON with text and perhaps title", code="passage-form"
        )
    passage: Passage = found
    return passage


def _line(found: Ranked) -> str:
    passage = found.passage
    text = passage if isinstance(passage, str) else f"{passage.get('title') or ''} {passage['text']}".strip()
    return f"{found.score:8.3f}  {found.position:4d}  {text[:110]}"
