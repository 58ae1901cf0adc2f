"""The config of a run as frozen pydantic models. Touches no file but to see whether one is there.

Field docstrings are the documentation (``jurybox schema`` prints them); ``pipeline.config_file`` reads YAML into these.
Unknown keys are errors; paths are relative to the config's folder. One file on purpose: it is the page that says what a
run can be told, and every model in it is a key of :class:`Config`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline import discovery, prices
from pipeline.errors import ConfigError
from pipeline.secrets import TOKEN_LIKE, VARIABLE, confidential

NOT_SHOWN = "secret"
"""Type of the errors whose value may be a secret and is not repeated."""
CREDENTIAL_HEADER = re.compile(r"(?i)(proxy-)?authorization|cookie")
CREDENTIAL = re.compile(r"(?i)(^|_)(api_?key|(hf|auth|access)_token|password|secret)$")
"""Names of engine arguments that hold a secret."""


class Frozen(BaseModel):
    """Base of every config model: immutable, no unknown keys, finite numbers, docstrings as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _base(info: ValidationInfo) -> Path | None:
    context: Any = info.context
    return None if context is None else cast("Path | None", context.get("base"))


def _beside_config(path: Path, info: ValidationInfo) -> Path:
    base = _base(info)
    return path if base is None or path.is_absolute() else base / path


def _data_beside_config(path: Path, info: ValidationInfo) -> Path:
    """A path of data that does not exist beside the config may be the name of a dataset on the Hub."""
    beside = _beside_config(path, info)
    named = not path.is_absolute() and len(path.parts) == len(("org", "name")) and not path.suffix
    return path if named and ".." not in path.parts and not beside.exists() else beside


def _model_beside_config(model: str, info: ValidationInfo) -> str:
    """A model that names an existing folder beside the config is that folder; else a Hub or API name."""
    base = _base(info)
    folder = None if base is None else base / model
    return str(folder.resolve()) if folder is not None and folder.is_dir() else model


def _known(package: str) -> AfterValidator:
    """A name is checked when the config is read, before any stage has cost anything."""

    def check(kind: str, info: ValidationInfo) -> str:
        if ":" in kind and _base(info) is None:
            return kind  # made in Python: the folder its path starts from is not known yet
        try:
            discovery.check(package, kind, _base(info))
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return kind

    return AfterValidator(check)


def _not_shown(message: str) -> PydanticCustomError:
    return PydanticCustomError(NOT_SHOWN, "{message}", {"message": message})


def _variable(name: str) -> str:
    """The name of an environment variable, and not what somebody meant to put into it."""
    if VARIABLE.fullmatch(name) is None or TOKEN_LIKE.fullmatch(name):
        raise _not_shown(
            "is no name of an environment variable but may be the secret itself (so it is not repeated here); put it "
            "into a variable, and write that variable's name, e.g. OPENAI_API_KEY"
        )
    return name


def _without_credentials(url: str) -> str:
    """A base URL that may be written into a run's folder, into errors and into Prefect's database."""
    remedy = "; put the key into an environment variable and name that in `api_key_env`"
    try:
        parts = urlsplit(url)
        # A key may hold a slash, so an `@` anywhere may end one; that of a path is written %40.
        fault = "holds a user or a key before its `@`" if "@" in url else None
        if parts.port is None and fault is None and not parts.hostname:
            fault = "names no host"
    except ValueError:
        raise _not_shown(f"is no URL that can be read: a key in it must not be there{remedy}") from None
    if parts.query or parts.fragment:
        fault = "has a query or a fragment, which is not sent but copied wherever the URL is shown"
    if fault is not None:
        raise _not_shown(f"{fault}{remedy}")
    return url


EngineKind = Annotated[str, _known("pipeline.engines")]
ImporterKind = Annotated[str, _known("pipeline.importers")]
AggregationKind = Annotated[str, _known("pipeline.aggregation")]
ExportKind = Annotated[str, _known("pipeline.exports")]
ConfigPath = Annotated[Path, AfterValidator(_beside_config)]
VariableName = Annotated[str, AfterValidator(_variable)]
DataPath = Annotated[Path, AfterValidator(_data_beside_config)]
Columns = dict[str, str]
ModelName = Annotated[str, AfterValidator(_model_beside_config), Field(min_length=1)]


AuditUnit = Literal["prompt", "pair"]
SCORING = ("vllm_pooling", "vllm_pooling_server")
"""Engines of reward models."""


class Price(Frozen):
    """US$ per million tokens."""

    input: float = Field(ge=0)
    """US$ per million prompt tokens."""
    output: float = Field(ge=0)
    """US$ per million completion tokens."""
    cached_input: float | None = Field(default=None, ge=0)
    """US$ per million prompt tokens served from the vendor's cache; defaults to `input`."""
    batch: float = Field(default=0.5, ge=0)
    """What a call by the batch API costs, as a share of these; used where the model has `batch`."""

    def by_batch(self) -> "Price":
        """The prices of calls by the batch API."""
        cached = None if self.cached_input is None else self.cached_input * self.batch
        return Price(input=self.input * self.batch, output=self.output * self.batch, cached_input=cached)


class BatchConfig(Frozen):
    """Calls by the endpoint's batch API (OpenAI's): cheaper, and answered within a day."""

    completion_window: str = "24h"
    """What the vendor promises; OpenAI knows `24h`."""
    poll_s: float = Field(default=60, gt=0)
    """Seconds between two looks at the running batches."""
    max_requests: int = Field(default=50_000, ge=1)
    """Most calls in a batch."""
    max_bytes: int = Field(default=200_000_000, ge=1)
    """Largest input file, bytes."""


OTHER_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_new_tokens")
"""What else than `max_tokens` bounds an answer."""
SET_ELSEWHERE = {
    "messages": "the data",
    "model": "`model`",
    "stream": "jurybox, which reads whole replies",
    "n": "`samples`",
}
"""Fields of a request that `body` may not set, and what sets them."""


class WireConfig(Frozen):
    """What differs from the protocol at an endpoint or for a model; a model's keys go before its endpoint's."""

    body: dict[str, Any] = Field(default_factory=dict)
    """Fields added to every request; null removes one: `{max_tokens: null, max_completion_tokens: 512}` renames it."""
    headers: dict[str, SecretStr | None] = Field(default_factory=dict)
    """HTTP headers added to every request, e.g. `{api-key: ${AZURE_KEY}}`; `${NAME}` is that environment variable, null
    removes a header that is usually sent."""
    query: dict[str, str] = Field(default_factory=dict)
    """Query of the URL, e.g. Azure's `{api-version: 2024-10-21}`; `${NAME}` is that environment variable."""
    structured: Literal["json_schema", "json_object", "none"] | None = None
    """How a judge's JSON is asked for besides in words; by default what the endpoint is known to take."""

    @field_validator("headers", "query")
    @classmethod
    def _named_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            text = given.get_secret_value() if isinstance(given, SecretStr) else given
            if text and (confidential(name) or CREDENTIAL_HEADER.fullmatch(name)) and "${" not in text:
                raise _not_shown(
                    f"{name!r} holds a secret, which a config is no place for; put it into an environment variable and "
                    f"write {name}: ${{NAME}}"
                )
        return value

    @field_validator("body")
    @classmethod
    def _own_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, owner in SET_ELSEWHERE.items():
            if name in value:
                raise ValueError(f"{name!r} is set by {owner}; leave it out of `body`")
        return value


class EndpointConfig(WireConfig):
    """An OpenAI-compatible endpoint, defined once and named."""

    base_url: Annotated[str, AfterValidator(_without_credentials)] = Field(pattern=r"^https?://")
    """Everything before `/chat/completions`, without a key."""
    api_key_env: VariableName | None = None
    """Environment variable that holds the key; none for servers without one."""
    concurrency: int = Field(default=64, ge=1)
    """Calls in flight at once."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Rate limit; none means as fast as the concurrency allows."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Rate limit of prompt and completion tokens together, estimated before a call and corrected after it."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds until a call counts as unanswered."""
    attempts: int = Field(default=6, ge=1)
    """Tries per call when the transport fails (429, 5xx, dropped connection, time-out)."""
    max_wait_s: float = Field(default=120, gt=0)
    """Longest wait that the endpoint may ask for (`Retry-After`, rate-limit headers), and longest between two looks at
    a dead one."""

    def price_of(self, options: "ModelConfig") -> Price | None:
        """What a model costs here: its own `price`, else the shipped table's where this is the vendor's endpoint."""
        price = options.price
        if price is None and (row := prices.listed(self.base_url, options.model)):
            batch = 1.0 if row.batch is None else row.batch
            price = Price(input=row.input, output=row.output, cached_input=row.cached_input, batch=batch)
        return price if price is None or options.batch is None else price.by_batch()


class ModelConfig(WireConfig):
    """Where a model runs: an endpoint, or in this process. Base of generators and LM judges."""

    model: ModelName
    """Model name at the endpoint, a Hub name, or a folder beside the config."""
    endpoint: str | None = None
    """Name of an entry of `endpoints`."""
    engine: EngineKind | None = None
    """`vllm` or `transformers` for a model in this process, or your own `./file.py:Name`."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to the engine as they are, e.g. `{max_model_len: 4096}`."""
    price: Price | None = None
    """US$ per million tokens; needed under a budget, unless the shipped table lists the vendor's model."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer, tokens."""
    batch: BatchConfig | None = None
    """Calls go by the endpoint's batch API; a bare `true` is enough."""

    @field_validator("engine_args")
    @classmethod
    def _no_credential(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            if CREDENTIAL.search(name) and isinstance(given, str):
                raise _not_shown(
                    f"{name!r} holds a secret, which a config is no place for; export it as the variable that the "
                    "engine reads, e.g. HF_TOKEN"
                )
        return value

    @field_validator("batch", mode="before")
    @classmethod
    def _bare_batch(cls, value: object) -> object:
        return {} if value is True else None if value is False else value

    @property
    def label(self) -> str:
        """The model's name in data and seeds: a folder's own name without its path, so that machines agree."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @model_validator(mode="after")
    def _one_place(self) -> "ModelConfig":
        if (self.endpoint is None) == (self.engine is None):
            raise ValueError("needs exactly one of `endpoint` and `engine`")
        if self.endpoint is None and (self.body or self.headers or self.query or self.structured):
            raise ValueError("`body`, `headers`, `query` and `structured` are an endpoint's and need `endpoint`")
        if self.batch is not None and self.endpoint is None:
            raise ValueError("`batch` is an endpoint's API and needs `endpoint`; in this process use `vllm_batch`")
        return self


class GeneratorConfig(ModelConfig):
    """A model that answers the prompts."""

    temperatures: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(default=(0.3, 0.5, 0.7, 1.0), min_length=1)
    """One set of answers at each."""
    samples: int = Field(default=1, ge=1)
    """Answers per prompt and temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 samples the whole distribution."""
    system: str | None = None
    """System message put before conversations that have none."""
    max_attempts: int = Field(default=1, ge=1)
    """How often an answer that was cut off or that the model refused may be asked for, each paid for."""
    keep_cut_off: bool = False
    """Whether answers that ended at `max_tokens` are kept; by default they are dropped with the reason `cut_off`."""

    @field_validator("temperatures")
    @classmethod
    def _each_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a temperature is listed twice; `samples: 2` makes two answers at each")
        return value


class PromptsConfig(Frozen):
    """Where prompts come from."""

    path: DataPath
    """A file, a saved dataset, or the name of one on the Hub (`org/name`)."""
    format: ImporterKind | None = None
    """Importer by name (docs/data.md), or your own `./file.py:Name`; by default the columns tell."""
    columns: Columns = Field(default_factory=dict)
    """Our name of a column -> the file's; by default the config's `columns`."""
    split: str | None = None
    """Which split of a saved dataset or of one on the Hub; by default the only one, or `train`."""
    subset: str | None = None
    """Which configuration of a dataset on the Hub."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Drop prompts whose word 3-grams have this Jaccard similarity to one that is kept (MinHash)."""


class PairingConfig(Frozen):
    """Which answers are compared; each strategy adds its own keys."""

    strategy: str = "all"
    """`all`, `sparse` (its `degree`), `rounds` (its `rounds`), or your own `./file.py:Name`."""


class JudgeConfig(Frozen):
    """What every judge has; each kind adds its own keys."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")
    """Unique name; column `judge` everywhere."""
    kind: str
    """`pairwise`, `pointwise`, `listwise`, `reference_guided`, `reward_model`, `verifier`, `length`, or your own \
`./file.py:Name`."""

    @property
    def wants_labels(self) -> bool:
        """Whether the judge learns from the `fit` labels."""
        return False

    @property
    def asked_by_order(self) -> bool:
        """Whether each order of each pair is a call of its own, so that an adaptive panel can leave it out."""
        return False

    def files(self, base: Path) -> list[Path]:
        """Files of the user's that decide what the judge says: a change of them is a change of the judge."""
        return [base / self.kind.rpartition(":")[0]] if ":" in self.kind else []


class SimulatedConfig(Frozen):
    """Simulated people, for demos and tests only; every report calls them simulated."""

    kind: str
    """`./file.py:Name` of a class with `names` and `label(...)`."""
    prompts: int = Field(default=200, ge=0)
    """Prompts, drawn uniformly, all of whose pairs are labelled."""


class LabelsConfig(Frozen):
    """What people said."""

    path: ConfigPath | None = None
    """A file of pair_id, annotator, label (a, b, tie), queue."""
    format: ImporterKind | None = None
    """Importer by name, or your own `./file.py:Name`; by default the columns tell."""
    columns: Columns = Field(default_factory=dict)
    """Our name of a column -> the file's; by default the config's `columns`."""
    simulated: SimulatedConfig | None = None
    """Simulated people instead of a file."""
    guidelines: ConfigPath | None = None
    """Text that annotators are shown; by default the one that ships."""
    fit_fraction: float = Field(default=0.4, gt=0, lt=1)
    """Share of the labelled prompts that fit weights; the others certify and do nothing else."""
    audit_unit: AuditUnit = "prompt"
    """What the audit queue drew at random: `prompt`s, of which one or more pairs were labelled, or single `pair`s."""
    judge_floor: float = Field(default=0.4, ge=0, le=1)
    """A judge that agrees with people less than this on the fit labels leaves the panel. A judge near one half still \
helps: `calibrated` learns what its errors have in common with the others'."""


class BudgetConfig(Frozen):
    """A hard limit on what the run's calls may cost."""

    usd: float = Field(gt=0)
    """US$; a call is made only if its worst case still fits."""


class LedgerConfig(Frozen):
    """A PostgreSQL database that several machines share; runs of one name share one budget."""

    url: str | None = None
    """`postgresql+psycopg://user@host/database`, without a password: that stays in `PGPASSWORD` or `~/.pgpass`."""
    url_env: VariableName | None = None
    """Environment variable that holds the URL, which may then carry a password."""

    @model_validator(mode="after")
    def _one_place(self) -> "LedgerConfig":
        if (self.url is None) == (self.url_env is None):
            raise ValueError("`ledger` takes `url` or `url_env`, one of the two")
        return self

    @field_validator("url")
    @classmethod
    def _public(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not re.match(r"postgresql(\+psycopg)?://", url):
            raise _not_shown("is no URL of a PostgreSQL database; write postgresql+psycopg://user@host/database")
        place, _, query = url.partition("?")
        # A password may hold a slash: whatever stands before the last `@` is user and password.
        user = place.partition("://")[2].rpartition("@")[0]
        named = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
        if ":" in user or "/" in user or any(confidential(name) for name in named):
            raise _not_shown("holds a password; name a variable with the whole URL in `url_env` instead")
        return url


class PanelConfig(Frozen):
    """How much of the panel is asked."""

    mode: Literal["full", "adaptive"] = "full"
    """`full`: every judge on every pair. `adaptive`: every judge on the `fit` pairs, then, pair by pair, the calls \
that say most per dollar, until the full panel's verdict would hardly change."""
    tolerance: float = Field(default=0.006, gt=0, lt=0.5)
    """Adaptive: asking stops when the full panel would name the other answer with less than this probability."""


class ControlsConfig(Frozen):
    """Constant answers that every LM judge compares with real ones, apart from the data; their win rate is reported."""

    number: int = Field(default=40, ge=0)
    """Comparisons with constant answers that each judge makes; 0: none."""
    share: float = Field(default=0.1, ge=0, le=1)
    """At most this share of the run's pairs, so that a small run is not judged for its controls."""


class AggregateConfig(Frozen):
    """How votes become a preference."""

    method: AggregationKind = "calibrated"
    """`calibrated` (needs labels), `consistency`, `majority`, `dawid_skene`, `one_coin`, `glad`, or your \
own `./file.py:Name`."""
    fallback: AggregationKind = "consistency"
    """Method when there are no fit labels; its result is never called validated."""
    learn_length: bool = True
    """Whether `calibrated` learns people's preference for longer or shorter answers; `p_a_lc` leaves it out again."""
    decide_by: Literal["p_a", "p_a_lc"] = "p_a"
    """People as they are, or with the length difference held at zero."""


class GateConfig(Frozen):
    """What the kept pairs must be shown to reach."""

    target_agreement: float = Field(default=0.9, gt=0.5, lt=1)
    """Agreement with people that is certified, mean over prompts."""
    delta: float = Field(default=0.1, gt=0, lt=1)
    """Probability with which the certificate may be wrong."""
    required: bool = False
    """Stop the run when nothing can be certified, instead of keeping pairs uncertified."""


class FilterConfig(Frozen):
    """What every filter of pairs has; each kind adds its own keys."""

    kind: str
    """`./file.py:Name` of your own, or a kind of `pipeline/filters/`; a bare kind is enough."""


def _filter_of_its_kind(item: object, info: ValidationInfo) -> object:
    named = {"kind": item} if isinstance(item, str) else item
    return _options(named, "pipeline.filters", "{Kind}Filter", "kind", FilterConfig, info)


class SelectConfig(Frozen):
    """Which judged pairs go into the dataset: a strategy for each prompt, then filters."""

    strategy: Literal["best_vs_worst", "best_vs_random", "best_vs_mu_minus_2sigma", "all"] = "best_vs_worst"
    """One pair a prompt, the answer with the highest score against that with the lowest, a random one or the one \
nearest to two standard deviations below the mean; or every pair."""
    min_margin: float = Field(default=0.0, ge=0, lt=1)
    """Smallest abs(2p - 1) that is kept."""
    top_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the pairs left by all other filters that is kept, those with the largest margins of the whole run."""
    max_length_ratio: float | None = Field(default=None, gt=1)
    """Longer over shorter answer, characters."""
    max_similarity: float | None = Field(default=None, gt=0, lt=1)
    """Largest Jaccard similarity of the two answers' word 3-grams."""
    drop_flagged: bool = False
    """Whether pairs are dropped of which an answer looks written for the judge (frame `flags`)."""
    refusals: Literal["keep", "drop_chosen", "drop_any"] = "keep"
    """What becomes of pairs whose chosen answer, or either, opens like a refusal (`pipeline/filters/refusals.txt`)."""
    languages: Literal["prompt"] | tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] | None = None
    """Languages both answers must be in: `prompt` for the prompt's own, or a list of ISO 639-1 codes; needs the \
extra `language`."""
    filters: tuple[Annotated[SerializeAsAny[FilterConfig], BeforeValidator(_filter_of_its_kind)], ...] = ()
    """More filters, in this order, after those above; each drop has its filter's reason."""


class TrainConfig(Frozen):
    """What every training method has; each method adds its own keys."""

    method: str = "dpo"
    """`dpo`, `sft`, `kto`, `orpo`, `simpo`, `step_dpo`, `reward`, or your own `./file.py:Name`."""
    model: ModelName | None = None
    """The model to train, a folder or a Hub name; defaults to the first generator's. Of several methods only the \
first takes one."""


class EvaluateConfig(Frozen):
    """How the trained model is compared with the untrained one."""

    prompts: PromptsConfig | None = None
    """Held-out prompts; without them, the prompts of the dataset's test split."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature of both."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; defaults to the generator's."""


class PushConfig(Frozen):
    """Where dataset and adapter go on the Hugging Face Hub."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """`org/name`; the adapter goes to `org/name-adapter`."""
    private: bool = True
    """Create private repositories."""
    token_env: VariableName = "HF_TOKEN"  # noqa: S105  the variable's name
    """Environment variable that holds the token."""


def _of_its_kind(item: object, info: ValidationInfo) -> object:
    return _options(item, "judges", "{Kind}Judge", "kind", JudgeConfig, info)


def _with_columns(given: Mapping[str, object], key: str, columns: object) -> dict[str, object]:
    """*given*, whose section *key* takes *columns* unless it has its own."""
    section = given.get(key)
    told = {"columns": columns, **cast("Mapping[str, object]", section)} if isinstance(section, Mapping) else section
    return {**given, **({key: told} if key in given else {})}


def _of_its_method(item: object, info: ValidationInfo) -> object:
    fields = {"method": "dpo", **cast("Mapping[str, object]", item)} if isinstance(item, Mapping) else item
    return _options(fields, "training.methods", "{Kind}Method", "method", TrainConfig, info)


class Config(Frozen):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the run and of its folder under `runs/`."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Seed of everything random; each event's own seed is hashed from this and the content."""
    columns: Columns = Field(default_factory=dict)
    """Our name of a column -> what the files of prompts, samples, pairs, judgments and labels call it \
(`{prompt: instruction}`); a dot leads into an object."""
    prompts: PromptsConfig | None = None
    """Prompts to answer; none when prompts, samples or pairs are imported."""
    generators: tuple[GeneratorConfig, ...] = ()
    """Models that answer; none when samples are imported."""
    pairing: SerializeAsAny[PairingConfig] = PairingConfig()
    """Which answers are compared."""
    endpoints: dict[str, EndpointConfig] = Field(default_factory=dict)
    """OpenAI-compatible endpoints by name."""
    judges: tuple[Annotated[SerializeAsAny[JudgeConfig], BeforeValidator(_of_its_kind)], ...] = ()
    """The panel; none when judgments are imported."""
    panel: PanelConfig = PanelConfig()
    """How much of the panel is asked."""
    controls: ControlsConfig = ControlsConfig()
    """Constant answers, to see what a judge falls for."""
    budget: BudgetConfig | None = None
    """Hard limit on US$."""
    ledger: LedgerConfig | None = None
    """PostgreSQL instead of SQLite in the run's folder; a bare URL is enough."""
    labels: LabelsConfig = LabelsConfig()
    """What people said."""
    aggregate: AggregateConfig = AggregateConfig()
    """How votes become a preference."""
    gate: GateConfig = GateConfig()
    """What must be certified."""
    select: SelectConfig = SelectConfig()
    """Which pairs are kept."""
    export: tuple[ExportKind, ...] = ("trl_dpo",)
    """Dataset formats: `trl_dpo`, `jsonl`, `kto`, `openai_dpo`, or your own `./file.py:Name`."""
    export_reasoning: Literal["drop", "keep"] = "drop"
    """Whether what models wrote before their answers goes into the dataset, in columns of its own; also written
    `export: {formats: [trl_dpo], reasoning: keep}`."""
    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of prompts in the dataset's test split."""
    licence: str = "unknown"
    """Licence named in the dataset card, an SPDX id."""
    train: tuple[Annotated[SerializeAsAny[TrainConfig], BeforeValidator(_of_its_method)], ...] = ()
    """Training, one method or a list of them, each going on from the last; none stops after the export."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Comparison of trained and untrained model."""
    push: PushConfig | None = None
    """Upload to the Hub; a bare `org/name` is enough."""

    def models(self) -> dict[str, str]:
        """Judge -> its model, of the judges that are models."""
        return {judge.name: judge.label for judge in self.judges if isinstance(judge, ModelConfig)}

    def base_url(self, options: object) -> object:
        """Where and how the model of a generator or judge is asked, JSON-able: a moved endpoint is another model.

        None in this process.
        """
        name = cast("str | None", getattr(options, "endpoint", None))
        if name is None:
            return None
        endpoint = self.endpoints[name]
        differs = endpoint.model_dump(mode="json", include={"body", "query", "structured"}, exclude_defaults=True)
        return {"base_url": endpoint.base_url, **differs} if differs else endpoint.base_url

    def endpoints_of(self, *options: object) -> frozenset[str]:
        """Names of the endpoints of generators and judges."""
        names = (cast("str | None", getattr(each, "endpoint", None)) for each in options)
        return frozenset(name for name in names if name is not None)

    @model_validator(mode="before")
    @classmethod
    def _export_with_reasoning(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, object]", value)
        how = fields.get("export")
        if not isinstance(how, Mapping):
            return fields
        said = cast("Mapping[str, object]", how)
        if set(said) - {"formats", "reasoning"}:
            raise ValueError(f"`export` takes formats and reasoning, found {', '.join(map(str, said))}")
        others = {key: one for key, one in fields.items() if key != "export"}
        formats = {"export": said["formats"]} if "formats" in said else {}
        return {**others, **formats, "export_reasoning": said.get("reasoning", "drop")}

    @model_validator(mode="before")
    @classmethod
    def _columns_of_files(cls, value: object) -> object:
        """The config's `columns` hold for every file that names none of its own."""
        if not isinstance(value, Mapping) or not cast("Mapping[str, object]", value).get("columns"):
            return cast("object", value)
        given = dict(cast("Mapping[str, object]", value))
        evaluate = given.get("evaluate")
        if isinstance(evaluate, Mapping):
            given["evaluate"] = _with_columns(cast("Mapping[str, object]", evaluate), "prompts", given["columns"])
        return _with_columns(_with_columns(given, "prompts", given["columns"]), "labels", given["columns"])

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_more(cls, value: object, info: ValidationInfo) -> object:
        if value is None:
            return ()
        # One method is checked here, so that what is wrong in it is named without a number.
        return (_of_its_method(cast("object", value), info),) if isinstance(value, Mapping) else value

    @field_validator("ledger", mode="before")
    @classmethod
    def _bare_ledger(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("pairing", mode="before")
    @classmethod
    def _pairing_strategy(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, Mapping):
            with_default = {"strategy": "all", **cast("Mapping[str, object]", value)}
            return _options(with_default, "pipeline.pairing", "{Kind}Pairing", "strategy", PairingConfig, info)
        return value

    @field_validator("push", mode="before")
    @classmethod
    def _bare_push(cls, value: object) -> object:
        return {"repo": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _orders_can_be_chosen(self) -> "Config":
        for at, judge in enumerate(self.judges):
            if self.panel.mode == "adaptive" and getattr(judge, "order", None) == "random":
                raise _fault(
                    ("judges", at, "order"),
                    f"judge {judge.name!r} has order 'random', and an adaptive panel chooses the orders itself; "
                    "allowed with `panel.mode: adaptive`: both, ab, ba",
                )
        return self

    @model_validator(mode="after")
    def _batches_can_wait(self) -> "Config":
        for at, judge in enumerate(self.judges):
            if self.panel.mode == "adaptive" and judge.asked_by_order and getattr(judge, "batch", None) is not None:
                raise _fault(
                    ("judges", at, "batch"),
                    f"judge {judge.name!r} has `batch`, and each of an adaptive panel's rounds would wait for one; "
                    "leave out `batch`, or set `panel.mode: full`",
                )
        return self

    @model_validator(mode="after")
    def _generators_write(self) -> "Config":
        for at, generator in enumerate(self.generators):
            if generator.engine in SCORING:
                raise _fault(
                    ("generators", at, "engine"),
                    f"engine {generator.engine!r} returns a number and writes no answers; allowed: transformers, "
                    "vllm, vllm_batch, your own ./file.py:Name, or `endpoint` instead",
                )
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> "Config":
        for at, step in enumerate(self.train):
            if at and step.model is not None:
                raise _fault(
                    ("train", at, "model"),
                    f"method {at + 1} ({step.method}) goes on from the one before it; leave out `model`, or give it to "
                    "the first",
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        names = [judge.name for judge in self.judges]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two judges are named {name!r}; give each its own name")
        for key, users in (("generators", self.generators), ("judges", self.judges)):
            for at, user in enumerate(users):
                name = cast("str | None", getattr(user, "endpoint", None))
                if name is None:
                    continue
                if name not in self.endpoints:
                    raise _fault(
                        (key, at, "endpoint"),
                        f"endpoint {name!r} of model {getattr(user, 'model', None)!r} is not defined; endpoints has: "
                        f"{', '.join(self.endpoints) or 'nothing'}",
                    )
                if not isinstance(user, ModelConfig) or self.budget is None:
                    continue
                self._bounded(key, at, user)
                if self.endpoints[name].price_of(user) is None:
                    raise _fault(
                        (key, at, "price"),
                        f"model {user.model!r} has no `price`, so its calls cannot be held under `budget`; "
                        "add price: {input: US$ per million tokens, output: ...}",
                    )
        if self.labels.path is not None and self.labels.simulated is not None:
            raise ValueError("`labels` takes `path` or `simulated`, not both")
        return self

    def _bounded(self, key: str, at: int, user: ModelConfig) -> None:
        """Under a budget every request says how long the answer may be at most."""
        changed = {**self.endpoints[user.endpoint or ""].body, **user.body}
        if "max_tokens" not in changed or changed["max_tokens"] is not None:
            return
        if not any(isinstance(changed.get(name), int) for name in OTHER_BOUNDS):
            raise _fault(
                (key, at, "body"),
                f"model {user.model!r} sends no `max_tokens`, so its calls cannot be held under `budget`; add "
                "body: {max_completion_tokens: ...} or the endpoint's own word for it",
            )


def _fault(keys: tuple[str | int, ...], message: str) -> ValidationError:
    """An error about the value at *keys*, which need not be there."""
    kind = PydanticCustomError("inconsistent", "{message}", {"message": message})
    return ValidationError.from_exception_data("Config", [{"type": kind, "loc": keys, "input": {}}])


def _options(item: object, package: str, attribute: str, key: str, base: type[Frozen], info: ValidationInfo) -> object:
    """*item* under the options model of its kind, so that a kind's keys live in the kind's own file."""
    if not isinstance(item, Mapping):
        return item
    fields = cast("Mapping[str, object]", item)
    kind = fields.get(key)
    if not isinstance(kind, str):
        return base.model_validate(fields, context=info.context)
    try:
        plugin = discovery.find(package, kind, attribute, _base(info))
    except ConfigError as error:
        raise ValueError(str(error)) from error
    model = cast("type[Frozen]", getattr(plugin, "Options", base))
    return model.model_validate(fields, context=info.context)
