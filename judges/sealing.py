"""Keeps a quotation from being read as a verdict. Pure: requests and replies in, the same out.

A judge that repeats the answer it was shown, word for word, must not be taken to have decided what the answer says.
Where a judged text holds anything that could be read as a reply in the documented shape, the reply must carry a code:
an HMAC of the texts that occurs in none of them. Text that came from a judged answer cannot hold it. Other requests
stay as they are, so that weak models need not copy a code where nothing is at stake. A verdict by `logprob` is no text,
and nothing in it can be quoted.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from judges.parsing import UnreadableError
from pipeline.engines.base import Request
from pipeline.transcript import fence_tag

LINE = re.compile(r"verdict\W{0,4}:", re.IGNORECASE)
"""What every last line of a reply in text starts with, loosely: a judge may quote without an answer's asterisks."""
OBJECT = re.compile(r'\{\s*"')
"""How every JSON object that is not empty begins."""
CODED_LINE = "\nWhere it says `Verdict:` above, write `Verdict {code}:`, with this code.\n"
CODED_JSON = '\nLet the JSON object begin with the key "code": {{"code": "{code}", and then the keys named above.\n'


def sealed(request: Request, texts: Iterable[str], secret: bytes) -> Request:
    """*request* with a code asked for at its end, if one of the judged *texts* could pass for a reply to it."""
    shown = tuple(texts)
    bait = LINE if request.response_schema is None else OBJECT
    if request.choices or not any(bait.search(text) for text in shown):
        return request
    code = fence_tag(secret, "\x00".join(shown), shown)
    *before, (role, content) = request.messages
    schema = request.response_schema
    if schema is not None:
        schema = {
            **schema,
            "properties": {"code": {"type": "string"}, **schema["properties"]},
            "required": ["code", *schema["required"]],
        }
    asked = content + (CODED_LINE if schema is None else CODED_JSON).format(code=code)
    return replace(request, messages=(*before, (role, asked)), response_schema=schema, code=code)


def unsealed(request: Request, text: str) -> str:
    """The reply *text* in the kind's own shape, its code checked and taken out.

    Raises:
        UnreadableError: it does not carry the code that was asked for.
    """
    if not request.code:
        return text
    if request.response_schema is not None:
        opening = re.match(rf'\s*\{{\s*"code"\s*:\s*"{request.code}"\s*,', text)
        if opening is None:
            raise UnreadableError(f"expected one JSON object that begins with the code {request.code}")
        return "{" + text[opening.end() :]
    before, _, verdict = text.partition(label := f"Verdict {request.code}: ")
    alone = not before.strip() or before.rstrip(" \t").endswith("\n")
    if text.count(label) != 1 or not alone:
        raise UnreadableError(f"expected one last line `Verdict {request.code}: ...` with the code that was given")
    return f"{before}Verdict: {verdict}"
