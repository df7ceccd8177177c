"""InRanker Flow: distil a large reranker into a small one, as a workflow (InRanker, arXiv 2401.06910).

from inranker_flow import Reranker, distil
"""

__version__ = "0.1.0"

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inranker_flow.api import distil
    from inranker_flow.commands.outcome import Distilled
    from inranker_flow.errors import UserError
    from inranker_flow.reranker import Ranked, Reranker

if os.environ.get("INRANKER_RUN_FILE"):
    from inranker_flow.lifeline import follow

    follow()
    os.register_at_fork(after_in_child=follow)

#: Public name -> its module, which is imported when the name is first asked for: a stage needs neither.
_PUBLIC = {
    "Distilled": "commands.outcome",
    "distil": "api",
    "Ranked": "reranker",
    "Reranker": "reranker",
    "UserError": "errors",
}

__all__ = ["Distilled", "Ranked", "Reranker", "UserError", "distil"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
