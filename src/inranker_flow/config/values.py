"""Types of settings that several sections have."""

from __future__ import annotations

from typing import Annotated, Literal

from inranker_flow.config.rules import NO_RESULT, LanguageName, Range, Text

#: Beyond it are typing errors: no corpus has so many rows, and 32 bits hold it.
MOST = 2**31 - 1

#: What a reranker is: see `ScoringConfig.kind`.
Kind = Literal["monot5", "causal", "encoder"]

#: Forms of a student beside its checkpoint: see `ExportConfig.variants`.
VariantName = Literal["onnx", "onnx-int8", "onnx-int8-static", "openvino", "openvino-int8"]

#: Schemes of a collection that is one file of pairs with their labels, and of labels of a collection (``SCHEME:FILE``).
LABELLED_TEXTS = ("inranker-beir", "soft-labels")
LABELS = ("inranker-msmarco", "soft-labels")
LABELS_FORMS = "inranker-msmarco:FILE.tsv or soft-labels:FILE"
#: What finds candidates: see `RetrieveConfig.first_stage`.
FirstStageName = Literal["bm25", "dense", "hybrid", "run", "opensearch"]
#: Of these, the ones that compute vectors.
ENCODING = ("dense", "hybrid")

#: What a measure rests on, the most trusted first: people's judgements, a language model's grades, the passage that a query
#: was written for, the teacher's scores.
EvidenceName = Literal["human", "judge", "known_item", "agreement"]

Count = Annotated[int, Range(0, MOST)]
Positive = Annotated[int, Range(1, MOST)]
#: Tokens of a prompt: no model reads more, and with fewer than 16 no passage is left.
Length = Annotated[int, Range(16, 131_072)]
Amount = Annotated[float, Range(0, 1e9)]
Gain = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1)]
Required = Annotated[str, Text(empty=False)]
#: A text of several lines may be given where a file is named.
Prompt = Annotated[str, Text(lines=True, most=100_000)]
#: A language by its name or ISO 639-1 code.
Language = Annotated[str, LanguageName()]
#: What a column of a table of documents is.
FieldName = Literal["id", "title", "text", "document"]
#: A piece of a vocabulary.
Token = Annotated[str, Text(most=100)]
#: The address of a server; its key is in the environment alone.
ServerAddress = Annotated[
    str, Text(r"https?://[^\s/?#@]+(/[^\s?#]*)?", "is no address such as http://HOST:PORT/v1", secret=True), NO_RESULT
]
Concurrency = Annotated[int, Range(1, 10_000), NO_RESULT]
Timeout = Annotated[float, Range(0.1, 86_400), NO_RESULT]
Retries = Annotated[int, Range(0, 1000), NO_RESULT]
Split = Annotated[
    str,
    Text(
        r"[\w.-]*[\w-](/[\w.-]*[\w-])*",
        "may hold only letters, digits, '.', '_' and '-': it is the name of a file in qrels/",
        empty=False,
        most=100,
    ),
]
ModelName = Annotated[
    str,
    Text(
        r"\w([\w .-]*[\w.-])?(?<!-history)",
        "is no name for a registered model: letters, digits, '.', '_', '-' and blanks inside, and no -history at its end",
        empty=False,
        most=200,
    ),
]
#: Kubernetes' own rules for names with an optional domain before them.
LABEL = r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LabelName = Annotated[str, Text(LABEL, "is no name that Kubernetes takes (nvidia.com/gpu)", empty=False, most=300)]
LabelValue = Annotated[
    str, Text(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", "is no value of a label in Kubernetes (true)", most=63)
]

#: CPUs as Kubernetes writes them.
Cpus = Annotated[
    str,
    Text(
        r"(?!0*(\.0*)?m?$)([0-9]{1,4}(\.[0-9]{1,3})?|[0-9]{1,7}m)", "is no number of CPUs (2, 0.5, 500m)", numbers=True
    ),
]
