"""Llama-3.1's chat: as llama3-chat, with a system turn that tells dates, and tools.

Options: `date_string` (default "26 Jul 2024"), `tools_in_user_message` (default true: the tools
stand in front of the first question, else in the system turn).
Source: the published chat template of Llama-3.1-Instruct.
"""

from danlu.tokenizer.chat.formats.llama3_chat import ANSWERS
from danlu.tokenizer.chat.jinja_format import JinjaFormat

HEADERS = (
    "{%- macro header(role) %}"
    "{{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}"
    "{%- endmacro %}"
)
TOOLS = (
    "{%- macro list_tools() %}"
    '{{- \'Respond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}.Do not use variables.\\n\\n' }}"
    "{%- for tool in tools %}{{- (tool | tojson(indent=4)) ~ '\\n\\n' }}{%- endfor %}"
    "{%- endmacro %}"
)
SYSTEM = (
    "{%- set given = messages[0]['role'] == 'system' %}"
    "{%- set turns = messages[1:] if given else messages %}"
    "{%- set with_question = tools_in_user_message is not defined or tools_in_user_message %}"
    "{{- header('system') }}"
    "{%- if tools %}{{- 'Environment: ipython\\n' }}{%- endif %}"
    "{{- 'Cutting Knowledge Date: December 2023\\n' }}"
    "{{- 'Today Date: ' ~ (date_string | default('26 Jul 2024')) ~ '\\n\\n' }}"
    "{%- if tools and not with_question %}"
    "{{- 'You have access to the following functions. To call a function, please respond with "
    "JSON for a function call.' ~ list_tools() }}"
    "{%- endif %}"
    "{{- (messages[0]['content'] | trim if given else '') ~ '<|eot_id|>' }}"
)
QUESTION_WITH_TOOLS = (
    "{%- if tools and with_question and turns | length == 0 %}"
    "{{- raise_exception('Tools stand in front of the first question, and there is none.') }}"
    "{%- endif %}"
    "{%- if tools and with_question %}"
    "{{- header('user') }}"
    "{{- 'Given the following functions, please respond with a JSON for a function call with its "
    "proper arguments that best answers the given prompt.\\n\\n' ~ list_tools() }}"
    "{{- turns[0]['content'] | trim ~ '<|eot_id|>' }}"
    "{%- set turns = turns[1:] %}"
    "{%- endif %}"
)
TURNS = (
    "{%- for message in turns %}"
    "{%- if message['tool_calls'] %}"
    "{%- if message['tool_calls'] | length != 1 %}"
    "{{- raise_exception('This model makes one call at a time.') }}"
    "{%- endif %}"
    "{%- set call = message['tool_calls'][0]['function'] %}"
    "{{- header('assistant') ~ '{\"name\": \"' ~ call['name'] ~ '\", \"parameters\": ' }}"
    "{{- (call['arguments'] | tojson) ~ '}<|eot_id|>' }}"
    "{%- elif message['role'] in ('tool', 'ipython') %}"
    "{{- header('ipython') ~ (message['content'] | tojson) ~ '<|eot_id|>' }}"
    "{%- else %}"
    "{{- header(message['role']) ~ message['content'] | trim ~ '<|eot_id|>' }}"
    "{%- endif %}"
    "{%- endfor %}"
)
TEMPLATE = (
    HEADERS
    + TOOLS
    + "{{- bos_token }}"
    + SYSTEM
    + QUESTION_WITH_TOOLS
    + TURNS
    + "{%- if add_generation_prompt %}{{- header('assistant') }}{%- endif %}"
)

FORMAT = JinjaFormat(
    {"default": TEMPLATE},
    "the built-in format 'llama3.1-chat'",
    name="llama3.1-chat",
    tool_role="tool",
    stops=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    answers=ANSWERS,
)
