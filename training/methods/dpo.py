"""Direct preference optimisation, by TRL: every loss that TRL has, sums of them, and soft labels of our own.

The loss of Rafailov et al. 2023 (arXiv:2305.18290) is ``sigmoid``; the reference is the model as it was before. Labels
are soft where the calibrated chance that people prefer the chosen answer (``p_chosen``) takes the place of certainty,
as in conservative DPO (Mitchell 2023), but for each pair its own: a pair that people would half disagree about pulls
half as much. ``robust`` (Chowdhury et al. 2024, arXiv:2403.00409) undoes one rate of flipped labels for all pairs
instead; the certificate says what that rate is.
"""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, Field, model_validator

from pipeline.config import Frozen
from pipeline.errors import StageError
from training import losses
from training.base import Lesson
from training.rows import Row
from training.trl import TrlMethod, TrlOptions

SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses that read TRL's ``label_smoothing``."""
EXO = 1e-3
"""Label smoothing of EXO's paper (Ji et al. 2024, arXiv:2402.00856)."""
CERTIFICATE = "certificate.json"


class SyncOptions(Frozen):
    """A reference that follows the model (TR-DPO, Gorbatovski et al. 2024, arXiv:2404.09656)."""

    every: int = Field(default=512, ge=1)
    """Steps between updates of the reference."""
    mix: float = Field(default=0.6, gt=0, le=1)
    """Share of the model in the updated reference."""


class DpoMethod(TrlMethod):
    """DPO on ``dataset/trl_dpo``."""

    class Options(TrlOptions):
        """Keys of ``method: dpo``."""

        method: str = "dpo"
        """`dpo`."""
        loss: Annotated[
            str | tuple[str, ...] | dict[str, float],
            AfterValidator(lambda given: losses.weights(given, "dpo") and given),
        ] = "sigmoid"
        """A loss of TRL's DPO by name, a list of losses, or losses with weights: `{sigmoid: 1, sft: 0.2}`."""
        beta: float = Field(default=0.1, gt=0)
        """How strongly the model is held to its reference."""
        soft_labels: bool = False
        """Let each pair's chance that people prefer the chosen answer (`p_chosen`) enter the `sigmoid` loss."""
        label_smoothing: float | Literal["certificate"] | None = None
        """Rate of flipped labels that `robust`, `exo_pair`, `aot` and `aot_unpaired` reckon with; `certificate` takes \
the share of kept pairs on which people disagree, as the gate estimated it. `robust` defaults to that."""
        use_weighting: bool = False
        """Weigh pairs by how likely the model is to write them (WPO, Zhou et al. 2024, arXiv:2406.11827)."""
        ld_alpha: float | None = Field(default=None, ge=0, le=1)
        """Weight of what the longer answer has beyond the shorter one's length (LD-DPO, Liu et al. 2024, \
arXiv:2409.06411)."""
        f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
        """What holds the model to its reference (f-DPO, Wang et al. 2023, arXiv:2309.16240)."""
        f_alpha: float = 0.5
        """Alpha of `alpha_divergence`."""
        sync_reference: SyncOptions | None = None
        """Let the reference follow the model; needs `lora: null`."""
        share_prefix: bool = True
        """Read what both answers of a pair begin with once; where that does not give what TRL gives, it is not done."""

        @property
        def weights(self) -> dict[str, float]:
            """Loss -> weight."""
            return losses.weights(self.loss, "dpo")

        @model_validator(mode="after")
        def _smoothing_is_read(self) -> "DpoMethod.Options":
            reading = [name for name in self.weights if name in SMOOTHED]
            if self.label_smoothing is not None and not reading:
                raise ValueError(
                    f"`label_smoothing` is read by {', '.join(SMOOTHED)} only, and `loss` is {self.loss!r}; for "
                    "labels that may be wrong under `sigmoid` set `soft_labels: true`, which takes each pair's own "
                    "chance (`robust` is another loss)"
                )
            return self

        @model_validator(mode="after")
        def _soft_where_it_is_defined(self) -> "DpoMethod.Options":
            others = {"use_weighting": self.use_weighting, "ld_alpha": self.ld_alpha is not None}
            others |= {"f_divergence": self.f_divergence != "reverse_kl", "sync_reference": bool(self.sync_reference)}
            if self.soft_labels and "sigmoid" not in self.weights:
                raise ValueError("`soft_labels` is a form of the loss `sigmoid`; name it in `loss`")
            if self.soft_labels and any(others.values()):
                named = ", ".join(name for name, on in others.items() if on)
                raise ValueError(f"`soft_labels` is not defined together with {named}; leave out one of them")
            if self.sync_reference is not None and self.lora is not None:
                raise ValueError("`sync_reference` needs all weights trained: set `lora: null`")
            return self

    options: Options
    refers: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        """See Method."""
        return (*super().reads, *([CERTIFICATE] if self._asks_certificate else []))

    def example(self, row: Row) -> Row:
        """See TrlMethod."""
        made = super().example(row)
        if not self.options.soft_labels:
            return made
        if row.get("p_chosen") is None:
            raise StageError(
                f"pair {row['pair_id']} of dataset/trl_dpo has no p_chosen, which `soft_labels` needs; run "
                "`jurybox export` again, or set `soft_labels: false`"
            )
        return {**made, "p_chosen": row["p_chosen"]}

    def all_arguments(self, lesson: Lesson, rows: int) -> dict[str, Any]:
        """See TrlMethod."""
        return {**super().all_arguments(lesson, rows), "label_smoothing": self.smoothing(lesson.dataset.parent)}

    def arguments(self) -> dict[str, Any]:
        """See TrlMethod."""
        options = self.options
        sync = options.sync_reference
        return {
            "loss_type": list(options.weights),
            "loss_weights": list(options.weights.values()),
            "beta": options.beta,
            "use_weighting": options.use_weighting,
            "ld_alpha": options.ld_alpha,
            "f_divergence_type": options.f_divergence,
            "f_alpha_divergence_coef": options.f_alpha,
            **({"precompute_ref_log_probs": True} if options.soft_labels else {}),
            **(
                {}
                if sync is None
                else {
                    "precompute_ref_log_probs": False,
                    "sync_ref_model": True,
                    "ref_model_sync_steps": sync.every,
                    "ref_model_mixup_alpha": sync.mix,
                }
            ),
        }

    def smoothing(self, run: Path) -> float:
        """TRL's ``label_smoothing``: given, EXO's own, or the share of kept pairs on which people disagree.

        Raises:
            StageError: the run's certificate does not say it, or says that one half or more are flipped.
        """
        given = self.options.label_smoothing
        if not self._asks_certificate:
            return float(given) if given is not None else EXO if "exo_pair" in self.options.weights else 0.0
        file = run / CERTIFICATE
        told = cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
        agreement = told.get("agreement")
        if not isinstance(agreement, int | float) or agreement <= 1 / 2:
            raise StageError(
                f"{file} does not say how far people agree with the kept pairs (agreement: {agreement}), so the rate "
                "of flipped labels is not known; run `jurybox gate` with audit labels, or set train.label_smoothing"
            )
        return 1 - float(agreement)

    def build(self, made: dict[str, Any]) -> Any:
        """See TrlMethod."""
        from training.trainers import PairTrainer, trl

        soft = self.options.weights["sigmoid"] if self.options.soft_labels else 0.0
        arguments = {**made, "args": trl.DPOConfig(**made["args"])}
        return PairTrainer(soft_weight=soft, share_prefix=self.options.share_prefix, **arguments)

    def about(self, trainer: Any) -> dict[str, Any]:
        """See TrlMethod."""
        return {"prefix_read_once": trainer.plainly is None, "why_not": trainer.plainly}

    @property
    def _asks_certificate(self) -> bool:
        given = self.options.label_smoothing
        return given == "certificate" or (given is None and "robust" in self.options.weights)
