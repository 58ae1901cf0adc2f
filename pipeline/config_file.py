"""A config file as it is written: YAML in, a checked Config out, every fault with file, line, key and remedy.

Reads that file and nothing else. What a file may do to its reader is bounded: its bytes, its depth, and what its
aliases stand for.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import NOT_SHOWN, Config
from pipeline.errors import ConfigError
from pipeline.secrets import masked
from pipeline.shown import line as shown

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""Values of a file, those counted again that an alias repeats."""
DEEPEST = 64
SHOWN = 200
"""Characters that are shown of a wrong value."""


class _Loader(yaml.SafeLoader):
    """Tells where a value stands that Python cannot hold, such as a number of 5,000 digits.

    What looks like a date is text, as in `api-version: 2024-10-21`.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """See SafeConstructor."""
        try:
            return cast("Any", super()).construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"the value cannot be read ({type(error).__name__}: {error})"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, found) for tag, found in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in cast("dict[str, Any]", yaml.SafeLoader.yaml_implicit_resolvers).items()
}


def load(path: Path) -> Config:
    """The config at *path*.

    Raises:
        ConfigError: naming the file, each wrong key with its line, what was found and what is allowed.
    """
    tree, data = parsed(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {type(data).__name__}, a config is a mapping of keys; see `init`")
    try:
        return Config.model_validate(data, context={"base": path.resolve().parent})
    except ValidationError as error:
        lines = [_explain(path, tree, cast("Mapping[str, Any]", problem)) for problem in error.errors()]
        # The error itself repeats every value: what may be a secret would stand in a traceback.
        raise ConfigError("\n".join(lines)) from None


def mapping(path: Path) -> dict[str, Any]:
    """The YAML mapping at *path*, unchecked; empty when there is no file, or it holds something else.

    Raises:
        ConfigError: it cannot be read.
    """
    if not path.is_file():
        return {}
    _, data = parsed(path)
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def parsed(path: Path) -> tuple[yaml.Node | None, object]:
    """The nodes of a YAML file, with their lines, and its data.

    Raises:
        ConfigError: it cannot be read, is no YAML, or holds more than a config can.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML config") from error
    if len(raw) > MOST_BYTES:
        raise ConfigError(f"{path}: is larger than {MOST_BYTES:,} bytes, which no config is; give the path of one")
    try:
        loader: Any = _Loader(text)
        tree = cast("yaml.Node | None", loader.get_single_node())
        if tree is not None:
            _measured(path, tree, {})
        # Looked for before merge keys (`<<`) are resolved, for what a mapping merges it may give anew.
        for line, key in _repeated(tree):
            raise ConfigError(f"{path}:{line}: {shown(key, SHOWN)}: the key is given twice; keep one")
        return tree, None if tree is None else loader.construct_document(tree)
    except yaml.MarkedYAMLError as error:
        # Without the piece of the file that the library shows: a secret may stand in it.
        said = ", ".join(filter(None, (error.context, error.problem)))
        where = error.problem_mark or error.context_mark
        # What is missing at the end is told at the last line, not on one behind it.
        place = path if where is None else f"{path}:{min(where.line + 1, max(len(text.splitlines()), 1))}"
        raise ConfigError(f"{place}: is not valid YAML: {shown(masked(said), SHOWN)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {shown(masked(str(error)), SHOWN)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply; write it flatter") from None


def _measured(path: Path, node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values *node* stands for and how deep they go, every aliased node looked at once.

    Raises:
        ConfigError: it holds itself, or more than a config can.
    """
    line = node.start_mark.line + 1
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise ConfigError(f"{path}:{line}: the anchor here holds an alias (`*name`) of itself; write it out")
        return found
    known[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [one for pair in cast("list[tuple[yaml.Node, yaml.Node]]", node.value) for one in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = cast("list[yaml.Node]", node.value)
    below = [_measured(path, one, known) for one in inner]
    size, depth = 1 + sum(count for count, _ in below), 1 + max((deep for _, deep in below), default=0)
    if size > MOST_VALUES:
        raise ConfigError(
            f"{path}:{line}: stands for more than {MOST_VALUES:,} values, its aliases (`*name`) counted; write only "
            "what is needed"
        )
    if depth > DEEPEST:
        raise ConfigError(f"{path}:{line}: is nested more than {DEEPEST} deep; write it flatter")
    known[id(node)] = (size, depth)
    return size, depth


def _repeated(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """(line, key) of every key that a mapping has a second time; YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in cast("list[tuple[yaml.ScalarNode, yaml.Node]]", node.value):
            if str(key.value) in seen:
                yield key.start_mark.line + 1, str(key.value)
            seen.add(str(key.value))
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in cast("list[yaml.Node]", node.value):
            yield from _repeated(item)


def _explain(path: Path, tree: yaml.Node | None, problem: Mapping[str, Any]) -> str:
    keys = cast("Sequence[str | int]", problem["loc"])
    named = ".".join(shown(str(key), SHOWN) for key in keys)
    where = f"{path}:{_line(tree, keys)}: {named or 'config'}"
    if problem["type"] == "extra_forbidden":
        allowed = _allowed(keys[:-1])
        close = difflib.get_close_matches(str(keys[-1]), allowed, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: required key is missing; {_description(keys)}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{_found(problem)}"


def _found(problem: Mapping[str, Any]) -> str:
    """The wrong value, as far as it may be shown."""
    found = problem.get("input")
    if problem["type"] == NOT_SHOWN or isinstance(found, Mapping | list | BaseModel):
        return ""
    try:
        return f"; found {shown(masked(repr(found)), SHOWN)}"
    except ValueError:  # Python writes no number of so many digits
        return "; found a number of thousands of digits"


def _line(tree: yaml.Node | None, keys: Sequence[str | int]) -> int:
    """1-based line of the deepest part of *keys* that the file has."""
    node, line = tree, 1
    for key in keys:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in cast("list[tuple[yaml.ScalarNode, yaml.Node]]", node.value):
                if key_node.value == str(key):
                    line, found = key_node.start_mark.line + 1, value_node
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            items = cast("list[yaml.Node]", node.value)
            found = items[key] if key < len(items) else None
            line = found.start_mark.line + 1 if found is not None else line
        if found is None:
            break
        node = found
    return line


def _models_at(keys: Sequence[str | int]) -> list[type[BaseModel]]:
    """Every model that the value at *keys* may have: subclasses included, for kinds with keys of their own."""
    models: list[type[BaseModel]] = [Config]
    for key in keys:
        if isinstance(key, int):
            continue
        inner = [m.model_fields[key].annotation for m in models if key in m.model_fields]
        found = [model for annotation in inner for model in _models_in(annotation)]
        models = found or models
    return [known for model in models for known in _with_subclasses(model)]


def _with_subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for known in model.__subclasses__():
        yield from _with_subclasses(known)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    arguments = cast("tuple[object, ...]", getattr(annotation, "__args__", ()))
    return [model for argument in arguments for model in _models_in(argument)]


def _allowed(keys: Sequence[str | int]) -> list[str]:
    return sorted({name for model in _models_at(keys) for name in model.model_fields})


def _description(keys: Sequence[str | int]) -> str:
    for model in _models_at(keys[:-1]):
        field = model.model_fields.get(str(keys[-1]))
        if field is not None and field.description:
            return field.description
    return "see `jurybox schema`"
