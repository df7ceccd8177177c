"""The query in what a language model answered: without thoughts, greetings, labels, marks and quotes; or none at all.

What is taken away must be the model's manner and no part of a query: "1. FC Köln tickets", "2001: a space odyssey" and
"c++ <vector> example" are queries. So a mark counts where it stands as a model writes it: a tag that opens a line, a quote
around the whole, a bullet with a blank after it.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

# --- thoughts ---------------------------------------------------------------------------------------------------------

_THOUGHT = (
    r"(?:\w{1,12}:)?(?:think(?:ing)?|thoughts?|thought_process|reason(?:ing)?|reflection|analysis|scratch_?pad|plan)"
)
#: <think>, [THINK], ◁think▷, <|thinking|>, <|begin_of_thought|>, <|START_THINKING|>.
_OPENING = rf"(?:<{_THOUGHT}>|\[{_THOUGHT}\]|◁{_THOUGHT}▷|<\|(?:begin_of_|start_)?{_THOUGHT}\|>)"
_CLOSING = (
    rf"(?:</\s?{_THOUGHT}>|\[/{_THOUGHT}\]|◁/{_THOUGHT}▷|<\|(?:/|end_of_|end_){_THOUGHT}\|>|<\|START_RESPONSE\|>)"
)
_CLOSED = re.compile(_CLOSING, re.IGNORECASE)
_OPENED = re.compile(rf"^\s*{_OPENING}", re.IGNORECASE | re.MULTILINE)
#: OpenAI's harmony: what is said on the channel `final` is the answer.
_CHANNEL = re.compile(r"<\|channel\|?>\s*(\w+)(?:(?!<\|channel)[^\n]){0,80}?(?:<\|message\|>|<channel\|>|\n)")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|call|channel)\|?>|<channel\|>")
#: The same without its special tokens, as decoders leave it.
_BARE_CHANNELS = re.compile(
    r"\Aanalysis(?=[A-Z\"'“(]|\n.*assistantfinal)(?:.*(?:assistantfinal\s*|final)(?=\S))?", re.DOTALL
)
#: Granite's.
_PROCESS = re.compile(r"\A\s*here is my thought process:.*?(?:here is my response:|\Z)", re.DOTALL | re.IGNORECASE)


def _without_thoughts(text: str) -> str:
    """What is said after the last thought; nothing where a thought does not end."""
    if channels := list(_CHANNEL.finditer(text)):
        last = channels[-1]
        if last[1] != "final" and (ended := text.rfind("<channel|>")) >= last.end():  # Gemma's
            return text[ended + len("<channel|>") :]
        if len(channels) == 1 and last[1] != "final" and "<channel|>" in last[0]:
            return text[last.end() :]
        return _CHANNEL_END.split(text[last.end() :])[0] if last[1] == "final" else ""
    text = _PROCESS.sub("", text)
    if bare := _BARE_CHANNELS.match(text):
        return text[bare.end() :] if bare.end() > len("analysis") else ""
    marks = list(_CLOSED.finditer(text))
    for number, mark in reversed(list(enumerate(marks))):
        before, after = text[: mark.start()], text[mark.end() :]
        # "what does </think> mean" speaks of the mark.
        alone = "\n" not in text.strip() and not _OPENED.search(text)
        if not ((alone or number) and before[-1:] == " " and after[:1] == " "):
            text = after
            break
    opened = _OPENED.search(text)
    return text[: opened.start()] if opened else text


# --- what surrounds it ------------------------------------------------------------------------------------------------

#: Ends, beginnings and paddings of texts, turns and boxes.
_TOKEN = (
    r"(?:<\|[^\s|<>][^|<>\n]{0,40}\|>|<｜[^｜<>\n]{1,40}｜>|</?s>|<(?:pad|eos|bos|unk|sep|cls|mask|eot|eod)>|"
    r"<(?:start|end)_of_turn>|<turn\|>|<\|turn>|\[\|\w{2,20}\|\]|<seed:\w{2,8}>|<SPECIAL_\d+>|\[e~\[|"
    r"<extra_id_\d+>|<0x0A>|\[/?INST\]|\[(?:CLS|SEP|PAD|EOS|BOS)\]|<<?/?SYS>>?|◁[^◁▷\n]{1,40}▷)"
)
_FIRST_TOKENS = re.compile(rf"\A(?:\s*{_TOKEN})+\s*", re.IGNORECASE)
_LAST_TOKENS = re.compile(rf"(?:\s*{_TOKEN})+\s*\Z|<\|\w{{2,40}}\Z", re.IGNORECASE)
#: At a word's end, or before a line's: the turn is over.
_TURN_END = re.compile(rf"(?<=\S){_TOKEN}(?=\S|\s*\n).*\Z", re.IGNORECASE | re.DOTALL)
_LINE_TOKENS = re.compile(rf"^(?:\s*{_TOKEN})+[^\S\n]*|(?:[^\S\n]*{_TOKEN})+\s*$", re.IGNORECASE | re.MULTILINE)
_ROLE = re.compile(
    r"\A(?:assistant|model|user|system|bot|ai|chatbot|gpt)\s*(?:<\|(?:end_header_id|end_of_role|im_sep|message)\|>\s*|"
    r":?\s*\n+)(?=.*\S)",
    re.IGNORECASE | re.DOTALL,
)
#: The prompt that a model says again before it answers.
_ECHO = re.compile(r"\A\s*(?:\[INST\].*\[/INST\]|<<SYS>>.*<</SYS>>)(?=.*\w)", re.DOTALL)
_ROLE_LABEL = re.compile(r"\A(?:assistant|chatbot|model)\s*:\s*", re.IGNORECASE)
_FENCE = re.compile(r"\A(```+|~~~+)[^\S\n]*(?:[\w+-]*[^\S\n]*\n)?(.*?)(?:\n?\1.*)?\Z", re.DOTALL)
_WRAPPED = re.compile(r"\A<([A-Za-z][\w:-]*)(?:\s[^<>]*)?>\s*(.*?)\s*</\1>[^\S\n]*(?=\n|\Z)", re.DOTALL)
_ANSWER_TAG = r"(?:search[_ -]?)?(?:query|queries|question|answer|response|output|result|final|final_answer|text)"
_TAGGED = re.compile(
    r"\A<(quer(?:y|ies)|question|answer|search[_-]?query|final_answer)>\s*(.*?)\s*</\1>", re.DOTALL | re.IGNORECASE
)
_CALLED = re.compile(r"\A\w*search\w*\((?:\w+\s*=\s*)?([\"'])(.*)\1\)\Z", re.IGNORECASE)
_ENCLOSED = re.compile(r"\A(?:\(([^()\n]*)\)|\[([^\[\]\n]*)\]|\{([^{}:\n]*)\})\Z")
_BOXED = re.compile(r"\A\$*\\boxed\{(?:\\text\{)?([^{}]*)\}+\$*\Z", re.DOTALL)
_LOOSE_TAGS = re.compile(rf"\A<{_ANSWER_TAG}>\s*|\s*</{_ANSWER_TAG}>\s*\Z", re.IGNORECASE)

# --- words about it ---------------------------------------------------------------------------------------------------

_QUERY = (
    r"(?:(?:search|web|user|retrieval|information|google) )?(?:quer(?:y|ies)|questions?|search (?:terms?|phrase|string)|"
    r"keywords?|search[_-]query|answer|output|response|result)"
)
_ATTRIBUTE = (
    r"(?:the|a|an|one|my|your|user'?s?|generated|possible|suggested|proposed|relevant|sample|example|good|bad|best|"
    r"final|"
    r"potential|short|natural|language|synthetic|new|rewritten|improved|suitable|appropriate|realistic|concise|"
    r"specific|first|"
    r"search|web|google|english|likely|hypothetical|plausible|corresponding|optimi[sz]ed|factual|simple)"
)
_FOREIGN_QUERY = (
    r"such(?:anfrage|begriffe?|phrase)|anfrage|abfrage|frage|requ[êe]te(?: de recherche)?|"
    r"consulta(?: de (?:búsqueda|pesquisa|busca))?|"
    r"pregunta|búsqueda|pergunta|busca|pesquisa|domanda|ricerca|interrogazione|query di ricerca|zoekopdracht|"
    r"zoekvraag|vraag|"
    r"(?:поисковый )?запрос|вопрос|zapytanie|pytanie|dotaz|otázka|sorgu|soru|arama sorgusu|sökfråga|fråga|søgning|"
    r"spørgsmål|"
    r"haku|kysymys|ερώτημα|ερώτηση|(?:搜索|搜尋|检索|檢索|生成的?)?(?:查询|查詢|问题|問題|搜索词|搜尋詞|检索词|"
    r"关键词|關鍵詞|搜索)(?:语句|語句)?|"
    r"(?:検索)?(?:クエリ|質問|検索語|キーワード)|(?:검색 ?)?(?:쿼리|검색어|질문|질의)|(?:عبارة )?(?:ال)?(?:استعلام|"
    r"سؤال|بحث)|(?:کوئری|پرسش|جستجو)|"
    r"(?:खोज )?(?:प्रश्न|क्वेरी|खोज|सवाल)|(?:คำ)?(?:คำถาม|คำค้นหา|คำค้น|ค้นหา)|(?:câu )?truy vấn(?: tìm kiếm)?|"
    r"câu hỏi|pertanyaan|kueri(?: pencarian)?|שאילת[הת](?: חיפוש)?|שאלה|חיפוש|"
    r"(?:пошуковий )?запит|питання|упит|заявка|въпрос|استعلام البحث|سوال|پرس\u200c?وجو|প্রশ্ন|অনুসন্ধান|கேள்வி|"
    r"(?:தேடல் )?வினவல்|ప్రశ్న|(?:søge)?forespørgsel|søk|spørring|hakukysely|hakulause|(?:keresési )?lekérdezés|"
    r"keresés|kérdés|interogare(?: de căutare)?|întrebare|căutare|upit|pitanje|swali"
)
_NAMED = rf"(?:(?:{_ATTRIBUTE} ){{0,4}}{_QUERY}|{_FOREIGN_QUERY})"
_NUMBERED = r"(?: ?(?:#|no\.? ?|nr\.? ?)?\(?\d{1,3}\)?)?"
_EMPHASIS = r"[*_#]{0,4}"
_LABEL = re.compile(
    rf"\A{_EMPHASIS}\s?{_NAMED}{_NUMBERED}(?: \([^()\n]{{1,40}}\))?"
    r"(?: (?:for|about|based on|from) (?:the|this|that) (?:\w+ )?(?:passage|document|text|article))?"
    rf"\s?{_EMPHASIS}\s?[:：]\s?{_EMPHASIS}\s*",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"\A[\[【]\s?{_NAMED}{_NUMBERED}\s?[\]】]\s?[:：]?\s*(?=\S)", re.IGNORECASE)
_ASSIGNED = re.compile(r"\A(?:search[_ ]?)?query\s?=\s?(?=[\"'])", re.IGNORECASE)
#: 'A relevant query would be "..."'.
_STATED = re.compile(
    r"\A(?:the|a|an|my|your|one|this)(?: [\w-]+){0,3}? (?:search )?(?:query|question)(?: [^:\n\"“]{0,80}?)? "
    r"(?:is|would be|could be|might be|can be|may be)\s*(?:[:：]\s*|(?=[\"“«„][^\n]*[\"”»“][.!]?\s*(?:\n|\Z)))",
    re.IGNORECASE,
)
#: "A user might search for: ..."
_SEARCHED = re.compile(
    r"\A(?:(?:(?:a|the) (?:\w+ )?(?:user|person|searcher|reader)|users|someone|people|one|you) (?:might|could|may|would|can) "
    r"(?:search|ask|look|type|query|enter|google)(?: for)?|search for|用户可能会?(?:搜索|提问|问))"
    r"\s*(?:[:：,]\s*|(?=[\"“«„][^\n]*[\"”»“][.!]?\s*(?:\n|\Z)))",
    re.IGNORECASE,
)
#: A thought without marks, and the query after it.
_REASONED = re.compile(
    r"\A[*_#]{0,4}\s?(?:reasoning|thinking|thoughts?|thought process|analysis|rationale|explanation|step 1|summary)\b[^\n]*\n.*"
    rf"^(?={_EMPHASIS}\s?{_NAMED}\s?{_EMPHASIS}\s?[:：]\s*{_EMPHASIS}\s*\S)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_LABEL_LINE = re.compile(rf"\A{_EMPHASIS}\s?{_NAMED}{_NUMBERED}\s?{_EMPHASIS}\s*\n+(?=.*\w)", re.IGNORECASE | re.DOTALL)
_ABOUT = rf"(?:quer(?:y|ies)|questions?|search|keywords?|{_FOREIGN_QUERY})"
_OPENER = (
    r"(?:(?:sure(?: thing)?|certainly|of course|absolutely|definitely|ok(?:ay)?|alright|all right|great|got it|"
    r"no problem|understood|"
    r"happy to help|here(?:['’]?s| is| are| you go)|below is|the following|this is|based on|given the|for th(?:e|"
    r"is)|let me|i(?:['’]d| would)|"
    r"a (?:possible|good|relevant|suitable)|one (?:possible|good|relevant)|"
    r"natürlich|klar|gerne|sicher|hier (?:ist|sind)|bien sûr|voici|certainement|claro|por supuesto|aquí (?:está|"
    r"tienes?)|aqui está|com certeza|"
    r"certo|certamente|ecco|natuurlijk|hier is|конечно|вот|oczywiście|oto|tabii|elbette|işte|chắc chắn|dưới đây|"
    r"đây là|tentu|berikut)(?!\w)|(?:当然|當然|好的|以下|这是|這是|根据|"
    r"もちろん|はい|以下|承知|물론|다음은|네|بالطبع|بالتأكيد|إليك|हाँ|ज़रूर|बिल्कुल|यहाँ|แน่นอน|นี่คือ))"
)
#: "Sure! Here is a search query for the passage: ..." on one line: it must speak of a query.
_ANNOUNCED = re.compile(rf"\A{_OPENER}[^:：\n]{{0,160}}?{_ABOUT}[^:：\n]{{0,120}}[:：]\s*", re.IGNORECASE)
_OPENING_LINE = re.compile(rf"\A{_OPENER}[^\n]{{0,200}}[.!:,。！：]\**\s*\n\s*(?=.*\w)", re.IGNORECASE | re.DOTALL)
_COLON_LINE = re.compile(r"\A[^\n]{1,240}[:：]\**\s*\n\s*(?=.*\w)", re.DOTALL)
#: "How do I list files:" is a query all the same, unless it speaks of one.
_ASKING = re.compile(
    rf"\A(?:what|how|why|when|where|which|who|is|are|can|do|does)\b(?![^\n]*\b{_ABOUT}\b)", re.IGNORECASE
)
#: "Sure! where is ..."
_GREETING = re.compile(
    r"\A(?:sure(?: thing)?|certainly|of course|absolutely|got it|no problem)[!.]\s+(?=\S)", re.IGNORECASE
)
_QUESTION_AND_ANSWER = re.compile(r"\AQ(?:[:.]\s*(?=[^\n]+\n+\s*A[:.])|1[:.)]\s*(?=[^\n]+\n+\s*(?:Q2|A1?)[:.)]))")

#: "- in regex" and "<s> html tag" speak of the mark.
_SPOKEN_OF = (
    r"(?!(?:in (?!wh|the\b|an?\b)|sign|symbol|operator|character|tokens?\b|(?:html|xml) tag|tag\b|meaning|vs\b|key on|"
    r"button))"
)
_BULLET = re.compile(
    rf"\A(?:[•‣▪◦●○■□➤➢→·∙⁃*+–—-]|[-=]>|\\-)\s+{_SPOKEN_OF}(?=\S)|"
    r"\A[•‣▪●■➤➢⁃](?=\w)|\A[🔍🔎👉✅❓💡]\ufe0f?\s*|"
    rf"\A>\s+(?!\d){_SPOKEN_OF}(?=\S)"
)
_HEADING = re.compile(rf"\A#{{1,6}}\s+(?!of\b){_SPOKEN_OF}(?=\S)")
_NUMBER = re.compile(
    r"\A\*\*\d{1,2}[.)](?:\*\*\s+|\s+(?=[^*]+\*\*))|\A\(?1\)\s*(?=\S)|\A1\.\s+(?=\S)|\A1[、．]\s*(?=[^\s\d])|\A①\s*(?=\S)"
)
_NUMBERED_LINES = re.compile(r"\A\(?(\d{1,2})[.)、．]\s.*\n\s*\(?\d{1,2}[.)、．]\s", re.DOTALL)
_LETTERED = re.compile(r"\A\(?(?:a[.)]\s+(?=.*\n\s*\(?b[.)]\s)|i[.)]\s+(?=.*\n\s*\(?ii[.)]\s))", re.DOTALL)
_ANY_NUMBER = re.compile(r"\A\(?\d{1,2}[.)、．]\s+(?=\S)")
#: What follows an ordinal in languages that write it with a point: "1. FC Köln", "1. Mai", "1. maailmansota".
_ORDINAL = re.compile(
    r"\A1\. (?:f+c|[a-z]{1,3}c|fsv|bundes\w*|\w*liga|lig|hnl|welt\w*|mai|m[aá]j\w*|mars|jan\w*|feb\w*|m[äa]r[zctš]\w*|"
    r"apri?l\w*|jun\w*|jul\w*|"
    r"aug\w*|sept?\w*|o[kc]t\w*|nov\w*|de[zc]\w*|ledna|února|března|dubna|května|června|července|srpna|září|října|"
    r"listopadu|prosince|"
    r"haupt\w*|advent\w*|klasse\w*|mose|korinther\w*|könige|petrus\w*|johannes\w*|timotheus\w*|samuel|gebot|staffel|"
    r"semester|"
    r"trimester|stock|etage|platz|person|rang|gang|geburtstag|hochzeitstag|schul\w*|lehrjahr|ausbildungsjahr|monat|"
    r"woche|tag|jahr\w*|"
    r"lebens\w*|halbzeit|halbjahr|quartal|lockdown|ableitung|binomische\w*|newton\w*|keplersche\w*|maailmans\w*|"
    r"dünya|világ\w*|svetov\w*|"
    r"světov\w*|verdenskrig\w*|världskrig\w*|wojna|kapitel|teil|band|könig\w*|kaiser\w*|runde|spieltag|rate|hilfe|"
    r"wahl|"
    r"bölge\w*|sınıf\w*|sezon\w*|dönem\w*|derece\w*|lig[iau]?|boğaz\w*|pololetí|třída|razred\w*|sml|prosin\w*|siječ\w*|"
    r"svibnja|lipnja|hjælp|jule\w*|divisjon\w*|division\w*|dan|grad|kings?|chronicles?|tim\w*|peter|john|kor|cor\w*|"
    r"thess\w*|petr\w*|joh|mos|sam)\b",
    re.IGNORECASE,
)
#: Opening quote -> the one that closes it.
_PAIRS = {
    '"': '"', "“": "”", "”": "”", "„": "“”", "«": "»", "»": "«", "‹": "›", "「": "」", "『": "』", "《": "》", "〈": "〉",
    "‘": "’", "‚": "‘’", "'": "'", "’": "’", "`": "`´'", "＂": "＂", "″": "″", "｢": "｣", "❝": "❞",
}  # fmt: skip
_EMPHASES = ("***", "**", "__", "*", "~~", "_")
_JSON_KEYS = (
    "query",
    "queries",
    "search_query",
    "question",
    "questions",
    "search",
    "text",
    "answer",
    "output",
    "response",
)

# --- none -------------------------------------------------------------------------------------------------------------

_NOTHING = re.compile(
    r"\A\W*(?:none|n/?a|nil|null|nan|undefined|empty|nothing|no(?: (?:relevant|suitable|valid|search))* (?:query|"
    r"question|answer|output|"
    r"response)|(?:query|question|not) (?:here|available|applicable|found|provided))\W*\Z",
    re.IGNORECASE,
)
#: A greeting after which nothing comes.
_ANNOUNCEMENT = re.compile(
    r"\A(?:(?:sure|certainly|of course|absolutely|okay|ok)(?:[!.]|[,!.].*\b(?:help|assist)\b.*)|"
    r"here(?:['’]s| is| are) (?:a|an|the|your|some) (?:\w+ ){0,3}(?:quer(?:y|ies)|questions?)\W*)\Z",
    re.IGNORECASE,
)
_CANNOT = r"(?:can ?not|can['’]?t|could ?n['’]?t|could not|am (?:unable|not able)|['’]?m (?:unable|not able)|won['’]?t|will not)"
_NOT = rf"(?:{_CANNOT}|do(?:n['’]?t| not) (?:have|see|find))"
_TASK = (
    r"(?:help (?:you )?with (?:that|this|your)|assist|fulfil\w*|comply|generat\w+|provid\w+|creat\w+|produc\w+|"
    r"formulat\w+|writ\w+|answer\w*|"
    r"determin\w+|access|engag\w+|process\w*|complet\w+|continu\w+|see|find|discuss\w*|suggest\w*|offer\w*|craft\w*|"
    r"give|do (?:that|this)|"
    r"have|identif\w+|com(?:e|ing) up)"
)
_MATTER = (
    r"\b(?:quer(?:y|ies)|questions?|content|information)\b.{0,40}\b(?:passage|document|text|this|that|provided|"
    r"given|you|your|request)|"
    r"\b(?:this|your|that|the (?:provided|given)) (?:request|passage|document|question|query|text|prompt)|"
    r"\bwith (?:that|this)"
)
_SORRY = (
    r"(?:(?:i['’]?m|i am|we['’]?re) (?:so |very |really |truly )?(?:sorry|afraid)|(?:my )?apologies|i apologi[sz]e|"
    r"sorry|unfortunately|regrettably)"
)
_REFUSAL = re.compile(
    "|".join(
        (
            # "I'm sorry, but I cannot ..."; songs go on otherwise.
            rf"\A{_SORRY}(?:[,.!;:–—-]+ ?| )(?:but |however,? |for (?:the|any) (?:confusion|"
            rf"inconvenience),? (?:but )?)?(?:as an? [^,]{{0,40}}, ?)?"
            rf"(?:i|we)(?: |(?=['’])){_NOT}\b(?: {_TASK}| to| enough|\W*\Z| the\b| a\b| any\b)",
            rf"\A{_SORRY}[,.!;:]* (?:but |that )?(?:the (?:passage|document|text|provided|given|input|content)|"
            rf"this (?:passage|document|text|request)|"
            r"there (?:is|are|was|seems?) (?:no|not)|your (?:request|message|input)|no )",
            rf"\A{_SORRY}[.!]?\Z",
            rf"\A(?:i|we)(?: |(?=['’])){_CANNOT}(?: to)? {_TASK}\b.{{0,60}}(?:\bquer(?:y|ies)\W*\Z|{_MATTER}\b)",
            r"\Aas an? (?:ai|a\.i\.|artificial intelligence|(?:large )?language model)(?: (?:language )?(?:model|"
            r"assistant|chatbot))?(?: developed by [^,]+)?"
            r"(?:, ?| )(?:i|my|it)\b",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)
#: These begin queries too ("the document does not contain any pages error"), so they refuse only as a sentence does.
_REFUSING_SENTENCE = re.compile(
    "|".join(
        (
            r"\A(?:the|this) (?:(?:provided|given|above|input) )?(?:passage|document|text|content|"
            r"input)(?: provided| given)? (?:does(?:n['’]t| not)|"
            r"is (?:empty|missing|too short|incomplete|not)|contains? no|provides? no|has no|seems? to be (?:empty|"
            r"missing|incomplete))",
            rf"\A(?:i|we)(?: |(?=['’])){_CANNOT}(?: to| be able to)? {_TASK}\b",
            r"\Ai (?:must|have to) decline\b|\Ai am programmed\b|\Aas an? \w+ assistant\b",
            r"\Ahow (?:can|may) i (?:help|assist) you\b",
            r"\A(?:no|unable to|cannot|could not|can['’]t)\b.{0,40}\b(?:query|question|passage|document)\b",
            r"\Ayou have(?:n['’]t| not) (?:provided|given|shared)\b|\Ai['’]?(?:d| would) be (?:happy|glad) to\b",
            r"\Athank you for\b",
            r"\Athere (?:is|are|was) (?:no|not enough|insufficient) (?:\w+ )?(?:quer(?:y|ies)|questions?|passages?|"
            r"documents?|context|information|text)\b"
            r".{0,60}(?:passage|document|text|provided|given|\Z)",
            r"\A(?:please|kindly|(?:could|can|would) you(?: please)?) (?:provide|share|paste|give|send|"
            r"specify)(?: me)?(?: with)? (?:the|a|your|more|some)\b"
            r".{0,40}\b(?:passage|document|text|context|content|information)\b",
            r"\A(?:i|we)(?: need|['’]d need| require| don['’]t see| do not see) (?:the|a|any|"
            r"more)\b.{0,30}\b(?:passage|document|text|context)\b",
            r"\Ai do(?:n['’]t| not) (?:have|see|find|understand) (?:enough|any|access|the|a|"
            r"sufficient)\b.{0,60}\b(?:information|context|"
            r"passage|(?:provided|given) (?:document|text))\b",
            r"\Ait (?:seems|appears|looks)(?: like| that)? (?:the|your|you|there|that)\b.{0,60}\b(?:passage|"
            r"document|text|message|input)\b",
            # The same elsewhere.
            r"\A(?:es )?tut mir leid[,.!]? (?:aber|ich|doch)\b.{0,20}\b(?:nicht|kein)",
            r"\A(?:es )?tut mir leid, aber\b|\Aich kann (?:dir|ihnen|diese|keine)\b.{0,40}\b(?:anfrage|frage|helfen|"
            r"erstellen)",
            r"\Aje (?:suis|ne peux|m['’]excuse)\b.{0,12}(?:désolée?,? mais|pas (?:vous|générer|fournir|répondre|"
            r"créer))|\Adésolée?, (?:mais )?je ne",
            r"\Alo siento,? (?:pero|no puedo)|\A(?:desculpe|sinto muito|lamento),? (?:mas|não posso)|"
            r"\Ami dispiace,? (?:ma|non posso)",
            r"\Aals (?:ki|k\.i\.|sprachmodell)\b.{0,20},? (?:kann|bin|habe) ich|\Aen tant qu['’](?:ia|"
            r"intelligence artificielle|assistant)\b|"
            r"\Acomo (?:una? )?(?:modelo de (?:lenguaje|linguagem)|ia\b|inteligencia artificial),?",
            r"\A(?:извините|простите|к сожалению)[,!.]? (?:но )?я не\b|\Aкак (?:ии|искусственный интеллект|"
            r"языковая модель)",
            r"\A(?:非常|很)?(?:对不起|抱歉|對不起)[，,。!！ ]*(?:但)?(?:我|作为|作為)?(?:无法|不能|無法|没有|沒有|"
            r"未能)|\A(?:作为|作為)(?:一个|一個|一名)?\s?(?:ai|人工智能|人工智慧|语言模型|大?型?语言模型)",
            r"\A(?:大変)?申し訳(?:ありません|ございません|ないのですが)|\A죄송(?:합니다|하지만)|\A(?:عذرا|عذرًا|"
            r"آسف)[،, ].{0,12}(?:لا|لم)",
            r"\A(?:मुझे खेद है|क्षमा करें|माफ़ करें)[,; ]",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)
#: The same of other languages; a question is none of them.
_REFUSING_ELSEWHERE = re.compile(
    r"\A(?:(?:es )?tut mir leid|ich kann .{0,30}(?:nicht|keine?) .{0,20}(?:helfen|beantworten|erstellen)|"
    r"(?:je suis )?désolée?|je ne peux pas (?:vous|t['’]|répondre|générer|fournir|aider)|"
    r"(?:lo siento|lamento|lo lamento)|no puedo (?:ayud|respond|gener|proporcion|cumpl|continu)\w+|"
    r"(?:desculpe|sinto muito)|não posso (?:ajud|respond|ger|forne)\w+|(?:mi dispiace|spiacente)|"
    r"non posso (?:aiut|rispond|gener|forn)\w+|het spijt me|helaas|извините|простите|к сожалению|"
    r"я не могу (?:помочь|ответить|создать|предоставить|сгенерировать|выполнить)|przykro mi|przepraszam|niestety|omlouvám se|"
    r"bohužel|je mi líto|üzgünüm|maalesef|maaf|(?:tôi )?xin lỗi|(?:很)?抱歉|"
    r"すみません|申し訳|متأسفم|متاسفم|(?:אני )?מצטער|माफ़? (?:करें|कीजिए)|দুঃখিত|மன்னிக்கவும்|λυπάμαι|"
    r"συγγνώμη|δυστυχώς|tyvärr|jag är ledsen|beklager|olen pahoillani|valitettavasti|sajnálom|sajnos|îmi pare rău|"
    r"вибачте|на жаль)[, ،，、；;が。.!].*(?<![?？])\Z|"
    r"\A我(?:无法|不能|無法)(?:回答|提供|生成|协助|協助|帮助|幫助|满足|滿足|继续|创建).*(?<![?？])\Z|"
    r"\A(?:ขออภัย|ขอโทษ).{0,40}ไม่(?:สามารถ|ได้)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END, _PAUSE = ".!?…。！？।۔", "，、،"


def query_in(answer: str, chat: bool) -> str:
    """The query in a generated text, on one line; "" where there is none.

    A completion's is what stands before the first line end, as the prompt goes on after it; a chat's is the first line that
    says something.
    """
    text = _without_thoughts(answer)
    if not chat and text == answer and not text.partition("\n")[0].strip():
        return ""
    text = text.strip().lstrip("\ufeff\u200b")
    refused = False
    for _ in range(12):  # each round takes one shell away; more are none that a model has
        before = text
        text = _shelled(text, chat)
        refused = refused or _refuses(_line(text))
        if text == before:
            break
    line = _line(text)
    none = refused or not any(map(str.isalnum, line)) or _NOTHING.match(line) or _ANNOUNCEMENT.match(line)
    return "" if none else line


def _refuses(line: str) -> bool:
    """Whether a line says that there will be no query; a person who searches writes no sentence."""
    ended = line.rstrip("\"'*_”’)").endswith(tuple(_SENTENCE_END))
    if _REFUSAL.match(line):
        return ended or not line[:1].islower()
    if _REFUSING_ELSEWHERE.match(line) and (ended or line.startswith("ข")):
        return True
    return bool(_REFUSING_SENTENCE.match(line)) and (
        ended or (not line[:1].islower() and (len(line) > 60 or any(mark in line for mark in _PAUSE)))
    )


def _line(text: str) -> str:
    """The first line that says something, its blanks single."""
    lines = (line for line in text.split("\n") if any(map(str.isalnum, line)))
    return " ".join(_unwrapped(next(lines, "").strip()).split())


#: What stands before the query, by itself or on its line.
_SHELLS = (
    *(
        _REASONED,
        _ROLE_LABEL,
        _ANNOUNCED,
        _STATED,
        _SEARCHED,
        _LABEL,
        _BRACKETED,
        _ASSIGNED,
        _LABEL_LINE,
        _OPENING_LINE,
        _GREETING,
    ),
    _QUESTION_AND_ANSWER,
)


def _shelled(text: str, chat: bool) -> str:
    """The text without its outermost shell; itself where it has none."""
    text = _LAST_TOKENS.sub("", _FIRST_TOKENS.sub("", _ECHO.sub("", text)))
    if role := _ROLE.match(text):
        return text[role.end() :].strip()
    text = _LINE_TOKENS.sub("", _TURN_END.sub("", text)).strip()
    for shell in _SHELLS:
        if found := shell.match(text):
            # What is left must say something.
            if rest := text[found.end() :].strip():
                return rest
            return "" if shell in (_LABEL, _ANNOUNCED, _ROLE_LABEL) and "\n" not in text else text
    if chat and not _ASKING.match(text) and (found := _COLON_LINE.match(text)):
        return text[found.end() :].strip()
    if text.startswith(("```", "~~~")) and (fence := _FENCE.match(text)):
        return fence[2].strip()
    if text[:1] in ("{", "["):
        held = _in_json(text)
        if held is not None:
            return held
    if tagged := _TAGGED.match(text) or _BOXED.match(text) or _CALLED.match(text):
        return tagged[tagged.re.groups].strip()
    if wrapped := _WRAPPED.match(text):
        return wrapped[2] or text[wrapped.end() :].strip()
    if (enclosed := _ENCLOSED.match(text)) and len(text.split()) > 2 and "," not in text:
        return (enclosed[1] or enclosed[2] or enclosed[3] or "").strip()
    text = _LOOSE_TAGS.sub("", text)
    first, end, rest = text.partition("\n")
    first = first.strip()
    if not any(map(str.isalnum, first)) and rest.strip():
        return rest.strip() if not first.startswith(("```", "~~~", "{", "[")) else text
    return _unwrapped(_unnumbered(first, text)) + end + rest


def _unnumbered(line: str, text: str) -> str:
    """A line without the mark of a list before it."""
    if found := _BULLET.match(line) or _HEADING.match(line):
        return line[found.end() :]
    if _NUMBERED_LINES.match(text):
        return _ANY_NUMBER.sub("", line)
    if found := _LETTERED.match(text):
        return line[found.end() :]
    if (found := _NUMBER.match(line)) and not _ORDINAL.match(line):
        return line[found.end() :]
    return line


def _unwrapped(line: str) -> str:
    """A line without quotes or emphasis around the whole of it, or a quote that is never closed."""
    for mark in _EMPHASES:
        inner = line[len(mark) : -len(mark)]
        around = len(line) > 2 * len(mark) and line.startswith(mark) and line.endswith(mark) and mark not in inner
        name = mark in ("*", "_", "__") and not re.search(r"\s", inner)  # __init__
        if around and not name and inner == inner.strip():
            return inner
    if len(line) < 2:
        return line
    closing = _PAIRS.get(line[0], "")
    ended = line[-1] in ".,;!?。！？" and line[-2] in closing and len(line) > 2
    if closing and (line[-1] in closing or ended):
        inner = line[1:-2] + (line[-1] if line[-1] in "?？!！" else "") if ended else line[1:-1]
        body = line[1:-2] if ended else inner
        # "to be" or "not to be" is two, and 'rock 'n' roll' one.
        if not any(each in body for each in {line[0], *closing} - set("'’")) and body.count("'") != 1 and inner.strip():
            return inner.strip()
    if line[0] in '"“„«「『' and not any(each in line[1:] for each in (*closing, line[0])):
        return line[1:].strip()
    if line[-1] in "”»」』" and not any(each in line[:-1] for each in "“”„«»「『"):
        return line[:-1].strip()
    if line[-1] == '"' and line.count('"') == 1 and not line[-2].isdigit():
        return line[:-1].strip()
    return line


# --- JSON -------------------------------------------------------------------------------------------------------------

_KEY = re.compile(
    r"""["']?(?:search[_ ]?)?(?:quer(?:y|ies)|questions?)["']?\s*:\s*\[?\s*(["'])((?:\\.|(?!\1)[^\\])*)""",
    re.IGNORECASE | re.DOTALL,
)


def _in_json(text: str) -> str | None:
    """The first query in an object or a list; "" for one without, and None where the text is neither."""
    try:
        held, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        held, end = _python(text), len(text)
        if held is None:  # cut, or with keys that are not quoted
            cut = _KEY.search(text) or re.match(r"\[\s*(\")((?:\\.|[^\"\\])+)(?:\"\s*,|\"?\Z)", text)
            return cut[2].replace('\\"', '"').replace("\\n", " ").strip() if cut else None
    # '["a", "b"] in javascript' is a query.
    if text[end:].strip() and not text[end:].lstrip(" \t`").startswith("\n"):
        return None
    found = _first_text(held)
    if found is None:
        return "" if isinstance(held, dict) or not held else None
    return found.strip()


def _python(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _first_text(held: Any) -> str | None:
    """The first text in nested data: by the names that a query has, else the only one that there is."""
    if isinstance(held, str):
        return held
    if isinstance(held, list | tuple):
        return next((found for each in held if (found := _first_text(each))), None)
    if not isinstance(held, dict):
        return None
    named = {str(key).lower(): value for key, value in held.items()}
    keys = [key for key in _JSON_KEYS if key in named]
    keys += [key for key in named if key not in keys and re.search("quer|question", key)]
    for key in keys:
        if found := _first_text(named[key]):
            return found
    nested = [found for value in named.values() if isinstance(value, dict) and (found := _first_text(value))]
    if len(nested) == 1 and not keys:  # the arguments of a call
        return nested[0]
    others = [found for key, value in named.items() if key not in keys and (found := _first_text(value))]
    return others[0] if len(others) == 1 and not keys else None
