"""Pieces of Jinja templates for tools in ChatML, as Qwen2.5 and Qwen3 both write them.

Source: the published chat templates of Qwen2.5-Instruct and Qwen3.
"""

import json

from danlu.tokenizer.chat.jinja_answers import Answers

ANSWERS = Answers("<|im_start|>assistant\n", ("<|im_end|>\n",))
STOPS = ("<|im_end|>", "<|endoftext|>")

_BEFORE_TOOLS = (
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER_TOOLS = (
    "\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)

# A tool's answer: neighbouring ones share a turn of the user.
RESULT = (
    "{%- if loop.first or loop.previtem['role'] != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' ~ message['content'] ~ '\\n</tool_response>' }}"
    "{%- if loop.last or loop.nextitem['role'] != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}"
)


def system_block(default: str | None) -> str:
    """Return the template of the system turn, which also lists the tools.

    Args:
        default: the system text where the conversation has none; None for no text.
    """
    none = "none" if default is None else json.dumps(default)
    return (
        "{%- set given = messages[0]['role'] == 'system' %}"
        f"{{%- set system = messages[0]['content'] if given else {none} %}}"
        "{%- if tools or system is not none %}{{- '<|im_start|>system\\n' }}{%- endif %}"
        "{%- if tools %}"
        "{%- if system is not none %}{{- system ~ '\\n\\n' }}{%- endif %}"
        f"{{{{- {json.dumps(_BEFORE_TOOLS)} }}}}"
        "{%- for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{%- endfor %}"
        f"{{{{- {json.dumps(_AFTER_TOOLS)} }}}}"
        "{%- elif system is not none %}{{- system ~ '<|im_end|>\\n' }}{%- endif %}"
    )


def calls(arguments: str) -> str:
    """Return the template of the calls in an answer whose text is in `content`.

    Args:
        arguments: the expression that writes `call.arguments`.
    """
    return (
        "{%- for entry in message['tool_calls'] or [] %}"
        "{%- set call = entry['function'] or entry %}"
        "{%- if content or not loop.first %}{{- '\\n' }}{%- endif %}"
        "{{- '<tool_call>\\n{\"name\": \"' ~ call['name'] ~ '\", \"arguments\": ' }}"
        f"{{{{- {arguments} ~ '}}\\n</tool_call>' }}}}"
        "{%- endfor %}"
    )
