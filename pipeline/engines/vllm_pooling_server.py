"""A sequence classifier behind a vLLM server (``--runner pooling``), asked at ``/classify``. Touches the network.

A request is a whole conversation; its answer's text is the raw score of the classifier's one output, as Python writes
the number. ``endpoint`` of a reward model comes here. A server of one's own costs nothing a call, so the ledger has no
part in it, and the client's own retries serve.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import openai

from pipeline.calls.error_words import shown
from pipeline.calls.finality import outcome
from pipeline.config import ModelConfig
from pipeline.control_tokens import defused
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.engines.wire import api_key
from pipeline.errors import EndpointError, UnreachableError

FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
PASSING = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)


class VllmPoolingServerEngine:
    """Scores conversations at the endpoint that ``engine_args: {endpoint: name}`` names."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        self.options = options
        self.name = str(options.engine_args["endpoint"])
        self.endpoint = toolbox.endpoint(self.name)
        self.key = api_key(self.name, self.endpoint)

    def complete(self, requests: Iterable[Request], advance: Advance) -> list[Answer]:
        """See Engine. Raises EndpointError when no request can be answered."""
        return asyncio.run(self._complete(requests, advance))

    def close(self) -> None:
        """Nothing is held between calls."""

    async def _complete(self, requests: Iterable[Request], advance: Advance) -> list[Answer]:
        slots = asyncio.Semaphore(self.endpoint.concurrency)
        async with openai.AsyncOpenAI(
            # The pooling routes lie beside /v1, not below it.
            base_url=self.endpoint.base_url.rstrip("/").removesuffix("/v1"),
            api_key=self.key,
            max_retries=self.endpoint.attempts - 1,
            timeout=self.endpoint.timeout_s,
            # Conversations follow no redirect to wherever it leads.
            http_client=openai.DefaultAioHttpClient(follow_redirects=False),
        ) as client:

            async def one(request: Request) -> Answer:
                async with slots:
                    answer = await self._score(client, request)
                advance(1)
                return answer

            answers = await asyncio.gather(*[one(request) for request in requests])
        if answers and all(answer.unanswered for answer in answers):
            raise UnreachableError(
                f"{self._where()} answered nothing ({answers[0].error}); start it or correct base_url",
                self.options.endpoint or "",
            )
        return answers

    async def _score(self, client: openai.AsyncOpenAI, request: Request) -> Answer:
        identity = repr((self.endpoint.base_url, self.options.model, "classify", request))
        key = hashlib.sha256(identity.encode()).hexdigest()
        body = {
            "model": self.options.model,
            "messages": [{"role": role, "content": defused(text)} for role, text in request.messages],
            "add_generation_prompt": False,
            # The chat template writes its own special tokens.
            "add_special_tokens": False,
            # The logit itself: the pooler's default would squash it.
            "use_activation": False,
        }
        try:
            reply = await client.post("/classify", body=body, cast_to=cast("Any", object))
        except FATAL as problem:
            raise EndpointError(
                f"{self._where()} refused: HTTP {problem.status_code}; check key and model, and that it is a vLLM "
                "server started with --runner pooling"
            ) from None
        except PASSING as problem:
            return Answer(Call(key, "unanswered"), reason="unanswered", error=shown(str(problem)))
        except openai.APIStatusError as problem:
            found = outcome(problem.status_code, problem.body)
            return Answer(Call(key, "unanswered"), reason=found.reason, error=found.words)
        return _read(key, cast("Mapping[str, Any]", reply))

    def _where(self) -> str:
        return f"endpoint {self.name!r} ({self.endpoint.base_url})"


def _read(key: str, reply: Mapping[str, Any]) -> Answer:
    """An Answer from a reply; one of another shape, or of more than one class, is a failed answer."""
    try:
        (score,) = reply["data"][0]["probs"]
        return Answer(Call(key, "answered", int(reply["usage"]["prompt_tokens"]), 0, 0), repr(float(score)), "stop")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return Answer(Call(key, "unanswered"), reason="unanswered", error=f"no score: {type(error).__name__}: {error}")
