"""Marks answers that look as if they were written for the judge. Pure: text in, one reason or none out.

A mark changes no verdict: it says where to look, and a config may leave marked answers out of the dataset. The
patterns are what is known to work on judges (Zheng et al. 2024, arXiv:2410.07137; Raina et al. 2024, arXiv:2402.14016;
Shi et al. 2024, arXiv:2403.17710), in English; an answer that persuades in other words is not found. Every repeat in
them is bounded, so that no text takes long.
"""

import re
import zlib

from pipeline.control_tokens import holds_control

REPETITION = 0.05
"""Compressed size over size (zlib) below which a long text says one thing again and again."""
LONG = 1000
"""Characters from which repetition is judged."""
_ANSWER = r"(?:answer|response|output|reply|completion)"
_JUDGE = r"(?:judge|evaluator|grader|rater|annotator|reviewer)s?"
PATTERNS = {
    "verdict": re.compile(
        r"^\W{0,6}(?:final )?verdict\W{0,4}:\W{0,4}(?:[A-Z]\b|tie\b|\d)|"
        r'"(?:verdict|ranking|scores?)"\s{0,9}:|\[\[[ABC]\]\]',
        re.IGNORECASE | re.MULTILINE,
    ),
    "fence": re.compile(
        r"<<\s?/?\s?(?:prompt|first|second|reference|answer(?:_\w)?)\b[^<>\n]{0,40}>>|^Answer [A-Z]:|"
        r"Which answer is better, A or B\?",
        re.MULTILINE,
    ),
    "speaker": re.compile(
        r"^[ \t]{0,9}(?:\[(?:system|user|assistant)\]|#{1,6} ?(?:system|instruction|response)\b:?)[ \t]{0,9}$",
        re.IGNORECASE | re.MULTILINE,
    ),
    "invisible": re.compile(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u115f\u1160\u180e\u200b\u202a-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb"
        "\U000e0000-\U000e007f]"
    ),
    "addresses_judge": re.compile(
        rf"\b(?:ignore|disregard|forget|override) (?:all |any |the |your ){{0,3}}"
        rf"(?:previous|prior|above|earlier|rubric|instructions|guidelines)|"
        rf"\b(?:dear|hello|attention|to the|note to(?: the)?|as an?(?: fair| impartial| AI)?) {_JUDGE}\b|"
        rf"\b(?:choose|prefer|pick|select|vote for|rate|rank|score) (?:this|my) (?:one|{_ANSWER})\b|"
        rf"\b(?:pick|choose|select|vote for) me\b|"
        rf"\bthis (?:is|was) (?:clearly |obviously |by far )?"
        rf"the (?:best|better|most \w{{1,20}})[\w, ]{{0,60}} {_ANSWER}\b|"
        rf"\bthis {_ANSWER} (?:is|was|has been|scores|deserves|wins) (?:\w{{1,20}} ){{0,3}}"
        rf"(?:better|best|superior|preferred|approved|reviewed|verified|chosen|correct|perfect|10|ten|full marks)\b|"
        rf"\b(?:the|any) other {_ANSWER}s?\b|"
        rf"\b{_ANSWER} (?:A|B|1|2|one|two) (?:is|was) (?:clearly |obviously )?(?:better|best|superior|worse)\b|"
        rf"\b(?:first|second) {_ANSWER} (?:is|was|wins)\b|"
        rf"\b(?:10|ten) out of (?:10|ten)\b",
        re.IGNORECASE,
    ),
}
"""Mark -> what earns it; the first that holds is the one given."""


def mark(text: str) -> str | None:
    """Why *text* is suspicious, or None.

    One of ``verdict`` (says a verdict in a shape that judges are asked for), ``fence`` (writes the frame of a judge's
    prompt), ``control_token`` (spells a chat model's control tokens), ``speaker`` (labels itself as another role),
    ``invisible`` (characters that cannot be seen or turn the text around), ``repetition`` (says one thing again and
    again) and ``addresses_judge`` (speaks to whoever compares it, or of the answer it is compared with).
    """
    for name in ("verdict", "fence"):
        if PATTERNS[name].search(text):
            return name
    if holds_control(text):
        return "control_token"
    for name in ("speaker", "invisible"):
        if PATTERNS[name].search(text):
            return name
    if len(text) >= LONG and len(zlib.compress(text.encode(), 1)) < REPETITION * len(text.encode()):
        return "repetition"
    return "addresses_judge" if PATTERNS["addresses_judge"].search(text) else None
