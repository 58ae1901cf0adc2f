"""Pins down the estimate of tokens by hand."""

import pytest

from pipeline.calls import tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("The cat sat.", 4),  # three words and a full stop
        ("internationalisation", 3),  # 20 letters: 7 + 7 + 6
        ("1234567", 3),  # 123 456 7
        ("yes\n\nno", 3),
        ("(a, b)", 5),  # ( a , b )
        ("Страна", 3),  # six letters of two bytes each
        ("你好", 2),  # six bytes
        ("a_b", 3),
    ],
)
def test_by_hand(text: str, expected: int) -> None:
    assert tokens.of_text(text) == expected


def test_a_request_adds_its_template() -> None:
    # 3 for the request, 4 a message, and the words
    assert tokens.of_messages((("system", "Be brief"), ("user", "Say yes"))) == 3 + 4 + 2 + 4 + 2


def test_broken_text_has_a_length_too() -> None:
    assert tokens.of_text("\ud83d \x00 \u202e") == 3  # none is a letter; each stands alone
