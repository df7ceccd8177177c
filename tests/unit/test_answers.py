"""What a language model answers, and the query in it: both what is its manner and what must stay as it is."""

from __future__ import annotations

import json

import pytest

from inranker_flow.generation.filters import first_line

Q = "how do beavers build dams"
THOUGHTS = [
    f"<think>\nThe user wants a query.\n</think>\n\n{Q}",
    f"Okay, the passage is about beavers.\nA query: dams.\n</think>\n\n{Q}",
    f"Short one.</think>{Q}",
    f"hm</think> {Q}",
    f"<think></think>\n{Q}",
    f"<THINKING>hm</THINKING>\n{Q}",
    f"<thought>hm</thought>{Q}",
    f"[think]hm[/think]{Q}",
    f"hm[/THINK]\n{Q}",
    f"<seed:think>a\n\nb</seed:think>\n{Q}",
    f"<reasoning>\n1. beavers\n2. dams\n</reasoning>\n<answer>{Q}</answer>",
    f"<thinking>a</thinking><reflection>b</reflection><output>{Q}</output>",
    f"<scratchpad>hm</scratchpad>\n\n{Q}",
    f"◁think▷hm◁/think▷{Q}",
    f"<|begin_of_thought|>hm<|end_of_thought|>\n\n<|begin_of_solution|>{Q}<|end_of_solution|>",
    f"<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{Q}<|END_RESPONSE|>",
    f"<|channel|>analysis<|message|>Beavers.<|end|><|start|>assistant<|channel|>final<|message|>{Q}<|return|>",
    f"<|start|>assistant<|channel|>final<|message|>{Q}<|return|>",
    f"<|channel|>final <|constrain|>json<|message|>{json.dumps({'query': Q})}",
    f"analysisThe passage is about beavers.assistantfinal{Q}",
    f"Here is my thought process: beavers.\n\nHere is my response:\n{Q}",
    f"<think>first</think>\n<think>second</think>\n{Q}",
    f"<think>\nWe write <query>x</query>, or JSON: {{}}.\n</think>\n**Query:** {Q}",
]
LABELS = [
    f"Query: {Q}",
    f"query:{Q}",
    f"**Query:** {Q}",
    f"**Query**: {Q}",
    f"*Search query:* {Q}",
    f"__Search Query:__ {Q}",
    f"Search query: {Q}\n\nThis query asks ...",
    f"Query 1: {Q}\nQuery 2: x",
    f"Query #1: {Q}",
    f"Generated query: {Q}",
    f"Relevant Query: {Q}",
    f"Good Question: {Q}",
    f"Question: {Q}",
    f"Q: {Q}?\nA: With wood.",
    f"### Query\n{Q}",
    f"**Search Query**\n\n{Q}",
    f"Query:\n\n{Q}",
    f"Sure! Here is a search query for the passage:\n\n{Q}",
    f"Sure, here's a query that could be answered by this document:\n{Q}",
    f"Sure! Here is a query: {Q}",
    f"Here's a query: {Q}",
    f"Here’s one possible search query:\n\n{Q}",
    f"Certainly! I can help with that.\n\n{Q}",
    f"Of course!\n\nHere is the question you asked for:\n\n**{Q}**",
    f"Okay, here's a short query based on the text:\n\n* {Q}",
    f"Based on the passage, a relevant search query would be:\n\n{Q}",
    f"A possible query for this passage is:\n\n{Q}",
    f"Das könnte man so suchen:\n\n{Q}",
    f"Suchanfrage: {Q}",
    f"Hier ist eine Suchanfrage: {Q}",
    f"Voici une requête pour ce passage :\n{Q}",
    f"Consulta: {Q}",
    f"Claro! Aqui está uma consulta:\n\n{Q}",
    f"Domanda: {Q}",
    f"Запрос: {Q}",
    f"查询：{Q}",
    f"以下是一个搜索查询：\n{Q}",
    f"検索クエリ：{Q}",
    f"검색어: {Q}",
    f"سؤال: {Q}",
    f"प्रश्न: {Q}",
    f"คำถาม: {Q}",
    f"Câu hỏi: {Q}",
]
LISTS = [
    f"1. {Q}",
    f"1) {Q}",
    f"(1) {Q}",
    f"1. {Q}\n2. what do beavers eat\n3. x",
    f"2. {Q}\n3. what do beavers eat",
    f"- {Q}",
    f"* {Q}",
    f"• {Q}",
    f"– {Q}",
    f"> {Q}",
    f"1. **{Q}**",
    f'- "{Q}"',
    f"Here are some queries:\n\n1. {Q}\n2. x",
    f"# {Q}",
    f"---\n{Q}",
]
DATA = [
    json.dumps({"query": Q}),
    json.dumps({"reason": "it is about beavers", "query": Q}),
    json.dumps({"queries": [Q, "what do beavers eat"]}),
    json.dumps({"result": {"queries": [{"text": Q}]}}),
    json.dumps([Q, "what do beavers eat"], indent=1),
    json.dumps([{"question": Q}]),
    json.dumps({"consulta": Q}),
    f"```json\n{json.dumps({'query': Q}, indent=2)}\n```",
    f"Here is the JSON:\n```\n{json.dumps({'query': Q})}\n```\nI hope it helps.",
    f'{{"query": "{Q}',
    f'{{"query": "{Q}", "reason": "it',
    f"{{query: '{Q}'}}",
    f"{{'query': '{Q}'}}",
    f'{{"query": "{Q}"}}\n\nThis query asks ...',
    f'["{Q}", "what do',
    f"Query: {json.dumps({'query': Q})}",
]
WRAPPED = [
    f"```\n{Q}\n```",
    f"```text\n{Q}\n```",
    f"```{Q}```",
    f"~~~\n{Q}\n~~~",
    f"`{Q}`",
    f"<query>{Q}</query>",
    f"<query>\n{Q}\n</query>",
    f"<search_query>{Q}</search_query>\nThis ...",
    f"<p><b>{Q}</b></p>",
    f"<query>{Q}",
    f"{Q}</answer>",
    f'"{Q}"',
    f"“{Q}”",
    f"„{Q}“",
    f"«{Q}»",
    f"« {Q} »",
    f"‘{Q}’",
    f"'{Q}'",
    f"「{Q}」",
    f"『{Q}』",
    f'"{Q}".',
    f'"{Q}',
    f"**{Q}**",
    f"***{Q}***",
    f"_{Q}_",
    f'**"{Q}"**',
    f"  {Q.replace(' ', '  ')}\t\n",
]
TOKENS = [
    f"{Q}<|im_end|>",
    f"{Q}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nMore.",
    f"{Q}</s>",
    f"<s> {Q}</s><pad><pad>",
    f"<pad> {Q}",
    f"{Q}<end_of_turn>\n<eos>",
    f"<|im_start|>assistant\n{Q}<|im_end|>",
    f"<start_of_turn>model\n{Q}",
    f"{Q}<｜end▁of▁sentence｜>",
    f"[/INST] {Q}",
    f"assistant\n\n{Q}",
    f"Assistant: {Q}",
    f"model\n{Q}",
    f"<|assistant|>\n{Q}<|user|>\nAnother",
    f"<|begin_of_box|>{Q}<|end_of_box|>",
]


@pytest.mark.parametrize("answer", THOUGHTS + LABELS + LISTS + DATA + WRAPPED + TOKENS)
def test_the_query_in_an_answer(answer):
    assert first_line(answer, chat=True) == Q.removesuffix("?") or first_line(answer, chat=True) == f"{Q}?"
    if answer == answer.strip() and not answer.startswith(("Das ", "---")):  # a completion is no other; it may go on
        assert first_line(answer, chat=False).rstrip("?") == Q


@pytest.mark.parametrize(
    "query", ["河狸如何筑坝", "ビーバーはどうやってダムを作りますか", "비버는 어떻게 댐을 짓나요", "कैसे बनाते हैं बाँध"]
)
@pytest.mark.parametrize(
    "form", ["「{}」", "<think>好的。\n</think>\n{}", "查询：{}", "1. {}", '{{"query": "{}"}}', "**{}**", "『{}』"]
)
def test_queries_of_other_scripts(form, query):
    assert first_line(form.format(query), chat=True) == query


QUERIES = [
    "1. fc köln tickets",
    "1. FC Nürnberg Spielplan",
    "1. Mai Feiertag Bundesländer",
    "1. bundesliga tabelle",
    "1. weltkrieg ursachen",
    "2. bundesliga heute",
    "3. liga live",
    "7. himmel bedeutung",
    "2001: a space odyssey",
    "1984 summary",
    "1.5 tdi oil capacity",
    "10) vs 10] in interval notation",
    "3d printer",
    "c++ <vector> example",
    "what does </div> mean",
    "what does </think> mean in deepseek output",
    "how to use <think> tags in a prompt",
    "difference between <b> and <strong>",
    "<b>bold</b> tag in html",
    "<vector> vs <list>",
    "what does <|endoftext|> mean in gpt-2",
    "what does <s> mean in html",
    "q: are we not men",
    "-5 celsius in fahrenheit",
    "-1 modulo 5",
    "*args and **kwargs in python",
    "** operator in python",
    "__init__ method in python",
    "__name__",
    '"to be or not to be" meaning',
    'who said "i think therefore i am"',
    '"rock" or "pop" music',
    'monitor 27"',
    "'90s music",
    "'til tuesday songs",
    "rock 'n' roll",
    "'rock 'n' roll' meaning",
    "what is the users' manual",
    "{} in bash",
    "[solved] python import error",
    "[1] citation style",
    "[1, 2, 3] sum in python",
    '["a", "b"] in javascript',
    '{"a": 1} in python is a dict',
    "json query: how to select a key",
    "here comes the sun lyrics",
    "here is where i belong song",
    "sure jell vs certo pectin",
    "certain rules in java",
    "ok google what can you do",
    "okay boomer meaning",
    "great expectations summary",
    "absolutely fabulous cast",
    "of course i still love you drone ship",
    "query folding in power bi",
    "query language for graphs",
    "question mark in regex",
    "questions to ask at an interview",
    "search engines besides google",
    "answer to life the universe and everything",
    "assistant manager salary",
    "model trains",
    "user manual for a dishwasher",
    "assistant",
    "analysis of variance",
    "analysis paralysis",
    "final fantasy 7 release date",
    "none of your business lyrics",
    "null pointer exception java",
    "no country for old men",
    "n/a meaning in a form",
    "i'm sorry miss jackson lyrics",
    "i'm sorry i love you kdrama",
    "sorry, blame it on me lyrics",
    "i can't help falling in love chords",
    "i cannot sleep at night what can i do",
    "I can't connect my phone to wifi",
    "i can't breathe movie",
    "as an ai engineer how much do i earn",
    "as a man thinketh summary",
    "unfortunately in spanish",
    "i apologize letter template",
    "there is no spoon meaning",
    "please provide in a sentence",
    "could you be loved lyrics",
    "the document object model",
    "c# tutorial",
    "#metoo movement",
    "# of protons in copper",
    ".net core",
    "$100 in euros",
    "@mention in slack",
    "~ in linux paths",
    "`ls -la` output explained",
    "html &nbsp; meaning",
    "x < y > z",
    "> 90 day visa",
    "http://example.com is down",
    "star wars: a new hope",
    "title: subtitle capitalization",
    "what is 5'10\" in cm",
    "ratio 16:9",
    "what's up doc?",
    "where's the beef",
    "l'été en France",
    "«Война и мир» краткое содержание",
    "《红楼梦》作者是谁",
    "「君の名は」の主題歌",
    "对不起我爱你歌词",
    "plan b side effects",
    "<<= operator",
    "thinking, fast and slow",
    "</3 meaning",
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_stays_as_it_is(query):
    assert first_line(query, chat=True) == query
    assert first_line(query, chat=False) == query
    assert first_line(f"{query}\n", chat=True) == query
    assert first_line(f"<think>hm</think>\n\n{query}", chat=True) == query


NONE = [
    "",
    " \n ",
    "<think>cut off in the middle of",
    "<think>\nhm\n</think>\n",
    "[THINK]hm, what",
    "<seed:think>hm",
    "<|channel|>analysis<|message|>We need to",
    "<|channel|>commentary<|message|>x<|end|>",
    "analysisWe need to write a query about bea",
    "Here is my thought process: beavers",
    "Okay.\n</think>",
    "</s>",
    "<pad><pad>",
    "<|im_end|>",
    "```\n```",
    "...",
    "---",
    '""',
    "{}",
    "[]",
    '{"query": ""}',
    '{"query": null}',
    '{"queries": []}',
    "Query:",
    "**Query:**",
    "Query: None",
    "N/A",
    "None.",
    "null",
    "[no query]",
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I cannot help with this request.",
    "I am sorry, I am unable to generate a query for this passage.",
    "Sorry, I can't provide a query.",
    "I'm sorry, but the passage does not contain enough information.",
    "I'm sorry, but there is no passage.",
    "I cannot generate a search query for this text.",
    "I can't create a question from this document.",
    "I'm unable to provide a query based on the passage.",
    "As an AI language model, I don't have access to the document.",
    "As an AI, I cannot write this.",
    "As a large language model, I am not able to do so",
    "Unfortunately, I cannot determine a query from the passage.",
    "Unfortunately, the document is empty.",
    "I apologize, but I cannot fulfill this request.",
    "The provided passage does not contain any information.",
    "There is no relevant query for this passage.",
    "Please provide the passage you would like a query for.",
    "Could you please provide more context?",
    "Es tut mir leid, aber ich kann keine Anfrage erstellen.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Lo siento, pero no puedo ayudar con eso.",
    "К сожалению, я не могу помочь.",
    "抱歉，我无法回答这个问题。",
    "对不起，我不能提供这个。",
    "申し訳ありませんが、お答えできません。",
    "죄송합니다만, 도와드릴 수 없습니다.",
    "<think>hm</think>\n\nI'm sorry, but I can't help with that.",
    "Query: I cannot generate a query for this passage.",
    "\"I'm sorry, but I can't assist with that.\"",
]


@pytest.mark.parametrize("answer", NONE)
def test_an_answer_without_a_query(answer):
    assert first_line(answer, chat=True) == ""
    assert first_line(answer, chat=False) == ""


def test_a_completion_ends_with_its_line():
    assert first_line(" what is bread\nDocument: and so on", chat=False) == "what is bread"
    assert first_line(" \nwhat comes after the line end is no query", chat=False) == ""
    assert first_line("the steps are these:\nDocument: and so on", chat=False) == "the steps are these:"


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "{", "[", "```", '"', "「", "1. ", "Query:", "<b>", "**", "\n", "<|", "Sure! "]
)
def test_odd_answers_are_no_trouble(piece):
    for text in (piece * 400, f"{piece}x" * 400, f"{piece}\n" * 400, f"{piece * 400}{Q}"):
        found = first_line(text, chat=True)
        assert "\n" not in found and found == found.strip()
