"""The server's log: a JSON object on each line. No query and no passage is in it unless a person asks for them."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback

#: The logger of the line that each request gets.
REQUESTS = "inranker_flow.serving.requests"


class Lines(logging.Formatter):
    """A record as one JSON object: time, level, message, and the record's ``fields``.

    Of an exception only its type and its place in the code are told: its text may hold what a client sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            found["error"] = type(error).__name__
            found["at"] = [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
        return json.dumps(found, ensure_ascii=False)


def start() -> None:
    """Let all loggers of the process write such lines on standard error."""
    handler, raw = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(Lines())
    raw.setFormatter(Lines())
    # A request's line holds nothing of this process, and to look for secrets in each costs as much as to answer it.
    requests = logging.getLogger(REQUESTS)
    requests.handlers, requests.propagate = [raw], False
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("inranker_flow").setLevel(logging.INFO)
    # A line every few seconds of a long list is for people who wait.
    logging.getLogger("inranker_flow.progress").setLevel(logging.WARNING)
