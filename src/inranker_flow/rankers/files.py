"""What the files of a checkpoint say before anything is loaded: also where transformers is not installed.

Each function takes ``read``, which gives a file's bytes by name, or None where there is no such file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError

Read = Callable[[str], "bytes | None"]

#: Any of them holds the vocabulary. (transformers would make up an empty tokenizer where there is none.)
VOCABULARIES = (
    "tokenizer.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "source.spm",
    "vocab.txt",
    "vocab.json",
    "bpe.codes",
    "tekken.json",
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_POINTER = b"version https://git-lfs.github.com"
_LARGEST_HEADER = 100_000_000


def reader(folder: Path) -> Read:
    """Return ``read`` of a folder."""

    def read(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"{folder / name}: {error.strerror or type(error).__name__}; make it readable", code="disk-unreadable"
            ) from error

    return read


def parse_config(reference: str, text: bytes) -> dict[str, Any]:
    """Return the object in ``config.json``. Raises :class:`UserError` for anything else."""
    return _object(reference, "config.json", text)


def _object(reference: str, name: str, text: bytes) -> dict[str, Any]:
    remedy = "fetch the checkpoint again"
    if text.startswith(_POINTER):
        raise UserError(
            f"{reference}: {name} is a Git LFS pointer, not the file; run `git lfs pull` in the folder",
            code="checkpoint-pointer",
        )
    if not text.strip():
        raise UserError(f"{reference}: {name} is empty; {remedy}", code="checkpoint-damaged")
    if text.startswith(b"\xef\xbb\xbf"):
        raise UserError(
            f"{reference}: {name} begins with a byte order mark; save it as UTF-8 without one", code="text-encoding"
        )
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{reference}: {name} is no JSON ({str(error)[:100]}); {remedy}", code="checkpoint-damaged"
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"{reference}: {name} holds a {type(found).__name__}, not an object; {remedy}", code="checkpoint-config"
        )
    return found


@cache
def model_types() -> frozenset[str]:
    """Return the model types that the locked transformers knows (a test compares them)."""
    return frozenset((Path(__file__).parent / "model_types.txt").read_text(encoding="utf-8").split())


def check_config(reference: str, config: dict[str, Any], known: Collection[str] | None = None) -> str:
    """Raise :class:`UserError` for a model that nothing here can load; returns what else is to be said ("": nothing).

    Code that a checkpoint brings is never run; where transformers knows the model's type, it is not needed either.
    ``known``: the model types that transformers knows (None: the locked one's).
    """
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise UserError(
            f"{reference}: config.json says model_type: {kind!r}, which is no name; fetch it again",
            code="checkpoint-config",
        )
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise UserError(
            f"{reference}: config.json says architectures: {names!r}, which are no names; fetch it again",
            code="checkpoint-config",
        )
    unknown = kind is not None and kind not in (model_types() if known is None else known)
    if code := own_code(config):
        if unknown or kind is None:
            raise UserError(
                f"{reference}: brings code of its own ({code}), which is never run here, and transformers knows no model type "
                f"{kind!r}; give a checkpoint of a type that it knows",
                code="checkpoint-code",
            )
        return f"the code of its own that it brings ({code}) is not run: transformers knows {kind}"
    if unknown:
        raise UserError(
            f"{reference}: transformers knows no model type {kind!r}; give a checkpoint of one that it knows",
            code="checkpoint-kind",
        )
    if quantised := config.get("quantization_config"):
        method = (quantised.get("quant_method") if isinstance(quantised, dict) else quantised) or "some method"
        raise UserError(
            f"{reference}: its weights are quantised ({method}), which is not read here; give the checkpoint in full "
            "precision (scoring.dtype says in which one it computes)",
            code="checkpoint-quantised",
        )
    return ""


#: Model types that begin to count places after the padding's id.
_COUNT_FROM_PADDING = (
    "camembert", "data2vec-text", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip


def positions(config: dict[str, Any]) -> int | None:
    """Return the tokens that a model can tell apart by place, as far as its ``config.json`` says; None where it does not."""
    found = [config.get(name) for name in ("max_position_embeddings", "n_positions")]
    said = next((each for each in found if isinstance(each, int) and not isinstance(each, bool) and each > 0), None)
    if said is None or config.get("model_type") not in _COUNT_FROM_PADDING:
        return said
    padding = config.get("pad_token_id", 1)
    return said - padding - 1 if isinstance(padding, int) and 0 <= padding < said - 1 else said


def own_code(config: dict[str, Any]) -> str:
    """Return the code that a checkpoint's ``auto_map`` names; empty if it brings none."""
    found = config.get("auto_map")
    if not found:
        return ""
    values = found.values() if isinstance(found, dict) else [found]
    flat = [one for each in values for one in (each if isinstance(each, list | tuple) else [each]) if one]
    return f"auto_map: {flat[0]}" if flat else "auto_map"


def check_tokenizer(reference: str, read: Read, names: Collection[str]) -> None:
    """Raise :class:`UserError` where there is no vocabulary, or the tokenizer brings code that is needed."""
    if not any(name.endswith((*VOCABULARIES, ".tiktoken")) for name in names):
        raise UserError(
            f"{reference}: holds no tokenizer ({VOCABULARIES[0]}, {VOCABULARIES[1]}, ...); save the tokenizer into the folder",
            code="checkpoint-tokenizer",
        )
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if name in names and (text := read(name)) is not None:
            _object(reference, name, text)


def check_vocabulary(reference: str, read: Read, config: dict[str, Any]) -> None:
    """Raise :class:`UserError` where the tokenizer's files hold ids beyond ``vocab_size``, the model's number of rows.

    Where the files do not say it, nothing is said: loading looks again.
    """
    size = config.get("vocab_size")
    highest = highest_token(read)
    if isinstance(size, int) and not isinstance(size, bool) and highest is not None:
        check_size(reference, highest + 1, size)


def check_size(reference: str, tokens: int, rows: int) -> None:
    """Raise :class:`UserError` where a tokenizer has ids for which a model has no row."""
    if tokens > rows:
        raise UserError(
            f"{reference}: its tokenizer has {tokens:,} tokens and its model only {rows:,} rows for them, so texts with the "
            "others cannot be read; give the tokenizer that belongs to it, or save the model after resize_token_embeddings",
            code="checkpoint-tokenizer",
        )


def highest_token(read: Read) -> int | None:
    """Return the highest id that the tokenizer's files name; None where they do not say."""
    ids: list[int] = []
    if (text := read("tokenizer.json")) is not None:
        found = _quietly(text)
        model = found.get("model") if isinstance(found.get("model"), dict) else {}
        ids += _ids(model.get("vocab"))  # type: ignore[union-attr]
        added = found.get("added_tokens")
        ids += [each["id"] for each in added if _number(each)] if isinstance(added, list) else []
    else:
        if (text := read("vocab.json")) is not None:
            ids += _ids(_quietly(text))
        elif (text := read("vocab.txt")) is not None:
            ids.append(len(text.decode("utf-8", "replace").removesuffix("\n").split("\n")) - 1)
        else:
            return None
        if (text := read("added_tokens.json")) is not None:
            ids += _ids(_quietly(text))
    return max(ids, default=None)


def _number(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), int)


def _ids(vocabulary: Any) -> list[int]:
    if isinstance(vocabulary, list):
        return [len(vocabulary) - 1]
    return [each for each in vocabulary.values() if isinstance(each, int)] if isinstance(vocabulary, dict) else []


def _quietly(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # `check_tokenizer` says so, or loading does
        return {}
    return found if isinstance(found, dict) else {}


def has_tokens(read: Read, tokens: Collection[str]) -> str:
    """Return the first of ``tokens`` that tokenizer.json does not hold; empty where it holds all, or does not say."""
    text = read("tokenizer.json")
    found = _quietly(text) if text is not None else {}
    model = found.get("model") if isinstance(found.get("model"), dict) else {}
    vocabulary = model.get("vocab")  # type: ignore[union-attr]
    if isinstance(vocabulary, list):
        vocabulary = [each[0] for each in vocabulary if isinstance(each, list) and each]
    if not vocabulary:
        return ""
    added = found.get("added_tokens")
    known = {each.get("content") for each in added if isinstance(each, dict)} if isinstance(added, list) else set()
    known |= set(vocabulary)
    return next((token for token in tokens if token not in known), "")


def gives_vectors(read: Read) -> bool:
    """Return whether sentence-transformers' ``modules.json`` says that a text becomes a vector (a bi-encoder)."""
    text = read("modules.json")
    try:
        modules = json.loads(text) if text else []
    except ValueError:
        return False
    return any(
        isinstance(each, dict) and str(each.get("type", "")).rpartition(".")[2] in ("Pooling", "Normalize")
        for each in (modules if isinstance(modules, list) else [])
    )


def chat_templates(read: Read) -> str:
    """Return the checkpoint's chat templates, as they lie in its files."""
    names = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    return "\n".join((read(name) or b"").decode("utf-8", "replace") for name in names)


def check_weights(reference: str, names: Collection[str], read: Read, folder: Path | None = None) -> set[str]:
    """Raise :class:`UserError` where weights are not there; with ``folder``, also where a file is cut off.

    Return the names of the tensors, as far as the files say them without being loaded.
    """
    check_whole(reference, names, read)
    for name in WEIGHTS:
        if name in names:
            parts = [name]
            break
        if (index := f"{name}.index.json") in names:
            listed = _object(reference, index, read(index) or b"").get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise UserError(
                    f"{reference}: {index} names no files (weight_map); fetch the checkpoint again",
                    code="checkpoint-damaged",
                )
            parts = sorted({str(each) for each in listed.values()})
            lost = [each for each in parts if each not in names]
            if lost:
                more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
                raise UserError(
                    f"{reference}: {index} names {lost[0]}{more}, which the folder lacks; fetch it again",
                    code="checkpoint-incomplete",
                )
            break
    else:
        other = next((name for name in names if name.endswith((".gguf", ".onnx", ".h5", ".msgpack", ".ckpt"))), "")
        told = f" ({other} is of another format)" if other else ""
        raise UserError(
            f"{reference}: holds no weights: neither model.safetensors nor pytorch_model.bin{told}; fetch the whole checkpoint",
            code="checkpoint-incomplete",
        )
    return {name for part in parts for name in _check_file(reference, folder / part)} if folder else set()


def check_whole(reference: str, names: Collection[str], read: Read) -> None:
    """Raise :class:`UserError` for an adapter, with or without the weights that it belongs to.

    It is not merged here: its base may change under its name, and results are kept by the content of one folder.
    """
    if "adapter_config.json" not in names:
        return
    if any(name in names for name in _all_weights()):
        # transformers would add the adapter to them, whether or not they have it already.
        raise UserError(
            f"{reference}: holds whole weights and adapter_config.json, and does not say whether the adapter is part of them; "
            "remove the files of the adapter if it is, else merge it with peft's merge_and_unload",
            code="checkpoint-adapter",
        )
    base = _quietly(read("adapter_config.json") or b"").get("base_model_name_or_path")
    named = f" ({base})" if isinstance(base, str) and base else ""
    raise UserError(
        f"{reference}: holds an adapter alone; merge it into its base model{named} with peft's merge_and_unload and "
        "save_pretrained, and give that folder",
        code="checkpoint-adapter",
    )


def _all_weights() -> list[str]:
    return [each for name in WEIGHTS for each in (name, f"{name}.index.json")]


def _check_file(reference: str, path: Path) -> list[str]:
    """Raise :class:`UserError` for a file of weights that is a pointer, or is not as long as its header says.

    Return the names of its tensors; of a pytorch_model.bin none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
        if start == _POINTER:
            raise UserError(
                f"{reference}: {path.name} is a Git LFS pointer, not the file; run `git lfs pull` in the folder",
                code="checkpoint-pointer",
            )
        if size == 0:
            raise UserError(f"{reference}: {path.name} is empty; fetch the checkpoint again", code="checkpoint-damaged")
        if path.suffix != ".safetensors":
            return []
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise UserError(
                f"{reference}: {path.name} is damaged or cut off; fetch the checkpoint again", code="checkpoint-damaged"
            )
        file.seek(8)
        header = _quietly(file.read(length))
    ends = [
        each["data_offsets"][1]
        for name, each in header.items()
        if name != "__metadata__" and isinstance(each, dict) and len(each.get("data_offsets", ())) == 2
    ]
    needed = 8 + length + max(ends, default=0)
    if not header or needed != size:
        raise UserError(
            f"{reference}: {path.name} has {size:,} bytes, and its own header says {needed:,}: it is damaged or cut off; "
            "fetch the checkpoint again",
            code="checkpoint-damaged",
        )
    return [name for name in header if name != "__metadata__"]


def names_of(reference: str, config: dict[str, Any], read: Read, folder: Path | None = None) -> list[str]:
    """Return the names of a checkpoint and of its base model, the surest first."""
    own = reference.rstrip("/")
    parts = [each for each in re.split(r"[/:]", own) if each]
    while len(parts) > 1 and _GENERIC.fullmatch(parts[-1]):
        parts.pop()
    found = [parts[-1] if parts else own]
    # The hub's cache calls folders models--OWNER--NAME/snapshots/COMMIT.
    places = {*Path(own).parts, *(folder.resolve().parts if folder else ())}
    found += [each for each in places if each.startswith("models--")]
    found += _card(read("README.md") or b"")
    known = config.get("_name_or_path")
    return [*found, known] if isinstance(known, str) and known else found


_GENERIC = re.compile(r"checkpoint-\d+|[0-9a-f]{40}|snapshots|main|final|best|last|latest|v?\d+(\.\d+)*", re.IGNORECASE)


def _card(text: bytes) -> list[str]:
    """Return a model card's title and the models that it names as its base."""
    lines = text.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
    bases: list[str] = []
    if lines and lines[0].strip() == "---":
        inside = False
        for number, line in enumerate(lines[1:], start=1):
            if line.strip() == "---":
                lines = lines[number + 1 :]
                break
            if match := re.match(r"(base_model|model_name)\s*:\s*(.*)", line):
                inside = True
                bases.append(match[2].strip(" \"'[]"))
            elif inside and line.strip().startswith("- "):
                bases.append(line.strip()[2:].strip(" \"'"))
            else:
                inside = False
    title = next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")
    return [each for each in (title, *bases) if each]
