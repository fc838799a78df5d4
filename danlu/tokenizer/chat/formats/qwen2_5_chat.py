"""Qwen2.5's chat: ChatML with a default system text, and tools in the system turn.

Source: the published chat template of Qwen2.5-Instruct.
"""

from danlu.tokenizer.chat.chatml_tools import ANSWERS, RESULT, STOPS, calls, system_block
from danlu.tokenizer.chat.jinja_format import JinjaFormat

SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TEMPLATE = (
    system_block(default=SYSTEM) + "{%- for message in messages %}"
    "{%- set content = message['content'] or '' %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' ~ content }}"
    + calls("call['arguments'] | tojson")
    + "{{- '<|im_end|>\\n' }}"
    "{%- elif message['role'] == 'tool' %}"
    + RESULT
    + "{%- elif message['role'] == 'user' or (message['role'] == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ content ~ '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

FORMAT = JinjaFormat(
    {"default": TEMPLATE},
    "the built-in format 'qwen2.5-chat'",
    name="qwen2.5-chat",
    tool_role="tool",
    stops=STOPS,
    answers=ANSWERS,
)
