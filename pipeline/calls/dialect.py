"""How one model at one endpoint is spoken to: what its family, the config and its own refusals change. Pure.

A request is made as OpenAI's protocol has it; then the family's changes are applied, then the endpoint's `body`, then
the model's, then what the endpoint has refused in this process. A change is a mapping from field to value; null removes
the field, and what is renamed keeps its value. A parameter is changed at most once, and only where the reply names it.

    speech = Dialect("https://api.openai.com/v1", "o4-mini")
    speech.body({"model": "o4-mini", "max_tokens": 9, "temperature": 0})   -> {"model": ..., "max_completion_tokens": 9}
    speech.learn(400, "HTTP 400: Unsupported value: 'seed' ...", body)     -> True: made again, it has no `seed`
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Body = dict[str, Any]
Structured = Literal["json_schema", "json_object", "none"]
REFUSED_STATUS = (200, 400, 404, 415, 422, 500, 501)
LENGTHS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Family:
    """What a vendor's models need that others do not."""

    name: str
    host: str
    """Pattern of the base URL."""
    model: str = ""
    """Pattern of the model's name; empty for all."""
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    removed: tuple[str, ...] = ()
    structured: Structured = "json_schema"
    key_header: str | None = None
    """Header that takes the bare key, besides ``Authorization``."""
    most: Mapping[str, float] = field(default_factory=dict[str, float])
    """Largest values taken."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What is done about a refused parameter."""

    name: str
    done: str
    """In words."""
    change: Callable[[Body], None]


REASONING = r"^(?:openai/)?(?:o\d|gpt-5(?!\.\d)(?!.*chat))"
AZURE = r"\.(?:openai\.azure|services\.ai\.azure|cognitiveservices\.azure)\.(?:com|us|cn)"
FAMILIES = (
    Family(
        "OpenAI, reasoning",
        r"//api\.openai\.com",
        REASONING,
        renamed={"max_tokens": "max_completion_tokens"},
        removed=("temperature", "top_p"),
    ),
    Family(
        "Azure, reasoning",
        AZURE,
        REASONING,
        renamed={"max_tokens": "max_completion_tokens"},
        removed=("temperature", "top_p"),
        key_header="api-key",
    ),
    Family("Azure", AZURE, key_header="api-key"),
    Family("DeepSeek", r"//api\.deepseek\.com", structured="json_object"),
    Family("Mistral", r"//[\w.-]*\.mistral\.ai", renamed={"seed": "random_seed"}),
    Family("Gemini", r"//generativelanguage\.googleapis\.com", removed=("seed",)),
    Family("Anthropic", r"//api\.anthropic\.com", removed=("seed",), structured="none", most={"temperature": 1.0}),
    Family("Moonshot", r"//api\.moonshot\.(?:ai|cn)", structured="json_object", most={"temperature": 1.0}),
    Family("Zhipu", r"//(?:open\.bigmodel\.cn|api\.z\.ai)", structured="json_object", most={"temperature": 1.0}),
)
"""The first that fits; OpenRouter, Groq, Together, Ollama, LM Studio, vLLM, SGLang and llama.cpp need no change."""
PLAIN = Family("", "")

REFUSING = re.compile(
    r"unsupported|not (?:been )?support|n't support|unrecognized|unknown (?:name|field|parameter|argument)|"
    r"not permitted|extra_forbidden|unexpected keyword|not allowed|cannot both be|deprecated|unavailable|"
    r"not available|cannot find field|only .{0,40}(?:allowed|supported|accepted)|must be '|not implemented|"
    r"additional propert"
)
"""How servers refuse a parameter, in lower case."""
AT_MOST = re.compile(r"(?:<=|less than or equal to|at most|maximum(?: value)?(?: of| is)?|no more than) ?(\d{1,4})\b")
SYSTEM = re.compile(r"system (?:role|message|prompt|instruction)|developer instruction|role .{0,3}system")
FORMAT = re.compile(r"response[_ ]format|json_schema|json_object|structured output")
DROPPED = ("temperature", "top_p", "seed", "random_seed", "stream")


def family_of(base_url: str, model: str) -> Family:
    """The family of a model at an endpoint."""
    fits = (one for one in FAMILIES if re.search(one.host, base_url.lower()) and re.search(one.model, model.lower()))
    return next(fits, PLAIN)


class Dialect:
    """The changes for one model at one endpoint; shared by everything in the process that asks it."""

    def __init__(
        self,
        base_url: str,
        model: str,
        changes: tuple[Mapping[str, Any], ...] = (),
        structured: Structured | None = None,
        endpoint: str = "",
    ) -> None:
        """Make the dialect of a model.

        Args:
            base_url: of its endpoint.
            model: its name there.
            changes: the config's, the endpoint's first.
            structured: the config's word where it has one.
            endpoint: its name in the config, for messages.
        """
        self.name = f"model {model!r} at endpoint {endpoint!r}"
        self.family = family_of(base_url, model)
        self.changes = changes
        self.structured: Structured = structured or self.family.structured
        self.refused: dict[str, str] = {}
        """Parameter -> what was done about it, in words."""
        self._learned: dict[str, Callable[[Body], None]] = {}
        self._usual = self.family is PLAIN and self.structured == PLAIN.structured and not any(changes)
        self._lock = threading.Lock()

    def body(self, plain: Mapping[str, Any]) -> Body:
        """A request as this model takes it; *plain* is one of OpenAI's protocol, and not changed."""
        if self._usual and not self._learned:
            return dict(plain)
        made = self._in_family(plain)
        if "response_format" in made:
            _structure(made, self.structured)
        for name, value in (item for change in self.changes for item in change.items()):
            made.pop(name, None)
            if value is not None:
                made[name] = value
        for learned in self._learned.values():
            learned(made)
        return made

    def _in_family(self, plain: Mapping[str, Any]) -> Body:
        family = self.family
        kept = {name: value for name, value in plain.items() if name not in family.removed}
        made = {family.renamed.get(name, name): value for name, value in kept.items()}
        for name, most in family.most.items():
            if name in made:
                made[name] = min(made[name], most)
        return made

    def learn(self, status: int, words: str, sent: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
        """Whether the request, made again of *plain*, differs from what was *sent* and refused in these *words*."""
        with self._lock:
            if self.body(plain) != sent:
                return True  # somebody else has learned it meanwhile
            found = _refused(words, sent) if status in REFUSED_STATUS else None
            if found is None or found.name in self._learned:
                return False
            self._learned[found.name] = found.change
            if self.body(plain) == sent:
                del self._learned[found.name]
                return False
            self.refused[found.name] = f"{found.done} ({words})"
            return True


def _refused(words: str, sent: Mapping[str, Any]) -> Learned | None:
    """What is done about a refusal that names a parameter which can be changed."""
    low = words.lower()
    for rule in (_bounded, _system, _length, _format, _dropped):
        if (found := rule(low, sent)) is not None:
            return found
    return None


def _bounded(low: str, sent: Mapping[str, Any]) -> Learned | None:
    bound = AT_MOST.search(low)
    if "top_logprobs" not in sent or bound is None or not _named("top_logprobs", low):
        return None
    most = int(bound[1])
    return Learned("top_logprobs", f"`top_logprobs` is {most}", _put("top_logprobs", most)) if most else None


def _system(low: str, sent: Mapping[str, Any]) -> Learned | None:
    if not REFUSING.search(low) or not SYSTEM.search(low) or not _has_system(sent):
        return None
    return Learned("system", "the system message is put before the first user turn", _system_into_user)


def _length(low: str, sent: Mapping[str, Any]) -> Learned | None:
    # A limit that is too large is the config's to lower; which of the two is refused stands first in the reply.
    if not REFUSING.search(low) or re.search(r"too large|at most|exceeds|maximum", low):
        return None
    named = sorted((low.index(name), name) for name in LENGTHS if _named(name, low))
    if not named or named[0][1] not in sent:
        return None
    name = named[0][1]
    other = LENGTHS[1 - LENGTHS.index(name)]
    return Learned(name, f"`{name}` is sent as `{other}`", _rename(name, other))


def _format(low: str, sent: Mapping[str, Any]) -> Learned | None:
    if "response_format" not in sent or not REFUSING.search(low) or not FORMAT.search(low):
        return None
    if cast("Mapping[str, Any]", sent["response_format"]).get("type") == "json_schema":
        return Learned("json_schema", "`structured` is json_object", lambda body: _structure(body, "json_object"))
    return Learned("response_format", "`structured` is none", _drop("response_format"))


def _dropped(low: str, sent: Mapping[str, Any]) -> Learned | None:
    named = (name for name in DROPPED if name in sent and _named(name, low) and REFUSING.search(low))
    return next((Learned(name, f"`{name}` is not sent", _drop(name)) for name in named), None)


def _named(name: str, low: str) -> bool:
    return re.search(rf"(?<![a-z0-9_]){name}(?![a-z0-9_])", low) is not None


def _has_system(sent: Mapping[str, Any]) -> bool:
    return any(turn.get("role") == "system" for turn in cast("list[Mapping[str, Any]]", sent.get("messages", [])))


def _drop(name: str) -> Callable[[Body], None]:
    return lambda body: (body.pop(name, None), None)[1]


def _put(name: str, value: object) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        if name in body:
            body[name] = value

    return change


def _rename(name: str, other: str) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        if name in body:
            body.setdefault(other, body.pop(name))

    return change


def _structure(body: Body, how: Structured) -> None:
    """Ask for JSON in another way, where it is asked for."""
    if "response_format" not in body or how == "json_schema":
        return
    if how == "json_object":
        body["response_format"] = {"type": "json_object"}
    else:
        del body["response_format"]


def _system_into_user(body: Body) -> None:
    """The system messages before the words of the first user turn."""
    turns = cast("list[dict[str, Any]]", body["messages"])
    said = [str(turn["content"]) for turn in turns if turn["role"] == "system"]
    others = [dict(turn) for turn in turns if turn["role"] != "system"]
    for turn in others:
        if turn["role"] == "user":
            turn["content"] = "\n\n".join([*said, str(turn["content"])])
            break
    body["messages"] = others
