"""Grades of a judge: what it is asked, what of its answers counts, and what is paid for once."""

from __future__ import annotations

import re

import pytest

from inranker_flow import profiles
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.sections import TeacherConfig
from inranker_flow.environment import variables
from inranker_flow.errors import NoAnswer
from inranker_flow.judging import agreement, grading, judged_runs, prompts
from inranker_flow.judging.answers import grade_in
from inranker_flow.judging.answers import refuses as says_no
from inranker_flow.judging.grading import Judge, Pair
from inranker_flow.preflight.generator import check_judge
from inranker_flow.services import endpoint
from inranker_flow.settings.pin import pin
from tests import models
from tests.generation_server import GenerationServer, prompt_of
from tests.refusals import refuses

FIRM = prompts._FIRM
QUERIES = ["moon", "river stone", "garden in winter", "bread"]
PAIRS = [
    Pair(
        f"q{number}", f"d{place:02}", query, f"passage {place} about {('nothing', 'a word', 'much', query)[place % 4]}"
    )
    for number, query in enumerate(QUERIES)
    for place in range(10)
]


def true_grade(prompt: str) -> int:
    """What a judge that knows these passages would say."""
    return place_of(prompt) % 4


def place_of(prompt: str) -> int:
    found = re.search(r"passage (\d+)", prompt)
    return int(found[1]) if found else 0  # the backend's first word to a server is about no passage


def config(server, **changes):
    defaults = {"checkpoint": "writer", "backend": "openai", "endpoint": server.url, "concurrency": 4, "retries": 1}
    return JudgeConfig(**{**defaults, **changes})


@pytest.fixture(autouse=True)
def a_store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(variables.STORE, str(tmp_path / "store"))
    monkeypatch.setenv(variables.SCRATCH, str(tmp_path / "scratch"))
    monkeypatch.setattr(endpoint, "_FIRST", 0.02)
    monkeypatch.delenv(variables.ENDPOINT_KEY, raising=False)


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        *[(text, 2) for text in ("2", "2.", " **2**\n", "Grade 2", "two", "2/3", "2 out of 3", "2: holds some answer")],
        *[(text, 3) for text in ("##final score: 3", "## Final Score: **3**", "Final Score = 3", "final_score: 3")],
        ('{"M": 2, "T": 1, "O": 3}', 3),
        ('```json\n{"final_score": 1, "reason": "it has 3 parts"}\n```', 1),
        ('{"relevance": "0"}', 0),
        ("<think>maybe 3? the score is 3</think>\n##final score: 1", 1),
        ("M: 2\nT: 3\n##final score: 2", 2),
        ("1. Intent: recipes\n2. Match: good\n3. Trust: fine\n##final score: 0", 0),
        ("I would give this passage a 2 because it mentions 3 rivers.", 2),
        ("Score (0-3): 2", 2),
        ("$\\boxed{2}$", 2),
        ("The final score is **0**.", 0),
        *[
            (text, None)
            for text in ("", "final score: N", "10", "-1", "final score: 2.5", "7/10", "score: 4", "0, 1, 2 or 3")
        ],
        ("<think>the score is 3 and", None),
        ("1. Intent: recipes\n2. Match: good", None),
        ("The passage mentions 3 hours of rain.", None),
        ("I'm sorry, but I can't assist with that.", None),
    ],
)
def test_the_grade_in_an_answer(answer, grade):
    assert grade_in(answer) == grade


def test_a_refusal_is_told_from_prose():
    assert all(map(says_no, ("I'm sorry, but I can't assist with that.", "I cannot grade this passage.")))
    assert not any(map(says_no, ("", "The passage is about the moon.", "<think>hm</think> Good.")))


def test_grades_of_a_server_are_asked_once(tmp_path):
    with GenerationServer(answer=lambda prompt: f"##final score: {true_grade(prompt)}") as server:
        judge = Judge(config(server))
        table, stats = judge.grade([*PAIRS, PAIRS[0]._replace(query_id="twice")], "toy")
        asked = server.generating()
        assert {(each["temperature"], each["n"], each["max_tokens"]) for each in asked} == {(0.0, 1, 100)}
        assert len(asked) == stats.calls == 40 and set(server.routes) == {"/v1/chat/completions"}
        first = next(text for text in map(prompt_of, asked) if "Query: moon\nPassage: passage 3 about moon\n" in text)
        assert first.endswith("##final score: N") and "{" not in first
        # The same again, by another judge of the same settings, and a new passage beside it.
        more = [*PAIRS, Pair("q9", "d", "moon", "passage 2 about   much\nspace")]
        again, stats_again = Judge(config(server, depth=3, concurrency=9)).grade(more, "toy")
        assert len(server.generating()) == 41 and (stats_again.found, stats_again.calls) == (40, 1)
    grades = {(row["query_id"], row["doc_id"]): row["grade"] for row in table.to_pylist()}
    assert grades == {(each.query_id, each.doc_id): int(each.doc_id[1:]) % 4 for each in PAIRS} | {("twice", "d00"): 0}
    assert (stats.pairs, stats.graded, stats.no_grade, stats.again) == (41, 41, 0, 0)
    assert stats.counts == {"0": 13, "1": 12, "2": 8, "3": 8} and again.num_rows == 41
    sure = stats + stats_again
    assert sure.calls == 41 and sure.counts["0"] == 25


def test_another_prompt_length_or_judge_is_another_grade(monkeypatch):
    with GenerationServer(answer=lambda prompt: str(true_grade(prompt))) as server:
        Judge(config(server)).grade(PAIRS, "toy")
        for changes in (
            {"max_passage_tokens": 64},
            {"prompt": "Q {query} P: Passage: {passage}\nGrade:\n"},
            {"revision": "2"},
        ):
            before = len(server.generating())
            if "prompt" in changes:
                changes["prompt"] = f"---\nchat: true\n---\n{changes['prompt']}"
            Judge(config(server, **changes)).grade(PAIRS, "toy")
            assert len(server.generating()) == before + 40, changes


def test_an_answer_without_a_grade_is_asked_again_and_then_left_out():
    def answer(prompt):
        place = place_of(prompt)
        if place == 3:
            return "I'm sorry, but I cannot help with that."
        if place in (4, 5):
            return str(true_grade(prompt)) if prompt.endswith(FIRM) else "The passage is somewhat about the query."
        return f"It is well written. I would give it a {true_grade(prompt)}."

    with GenerationServer(answer=answer) as server:
        table, stats = Judge(config(server)).grade(PAIRS, "toy")
        assert sum(prompt_of(each).endswith(FIRM) for each in server.generating()) == 12
        assert Judge(config(server)).grade(PAIRS, "toy")[1].found == 40, "nothing is asked for ever"
        assert len(server.generating()) == 52
    assert (stats.calls, stats.again, stats.no_grade, stats.refused) == (52, 12, 4, 4)
    assert stats.graded == 36 == table.num_rows and "d03" not in table.column("doc_id").to_pylist()
    assert {row["grade"] for row in table.to_pylist() if row["doc_id"] == "d05"} == {1}


def test_a_judge_that_refuses_or_answers_in_prose_alone_ends_with_samples():
    said = "I'm sorry, but I can't assist with that."
    with GenerationServer(answer=lambda prompt: said) as server:
        with refuses(
            "judge-useless", "40 of its 40 answers for toy", "(40 refuse)", "I'm sorry, but I can't", "'moon'"
        ):
            Judge(config(server)).grade(PAIRS, "toy")
        with refuses("judge-useless"):
            Judge(config(server)).grade(PAIRS, "toy")
        assert len(server.generating()) == 80, "known to the store, too"


def test_a_judge_that_grades_everything_alike_ends_with_samples(monkeypatch):
    with GenerationServer(answer=lambda prompt: "##final score: 2") as server:
        with refuses("judge-useless", "writer", "all of 40 passages of toy the grade 2", "##final score: 2"):
            Judge(config(server)).grade(PAIRS, "toy")
        assert Judge(config(server)).grade(PAIRS[:19], "toy")[1].counts == {"2": 19}, "so few may be alike"
        # Before the last one is paid for.
        monkeypatch.setitem(grading.SHARDS, "openai", 10)
        monkeypatch.setattr(grading, "_MANY", 30)
        before = len(server.generating())
        with refuses("judge-useless"):
            Judge(config(server, revision="2")).grade(PAIRS, "toy")
        assert len(server.generating()) == before + 30


def test_a_server_that_goes_away_is_asked_on_where_it_was(monkeypatch):
    monkeypatch.setitem(grading.SHARDS, "openai", 10)
    gone = {"yes": False}

    def trouble(number):
        return 503 if gone["yes"] or number >= 25 else None

    with GenerationServer(answer=lambda prompt: str(true_grade(prompt)), trouble=trouble) as server:
        with pytest.raises(NoAnswer):
            Judge(config(server)).grade(PAIRS, "toy")
        server.trouble = lambda number: None
        before = len(server.generating())
        table, stats = Judge(config(server)).grade(PAIRS, "toy")
        assert stats.found == 20 and len(server.generating()) == before + 20
    assert table.num_rows == 40


def test_what_is_wrong_with_a_server_names_the_judge():
    with GenerationServer(key="sesame") as server, refuses("server-refused", "HTTP 401", variables.ENDPOINT_KEY):
        Judge(config(server)).grade(PAIRS, "toy")
    with GenerationServer() as server:
        with refuses("model-not-served", "evaluation.judge.checkpoint", "evaluation.judge.endpoint"):
            Judge(config(server, checkpoint="other")).grade(PAIRS, "toy")
        with refuses("setting-missing", "evaluation.judge.endpoint"):
            Judge(config(server, endpoint=""))
        with refuses("setting-conflict", "evaluation.judge.request_fields", "max_tokens"):
            Judge(config(server, request_fields={"max_tokens": 3})).grade(PAIRS, "toy")
    with GenerationServer(trouble=lambda number: 422) as server, refuses("server-refused", "evaluation.judge.backend"):
        Judge(config(server)).grade(PAIRS, "toy")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("Passage {passage} for {query}: which grade?", "{query} once, and then {passage} once"),
        ("{query} {passage} {passage}", "{query} once"),
        ("{query} and {document}", "the template has no {passage}"),
        ("---\nexamples: 2\n---\n{query} {passage}", "unknown setting"),
        ("umbrella", "no readable template file; give a path or one of: umbrela"),
    ],
)
def test_a_prompt_that_cannot_work(prompt, said):
    with pytest.raises(grading.UserError) as refused:
        prompts.load(prompt)
    assert said in str(refused.value) and str(refused.value).startswith("evaluation.judge.prompt: ")


def test_a_model_here_reads_query_and_passage_cut_by_its_tokens():
    """Its weights are random: what it says is no grade, what it is asked is what counts."""
    checkpoint = models.causal(positions=512)
    prompt = "Query: {query}\nPassage: {passage}\nGrade:"
    long = Pair("q", "d", "river " * 100, "moon " * 300)
    short = [Pair("q", f"{number}", "moon", f"stone {number}") for number in range(3)]
    judge = Judge(JudgeConfig(checkpoint=checkpoint, prompt=prompt + "\n", max_new_tokens=4, max_passage_tokens=200))
    with refuses("judge-useless", "4 of its 4 answers for toy"):
        judge.grade([long, *short], "toy")
    tokens = judge.model.prompter.fit([judge.prompts[1].pair("a moon", "stone")])[0][0]
    assert judge.model.tokenizer.decode(tokens) == "Query: a moon\nPassage: stone\nGrade:"
    assert judge.model.cut([long.query], grading.QUERY_TOKENS) == [("river " * 100)[: grading.QUERY_TOKENS].rstrip()]
    firm = judge.firm.prompter.fit([judge.prompts[1].pair("a moon", "stone")])[0][0]
    assert judge.firm.tokenizer.decode(firm).endswith(f"Grade:\n{FIRM}") and judge.firm.model is judge.model.model
    with refuses("judge-useless"):
        Judge(judge.config).grade([long, *short], "toy")


def test_agreement_with_people():
    human = {"q1": {"a": 3, "b": 0, "c": 1, "x": 2}, "q2": {"a": 2, "b": 0}}
    grades = {"q1": {"a": 3, "b": 0, "c": 2, "y": 1}, "q2": {"a": 1, "b": 0}}
    told = agreement.describe(human, grades, {"bm25": (0.2, 0.4), "phase1": (0.3, 0.5), "phase2": (0.6, 0.45)})
    # Five pairs that both graded: binary 1,0,0,1,0 and 1,0,1,0,0; chance 0.4 * 0.4 + 0.6 * 0.6.
    assert told["pairs"] == 5 and told["kappa_binary"] == pytest.approx((3 / 5 - 0.52) / 0.48)
    # 3,0,1,2,0 and 3,0,2,1,0: equal in three; chance 0.4 * 0.4 + 3 * 0.2 * 0.2.
    assert told["kappa_grades"] == pytest.approx((0.6 - 0.28) / 0.72)
    assert told["tau"] == pytest.approx(1 / 3) and told["bias"] == pytest.approx((0.2 + 0.2 - 0.15) / 3)
    assert "kappa 0.17 (relevant or not) and 0.44 (grades) on 5 pairs" in agreement.sentence(told)
    yes_or_no = agreement.describe({"q": {"a": 1, "b": 0}}, {"q": {"a": 2, "b": 1}}, {"bm25": (0.1, 0.2)})
    assert (yes_or_no["kappa_binary"], yes_or_no["kappa_grades"], yes_or_no["tau"]) == (1.0, None, None)
    positives = agreement.describe({"q": {"a": 1, "b": 1}}, {"q": {"a": 2, "b": 1}}, {})
    assert (positives["kappa_binary"], positives["relevant"]) == (None, [1.0, 0.5]), (
        "no judge could be told from another"
    )
    nothing = agreement.describe({}, grades, {})
    assert nothing["pairs"] == 0 and "kappa none" in agreement.sentence(nothing)


@pytest.mark.parametrize(
    ("judge", "teacher", "kin"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-Reranker-8B", "qwen"),
        ("google/flan-t5-xl", "castorini/monot5-3b-msmarco-10k", "t5"),
        ("gpt-5", "castorini/monot5-3b-msmarco-10k", ""),
        ("writer", "demo:teacher", ""),
    ],
)
def test_a_judge_of_the_teachers_family_is_said_to_be_one(judge, teacher, kin):
    said = judged_runs.kin(JudgeConfig(judge), TeacherConfig(teacher))
    assert (f"are of one family, {kin}:" in said and teacher in said) if kin else said == ""


def test_the_queries_that_are_graded_do_not_hang_on_their_order():
    ids = [f"q{number}" for number in range(50)]
    few = judged_runs.chosen(ids, 10)
    assert few == judged_runs.chosen(ids[::-1], 10) and len(set(few)) == 10 and few != sorted(ids)[:10]
    assert set(few) <= set(judged_runs.chosen(ids, 20)), "more of them are the same and others"
    assert judged_runs.chosen(ids, 0) == sorted(ids)


def test_a_profile_names_its_judge_and_what_it_lacks_is_said_before_a_run(tmp_path):
    prompt = tmp_path / "grade.txt"
    prompt.write_text("---\nchat: true\n---\nFor {query}, grade {passage}.\n")
    judge = {"checkpoint": "writer", "backend": "openai", "endpoint": "http://llm:8000/v1"}
    pinned = pin(profiles.load("demo", {"evaluation.judge": {**judge, "prompt": str(prompt)}}))
    assert pinned.evaluation.judge.prompt == prompt.read_text() and pin(pinned) == pinned
    assert pin(profiles.load("demo")).evaluation.judge == JudgeConfig(), "without a checkpoint there is none"
    here = pin(profiles.load("demo", {"evaluation.judge": {"checkpoint": models.causal()}})).evaluation.judge
    assert here.revision and here.prompt == "umbrela"
    for changes, code, said in [
        ({"endpoint": ""}, "setting-missing", "evaluation.judge.endpoint"),
        ({"prompt": "{query} alone"}, "prompt-form", "evaluation.judge.prompt"),
        ({"depth": 3}, "setting-conflict", "evaluation.judge.depth: 3"),
        ({"backend": "crop"}, "setting-value", "evaluation.judge.backend"),
    ]:
        with refuses(code, said):
            pin(profiles.load("demo", {"evaluation.judge": {**judge, **changes}}))
    with GenerationServer() as server:
        assert "is served at" in check_judge(config(server))
        with refuses("model-not-served", "evaluation.judge.checkpoint"):
            check_judge(config(server, checkpoint="other"))
    with refuses("backend-missing", "evaluation.judge.backend"):
        check_judge(JudgeConfig("writer", backend="vllm"))
    with refuses("checkpoint-kind", "evaluation.judge.checkpoint"):
        check_judge(JudgeConfig(str(models.stub_files(tmp_path / "bert", {"architectures": ["BertModel"]}))))
