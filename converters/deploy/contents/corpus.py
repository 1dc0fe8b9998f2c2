"""A thousand texts with their ids, for people who write a tokenizer for a phone."""

import random

COUNT = 1000

_NOUNS = [
    "cat",
    "dog",
    "raccoon",
    "rocket",
    "galaxy",
    "cup of coffee",
    "astronaut",
    "human eye",
    "street at night",
    "mountain lake",
    "birthday cake",
    "traffic light",
    "old bicycle",
    "bowl of ramen",
    "sail boat",
    "wedding dress",
    "x-ray",
    "QR code",
    "spider's web",
    "T-shirt",
    "e-mail",
    "child’s drawing",
    "O'Brien's pub",
    "rock'n'roll band",
    "state-of-the-art robot",
]
_SENTENCES = (
    "a photo of {}",
    "A photo of the {}.",
    "an image of {} and {}",
    "Is this {}? No, it's {}!",
    "they'll see {}, we've seen {}, I'm {}",
    "{} (close-up), 35mm, f/1.8, ISO 400",
    "THE {} IN CAPITALS",
    "3 {} & 12 {} for $4.99",
    "#{} @{} https://example.com/{}?q=1&lang=en",
    "{}\n{}\t{}",
    "  {}   {}  ",
    "{}... {}!!! {}???",
)
_SCRIPTS = (
    "Ein Foto einer Straße in München, schön größer",
    "une photo d'un œuf à la coque, garçon, naïve, Noël",
    "una foto de un niño en España, ¿qué?, ¡mañana!",
    "zdjęcie żółtej łódki w Łodzi",
    "İstanbul'da ılık bir gün, ığdır",
    "ảnh một con mèo đang ngủ",
    "Фотография кошки на окне",
    "Φωτογραφία μιας γάτας, ΣΊΣΥΦΟΣ",
    "صورة قطة على السجادة",
    "תמונה של חתול",
    "बिल्ली की एक तस्वीर",
    "แมวสีส้มบนโซฟา",
    "一张猫的照片",
    "猫の写真、カタカナとひらがな",
    "고양이 사진",
    "កូនឆ្មា",
    "ფოტო კატის",
    "Լուսանկար կատվի",
    "የድመት ፎቶ",
    "ǅ ǆ Ǉ ß ẞ ſ K Å",
)
_EMOJI = ("🐱", "🚀✨", "👩‍🚀", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "❤️", "☕️", "🏳️‍🌈", "1️⃣2️⃣", "™️", "🤷🏻‍♀️", "😀😃😄")
_HTML = (
    "black &amp; white",
    "&lt;b&gt;bold&lt;/b&gt;",
    "&quot;quoted&quot; &#39;single&#39; &#x27;hex&#x27;",
    "caf&eacute; &nbsp; cr&egrave;me",
    "&amp;amp; twice &amp;lt;",
    "5 &gt; 3 &le; 7 &euro;10",
    "&hellip; &mdash; &ndash; &ldquo;x&rdquo; &lsquo;y&rsquo;",
    "<p>a paragraph</p><br/>next",
    "AT&T R&D &unknown; &",
    "&#128512; &#x1F600; &copy; &reg; &trade;",
)
_ODD = (
    "",
    " ",
    "\n\t \r\n",
    "!",
    "!!!",
    "?!?!",
    "a",
    "I",
    "'s",
    "'LL 'Re 'vE",
    "don’t “quote” ‘me’",
    "ﬁne ﬂower eﬃcient ﬆop",
    "Ｆｕｌｌ　ｗｉｄｔｈ　１２３",
    "ﾊﾝｶｸ ｶﾀｶﾅ",
    "cafÃ© naÃ¯ve â€œmojibakeâ€\x9d",
    "combining e\u0301 and precomposed é",
    "zero\u200bwidth\u200cspace\u200d joiner",
    "soft\u00adhyphen no\u00a0break",
    "bell\x07 null\x00 escape \x1b[31mred\x1b[0m",
    "\ufeffbyte order mark",
    "line\u2028separator next\x85line",
    "<start_of_text> written out <end_of_text>",
    "<|startoftext|> of others <|endoftext|>",
    "1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣",
    "x² + y² = z², ∑∫√∞ ≠ ≤",
    "C:\\path\\file.txt /usr/bin/env ~user",
    "def f(x): return x**2  # code",
    '{"json": [1, 2, null]}',
    "snake_case camelCase kebab-case SCREAMING",
    "____ ---- **** ====",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" + " very" * 90 + " long text",
    "word " * 300,
    "🐱" * 100,
    "猫" * 120,
    "\U0001f9ff\U00020000\U000e0001",
)


def corpus() -> list[str]:
    """The texts, always the same: the odd ones first, then others made of sentences, scripts, emoji and HTML."""
    chance = random.Random(0)
    found = list(dict.fromkeys((*_ODD, *_SCRIPTS, *_EMOJI, *_HTML)))
    known = set(found)
    while len(found) < COUNT:
        text = chance.choice(_SENTENCES)
        while "{}" in text:
            text = text.replace("{}", chance.choice(_NOUNS), 1)
        for pieces, likely in ((_SCRIPTS, 0.2), (_EMOJI, 0.2), (_HTML, 0.2), (_ODD, 0.1)):
            if chance.random() < likely:
                text = chance.choice((f"{text} {{}}", f"{{}} {text}", f"{text}{{}}")).replace(
                    "{}", chance.choice(pieces)
                )
        if chance.random() < 0.15:
            text = chance.choice((text.upper(), text.title(), text.swapcase()))
        if text not in known:
            known.add(text)
            found.append(text)
    return found
