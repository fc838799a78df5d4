"""Qwen3's chat: ChatML with tools and thinking; no default system text.

What the assistant thought in front of earlier questions is left out. `enable_thinking` false opens
the answer with an empty thought. An answer after the last question has a thought, if only an empty
one, where it is the last message; it is learned with the answer.
Source: the published chat template of Qwen3.
"""

from dataclasses import replace

from danlu.tokenizer.chat.chatml_tools import ANSWERS, RESULT, STOPS, calls, system_block
from danlu.tokenizer.chat.jinja_format import JinjaFormat

LAST_QUESTION = (
    "{%- set ns = namespace(question=messages | length - 1) %}"
    "{%- for message in messages %}"
    "{%- set text = message['content'] or '' %}"
    "{%- set is_result = text.startswith('<tool_response>') and "
    "text.endswith('</tool_response>') %}"
    "{%- if message['role'] == 'user' and not is_result %}"
    "{%- set ns.question = loop.index0 %}"
    "{%- endif %}"
    "{%- endfor %}"
)
ANSWER = (
    "{%- set parts = content.split('</think>') %}"
    "{%- set told = message['reasoning_content'] is string %}"
    "{%- set written = parts[0].rstrip('\\n').split('<think>')[-1] if parts[1:] else '' %}"
    "{%- set thought = message['reasoning_content'] if told else written %}"
    "{%- set content = parts[-1].lstrip('\\n') if parts[1:] and not told else content %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.index0 > ns.question and (loop.last or thought.strip('\\n')) %}"
    "{%- set content = content.lstrip('\\n') %}"
    "{{- '<think>\\n' ~ thought.strip('\\n') ~ '\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{{- content }}"
)
TEMPLATE = (
    system_block(default=None) + LAST_QUESTION + "{%- for message in messages %}"
    "{%- set content = message['content'] or '' %}"
    "{%- if message['role'] == 'assistant' %}"
    + ANSWER
    + calls("call['arguments'] if call['arguments'] is string else call['arguments'] | tojson")
    + "{{- '<|im_end|>\\n' }}"
    "{%- elif message['role'] == 'tool' %}"
    + RESULT
    + "{%- elif message['role'] == 'user' or (message['role'] == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ content ~ '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)

FORMAT = JinjaFormat(
    {"default": TEMPLATE},
    "the built-in format 'qwen3-chat'",
    name="qwen3-chat",
    tool_role="tool",
    stops=STOPS,
    answers=replace(ANSWERS, drops_thoughts=True),
)
