"""YAML text <-> plain values, by the YAML 1.2 core schema.

YAML 1.1 (PyYAML's default) reads `1e-4` as a text, `no` as false and `2024-01-01` as a date; each
has broken someone's run file. Here numbers are numbers, only true/false are booleans, and a key
written twice is an error instead of a silent last-one-wins.
"""

import math
import re
from typing import Any

import yaml

from danlu.errors import ConfigError

MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """A safe loader with the YAML 1.2 core scalars and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dict, refusing a key that is written twice."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes every text which YAML 1.1 or 1.2 would read as something else."""


_SCALARS = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
)
_Loader.yaml_implicit_resolvers = {}  # its own: not those of YAML 1.1 that it would inherit
for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
        )


def _construct_int(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # decimal: YAML 1.1 would read 010 as 8


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    special = str(node.value).lower().lstrip("+-").lstrip(".")
    sign = -1.0 if str(node.value).startswith("-") else 1.0
    return sign * float(special) if special in ("inf", "nan") else float(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str, origin: str) -> Any:
    """Return the plain value that `text` holds; `origin` names it in errors.

    Raises:
        ConfigError: if the text is not YAML, with the line and what was wrong there.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
        _check_size(value, origin)
        return value
    except RecursionError:
        raise ConfigError(
            f"{origin} is nested too deeply to be read. Expected lines 'key: value'."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{origin}{where} is not valid YAML: {problem}. "
            "Expected lines 'key: value', indented with spaces. Correct that line."
        ) from None


def _check_size(value: Any, origin: str) -> None:
    """Raise a `ConfigError` where anchors (&) and aliases (*) make a value endless, or nearly."""
    sizes: dict[int, float] = {}

    def size(part: Any) -> float:
        if not isinstance(part, dict | list):
            return 1
        if id(part) not in sizes:
            sizes[id(part)] = math.inf  # what it is while it holds itself
            parts = part.values() if isinstance(part, dict) else part
            sizes[id(part)] = 1 + sum(map(size, parts))
        return sizes[id(part)]

    if size(value) > MOST_VALUES:
        raise ConfigError(
            f"{origin} holds more than {MOST_VALUES:,} values once its aliases (*) are written "
            "out. Expected a run file. Write out what the aliases stand for."
        )


def scalar_text(value: Any) -> str:
    """Return `value` as YAML on one line; `parse_yaml` gives the same value back."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        allow_unicode=True,
        width=10_000,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    special = {float("inf"): ".inf", float("-inf"): "-.inf"}
    text = special.get(value, ".nan" if value != value else repr(value))
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)
