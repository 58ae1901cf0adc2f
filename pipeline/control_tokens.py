"""Strings that chat models' tokenizers read as control, and how text is kept from becoming one. Pure.

A tokenizer turns ``<|im_end|>`` inside an answer into the token that ends the turn: what follows it is no longer
quoted, it speaks. So wherever such a string starts in untrusted text, a word joiner (U+2060, no width, no meaning) goes
in after its first character. The tokenizer then reads plain text; the words stay what they are, and the change is the
same for every answer and on every machine. Texts without such strings are not touched.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

JOINER = "\u2060"
_BAR = "[|\uff5c]"
"""DeepSeek's are full-width."""
_NAME = r"[^\s<>|\uff5c\u2060\[\]]{1,64}"
_TAGS = (
    "s|sep|cls|bos|eos|pad|unk|mask|sop|eop|eod|eoh|eoa|eom|start_of_turn|end_of_turn|start_of_(?:image|audio)|"
    "end_of_(?:image|audio)|begin_of_sentence|beginning_of_sentence|end_of_sentence|(?:image|audio)_soft_token|"
    r"extra_id_\d+|SPECIAL_\d+|TOKENS_UNUSED_\d+|unused\d+|reserved_\d+|mask:\d+|seed:\w+|(?:BOS|EOS|MASK)_TOKEN|"
    r"role|_(?:start|end|system|user|bot|observation|pad)|AI|\u7528\u6237|longcat_\w+|fim_(?:prefix|suffix|middle|pad)"
)
_WORDS = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|ARGS|CALL_ID|IMG|IMG_BREAK|IMG_END|"
    "BEGIN_AUDIO|PREFIX|SUFFIX|MIDDLE|MODEL_SETTINGS|gMASK|sMASK|MASK|CLS|SEP|PAD|UNK|BOS|EOS|EOT|"
    r"start_header_id|end_header_id|unused\d+|control_\d+|extra_id_\d+"
)
_HEADS = "TITLE|ABSTRACT|INTRODUCTION|SUMMARY|COMMENT|ANSWER|QUESTION|DOMAIN|PREFIX|SUFFIX|MIDDLE"
KNOWN = (
    rf"<{_BAR}{_NAME}{_BAR}?>",  # ChatML, Llama 3, Phi, Qwen, Cohere, GLM, DeepSeek, Hunyuan, Gemma 4's openers
    rf"<{_NAME}{_BAR}>",  # Gemma 4's closers
    rf"</?(?:{_TAGS})>",  # Llama 2, Mistral, Gemma, Nemotron, Baichuan, InternLM, Ling, TeleChat, CPM, LongCat, Seed
    rf"\[/?(?:{_WORDS})\]",  # Llama 2, Mistral, GLM, Kimi, PanGu
    rf"\[\|{_NAME}\|\]",  # Exaone, BlueLM
    r"<</?SYS>>",
    rf">>(?:{_HEADS})<<",  # Falcon
    r"\]~!?b[\[\]]",  # MiniMax
    r"\[e~\[",
)
"""What the common families use. A model in this process is asked for its own besides (:func:`of`)."""
_KNOWN = re.compile(rf"(?=(?:{'|'.join(KNOWN)}))([<>\[\]])")


def defused(text: str, tokens: Sequence[str] = ()) -> str:
    """*text* in which no known control string, and none of *tokens*, is left.

    Only word joiners are added, each after the first character of such a string, overlapping ones included.
    """
    # Most texts hold none of the characters that one begins with, and the pattern is slow to say so.
    found = _KNOWN.sub(rf"\1{JOINER}", text) if any(map(text.__contains__, "<[]")) else text
    return _starts(tuple(tokens)).sub(rf"\1{JOINER}", found) if tokens else found


def holds_control(text: str) -> bool:
    """Whether *text* holds a string that is control to a common family of models."""
    return _KNOWN.search(text) is not None


def of(tokenizer: Any) -> tuple[str, ...]:
    """The control strings of a transformers tokenizer that two or more characters spell."""
    added = cast("dict[int, Any]", tokenizer.added_tokens_decoder)
    special = {str(token.content) for token in added.values() if token.special}
    return tuple(sorted(token for token in special | set(tokenizer.all_special_tokens) if len(token) > 1))


@lru_cache(maxsize=64)
def _starts(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"(?=(?:{'|'.join(map(re.escape, tokens))}))(.)", re.DOTALL)
