"""Draws docs/images/house.svg: the rooms on the floors of pyproject's law, and who imports whom. Imports nothing of it.

An arrow is left out where a longer way says it already, and where it leads to the hall, on which all rooms stand. A
layered drawing (Sugiyama, Tagawa & Toda 1981): arrows that pass a floor take a place on it, an order with few
crossings is looked for, then each takes the place nearest to its neighbours'. The same imports draw the same bytes.
"""

import ast
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any, cast
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).parent.parent
WIDTH, MARGIN = 1120, 24
BOX, GAP, PASS = 60, 44, 26
"""Heights of a box and between two floors, and the width of an arrow's place on a floor, px."""
WIDEST, NARROWEST, APART = 250, 150, 14
ROOF = 94
"""From the ridge to the first floor, px."""
LETTERS = 6.1
"""Px of an average letter of a box's small text."""
LINES = 2
SWEEPS = 24
UNDER_ROOF = 3
"""Floors between the ridge and the eaves; their rooms stand in the middle."""

STYLE = """
  svg { font-family: ui-sans-serif, system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
  .paper { fill: #ffffff; }
  .wall { fill: #f6f8fb; stroke: #c6cfdb; stroke-width: 1.5; stroke-linejoin: round; }
  .floor { stroke: #e2e7ee; stroke-width: 1; }
  .box { fill: #ffffff; stroke: #8fa1b8; stroke-width: 1.2; }
  .roof .box { fill: #eaf2fb; stroke: #3b7dc4; }
  .own .box { fill: #fdf1e5; stroke: #d08437; }
  .hall .box { fill: #e9eef4; stroke: #8fa1b8; }
  .name { font-size: 15px; font-weight: 650; fill: #17212e; }
  .what { font-size: 11px; fill: #4b5a6d; }
  .chip { font-size: 12px; fill: #17212e; }
  .way { fill: none; stroke: #6d7f96; stroke-width: 1.4; }
  .head { fill: #6d7f96; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0f141b; }
    .wall { fill: #161d27; stroke: #3a4656; }
    .floor { stroke: #232d3a; }
    .box { fill: #1d2632; stroke: #5d7089; }
    .roof .box { fill: #16304b; stroke: #5ca0e6; }
    .own .box { fill: #3a2a18; stroke: #e0a05c; }
    .hall .box { fill: #222c39; stroke: #5d7089; }
    .name, .chip { fill: #eef3f9; }
    .what { fill: #aab8c9; }
    .way { stroke: #8ea1b9; }
    .head { fill: #8ea1b9; }
  }
"""
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0 0.6 L8 4 L0 7.4 Z"/></marker></defs>'
)


class LawError(Exception):
    """The house and its law do not fit."""


@dataclass
class House:
    """Who stands where, and who imports whom."""

    floors: list[list[str]]
    """Rooms by floor, from the roof down."""
    hall: list[str]
    """Modules that all rooms stand on, in alphabetical order."""
    imports: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Room -> rooms that it imports, the hall left out."""


def law() -> list[list[str]]:
    """The floors of the contract in pyproject.toml, from the roof down."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = cast("list[dict[str, Any]]", told["tool"]["importlinter"]["contracts"])
    layers = next(cast("list[str]", contract["layers"]) for contract in contracts if contract["type"] == "layers")
    return [[name.strip(" ()\n") for name in layer.replace("|", ":").split(":")] for layer in layers]


def house() -> House:
    """The house as it stands.

    Raises:
        LawError: a package or a module of the pipeline has no floor in the law.
    """
    floors = law()
    graph = grimp.build_graph(*sorted({name.partition(".")[0] for floor in floors for name in floor}), cache_dir=None)
    there = [[name for name in floor if name in graph.modules] for floor in floors]
    rooms = {name for floor in there for name in floor}
    # Below the lowest room that is a folder there are only files: the hall.
    lowest = max(at for at, floor in enumerate(there) if any(graph.find_children(name) for name in floor))
    hall = sorted(name for floor in there[lowest + 1 :] for name in floor)
    found = House(there[: lowest + 1], hall, {name: set() for name in sorted(rooms)})
    for module in sorted(graph.modules):
        room = _room(module, rooms)
        if room is None and graph.find_children(module):
            continue
        if room is None:
            raise LawError(f"{module} has no floor; give it one in the contract of pyproject.toml that says `layers`")
        for imported in graph.find_modules_directly_imported_by(module):
            other = _room(imported, rooms)
            if other is not None and other != room and other not in hall:
                found.imports[room].add(other)
    return found


def _room(module: str, rooms: set[str]) -> str | None:
    parts = module.split(".")
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in rooms), None)


def reduced(imports: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """*imports* without those that a longer way says already; a circle is left as it is."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for other in imports.get(left.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return seen

    beyond = {room: reached(room) for room in imports}
    return {
        room: sorted(one for one in ones if not any(one in beyond[other] for other in ones if other != one))
        for room, ones in imports.items()
    }


@dataclass
class Spot:
    """A box, or the place at which an arrow passes a floor."""

    name: str
    """Of the room; empty where an arrow passes."""
    floor: int
    width: float
    x: float = 0.0
    """Of its middle."""
    above: list["Spot"] = field(default_factory=list["Spot"])
    below: list["Spot"] = field(default_factory=list["Spot"])


def spots(there: House) -> tuple[list[list[Spot]], list[list[Spot]]]:
    """(boxes and places by floor, arrows as the spots that they run through from their room to the imported one)."""
    floor_of = {name: at for at, floor in enumerate(there.floors) for name in floor}
    rows = [[Spot(name, at, _wide(len(floor))) for name in floor] for at, floor in enumerate(there.floors)]
    boxes = {spot.name: spot for row in rows for spot in row}
    ways: list[list[Spot]] = []
    for room, others in reduced(there.imports).items():
        for other in others:
            start, end = floor_of.get(room), floor_of[other]
            if start is None or end <= start:
                continue  # against the law, which `lint-imports` tells
            passed = [Spot("", at, PASS) for at in range(start + 1, end)]
            for spot in passed:
                rows[spot.floor].append(spot)
            way = [boxes[room], *passed, boxes[other]]
            for one, next_ in pairwise(way):
                one.below.append(next_)
                next_.above.append(one)
            ways.append(way)
    return rows, ways


def _wide(boxes: int) -> float:
    return max(NARROWEST, min(WIDEST, (WIDTH - 2 * MARGIN - APART * boxes) / boxes - 2 * APART))


def ordered(rows: list[list[Spot]]) -> list[list[Spot]]:
    """*rows* in an order with few crossings: the best of some sweeps by the mean place of the neighbours."""
    best = rows
    now = rows
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        now = [list(row) for row in now]
        for row in now if down else reversed(now):
            at = {id(spot): n for other in now for n, spot in enumerate(other)}
            keys = {id(spot): _mean_place(spot, at, down=down) for spot in row}
            row.sort(key=lambda spot, keys=keys: keys[id(spot)])
        best = min(best, now, key=crossings)
    return best


def _mean_place(spot: Spot, at: Mapping[int, int], *, down: bool) -> float:
    near = (spot.above if down else spot.below) or [spot]
    return sum(at[id(other)] for other in near) / len(near)


def crossings(rows: Sequence[Sequence[Spot]]) -> int:
    """How often two arrows cross."""
    count = 0
    for upper, lower in pairwise(rows):
        order = {id(spot): at for at, spot in enumerate(lower)}
        ends = [(at, order[id(other)]) for at, spot in enumerate(upper) for other in spot.below]
        count += sum(one[0] < two[0] and one[1] > two[1] for one in ends for two in ends)
    return count


def place(rows: Sequence[Sequence[Spot]]) -> None:
    """Give every spot its x: near to those that it is linked with, in its order, apart from its neighbours."""
    middle = WIDTH / 2
    for row in rows:
        _apart(row, [middle] * len(row))
    for turn in range(4 * SWEEPS):
        for row in rows if turn % 2 else reversed(rows):
            _apart(row, [_wanted(spot, middle) for spot in row])


def _wanted(spot: Spot, middle: float) -> float:
    if spot.name and spot.floor < UNDER_ROOF:
        return middle
    near = [*spot.above, *spot.below]
    # A place between two others makes a straight way; a box keeps near to the middle.
    weights = [4.0 if not (spot.name or other.name) else 1.0 for other in near] + [0.5 if spot.name else 0.0]
    at = [other.x for other in near] + [middle]
    return sum(weight * x for weight, x in zip(weights, at, strict=True)) / sum(weights)


def _apart(row: Sequence[Spot], wanted: Sequence[float]) -> None:
    """The places nearest to *wanted* that keep order and distance: pool adjacent violators, then the walls."""
    if not row:
        return
    steps = [0.0]
    for one, other in pairwise(row):
        steps.append(steps[-1] + (one.width + other.width) / 2 + APART)
    blocks: list[list[float]] = []
    for x, step in zip(wanted, steps, strict=True):
        blocks.append([x - step, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, n), (other, m) = blocks[-2:]
            blocks[-2:] = [[(mean * n + other * m) / (n + m), n + m]]
    low = MARGIN * 1.5 + row[0].width / 2
    high = WIDTH - MARGIN * 1.5 - row[-1].width / 2 - steps[-1]
    level = [min(max(mean, low), max(high, low)) for mean, n in blocks for _ in range(int(n))]
    for spot, x, step in zip(row, level, steps, strict=True):
        spot.x = x + step


def svg(there: House) -> str:
    """The picture."""
    rows, ways = spots(there)
    rows = ordered(rows)
    place(rows)
    top = ROOF + GAP / 2
    tall = [top + at * (BOX + GAP) for at in range(len(rows) + 1)]
    hall, deep = _hall(there.hall, tall[-1])
    height = tall[-1] + deep + MARGIN
    eaves = tall[UNDER_ROOF] - GAP / 2
    left, right = MARGIN, WIDTH - MARGIN
    walls = (
        f"M{left} {height - MARGIN:.0f} V{eaves:.0f} L{WIDTH / 2:.0f} 10 L{right} {eaves:.0f} V{height - MARGIN:.0f} Z"
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
        f"<title>The rooms of jurybox and who imports whom</title><desc>{escape(_told(there))}</desc>",
        f"<style>{STYLE}</style>",
        HEAD,
        f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>',
        f'<path class="wall" d="{walls}"/>',
        *(f'<path class="floor" d="M{left} {y - GAP / 2:.0f} H{right}"/>' for y in tall[UNDER_ROOF:]),
        *(f'<path class="way" marker-end="url(#head)" d="{path}"/>' for path in _paths(ways, tall)),
        *(line for row in rows for spot in row if spot.name for line in _box(spot, tall[spot.floor])),
        *hall,
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _told(there: House) -> str:
    ways = (
        f"{_short(room)} imports {', '.join(map(_short, ones))}"
        for room, ones in reduced(there.imports).items()
        if ones
    )
    return "; ".join(ways) + f". All stand on the hall: {', '.join(map(_short, there.hall))}."


def _paths(ways: Iterable[Sequence[Spot]], tall: Sequence[float]) -> Iterator[str]:
    """Curves from the foot of a box, straight through the floors that it passes, to the head of another."""
    for way in ways:
        at = _port(way[0], way[1], up=False)
        path = f"M{at:.1f} {tall[way[0].floor] + BOX:.1f}"
        for here, there in pairwise(way):
            y, below = tall[here.floor] + BOX, tall[there.floor]
            at, to = _port(here, there, up=False), _port(there, here, up=True)
            bend = (below - y) / 2
            path += f" C{at:.1f} {y + bend:.1f} {to:.1f} {below - bend:.1f} {to:.1f} {below - 2 * bool(there.name):.1f}"
            if not there.name:
                path += f" V{below + BOX:.1f}"
        yield path


def _port(spot: Spot, other: Spot, *, up: bool) -> float:
    """Where on *spot*'s edge the arrow from or to *other* stands: in the order of the others, evenly."""
    if not spot.name:
        return spot.x
    near = sorted(spot.above if up else spot.below, key=lambda one: one.x)
    at = next(n for n, one in enumerate(near) if one is other)
    room = min(spot.width - 40, 26.0 * (len(near) - 1))
    return spot.x + (room * (at / (len(near) - 1) - 0.5) if len(near) > 1 else 0.0)


def _box(spot: Spot, y: float) -> Iterator[str]:
    x, name = spot.x - spot.width / 2, spot.name
    kind = "roof" if name in {"jurybox", "flows", "dashboard"} else "own" if "." not in name else "room"
    yield f'<g class="{kind}">{_rect(x, y, spot.width, BOX)}'
    yield _text("name", spot.x, y + 21, _short(name))
    for at, line in enumerate(_lines(_what(name), int((spot.width - 12) / LETTERS))):
        yield _text("what", spot.x, y + 37 + 14 * at, line)
    yield "</g>"


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7"/>'


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" text-anchor="middle" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _lines(text: str, letters: int) -> list[str]:
    """*text* in two lines of at most so many *letters*, less the clauses at its end that do not fit."""
    while len(lines := wrap(text, letters)) > LINES:
        shorter = max(text.rpartition(mark)[0] for mark in (", ", ": ", "; ", " ("))
        if not shorter:
            return [*lines[: LINES - 1], f"{lines[LINES - 1][: letters - 1]}\u2026"]
        text = shorter
    return lines


def _hall(names: Sequence[str], y: float) -> tuple[list[str], float]:
    """The hall's box with the names of its modules, and its height."""
    words = ", ".join(_short(name) for name in names)
    # Lines of about one length.
    lines = wrap(words, len(words) // -(-len(words) // 130) + 12)
    tall = 34 + 20 * len(lines)
    rows = [_text("chip", WIDTH / 2, y + 42 + 20 * at, line.rstrip(",")) for at, line in enumerate(lines)]
    box = _rect(1.5 * MARGIN, y, WIDTH - 3 * MARGIN, tall)
    title = _text("name", WIDTH / 2, y + 22, "the hall: what all rooms stand on")
    return ['<g class="hall">', box, title, *rows, "</g>"], tall + GAP / 2


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _what(name: str) -> str:
    """The first sentence of a room's docstring, without the room's own name before a colon."""
    place = ROOT / name.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    said = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    first = " ".join(said.split()).split(". ")[0].rstrip(".")
    head, _, rest = first.partition(": ")
    said = rest if rest and head.lower() == _short(name) else first
    return said[:1].upper() + said[1:] if " " in said.split(":")[0] else said
