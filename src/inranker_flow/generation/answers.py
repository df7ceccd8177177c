"""The query in what a language model answered: without thoughts, greetings, labels, marks and quotes; or none at all.

What is taken away must be the model's manner and no part of a query: "1. FC Köln tickets", "2001: a space odyssey" and
"c++ <vector> example" are queries. So a mark counts where it stands as a model writes it: a tag that opens a line, a quote
around the whole, a bullet with a blank after it.
"""

from __future__ import annotations

import re

from inranker_flow.generation.json_answers import in_json
from inranker_flow.generation.refusals import ANNOUNCEMENT, NOTHING, refuses
from inranker_flow.generation.thoughts import without_thoughts

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
_FOREIGN_ATTRIBUTE = (
    r"(?:relevante[nrs]?|mögliche[nrs]?|passende[nrs]?|generierte[nrs]?|beispielhafte[nrs]?|kurze[nrs]?|gute[nrs]?|"
    r"pertinente|possible|générée|courte|naturelle|posible|generada|corta|breve|possível|gerada|curta|possibile|generata|"
    r"mogelijke|korte|релевантный|возможный|сгенерированный|możliwe|trafne)"
)
_NAMED = (
    rf"(?:(?:{_ATTRIBUTE} ){{0,4}}{_QUERY}|(?:{_FOREIGN_ATTRIBUTE} )?(?:{_FOREIGN_QUERY})(?: {_FOREIGN_ATTRIBUTE})?)"
)
_NUMBERED = r"(?: ?(?:#|no\.? ?|nr\.? ?)?\(?\d{1,3}\)?)?"
_EMPHASIS = r"[*_#]{0,4}"
_LABEL = re.compile(
    rf"\A{_EMPHASIS}\s?{_NAMED}{_NUMBERED}(?: \([^()\n]{{1,40}}\))?"
    r"(?: (?:for|about|based on|from) (?:the|this|that) (?:\w+ )?(?:passage|document|text|article))?"
    rf"\s?{_EMPHASIS}\s?[:：]\s?{_EMPHASIS}\s*",
    re.IGNORECASE,
)
#: "Query - how do ...": in small letters it may be what is searched for.
_DASHED = re.compile(r"\A(?:Query|Question|(?:Search|Generated|Relevant|User|Suggested) [Qq]uery) (?:[-–—→]|->) (?=\S)")
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
_QUESTION_AND_ANSWER = re.compile(
    r"\AQ(?:: (?=[^\n]+\Z)|[:.]\s*(?=[^\n]+\n+\s*A[:.])|1[:.)]\s*(?=[^\n]+\n+\s*(?:Q2|A1?)[:.)]))"
)

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
#: Around an answer; those without a width are no blanks to Python.
_BLANKS = " \t\n\r\f\v\u00a0\u2028\u2029\u3000\ufeff\u200b\u2060\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069"
_EMPHASES = ("***", "**", "__", "*", "~~", "_")


def query_in(answer: str, chat: bool) -> str:
    """Return the query in a generated text, on one line; "" where there is none.

    A completion's is what stands before the first line end, as the prompt goes on after it; a chat's is the first line that
    says something.
    """
    text = without_thoughts(answer)
    if not chat and text == answer and not text.partition("\n")[0].strip():
        return ""
    text = text.replace("\0", "").strip().strip(_BLANKS)
    refused = False
    for _ in range(12):  # each round takes one shell away; more are none that a model has
        before = text
        text = _shelled(text, chat)
        refused = refused or refuses(_line(text))
        if text == before:
            break
    line = _line(text)
    none = refused or not any(map(str.isalnum, line)) or NOTHING.match(line) or ANNOUNCEMENT.match(line)
    return "" if none else line


def _line(text: str) -> str:
    """Return the first line that says something, its blanks single."""
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
        _DASHED,
        _BRACKETED,
        _ASSIGNED,
        _LABEL_LINE,
        _OPENING_LINE,
        _GREETING,
    ),
    _QUESTION_AND_ANSWER,
)


def _shelled(text: str, chat: bool) -> str:
    """Return the text without its outermost shell; itself where it has none."""
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
        held = in_json(text)
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
    """Return a line without the mark of a list before it."""
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
    """Return a line without quotes or emphasis around the whole of it, or a quote that is never closed."""
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
