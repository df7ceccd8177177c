"""InRanker Flow: distil a large reranker into a small one, as a workflow (InRanker, arXiv 2401.06910)."""

__version__ = "0.1.0"

import os

if os.environ.get("INRANKER_RUN_FILE"):
    from inranker_flow.lifeline import follow

    follow()
    os.register_at_fork(after_in_child=follow)
