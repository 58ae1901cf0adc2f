"""Makes what the demo runs on, from nothing: the prompts, and the tokenizer, the student and the judge.

    python data/make_models.py --prompts             data/demo/prompts.jsonl and heldout.jsonl
    python data/make_models.py                       data/models/student and data/models/judge
    python data/make_models.py --only judge          the lessons again, and one of the two

A pupil first takes lessons: short right answers, so that it knows the facts of the shop. The student is that pupil
after a training on answers in every style, a part of them wrong, so that it does not always say what it knows. The
judge is the pupil after a training on what is right, then on the prompt that every local judge reads: the demo's
rubric filled in by :mod:`judges.rendering`, under a new secret each time, with the labels of the simulated people.
No prompt of the demo is in any lesson: a task that asks one is drawn again.

Reads ``data/demo``, writes ``data/demo/*.jsonl`` or the folder that ``--out`` names, and nothing else.
Needs two CPU cores and no network. The figures it reached are in ``data/models/README.md``.
"""

# transformers, datasets and torch type many of their arguments only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

ROOT: Final = Path(__file__).resolve().parents[1]
DEMO: Final = ROOT / "data" / "demo"
# A script finds its own folder; the flat packages lie one up, what people.py imports lies beside it.
sys.path[:0] = [str(ROOT), str(DEMO)]

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from demo import tasks  # noqa: E402
from demo.people import People  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from judges.rendering import fill  # noqa: E402

DEMO_PROMPTS: Final = 400
HELDOUT_PROMPTS: Final = 300
PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
VOCABULARY: Final = 1400
CONTEXT: Final = 2048
THREADS: Final = 2
# Rows of each part of the training.
LESSONS: Final = 24_000
HABITS: Final = 18_000
GRADINGS: Final = 14_000
VERDICTS: Final = 10_000
RARE: Final = 0.03
"""How often a conversation has a system prompt, and how often a second question."""
SYSTEM_PROMPTS: Final = (
    "You are the help desk of a shop.",
    "You answer questions of customers.",
    "You are a helpful assistant.",
)
# An EOS after an assistant turn and nowhere else, so that a trainer which adds one can see it is there.
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role: ' + message['role']) -}}{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

Turn = tuple[str, str]
Row = dict[str, list[int]]


def seeded(seed: int) -> random.Random:
    """A generator of its own for each part, so that one part draws the same whatever another does."""
    return random.Random(seed)  # noqa: S311


# Prompts ----------------------------------------------------------------------------------------------


def write_prompts(seed: int) -> None:
    """Write the demo's prompts and the held-out ones: no question twice, every kind of task in both."""
    rng = seeded(seed)
    seen: set[str] = set()
    for name, count in (("prompts", DEMO_PROMPTS), ("heldout", HELDOUT_PROMPTS)):
        lines: list[str] = []
        while len(lines) < count:
            task = tasks.draw_task(rng, tuple(tasks.VALUES)[len(lines) % len(tasks.VALUES)])
            if task.question in seen:
                continue
            seen.add(task.question)
            row = {
                "messages": [{"role": "user", "content": task.question}],
                "reference": task.reference,
                "tags": [task.kind],
            }
            lines.append(json.dumps(row))
        (DEMO / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def demo_questions() -> frozenset[str]:
    """The questions that no model may be trained on."""
    return frozenset(
        str(json.loads(line)["messages"][0]["content"])
        for name in ("prompts", "heldout")
        for line in (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    )


# Tokenizer --------------------------------------------------------------------------------------------


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text encodes, the demo's words and numbers are one token each."""
    rng = seeded(seed)
    rubric = read_rubric()

    def corpus() -> Iterator[str]:
        for _ in range(6000):
            task = tasks.draw_task(rng)
            answers = [styled(task, rng) for _ in range(2)]
            yield judge_prompt(rubric, task.question, answers[0], answers[1], rng)
        # Every number as often as a common word, so that none is split into digits.
        yield from (f" {number}" for number in range(100) for _ in range(3000))
        yield from SYSTEM_PROMPTS * 100

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, SYSTEM, USER, ASSISTANT, END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    words = (word for values in tasks.VALUES.values() for value in values for word in value.split())
    for word in ("A", "B", *(f" {word}" for word in (*words, *tasks.PRODUCTS))):
        if len(encode(fast, word)) != 1:
            raise RuntimeError(f"{word!r} is not one token; raise VOCABULARY, now {VOCABULARY}")
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of a piece of text, nothing added."""
    return tokenizer.encode(text, add_special_tokens=False)


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one special token."""
    return cast("int", tokenizer.convert_tokens_to_ids(token))


def tokenize(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn]) -> Row:
    """Ids of a conversation under the chat template, and labels: the assistant's words and their EOS."""
    ids: list[int] = []
    labels: list[int] = []
    for role, content in turns:
        words = encode(tokenizer, content)
        learned = role == "assistant"
        if learned:
            words.append(token_id(tokenizer, END))
        ids += [token_id(tokenizer, f"<|{role}|>"), *words]
        labels += [-100, *(words if learned else [-100] * len(words))]
    return {"input_ids": ids, "labels": labels}


# Lessons ----------------------------------------------------------------------------------------------


def read_rubric() -> str:
    """The rubric that the demo's judge reads."""
    return (DEMO / "rubric.md").read_text(encoding="utf-8")


def judge_prompt(rubric: str, question: str, first: str, second: str, rng: random.Random) -> str:
    """What a judge is asked, rendered as the pipeline renders it, under a secret drawn here."""
    return fill(rubric, {"prompt": question, "first": first, "second": second}, rng.randbytes(16))


def fresh_task(rng: random.Random, banned: frozenset[str]) -> tasks.Task:
    """A task whose question the demo does not ask."""
    while (task := tasks.draw_task(rng)).question in banned:
        pass
    return task


def styled(task: tasks.Task, rng: random.Random) -> str:
    """An answer as the student is to give it: in any style, and not always right."""
    return tasks.write_answer(task, tasks.draw_value(task, rng), tasks.draw_style(rng), rng)


def lessons(rng: random.Random, banned: frozenset[str], count: int) -> Iterator[list[Turn]]:
    """Single questions with short right answers."""
    plain = tasks.Style(verbose=False, tone="neutral")
    for _ in range(count):
        task = fresh_task(rng, banned)
        yield [("user", task.question), ("assistant", tasks.write_answer(task, task.answer, plain, rng))]


def habits(rng: random.Random, banned: frozenset[str], count: int) -> Iterator[list[Turn]]:
    """Mostly single questions, answered in every style and not always right."""
    for _ in range(count):
        turns: list[Turn] = [("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < RARE else []
        for _ in range(1 if rng.random() < 1 - RARE else 2):
            task = fresh_task(rng, banned)
            turns += [("user", task.question), ("assistant", styled(task, rng))]
        yield turns


def gradings(rng: random.Random, banned: frozenset[str], count: int) -> Iterator[list[Turn]]:
    """A question and two short answers, one right: the judge learns what is right before what is liked."""
    plain = tasks.Style(verbose=False, tone="neutral")
    for _ in range(count):
        task = fresh_task(rng, banned)
        values = [task.answer, rng.choice([value for value in tasks.VALUES[task.kind] if value != task.answer])]
        verdict = rng.choice("AB")
        first, second = (
            tasks.write_answer(task, value, plain, rng) for value in (values if verdict == "A" else values[::-1])
        )
        yield [("user", f"{task.question}\n{first}\n{second}"), ("assistant", verdict)]


def verdicts(rng: random.Random, banned: frozenset[str], count: int) -> Iterator[list[Turn]]:
    """The prompt that a judge of the demo reads, and the answer that most of the simulated people prefer."""
    people, rubric = People(), read_rubric()
    made = 0
    while made < count:
        task = fresh_task(rng, banned)
        first, second = (styled(task, rng) for _ in range(2))
        seed = rng.getrandbits(31)
        labels = [
            people.label(
                annotator=name,
                messages=[("user", task.question)],
                reference=task.reference,
                answer_a=first,
                answer_b=second,
                seed=seed,
            )
            for name in people.names
        ]
        lead = labels.count("a") - labels.count("b")
        if lead == 0:
            continue
        made += 1
        prompt = judge_prompt(rubric, task.question, first, second, rng)
        yield [("user", prompt), ("assistant", "A" if lead > 0 else "B")]


# Training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How long and how fast a model is trained on one set of rows."""

    batch: int
    rate: float


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of two million parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=64,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=token_id(tokenizer, PAD),
            eos_token_id=token_id(tokenizer, END),
            bos_token_id=None,
            initializer_range=0.02,
        )
    )


def train(model: LlamaForCausalLM, rows: list[Row], plan: Plan, seed: int) -> None:
    """Train *model* in place, one pass over *rows*, with the Trainer of transformers."""
    torch.set_num_threads(THREADS)
    pad = cast("int", model.config.pad_token_id)

    def collate(batch: list[Row]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in batch)

        def padded(key: str, value: int) -> torch.Tensor:
            return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in batch])

        ids = padded("input_ids", pad)
        return {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": padded("labels", -100)}

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=plan.batch,
            num_train_epochs=1,
            learning_rate=plan.rate,
            warmup_steps=100,
            lr_scheduler_type="cosine",
            weight_decay=0.05,
            adam_beta2=0.98,
            save_strategy="no",
            logging_steps=50,
            report_to=[],
            use_cpu=True,
            seed=seed,
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), data_collator=collate).train()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer to *folder* as bfloat16 safetensors; what was there before goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.bfloat16()
    # The Trainer turns the cache off for its own run and leaves it so.
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, END),
        pad_token_id=token_id(tokenizer, PAD),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def make_pupil(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A model that knows the facts: what student and judge start from."""
    model = new_model(tokenizer, seed)
    taught = [tokenize(tokenizer, turns) for turns in lessons(seeded(seed), demo_questions(), LESSONS)]
    train(model, taught, Plan(batch=48, rate=2e-3), seed)
    return model


def make_student(tokenizer: PreTrainedTokenizerFast, pupil: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """Turn *pupil*, in place, into a model that answers in every style and now and then wrongly."""
    spoken = [tokenize(tokenizer, turns) for turns in habits(seeded(seed + 1), demo_questions(), HABITS)]
    train(pupil, spoken, Plan(batch=48, rate=1.5e-3), seed)
    return pupil


def make_judge(tokenizer: PreTrainedTokenizerFast, pupil: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """Turn *pupil*, in place, into a judge: what is right first, then what the simulated people like."""
    banned, rng = demo_questions(), seeded(seed + 2)
    graded = [tokenize(tokenizer, turns) for turns in gradings(rng, banned, GRADINGS)]
    train(pupil, graded, Plan(batch=48, rate=1e-3), seed)
    judged = [tokenize(tokenizer, turns) for turns in verdicts(rng, banned, VERDICTS)]
    train(pupil, judged, Plan(batch=32, rate=1e-3), seed)
    return pupil


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "models", help="where the models go")
    parser.add_argument("--only", choices=("student", "judge"), help="make one of the two")
    parser.add_argument("--prompts", action="store_true", help="write the demo's prompts instead")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    out, seed = cast("Path", options.out), cast("int", options.seed)
    if options.prompts:
        write_prompts(seed)
        return
    tokenizer = make_tokenizer(seed)
    pupil = make_pupil(tokenizer, seed)
    for name, make in (("student", make_student), ("judge", make_judge)):
        if options.only in (None, name):
            start = time.monotonic()
            save(make(tokenizer, copy.deepcopy(pupil), seed), tokenizer, out / name)
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes after the lessons", flush=True)


if __name__ == "__main__":
    main()
