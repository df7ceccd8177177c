"""Every error that a person can mend has a code of the table, and the page of codes is the table's."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from inranker_flow import error_codes
from inranker_flow.corpora.problems import BadCollection
from inranker_flow.error_codes import CODES, GROUPS
from inranker_flow.errors import CollectionFault, NoAnswer, UserError
from inranker_flow.model_registry.stored_files import Damaged
from inranker_flow.services.endpoint import Refused

ROOT = Path(__file__).parents[2]
#: These have no code of their own, so each is raised with one.
PLAIN = {"UserError", "CollectionFault", "BadCollection"}
#: These have one, which a place may replace.
CODED = {"NoAnswer": NoAnswer.code, "Refused": Refused.code, "Damaged": Damaged.code}


def raised() -> Iterator[tuple[str, str | None]]:
    """Yield place and code of each error that is made: None for one without, "" for one that another error brings."""
    for folder in ("src", "pipelines", "components"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in PLAIN | set(CODED)
                ):
                    continue
                given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                code = CODED.get(node.func.id)
                if given:
                    code = given[0].value if isinstance(given[0], ast.Constant) else ""
                yield f"{path.relative_to(ROOT)}:{node.lineno}", code


def test_every_error_has_a_code_of_the_table():
    wrong = {place: code for place, code in raised() if code is None or (code and code not in CODES)}
    assert not wrong


def test_every_code_of_the_table_is_used():
    made = {"unexpected", *(code for _, code in raised() if code)}
    assert not set(CODES) - made


def test_a_code_is_there_once():
    assert len(CODES) == sum(map(len, GROUPS.values()))


def test_the_page_of_codes_is_the_tables():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page == error_codes.markdown(), "run python -m inranker_flow.error_codes > docs/errors.md"


def test_every_code_has_a_row_in_the_runbook_and_every_row_a_place():
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    places = re.findall(r'<a id="([a-z0-9-]+)"></a>', runbook)
    assert len(places) == len(set(places))
    assert {code: row for code in CODES if (row := error_codes.row(code).partition("#")[2]) not in places} == {}
    assert {place for place in places if place in CODES} == {
        code for code in CODES if error_codes.row(code).endswith(f"#{code}")
    }
    rows = [
        line for line in runbook.splitlines() if line.startswith("| ") and not line.startswith(("| symptom", "| kind"))
    ]
    assert [line for line in rows if not line.startswith('| <a id="')] == []


@pytest.mark.parametrize("kind", [UserError, CollectionFault, BadCollection])
def test_an_error_keeps_its_code_on_its_way_to_another_process(kind):
    sent = pickle.loads(pickle.dumps(kind("a line", code="collection-row")))
    assert (str(sent), sent.code, type(sent)) == ("a line", "collection-row", kind)
