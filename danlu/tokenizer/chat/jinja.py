"""Chat templates in a sandbox, with the helpers that published templates expect.

Source: `transformers.utils.chat_template_utils` 5.23 (trim_blocks, lstrip_blocks, loop controls,
`tojson` without ASCII escapes, `raise_exception`, `strftime_now`, `{% generation %}`).
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from danlu.errors import ChatFormatError, TokenizerError

_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


MARKERS = ("generation_begins", "generation_ends")  # variables: what `{% generation %}` writes


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: its body between the two `MARKERS`."""

    tags = {"generation"}  # noqa: RUF012 (the base class wants a set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes of the body, with an output of each marker around them."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begins, ends = (
            nodes.Output([nodes.Name(marker, "load", lineno=line)], lineno=line)
            for marker in MARKERS
        )
        return [begins, *body, ends]


def render_template(source: str, origin: str, variables: dict[str, Any], now: datetime) -> str:
    """Render a chat template; `now` is what `strftime_now` tells.

    Raises:
        TokenizerError: if the template is wrong or refuses the conversation.
    """
    template = _compile(source, origin)
    strftime: Callable[[str], str] = now.strftime
    try:
        return template.render(**variables, strftime_now=strftime)
    except _FAILURES as error:
        raise TokenizerError(
            f"The chat template of {origin} cannot write this conversation: {error}. "
            "Change the messages as it asks, or choose another format."
        ) from None


def variables_of(source: str, origin: str) -> set[str]:
    """Return the names of the variables that a chat template reads from outside.

    A name that the template also sets counts only where it asks whether it is defined.

    Raises:
        TokenizerError: if the template is wrong.
    """
    _compile(source, origin)
    tree = _environment().parse(source)
    read = meta.find_undeclared_variables(tree)
    set_here = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    return (read - set_here) | (read & _optional(tree))


def _optional(tree: nodes.Template) -> set[str]:
    tests = [test.node for test in tree.find_all(nodes.Test) if test.name == "defined"]
    filters = [entry.node for entry in tree.find_all(nodes.Filter) if entry.name == "default"]
    return {node.name for node in [*tests, *filters] if isinstance(node, nodes.Name)}


@cache
def _compile(source: str, origin: str) -> Template:
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise ChatFormatError(
            f"The chat template of {origin} is not valid Jinja: {error.message} "
            f"(line {error.lineno}). Fix it, or choose another format."
        ) from None


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes HTML characters, which a prompt must not have."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
