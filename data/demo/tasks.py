"""The demo's help desk: facts of a small shop, questions about them, answers in every style, and the check.

The facts are the table that :func:`facts` makes; the demo's models are trained to know them, and :func:`verify` is the
program behind the demo's ``verifier`` judge. Pure: every draw comes from the generator that the caller passes in; no
file is read or written.
"""

import json
import random
import re
from dataclasses import dataclass
from typing import Final, Literal, cast

Tone = Literal["friendly", "neutral", "curt"]

PRODUCTS: Final = (
    *("kettle", "lamp", "chair", "phone", "jacket", "blender", "camera", "router", "desk", "tent"),
    *("watch", "rug", "mixer", "speaker", "heater", "toaster", "guitar", "scarf", "monitor", "drill"),
)
VALUES: Final[dict[str, tuple[str, ...]]] = {
    "warranty": ("one year", "two years", "three years", "five years"),
    "price": tuple(f"{euros} euros" for euros in (15, 20, 25, 30, 40, 50, 60, 80)),
    "colour": ("red", "blue", "green", "black", "white", "grey"),
    "delivery": tuple(f"{days} days" for days in (2, 3, 4, 5, 6, 7)),
    "return": tuple(f"{days} days" for days in (10, 14, 21, 30)),
}
"""What a fact of each kind can be. Naming any but the right one contradicts it."""
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "warranty": (
        "How long is the warranty of the {}?",
        "For how long is the {} under warranty?",
        "What warranty does the {} have?",
        "How many years of warranty come with the {}?",
    ),
    "price": (
        "What does the {} cost?",
        "How much is the {}?",
        "What is the price of the {}?",
        "How much do I pay for the {}?",
    ),
    "colour": (
        "Which colour is the {}?",
        "What colour does the {} come in?",
        "In which colour do you sell the {}?",
        "Can you tell me the colour of the {}?",
    ),
    "delivery": (
        "How long does delivery of the {} take?",
        "How soon can the {} be delivered?",
        "How many days does shipping of the {} take?",
        "What is the delivery time of the {}?",
    ),
    "return": (
        "How long may I return the {}?",
        "Until when can I send back the {}?",
        "What is the return window of the {}?",
        "How many days do I have to return the {}?",
    ),
}
OPENERS: Final = (
    "",
    "Hello. ",
    "Hi there. ",
    "I have a question. ",
    "I am thinking of buying one. ",
    "Just wondering. ",
)
SENTENCES: Final[dict[str, tuple[str, ...]]] = {
    "warranty": ("The warranty of the {p} lasts {v}.", "It has a warranty of {v}."),
    "price": ("The {p} costs {v}.", "It costs {v}."),
    "colour": ("The {p} is {v}.", "It is {v}."),
    "delivery": ("The {p} arrives within {v}.", "It arrives within {v}."),
    "return": ("The {p} can be returned for {v}.", "It can be returned for {v}."),
}
FRIENDLY_OPENINGS: Final = ("Happy to help!", "Great question!", "Thanks for asking!")
CURT_OPENINGS: Final = ("Obviously.", "Pay attention.", "Read the page next time.")
PADDING_BEFORE: Final = (
    "We have received your message about this matter and our team has looked into it in full detail.",
    "We have read your message about this matter with care before we come to the point.",
)
PADDING_AFTER: Final = (
    "Please keep this message with your other documents so that you can come back to it later on.",
    "As always, all of this is subject to the general terms that apply to every order in our shop.",
)
FORGOTTEN: Final = 0.25
"""Share of the facts that the student has half forgotten: it mostly gives one certain wrong value."""


@dataclass(frozen=True)
class Task:
    """One question: what is asked about which product, and the right answer."""

    kind: str
    product: str
    question: str
    answer: str

    @property
    def reference(self) -> str:
        """What :func:`verify` reads: the kind and the right answer as compact JSON."""
        return json.dumps({"task": self.kind, "answer": self.answer}, separators=(",", ":"))


@dataclass(frozen=True)
class Style:
    """How an answer is given."""

    verbose: bool
    tone: Tone


def facts() -> dict[tuple[str, str], str]:
    """(kind, product) -> value: what is true of the shop."""
    rng = random.Random("the shop")  # noqa: S311
    return {(kind, product): rng.choice(VALUES[kind]) for kind in VALUES for product in PRODUCTS}


FACTS: Final = facts()


def draw_task(rng: random.Random, kind: str | None = None) -> Task:
    """One question about one fact, of any kind with equal chance unless *kind* names one."""
    kind, product = kind or rng.choice(tuple(VALUES)), rng.choice(PRODUCTS)
    question = rng.choice(OPENERS) + rng.choice(QUESTIONS[kind]).format(product)
    return Task(kind, product, question, FACTS[kind, product])


def draw_style(rng: random.Random) -> Style:
    """Verbose half the time, and then in a neutral tone; otherwise friendly, neutral or curt."""
    if rng.random() < 0.5:  # noqa: PLR2004  half the time
        return Style(verbose=True, tone="neutral")
    return Style(verbose=False, tone=rng.choices(("friendly", "neutral", "curt"), weights=(4, 3, 3))[0])


def draw_value(task: Task, rng: random.Random) -> str:
    """What the student says: right about two times in three, less often where it has half forgotten the fact."""
    wrong = [value for value in VALUES[task.kind] if value != task.answer]
    own = random.Random(f"{task.kind} {task.product}")  # noqa: S311
    misremembered = own.choice(wrong)
    if own.random() < FORGOTTEN:
        return rng.choices((task.answer, misremembered, rng.choice(wrong)), weights=(40, 50, 10))[0]
    return rng.choices((task.answer, rng.choice(wrong)), weights=(72, 28))[0]


def write_answer(task: Task, value: str, style: Style, rng: random.Random) -> str:
    """An answer that gives *value*, in *style*."""
    parts = [rng.choice(SENTENCES[task.kind]).format(p=task.product, v=value)]
    if style.verbose:
        parts = [rng.choice(PADDING_BEFORE), *parts, rng.choice(PADDING_AFTER)]
    if style.tone != "neutral":
        parts.insert(0, rng.choice(FRIENDLY_OPENINGS if style.tone == "friendly" else CURT_OPENINGS))
    return " ".join(parts)


def verify(reference: str, completion: str) -> float:
    """1.0 where *completion* gives the answer in *reference* and no other, else 0.0; never raises.

    The answer must stand there as whole words, in any case. Another value of the same kind beside it makes it wrong:
    guessing twice is no answer. A reference that no task wrote is taken as the words that must occur.
    """
    kind, answer = _read(reference)
    if not answer or not _says(completion, answer):
        return 0.0
    return float(not any(_says(completion, rival) for rival in VALUES.get(kind, ()) if rival != answer))


def _read(reference: str) -> tuple[str, str]:
    """The kind and the answer that a reference holds; any other text is an answer without a kind."""
    try:
        payload: object = json.loads(reference)
    except (ValueError, RecursionError):
        payload = None
    fields = cast("dict[str, object]", payload) if isinstance(payload, dict) else {}
    kind, answer = fields.get("task"), fields.get("answer")
    return (kind, answer) if isinstance(kind, str) and isinstance(answer, str) else ("", reference.strip())


def _says(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
