"""Text that people write (profiles, prompts, templates, corpus.yaml): one reader, whatever an editor put before it.

UTF-8 is read with and without a byte order mark, UTF-16 and UTF-32 with one. Whatever else is there (a folder, a pipe,
another encoding, no text at all) is one line that names the file.
"""

from __future__ import annotations

import codecs
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from inranker_flow.errors import UserError
from inranker_flow.redaction import redact

#: Bytes: nobody writes more by hand, and YAML of this size is read in a second or two.
MOST = 128 * 1024
#: Values of one YAML file with all aliases written out: a few lines of them can stand for billions.
_MOST_VALUES = 50_000
#: Longest first: UTF-32's mark begins as UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read(path: str | os.PathLike[str], setting: str = "") -> str:
    """Return the text of the file, line ends as ``\n``; messages begin with ``setting`` where one names the file.

    Raises FileNotFoundError where there is none, and :class:`UserError` for what is no file or no text.
    """
    where = ": ".join(filter(None, (setting, shown(os.fspath(path)))))
    path = Path(path)
    with suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    try:
        # A pipe would wait for its writer.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise UserError(f"{where}: is {kind}; give a text file", code="text-file")
        if found.st_size > MOST:
            raise UserError(
                f"{where}: has {found.st_size:,} bytes; a text of this kind has at most {MOST:,}", code="text-too-long"
            )
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise FileNotFoundError(where) from error
    except OSError as error:
        raise UserError(
            f"{where}: cannot be read ({error.strerror}); correct the path or its permissions", code="disk-unreadable"
        ) from error
    return decode(data, where)


def decode(data: bytes, where: str) -> str:
    """Return the text that the bytes are. Raises :class:`UserError` naming ``where`` and what they seem to be instead."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1
        known = "" if encoding == "utf-8" else f", though it begins as {encoding.upper()}"
        raise UserError(
            f"{where}: not UTF-8{known}: byte 0x{data[error.start]:02x} in line {at} (another encoding, as Latin-1, or "
            "no text); save it as UTF-8",
            code="text-encoding",
        ) from error
    if "\0" in text:
        raise UserError(
            f"{where}: holds NUL bytes, so it is no text in UTF-8 (or UTF-16 without its mark); save it as UTF-8",
            code="text-encoding",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Loader(yaml.SafeLoader):
    """YAML's own types; a key that is there twice is refused: YAML keeps the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shown(key.value)} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "too many keys are merged", node.start_mark)


def parse_yaml(text: str, where: str) -> Any:
    """Return the data that the YAML says. Raises :class:`UserError` naming ``where`` for one that is none, or is no plain
    data."""
    try:
        data = yaml.load(text, _Loader)
        check_plain(data, where)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {_told(error)}", code="yaml-form") from error
    except RecursionError as error:
        raise UserError(f"{where}: not valid YAML: nested too deeply", code="yaml-form") from error
    # A date that is none, a number of 5,000 digits, a value that is not of its tag (!!bool abc).
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{where}: not valid YAML: a value that cannot be read: {_told(error)}", code="yaml-form"
        ) from error
    return data


def _told(error: Exception) -> str:
    return " ".join(str(error).replace('"<unicode string>", ', "").split())[:300]


def check_plain(data: Any, where: str) -> None:
    """Refuse what contains itself, and what is too much with its aliases written out."""
    left = _MOST_VALUES
    inside: set[int] = set()
    stack: list[tuple[Any, bool]] = [(data, False)]
    while stack:
        value, done = stack.pop()
        if done:
            inside.discard(id(value))
            continue
        left -= 1
        if left < 0:
            raise UserError(
                f"{where}: more than {_MOST_VALUES:,} values, with aliases (*NAME) written out", code="yaml-form"
            )
        if isinstance(value, dict | list):
            if id(value) in inside:
                raise UserError(f"{where}: an alias (*NAME) stands inside of what it names", code="yaml-form")
            inside.add(id(value))
            stack.append((value, True))
            stack += [(each, False) for each in (value.values() if isinstance(value, dict) else value)]


def shown(value: Any, most: int = 500) -> str:
    """Return ``value`` as a message can hold it: on one line, not too long; plain words and paths as they are.

    A path that is cut names no file, so there is room for a long one.
    """
    if isinstance(value, str) and value.isprintable() and value and value == value.strip() and "@" not in value:
        return value if len(value) <= most else f"{value[:most]}..."
    return quoted(value)


def quoted(value: Any, most: int = 80) -> str:
    """Return ``repr``, not longer than a message can hold, and without the passwords of addresses."""
    try:
        text = repr(value[:2_000] if isinstance(value, str | bytes) else value)
    except ValueError:  # of a number with more than 4,300 digits, perhaps inside of a list
        return f"a {type(value).__name__} that is too long to show"
    text = redact(text)
    if isinstance(value, str | bytes) and len(value) > most:
        return f"{text[: most + 1]}{text[-1]}..."
    return text if len(text) <= 2 * most else f"{text[: 2 * most]}..."
