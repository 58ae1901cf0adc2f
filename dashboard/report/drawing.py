"""Charts as SVG for report.html: drawn without a network, and nothing in them but drawing. Pure.

Text, axes and grid take the page's colour (``currentColor``), so that one drawing serves light and dark. What a chart
says of itself is its label; the words in it that came from elsewhere are text nodes and nothing else.
"""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import vl_convert

from dashboard.charts import Chart

SVG = "http://www.w3.org/2000/svg"
WIDTH = 900
"""Of a chart, px at its natural size."""
MOST_ROWS = 6000
"""Rows of data that are drawn; a second's work."""
ELEMENTS = frozenset({"svg", "g", "path", "rect", "line", "circle", "text", "tspan"})
ATTRIBUTES = frozenset(
    {"cx", "cy", "d", "display", "dx", "dy", "fill", "fill-opacity", "font-size", "font-style", "font-weight"}
    | {"height", "opacity", "r", "stroke", "stroke-dasharray", "stroke-linecap", "stroke-linejoin"}
    | {"stroke-miterlimit", "stroke-opacity", "stroke-width", "text-anchor", "transform", "viewBox", "width"}
    | {"x", "x1", "x2", "y", "y1", "y2"}
)
ELSEWHERE = re.compile(r"url\(|:|javascript|&", re.IGNORECASE)
"""What no attribute of a drawing holds: it would point somewhere."""
INK, FAINT = "currentColor", 0.18
GUIDE: Mapping[str, Any] = {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal", "labelFontSize": 12}
# Widths are measured in a wide font, so that the one the reader's system shows has room.
FONT = "DejaVu Sans, Verdana, sans-serif"
CONFIG: Mapping[str, Any] = {
    "background": None,
    "font": FONT,
    "axis": {
        **GUIDE,
        "titleFontSize": 12,
        "gridColor": INK,
        "gridOpacity": FAINT,
        "tickColor": INK,
        "domainColor": INK,
    },
    "legend": GUIDE,
    "title": {"color": INK},
    "view": {"stroke": None},
}


def drawn(chart: Chart) -> str:
    """*chart* as an SVG element that can stand in a page.

    Raises:
        ValueError: it has too many rows, or Vega cannot draw it.
    """
    spec: dict[str, Any] = chart.properties(width=WIDTH).to_dict()
    if (rows := sum(len(data) for data in spec["datasets"].values())) > MOST_ROWS:
        raise ValueError(f"{rows:,} rows are too many to draw")
    text: str = vl_convert.vegalite_to_svg(spec, config=dict(CONFIG), allowed_base_urls=[])
    return inert(text, str(spec["description"]))


def inert(svg: str, label: str) -> str:
    """The drawing *svg* with *label* as its accessible name, and without anything that is no drawing.

    Raises:
        ValueError: it is not an SVG.
    """
    root = ET.fromstring(svg)  # noqa: S314  made in this process; entities that expand come from nobody else
    if root.tag != f"{{{SVG}}}svg":
        raise ValueError(f"this is no SVG: {root.tag}")
    width, height = (root.attrib.pop(name, None) for name in ("width", "height"))
    _clean(root)
    root.set("viewBox", root.get("viewBox") or f"0 0 {width} {height}")
    root.set("role", "img")
    root.set("aria-label", label)
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def _clean(element: ET.Element) -> None:
    element.attrib = {
        name: value for name, value in element.attrib.items() if name in ATTRIBUTES and not ELSEWHERE.search(value)
    }
    for child in list(element):
        if child.tag.removeprefix(f"{{{SVG}}}") not in ELEMENTS or not child.tag.startswith(f"{{{SVG}}}"):
            element.remove(child)
        else:
            _clean(child)
