"""A config -> commented YAML: each key with its help text above it, for a person to edit."""

import textwrap
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from danlu.config.base import Config
from danlu.config.yaml_text import scalar_text

_WIDTH = 96


def dump_yaml(config: Config) -> str:
    """Return `config` as YAML with the help text of each field as a comment.

    Fields without a default are marked "required". Loading the text gives an equal config back.
    """
    return "\n".join(_model_lines(config, indent="")) + "\n"


def _model_lines(config: BaseModel, indent: str) -> Iterator[str]:
    written = config.model_dump(mode="json")
    fields = sorted(type(config).model_fields.items(), key=lambda item: item[0] != "method")
    for position, (name, field) in enumerate(fields):
        if position and not indent:
            yield ""
        yield from _comment(field, indent)
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _model_lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {scalar_text(written[name])}"


def _comment(field: FieldInfo, indent: str) -> Iterator[str]:
    text = (field.description or "") + (" (required)" if field.is_required() else "")
    for line in textwrap.wrap(text.strip(), _WIDTH - len(indent)):
        yield f"{indent}# {line}"
