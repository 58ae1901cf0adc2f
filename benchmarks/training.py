"""How much less CPU does DPO here take than plain TRL, for the same result?

    python benchmarks/training.py [--pairs 48] [--epochs 3] [--json]; --help for the rest

Both sides train a LoRA adapter (r = 64) on the shipped student, one thread, float32, no checkpointing, in turns in one
process: TRL's DPOTrainer as it comes but for bf16 and checkpointing, and ours, reference pass included. Pairs are the
student's own answers to the demo's prompts; `equal` puts talk of the answers' length before each prompt, `long` four
times as much. `sweep` is eight runs over beta and rate. The last line is JSON: `ratio_to_trl` is TRL's CPU seconds over
ours, tokenising and reference pass included and loading the model not (`ratio_with_loading` has it);
`margin_difference` is that of the margins on the held-out pairs, both measured TRL's way.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
import transformers

ROOT = Path(__file__).parents[1]
# A script finds its own folder; the flat packages lie one up.
sys.path.insert(0, str(ROOT))

from pipeline import ids  # noqa: E402
from pipeline.config import ModelConfig  # noqa: E402
from pipeline.engines.base import Request  # noqa: E402
from pipeline.engines.local_models import load_model, quiet  # noqa: E402
from pipeline.engines.transformers import TransformersEngine  # noqa: E402
from training.base import Lesson  # noqa: E402
from training.methods.dpo import DpoMethod  # noqa: E402
from training.prefix import difference  # noqa: E402

STUDENT = str(ROOT / "data" / "models" / "student")
TALK = {"short": 0, "equal": 1, "long": 4}
"""Talk before the prompt, in lengths of the answers."""
HELD_OUT = 8
BATCH, RATE, BETA = 8, 2e-4, 0.1
SWEEP = [(beta, rate) for beta in (0.1, 0.2, 0.3, 0.5) for rate in (1e-4, 2e-4)]
Row = dict[str, Any]


def pairs(count: int) -> list[Row]:
    """Two different answers of the student to each of *count* prompts of the demo."""
    lines = (ROOT / "data" / "demo" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [str(json.loads(line)["messages"][0]["content"]) for line in lines[: 2 * count]]
    toolbox: Any = None
    engine = TransformersEngine(ModelConfig(model=STUDENT, engine="transformers", max_tokens=64), toolbox)
    asked = [(question, at) for question in questions for at in range(2)]
    answers = engine.complete(
        [Request((("user", question),), 64, 1.0, 1.0, ids.seed_from(7, question, at)) for question, at in asked],
        lambda _: None,
    )
    texts = [answer.text or "" for answer in answers]
    found = [
        row(question, texts[2 * at], texts[2 * at + 1])
        for at, question in enumerate(questions)
        if texts[2 * at] and texts[2 * at + 1] and texts[2 * at] != texts[2 * at + 1]
    ]
    return found[:count]


def row(question: str, chosen: str, rejected: str) -> Row:
    """One pair as the export `trl_dpo` has it."""
    return {
        "pair_id": ids.content_hash(question, chosen, rejected),
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "p_chosen": 0.8,
    }


def with_talk(rows: list[Row], times: int) -> list[Row]:
    """*rows* with *times* the length of their answers of other answers' words before the question."""
    words = " ".join(each["chosen"][0]["content"] for each in rows).split()
    made: list[Row] = []
    for each in rows:
        answers = [each[side][0]["content"] for side in ("chosen", "rejected")]
        length = times * sum(len(answer.split()) for answer in answers) // 2
        drawn = random.Random(each["pair_id"]).choices(words, k=length)  # noqa: S311
        made.append(row(" ".join([*drawn, each["prompt"][0]["content"]]), *answers))
    return made


def lesson(folder: Path, rows: list[Row], held_out: list[Row]) -> Lesson:
    """The rows as a run's dataset in *folder*."""
    place = folder / "dataset" / "trl_dpo"
    place.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(place / "train.parquet")
    pl.DataFrame(held_out).write_parquet(place / "test.parquet")
    checkpoints = folder / "training" / str(time.monotonic_ns())
    return Lesson(folder / "dataset", STUDENT, 5, checkpoints, folder / "reference", lambda _: None)


def ours(told: Lesson, epochs: float, beta: float = BETA, rate: float = RATE) -> Callable[[], Any]:
    """What trains, and gives the trainer back."""
    options = {"batch_size": BATCH, "gradient_accumulation": 1, "epochs": epochs, "beta": beta, "learning_rate": rate}
    method = DpoMethod(DpoMethod.Options.model_validate({**options, "save_steps": 10_000}))

    def train() -> Any:
        trainer, _, _ = method.trainer(told)
        trainer.train()
        return trainer

    return train


def theirs(rows: list[Row], folder: Path, epochs: float, beta: float = BETA, rate: float = RATE) -> Callable[[], Any]:
    """The same by TRL's own trainer."""
    import datasets
    import peft
    import trl

    library: Any = trl
    untyped: Any = datasets

    def train() -> Any:
        model, tokenizer = load_model(STUDENT)
        arguments = library.DPOConfig(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=rate,
            beta=beta,
            warmup_steps=0.1,
            max_length=1024,
            save_strategy="no",
            seed=5,
            data_seed=5,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = library.DPOTrainer(
            model=model,
            args=arguments,
            train_dataset=untyped.Dataset.from_list(
                [{name: each[name] for name in ("prompt", "chosen", "rejected")} for each in rows]
            ),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(r=64, lora_alpha=128, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return trainer

    return train


def margin(trainer: Any, held_out: list[Row]) -> float:
    """The margin on *held_out*, TRL's way on both sides."""
    import datasets

    untyped: Any = datasets
    if hasattr(trainer, "plainly"):
        trainer.plainly = "measured TRL's way"
        rows = [
            {name: each[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
            for each in tokens(trainer, held_out)
        ]
    else:
        rows = [{name: each[name] for name in ("prompt", "chosen", "rejected")} for each in held_out]
    return float(trainer.evaluate(untyped.Dataset.from_list(rows))["eval_rewards/margins"])


def tokens(trainer: Any, rows: list[Row]) -> list[Row]:
    """*rows* as tokens."""
    from training.rows import pair_tokens

    return [pair_tokens(trainer.processing_class, each) for each in rows]


def logprob_difference(trainer: Any) -> float:
    """Largest difference of a token's log-probability between both ways, on one batch of the trained model, nats."""
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    told = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    with torch.no_grad():
        plain = trainer.model(**told, use_cache=False, fused_lm_head=True)
        return difference(plain, trainer.shared.reading(trainer.model)(**told, fused_lm_head=True))


def spent(train: Callable[[], Any]) -> tuple[Any, float]:
    """(what it made, CPU seconds)."""
    started = time.process_time()
    return train(), time.process_time() - started


def case(rows: list[Row], epochs: float, rounds: int, folder: Path) -> dict[str, float]:
    """Both sides in turns on *rows*; the last HELD_OUT of them are measured on."""
    train, held_out = rows[:-HELD_OUT], rows[-HELD_OUT:]
    seconds: dict[str, list[float]] = {"trl": [], "ours": []}
    found: dict[str, float] = {}
    for turn in range(rounds):
        # Nothing that an earlier turn computed is found again.
        place = folder / str(turn)
        other, cpu = spent(theirs(train, place / "trl", epochs))
        seconds["trl"].append(cpu)
        mine, cpu = spent(ours(lesson(place, train, held_out), epochs))
        seconds["ours"].append(cpu)
        found["max_logprob_difference"] = logprob_difference(mine)
        found["margin"] = margin(other, held_out)
        found["margin_difference"] = abs(margin(mine, held_out) - found["margin"])
    best = {side: min(each) for side, each in seconds.items()}
    _, loading = spent(lambda: load_model(STUDENT))
    return {
        "ratio_to_trl": (best["trl"] - loading) / (best["ours"] - loading),
        "ratio_with_loading": best["trl"] / best["ours"],
        **{f"{side}_cpu_s": cpu for side, cpu in best.items()},
        **found,
    }


def sweep(rows: list[Row], folder: Path) -> dict[str, float]:
    """Eight runs of one epoch over beta and rate, by both sides."""
    train, held_out = rows[:-HELD_OUT], rows[-HELD_OUT:]
    theirs_s = ours_s = 0.0
    for beta, rate in SWEEP:
        theirs_s += spent(theirs(train, folder / "trl", 1, beta, rate))[1]
        ours_s += spent(ours(lesson(folder / "ours", train, held_out), 1, beta, rate))[1]
    return {"ratio_to_trl": theirs_s / ours_s, "trl_cpu_s": theirs_s, "ours_cpu_s": ours_s}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=48, help="pairs of the short case; the others take fewer")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=1, help="turns; the least of each side counts")
    parser.add_argument("--cases", nargs="*", default=[*TALK, "sweep"])
    parser.add_argument("--json", action="store_true", help="only the last line")
    given = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    rows = pairs(given.pairs + HELD_OUT)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.cases:
            folder = Path(temporary) / name
            if name == "sweep":
                found[name] = sweep(rows[: given.pairs // 2 + HELD_OUT], folder)
            else:
                count = given.pairs // (1 + TALK[name] // 2) + HELD_OUT
                found[name] = case(with_talk(rows[:count], TALK[name]), given.epochs, given.rounds, folder)
            if not given.json:
                print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in found[name].items())}", flush=True)
    found["max_logprob_difference"] = max(each.get("max_logprob_difference", 0.0) for each in found.values())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
