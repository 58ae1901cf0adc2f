"""Keeps what a judge repeats from being read as its verdict. Pure: requests and replies in, the same out.

Where a judged text could be cleaned into something like a verdict (``judges.cleaning``), the verdict stands between two
codes at the very end of the reply:

    Verdict 8f3e12ab: B 8f3e12ab
    {"rationale": "...", "code": "8f3e12ab", "verdict": "B", "end": "8f3e12ab"}

The code is an HMAC of the texts that occurs in none of them, so nothing that comes from a text holds it, however it was
cleaned. A quotation before the first code is rationale, whatever it closes or opens; one after it is no verdict by
itself; nothing may follow the second. All other requests stay as they are: there a quotation has no verdict to offer,
and a weak model need not copy a code. A verdict by `logprob` is no text at all. That a server promises to keep to a
schema changes nothing: a raw quotation mark in a rationale ends the string under every grammar too.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from judges.cleaning import any_could_say
from judges.parsing import LABEL, OBJECT, UnreadableError, quoted, spoken, strict_json, unfenced
from pipeline.engines.base import Request
from pipeline.transcript import fence_tag

ASKED = "\nPut the code {code} on both sides of your verdict and nothing after it: "
IN_A_LINE = "where a line `Verdict: ...` is asked for above, write `Verdict {code}: ... {code}`.\n"
IN_JSON = 'the keys are "rationale", then "code": "{code}", then "{key}" as above, then "end": "{code}".\n'


def sealed(request: Request, texts: Iterable[str], secret: bytes) -> Request:
    """*request* with a code asked for at its end, if one of the judged *texts* could be cleaned into a reply to it."""
    shown = tuple(texts)
    schema = request.response_schema
    if request.choices or not any_could_say(shown, *_words(schema)):
        return request
    code = fence_tag(secret, "\x00".join(shown), shown)
    *before, (role, content) = request.messages
    asked = ASKED + IN_A_LINE
    if schema is not None:
        *earlier, key = schema["properties"].items()
        text = {"type": "string"}
        properties = dict([*earlier, ("code", text), key, ("end", text)])
        schema = {**schema, "properties": properties, "required": list(properties)}
        asked = ASKED + IN_JSON.replace("{key}", key[0])
    messages = (*before, (role, content + asked.replace("{code}", code)))
    return replace(request, messages=messages, response_schema=schema, code=code)


def unsealed(request: Request, text: str) -> str:
    """The reply *text* in the kind's own shape: the verdict that stands between the codes, and what stands before it.

    Raises:
        UnreadableError: it does not end with a verdict between the codes that were asked for.
    """
    if not request.code:
        return text
    if request.response_schema is None:
        return _from_line(text, request.code)
    return _from_object(text, request.code, list(request.response_schema["properties"])[-2])


def _words(schema: Mapping[str, Any] | None) -> list[str]:
    """What a text must say, once cleaned, to pass for a reply: the label, or the key with what stands first in it."""
    if schema is None:
        return [LABEL]
    key, value = list(schema["properties"].items())[-1]
    return [f"{key}{name}" for name in value.get("properties", ("",))]


def _from_line(text: str, code: str) -> str:
    *before, last = text.strip().splitlines() or [""]
    found = re.fullmatch(rf"Verdict {code}: (.*\S) {code}", last.strip())
    if found is None:
        raise UnreadableError(f"expected one last line `Verdict {code}: ... {code}` with the code that was given")
    return "\n".join([*map(quoted, before), f"Verdict: {found[1]}"])


def _from_object(text: str, code: str, key: str) -> str:
    reply = unfenced(text).strip()
    opened = OBJECT.match(reply)
    starts = list(re.finditer(rf'"\s*,\s*"code"\s*:\s*"{code}"\s*,\s*"{re.escape(key)}"\s*:', reply))
    before, _, after = reply.rpartition('"end"')
    ended = re.fullmatch(rf'\s*:\s*"{code}"\s*\}}', after) and before.rstrip().endswith(",")
    if opened is None or not starts or not ended or starts[-1].start() < opened.end():
        raise UnreadableError(
            f'expected one JSON object with the keys "rationale", "code", "{key}" and "end", the code {code} in both'
        )
    value = strict_json(before.rstrip()[starts[-1].end() : -1])
    return json.dumps({"rationale": spoken(reply[opened.end() : starts[-1].start()]), key: value})
