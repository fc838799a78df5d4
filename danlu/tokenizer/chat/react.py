"""ReAct: tools as text in front of a question, and the call that an answer asks for.

Source: `examples/react_demo.py` of QwenLM/Qwen (`build_input_text`, `parse_latest_plugin_call`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.errors import TokenizerError, bullet_list, did_you_mean
from danlu.tokenizer.chat.chat_format import Tool

OBSERVATION = "Observation:"
ACTION = "\nAction:"
ACTION_INPUT = "\nAction Input:"
ARGUMENTS = {
    "json": "Format the arguments as a JSON object.",
    "code": "Enclose the code within triple backticks (`) at the beginning and end of the code.",
}
INSTRUCTIONS = """\
Answer the following questions as best you can. You have access to the following APIs:

{tools}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: """


@dataclass(frozen=True)
class ReactCall:
    """A tool to be called: its name and its input as written."""

    name: str
    arguments: str


@dataclass(frozen=True)
class ReactAnswer:
    """An answer and the call it ends with; `text` goes back into the conversation."""

    text: str
    call: ReactCall | None


def question_with_tools(tools: Sequence[Tool]) -> str:
    """Return what stands in front of a question, "" without tools.

    A tool is an object in the family's own form (`name_for_model`, `name_for_human`,
    `description_for_model`, `parameters`, and `args_format` "json" or "code"), or a function schema
    (`{"type": "function", "function": {"name", "description", "parameters"}}`).

    Raises:
        TokenizerError: naming everything that is wrong with any tool.
    """
    if not tools:
        return ""
    problems = [
        f"tools[{index}]: {problem}"
        for index, tool in enumerate(tools)
        for problem in _tool_problems(tool)
    ]
    if problems:
        raise TokenizerError(
            f"The tools cannot be shown:{bullet_list(problems)}\nA tool needs a name "
            "(name_for_model), a description (description_for_model) and parameters."
        )
    described = [_own_form(tool) for tool in tools]
    names = ", ".join(tool["name_for_model"] for tool in described)
    return INSTRUCTIONS.format(tools="\n\n".join(map(_line, described)), names=names)


def parse_react(text: str) -> ReactAnswer:
    """Return the call that the last Action and Action Input in an answer ask for.

    A missing Observation counts as written at the end, since generation stops in front of it. The
    text is returned up to the Observation.
    """
    observation = f"\n{OBSERVATION}"
    action, arguments = text.rfind(ACTION), text.rfind(ACTION_INPUT)
    end = text.rfind(observation)
    if not 0 <= action < arguments:
        return ReactAnswer(text, None)
    if end < arguments:
        text = text.rstrip() + observation
        end = text.rfind(observation)
    call = ReactCall(
        name=text[action + len(ACTION) : arguments].strip(),
        arguments=text[arguments + len(ACTION_INPUT) : end].strip(),
    )
    return ReactAnswer(text[:end], call)


def _own_form(tool: Tool) -> Mapping[str, Any]:
    """Return a tool in the family's form."""
    function = tool.get("function", tool)
    name = function.get("name_for_model", function.get("name"))
    return {
        "name_for_model": name,
        "name_for_human": function.get("name_for_human", name),
        "description": function.get("description_for_model", function.get("description")),
        "parameters": function.get("parameters"),
        "args_format": function.get("args_format", "json"),
    }


def _line(tool: Mapping[str, Any]) -> str:
    human, parameters = tool["name_for_human"], json.dumps(tool["parameters"], ensure_ascii=False)
    return (
        f"{tool['name_for_model']}: Call this tool to interact with the {human} API. "
        f"What is the {human} API useful for? {tool['description']} Parameters: {parameters} "
        f"{ARGUMENTS[tool['args_format']]}"
    )


def _tool_problems(tool: object) -> list[str]:
    if not isinstance(tool, Mapping) or not isinstance(tool.get("function", tool), Mapping):
        return [f"is {tool!r:.80}, expected an object"]
    own = _own_form(tool)
    problems = [
        f"has no {name} (a text)"
        for name in ("name_for_model", "description")
        if not isinstance(own[name], str)
    ]
    if own["parameters"] is None:
        problems.append("has no parameters")
    if own["args_format"] not in ARGUMENTS:
        hint = did_you_mean(str(own["args_format"]), ARGUMENTS)
        problems.append(f"args_format {own['args_format']!r}, expected json or code.{hint}")
    return problems
