"""One run for one piece of work: of several that want to begin it, exactly one gets the claim."""

from __future__ import annotations

import itertools
import json

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_run
from inranker_flow.storage import uris


def claim(work: str, run_id: str) -> str:
    """Return the id of the run that does ``work``: ``run_id`` itself, or another one that is still going.

    A claim is a file ``claims/WORK/NUMBER.json`` below ``INRANKER_STORE``, written once and never changed; a run that has
    ended leaves the next number to whoever comes. Without a store, or without KFP's API to ask whether a run is over,
    there is nobody to share the work with: on a laptop the run's folder is locked. Raises :class:`UserError` where store
    or API does not answer.
    """
    root = variables.store_root()
    if not root or not variables.kfp_endpoint():
        return run_id
    mine = json.dumps({"run_id": run_id}).encode()
    for number in itertools.count():
        uri = f"{root}/claims/{work}/{number}.json"
        if uris.put_if_absent(mine, uri):
            return run_id
        try:
            owner = str(json.loads(uris.read(uri))["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{uri}: is no claim of a run; look who wrote it, and remove it", code="record-damaged"
            ) from error
        if owner == run_id or not kfp_run.is_over(owner):
            return owner
    raise AssertionError("unreachable")
