"""What practice supports, and a warning in words for what lies outside of it. Pure.

Ranges are those of the papers and recipes named beside them. Outside of them a training may still be right; it is
then the first thing to doubt.
"""

from dataclasses import dataclass
from typing import Any

LORA, FULL = "an adapter", "all weights"
ZEPHYR = "Tunstall et al. 2023, arXiv:2310.16944"
TULU = "Lambert et al. 2024, arXiv:2411.15124"
DPO = "Rafailov et al. 2023, arXiv:2305.18290"
SIMPO = "Meng et al. 2024, arXiv:2405.14734"
KTO = "Ethayarajh et al. 2024, arXiv:2402.01306"
ORPO = "Hong et al. 2024, arXiv:2403.07691"
REGRET = "Schulman et al. 2025, LoRA Without Regret: ten times the rate of all weights"
QLORA = "Dettmers et al. 2023, arXiv:2305.14314"


@dataclass(frozen=True, slots=True)
class Usual:
    """The range of one key that practice supports."""

    key: str
    low: float
    high: float
    source: str
    methods: frozenset[str] = frozenset()
    """Methods it holds for; none: all that have the key and no entry of their own."""
    trains: str | None = None
    """`LORA`, `FULL`, or either."""


_PAIRS = frozenset({"dpo", "step_dpo", "kto", "orpo", "simpo"})
_LIKE_DPO = frozenset({"dpo", "step_dpo", "kto"})
_SIMPO, _ORPO, _SFT, _REWARD = (frozenset({name}) for name in ("simpo", "orpo", "sft", "reward"))
TABLE = (
    Usual("learning_rate", 1e-5, 5e-5, REGRET, _PAIRS, LORA),
    Usual("learning_rate", 1e-7, 5e-6, f"{DPO}; {ZEPHYR}; {TULU}", _LIKE_DPO, FULL),
    Usual("learning_rate", 3e-7, 1e-6, SIMPO, _SIMPO, FULL),
    Usual("learning_rate", 5e-6, 1e-5, ORPO, _ORPO, FULL),
    Usual("learning_rate", 1e-5, 4e-4, f"{QLORA}; {REGRET}", _SFT, LORA),
    Usual("learning_rate", 2e-6, 4e-5, f"{ZEPHYR}; {TULU}", _SFT, FULL),
    Usual("learning_rate", 1e-5, 1e-4, REGRET, _REWARD, LORA),
    Usual("learning_rate", 1e-6, 2e-5, "Stiennon et al. 2020, arXiv:2009.01325", _REWARD, FULL),
    Usual("beta", 0.1, 0.5, DPO, _LIKE_DPO),
    Usual("beta", 2.0, 10.0, SIMPO, _SIMPO),
    Usual("gamma", 0.3, 5.0, SIMPO, _SIMPO),
    Usual("beta", 0.1, 0.25, ORPO, _ORPO),
    Usual("epochs", 1, 3, f"{ZEPHYR}; {TULU}"),
    Usual("warmup_ratio", 0.05, 0.15, f"{ZEPHYR}; {TULU}"),
    Usual("effective batch", 32, 128, f"{DPO}; {ZEPHYR}; {TULU}"),
    Usual("lora.r", 64, 128, "the recipes of Zephyr's authors, huggingface/alignment-handbook"),
)
LOSSES = {
    "ipo": Usual("beta", 0.01, 0.5, "Azar et al. 2023, arXiv:2310.12036, where it is called tau"),
    "sigmoid_norm": Usual("beta", 2.0, 10.0, f"{TULU}, on mean log-probabilities"),
}
"""Losses whose beta is on a scale of its own."""


def warnings(options: Any, rate: float, rows: int) -> list[str]:
    """One sentence for every option outside of what practice supports.

    Args:
        options: a ``TrlOptions``.
        rate: the peak rate that is used.
        rows: of the train split.
    """
    trains = FULL if options.lora is None else LORA
    batch = options.batch_size * options.gradient_accumulation
    values = {
        "learning_rate": rate,
        "epochs": options.epochs if options.max_steps is None else None,
        "warmup_ratio": options.warmup_ratio,
        "effective batch": batch,
        "beta": getattr(options, "beta", None),
        "gamma": getattr(options, "gamma", None),
        "lora.r": None if options.lora is None else options.lora.r,
    }
    found: list[str] = []
    if rows < batch:
        found.append(
            f"the train split has {rows} rows, fewer than one step takes ({batch}); keep more "
            "pairs, or lower train.batch_size times train.gradient_accumulation"
        )
    for key, value in values.items():
        usual = _usual(key, options, trains)
        if value is not None and usual is not None and not usual.low <= value <= usual.high:
            at = f" for {trains}" if usual.trains else ""
            found.append(
                f"train.{key} is {value:g}; practice with {options.method}{at} is {usual.low:g} to {usual.high:g} "
                f"({usual.source})"
            )
    return found


def _usual(key: str, options: Any, trains: str) -> Usual | None:
    if key == "beta":
        own = [LOSSES[name] for name in getattr(options, "weights", {}) if name in LOSSES]
        if own:
            return own[0]
    fitting = [each for each in TABLE if each.key == key and each.trains in {None, trains}]
    return next(
        (each for each in fitting if options.method in each.methods), next((e for e in fitting if not e.methods), None)
    )
