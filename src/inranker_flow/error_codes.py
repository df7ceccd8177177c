"""The codes of errors that a person can mend (`errors.UserError.code`).

A code stays as it is while its line may be worded anew: tests, alerts and scripts ask for the code. docs/errors.md is generated
from this table: ``python -m inranker_flow.error_codes > docs/errors.md``.
"""

from __future__ import annotations

#: Group -> code -> what is wrong.
GROUPS: dict[str, dict[str, str]] = {
    "Settings": {
        "command-line": "An option of a command that does not exist, or has no value.",
        "setting-unknown": "A section or a setting that does not exist.",
        "setting-missing": "A setting that has no default has no value.",
        "setting-type": "A value of another type than the setting's.",
        "setting-value": "A value outside of the setting's range or choices.",
        "setting-conflict": "Two settings that exclude each other.",
        "setting-twice": "One setting with two values.",
        "setting-syntax": "SET that is not of the form section.key=value, or quotes without an end.",
        "setting-compiled": "A setting that is fixed when the pipeline is compiled.",
        "profile-unknown": "No profile of this name, and no file.",
        "pipeline-unknown": "No pipeline of this name.",
        "cron-form": "A schedule that is no six fields, or has no date.",
        "yaml-form": "A file that is no valid YAML.",
        "measure-unknown": "A measure that ir_measures cannot compute here.",
        "measure-twice": "One measure, named twice.",
        "measure-no-value": "A measure that has no value for some query.",
        "language-unknown": "A language without stemmer and stop words.",
        "device-unknown": "A device that the table of devices lacks.",
        "device-unsuitable": "A setting that this machine's processor or GPUs cannot do.",
        "address-form": "An address of no known form.",
        "secret-shown": "An address that holds a password or a token.",
        "name-unusable": "A name of a file or folder that cannot be used.",
        "path-of-this-machine": "A file of this machine, which no pod can read.",
        "needs-checkout": "A command that needs a checkout, not the installed package alone.",
        "package-missing": "A library that is not installed here.",
    },
    "Files and folders": {
        "not-found": "No file, folder, checkpoint or object at this address.",
        "disk-unreadable": "A file or folder that cannot be read.",
        "disk-refused": "A place that cannot be written.",
        "disk-full": "A disk without room.",
        "folder-in-use": "A folder in which another run is working.",
        "folder-not-of-runs": "A folder that no run has made.",
        "folder-not-empty": "A folder that is to be written and holds something.",
        "folder-link": "A link where a folder or file must be.",
        "text-encoding": "A text that is not UTF-8.",
        "text-file": "Something else where a text file must be.",
        "text-too-long": "A text file that is too long.",
    },
    "Collections": {
        "collection-form": "A place that holds no collection in a known form.",
        "collection-empty": "A collection without documents or files.",
        "collection-no-documents": "Files, but no documents among them.",
        "collection-no-queries": "Judgements without queries.",
        "collection-several": "Several collections in one folder.",
        "collection-part-missing": "A file in parts, of which one is missing.",
        "collection-file": "A link, folder or device where a file of the collection must be.",
        "collection-damaged": "A file that is cut off or damaged.",
        "collection-row": "A row that cannot be read: its line is named.",
        "collection-column": "A table without a column that is needed, or with one of another type.",
        "collection-split": "A split that has no judgements.",
        "collection-name": "A name that a collection cannot have.",
        "collection-name-twice": "Two collections with one name.",
        "collection-twice": "One collection, named twice.",
        "collection-changed": "A collection that was changed while it was read.",
        "cannot-count": "A collection that cannot be counted before it is downloaded.",
        "judgements-form": "Judgements in a form that is not read.",
        "judgements-empty": "A file of judgements that holds none.",
        "judgements-unusable": "Judgements of which none fits a query and a document, or none says relevant.",
        "labels-form": "Soft labels in none of the published forms.",
        "labels-unusable": "Soft labels of which none fits a query and a document.",
        "dataset-unknown": "An id that ir_datasets does not know.",
        "dataset-unusable": "A dataset of ir_datasets without documents or queries.",
        "dataset-fields": "A dataset of ir_datasets whose fields must be chosen.",
        "dataset-unreachable": "A dataset of ir_datasets that cannot be fetched.",
        "demo-unknown": "A collection or a model that the demo does not have.",
        "corpora-none": "No corpora where the schedule looks for them.",
        "wishes-form": "A corpus's own settings that cannot be used.",
        "all-left-out": "Every target of the run is refused.",
        "passages-missing": "Nothing to rank.",
        "passage-form": "A passage that is neither text nor has one.",
    },
    "Checkpoints": {
        "checkpoint-incomplete": "A folder that lacks config.json, weights or a part of them.",
        "checkpoint-damaged": "A file of a checkpoint that is cut off or damaged.",
        "checkpoint-pointer": "A Git LFS pointer instead of a file.",
        "checkpoint-config": "A config.json that contradicts itself.",
        "checkpoint-kind": "A model that cannot do what is asked of it.",
        "checkpoint-code": "A checkpoint that needs code of its own, which is never run here.",
        "checkpoint-quantised": "Quantised weights, which are not read here.",
        "checkpoint-adapter": "An adapter without its base model.",
        "checkpoint-tokens": "A vocabulary without a token that is needed.",
        "checkpoint-tokenizer": "A tokenizer that is missing or cannot be used.",
        "checkpoint-labels": "A classification head whose labels do not say which is relevant.",
        "checkpoint-pooling": "A bi-encoder whose files do not say how it makes vectors, or say what is not done here.",
        "checkpoint-size-unknown": "A random checkpoint of a size that does not exist.",
        "model-foreign": "A folder that does not say how its model reads.",
    },
    "Stages": {
        "preflight-failed": "A check before the run that failed: each has its own line.",
        "unexpected": "An error that the code did not foresee: its traceback is in the log.",
        "stage-failed": "A process of the run that ended with an error.",
        "process-died": "A process of a stage that was killed, mostly for want of memory.",
        "out-of-memory": "The smallest piece of work does not fit into memory.",
        "search-body": "A template of a search that is no JSON object, or has no place for the query.",
        "search-refused": "A search that an index refuses.",
        "run-incomplete": "Queries that the run files of a collection lack.",
        "queries-find-nothing": "Queries that share no word with any passage.",
        "queries-useless": "A generator whose answers are no queries, or a log without a query of use.",
        "log-form": "A file of queries that were asked, in a form that is not read.",
        "log-empty": "A file of queries that were asked, without one.",
        "nothing-to-ask": "No document to write queries for.",
        "nothing-to-label": "Neither pairs nor published labels.",
        "nothing-to-train": "No labels, or none after the holdout.",
        "logits-not-finite": "A teacher whose logits are no finite numbers.",
        "scores-alike": "A teacher that gives all pairs the same score.",
        "scores-no-probabilities": "A server whose scores are called probabilities and lie outside of 0 to 1.",
        "scores-not-finite": "A model whose scores are no finite numbers.",
        "training-diverged": "A training whose loss or weights are no finite numbers.",
        "job-form": "A training process that was given no job.",
        "accelerate-unsupported": "accelerate with a way of splitting weights that is not used here.",
        "scratch-not-shared": "A checkpoint that not all processes see.",
        "prompt-missing": "No template of this name, and no file.",
        "prompt-form": "A template that lacks a slot, or has an unknown setting.",
        "prompt-no-chat": "A chat prompt for a model without chat template.",
        "prompt-too-long": "A context without room for a document.",
        "prompt-examples": "A prompt that shows more queries than the corpus has.",
        "backend-missing": "A backend of generation that is not installed here.",
        "judge-useless": "A judge whose answers mostly hold no grade, or all the same one.",
        "model-not-served": "A server that does not serve the model that is asked for.",
        "index-mismatch": "An index that was built with other settings.",
        "candidates-missing": "A collection without candidates.",
        "candidates-useless": "Candidates of which none is relevant.",
    },
    "Artifacts and the store": {
        "artifact-missing": "An artifact that is not there, or whose stage did not end.",
        "artifact-damaged": "An artifact that is not what its manifest says.",
        "artifact-unreadable": "An artifact that cannot be read.",
        "artifact-replaced": "An artifact of other content than the pipeline knows.",
        "artifact-mismatch": "Artifacts that do not belong together.",
        "artifact-old": "An artifact of an older version.",
        "pointer-damaged": "A pointer to a moved artifact that cannot be read.",
        "record-damaged": "A record of a run or a claim that cannot be read.",
        "table-form": "A table of another form.",
        "table-value": "A row of a table without a value, or with one that is no number.",
        "table-key-twice": "Two rows of a table with one key.",
        "reference-lost": "A row that names an id that is not there.",
        "store-off": "Work that is to be shared, without a store.",
        "store-refused": "A store that cannot be written.",
        "store-damaged": "A file of the store that is damaged.",
        "store-misbehaves": "A server without conditional puts, or that gives back other bytes.",
        "workers-mismatch": "A number of workers that the pipeline was not compiled for.",
    },
    "Servers": {
        "server-no-answer": "A server that does not answer.",
        "server-refused": "A server that refuses a request, whoever asks again.",
        "port-refused": "A port or address at which this process may not listen.",
        "server-misbehaves": "A server that answers with something else than was asked for.",
        "s3-settings": "Settings of S3 that cannot be used.",
        "s3-credentials": "No credentials for S3.",
        "s3-refused": "S3 refuses what is asked of it.",
        "hub-refused": "The hub does not give a file.",
        "secret-form": "A Secret or token that cannot be used as it is.",
        "secret-unreadable": "A mounted Secret that cannot be read.",
    },
    "Model registry": {
        "registry-unset": "No registry is named.",
        "registry-address": "An address of MLflow that cannot be used.",
        "registry-refused": "MLflow refuses what is asked of it.",
        "registry-misbehaves": "A server that is no MLflow, or does not keep what it was given.",
        "registry-damaged": "A registered version whose tags or files are damaged.",
        "experiment-deleted": "An experiment that was deleted.",
        "database-damaged": "A database of MLflow that is damaged, empty or another program's.",
        "model-name": "A name that a registered model cannot have.",
        "version-missing": "A version that the registry does not have.",
        "scores-changed": "A version whose scores are not those of its evaluation.",
        "champion-changed": "Another version began to serve in the meantime.",
        "history-nowhere": "No version to go back to.",
    },
    "The cluster": {
        "cluster-absent": "This is no pod of a cluster.",
        "cluster-refused": "Kubernetes refuses what is asked of it.",
        "cluster-no-room": "No node has room for a task.",
        "queue-missing": "A queue that does not exist.",
        "queue-held": "A queue that is held.",
        "queue-quota": "A queue whose quota is too small.",
        "trainer-missing": "Kubeflow Trainer is not installed.",
        "trainjob-failed": "A TrainJob that failed.",
        "trainjob-lost": "A TrainJob that is gone.",
        "kubeconfig-missing": "No kubeconfig on this machine.",
        "kubeconfig-form": "A kubeconfig that cannot be used.",
        "kfp-address": "No API of KFP at this address.",
        "kfp-login": "KFP does not know who asks.",
        "kfp-namespace": "KFP refuses this namespace.",
        "kfp-tls": "A certificate that is not trusted.",
        "kfp-refused": "KFP refuses what is asked of it.",
        "run-unknown": "No run of this name.",
        "run-live": "The same run is under way.",
        "run-lost": "A run whose workflow is gone.",
        "schedule-busy": "A schedule whose run is under way.",
        "too-many-targets": "More targets than the status of one workflow has room for.",
        "arguments-mismatch": "Arguments that the compiled pipeline does not take.",
        "arguments-too-long": "Arguments that are longer than KFP takes.",
        "image-unknown": "No image of this name.",
        "image-not-pushed": "An image that no cluster can pull.",
        "docker-missing": "No docker engine answers.",
        "build-failed": "An image or a wheel that cannot be built.",
    },
}  # fmt: skip

#: Code -> what is wrong.
CODES = {code: about for group in GROUPS.values() for code, about in group.items()}

#: Codes with a row of their own in docs/runbook.md; of the others the row of the group tells what to do.
_ROWS = """
    all-left-out artifact-damaged backend-missing candidates-useless champion-changed checkpoint-adapter checkpoint-code
    checkpoint-damaged checkpoint-incomplete checkpoint-kind checkpoint-labels checkpoint-pointer checkpoint-pooling
    checkpoint-tokenizer checkpoint-tokens cluster-no-room collection-column collection-name collection-row
    database-damaged dataset-fields disk-full experiment-deleted folder-in-use folder-not-of-runs hub-refused
    image-not-pushed judge-useless judgements-empty judgements-form judgements-unusable logits-not-finite measure-no-value
    measure-unknown model-not-served out-of-memory process-died prompt-no-chat queries-find-nothing queries-useless
    queue-missing queue-quota registry-address registry-damaged registry-misbehaves registry-refused run-incomplete
    run-lost s3-refused schedule-busy scratch-not-shared search-refused setting-compiled setting-type setting-unknown
    setting-value store-misbehaves text-encoding too-many-targets unexpected
"""


def row(code: str) -> str:
    """Return the place in docs/runbook.md that says what to do about an error of this ``code``; "" for none."""
    group = next((group for group, codes in GROUPS.items() if code in codes), "")
    anchor = code if code in _ROWS.split() else group.lower().replace(" ", "-")
    return f"docs/runbook.md#{anchor}" if group else ""


def with_row(line: str, code: str) -> str:
    """Return the line about an error of this ``code`` with the place of its row in the runbook at the end, once."""
    found = row(code)
    return f"{line} ({found})" if found and "(docs/runbook.md#" not in line else line


_HEAD = """# Codes of errors

An error that a person can mend is one line: which file or setting, what is wrong, what to do. Its kind has a code, which stays
as it is while the line may be worded anew. The code is in `UserError.code`, in the record of a local run
(`artifacts/events/*.jsonl`, `code`) and in the tag `inranker.error` of the stage's run in MLflow. The line ends with the place in
the [runbook](runbook.md) that says what to do.

<!-- made by `python -m inranker_flow.error_codes > docs/errors.md` -->
"""


def markdown() -> str:
    """Return docs/errors.md: a table for each group."""
    tables = (
        f"\n## {group}\n\n| code | what is wrong |\n|---|---|\n"
        + "".join(f"| `{code}` | {about} |\n" for code, about in codes.items())
        for group, codes in GROUPS.items()
    )
    return _HEAD + "".join(tables)


if __name__ == "__main__":
    print(markdown(), end="")
