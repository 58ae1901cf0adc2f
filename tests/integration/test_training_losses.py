"""Every loss against its paper's formula, written out here, and against TRL's value on the same log-probabilities."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.integration.test_training import lesson, row, write
from tests.tiny_models import tiny_model
from training import losses
from training.methods.dpo import DpoMethod
from training.methods.kto import KtoMethod
from training.methods.orpo import OrpoMethod
from training.methods.simpo import SimpoMethod
from training.trainers import CHANCE, soft_loss

BETA, EPSILON, TAU = 0.3, 0.1, 0.05
# Two pairs: the tokens of chosen and rejected answers, log-probabilities under the model; under the reference, summed.
CHOSEN, REJECTED = ((-0.5, -1.0, -0.2), (-2.0, -0.7)), ((-1.5, -0.3), (-0.1, -0.4, -2.5))
REFERENCE = ((-2.0, -2.5), (-1.2, -3.5))
LENGTHS = ((3, 2), (2, 3))
PI_C, PI_R = [sum(each) for each in CHOSEN], [sum(each) for each in REJECTED]
"""-1.7, -2.7 and -1.8, -3.0; so the log-ratios are .3, -.2 and -.6, .5."""
C = [own - reference for own, reference in zip(PI_C, REFERENCE[0], strict=True)]
R = [own - reference for own, reference in zip(PI_R, REFERENCE[1], strict=True)]
Z = [BETA * (c - r) for c, r in zip(C, R, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nls(x: float) -> float:
    """-log sigmoid(x)."""
    return math.log1p(math.exp(-x))


def mean(of: Callable[..., float], *columns: Sequence[float]) -> float:
    values = [of(*row) for row in zip(*columns, strict=True)]
    return sum(values) / len(values)


def aot(first: Sequence[float], second: Sequence[float]) -> float:
    """Melnyk et al. 2024, arXiv:2406.05882: sorted quantile by quantile, with smoothing."""
    z = [BETA * (a - b) for a, b in zip(sorted(first), sorted(second), strict=True)]
    return mean(lambda x: (1 - EPSILON) * nls(x) + EPSILON * nls(-x), z)


def discopop(z: float) -> float:
    """Lu et al. 2024, arXiv:2406.08414, eq. 5: logistic and exponential, mixed by sigmoid(z / tau)."""
    share = sigmoid(z / TAU)
    return (1 - share) * nls(z) + share * math.exp(-z)


FORMULAS: dict[str, float] = {
    # Rafailov et al. 2023, arXiv:2305.18290, eq. 7
    "sigmoid": mean(nls, Z),
    # Zhao et al. 2023, arXiv:2305.10425 (SLiC)
    "hinge": mean(lambda z: max(0.0, 1 - z), Z),
    # Azar et al. 2023, arXiv:2310.12036, eq. 17, on means over tokens as its authors used it
    "ipo": mean(lambda c, r, n, m: (c / n - r / m - 1 / (2 * BETA)) ** 2, C, R, LENGTHS[0], LENGTHS[1]),
    # Ji et al. 2024, arXiv:2402.00856, eq. 16: KL of (s(z), s(-z)) from (1 - e, e)
    "exo_pair": mean(
        lambda z: (
            sigmoid(z) * (math.log(sigmoid(z)) - math.log(1 - EPSILON))
            + sigmoid(-z) * (math.log(sigmoid(-z)) - math.log(EPSILON))
        ),
        Z,
    ),
    # Chen et al. 2024, arXiv:2402.05369
    "nca_pair": mean(lambda c, r: nls(BETA * c) + nls(-BETA * c) / 2 + nls(-BETA * r) / 2, C, R),
    # Chowdhury et al. 2024, arXiv:2403.00409, eq. 8
    "robust": mean(lambda z: ((1 - EPSILON) * nls(z) - EPSILON * nls(-z)) / (1 - 2 * EPSILON), Z),
    # Jung et al. 2024, arXiv:2404.04656, without the shift
    "bco_pair": mean(lambda c, r: nls(BETA * c) + nls(-BETA * r), C, R),
    # Wu et al. 2024, arXiv:2405.00675, eq. 4.7 with P = 1 and 0
    "sppo_hard": mean(lambda c, r: (c - 1 / (2 * BETA)) ** 2 + (r + 1 / (2 * BETA)) ** 2, C, R),
    "aot": aot([c - r for c, r in zip(PI_C, PI_R, strict=True)], [c - r for c, r in zip(*REFERENCE, strict=True)]),
    "aot_unpaired": aot(C, R),
    # D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7 and 8
    "apo_zero": mean(lambda c, r: 1 - sigmoid(BETA * c) + sigmoid(BETA * r), C, R),
    "apo_down": mean(lambda c, z: sigmoid(BETA * c) + 1 - sigmoid(z), C, Z),
    "discopop": mean(discopop, Z),
    # likelihood of the chosen answers, mean over their five tokens: 4.4 / 5
    "sft": 0.88,
    # Lambert et al. 2024, arXiv:2411.15124, eq. 6: DPO on means over tokens
    "sigmoid_norm": mean(lambda c, r, n, m: nls(BETA * (c / n - r / m)), C, R, LENGTHS[0], LENGTHS[1]),
}


def padded(answers: Sequence[Sequence[float]]) -> list[list[float]]:
    """After a prompt of two tokens: one position without a label, then the answer, then nothing."""
    return [[0.0, *answer, *[0.0] * (3 - len(answer))] for answer in answers]


def batch(**more: Any) -> dict[str, Any]:
    lengths = [*LENGTHS[0], *LENGTHS[1]]
    mask = torch.tensor([[0, 0, *[1] * length, *[0] * (3 - length)] for length in lengths])
    return {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.tensor([[1, 1, *row[2:]] for row in mask.tolist()]),
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor(REFERENCE[0]),
        "ref_rejected_logps": torch.tensor(REFERENCE[1]),
        **more,
    }


def says(log_probs: torch.Tensor) -> Callable[..., Any]:
    """A model that has these log-probabilities, whatever it is asked."""
    other = torch.zeros_like(log_probs)
    outputs = SimpleNamespace(
        log_probs=log_probs, entropy=other, mean_logits=other, is_top1=other.bool(), log_sum_sq_probs=other
    )
    return lambda **_: outputs


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


def made(kind: Any, student: str, folder: Path, **options: Any) -> Any:
    write(folder, [row(at) for at in range(4)], [])
    settings = {"batch_size": 4, "beta": BETA, "lora": {"r": 2}, **options}
    return kind(kind.Options.model_validate(settings)).trainer(lesson(folder / "dataset", student))[0]


@pytest.fixture(scope="module")
def dpo(student: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(
        DpoMethod, student, tmp_path_factory.mktemp("dpo"), loss="aot", label_smoothing=EPSILON, share_prefix=False
    )


def value(trainer: Any, model: Any, inputs: dict[str, Any], **changes: Any) -> float:
    saved = {name: getattr(trainer, name) for name in changes}
    vars(trainer).update(changes)
    try:
        return float(trainer._compute_loss(model, inputs, False))
    finally:
        vars(trainer).update(saved)


@pytest.mark.parametrize("name", losses.known("dpo"))
def test_a_loss_is_its_papers_formula(dpo: Any, name: str) -> None:
    assert name in FORMULAS, f"TRL has a new loss {name!r}: write its formula down here"
    model = says(torch.tensor(padded([*CHOSEN, *REJECTED])))
    found = value(dpo, model, batch(), loss_types=[name], loss_weights=[1.0])
    assert found == pytest.approx(FORMULAS[name], rel=1e-5)


def test_a_sum_of_losses_is_their_weighted_sum(dpo: Any) -> None:
    model = says(torch.tensor(padded([*CHOSEN, *REJECTED])))
    found = value(dpo, model, batch(), loss_types=["sigmoid", "sft"], loss_weights=[0.8, 0.2])
    assert found == pytest.approx(0.8 * FORMULAS["sigmoid"] + 0.2 * 0.88, rel=1e-5)


def test_soft_labels_are_conservative_dpo_with_each_pairs_own_chance(dpo: Any) -> None:
    model = says(torch.tensor(padded([*CHOSEN, *REJECTED])))
    changes = {"loss_types": ["sigmoid", "sft"], "loss_weights": [0.5, 0.2], "soft_weight": 0.5}
    found = value(dpo, model, batch(**{CHANCE: torch.tensor([0.9, 0.6])}), **changes)
    # -p log s(z) - (1 - p) log s(-z) (Mitchell 2023, with p for 1 - epsilon)
    soft = mean(lambda z, p: p * nls(z) + (1 - p) * nls(-z), Z, [0.9, 0.6])
    assert found == pytest.approx(0.5 * soft + 0.2 * 0.88, rel=1e-5)
    assert soft_loss(torch.tensor(Z), torch.tensor([0.9, 0.6])).mean().item() == pytest.approx(soft, rel=1e-5)
    certain = value(dpo, model, batch(**{CHANCE: torch.ones(2)}), loss_types=["sigmoid"], loss_weights=[1.0])
    assert certain == pytest.approx(FORMULAS["sigmoid"], rel=1e-5)


def test_weights_and_lengths(dpo: Any) -> None:
    model = says(torch.tensor(padded([*CHOSEN, *REJECTED])))
    # WPO (arXiv:2406.11827, eq. 2): each pair's loss times the mean likelihoods of its two answers; the correction by
    # the sum of squared probabilities is 0 here.
    weights = [math.exp(c / n + r / m) for c, r, n, m in zip(PI_C, PI_R, *LENGTHS, strict=True)]
    found = value(dpo, model, batch(), loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=True)
    assert found == pytest.approx(mean(lambda z, w: nls(z) * w, Z, weights), rel=1e-5)
    # LD-DPO (arXiv:2409.06411): beyond the two tokens that both answers have, tokens count half. First chosen:
    # -1.5 - .2 / 2 = -1.6, second rejected: -.5 - 2.5 / 2 = -1.75.
    z = [BETA * ((-1.6 + 2.0) - (-1.8 + 1.2)), BETA * ((-2.7 + 2.5) - (-1.75 + 3.5))]
    found = value(dpo, model, batch(), loss_types=["sigmoid"], loss_weights=[1.0], ld_alpha=0.5)
    assert found == pytest.approx(mean(nls, z), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("forward_kl", lambda x: 1 - math.exp(-x)),
        ("js_divergence", lambda x: math.log(2 * math.exp(x) / (math.exp(x) + 1))),
        ("alpha_divergence", lambda x: (math.exp(-x / 2) - 1) / (-1 / 2)),
    ],
)
def test_f_divergences(dpo: Any, name: str, score: Callable[[float], float]) -> None:
    # Wang et al. 2023, arXiv:2309.16240, table 1: the rewards are f'(ratio).
    model = says(torch.tensor(padded([*CHOSEN, *REJECTED])))
    found = value(dpo, model, batch(), loss_types=["sigmoid"], loss_weights=[1.0], f_divergence_type=name)
    assert found == pytest.approx(mean(lambda c, r: nls(BETA * (score(c) - score(r))), C, R), rel=1e-5)


def test_kto_is_its_papers_formula(student: str, tmp_path: Path) -> None:
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.7}
    trainer = made(KtoMethod, student, tmp_path, **weights)
    answers = [*CHOSEN, *REJECTED]
    wrong = [-4.0, -3.0, -2.0, -1.0]
    mask = batch()["completion_mask"]
    inputs = {
        **{name: batch()[name] for name in ("input_ids", "attention_mask", "completion_mask")},
        **{f"KL_{name}": batch()[name] for name in ("input_ids", "attention_mask", "completion_mask")},
        "label": torch.tensor([True, True, False, False]),
        "ref_logps": torch.tensor([*REFERENCE[0], *REFERENCE[1]]),
        "ref_KL_logps": torch.tensor([value - 0.1 for value in wrong]),
    }
    told = [torch.tensor([[value, 0.0, 0.0, 0.0] for value in wrong]), torch.tensor(padded(answers))]
    said = iter([says(each)() for each in told])
    found = float(trainer._compute_loss(lambda **_: next(said), inputs, False))
    # Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7; z0 = .1 is the mean log-ratio of the mismatched answers
    good = [1.2 * (1 - sigmoid(BETA * (c - 0.1))) for c in C]
    bad = [0.7 * (1 - sigmoid(BETA * (0.1 - r))) for r in R]
    assert mask.sum() == 10
    assert found == pytest.approx((sum(good) + sum(bad)) / 4, rel=1e-5)


def test_simpo_is_its_papers_formula(student: str, tmp_path: Path) -> None:
    trainer = made(SimpoMethod, student, tmp_path, gamma=0.6)
    assert (trainer.cpo_alpha, trainer.loss_type) == (0.0, "simpo")
    means = [
        [c / n for c, n in zip(PI_C, LENGTHS[0], strict=True)],
        [r / n for r, n in zip(PI_R, LENGTHS[1], strict=True)],
    ]
    found, _, _ = trainer.cpo_loss(torch.tensor(means[0]), torch.tensor(means[1]))
    # Meng et al. 2024, arXiv:2405.14734, eq. 6
    assert found.mean().item() == pytest.approx(mean(lambda c, r: nls(BETA * (c - r) - 0.6), *means), rel=1e-5)


def test_orpo_is_its_papers_formula(student: str, tmp_path: Path) -> None:
    trainer = made(OrpoMethod, student, tmp_path)
    chosen, rejected = [-0.4, -1.1], [-0.9, -0.7]
    found = trainer.odds_ratio_loss(torch.tensor(chosen), torch.tensor(rejected))[0]
    # Hong et al. 2024, arXiv:2403.07691, eq. 7, times lambda; TRL subtracts it from the likelihood's loss

    def odds(x: float) -> float:
        return math.exp(x) / (1 - math.exp(x))

    term = mean(lambda c, r: nls(math.log(odds(c) / odds(r))), chosen, rejected)
    assert -found.mean().item() == pytest.approx(BETA * term, rel=1e-5)
