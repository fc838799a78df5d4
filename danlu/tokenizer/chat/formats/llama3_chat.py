"""Llama-3 chat: role headers between control tokens, contents stripped, `<|eot_id|>` at the end."""

from danlu.tokenizer.chat.jinja_answers import Answers
from danlu.tokenizer.chat.jinja_format import JinjaFormat

ANSWERS = Answers("<|start_header_id|>assistant<|end_header_id|>\n\n", ("<|eot_id|>", "<|eom_id|>"))
TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim ~ '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)

FORMAT = JinjaFormat(
    {"default": TEMPLATE},
    "the built-in format 'llama3-chat'",
    name="llama3-chat",
    stops=("<|eot_id|>", "<|end_of_text|>"),
    answers=ANSWERS,
)
