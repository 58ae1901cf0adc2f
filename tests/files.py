"""Small files in the true shapes of published preference data; every word in them is invented here.

``SHAPES`` has a row a shape: the importer, the rows, and what `jurybox import` with that kind makes of them.
docs/data.md names the same shapes, and a test holds the two together.
"""

from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]


def user(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    """An assistant's message."""
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Shape:
    """A file of a shape, and what an import of it gives."""

    importer: str
    rows: Rows
    kind: str
    made: dict[str, int]
    """Frame -> rows."""
    opinions: tuple[tuple[str, str, float | str], ...] = ()
    """(who, the words preferred or said to be a, preference or label), in terms of the file's first answer."""


def rated(response: str, model: str, marks: tuple[int, ...], overall: float) -> dict[str, Any]:
    """A completion of UltraFeedback."""
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {
        "annotations": {
            name: {"Rating": str(mark), "Rationale": "Because.", "Rationale For Rating": None, "Type": None}
            for name, mark in zip(names, marks, strict=True)
        },
        "critique": f"On {response}",
        "custom_system_prompt": "Be of use.",
        "fine-grained_score": sum(marks) / len(marks),
        "model": model,
        "overall_score": overall,
        "principle": "helpfulness",
        "response": response,
    }


ARENA = {
    "model_a": "koala-13b",
    "model_b": "dolly-12b",
    "turn": 1,
    "anony": True,
    "language": "English",
    "tstamp": 1682351591.1,
    "conversation_a": [user("What is tin?"), said("A metal.")],
    "conversation_b": [user("What is tin?"), said("A soft grey metal.")],
}
MT_BENCH = {
    "question_id": 81,
    "model_a": "alpaca-13b",
    "model_b": "gpt-4",
    "conversation_a": [user("Write."), said("One."), user("Again."), said("Two.")],
    "conversation_b": [user("Write."), said("Uno."), user("Again."), said("Due.")],
}
CHOSEN = [user("What is tin?"), said("A soft metal.")]
REJECTED = [user("What is tin?"), said("No idea.")]

SHAPES: dict[str, Shape] = {
    "TRL, explicit prompt": Shape(
        "trl",
        [{"prompt": "What is tin?", "chosen": "A soft metal.", "rejected": "No idea."}],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "TRL, implicit prompt": Shape(
        "trl",
        [{"chosen": "The sky is blue and wide.", "rejected": "The sky is green."}],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "blue and wide.", 1.0),),
    ),
    "TRL, conversational": Shape(
        "trl",
        [{"prompt": CHOSEN[:1], "chosen": CHOSEN[1:], "rejected": REJECTED[1:]}],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "TRL, conversational, implicit prompt": Shape(
        "trl",
        [{"chosen": CHOSEN, "rejected": REJECTED}],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "UltraFeedback, binarized": Shape(
        "trl",
        [
            {
                "prompt": "What is tin?",
                "prompt_id": "ab12",
                "chosen": CHOSEN,
                "rejected": REJECTED,
                "messages": CHOSEN,
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "TRL, unpaired (thumbs)": Shape(
        "trl",
        [
            {"prompt": "What is tin?", "completion": "A soft metal.", "label": True},
            {"prompt": "What is tin?", "completion": "No idea.", "label": False},
            {"prompt": "What is tin?", "completion": "Ask me later.", "label": False},
            {"prompt": "What is zinc?", "completion": "A metal.", "label": True},
        ],
        "pairs",
        # one good answer beside each of two bad ones; the lone answer has no counterpart
        {"prompts": 1, "samples": 3, "pairs": 2, "judgments": 2},
        (("file", "A soft metal.", 1.0), ("file", "A soft metal.", 1.0)),
    ),
    "HH-RLHF transcripts": Shape(
        "hh_rlhf",
        [
            {
                "chosen": "\n\nHuman: What is tin?\n\nAssistant: Why?\n\nHuman: I ask.\n\nAssistant: A soft metal.",
                "rejected": "\n\nHuman: What is tin?\n\nAssistant: Why?\n\nHuman: I ask.\n\nAssistant: No idea.",
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "UltraFeedback": Shape(
        "ultrafeedback",
        [
            {
                "source": "evol_instruct",
                "instruction": "What is tin?",
                "models": ["m1", "m2", "m3", "m4"],
                "completions": [
                    rated("A soft metal.", "m1", (5, 5, 5, 5), 8.5),
                    # an overall score of 10 that was meant to be 1
                    rated("No idea.", "m2", (1, 1, 1, 1), 10),
                    rated("A metal.", "m3", (3, 3, 3, 3), 6),
                    rated("Metal?", "m4", (3, 3, 3, 3), 6),
                ],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 4, "pairs": 6, "judgments": 6},
        # shares of 1 to 5: 1, 0, .5, .5; half of 1 plus the difference
        (
            ("file", "A soft metal.", 1.0),
            ("file", "A soft metal.", 0.75),
            ("file", "No idea.", 0.25),
            ("file", "A soft metal.", 0.75),
            ("file", "No idea.", 0.25),
            ("file", "A metal.", 0.5),
        ),
    ),
    "HelpSteer 2, ratings": Shape(
        "helpsteer",
        [
            {
                "prompt": "What is tin?",
                "response": "A soft metal.",
                "helpfulness": 4,
                "correctness": 4,
                "coherence": 4,
                "complexity": 1,
                "verbosity": 1,
            },
            {
                "prompt": "What is tin?",
                "response": "No idea.",
                "helpfulness": 1,
                "correctness": 0,
                "coherence": 4,
                "complexity": 0,
                "verbosity": 0,
            },
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        # 4 and 1 of 0 to 4: shares 1 and .25
        (("file", "A soft metal.", 0.875),),
    ),
    "HelpSteer 2, preferences": Shape(
        "helpsteer",
        [
            {
                "split": "train",
                "prompt": "What is tin?\n\n<extra_id_1>Assistant\nWhy?\n\n<extra_id_1>User\nI ask.",
                "response_1": "No idea.",
                "response_2": "A soft metal.",
                "preference_strength": 3,
                "preference_statement": "Response 2 is much better.",
                "preference_elaboration": "It answers.",
                "three_most_similar_preferences": [{"statement": "s", "elaboration": "e", "strength": 3}],
                "all_preferences_unprocessed": [{"strength": 2, "justification": "j"}],
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "No idea.", 0.0),),
    ),
    "HelpSteer 3, preferences": Shape(
        "helpsteer",
        [
            {
                "domain": "general",
                "language": "english",
                "context": [user("What is tin?")],
                "response1": "A soft metal.",
                "response2": "No idea.",
                "overall_preference": -2,
                "individual_preference": [
                    {"score": -2, "reasoning": "It answers.", "feedback1": "Good.", "feedback2": "Poor."}
                ],
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "Nectar, ranked lists": Shape(
        "nectar",
        [
            {
                "prompt": "\n\nHuman: What is tin?\n\nAssistant: ",
                "answers": [
                    {"answer": "A soft metal.", "model": "m1", "rank": 1.0},
                    {"answer": "A metal.", "model": "m2", "rank": 2.0},
                    {"answer": "No idea.", "model": "m3", "rank": 2.0},
                ],
                "turns": 1,
                "num_responses": 3,
                "source": ["ultrachat"],
                "good_natured": True,
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 3, "pairs": 3, "judgments": 3},
        (("file", "A soft metal.", 1.0), ("file", "A soft metal.", 1.0), ("file", "A metal.", 0.5)),
    ),
    "Chatbot Arena votes": Shape(
        "arena",
        [
            {**ARENA, "question_id": "58210e39", "winner": "model_b", "judge": "arena_user_973"},
            {**ARENA, "question_id": "58210e40", "winner": "tie (bothbad)", "judge": "arena_user_974"},
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "labels": 2},
        (("arena_user_973", "A metal.", "b"), ("arena_user_974", "A metal.", "tie")),
    ),
    "Chatbot Arena, 55k": Shape(
        "arena",
        [
            {
                "id": 30192,
                "model_a": "gpt-4-1106-preview",
                "model_b": "gpt-4-0613",
                "prompt": '["What is tin?"]',
                "response_a": '["A soft metal."]',
                "response_b": '["No idea."]',
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "MT-Bench human judgments": Shape(
        "arena",
        [
            {**MT_BENCH, "winner": "model_b", "judge": "author_2", "turn": 1},
            # of the second turn the answers before it differ: there is no common prompt
            {**MT_BENCH, "winner": "model_a", "judge": "author_2", "turn": 2},
            {**MT_BENCH, "winner": "tie", "judge": "gpt4_pair", "turn": 1},
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1, "labels": 1},
        (("author_2", "One.", "b"), ("gpt4_pair", "One.", 0.5)),
    ),
    "AlpacaEval annotations": Shape(
        "alpaca_eval",
        [
            {
                "dataset": "helpful_base",
                "instruction": "What is tin?",
                "output_1": "No idea.",
                "generator_1": "gpt4_turbo",
                "output_2": "A soft metal.",
                "generator_2": "mine",
                "annotator": "weighted_alpaca_eval_gpt4_turbo",
                "preference": 1.75,
                "raw_completion": None,
                "price_per_example": 0.01,
                "time_per_example": 0.5,
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        # 2 - 1.75
        (("weighted_alpaca_eval_gpt4_turbo", "No idea.", 0.25),),
    ),
    "AlpacaEval outputs": Shape(
        "alpaca_eval",
        [
            {
                "dataset": "helpful_base",
                "instruction": "What is tin?",
                "output": "A soft metal.",
                "generator": "mine",
                "datasplit": "eval",
            }
        ],
        "samples",
        {"prompts": 1, "samples": 1},
    ),
    "distilabel, rated generations": Shape(
        "distilabel",
        [
            {
                "instruction": "What is tin?",
                "generations": ["A soft metal.", "No idea.", "Metal."],
                "generation_models": ["m1", "m2", "m3"],
                "ratings": [5, 1, None],
                "rationales": ["It answers.", "It does not.", None],
                "ultrafeedback_model": "judge-1",
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 3, "pairs": 3, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "distilabel, binarized": Shape(
        "trl",
        [
            {
                "instruction": "What is tin?",
                "prompt": "What is tin?",
                "prompt_id": "0f",
                "chosen": CHOSEN,
                "chosen_model": "m1",
                "chosen_rating": 5,
                "rejected": REJECTED,
                "rejected_model": "m2",
                "rejected_rating": 2,
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "OpenAI, DPO": Shape(
        "openai_dpo",
        [
            {
                "input": {"messages": CHOSEN[:1], "tools": [], "parallel_tool_calls": True},
                "preferred_output": CHOSEN[1:],
                "non_preferred_output": REJECTED[1:],
            }
        ],
        "pairs",
        {"prompts": 1, "samples": 2, "pairs": 1, "judgments": 1},
        (("file", "A soft metal.", 1.0),),
    ),
    "OpenAI, chats": Shape(
        "openai_chats",
        [{"messages": [{"role": "system", "content": "Be short."}, *CHOSEN]}],
        "samples",
        {"prompts": 1, "samples": 1},
    ),
    "OpenAI, stored completions": Shape(
        "openai_chats",
        [
            {
                "request": {"model": "gpt-x", "messages": CHOSEN[:1], "temperature": 1},
                "response": {
                    "object": "chat.completion",
                    "choices": [
                        {"index": 0, "message": {**said("A soft metal."), "tool_calls": None}, "finish_reason": "stop"},
                        {"index": 1, "message": {**said("No idea."), "refusal": None}, "finish_reason": "stop"},
                    ],
                },
            }
        ],
        "samples",
        {"prompts": 1, "samples": 2},
    ),
    "Alpaca": Shape(
        "alpaca",
        [
            {"instruction": "Name the metal.", "input": "Sn", "output": "Tin."},
            {"instruction": "Name a metal.", "input": "", "output": "Tin."},
        ],
        "prompts",
        {"prompts": 2},
    ),
    "ShareGPT": Shape(
        "sharegpt",
        [
            {
                "id": "QWJhYvA_0",
                "conversations": [
                    {"from": "human", "value": "What is tin?"},
                    {"from": "gpt", "value": "A soft metal."},
                    {"from": "human", "value": "And zinc?"},
                    {"from": "gpt", "value": "A metal."},
                ],
            }
        ],
        "prompts",
        {"prompts": 1},
    ),
    "MT-Bench questions": Shape(
        "mt_bench", [{"question_id": 81, "category": "writing", "turns": ["Write."]}], "prompts", {"prompts": 1}
    ),
}
"""What a shape is called in docs/data.md -> a file of it."""
