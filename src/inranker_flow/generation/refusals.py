"""Answers that hold no query: none, an announcement alone, or a refusal."""

from __future__ import annotations

import re

NOTHING = re.compile(
    r"\A\W*(?:none|n/?a|nil|null|nan|undefined|empty|nothing|no(?: (?:relevant|suitable|valid|search))* (?:query|"
    r"question|answer|output|"
    r"response)|(?:query|question|not) (?:here|available|applicable|found|provided))\W*\Z",
    re.IGNORECASE,
)
#: A greeting after which nothing comes.
ANNOUNCEMENT = re.compile(
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


def refuses(line: str) -> bool:
    """Return whether a line says that there will be no query; a person who searches writes no sentence."""
    ended = line.rstrip("\"'*_”’)").endswith(tuple(_SENTENCE_END))
    if _REFUSAL.match(line):
        return ended or not line[:1].islower()
    if _REFUSING_ELSEWHERE.match(line) and (ended or line.startswith("ข")):
        return True
    return bool(_REFUSING_SENTENCE.match(line)) and (
        ended or (not line[:1].islower() and (len(line) > 60 or any(mark in line for mark in _PAUSE)))
    )
