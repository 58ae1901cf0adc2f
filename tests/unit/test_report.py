"""report.html: whatever a run holds, it is words on the page and nothing else; and the page can be read by everyone."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dashboard import charts, theme
from dashboard.report import drawing
from dashboard.report import page as report
from pipeline import ids, schemas, shown, summary
from pipeline.workbench import Workbench
from tests.hostile import PERSUASIVE, structural
from tests.unit.test_charts import CALIBRATION, CERTIFICATE, HISTORY, HOSTILE, agreement, bias, trend, win_rates
from tests.worlds import bench, world

MARKUP = (
    "<script>alert(1)</script>",
    "</script><script src=//evil.example/x.js></script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "![x](http://evil.example/x.png)",
    "<style>*{display:none}</style>",
    "</style><link rel=stylesheet href=http://evil.example>",
    "<iframe srcdoc='&lt;script&gt;'></iframe>",
    "--></td></tr></table><form action=http://evil.example><input>",
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "&lt;b&gt; &#x3c;script&#x3e;",
    "\u202emoc.live\u202c",
    "\u2067rtl\u2069",
    "{{ made }}{% raw %}",
)
TAGS = frozenset(
    {"html", "head", "meta", "title", "style", "body", "header", "h1", "div", "b", "br", "ul", "li", "nav", "a"}
    | {"main", "section", "h2", "p", "figure", "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi"}
    | {"details", "summary", "footer", "svg", "g", "path", "rect", "line", "circle", "text"}
)
ATTRIBUTES = {
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "class",
    "href",
    "id",
    "scope",
    "tabindex",
    "role",
} | {
    *("aria-label", "aria-labelledby", "xmlns"),
    *(attribute.lower() for attribute in drawing.ATTRIBUTES),
}


class Page(HTMLParser):
    """A page's elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)

    @property
    def text(self) -> str:
        return "".join(self.words)


def judge(reason: str | None = None) -> dict[str, Any]:
    """A row of panel.json."""
    shares = {"agreement": 0.7, "low": 0.6, "high": 0.8, "swap_consistency": 0.9, "first_slot_rate": 0.5}
    return {
        **shares,
        "n": 20,
        "weight": 1.5,
        "in_panel": reason is None,
        "reason": reason,
        "judgments": 40,
        "failures": 1,
    }


def run_of(folder: Path, names: tuple[str, ...], texts: list[str], **json_files: dict[str, Any]) -> Workbench:
    """A run whose judges, models, annotators and reasons are *names* and whose answers are *texts*."""
    made = world({f"Which? {text}": [text, f"{text}!"] for text in texts})
    kept = made["pairs"].select(
        "pair_id",
        p_a=pl.lit(0.9),
        p_a_lc=pl.lit(0.9),
        margin=pl.lit(0.8),
        judges=pl.lit(["x"]),
        calls=pl.lit(2),
        agreement=pl.lit(1.0),
        chosen_id="sample_a",
        rejected_id="sample_b",
    )
    duels = [
        {"prompt_id": ids.prompt_id((("user", text),), None), "question": text, "baseline": text, "trained": text}
        | {"people": 0.5, "panel": None}
        for text in texts
    ]
    calls = [
        {"call_key": str(at), "judge": name, "status": "answered", "prompt_tokens": 5, "cached_tokens": 0}
        | {"completion_tokens": 2, "cost_usd": 0.5, "latency_s": 0.1}
        for at, name in enumerate(names)
    ]
    annotators = [
        {"annotator": name, "measure": "tie_rate", "value": 0.1, "low": None, "high": None, "reference": 0.2, "n": 3}
        for name in names
    ]
    warnings = [{"about": "judge", "name": name, "kind": "position", "text": f"judge {name} is odd"} for name in names]
    frames = {
        **made,
        "kept": schemas.frame("kept", kept),
        "verdicts": schemas.frame("verdicts", kept),
        "duels": schemas.frame("duels", duels),
        "calls": schemas.frame("calls", calls),
        "dropped": schemas.frame(
            "dropped", [{"stage": "pair", "id": str(i), "reason": n or "?"} for i, n in enumerate(names)]
        ),
        "agreement": agreement(*names),
        "bias": bias("first_slot_rate", 0.5, **dict.fromkeys(names, 0.7)),
        "trend": trend(names, 2),
        "calibration": CALIBRATION,
        "win_rates": win_rates(*names),
        "annotators": schemas.frame("annotators", annotators),
        "warnings": schemas.frame("warnings", warnings),
    }
    opened = bench(folder, frames)
    stage = {"rows_in": {"samples": 4}, "rows_out": {"pairs": 2}, "seconds": 1.0, "incomplete": [], "dropped": {}}
    panel = {
        "method": "calibrated",
        "validated": True,
        "decide_by": "p_a",
        "labels": {"fit_pairs": 9, "certify_pairs": 9},
    }
    certificate = {**CERTIFICATE, "certified": True, "reason": "it is so", "delta": 0.1, "method": "tests"}
    evaluation = {"win_rate": 0.6, "win_rate_low": 0.5, "win_rate_high": 0.7, "n": 30, "decided_by": "people"}
    files = {
        "manifest.json": {"stages": dict.fromkeys(("pair", "select"), stage)},
        "panel.json": {**panel, "judges": {name: judge(name or None) for name in names}},
        "certificate.json": {
            **certificate,
            "curve": [{"strict_agreement": 0.8, **step} for step in CERTIFICATE["curve"]],
        },
        "evaluation.json": evaluation,
        "model/training.json": {"loss": HISTORY},
    }
    for name, content in {**files, **json_files}.items():
        opened.folder.write_json(name, content)
    return opened


def written(run: Workbench) -> str:
    report.write(run)
    return (run.folder.path / "report.html").read_text(encoding="utf-8")


def test_words_from_elsewhere_are_text_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = list({attack.text for attack in (*structural(), *PERSUASIVE)})
    texts = [*MARKUP, *(text for text in attacks if text.isprintable() or len(text) < 10_000)]
    monkeypatch.setattr(report, "EXAMPLES", len(texts))
    with run_of(tmp_path, tuple(dict.fromkeys([*MARKUP, *HOSTILE])), texts) as run:
        html = written(run)
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attributes in page.elements:
        assert attributes.keys() <= ATTRIBUTES | {"open"}, tag
        assert not [name for name in attributes if name.startswith("on") or name in {"src", "style", "srcdoc"}], tag
        assert (attributes.get("href") or "#").startswith("#"), tag
        assert "url(" not in json.dumps(attributes), tag
    assert "default-src 'none'" in str(next(a["content"] for a in page.of("meta") if "http-equiv" in a))
    assert html.count("<style") == 1
    for words in MARKUP[:12]:
        assert words in page.text
    # What turns the direction of a line or does not print is shown as a code.
    assert not set(page.text) & {"\u202e", "\u2067", "\x00", "\x1b", "\u200b"}
    assert "\\u202emoc.live" in page.text
    assert len(html.encode()) < report.LARGEST


def test_a_huge_run_is_a_small_page(tmp_path: Path) -> None:
    names = tuple(f"{at} " + "\U000e0056&" * 500 for at in range(40))
    with run_of(tmp_path, names, ["<" * 1_000_000, "\U000e0056" * 1_000_000]) as run:
        html = written(run)
    assert len(html.encode()) < report.LARGEST
    assert "more characters are left out" in html
    assert "Annotators" in html


def test_a_page_that_would_be_too_large_shows_less_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"judge {at}" for at in range(24))
    monkeypatch.setattr(report, "LARGEST", 1)
    with run_of(tmp_path, names, ["x" * 10_000]) as run:
        page = Page(written(run))
    assert f"{'x' * 800}\u2026 [9,200 more characters are left out]" in page.text
    assert re.search(r"the first 40 of \d+ rows", page.text)


def test_texts_and_rows_are_cut_with_a_note(tmp_path: Path) -> None:
    names = tuple(f"judge {at}" for at in range(24))
    with run_of(tmp_path, names, ["x" * 10_000]) as run:
        page = Page(written(run))
    assert f"{'x' * 4000}\u2026 [6,000 more characters are left out]" in page.text
    assert "x" * 4001 not in page.text
    for name in names:
        assert name in page.text


def test_charts_are_pictures_with_words_and_a_table_beside_each(tmp_path: Path) -> None:
    with run_of(tmp_path, ("lm", "verifier"), ["yes"]) as run:
        page = Page(written(run))
    drawn = list(page.of("svg"))
    # funnel, drops, accuracy, kappa, subsets, one bias, drift, reliability, gate, targets, more labels, margins, wins,
    # cost, loss, reward accuracy
    assert len(drawn) == 16
    for attributes in drawn:
        assert attributes["role"] == "img"
        assert len(str(attributes["aria-label"])) > 20
        assert str(attributes["viewbox"]).startswith("0 0 ")
        assert attributes.keys() == {"xmlns", "viewbox", "role", "aria-label"}
    names = [str(attributes["aria-label"]) for attributes in page.of("div") if attributes.get("role") == "region"]
    assert len(set(names)) == len(names)
    boxes = [attributes for attributes in page.of("div") if attributes.get("class") == "scroll"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in boxes)
    for figure in ("65.0%", "60.0%", "0.30", "75.0%", "0.7000", "US$ 1.0000", "52.0%"):
        assert figure in page.text
    assert page.text.count("95% interval") >= 6


def test_every_entry_of_the_contents_leads_somewhere(tmp_path: Path) -> None:
    with run_of(tmp_path, ("lm",), ["yes"]) as run:
        page = Page(written(run))
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [str(attributes["href"]) for attributes in page.of("a")]
    parts = "way judges subsets bias drift calibration gate margins answers people spent training examples duels"
    assert links == [f"#{part}" for part in parts.split()]
    assert {f"#{anchor}" for anchor in anchors} == set(links)


def test_a_wall_of_warnings_is_folded(tmp_path: Path) -> None:
    """Of each of the three worst the worst is seen, the way from prompts to dataset beneath it, the rest on request."""
    names = tuple(f"judge {at}" for at in range(6))
    with run_of(tmp_path, names, ["yes"]) as run:
        made = report.write(run)
        page = Page((run.folder.path / "report.html").read_text(encoding="utf-8"))
    # each is odd, and out of the panel; to be odd moves the result, to be out of the panel does not
    assert made["warned"]["shown"] == [f"judge judge {at} is odd" for at in range(3)]
    assert [group["who"] for group in made["warned"]["folded"]] == [f"judge judge {at}" for at in range(6)]
    assert [len(group["texts"]) for group in made["warned"]["folded"]] == [1, 1, 1, 2, 2, 2]
    lists = [attributes["aria-label"] for attributes in page.of("ul") if "warnings" in str(attributes.get("class"))]
    assert lists == ["Warnings", *(f"Warnings about judge judge {at}" for at in range(6))]
    assert "9 more warnings" in page.text
    assert all(page.text.count(text) == 1 for text in made["warnings"])
    told = [line for line in summary.lines(made, tmp_path) if "warning" in line and "html" not in line]
    assert told[:3] == [f"warning: judge judge {at} is odd" for at in range(3)]
    assert told[3:] == ["9 more warnings, about 6 judges or people, stand in the report"]


def test_a_run_of_which_nothing_is_known_has_a_page(tmp_path: Path) -> None:
    with bench(tmp_path) as run:
        page = Page(written(run))
    assert "small" in page.text
    assert not list(page.of("svg"))
    assert not list(page.of("section"))


def test_without_a_past_there_is_no_drift_and_without_labels_no_validation(tmp_path: Path) -> None:
    panel = {"method": "consistency", "validated": False, "decide_by": "p_a", "labels": {}, "judges": {"lm": judge()}}
    with run_of(tmp_path, ("lm",), ["yes"], **{"panel.json": panel}) as run:
        run.folder.write_part("trend", "before", "all", trend(("lm",), 1), {})
        page = Page(written(run))
    assert "not validated" in page.text
    assert "Drift" not in page.text


def test_a_chart_that_is_too_large_is_left_to_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MOST_ROWS", 5)
    with run_of(tmp_path, ("lm", "verifier", "third"), ["yes"]) as run:
        page = Page(written(run))
    assert "There is too much of it for a drawing on this page." in page.text
    assert any("Raters against each other" in str(attributes.get("aria-label")) for attributes in page.of("div"))
    assert len(list(page.of("svg"))) < 16


SCHEME = re.compile(r":root \{([^}]*)\}")


def test_text_has_enough_contrast_in_both_schemes() -> None:
    css = (report.TEMPLATES / "report.html").read_text(encoding="utf-8")
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in SCHEME.findall(css)]
    assert len(found) == 2
    for colours in found:
        assert colours.keys() == {"ground", "soft", "ink", "quiet", "link", "line", "alert"}
        for text in ("ink", "quiet", "link"):
            for ground in ("ground", "soft"):
                assert theme.contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert theme.contrast(colours["alert"], colours["soft"]) >= 3
    # No other colour has been written down.
    style = css[css.index("<style>") : css.index("</style>")]
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsl", SCHEME.sub("", style))


def test_a_drawing_takes_the_pages_colours_and_holds_nothing_but_drawing() -> None:
    with_text = drawing.drawn(charts.accuracy(agreement("lm")))
    assert 'fill="currentColor"' in with_text
    assert 'fill="#000' not in with_text
    assert 'fill="black"' not in with_text
    hostile = (
        f'<svg xmlns="{drawing.SVG}" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9" onload="x()">'
        '<script>x()</script><image href="http://evil.example"/><a xlink:href="javascript:x()"><text>lost</text></a>'
        '<foreignObject><div xmlns="http://www.w3.org/1999/xhtml">x</div></foreignObject><style>*{}</style>'
        '<g onclick="x()" fill="url(http://evil.example)" style="fill:red"><text x="1">&lt;b&gt; kept</text></g></svg>'
    )
    assert drawing.inert(hostile, 'said "so" <b>') == (
        f'<svg xmlns="{drawing.SVG}" viewBox="0 0 9 9" role="img" aria-label="said &quot;so&quot; &lt;b&gt;">'
        '<g><text x="1">&lt;b&gt; kept</text></g></svg>'
    )
    with pytest.raises(ValueError, match="no SVG"):
        drawing.inert("<html/>", "x")


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("plain", 10, "plain"),
        ("a\nb\tc\r\nd", 20, "a\nb\tc\nd"),
        ("\u202egnp.\x00", 20, "\\u202egnp.\\u0000"),
        ("\U000e0056", 20, "\\U000e0056"),
        ("\ud83d", 20, "\\ud83d"),
        ("a" + "\u0301" * 5, 20, "a\u0301\u0301\u0301\\u0301\\u0301"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", 20, "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("abcdef", 4, "abcd\u2026 [2 more characters are left out]"),
        ("x" * 2000, 1, "x\u2026 [1,999 more characters are left out]"),
    ],
)
def test_what_does_not_print_is_made_visible(text: str, limit: int, expected: str) -> None:
    assert shown.visible(text, limit) == expected


def test_a_line_is_cut_in_its_middle() -> None:
    assert shown.line("one\n two\tthree", 28) == "one two three"
    assert shown.line("abcdefghij", 5) == "ab\u2026ij"
    assert shown.line("  ", 5) == "(empty)"
    # both ends of a text of a million characters are seen, and no more is read than can be
    assert shown.line("a" * 1_000_000 + "z", 5) == "aa\u2026az"
    assert len(shown.line("\U000e0056" * 100, 28)) == 28


def test_the_summary_is_the_file(tmp_path: Path) -> None:
    with run_of(tmp_path, ("lm",), ["yes"]) as run:
        made = summary.write(run)
        assert json.loads((run.folder.path / "summary.json").read_text()) == made
        assert not (run.folder.path / "report.html").exists()
