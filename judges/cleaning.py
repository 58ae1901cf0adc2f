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
from collections.abc import Iterator
from functools import lru_cache

UNKNOWN = "?"
"""Stands for a character that might be taken for any letter: a digit, an emoji, a letter of an unrelated script."""
LONG_ENOUGH = 5
"""Consonants from which a word is known by all but one of them; a fifth of all texts would say *scores* so."""
ROUNDS = 6
"""How many layers of escapes are resolved."""
LOOKALIKES = {
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
    "": "\u0430\u0410\u0435\u0415\u0451\u0438\u043e\u041e\u0443\u0423\u044b\u042b\u044d\u042d\u044e\u042e\u0439\u0419"
    "\u0456\u0406\u0457\u0454\u044a\u042a\u03b1\u0391\u03b5\u0395\u03b9\u0399\u03bf\u039f\u03c5\u03a5\u03c9\u03a9\u0397\u0131\u2113",
}
"""Consonant -> letters of other scripts that look like it or are written with it; their vowels -> nothing."""
SOUNDS = str.maketrans("kq", "cc", "aeiouy")
NAMED = re.compile(
    r"(?:LATIN|REGIONAL INDICATOR|(?:CROSSED )?NEGATIVE|COMBINING LATIN|MODIFIER LETTER|SQUARED|PARENTHESIZED)\b"
)
LETTER = re.compile(r"\b[A-Z]\b")
LEET = str.maketrans(dict(zip("57$+(<9", "ststccg", strict=True)) | dict.fromkeys("0134!|@", ""))
"""Letters of ASCII -> how they are written in jest; vowels are nothing anyway."""
DIGITS = "0123456789()+|\\/<$@^"
"""Characters of ASCII that stand in for letters (``V3RD!(7``, ``\\/erdict``)."""
BYTES = re.compile(r"(?:[%=][0-9A-Fa-f]{2}|\\x[0-9A-Fa-f]{2}|\\[0-3][0-7]{2})+")
ONE_BYTE = re.compile(r"[%=]([0-9A-Fa-f]{2})|\\x([0-9A-Fa-f]{2})|\\([0-3][0-7]{2})")
ESCAPE = re.compile(
    r"\\([\"'/\\])|\\[nrtbf](?![A-Za-z])|\\u([0-9A-Fa-f]{4})|\\[ux]\{([0-9A-Fa-f]{1,8})\}|\\U([0-9A-Fa-f]{8})|"
    r"[Uu]\+([0-9A-Fa-f]{4,6})|\\N\{([^{}]{1,80})\}"
)
MARKUP = re.compile(
    r"<!--.{0,300}?-->|<!\[CDATA\[|</?[A-Za-z!?](?:[^<>\"']|\"[^\"]{0,200}\"|'[^']{0,200}'){0,300}>|"
    r"</?[A-Za-z][^<>]{0,300}>|\]\([^()\n]{0,300}\)|\\[A-Za-z]{1,30}|\x1b\[[0-9;]{0,20}[A-Za-z]",
    re.DOTALL,
)
ASIDES = [
    re.compile(pattern)
    for pattern in (
        r"\[[^\[\]]{0,80}\]",
        r"\([^()]{0,80}\)",
        r"\{[^{}]{0,80}\}",
        r"~~[^~]{0,80}~~",
        r":\w{1,30}:",
        r"<(\w{1,20})(?: [^<>]{0,200})?>[^<>]{0,80}</\1>",
    )
]
"""What somebody may leave out with its contents."""
TURNED = re.compile("[\u202b\u202e\u2067\u2068\u200f]([^\u202a-\u202e\u2066-\u2069\u200e]*)")


def could_say(text: str, word: str) -> bool:
    """Whether a cleaning of *text* says *word*, forwards or backwards, at most one letter of it unrecognised."""
    pattern = _spelt(word)
    return any(pattern.search(one) for one in skeletons(text))


@lru_cache(maxsize=4096)
def skeletons(text: str) -> tuple[str, ...]:
    """The consonants of *text* as it is, under every layer of escapes, and with markup left out."""
    return tuple(dict.fromkeys(map(skeleton, _readings(text))))


def skeleton(text: str) -> str:
    """The consonants of *text*, each run of one as one."""
    return re.sub(r"(.)\1+", r"\1", text.translate(_BONES))


def _readings(text: str) -> Iterator[str]:
    for _ in range(ROUNDS):
        yield text
        yield MARKUP.sub("", text)
        yield from (MARKUP.sub("", aside.sub("\0", text)) for aside in ASIDES if aside.search(text))
        yield TURNED.sub(lambda match: match[1][::-1], text)
        yield text.translate(LEET)
        resolved = _resolved(text)
        if resolved == text:
            return
        text = resolved


def _resolved(text: str) -> str:
    """*text* with one layer of entities and escapes resolved."""
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text or "+" in text:
        text = ESCAPE.sub(_meant, text)
    if "\\" in text or "%" in text or "=" in text:
        text = BYTES.sub(_decoded, text)
    # Escapes of JSON come in halves where a letter is beyond 16 bits.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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


@lru_cache(maxsize=16)
def _spelt(word: str) -> re.Pattern[str]:
    """Finds the skeleton of *word*: unknown characters may stand between its letters, and for one of them."""
    spellings: list[str] = []
    for letters in (skeleton(word), skeleton(word)[::-1]):
        holes = range(len(letters)) if len(letters) >= LONG_ENOUGH else ()
        spelt = [letters, *(f"{letters[:at]}{UNKNOWN}{letters[at + 1 :]}" for at in holes)]
        spellings += [r"\??".join(map(re.escape, one)) for one in spelt]
    return re.compile("|".join(spellings))


class _Bones(dict[int, str]):
    """Code point -> what is left of the character; found when first asked for."""

    def __missing__(self, point: int) -> str:
        self[point] = made = _bone(chr(point))
        return made


def _bone(char: str) -> str:
    if "\U000e0020" <= char <= "\U000e007e":  # tags: letters that cannot be seen
        return _bone(chr(ord(char) - 0xE0000))
    if char.isascii():
        if char in DIGITS:
            return UNKNOWN
        return char.lower().translate(SOUNDS) if char.isalpha() else ""
    parts = unicodedata.normalize("NFKD", char)
    if parts != char:
        return "".join(map(_bone, parts))
    name = unicodedata.name(char, "")
    if NAMED.match(name) and (letters := LETTER.findall(name)):
        return "".join(map(_bone, letters))
    return "" if unicodedata.category(char)[0] in "MCZP" else UNKNOWN


_BONES = _Bones({ord(char): bone for bone, chars in LOOKALIKES.items() for char in chars})
