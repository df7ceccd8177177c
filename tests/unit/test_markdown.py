"""Names from outside in the pages that the Kubeflow UI and MLflow show."""

from __future__ import annotations

import pytest

from inranker_flow.corpora.folders import Folder
from inranker_flow.generation import report
from inranker_flow.markdown import code, escape
from inranker_flow.preflight import checks
from inranker_flow.stages import discover as discovery

EVIL = "x|y <img src=x onerror=alert(1)> [here](javascript:alert(1)) **b** `c`\n# head"


def pages() -> dict[str, str]:
    folder = Folder(EVIL, "s3://b/x", [], state="quarantined", reason=EVIL)
    return {
        "discover": discovery._markdown([folder], [], [EVIL], EVIL, True),
        "preflight": checks.markdown([checks.Result(EVIL, "FAILED", EVIL)]),
        "generate_queries": report.markdown(EVIL, {"samples": [{"query": EVIL, "document": EVIL}], "generator": EVIL}),
    }


@pytest.mark.parametrize("name", pages())
def test_no_page_takes_a_name_for_markup(name):
    page = pages()[name]
    assert "x\\|y &lt;img" in page
    assert "<img" not in page and "[here](" not in page.replace("\\[here\\](", "") and "\n# head" not in page
    assert "**b**" not in page


def test_what_is_quoted_is_shown_as_it_is():
    assert escape("plain text, 1.5 (a-b)") == "plain text, 1.5 (a-b)"
    assert code("a/b") == "`a/b`" and code("a`b") == "`` a`b ``"
