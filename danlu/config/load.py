"""Files and flags -> one frozen config, with every problem reported at once.

Precedence: an override `a.b=value` > the file > the field's default. The file is YAML, JSON, or
the `run.json` of an earlier run, whose resolved config is loaded: so outputs repeat their run.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from danlu.config.base import Config
from danlu.config.yaml_text import parse_yaml
from danlu.errors import ConfigError, bullet_list, did_you_mean

C = TypeVar("C", bound=Config)
MANIFEST_KEY = "config"


def load_config(cls: type[C], path: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Return the config that `path` and `overrides` describe.

    Args:
        cls: the config to build.
        path: a YAML or JSON file, or the run.json of an earlier run; None takes the defaults.
        overrides: texts `key.sub_key=value`, the value in YAML; the last of two equal keys wins.

    Raises:
        ConfigError: naming each wrong key with its path, what was expected and what was found.
    """
    values = _read_mapping(cls, path) if path else {}
    problems: list[str] = []
    flagged: set[str] = set()
    for override in overrides:
        _apply(override, values, flagged, problems)
    try:
        # Text, not objects: strict JSON validation takes paths as texts and tuples as lists,
        # which is how YAML writes them, and is as strict as ever about everything else.
        config = cls.model_validate_json(_json_text(values, path))
    except ValidationError as error:
        problems += [_describe(cls, detail, flagged) for detail in error.errors()]
    if problems:
        raise ConfigError(_summary(problems, path))
    return config


def _read_mapping(cls: type[Config], path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"The run file '{path}' does not exist. Expected a YAML or JSON file. "
            "`danlu init` writes one to edit."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Cannot read the run file '{path}': {error}. Expected a UTF-8 YAML or JSON file."
        ) from None
    values = parse_yaml(text, f"'{path}'")
    if not isinstance(values, dict):
        raise ConfigError(
            f"'{path}' holds {_kind(values)}; expected lines 'key: value'. "
            "`danlu init` writes a run file to edit."
        )
    resolved = values.get(MANIFEST_KEY)
    if isinstance(resolved, dict) and MANIFEST_KEY not in cls.model_fields:
        return resolved
    return values


def _apply(override: str, values: dict[str, Any], flagged: set[str], problems: list[str]) -> None:
    """Set one `key.sub_key=value` in `values`; what is wrong with it goes to `problems`."""
    dotted, equals, text = override.partition("=")
    *parents, last = dotted.strip().split(".")
    if not equals or not all([*parents, last]):
        problems.append(f"{override!r}: expected key=value, as in train.learning_rate=2e-5")
        return
    place = values
    for parent in parents:
        if place.get(parent) is None:  # a section not in the file yet, or null there
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            problems.append(f"{dotted}: {parent!r} is {_kind(place)}, so it has no key {last!r}")
            return
    try:
        place[last] = parse_yaml(text, f"the value of {dotted}")
    except ConfigError as error:
        problems.append(str(error))
    flagged.add(dotted.strip())


def _json_text(values: Mapping[str, Any], path: Path | None) -> str:
    where = f"'{path}'" if path else "the given options"
    try:
        text = json.dumps(values, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise ConfigError(
            f"{where}: a character in {near!r} is half of a pair, or a byte that is not UTF-8. "
            "Expected text in UTF-8. Write that character anew."
        ) from None
    except TypeError as error:
        raise ConfigError(f"{where}: {error}. Expected texts, numbers and lists only.") from None
    return text


def _describe(cls: type[Config], detail: ErrorDetails, flagged: set[str]) -> str:
    """Return one line about one problem that pydantic found."""
    where = _key_path(cls, detail["loc"])
    origin = " (from the command line)" if where in flagged else ""
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        known = {key for model in _models_at(cls, detail["loc"][:-1]) for key in model.model_fields}
        hint = did_you_mean(name, known) or f" Known keys: {', '.join(sorted(known))}."
        return f"{where}: unknown key{origin}.{hint}"
    if detail["type"] == "missing":
        return f"{where}: missing; {_expected(cls, detail['loc'])}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    found, near = _found(detail)
    return f"{where or 'the run'}: {message}{found}{origin}{near}"


def _found(detail: ErrorDetails) -> tuple[str, str]:
    """Return what a value is, and the closest of the texts that were expected."""
    value = detail["input"]
    known = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    if detail["type"] == "unknown_method":
        if not isinstance(value, dict):
            return f"; found {value!r}", ". Write it as {method: NAME}."
        value, known = value.get("method"), detail["msg"].partition("one of ")[2].split(", ")
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    return "" if isinstance(value, dict) else f"; found {value!r}", near and f".{near}"


def _expected(cls: type[Config], loc: tuple[int | str, ...]) -> str:
    for model in _models_at(cls, loc[:-1]):
        field = model.model_fields.get(str(loc[-1]))
        if field is not None and field.description:
            return f"expected {field.description}"
    return "this key has no default"


def _steps(cls: type[Config], loc: Sequence[int | str]) -> Iterator[tuple[int | str, bool]]:
    """Yield each part of a location and whether it is a key of the file.

    Pydantic also puts the name of a union's member into locations; that is no key.
    """
    models: list[type[BaseModel]] = [cls]
    for part in loc:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        members = {model.__name__ for model in models}
        is_tag = part in members or str(part).startswith("<")
        yield part, bool(fields) or not is_tag
        if fields:
            models = [found for field in fields for found in _nested_configs(field.annotation)]


def _key_path(cls: type[Config], loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part, is_key in _steps(cls, loc) if is_key)


def _models_at(cls: type[Config], loc: Sequence[int | str]) -> list[type[BaseModel]]:
    """Return the config classes that may stand at a location."""
    models: list[type[BaseModel]] = [cls]
    for part in loc:
        if isinstance(part, int):  # an item of a list
            continue
        named = [model for model in models if model.__name__ == part]
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = named or [found for field in fields for found in _nested_configs(field.annotation)]
    return models


def _nested_configs(annotation: Any) -> list[type[BaseModel]]:
    """Return the config classes that a field's annotation may hold, in its order."""
    if get_origin(annotation) in (Union, UnionType, Annotated, list):
        return [found for part in get_args(annotation) for found in _nested_configs(part)]
    is_config = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return [annotation] if is_config else []


def _kind(value: Any) -> str:
    names = {type(None): "nothing", str: "a text", bool: "a yes/no value", list: "a list"}
    return names.get(type(value), "a number")


def _summary(problems: Sequence[str], path: Path | None) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    where = f"'{path}'" if path else "the given options"
    return f"{count} in {where}:{bullet_list(problems)}"
