"""How many tokens a text has, without the model's tokenizer: an estimate for plans. Pure.

Byte-pair tokenizers of large models cut a text into words with their leading space, runs of digits and of punctuation,
and give a common word one token. The estimate follows that cut: a word of up to seven ASCII letters is one token, and
one more for every seven further; a word in another script a token for every four bytes of UTF-8; three digits, two
marks, or a run of line ends are one. Each message adds four tokens of chat template and the answer's start three more,
as in OpenAI's counting recipe. What a model has charged for already corrects it (``pipeline.commands.plan``).
"""

import re
from collections.abc import Iterable

PIECE = re.compile(r"[^\W\d_]+|\d{1,3}|\n+|[^\w\s]{1,2}|_+")
LETTERS = 7
BYTES = 4
PER_MESSAGE = 4
PER_REQUEST = 3


def of_text(text: str) -> int:
    """Tokens of a text, about."""
    return sum(map(_of_piece, PIECE.findall(text)))


def of_messages(messages: Iterable[tuple[str, str]]) -> int:
    """Tokens of (role, content) turns as a prompt, about."""
    return PER_REQUEST + sum(PER_MESSAGE + of_text(content) for _, content in messages)


def _of_piece(piece: str) -> int:
    if not piece[0].isalpha():
        return 1
    return -(-len(piece) // LETTERS) if piece.isascii() else -(-len(piece.encode(errors="replace")) // BYTES)
