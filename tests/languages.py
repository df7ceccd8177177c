"""Small collections in languages other than English: templated sentences, and a question for each passage."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Sample:
    """``passages`` and ``queries`` by the same number: query i asks for passage i."""

    passages: list[str]
    queries: list[str]


@dataclass(frozen=True)
class _Language:
    """A passage says what a thing does and, with ``more``, something that all things do. Words of a fact and the ones that ask
    for it differ in form where the language has forms."""

    things: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    passage: str
    query: str


_LANGUAGES = {
    "chinese": _Language(
        ("河流", "灯塔", "铜矿", "森林", "港口", "图书馆", "火山"),
        (
            ("为附近的城市提供饮用水", "提供饮用水"),
            ("在十九世纪由工程师建造", "由谁建造"),
            ("每年吸引大量游客参观", "游客参观"),
            ("因地震而受到严重损坏", "地震损坏"),
            ("出产制造电池所需的金属", "制造电池的金属"),
            ("是候鸟过冬的栖息地", "候鸟过冬"),
        ),
        "{thing}位于国家的北部。这座{thing}{fact}，编号为Python3。",
        "{thing}{fact}吗？",
    ),
    "japanese": _Language(
        ("灯台", "図書館", "銅山", "森林", "タワー", "火山", "カフェ"),
        (
            ("近くの町に飲料水を供給している", "飲料水の供給"),
            ("十九世紀に技術者によって建設された", "誰が建設"),
            ("毎年多くの観光客が訪れる", "観光客はどのくらい訪れる"),
            ("地震で大きな被害を受けた", "地震の被害"),
            ("電池に必要な金属を産出する", "電池の金属"),
            ("渡り鳥が冬を過ごす場所である", "渡り鳥が冬を過ごす"),
        ),
        "この{thing}は国の北部にあります。{thing}は{fact}。",
        "{thing}の{fact}について",
    ),
    "korean": _Language(
        ("등대", "도서관", "구리광산", "숲속", "항구", "화산", "강물"),
        (
            ("인근 도시에 식수를 공급한다", "식수 공급"),
            ("십구세기에 기술자들이 건설했다", "건설한 기술자"),
            ("해마다 많은 관광객이 방문한다", "관광객 방문"),
            ("지진으로 크게 파손되었다", "지진 파손"),
            ("전지에 필요한 금속을 생산한다", "전지 금속"),
            ("철새가 겨울을 나는 곳이다", "철새의 겨울"),
        ),
        "이 {thing}는 나라의 북부에 있다. {thing}에서 {fact}.",
        "{thing}의 {fact}",
    ),
    "thai": _Language(
        ("แม่น้ำ", "ประภาคาร", "เหมืองทองแดง", "ป่าไม้", "ท่าเรือ", "ห้องสมุด", "ภูเขาไฟ"),
        (
            ("จ่ายน้ำดื่มให้เมืองใกล้เคียง", "จ่ายน้ำดื่ม"),
            ("สร้างโดยวิศวกรในศตวรรษที่สิบเก้า", "วิศวกรสร้าง"),
            ("มีนักท่องเที่ยวมาเยือนทุกปี", "นักท่องเที่ยวมาเยือน"),
            ("เสียหายอย่างหนักจากแผ่นดินไหว", "แผ่นดินไหวเสียหาย"),
            ("ผลิตโลหะสำหรับแบตเตอรี่", "โลหะแบตเตอรี่"),
            ("เป็นที่อาศัยของนกอพยพในฤดูหนาว", "นกอพยพฤดูหนาว"),
        ),
        "{thing}อยู่ทางตอนเหนือของประเทศ {thing}แห่งนี้{fact}",
        "{thing}{fact}หรือไม่",
    ),
    "hindi": _Language(
        ("नदी", "प्रकाशस्तंभ", "खदान", "जंगल", "बंदरगाह", "पुस्तकालय", "ज्वालामुखी"),
        (
            ("पास के शहर को पेयजल देती है", "पेयजल शहरों"),
            ("उन्नीसवीं सदी में इंजीनियरों द्वारा बनाई गई", "इंजीनियर सदी"),
            ("हर साल बहुत पर्यटकों को आकर्षित करती है", "पर्यटक आकर्षित"),
            ("भूकंप से बुरी तरह क्षतिग्रस्त हुई", "भूकंप क्षतिग्रस्त"),
            ("बैटरियों के लिए धातु का उत्पादन करती है", "बैटरी धातु"),
            ("प्रवासी पक्षियों का शीतकालीन आवास है", "प्रवासी पक्षी शीतकालीन"),
        ),
        "यह {thing} देश के उत्तर में है। यहाँ की {thing} {fact}।",
        "कौन सी {thing} {fact}",
    ),
    "arabic": _Language(
        ("نهر", "منارة", "منجم", "غابة", "ميناء", "مكتبة", "بركان"),
        (
            ("توفر مياه الشرب للمدن القريبة", "المياه للشرب"),
            ("بناها المهندسون في القرن التاسع عشر", "مهندسون القرن"),
            ("تجذب السياح من كل البلاد", "سياح"),
            ("تضررت كثيرا بسبب الزلازل", "زلازل تضررت"),
            ("تنتج المعادن اللازمة للبطاريات", "معادن بطاريات"),
            ("تعيش فيها الطيور المهاجرة شتاء", "طيور مهاجرة"),
        ),
        "توجد هذه ال{thing} في شمال البلاد. هنا {thing} {fact}.",
        "أين ال{thing} {fact}؟",
    ),
    "portuguese": _Language(
        ("estação", "fundação", "mineração", "vegetação", "região", "instituição", "povoação"),
        (
            ("fornece água potável às povoações vizinhas", "fornecer água potável"),
            ("foi construída por engenheiros franceses", "engenheiro francês construiu"),
            ("atrai visitantes do mundo inteiro", "atração de visitantes"),
            ("ficou destruída pelas inundações", "destruição por inundação"),
            ("produz o lítio das baterias elétricas", "lítio para bateria elétrica"),
            ("é o refúgio dos pássaros no inverno", "refúgio de pássaro"),
        ),
        "A {thing} fica no norte do país. Esta {thing} {fact}.",
        "qual {thing} {fact}",
    ),
    "russian": _Language(
        ("река", "маяк", "шахта", "лес", "порт", "библиотека", "вулкан"),
        (
            ("снабжает питьевой водой соседние города", "снабжение питьевая вода"),
            ("построена французскими инженерами", "французский инженер"),
            ("привлекает множество туристов", "привлекать туриста"),
            ("сильно повреждена землетрясением", "повреждение при землетрясении"),
            ("добывает металлы для батарей", "металл батарея"),
            ("служит зимовкой перелётных птиц", "перелётная птица"),
        ),
        "Наш {thing} находится на севере страны. Этот {thing} {fact}.",
        "{thing}: {fact}",
    ),
    "vietnamese": _Language(
        ("dòng sông", "hải đăng", "mỏ đồng", "khu rừng", "bến cảng", "thư viện", "núi lửa"),
        (
            ("cung cấp nước uống cho thành phố lân cận", "cung cấp nước uống"),
            ("được các kỹ sư người Pháp xây dựng", "kỹ sư xây dựng"),
            ("thu hút nhiều du khách mỗi năm", "thu hút du khách"),
            ("bị hư hại nặng vì động đất", "hư hại động đất"),
            ("sản xuất kim loại làm pin", "kim loại làm pin"),
            ("là nơi trú đông của chim di cư", "chim di cư trú đông"),
        ),
        "{thing} nằm ở phía bắc đất nước. {thing} này {fact}.",
        "{thing} nào {fact}",
    ),
}  # fmt: skip

NAMES = tuple(_LANGUAGES)


def sample(name: str, passages: str = "NFC", queries: str = "NFC") -> Sample:
    """A passage for each thing and fact of a language, in these Unicode forms."""
    language = _LANGUAGES[name]
    pairs = list(product(language.things, language.facts))
    written: Callable[[str, str], str] = unicodedata.normalize  # type: ignore[assignment]
    return Sample(
        [written(passages, language.passage.format(thing=thing, fact=fact)) for thing, (fact, _) in pairs],
        [written(queries, language.query.format(thing=thing, fact=asked)) for thing, (_, asked) in pairs],
    )
