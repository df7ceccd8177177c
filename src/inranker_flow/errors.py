"""What a person can mend: bad input, and a server that does not do its part."""

from __future__ import annotations

import errno
import os


class UserError(Exception):
    """Bad input, configuration or environment.

    The message is one line that says which file (and row), what is wrong and what to do. Command lines and stages
    print it without a traceback and exit non-zero. ``code`` (`error_codes.CODES`) names the kind of the error: it stays as it
    is while the line may be worded anew.
    """

    #: Of an error without one of its own.
    code = ""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or type(self).code


class CollectionFault(UserError):
    """A fault in one collection, or in a model's output for it: tried again, it is refused again.

    Every other trouble (disk, network, memory, rights, a checkpoint) says nothing about the collection. A target with such
    a fault may be left out (`left_out`).
    """


class NoAnswer(UserError):
    """A server did not answer, or refused: it says nothing about the thing that was asked for."""

    code = "server-no-answer"


def of_system(error: OSError) -> str:
    """Return one line about an error of the system: the file, the refusal, the remedy."""
    said = error.strerror or str(error) or type(error).__name__
    named = error.filename2 or error.filename
    where = f"{os.fsdecode(named) if isinstance(named, bytes) else named}: " if isinstance(named, str | bytes) else ""
    return f"{where}{said}{_REMEDIES.get(error.errno or 0, '')}"


_REMEDIES = {
    errno.ENOSPC: "; make room and run again",
    errno.EDQUOT: "; make room and run again",
    errno.EROFS: "; give another place",
    errno.EACCES: "; grant it, or give another place",
    errno.EPERM: "; grant it, or give another place",
    errno.ELOOP: ": a link that leads to itself; correct it",
    errno.ENOENT: "; correct the path",
    errno.ENOTDIR: "; correct the path",
    errno.EISDIR: "; give a file",
    errno.ENAMETOOLONG: "; give a shorter name",
    errno.EMFILE: "; raise the limit on open files (ulimit -n)",
}
#: What a system refuses whatever the program does. A file that is not there may well be the program's own fault.
REFUSALS = frozenset(_REMEDIES) - {errno.ENOENT}
