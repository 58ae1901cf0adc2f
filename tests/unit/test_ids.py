"""Pins down ids and seeds: functions of content alone, no two tuples of fields spelled alike."""

import hashlib
import itertools

from pipeline import ids


def test_the_hash_is_sha256_over_length_prefixed_typed_fields() -> None:
    # "s" -> b"str:s" (5 bytes); 1 -> b"int:1" (5 bytes); None -> b"n" (1 byte); lengths as 8 bytes, big endian.
    by_hand = b"".join(len(part).to_bytes(8, "big") + part for part in (b"str:s", b"int:1", b"n"))
    assert ids.content_hash("s", 1, None) == hashlib.sha256(by_hand).hexdigest()[:32]


def test_no_two_tuples_of_fields_spell_the_same_input() -> None:
    tuples = [("ab", "c"), ("a", "bc"), ("abc",), ("", "abc"), (1,), ("1",), (1.0,), (None,), ("None",), ("n",), ()]
    hashes = [ids.content_hash(*fields) for fields in tuples]
    assert len(set(hashes)) == len(tuples)


def test_a_pair_has_one_id_whichever_way_round() -> None:
    assert ids.pair_id("x", "y") == ids.pair_id("y", "x") != ids.pair_id("x", "z")


def test_a_sample_id_hangs_on_every_part() -> None:
    base = ("prompt", "model", 0.7, 3, "text")
    others = [
        ("prompt2", "model", 0.7, 3, "text"),
        ("prompt", "model2", 0.7, 3, "text"),
        ("prompt", "model", 0.8, 3, "text"),
        ("prompt", "model", None, 3, "text"),
        ("prompt", "model", 0.7, 4, "text"),
        ("prompt", "model", 0.7, None, "text"),
        ("prompt", "model", 0.7, 3, "text "),
    ]
    found = {ids.sample_id(*fields) for fields in (base, *others)}
    assert len(found) == 1 + len(others)


def test_a_temperature_of_one_is_the_same_as_an_integer_or_a_float() -> None:
    assert ids.sample_id("p", "m", 1, 0, "t") == ids.sample_id("p", "m", 1.0, 0, "t")


def test_a_prompt_id_hangs_on_turns_roles_and_reference() -> None:
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"))
    found = {
        ids.prompt_id(turns),
        ids.prompt_id(turns, "r"),
        ids.prompt_id(turns, ""),
        ids.prompt_id((("user", "a"), ("user", "b"), ("user", "c"))),
        ids.prompt_id((("user", "a"), ("assistant", "bc"))),
        # a turn that spells the separator of turns and reference
        ids.prompt_id((*turns, ("reference", "r"))),
    }
    assert len(found) == 6


def test_one_conversation_under_two_references_is_two_prompts_of_one_conversation() -> None:
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"))
    one, two, other = ids.prompt_id(turns, "r"), ids.prompt_id(turns, "s"), ids.prompt_id(turns[:1], "r")
    assert one[:16] != two[:16]
    assert ids.conversation_id(one) == ids.conversation_id(two) == ids.conversation_id(ids.prompt_id(turns))
    assert ids.conversation_id(other) != ids.conversation_id(one)


def test_seeds_have_31_bits_and_differ() -> None:
    seeds = [ids.seed_from(seed, "x", at) for seed, at in itertools.product(range(3), range(1000))]
    assert all(0 <= seed < 2**31 for seed in seeds)
    # 3,000 draws of 2^31: the expected number of equal pairs is 3000^2 / 2 / 2^31 = .002
    assert len(set(seeds)) == len(seeds)


def test_coins_are_fair() -> None:
    coins = [ids.uniform_from(0, "coin", at) for at in range(10_000)]
    assert all(0 <= coin < 1 for coin in coins)
    # The mean of 10,000 uniforms has a standard deviation of 1 / sqrt(12 * 10000) = .0029; five of them:
    assert abs(sum(coins) / len(coins) - 1 / 2) < 0.0145
