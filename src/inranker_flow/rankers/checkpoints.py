"""From a checkpoint's reference to a loaded model and its tokenizer.

References: a local folder, ``s3://...``, ``models:/NAME/VERSION`` (the model registry), a hub id,
``demo:teacher|student|generator``, or ``init:SIZE[?tokenizer=REFERENCE&seed=N]`` (`random_models`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.rankers import files, random_models, tensors
from inranker_flow.storage import uris
from inranker_flow.storage.local import digest_folder

log = logging.getLogger(__name__)

DEMO = Path(__file__).parents[1] / "demo" / "models"

#: OWNER/NAME, or the NAME of an old one.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
#: Changes a model's configuration before the model is made.
Change = Callable[[Any], None]
#: Seconds after which the hub counts as unreachable.
_HUB_TIMEOUT = 5


def locate(reference: str) -> Path | None:
    """Return the local folder of a checkpoint, fetched from S3 or the registry when it is there; None for a hub id.

    Raises :class:`UserError` where there is no such folder.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "demo":
        folder = DEMO / rest
        if not re.fullmatch(r"\w+", rest) or not folder.is_dir():
            known = ", ".join(f"demo:{each.name}" for each in sorted(DEMO.iterdir()) if each.is_dir())
            raise UserError(f"{reference}: no such demo model; there is {known}", code="demo-unknown")
        return folder
    if scheme == "models":
        from inranker_flow.model_registry import stored_files  # with MLflow, which a checkpoint of files does without

        return stored_files.fetch(reference)
    if scheme in ("s3", "file"):
        return _checked(uris.local_copy(reference), reference)
    path = Path(reference).expanduser()
    if path.is_dir():
        return _checked(path, reference)
    if path.exists() or reference.startswith((".", "/", "~")) or not HUB_ID.fullmatch(reference):
        raise UserError(
            f"{reference}: no such checkpoint folder; give a folder with config.json, s3:// or a hub id",
            code="not-found",
        )
    return None


def _checked(folder: Path, reference: str) -> Path:
    files.check_whole(reference, [each.name for each in folder.iterdir()], files.reader(folder))
    if not (folder / "config.json").is_file():
        other = next((each.name for each in sorted(folder.iterdir()) if each.suffix in (".gguf", ".onnx")), "")
        told = f"; {other} is of a format that is not read" if other else ""
        raise UserError(
            f"{reference}: not a checkpoint: the folder holds no config.json{told}; give a folder as save_pretrained writes it",
            code="checkpoint-incomplete",
        )
    return folder


def checkpoint_identity(reference: str, revision: str = "") -> str:
    """Return the identity of a checkpoint's outputs: a content digest where there is a folder, else reference and commit."""
    scheme = reference.partition(":")[0]
    if scheme == "init":
        return f"{reference}@{revision}"
    if scheme == "s3":
        return f"sha256:{uris.fingerprint(reference)}"
    folder = locate(reference)
    return f"sha256:{digest_folder(folder)}" if folder else f"{reference}@{_commit(reference, revision)}"


def _commit(reference: str, revision: str) -> str:
    """Return the commit of the hub that a revision (a branch, a tag; "": the main branch) means now; itself where nobody
    knows."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    if _hub_answers():
        with _explained(reference, local=False):
            return str(HfApi().model_info(reference, revision=revision or None, timeout=_HUB_TIMEOUT).sha)
    kept = try_to_load_from_cache(reference, "config.json", revision=revision or None)
    return Path(kept).parent.name if isinstance(kept, str) else revision or "main"


def load_seq2seq(
    reference: str, revision: str = "", dtype: Any = None, dropout: float | None = None
) -> tuple[Any, Any]:
    """Return (model, tokenizer) of an encoder-decoder checkpoint, in evaluation mode on the CPU.

    ``dtype`` is a torch dtype (None: float32, whatever the file holds); ``dropout`` replaces the checkpoint's own.
    Raises :class:`UserError` for one that is missing, incomplete or of another kind.
    """
    change = None if dropout is None else lambda config: set_dropout(config, dropout)
    model, tokenizer = load_generator(reference, revision, dtype, change)
    if not model.config.is_encoder_decoder:
        raise UserError(
            f"{reference}: a {model.config.model_type} checkpoint; a T5 (encoder-decoder) is needed here",
            code="checkpoint-kind",
        )
    if getattr(model.config, "decoder_start_token_id", None) is None:
        # T5's decoder begins with the padding's token, whether or not config.json says it.
        model.config.decoder_start_token_id = tokenizer.pad_token_id or 0
    return model, tokenizer


def load_generator(
    reference: str, revision: str = "", dtype: Any = None, change: Change | None = None
) -> tuple[Any, Any]:
    """As :func:`load_seq2seq`, and causal language models too. ``change`` sets what it likes in the config beforehand."""
    import torch

    if reference.startswith("init:"):
        model, tokenizer = _random(reference, change)
        return model.to(dtype or torch.float32), tokenizer
    source = _source(reference, revision)
    config = _config(reference, source)
    if change:
        change(config)
    kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
    return _pair(reference, _load(reference, source, config, kind, dtype), load_tokenizer(reference, revision))


def load_classifier(reference: str, revision: str = "", dtype: Any = None) -> tuple[Any, Any]:
    """As :func:`load_seq2seq`, for a checkpoint with a classification head."""
    import torch

    if reference.startswith("init:"):
        model, tokenizer = _random(reference)
        return model.to(dtype or torch.float32), tokenizer
    source = _source(reference, revision)
    model = _load(reference, source, _config(reference, source), "AutoModelForSequenceClassification", dtype)
    return _pair(reference, model, load_tokenizer(reference, revision))


def load_body(reference: str, revision: str = "", dtype: Any = None) -> tuple[Any, Any]:
    """As :func:`load_seq2seq`, for a model without any head: what makes vectors of tokens."""
    source = _source(reference, revision)
    model = _load(reference, source, _config(reference, source), "AutoModel", dtype)
    return _pair(reference, model, load_tokenizer(reference, revision))


def load_encoder(reference: str, revision: str, seed: int, change: Change) -> tuple[Any, Any, bool]:
    """Return (model with a classification head, tokenizer, whether the head is new), in float32, to be trained.

    ``change`` sets what it likes in the config before the model is made. A checkpoint without a head of one or two labels
    gets one of one label; ``seed`` decides its weights, whatever else the process did before.
    """
    import torch

    if reference.startswith("init:"):
        return *_random(reference, change), True  # the reference's own seed decides all of its weights
    source = _source(reference, revision)
    config = _config(reference, source)
    architecture = (config.architectures or [""])[0]
    headed = architecture.endswith("ForSequenceClassification") or (not architecture and _has_head(reference, source))
    new = not headed or config.num_labels not in (1, 2)
    if new:
        config.num_labels = 1
    change(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _load(reference, source, config, "AutoModelForSequenceClassification", None, new_head=new)
    return *_pair(reference, model, load_tokenizer(reference, revision)), new


def _has_head(reference: str, source: _Source) -> bool:
    """Return whether the weights in a folder hold a head, where config.json does not say; of other places nobody knows."""
    if source[1]:
        return False
    folder = Path(source[0])
    names = [each.name for each in folder.iterdir()]
    return tensors.has_head(files.check_weights(reference, names, files.reader(folder), folder))


def _pair(reference: str, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Both, where the model has a row for every token that the tokenizer can give."""
    rows = model.get_input_embeddings().weight.shape[0]
    files.check_size(reference, max(tokenizer.get_vocab().values(), default=-1) + 1, rows)
    return model, tokenizer


def load_config(reference: str, revision: str = "") -> Any:
    """Return the checkpoint's ``config.json`` as transformers reads it. Raises :class:`UserError` where there is none."""
    return _config(reference, _source(reference, revision))


def raw_config(reference: str, revision: str = "") -> dict[str, Any]:
    """Return the checkpoint's ``config.json`` as it is written. Raises :class:`UserError` where there is none."""
    if reference.startswith("init:"):
        return {}
    return files.parse_config(reference, read_file(reference, revision)("config.json") or b"")


def read_file(reference: str, revision: str = "") -> files.Read:
    """Reads small files of a checkpoint, whether they lie in a folder or on the hub."""
    place, options = _source(reference, revision)
    if not options:
        return files.reader(Path(place))

    def read(name: str) -> bytes | None:
        with _explained(reference, local=False):
            from transformers.utils import cached_file

            wanted = {"_raise_exceptions_for_missing_entries": name == "config.json"}
            found = cached_file(place, name, **options, **wanted)
        return Path(found).read_bytes() if found else None

    return read


#: Folder or hub id, and options for the latter.
_Source = tuple[str, dict[str, Any]]


def _source(reference: str, revision: str) -> _Source:
    """Return the name under which transformers finds a reference."""
    folder = locate(reference)
    # A revision names a state of the hub; that of a folder is its content (pinned at submission).
    return (str(folder), {}) if folder else (reference, _hub_options(revision))


def _config(reference: str, source: _Source) -> Any:
    with _explained(reference, local=not source[1]):
        from transformers import AutoConfig, PretrainedConfig
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if source[1]:
            written = PretrainedConfig.get_config_dict(source[0], **source[1])[0]
        else:
            written = files.parse_config(reference, files.reader(Path(source[0]))("config.json") or b"")
        if told := files.check_config(reference, written, CONFIG_MAPPING.keys()):
            log.info("%s: %s", reference, told)
        # None would ask on the terminal whether to run the checkpoint's own code.
        return AutoConfig.from_pretrained(source[0], trust_remote_code=False, **source[1])


def _load(reference: str, source: _Source, config: Any, kind: str, dtype: Any, new_head: bool = False) -> Any:
    """Return a whole model of the auto class ``kind``, in evaluation mode; with ``new_head`` its head may be lacking."""
    import torch
    import transformers

    if not source[1]:
        folder = Path(source[0])
        names = [each.name for each in folder.iterdir()]
        files.check_weights(reference, names, files.reader(folder), folder)
    with _explained(reference, local=not source[1]):
        model, found = getattr(transformers, kind).from_pretrained(
            source[0],
            config=config,
            dtype=dtype or torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=new_head,
            **source[1],
        )
    if kind == "AutoModel":  # the layer over its first token, which few such checkpoints keep, makes no vector here
        found["missing_keys"] = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    if new_head:
        inside = f"{model.base_model_prefix}."
        found["missing_keys"] = [
            name for name in found["missing_keys"] if name.startswith(inside) and ".pooler." not in name
        ]
        if lost := [
            name for name, *_ in found["mismatched_keys"] if name.startswith(inside) and ".pooler." not in name
        ]:
            raise UserError(
                f"{reference}: the sizes in config.json are not those of the weights, first {sorted(lost)[0]}; fetch the "
                "checkpoint again, or correct config.json",
                code="checkpoint-config",
            )
    tensors.check_loaded(reference, model, found["unexpected_keys"])
    if found["missing_keys"] and (code := files.own_code(config.to_dict())):
        raise UserError(
            f"{reference}: its weights are those of code of its own ({code}), which is never run here: a "
            f"{type(model).__name__} lacks {sorted(found['missing_keys'])[0]}; give another checkpoint",
            code="checkpoint-code",
        )
    if found["missing_keys"]:
        # transformers would go on with random weights in their place.
        raise UserError(
            f"{reference}: lacks weights of a {type(model).__name__}: {sorted(found['missing_keys'])[0]} and "
            f"{len(found['missing_keys']) - 1} more; give a complete checkpoint",
            code="checkpoint-incomplete",
        )
    return model.eval()


def load_tokenizer(reference: str, revision: str = "") -> Any:
    """Return the tokenizer alone, of a checkpoint or of a folder that holds nothing else."""
    if reference.startswith("init:"):
        return random_models.dress(reference, load_tokenizer(random_models.options(reference)[1]["tokenizer"]))
    folder = Path(reference).expanduser()
    found = folder if folder.is_dir() else locate(reference)
    if found:
        files.check_tokenizer(reference, files.reader(found), [each.name for each in found.iterdir()])
    with _explained(reference, local=found is not None):
        from transformers import AutoTokenizer

        options = {} if found else _hub_options(revision)
        return AutoTokenizer.from_pretrained(str(found or reference), trust_remote_code=False, **options)


def _random(reference: str, change: Change | None = None) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(reference)
    return random_models.make(reference, tokenizer, change).eval(), tokenizer


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout of a model's configuration, whatever its kind calls it (``dropout_rate``, ``hidden_dropout_prob``)."""
    for name, value in config.to_dict().items():
        named = "dropout" in name or name.endswith("pdrop")  # GPT-2's: attn_pdrop, embd_pdrop, resid_pdrop
        if named and (value is None or isinstance(value, float | int)) and not isinstance(value, bool):
            setattr(config, name, rate)


def label_token_ids(
    tokenizer: Any, false_token: str, true_token: str, kind: str = "monoT5", alone: bool = False
) -> tuple[int, int]:
    """Return ids of the two label tokens, as vocabulary pieces (``▁true``, not ``true``); ``alone``: of one and the same.

    Raises :class:`UserError` naming checkpoint and token where one is not in the vocabulary, and so it is no ``kind``.
    """
    vocabulary = tokenizer.get_vocab()
    for token in (false_token, true_token):
        if vocabulary.get(token, tokenizer.unk_token_id) in (None, tokenizer.unk_token_id):
            raise UserError(
                f"{tokenizer.name_or_path}: the vocabulary has no token {token!r}, so this checkpoint is no {kind}; "
                "give one that has, or set true_token and false_token to its own label words",
                code="checkpoint-tokens",
            )
    if false_token == true_token and not alone:
        raise UserError(
            f"true_token and false_token are both {true_token!r}; they must differ", code="setting-conflict"
        )
    return vocabulary[false_token], vocabulary[true_token]


def _hub_options(revision: str) -> dict[str, Any]:
    """Return options for a hub id. Where the hub does not answer only its local cache is looked at."""
    return {"revision": revision or None, "local_files_only": not _hub_answers()}


@cache
def _hub_answers() -> bool:
    """Return one short question: the hub's own client would retry for half a minute, for each file."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT)
    except Exception as error:  # its HTTP library's, which has changed from release to release
        log.warning("%s does not answer (%s): looking in the local cache only", constants.ENDPOINT, error)
        return False
    return True


def _no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


@contextmanager
def _explained(reference: str, local: bool) -> Iterator[None]:
    """Turn the loader's errors into one line."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # What is missing is said here, in one line.
    logging.getLogger("transformers.modeling_utils").addFilter(_no_report)
    try:
        yield
    except UserError:
        raise
    # The loaders raise OSError, ValueError, KeyError, the hub's, httpx's and safetensors' own errors.
    except Exception as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:300] or type(error).__name__
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{reference}: brings code of its own, which is never run here, and does not load without it; give a checkpoint "
                "of a type that transformers knows",
                code="checkpoint-code",
            ) from error
        if local:
            raise UserError(
                f"{reference}: this checkpoint does not load, so fetch it again or give another: {reason}",
                code="checkpoint-damaged",
            ) from error
        raise UserError(
            f"{reference}: neither a local folder nor to be had from the Hugging Face hub; check the name, the network "
            f"and HF_TOKEN, or give a folder or s3:// ({reason})",
            code="not-found",
        ) from error
