"""`chat_template.json`: a Jinja template in JSON, or a conversation in parts.

Two forms are read. Hugging Face processors write `{"chat_template": "..."}`. PaddleNLP writes
`system`, `conversation` (what shows a question and, learned, its answer: `{{user}}`, `{{bot}}`,
`{{index}}` from 0) and `query` (what asks for an answer: `{{query}}`, `{{index}}`); it is turned
into one equal Jinja template. A comma too many at the end of a list or object, as PaddleNLP's own
documentation has it, is overlooked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.errors import TokenizerError, bullet_list, did_you_mean
from danlu.files import parse_json
from danlu.tokenizer.chat.jinja import variables_of

PARTS = ("system", "conversation", "query")
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])')
_SHORT_DEFAULT = re.compile(r"(\{\{-?\s*\w+\s*\|\s*)('[^']*'|\"[^\"]*\")(\s*-?\}\})")


@dataclass(frozen=True)
class Parts:
    """The parts of a conversation as PaddleNLP writes them, each a Jinja template."""

    system: str
    question: str
    answer: str
    query: str


def templates_in_json(text: str, origin: str) -> dict[str, str]:
    """Return the templates by name of a `chat_template.json`.

    Raises:
        TokenizerError: naming everything that is wrong with the file.
    """
    document = _parse(text, origin)
    if "chat_template" in document:
        return _processor_templates(document["chat_template"], origin)
    template = template_of_parts(_parts(document, origin), origin)
    return {"default": template}


def template_of_parts(parts: Parts, origin: str) -> str:
    """Return the Jinja template that writes a conversation in these parts."""
    takes_system = "system" in variables_of(parts.system, origin)
    no_place = "raise_exception('This template has no place for a system message.')"
    given = "set system = messages[0]['content']" if takes_system else f"set _ = {no_place}"
    # Empty expressions keep a part's own white space from the rules for blocks at line ends.
    return (
        f"{{% if messages[0]['role'] == 'system' %}}{{% {given} %}}{{% endif %}}"
        f"{{{{ '' }}}}{parts.system}{{{{ '' }}}}"
        "{% set ns = namespace(index=-1) %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        "{% set ns.index = ns.index + 1 %}{% set index = ns.index %}"
        "{% if loop.last and add_generation_prompt %}"
        f"{{% set query = message['content'] %}}{{{{ '' }}}}{parts.query}{{{{ '' }}}}"
        "{% else %}"
        f"{{% set user = message['content'] %}}{{{{ '' }}}}{parts.question}{{{{ '' }}}}"
        "{% endif %}"
        "{% elif message['role'] == 'assistant' %}"
        "{% set index = ns.index %}{% set bot = message['content'] %}"
        f"{{{{ '' }}}}{parts.answer}{{{{ '' }}}}"
        "{% elif message['role'] != 'system' %}"
        "{{ raise_exception('This template has only system, user and assistant messages.') }}"
        "{% endif %}"
        "{% endfor %}"
    )


def _parse(text: str, origin: str) -> dict[str, Any]:
    without_commas = _STRING_OR_COMMA.sub(lambda found: found[0].removeprefix(","), text)
    try:
        document = parse_json(without_commas)
    except ValueError as error:
        raise TokenizerError(
            f"The chat template file '{origin}' is not valid JSON: {error}. Fix it there."
        ) from None
    if not isinstance(document, dict):
        raise TokenizerError(
            f"The chat template file '{origin}' holds a {type(document).__name__}; expected an "
            'object: {"chat_template": ...}, or system, conversation and query.'
        )
    return document


def _processor_templates(value: object, origin: str) -> dict[str, str]:
    """Return the templates that a processor's file holds: one, or several with names."""
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, Mapping) and all(isinstance(entry, str) for entry in value.values()):
        return {str(name): entry for name, entry in value.items()}
    raise TokenizerError(
        f"The chat template file '{origin}' has chat_template {value!r:.60}; expected a text, or "
        "an object of texts by name."
    )


def _parts(document: Mapping[str, Any], origin: str) -> Parts:
    problems = [
        f"unknown key {key!r}, expected {', '.join(PARTS)}.{did_you_mean(key, PARTS)}"
        for key in document
        if key not in PARTS
    ]
    texts = {name: document.get(name, "" if name == "system" else None) for name in PARTS}
    problems += [
        f"{name} is {texts[name]!r:.60}, expected a text"
        for name in ("system", "query")
        if not isinstance(texts[name], str)
    ]
    pair = texts["conversation"]
    is_pair = isinstance(pair, list) and [type(part) for part in pair] == [str, str]
    if not is_pair:
        problems.append(
            f"conversation is {pair!r:.60}, expected two texts: what shows the question, and what "
            "shows the answer"
        )
    if problems:
        raise TokenizerError(
            f"The chat template file '{origin}' cannot be used:{bullet_list(problems)}\n"
            f"It needs the keys {', '.join(PARTS)} (system may be left out)."
        )
    return Parts(*map(_with_defaults, (texts["system"], pair[0], pair[1], texts["query"])))


def _with_defaults(part: str) -> str:
    """Spell out the short `{{ system | 'text' }}`, which stands for a default."""
    return _SHORT_DEFAULT.sub(r"\1default(\2)\3", part)
