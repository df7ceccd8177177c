"""Logs of a run that outlive its pods: the launcher's, beside the outputs of each task, and those of Argo's archive.

Both lie in S3. The launcher writes ``ROOT/PIPELINE/RUN/TASK/ID/executor-logs-ATTEMPT`` below the root of the pipelines,
Argo ``ARCHIVE/NAMESPACE/WORKFLOW/YEAR/MONTH/DAY/POD/main.log``, drivers too. This machine's settings for S3 are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from inranker_flow.services.kfp_nodes import Task
from inranker_flow.storage import uris
from inranker_flow.storage.listing import FileInfo
from pipelines.cluster import telling
from pipelines.compile import PIPELINES

#: Where KFP's own installation lets Argo keep the logs.
ARCHIVE = "s3://mlpipeline/private-artifacts"
#: Bytes at the end of a log that are read, and logs at most.
TAIL, MOST = 20_000, 40


def of_tasks(root: str, namespace: str, run_id: str, workflow: str, tasks: list[Task]) -> Iterator[tuple[str, str]]:
    """Yield (task, its telling line) of each log that is kept of the ``tasks`` of a run, of all where none is known.

    ``root`` is the pipelines' ("" where it is not known). Raises :class:`UserError` where a store cannot be read.
    """
    yield from _of_launcher(root, run_id, {task.name for task in tasks})
    archive = variables.kfp_archive()
    # At an address of S3's own the default would be somebody else's bucket.
    named = archive or (ARCHIVE if variables.has_own_s3() else "")
    if workflow and tasks and named:
        try:
            yield from _of_argo(f"{named}/{namespace}/{workflow}/", tasks)
        except UserError:
            if archive:  # else it was a guess
                raise


def _of_launcher(root: str, run_id: str, names: set[str]) -> Iterator[tuple[str, str]]:
    if not root:
        return
    for pipeline in PIPELINES:
        start = f"{root.rstrip('/').partition('?')[0]}/{pipeline}/{run_id}/"
        logs = [file for file in uris.list_files(start) if "/executor-logs" in file.uri]
        for file in logs[:MOST]:
            task = file.uri.removeprefix(start).partition("/")[0]
            if task in names or not names:
                yield task, _end(file)


def _of_argo(start: str, tasks: list[Task]) -> Iterator[tuple[str, str]]:
    # A pod's name ends with the number of its node's id.
    numbers = {number: task.label for task in tasks for number in kfp_nodes.pod_numbers(task)}
    logs = [file for file in uris.list_files(start) if file.uri.endswith("/main.log")]
    for file in logs:
        found = re.search(r"-(\d+)/main\.log$", file.uri)
        if found and found[1] in numbers:
            yield numbers[found[1]], _end(file)


def _end(file: FileInfo) -> str:
    start = max(0, file.size - TAIL)
    return telling(uris.read_part(file.uri, start, file.size - start).decode(errors="replace"))
