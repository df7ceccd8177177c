"""What an error of MLflow means to a person: one line with the address, what was asked, and a remedy."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from inranker_flow import redaction
from inranker_flow.errors import NoAnswer, UserError

log = logging.getLogger(__name__)


@contextmanager
def explained(action: str, uri: str = "") -> Iterator[None]:
    """Turn whatever goes wrong in an exchange with MLflow into one line: where, what was asked, what it said, a remedy.

    ``uri``: of what is asked, where it is not the configured one. Raises :class:`NoAnswer`.
    """
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # MLflow's, its HTTP library's, its database's and its object store's have no common base
        import mlflow

        where = redaction.redact(uri or mlflow.get_tracking_uri())
        text = _said(error)
        if action == "be used":
            where, action = f"MLFLOW_TRACKING_URI: {where}", "be used as MLflow's server"
            if unreachable := _unreachable(str(error)):
                raise NoAnswer(
                    f"MLFLOW_TRACKING_URI: no MLflow server answers at {where.partition(': ')[2]} ({unreachable}); start it, "
                    "correct the address, or unset it to use SQLite",
                    code="server-no-answer",
                ) from error
        raise NoAnswer(f"{where}: cannot {action}: {text}; {_remedy(text, action)}", code="registry-refused") from error


def _said(error: BaseException) -> str:
    """Return MLflow's words without its database's query, a proxy's page or its HTTP library's frames."""
    text = " ".join(redaction.redact(str(error)).split())
    text = re.sub(r" ?\[SQL: .*|\(Background on this error at: .*", "", text)
    text = re.sub(r"(Response body: '.{60}).*", r"\1...'", text)
    return text[:300] or type(error).__name__


def _unreachable(text: str) -> str:
    """Return the reason for which nobody was reached at an address; "" if somebody answered."""
    for pattern, reason in (
        (r"Failed to resolve|NameResolutionError", "no such host"),
        (r"Connection refused", "connection refused"),
        (r"timed out", "no answer in time"),
        (r"No route to host|Network is unreachable", "no route to it"),
        (
            r"Connection aborted|RemoteDisconnected|Connection reset|IncompleteRead|ConnectionResetError",
            "connection cut",
        ),
    ):
        if re.search(pattern, text) and "ProxyError" not in text:
            return reason
    return ""


#: What is found in MLflow's message -> what to do.
_REMEDIES = (
    (r"Invalid Host header|DNS rebinding", "start the MLflow server with --allowed-hosts and the host of this address"),
    (
        r"error code 401|UNAUTHENTICATED",
        "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN (on a cluster: Secret "
        "inranker-mlflow)",
    ),
    (
        r"PERMISSION_DENIED|Permission denied|error code 403",
        "grant it to the account of the runs (MLFLOW_TRACKING_TOKEN; on a cluster: Secret inranker-mlflow)",
    ),
    (r"readonly database", "grant it to the account of the runs"),  # SQLite; servers answer with a permission
    (
        r"error code 30\d",
        "it redirects, to https or to a login page: give the address that it leads to, and MLFLOW_TRACKING_TOKEN or user and "
        "password",
    ),
    (
        r"not in a valid JSON format",
        "what answers there is no MLflow: a login page, a proxy or another program. Correct the address, or log in "
        "(MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)",
    ),
    (
        r"error code (404|405|501)|ENDPOINT_NOT_FOUND",
        "what answers there is no MLflow or an older one: correct the address (and its path), or update that server",
    ),
    (r"too many 429", "that server is asked too often: wait, and run again"),
    (r"too many 50\d", "that server, or a proxy in front of it, is in trouble: see its log, and run again"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
     "set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of your CA, or MLFLOW_TRACKING_INSECURE_TLS=true"),
    (r"WRONG_VERSION_NUMBER|wrong version number|record layer failure", "that server speaks http: give http://..."),
    (r"suitable TLS CA certificate|must not be set|Failed to convert|TLS certificate file|value must be|timeout to ",
     "correct that variable of the environment, or unset it"),
    (r"ProxyError", "correct HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"),
    (r"maintenance mode|unsupported URI|Could not parse|Invalid url|Invalid URL|Invalid IPv6|No host supplied|not a valid uri|"
     r"not supported in the current version|No connection adapters",
     "give http://HOST:PORT of an MLflow server or sqlite:////FOLDER/mlflow.db, or unset it"),
    (r"No module named|Can't load plugin", "install that database's driver, or give the address of an MLflow server"),
    (r"Databricks", "configure Databricks as its client wants it, or give the address of another MLflow server"),
    (r"not a database|malformed|disk image|migration in unexpected state",
     "this file is damaged or no database: restore a copy of it, or move it away and a new one is made (without its runs and "
     "models)"),
    (r"out-of-date database schema|Can't locate revision",
     "another version of MLflow made it: `mlflow db upgrade` with this address if that was an older one, else use that version"),
    (r"disk is full|No space left", "make room there, and run again"),
    (r"database is locked", "another program holds it: wait for it or end it, and run again"),
    (r"unable to open database file", "give a file in a folder that this account may read and write"),
    (r"Max retries exceeded|Connection refused|Connection reset|Connection aborted", "start that server and run again"),
    (r"deleted|must be in the 'active' state|RESOURCE_DOES_NOT_EXIST", "restore it in MLflow, or run again"),
)  # fmt: skip


def _remedy(text: str, action: str) -> str:
    """Return the remedy; if MLflow does not know something that a variable names, it names the variable."""
    named = re.search(r"\((MLFLOW_\w+)\)$", action)
    unsaid = f"correct {named[1]}, or unset it" if named else "see that server's log"
    if named and re.search(r"RESOURCE_DOES_NOT_EXIST|not found", text):
        return unsaid
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), unsaid)


@contextmanager
def recording(run_id: str, action: str) -> Iterator[None]:
    """As :func:`explained`; but what cannot be recorded because a person has deleted the run is a warning: work is done."""
    try:
        with explained(f"{action} in run {run_id}"):
            yield
    except NoAnswer as error:
        if not _is_deleted(error.__cause__):
            raise
        log.warning("run %s is deleted in MLflow: cannot %s in it; restore it to keep what follows", run_id, action)


def _is_deleted(error: BaseException | None) -> bool:
    """Return whether MLflow refuses because the run (or its experiment) was deleted meanwhile."""
    said = str(error)
    return "'active' state" in said or bool(re.search(r"\bRun with id=?\S* not found|Run '\S+' not found", said))
