"""What MLflow takes: names of its form, settings as flat texts, numbers, and parts of a request's size."""

from __future__ import annotations

import itertools
import json
import posixpath
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, TypeVar

from inranker_flow import redaction

T = TypeVar("T")


#: Entities that MLflow takes in one request.
_BATCH = 100
_NAME_LENGTH = 250


def metrics(numbers: Mapping[str, float]) -> list[Any]:
    """Return numbers as MLflow takes them, of now."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(metric_name(name), float(value), now, 0) for name, value in numbers.items()]


def flattened(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name with dots, text) for each value of nested data."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        whole = isinstance(data, float) and data.is_integer() and abs(data) < 1e15
        yield prefix, data if isinstance(data, str) else json.dumps(int(data) if whole else data)


def hidden(data: Any) -> Any:
    """Return the same data with every secret in its texts replaced."""
    if isinstance(data, Mapping):
        return {key: hidden(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [hidden(value) for value in data]
    return redaction.redact(data) if isinstance(data, str) else data


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in parts that MLflow takes in one request."""
    rest = iter(items)
    while part := list(itertools.islice(rest, _BATCH)):
        yield part


#: The parameters of a measure: ``(rel=2)`` of P(rel=2)@10.
_PARAMETERS = re.compile(r"(?<=\w)\(([\w.=,'\"-]*)\)(?=[@/]|$)")


def metric_name(name: str) -> str:
    """Return a name that MLflow takes, recognisable in its charts; other names stay different ones.

    nDCG@10 becomes nDCG_at_10, and P(rel=2)@10 becomes P_rel_2_at_10. MLflow refuses @ = ( ) and most other signs, names
    that are no tidy path, and long ones.
    """
    plain = _PARAMETERS.sub(lambda found: "_" + re.sub(r"[=,'\"]+", "_", found[1]).strip("_"), name).replace(
        "@", "_at_"
    )
    key = re.sub(r"[^/\w.\- :]", "_", plain)
    if posixpath.normpath(key) != key or key.startswith(("/", "..")) or key == ".":
        key = re.sub(r"^[./]+|/", "_", key) or "_"
    if key == plain and len(key) <= _NAME_LENGTH:
        return key
    return f"{key[: _NAME_LENGTH - 9]}_{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
