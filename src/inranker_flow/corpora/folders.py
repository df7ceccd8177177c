"""The corpora below a prefix: one folder for each, in any layout that is read, perhaps with a `corpus.yaml`
(:class:`Wishes`)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

from inranker_flow import text_files
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import CorporaConfig, CorpusConfig
from inranker_flow.config.values import Count, FieldName, Language, Prompt, Split
from inranker_flow.corpora.problems import BadCollection
from inranker_flow.corpora.sources import layout
from inranker_flow.errors import UserError
from inranker_flow.storage import uris
from inranker_flow.storage.listing import FileInfo, fingerprint_of

log = logging.getLogger(__name__)


WISHES = layout.SETTINGS


@dataclass(frozen=True)
class Wishes:
    """The settings of a corpus.yaml: the template (by name, or its text) and the number of documents of its synthetic queries,
    the names of its splits in qrels/, the language and the licence of its texts, and how its documents are read."""

    prompt: Prompt = ""
    documents: Count = 0
    train_split: Split = "train"
    test_split: Split = "test"
    language: Language = ""
    licence: str = ""
    fields: dict[FieldName, str] = field(default_factory=dict)
    passage_tokens: Count = 0
    passage_overlap: Count = 0


@dataclass
class Folder:
    """One below the prefix; ``state``: same, new, changed, uploading, quarantined (what it holds is broken) or unread (it
    could not be read this time), with the reason."""

    name: str
    uri: str
    files: list[FileInfo]
    config: CorpusConfig | None = None
    state: str = ""
    reason: str = ""

    @property
    def names(self) -> set[str]:
        """Of its files, relative to it."""
        return {file.uri.removeprefix(f"{self.uri}/") for file in self.files}

    @property
    def holds_documents(self) -> bool:
        return layout.holds_documents(self.names)

    def set_aside(self, error: Exception) -> None:
        """Leave it out of this run. Only what a reader found wrong in the corpus itself says something about the corpus;
        whatever else happened, of whatever kind, passes."""
        self.config = None
        if isinstance(error, BadCollection):
            self.state, self.reason = "quarantined", str(error)
            return
        said = " ".join(str(error).split())
        said = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"[:300]
        self.state, self.reason = "unread", f"not read tonight: {said}; the next run tries again"
        log.debug("%s: not read", self.name, exc_info=error)

    @property
    def look(self) -> str:
        return fingerprint_of(self.uri, self.files)


def look_below(config: CorporaConfig) -> list[Folder]:
    """Return one for each folder below the prefix; files and hidden folders there are none of its business."""
    if not config.uri:
        return []
    root = config.uri.rstrip("/")
    if not root.startswith("s3://"):
        return _look_on_disk(config, root)
    files = uris.look(root)
    if not files:
        raise UserError(_nothing(config), code="corpora-none")
    folders: dict[str, list[FileInfo]] = {}
    for file in files:
        name, slash, _ = file.uri.removeprefix(f"{root}/").partition("/")
        if slash and not name.startswith("."):
            folders.setdefault(name, []).append(file)
    return [Folder(name, f"{root}/{name}", own) for name, own in sorted(folders.items())]


def _nothing(config: CorporaConfig) -> str:
    return f"corpora.uri: {config.uri}: nothing is stored there; correct the address, or upload a corpus"


def _look_on_disk(config: CorporaConfig, root: str) -> list[Folder]:
    """Look at each folder by itself: what hinders one (its rights, a mount that is gone) is its own."""
    try:
        with os.scandir(uris.local_path(root)) as entries:
            # A link that leads nowhere, or a file, is no folder.
            names = sorted(each.name for each in entries if not each.name.startswith(".") and _is_folder(each))
    except FileNotFoundError as error:
        raise UserError(_nothing(config), code="corpora-none") from error
    except OSError as error:
        raise UserError(
            f"corpora.uri: {config.uri}: cannot be listed: {error.strerror}; give a folder with one folder for each corpus, "
            "which this user may read",
            code="disk-unreadable",
        ) from error
    found = []
    for name in names:
        each = Folder(name, f"{root}/{name}", [])
        try:
            layout.local_files(uris.local_path(each.uri))  # says what hinders, where a listing leaves that out
            each.files = uris.look(each.uri)
        except Exception as error:
            each.set_aside(error)
        found.append(each)
    return [each for each in found if each.files or each.state]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # looked at, and reported, as one


def read_wishes(folder: Folder) -> Wishes:
    """Return the settings of its corpus.yaml. Raises :class:`UserError` for one that is no YAML or has other keys."""
    if WISHES not in folder.names:
        return Wishes()
    where = f"{folder.uri}/{WISHES}"
    content = uris.read(where)  # a store that does not answer says nothing about the corpus
    try:
        data = text_files.parse_yaml(text_files.decode(content, where), where)
        return parse(Wishes, data or {}, where)
    except UserError as error:
        raise BadCollection(str(error), code=error.code) from error
