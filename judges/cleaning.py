r"""Whether a text could say a word once somebody cleans it. Pure: text in, yes or no out.

A judge cleans what it repeats: it drops invisible characters and markup, writes full width and mathematical letters
plainly, resolves entities and escapes, mends spelling. Nobody can try every cleaning, so a text is boiled down until
all of them come to the same: escapes resolved, markup left out, every character either nothing (vowels, spaces,
punctuation, marks, what cannot be seen), the consonant that it is, looks like or stands for, or an unknown one. What is
left of ``<b>V</b>\u0435r-d&#8203;i&#99;t`` is ``vrdct``, as of *verdict*. It errs to yes: a *yes* costs a code
(``judges.sealing``), a wrong *no* could cost a verdict.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

UNKNOWN = "0"
"""Stands for a character that might be taken for any letter: a digit, an emoji, a letter of an unrelated script."""
EDGE = 40
"""Characters at the ends of a text that may be repeated together with another's."""
LONG_ENOUGH = 5
"""Consonants from which a word is known by all but one of them; a fifth of all texts would say *scores* so."""
READINGS = 24
"""How many texts may come of cleaning one; where there are more, it hides something."""


def _table(kept: Mapping[str, str]) -> tuple[bytes, bytes]:
    """(what each byte becomes, which bytes are left out) of ASCII."""
    made = {code: kept.get(chr(code).lower()) for code in range(128)}
    return bytes(ord(made.get(code) or "\0") for code in range(256)), bytes(code for code in made if not made[code])


LOOKALIKES = {
    letter: consonant
    for consonant, letters in {
        "v": "\u03bd\u0475\u0474\u0432\u0412\u2228\u22c1\u221a\u0667\u06f7\u13d9\ua4e6\ua4f3\u1d27\U0001f55a",
        "r": "\u0433\u0413\u0440\u0420\u03c1\u03a1\u1d26\uab47\uab48\u2c85\u13a1\u13d2\ua4e3\u044f\u042f\u0570",
        "d": "\u0434\u0414\u03b4\u0394\u0501\u0500\u056a\u00f0\u00d0\u13a0\u13e7\ua4d3\u2202\u146f\u146d",
        "c": "\u0441\u0421\u043a\u041a\u03f2\u03f9\u03c2\u03ba\u039a\u2282\u00a2\u00a9\u2ca5\u2ca4\u13df\ua4da\u1455"
        "\u0446\u0447\u2c95",
        "t": "\u0442\u0422\u03c4\u03a4\u2020\u22a4\u2ca7\u2ca6\u13a2\ua4d4\u01be\u0576",
        "s": "\u0455\u0405\u00a7\u13da\u13d5\ua4e2\u03c3\u03a3\u0282\u0448\u0449\u10fd",
        "n": "\u043d\u041d\u043f\u041f\u03b7\u039d\u0578\u057c\u2c9a\u0418",
        "g": "\u0581\u050d\u050c\u13c0\u13f3\ua4d6\u03b3",
        "b": "\u0431\u0411\u03b2\u0392\u044c\u042c\u0184",
        "f": "\u0444\u0424\u03c6\u03a6\u03dd",
        "l": "\u043b\u041b\u03bb\u039b",
        "m": "\u043c\u041c\u03bc\u039c",
        "p": "\u03c0\u03a0\u03c8\u03a8",
        "x": "\u0445\u0425\u03c7\u03a7\u03be\u039e",
        "z": "\u0437\u0417\u0436\u0416\u03b6\u0396",
        "": "\u0430\u0410\u0435\u0415\u0451\u0438\u043e\u041e\u0443\u0423\u044b\u042b\u044d\u042d\u044e\u042e\u0439"
        "\u0419\u0456\u0406\u0457\u0454\u044a\u042a\u03b1\u0391\u03b5\u0395\u03b9\u0399\u03bf\u039f\u03c5\u03a5\u03c9"
        "\u03a9\u0397\u0131\u2113",
    }.items()
    for letter in letters
}
"""Letter of another script -> the consonant that it looks like or is written for; vowels -> nothing."""
NAMED = re.compile(
    r"(?:LATIN|REGIONAL INDICATOR|(?:CROSSED )?NEGATIVE|COMBINING LATIN|MODIFIER LETTER|SQUARED|PARENTHESIZED)\b"
)
LETTER = re.compile(r"\b[A-Z]\b")
_EARNEST = {
    **{one: one for one in "bcdfghjlmnpqrstvwxz"},
    "k": "c",
    "q": "c",
    **dict.fromkeys("0123456789()+|\\/<$@^", UNKNOWN),
}
_JEST = {one: made for one, made in _EARNEST.items() if made != UNKNOWN} | dict(zip("57$+(<9", "ststccg", strict=True))
EARNEST, JEST = _table(_EARNEST), _table(_JEST)
"""What of ASCII is kept and as what; some signs stand in for letters (``V3RD!(7``, ``\\/erdict``)."""
BEYOND = re.compile(r"[^\x00-\x7f]+")
UNKNOWNS = (2 * UNKNOWN).encode()
BYTES = re.compile(r"(?:[%=][0-9A-Fa-f]{2}|\\x[0-9A-Fa-f]{2}|\\[0-3][0-7]{2})+")
ONE_BYTE = re.compile(r"[%=]([0-9A-Fa-f]{2})|\\x([0-9A-Fa-f]{2})|\\([0-3][0-7]{2})")
ESCAPE = re.compile(
    r"\\([\"'/\\])|\\[nrtbf]|\\u([0-9A-Fa-f]{4})|\\[ux]\{([0-9A-Fa-f]{1,8})\}|\\U([0-9A-Fa-f]{8})|"
    r"[Uu]\+([0-9A-Fa-f]{4,6})|\\N\{([^{}]{1,80})\}"
)
MARKUP = re.compile(
    r"<!\[CDATA\[|</?[A-Za-z!?](?:[^<>\"']|\"[^\"]{0,200}\"|'[^']{0,200}'){0,300}>|"
    r"</?[A-Za-z][^<>]{0,300}>|\]\([^()\n]{0,300}\)|\\[A-Za-z]{1,30}|\x1b\[[0-9;]{0,20}[A-Za-z]|\[[0-9;]{1,20}m",
    re.DOTALL,
)
ASIDES = [
    re.compile(pattern)
    for pattern in (
        r"\[[^\[\]]{0,400}\]",
        r"\([^()]{0,400}\)",
        r"\{[^{}]{0,400}\}",
        r"~~[^~]{0,400}~~",
        r":\w{1,30}:",
        r"<(\w{1,20})(?: [^<>]{0,200})?>[^<>]{0,400}</\1>",
    )
]
"""What somebody may leave out with its contents."""
SEEN = bytes([9, 10, 13, 27, *range(32, 127)])
ODD = re.compile(r"[^\t\n\r\x1b -~]+")
HALVES = re.compile("[\ud800-\udfff]")
TURNED = re.compile("[\u202b\u202e\u2067\u2068\u200f]([^\u202a-\u202e\u2066-\u2069\u200e]*)")


def any_could_say(texts: Sequence[str], *words: str) -> bool:
    """Whether a cleaning of one of *texts*, or of the end of one with the start of another, says one of *words*."""
    if any(could_say(text, *words) for text in texts):
        return True
    ends = [(skeleton(text[-EDGE:]), skeleton(text[:EDGE])) for text in texts]
    return any(_says(end + start, words) for end, _ in ends for _, start in ends)


@lru_cache(maxsize=512)
def could_say(text: str, *words: str) -> bool:
    """Whether a cleaning of *text* says one of *words*, forwards or backwards, at most one letter unrecognised."""
    known, readings = {text}, [text]
    for at, reading in enumerate(readings):
        # Nobody writes in so many layers but to hide something.
        if at == READINGS or any(_says(bones, words) for bones in _skeletons(reading)):
            return True
        for clean in (_plain, _resolved, _unmarked, _turned):
            if (made := clean(reading)) not in known:
                known.add(made)
                readings.append(made)
    return False


def skeleton(text: str, *, in_jest: bool = False) -> bytes:
    """The consonants of *text*, in ASCII; *in_jest*, digits and signs are the letters that they look like."""
    plain = text if text.isascii() else BEYOND.sub(lambda match: match[0].translate(_BONES), text)
    bones = plain.encode().translate(*(JEST if in_jest else EARNEST))
    while UNKNOWNS in bones:
        bones = bones.replace(UNKNOWNS, UNKNOWNS[:1])
    return bones


def _skeletons(text: str) -> Iterator[bytes]:
    """Of *text*, also in jest, and of what is left where somebody leaves out one kind of aside."""
    yield (bones := skeleton(text))
    if UNKNOWNS[:1] in bones:
        yield skeleton(text, in_jest=True)
    yield from (skeleton(_unmarked(aside.sub("\0", text))) for aside in ASIDES if aside.search(text))


def _plain(text: str) -> str:
    """*text* in plain letters, without what cannot be seen."""
    if text.isascii() and not text.encode().translate(None, SEEN):
        return text
    return ODD.sub(lambda match: match[0].translate(_PLAIN), text)


def _unmarked(text: str) -> str:
    """*text* without comments, tags, commands and the targets of links."""
    kept, at = list[str](), 0
    # By hand: a pattern would look for the end from every beginning again.
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[at:start])
        at = end + len("-->")
    return MARKUP.sub("", "".join([*kept, text[at:]]))


def _turned(text: str) -> str:
    """*text* as it is shown where characters turn its direction."""
    return text if text.isascii() else TURNED.sub(lambda match: match[1][::-1], text)


def _resolved(text: str) -> str:
    """*text* with one layer of entities or else of escapes resolved."""
    if "&" in text and (plain := html.unescape(text)) != text:
        return plain
    if "\\" in text or "+" in text:
        text = ESCAPE.sub(_meant, text)
    if "\\" in text or "%" in text or "=" in text:
        text = BYTES.sub(_decoded, text)
    # Escapes of JSON come in halves where a letter is beyond 16 bits.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if HALVES.search(text) else text


def _meant(escape: re.Match[str]) -> str:
    sign, *numbers, name = escape.groups()
    number = next(filter(None, numbers), None)
    try:
        return sign or (unicodedata.lookup(name) if name else chr(int(number, 16)) if number else " ")
    except (KeyError, ValueError, OverflowError):
        return ""


def _decoded(run: re.Match[str]) -> str:
    codes = [(hexadecimal or other, octal) for hexadecimal, other, octal in ONE_BYTE.findall(run[0])]
    return bytes(int(octal, 8) if octal else int(code, 16) for code, octal in codes).decode(errors="replace")


def _says(bones: bytes, words: tuple[str, ...]) -> bool:
    """Whether a skeleton holds that of a word, forwards or backwards."""
    whole, headless = _spelt(words)
    ways = (bones, bones[::-1])
    return any(map(whole.search, ways)) or (UNKNOWNS[:1] in bones and any(map(headless.search, ways)))


@lru_cache(maxsize=64)
def _spelt(words: tuple[str, ...]) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Find the skeleton of a word, its letters once or more, unknown characters between them and for one of them.

    The second finds those whose first letter is unknown: apart, because a search for one letter is quick.
    """
    bones = [re.sub(rb"(.)\1+", rb"\1", skeleton(word)).decode() for word in words]
    whole = [letters[0] + _rest(letters) for letters in bones]
    headless = [UNKNOWN + _exactly(letters[1:]) for letters in bones if len(letters) >= LONG_ENOUGH] or ["(?!)"]
    return re.compile("|".join(whole).encode()), re.compile("|".join(headless).encode())


def _exactly(letters: str) -> str:
    return f"{UNKNOWN}?".join(f"{one}++" for one in letters)


def _rest(letters: str) -> str:
    """What follows the first of *letters*."""
    if len(letters) < LONG_ENOUGH:
        return f"{UNKNOWN}?{_exactly(letters[1:])}"
    rest = ""
    for at in range(len(letters) - 1, 0, -1):
        rest = f"(?:{UNKNOWN}?{letters[at]}++{rest}|{UNKNOWN}{_exactly(letters[at + 1 :])})"
    return rest


class _Table(dict[int, str | None]):
    """Code point -> what is made of the character, None for nothing; found when first asked for."""

    def __init__(self, make: Callable[[str], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, point: int) -> str | None:
        self[point] = made = self._make(chr(point)) or None
        return made


def _letters(char: str) -> str:
    """A character in plain letters, or nothing where it cannot be seen."""
    if "\U000e0020" <= char <= "\U000e007e":  # tags: letters that cannot be seen
        return chr(ord(char) - 0xE0000)
    if char in "\t\n\r\x1b" or " " <= char <= "~":
        return char
    parts = unicodedata.normalize("NFKD", char)
    if parts != char:
        return "".join(map(_letters, parts))
    name = unicodedata.name(char, "")
    if NAMED.match(name) and (letters := LETTER.findall(name)):
        return "".join(letters).lower()
    return "" if unicodedata.category(char)[0] in "CM" else char


def _bone(char: str) -> str:
    """The consonants that a character is, nothing, or UNKNOWN."""
    if (plain := _letters(char)) != char:
        return "".join(map(_bone, plain))
    if (like := next((one for one in (char, char.upper(), char.lower()) if one in LOOKALIKES), None)) is not None:
        return LOOKALIKES[like]
    if char.isascii():
        return _EARNEST.get(char.lower(), "")
    return "" if unicodedata.category(char)[0] in "ZP" else UNKNOWN


_PLAIN, _BONES = _Table(_letters), _Table(_bone)
