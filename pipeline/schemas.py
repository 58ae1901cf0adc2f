"""Every frame of a run, declared once. Pure: this is the data the rest of the code moves.

Each frame is a Polars frame under a dataframely schema; on disk it is ``<frame>/part-*.parquet``. Frames
are fully validated where data comes in from outside and shard by shard afterwards.
"""

from copy import copy
from functools import cache

import dataframely as dy
import polars as pl

ID = r"^[0-9a-f]{32}$"


class Prompts(dy.Schema):
    """What the student is asked."""

    prompt_id = dy.String(
        primary_key=True, regex=ID, description="Hash of messages and reference; the last 16 digits of messages alone."
    )
    messages = dy.List(
        dy.Struct({"role": dy.String(), "content": dy.String()}),
        min_length=1,
        description="The conversation up to the answer: [{role, content}], last role user.",
    )
    reference = dy.String(nullable=True, description="A known answer or a verifier's payload.")
    whole = dy.String(
        nullable=True, description="JSON of messages and tools as they were, where `messages` does not say all."
    )
    source = dy.String(description="File or importer the prompt came from.")
    tags = dy.List(dy.String(), description="Free labels: category, subset.")


class Samples(dy.Schema):
    """One answer each."""

    sample_id = dy.String(
        primary_key=True, regex=ID, description="Hash of prompt, model, temperature, seed and completion."
    )
    prompt_id = dy.String(regex=ID, description="The prompt answered.")
    model = dy.String(description="Model that wrote it; `imported` where unknown.")
    temperature = dy.Float64(
        nullable=True, min=0.0, description="Sampling temperature; null when imported or not taken."
    )
    sample_index = dy.Int64(min=0, description="0-based, within prompt, model and temperature.")
    seed = dy.Int64(nullable=True, description="Seed of this answer; null when imported.")
    completion = dy.String(min_length=1, description="The answer's text, untrusted.")
    characters = dy.Int64(min=1, description="Its length, so that nobody need read the text for that.")
    finish_reason = dy.String(nullable=True, description="`stop`, `length`, or the endpoint's own word.")
    completion_tokens = dy.Int64(nullable=True, min=0, description="Tokens in the answer.")
    logprob = dy.Float64(nullable=True, max=1e-6, description="Sum over tokens, nats.")
    reasoning = dy.String(nullable=True, description="What the model wrote before its answer, untrusted; never judged.")
    external_id = dy.String(nullable=True, description="Id in the imported file.")

    @dy.rule()
    def counted(cls) -> pl.Expr:
        """The length is that of the text."""
        return pl.col("completion").str.len_chars() == pl.col("characters")


class Pairs(dy.Schema):
    """Two different answers to one prompt, in canonical order."""

    pair_id = dy.String(primary_key=True, regex=ID, description="Hash of the two sample ids.")
    prompt_id = dy.String(regex=ID, description="The prompt both answer.")
    sample_a = dy.String(regex=ID, description="The smaller sample id.")
    sample_b = dy.String(regex=ID, description="The larger sample id.")
    external_id = dy.String(nullable=True, description="Id in the imported file.")
    external_flipped = dy.Bool(description="The imported file's response_a is our sample_b.")

    @dy.rule()
    def canonical(cls) -> pl.Expr:
        """The two samples stand in order."""
        return pl.col("sample_a") < pl.col("sample_b")


class Aliases(dy.Schema):
    """Further ids of imported pairs: several rows of files may be about the same two answers."""

    external_id = dy.String(primary_key=True, description="Id in the imported file.")
    pair_id = dy.String(regex=ID, description="The pair it names.")
    flipped = dy.Bool(description="The response_a of the row with this id is our sample_b.")


class Calls(dy.Schema):
    """Every model call; the only place where cost is summed."""

    call_key = dy.String(primary_key=True, description="The ledger's key, or a hash for a local model.")
    judge = dy.String(description="Judge, or `generate:<model>`.")
    status = dy.Enum(["answered", "unanswered"], description="Unanswered: nothing final came; asked again.")
    prompt_tokens = dy.Int64(nullable=True, min=0, description="Tokens read.")
    cached_tokens = dy.Int64(nullable=True, min=0, description="Of those, from the prefix cache.")
    completion_tokens = dy.Int64(nullable=True, min=0, description="Tokens written.")
    cost_usd = dy.Float64(min=0.0, description="US$, by the configured price; 0 for local models.")
    latency_s = dy.Float64(nullable=True, min=0.0, description="Seconds of the answered attempt.")


class Ratings(dy.Schema):
    """Scores of single answers, by judges that look at one answer at a time."""

    sample_id = dy.String(primary_key=True, regex=ID, description="The answer scored.")
    judge = dy.String(primary_key=True, description="The judge.")
    aspect = dy.String(primary_key=True, description="What was scored; `overall` if only one.")
    score = dy.Float64(description="Higher is better; the judge's own unit.")
    call_keys = dy.List(dy.String(), description="Calls behind the score.")


class Judgments(dy.Schema):
    """One judge's opinion of one pair in one order."""

    pair_id = dy.String(primary_key=True, regex=ID, description="The pair.")
    judge = dy.String(primary_key=True, description="Model and rubric.")
    order = dy.Enum(["ab", "ba"], primary_key=True, description="What the judge saw first.")
    preference = dy.Float64(
        nullable=True, min=0.0, max=1.0, description="P(a preferred), un-swapped; null when it failed."
    )
    rationale = dy.String(nullable=True, description="The judge's words, untrusted.")
    error = dy.String(nullable=True, description="Why there is no preference.")
    call_keys = dy.List(dy.String(), description="Calls behind the opinion.")

    @dy.rule()
    def preference_or_error(cls) -> pl.Expr:
        """A failure is not a tie: there is a preference or an error, never both, never neither."""
        return pl.col("preference").is_null() == pl.col("error").is_not_null()


class Controls(dy.Schema):
    """One LM judge's opinion of a constant answer against a real one, apart from the data."""

    judge = dy.String(primary_key=True, description="The judge.")
    control = dy.String(primary_key=True, description="The constant answer; pipeline/stages/controls.py names it.")
    prompt_id = dy.String(primary_key=True, regex=ID, description="The prompt that the real answer answers.")
    sample_id = dy.String(regex=ID, description="The real answer.")
    order = dy.Enum(["ab", "ba"], primary_key=True, description="What the judge saw first, by sample id.")
    preference = dy.Float64(
        nullable=True, min=0.0, max=1.0, description="P(the constant answer preferred); null when it failed."
    )
    rationale = dy.String(nullable=True, description="The judge's words, untrusted.")
    error = dy.String(nullable=True, description="Why there is no preference.")
    call_keys = dy.List(dy.String(), description="Calls behind the opinion.")

    @dy.rule()
    def preference_or_error(cls) -> pl.Expr:
        """A failure is not a tie: there is a preference or an error, never both, never neither."""
        return pl.col("preference").is_null() == pl.col("error").is_not_null()


class Flags(dy.Schema):
    """Answers that look as if they were written for the judge."""

    sample_id = dy.String(primary_key=True, regex=ID, description="The answer.")
    flag = dy.Enum(
        ["verdict", "fence", "control_token", "speaker", "invisible", "repetition", "addresses_judge"],
        description="Why, the first that holds; judges/suspicion.py says what each means.",
    )


class Labels(dy.Schema):
    """One person's opinion of one pair."""

    pair_id = dy.String(primary_key=True, regex=ID, description="The pair.")
    annotator = dy.String(primary_key=True, description="The person; simulated ones say so.")
    label = dy.Enum(["a", "b", "tie"], description="The answer preferred, in canonical order.")
    queue = dy.Enum(["audit", "active", "gold"], description="Only `audit` labels certify.")
    inclusion_prob = dy.Float64(
        min_exclusive=0.0, max=1.0, description="Probability with which the pair was drawn for labelling."
    )
    seconds = dy.Float64(nullable=True, min=0.0, description="Time the person took.")
    labelled_at = dy.String(nullable=True, description="ISO 8601, UTC.")


class Verdicts(dy.Schema):
    """The panel's calibrated preference for a pair."""

    pair_id = dy.String(primary_key=True, regex=ID, description="The pair.")
    p_a = dy.Float64(min=0.0, max=1.0, description="P(a person prefers a), people as they are.")
    p_a_lc = dy.Float64(min=0.0, max=1.0, description="The same with the length difference held at zero.")
    margin = dy.Float64(min=0.0, max=1.0, description="abs(2p - 1) of the one that `decide_by` names.")
    judges = dy.List(dy.String(), description="Judges whose votes count.")
    calls = dy.Int64(min=0, description="Judgments behind it, failed ones included.")
    agreement = dy.Float64(
        nullable=True, min=0.0, max=1.0, description="Share of the deciding judges on the verdict's side."
    )


class Kept(Verdicts):
    """Pairs that go into the dataset; text is joined at export only."""

    chosen_id = dy.String(regex=ID, description="The preferred sample, by the verdict.")
    rejected_id = dy.String(regex=ID, description="The other one.")

    @dy.rule()
    def two_answers(cls) -> pl.Expr:
        """Chosen and rejected differ."""
        return pl.col("chosen_id") != pl.col("rejected_id")


class Scores(dy.Schema):
    """How good each answer that was compared is, from all verdicts on it."""

    sample_id = dy.String(primary_key=True, regex=ID, description="The answer.")
    prompt_id = dy.String(regex=ID, description="The prompt answered.")
    score = dy.Float64(description="Bradley-Terry score, nats; zero on average over a prompt's answers.")
    se = dy.Float64(min=0.0, description="Its standard error, each verdict taken as one comparison.")
    n = dy.Int64(min=0, description="Comparisons it was in.")


class Dropped(dy.Schema):
    """What a stage did not pass on: exactly one reason a row, so that the funnel adds up."""

    stage = dy.String(primary_key=True, description="The stage that dropped it.")
    id = dy.String(primary_key=True, description="Prompt, sample or pair id; for input rows file and line.")
    reason = dy.String(min_length=1, description="One of the stage's documented reasons.")
    detail = dy.String(nullable=True, description="The endpoint's or engine's own words, untrusted.")


class Duels(dy.Schema):
    """The trained model against the untrained one on held-out prompts."""

    prompt_id = dy.String(primary_key=True, regex=ID, description="A held-out prompt.")
    question = dy.String(description="Its conversation as one text.")
    baseline = dy.String(description="The untrained model's answer.")
    trained = dy.String(description="The trained model's answer.")
    people = dy.Float64(nullable=True, min=0.0, max=1.0, description="People's share for trained, ties half.")
    panel = dy.Float64(nullable=True, min=0.0, max=1.0, description="The panel's P(trained preferred).")


class Calibration(dy.Schema):
    """What verdicts' probabilities say beside what people say, on labels that fitted nothing; one row a bin."""

    confidence_from = dy.Float64(
        primary_key=True, min=0.5, max=1.0, description="Lower edge of the bin of max(p, 1 - p); bins are .05 wide."
    )
    n = dy.Int64(min=1, description="Pairs.")
    confidence = dy.Float64(min=0.5, max=1.0, description="Mean of max(p, 1 - p).")
    people = dy.Float64(min=0.0, max=1.0, description="Mean share of people on the verdict's side, a tie one half.")
    low = dy.Float64(nullable=True, description="Lower end of its 95 % interval over whole prompts.")
    high = dy.Float64(nullable=True, description="Upper end.")
    brier = dy.Float64(min=0.0, max=1.0, description="Mean of (people's share for a - p)^2.")


class Agreement(dy.Schema):
    """How far raters agree, with 95 % intervals over whole prompts; docs/methods.md has the formulas."""

    between = dy.Enum(
        [
            "judge_people",
            "judge_person",
            "judge_judge",
            "person_person",
            "length_people",
            "length_person",
            "panel_people",
            "panel_person",
        ],
        primary_key=True,
        description="Who is compared; `person_person` is the ceiling, `length_*` (prefer the longer) the floor.",
    )
    rater_1 = dy.String(primary_key=True, description="Judge or annotator, `longer`, `panel`, or `*` for any.")
    rater_2 = dy.String(primary_key=True, description="Judge or annotator, `people` (their mean), or `*` for any.")
    subset = dy.String(primary_key=True, description="`all`, `source:...` or `tag:...` of the prompts.")
    measure = dy.Enum(
        ["accuracy", "same", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha", "gwet_ac1"],
        primary_key=True,
        description="`accuracy` leaves out rater_2's ties and counts rater_1's one half; `same` is equal labels.",
    )
    value = dy.Float64(nullable=True, description="Null where it is undefined: everything is one category.")
    low = dy.Float64(nullable=True, description="Lower end of the interval; null where it is undefined.")
    high = dy.Float64(nullable=True, description="Upper end.")
    n = dy.Int64(min=0, description="Comparisons: pairs, times people where a rater is `*`.")
    prompts = dy.Int64(min=0, description="Prompts they come from.")


class Bias(dy.Schema):
    """What moves a judge besides quality, with 95 % intervals over whole prompts; docs/methods.md has the formulas."""

    judge = dy.String(primary_key=True, description="The judge.")
    subset = dy.String(primary_key=True, description="`all`, `source:...` or `tag:...` of the prompts.")
    measure = dy.Enum(
        [
            "first_slot_rate",
            "swap_consistency",
            "tie_rate",
            "failure_rate",
            "longer_rate",
            "length_bias",
            "length_slope",
            "length_slope_given_people",
            "own_win_rate",
            "self_preference",
        ],
        primary_key=True,
        description="The last two where samples are by the judge's own model and people labelled them.",
    )
    value = dy.Float64(description="The estimate.")
    low = dy.Float64(nullable=True, description="Lower end of the interval; null where it is undefined.")
    high = dy.Float64(nullable=True, description="Upper end.")
    reference = dy.Float64(nullable=True, description="What people do on the same pairs, or what no bias would show.")
    n = dy.Int64(min=0, description="Judgments or pairs counted.")
    prompts = dy.Int64(min=0, description="Prompts they come from.")


class Annotators(dy.Schema):
    """How good each person's labels are; `*` in place of a person is all of them."""

    annotator = dy.String(primary_key=True, description="The person, or `*`.")
    measure = dy.String(
        primary_key=True,
        regex=r"^(agreement|tie_rate|seconds|gold_accuracy|gold_drift|share_of_pairs_with_[0-9]+)$",
        description="`agreement` with the other people; `seconds` is a median; drift is later half minus earlier.",
    )
    value = dy.Float64(description="The figure.")
    low = dy.Float64(nullable=True, description="Lower end of the 95 % interval, where there is one.")
    high = dy.Float64(nullable=True, description="Upper end.")
    reference = dy.Float64(nullable=True, description="The other people's figure, or what would be in order.")
    n = dy.Int64(min=0, description="Labels, comparisons or pairs counted.")


class Trend(dy.Schema):
    """What was measured of each judge, snapshot after snapshot, and how far it moved since the one before."""

    snapshot = dy.String(primary_key=True, description="Digest of the judgments and labels measured.")
    judge = dy.String(primary_key=True, description="The judge.")
    measure = dy.String(primary_key=True, description="`accuracy` against people, or a measure of `bias`.")
    measured_at = dy.String(description="ISO 8601, UTC.")
    value = dy.Float64(description="The estimate then.")
    low = dy.Float64(nullable=True, description="Lower end of its 95 % interval.")
    high = dy.Float64(nullable=True, description="Upper end.")
    n = dy.Int64(min=0, description="Comparisons counted.")
    difference = dy.Float64(nullable=True, description="Change since the snapshot before; null in the first.")
    difference_low = dy.Float64(nullable=True, description="Lower end of its 95 % interval.")
    difference_high = dy.Float64(nullable=True, description="Upper end.")


class WinRates(dy.Schema):
    """How often each model's answers at each temperature are preferred, by the verdicts, with 95 % intervals."""

    made_by = dy.String(primary_key=True, description="The model, and ` at ` its temperature where that is known.")
    model = dy.String(description="Model that wrote the answers.")
    temperature = dy.Float64(nullable=True, min=0.0, description="Sampling temperature; null when imported.")
    win_rate = dy.Float64(
        min=0.0, max=1.0, description="Mean P(people prefer its answer) over pairs with another model or temperature."
    )
    low = dy.Float64(description="Lower end of the interval over whole prompts.")
    high = dy.Float64(description="Upper end.")
    n = dy.Int64(min=1, description="Pairs.")
    prompts = dy.Int64(min=1, description="Prompts they come from.")


class Warnings(dy.Schema):
    """What a reader must not overlook in agreement, bias, drift and annotators."""

    about = dy.Enum(["judge", "panel", "people", "annotator"], primary_key=True, description="Whom it concerns.")
    name = dy.String(primary_key=True, description="Which one; `*` for all.")
    kind = dy.String(primary_key=True, description="What kind of thing.")
    text = dy.String(min_length=1, description="The warning in words.")


FRAMES: dict[str, type[dy.Schema]] = {
    "prompts": Prompts,
    "samples": Samples,
    "pairs": Pairs,
    "aliases": Aliases,
    "calls": Calls,
    "ratings": Ratings,
    "judgments": Judgments,
    "labels": Labels,
    "verdicts": Verdicts,
    "kept": Kept,
    "scores": Scores,
    "controls": Controls,
    "flags": Flags,
    "dropped": Dropped,
    "duels": Duels,
    "agreement": Agreement,
    "calibration": Calibration,
    "bias": Bias,
    "annotators": Annotators,
    "win_rates": WinRates,
    "trend": Trend,
    "warnings": Warnings,
}


def frame(name: str, rows: list[dict[str, object]] | pl.DataFrame) -> pl.DataFrame:
    """*rows* as the frame *name*, columns in the schema's order, sorted by primary key; not yet validated.

    A column that may be null is null where *rows* do not have it.
    """
    schema = FRAMES[name]
    types = {column: spec.dtype for column, spec in schema.columns().items()}
    if isinstance(rows, pl.DataFrame):
        columns = schema.columns()
        made = rows.select(
            pl.lit(None, dtype).alias(column)
            if column not in rows.columns and columns[column].nullable
            else pl.col(column).cast(dtype)
            for column, dtype in types.items()
        )
    else:
        made = pl.DataFrame(rows, schema=types)
    key = schema.primary_key()
    # Most rows come sorted, and to see that is far cheaper than to sort them once more.
    while len(key) > 1 and made.height and (made[key[0]] == made[key[0]][0]).all():
        key = key[1:]
    in_order = len(key) == 1 and made[key[0]].is_sorted()
    return made if in_order else made.sort(key)


def valid(name: str, made: pl.DataFrame) -> pl.DataFrame:
    """*made*, which :func:`frame` gave, when it follows the rules of the frame *name*.

    Raises:
        dataframely.exc.ValidationError: it does not.
    """
    schema = FRAMES[name]
    key = schema.primary_key()
    # Rows are sorted by key: where one column of it rises throughout, no key is there twice, and to see that is far
    # cheaper than to hash every key.
    if any((made[column] > made[column].shift(1)).sum() == made.height - 1 for column in key if made.height):
        schema = _without_key(schema)
    # To ask first spares a copy of the rows that follow the rules, which are nearly always all.
    return made if schema.is_valid(made, engine="streaming") else schema.validate(made)


@cache
def _without_key(schema: type[dy.Schema]) -> type[dy.Schema]:
    """The same schema but for the rule that keys are unique."""
    columns = {name: copy(column) for name, column in schema.columns().items()}
    for column in columns.values():
        column.primary_key = False
    return type(schema.__name__, (schema,), columns)


ORDER = (
    "load",
    "generate",
    "pair",
    "labels",
    "judge",
    "controls",
    "aggregate",
    "measure",
    "gate",
    "select",
    "export",
    "train",
    "evaluate",
)
"""The stages, in the order in which data flows."""


ANY = "*"
"""In place of a rater's name: any one of them."""

PEOPLE = "people"
"""In place of a rater's name: the mean of the people who labelled the pair."""

LONGER = "longer"

PANEL = "panel"


THUMB = "thumb"
"""The aspect of imported feedback in the frame ``ratings``: 1 good, 0 bad."""

GOLD = "gold"
"""The annotator that stands for a known answer, and the queue such labels are in."""
