"""The model card: what the hub and MLflow read of it, and what a person must find in it."""

from __future__ import annotations

import pytest
import yaml

from inranker_flow.model_registry import model_card
from tests.promoting import summary, training


def told(record: dict, measured: dict) -> model_card.Told:
    return model_card.Told(
        "search", "phase2", record, measured, (), ("where is the inn?", ["It lies on the hill."]), ["pt"]
    )


def write(record: dict | None = None, measured: dict | None = None) -> str:
    measured = measured or summary(bm25=0.2, phase1=0.5, phase2=0.7, teacher=0.8, champion=0.6)
    return model_card.write(told(record or training(), measured))


def test_the_hub_reads_its_front_matter(tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "README.md").write_text(write(), encoding="utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.base_model) == (
        "transformers", "text-ranking", "google-t5/t5-small",
    )  # fmt: skip
    assert (data.license, data.language, data.datasets) == ("other", ["pt"], ["inns", "medicines"])
    [result] = data.eval_results
    assert (result.task_type, result.dataset_name, result.metric_name) == ("text-ranking", "medicines", "nDCG@10")
    assert result.metric_value == 0.7
    plain = yaml.safe_load(write().split("---\n")[1])
    assert plain["model-index"][0]["name"] == "search"
    assert plain["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.7


@pytest.mark.parametrize("base", ["demo:student", "/models/t5", "s3://bucket/t5", "init:tiny", "t5-small"])
def test_a_base_model_that_is_no_hub_id_is_named_in_the_text_alone(base):
    record = training()
    record["lineage"][0]["start"] = base
    card = write(record)
    assert "base_model" not in card.split("---\n")[1] and f"- Base model: `{base}`" in card


def test_it_names_teacher_data_digests_prompt_and_limits():
    card = write()
    for text in (
        "- Teacher: `castorini/monot5-3b-msmarco-10k` at revision `0123abc`",
        "- Base model: `google-t5/t5-small` (google-t5/t5-small@main)",
        f"| 1 | inns | 900 | `{'a' * 16}` |",
        f"| 2 | medicines | 450 | `{'c' * 16}` |",
        f"| medicines | collection | `{'d' * 16}` |",
        "`Query: {query} Document: {passage} Relevant:`",
        "at most 128 tokens",
        "adapted it to medicines",
        "It has 1,000,000 parameters, 4.0 MB. Reranking 100 passages for one query took 20.0 ms in the median and 30.0 ms "
        "at the 95th percentile (20 queries, a processor).",
        "| base model | `google-t5/t5-small` | apache-2.0 |",
        "| teacher, by its labels | `castorini/monot5-3b-msmarco-10k` | not recorded: look it up",
        "| texts | inns | not recorded: look it up before you hand the model on |\n| texts | medicines | cc-by-4.0 |",
    ):
        assert text in card, text


def test_its_table_has_every_system_and_what_the_difference_is_worth():
    card = write()
    assert "| dataset | test queries | bm25 | phase1 | **this model** (phase2) | teacher | champion |" in card
    assert "| medicines | 30 | 0.2000 | 0.5000 | 0.7000 | 0.8000 | 0.6000 | 0.9000 |" in card
    assert "| medicines | champion | +0.1000 [+0.0900, +0.1100] | 20 | 3 | 0.002 |" in card
    assert "| medicines | teacher | -0.1000 [-0.1100, -0.0900] | 20 | 3 | 0.002 |" in card
    measured = summary(bm25=0.2, phase2=0.7)
    measured["comparisons"][0]["interval"] = [0.4, 0.6]
    assert "| medicines | bm25 | +0.5000 [+0.4000, +0.6000] | 20 | 3 | 0.002 |" in write(measured=measured)
    blind = summary({"champion": "its weights are damaged"}, bm25=0.2, phase2=0.7)
    assert "Not measured: champion: its weights are damaged." in write(measured=blind)


def test_what_was_not_measured_is_not_in_it():
    measured = summary(bm25=0.2, phase2=0.7)
    measured["models"]["phase2"] |= {"size_mb": None, "latency_median_ms": None, "latency_p95_ms": None}
    card = write(measured=measured)
    assert "It has 1,000,000 parameters.\n" in card and "None" not in card and "95th percentile" not in card


def test_without_test_queries_it_says_so():
    measured = summary(phase2=0.7) | {"datasets": {}, "comparisons": []}
    card = write(measured=measured)
    assert "measured on no dataset" in card and "model-index" not in card


def test_other_label_words_and_the_original_truncation_are_in_its_code():
    record = training(512, "reference")
    record["config"] |= {"true_token": "▁yes", "false_token": "▁no"}
    card = write(record)
    assert "convert_tokens_to_ids(['▁no', '▁yes'])" in card
    assert 'model_type="t5", token_false="▁no", token_true="▁yes"' in card
    assert "` Relevant:` may be lost" in card


READS = {
    "monot5": {"true_token": "▁true", "false_token": "▁false"},
    "encoder": {"true_token": "", "false_token": ""},
    "causal": {
        "true_token": "Ġyes",
        "false_token": "Ġno",
        "prompt": "<Instruct>: {instruction}\nQuery: {query}\nDocument: {document}\nRelevant:{answer}",
        "instruction": "Find {what} helps",
    },
}


@pytest.mark.parametrize("kind", READS)
def test_each_kind_is_called_what_it_is(kind):
    """Settings of the training say nothing: a causal student's answers may be those of its family, and stand in its folder."""
    record = training()
    record["config"] |= {"true_token": "", "false_token": ""}
    record["reads"] = {"max_length": 96, "truncation": "document", "kind": kind, **READS[kind]}
    card = write(record)
    front = yaml.safe_load(card.split("---\n")[1])
    library, tag = {
        "monot5": ("transformers", "monot5"),
        "encoder": ("sentence-transformers", "cross-encoder"),
        "causal": ("transformers", "causal"),
    }[kind]
    assert front["library_name"] == library and front["tags"] == ["reranker", tag, "inranker", "distillation"]
    assert ("monoT5 reranker" in card) == ("`▁true`" in card) == (kind == "monot5")
    assert ("CrossEncoder(FOLDER)" in card) == ("text-embeddings-router" in card) == (kind == "encoder")
    assert ("    <Instruct>: Find {what} helps\n    Query: {query}" in card) == (kind == "causal")
    assert "most 96 tokens" in card and "It reads 96 tokens of query and passage" in card
    assert "\n\n\n## " not in card and "jinja" not in card.replace("score.jinja", "")


def test_a_causal_model_of_one_answer_is_told_so():
    record = training()
    reads = {"max_length": 96, "truncation": "document", "kind": "causal", **READS["causal"], "false_token": ""}
    card = write({**record, "reads": reads})
    assert "The score is the logit of `Ġyes` as the next token. " in card and "return float(logits[true])" in card
    assert "vllm" not in card, "whose classifier is a difference"


def test_a_description_fits_into_mlflows_databases_and_ends_with_a_whole_section():
    measured = summary(bm25=0.2, phase2=0.7)
    small = model_card.describe(told(training(), measured), "7")
    assert len(small) <= 5000 and small.startswith("# search") and "| medicines | 30 |" in small
    measured["datasets"] = {f"collection-{n:03}": measured["datasets"]["medicines"] for n in range(100)}
    large = model_card.describe(told(training(), measured), "7")
    assert len(large) <= 5000 and large.startswith("# search") and "README.md of the model folder" in large
