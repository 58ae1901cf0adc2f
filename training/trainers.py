"""TRL's trainers, fed with rows that are tokens already. Importing this imports TRL: methods do so when they train."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import trl as library
from torch.nn.functional import logsigmoid

from training.prefix import TOLERANCE, SharedPrefix, difference
from training.reference import References, row_key
from training.rows import IGNORED

trl: Any = library
CHANCE = "p_chosen"
"""Column of the chance that people prefer the chosen answer."""


class Tokenised:
    """A trainer whose rows are tokens already, and whose reference is asked only for rows that are new to it."""

    logps: tuple[str, str]
    """Columns that the reference fills."""
    sides: tuple[str, ...]
    """Columns of tokens that decide them."""

    def __init__(self, *, references: References, **made: Any) -> None:
        self.references = references
        cast("Any", super()).__init__(**made)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
        del processing_class, args, name
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        kind = [self.logps, getattr(self, "ld_alpha", None)]
        keys = [row_key(kind, *(row[side] for side in self.sides)) for row in dataset]
        known = self.references.known(keys)
        new = [at for at, key in enumerate(keys) if key not in known]
        if new:
            made = cast("Any", super())._precompute_ref_logps(dataset.select(new), name, batch_size)
            pairs = zip(made[self.logps[0]], made[self.logps[-1]], strict=True)
            found = {keys[at]: pair for at, pair in zip(new, pairs, strict=True)}
            self.references.add(found)
            known |= found
        for at, column in enumerate(self.logps):
            dataset = dataset.add_column(column, [known[key][at] for key in keys])
        return dataset


_Dpo: Any = trl.DPOTrainer
_Kto: Any = trl.KTOTrainer


class PairTrainer(Tokenised, _Dpo):
    """DPO on rows of ``prompt_ids``, ``chosen_ids``, ``rejected_ids``; with ``p_chosen``, on soft labels.

    The loss on soft labels is that of conservative DPO (Mitchell 2023) with each pair's own chance p:
    -p log s(z) - (1 - p) log s(-z), where z is beta times the difference of the log-ratios. As log s(-z) = log s(z) - z
    it is TRL's sigmoid loss and (1 - p) z.
    """

    logps = ("ref_chosen_logps", "ref_rejected_logps")
    sides = ("prompt_ids", "chosen_ids", "rejected_ids")

    def __init__(self, *, soft_weight: float = 0.0, share_prefix: bool = True, **made: Any) -> None:
        """A trainer.

        Args:
            soft_weight: of the sigmoid loss among the losses, where labels are soft.
            share_prefix: read each pair's common beginning once, where that is the same to rounding.
            made: TRL's own.
        """
        self.soft_weight = soft_weight
        self.shared: SharedPrefix | None = None
        self.plainly: str | None = None if share_prefix else "it was asked to"
        """Why batches are read as TRL reads them; None where each beginning is read once, or nothing was read yet."""
        super().__init__(**made)
        if soft_weight:
            self.data_collator = _with_chances(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        cast("Any", super())._set_signature_columns_if_needed()
        columns = cast("list[str]", self._signature_columns)
        self._signature_columns: Any = columns if CHANCE in columns else [*columns, CHANCE]

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """See TRL."""
        return cast("Any", super()).compute_ref_log_probs(self._reading(model, inputs), inputs)

    def _reading(self, model: Any, inputs: dict[str, Any]) -> Any:
        """*model* as it reads pairs: with the beginning once, if that gives what TRL's own way gives on the first."""
        if self.plainly is not None:
            return model
        if self.shared is None:
            self.shared = SharedPrefix(self.accelerator.unwrap_model(self.model))
            self.plainly = self.shared.unfit() or self._differs(self.shared, model, inputs)
        return model if self.plainly is not None else self.shared.reading(model)

    def _differs(self, shared: SharedPrefix, model: Any, inputs: dict[str, Any]) -> str | None:
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        told = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels}
        with torch.no_grad(), self.accelerator.autocast():
            plain = model(**told, use_cache=False, fused_lm_head=True)
            shared.install()
            try:
                found = difference(plain, shared.reading(model)(**told, fused_lm_head=True))
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
                shared.remove()
                return f"its code does not take it ({type(error).__name__}: {error})"
        if found <= TOLERANCE.get(plain.log_probs.dtype, 0.0):
            return None
        shared.remove()
        return f"a token's log-probability differs by {found:.2g} nats"

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        model = self._reading(model, inputs)
        if not self.soft_weight:
            return cast("Any", super())._compute_loss(model, inputs, return_outputs)
        heard: list[Any] = []

        def listening(**arguments: Any) -> Any:
            outputs = model(**arguments)
            heard.append(outputs.log_probs)
            return outputs

        theirs = {name: value for name, value in inputs.items() if name != CHANCE}
        loss = cast("Any", super())._compute_loss(listening, theirs, return_outputs)
        chosen, rejected = heard[0].sum(dim=1).chunk(2)
        z = self.beta * ((chosen - inputs[self.logps[0]]) - (rejected - inputs[self.logps[1]]))
        return loss + self.soft_weight * ((1 - inputs[CHANCE]) * z).mean()


def soft_loss(z: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """The loss on soft labels of each pair, by its formula."""
    return -chance * logsigmoid(z) - (1 - chance) * logsigmoid(-z)


def _with_chances(collate: Any) -> Any:
    def collated(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(rows), CHANCE: torch.tensor([row[CHANCE] for row in rows], dtype=torch.float32)}

    return collated


class AnswerTrainer(Tokenised, _Kto):
    """KTO on rows of ``prompt_ids``, ``completion_ids``, ``label``, in the order given."""

    logps = ("ref_logps", "ref_KL_logps")
    sides = ("prompt_ids", "completion_ids", "KL_completion_ids")

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
        del processing_class, name
        if not self.calculate_KL:
            self.logps, self.sides = (self.logps[0],), self.sides[:2]  # pyright: ignore[reportAttributeAccessIssue]
            return dataset
        wrong = mismatched(dataset["completion_ids"], int(args.per_device_train_batch_size))
        return dataset.add_column("KL_completion_ids", wrong)


def mismatched(answers: Sequence[list[int]], size: int) -> list[list[int]]:
    """For each row another row's answer: the one before it in its batch of *size*, as TRL's KTO has it.

    A last batch of one row would be paired with itself, which estimates nothing: it takes the row before.
    """
    found = [answers[at - 1] if at % size else answers[min(at + size, len(answers)) - 1] for at in range(len(answers))]
    if len(answers) > 1 and len(answers) % size == 1:
        found[-1] = answers[-2]
    return found


def experimental(name: str) -> tuple[Any, Any]:
    """(trainer, config) of the method *name* in TRL's experimental part, whose rows are tokens already.

    Raises:
        ImportError, AttributeError: this TRL has none.
    """
    import importlib

    module: Any = importlib.import_module(f"trl.experimental.{name.lower()}")
    base: Any = getattr(module, f"{name}Trainer")

    class Trainer(base):
        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            del model
            prompt = feature["prompt_ids"]
            row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
            for side in ("chosen", "rejected"):
                tokens = prompt + feature[f"{side}_ids"]
                row[f"{side}_input_ids"] = tokens
                row[f"{side}_attention_mask"] = [1] * len(tokens)
                row[f"{side}_labels"] = [IGNORED] * len(prompt) + feature[f"{side}_ids"]
            return row

    return Trainer, getattr(module, f"{name}Config")
