"""Functions on offer and calls of them, brought into the one form that chat templates expect.

A function is `{"type": "function", "function": {"name", "description", "parameters"}}`, a call
`{"type": "function", "function": {"name", "arguments": {...}}}` (OpenAI's form). Rows may also name
the function without the wrapping, and write lists, calls and arguments as JSON text.
"""

from collections.abc import Iterator
from typing import Any

from danlu.data.examples import Tool
from danlu.data.shaping.fields import BadRow, Row, described, from_json, list_of

_NAMES = ("name", "name_for_model")  # the second as Qwen's ReAct files write it


def tools_of(row: Row) -> list[Tool] | None:
    """Return the functions under `tools`; None where there are none.

    Raises:
        BadRow: if it is no list of functions, or the schema of one refers to itself, to something
            that is not there, or to another document.
    """
    if row.get("tools") in (None, "", "[]", []):
        return None
    return [_tool(tool, number) for number, tool in enumerate(list_of(row, "tools"), start=1)]


def _tool(tool: object, number: int) -> Tool:
    if isinstance(tool, str):
        tool = from_json(tool, f"tool {number}")
    if not isinstance(tool, dict):
        raise BadRow(f"tool {number} is {described(tool)}, not an object")
    function = tool.get("function") if "function" in tool else tool
    if not isinstance(function, dict):
        raise BadRow(f"the function of tool {number} is {described(function)}, not an object")
    if not any(isinstance(function.get(key), str) and function[key] for key in _NAMES):
        raise BadRow(f"tool {number} has no name; its keys are {sorted(map(str, function))}")
    _check_references(function, f"tool {number} ({function.get('name', '')})")
    return tool if function is not tool else {"type": "function", "function": function}


def calls_of(value: object, where: str) -> list[Tool]:
    """Return the calls of an assistant: one or a list, as objects or as JSON text."""
    if isinstance(value, str):
        value = from_json(value, where)
    calls = value if isinstance(value, list) else [value]
    return [_call(call, where) for call in calls]


def _call(call: object, where: str) -> Tool:
    if not isinstance(call, dict):
        raise BadRow(f"{where} holds {described(call)} instead of a call")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"{where} names no function; expected a 'name' and 'arguments'")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = from_json(arguments, f"'arguments' in {where}") if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise BadRow(f"'arguments' in {where} is {described(arguments)}, not an object")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    written = {"name": function["name"], "arguments": arguments}
    return {**identity, "type": "function", "function": written}


def _check_references(function: dict[str, Any], what: str) -> None:
    """Refuse a schema that is endless when it is followed: a `$ref` to where it stands.

    A chat template prints a schema as it is; every reader of the prompt (and every grammar made of
    it) follows the references.
    """
    root = function.get("parameters", function)
    if isinstance(root, str):
        root = from_json(root, f"the parameters of {what}")
    if isinstance(root, dict):
        _follow(root, root, (), set(), what)


def _follow(
    schema: object, root: dict[str, Any], way: tuple[str, ...], finite: set[str], what: str
) -> None:
    """Follow every reference in `schema`; `finite` gathers those found to come to an end."""
    for reference in _references(schema):
        if reference in way or reference == "#":
            raise BadRow(
                f"the schema of {what} refers to itself: {' -> '.join((*way, reference))}; "
                "write it out to the depth you need"
            )
        if reference not in finite:
            _follow(_resolved(reference, root, what), root, (*way, reference), finite, what)
            finite.add(reference)


def _references(schema: object) -> Iterator[str]:
    """Yield every `$ref` that is written anywhere in a schema."""
    inside = [schema]
    while inside:
        value = inside.pop()
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            inside.extend(value.values())
        elif isinstance(value, list):
            inside.extend(value)


def _resolved(reference: str, root: dict[str, Any], what: str) -> object:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if not reference.startswith("#/") or not isinstance(found, dict) or name not in found:
            raise BadRow(f"the schema of {what} refers to {reference!r}, which it does not hold")
        found = found[name]
    return found
