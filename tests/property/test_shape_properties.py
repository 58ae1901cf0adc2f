"""Pins down what holds for every file of other origin: no row stops an import, every row is kept or refused once."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commands import imports
from pipeline.errors import InputError
from pipeline.importers.base import Asked
from pipeline.importers.reading.seat import shapes
from pipeline.importers.reading.tables import Source, table
from pipeline.importers.reading.values import name_of, number_of, side_of, thumb_of
from tests.files import SHAPES, said, user
from tests.worlds import bench

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["a", "[", "{", "[1]", '{"a": 1}', "\ud83d", "7.0", 10**400])
    | st.sampled_from(["Human: x", "\n\nHuman: a\n\nAssistant: b"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "type", "text", "tool_calls", "function", "messages"]),
        inner,
        max_size=3,
    )
    | st.sampled_from([[user("q")], [user("q"), said("a")], [said("a")]]),
    max_leaves=6,
)  # fmt: skip
KINDS = ("prompts", "samples", "pairs", "judgments", "labels")


@pytest.mark.parametrize("name", SHAPES)
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_row_of_junk_stops_no_shape(name: str, data: st.DataObject) -> None:
    shape = SHAPES[name]
    row: dict[str, Any] = {
        key: data.draw(st.just(value) | JUNK, label=key)
        for key, value in shape.rows[0].items()
        if data.draw(st.booleans())
    }
    file_rows = [*shape.rows, row]
    kind = data.draw(st.sampled_from(KINDS))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in file_rows))
        rows = table(Source(file))
        for importer, (fits, read) in shapes().items():
            assert fits(rows.rows[-1][1], kind) >= 0
            read(rows, Asked(kind, "f", data.draw(st.sampled_from([None, "ann"]), label=importer)))


@pytest.mark.parametrize(
    "name", ["TRL, explicit prompt", "Chatbot Arena votes", "HelpSteer 3, preferences", "OpenAI, DPO"]
)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_row_of_choices_is_a_label_or_refused_once(name: str, data: st.DataObject) -> None:
    shape = SHAPES[name]
    rows = [
        {
            key: data.draw(st.just(value) | JUNK) if data.draw(st.booleans()) else value
            for key, value in shape.rows[0].items()
        }
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    rows.insert(0, shape.rows[0])
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as run:
        file = Path(folder) / "f.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
        try:
            made, refused = imports.run(run, "labels", file, shape.importer, annotator="ann")
        except InputError:
            return
        assert made["labels"] + len(refused.rows) == len(rows)
        assert dict(run.folder.read("dropped").select("id", "reason").iter_rows()) == refused.rows


@given(JUNK)
def test_single_values_are_read_or_not(value: Any) -> None:
    name, number = name_of(value), number_of(value)
    assert name is None or (name.encode() and name_of(name) == name)
    assert number is None or abs(number) < float("inf")
    assert side_of(value) in {"a", "b", "tie", None}
    assert thumb_of(value) in {True, False, None}
