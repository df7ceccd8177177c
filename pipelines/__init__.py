"""Pipelines, their profiles and placement, and the commands around them."""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, _frame: FrameType | None) -> None:
    """End in one line while a command is still importing what it needs: nothing is begun yet."""
    word, status = ("TERMINATED", 143) if number == signal.SIGTERM else ("INTERRUPTED", 130)
    os.write(2, f"\n{word}: nothing was begun\n".encode())
    os._exit(status)


# `python -m pipelines.NAME` imports this package while it looks for the command: argv[0] is "-m" then, and only then.
if sys.argv[:1] == ["-m"]:
    for _number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _leave)
