"""A chat format given by a Jinja template: control tokens, contents and loss mask worked out.

The template alone says what is written. Which characters are control tokens and contents is found
with marks (`danlu.tokenizer.marks`); what is learned, by rendering prefixes of the conversation.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from danlu.errors import TokenizerError
from danlu.tokenizer.chat import ContentSpan, Layout, Message, Tool, check_messages
from danlu.tokenizer.jinja import render_template
from danlu.tokenizer.marks import (
    break_controls,
    choose_marks,
    content_spans,
    control_spans,
    enclose_contents,
    unmark,
)

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

logger = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant", "tool", "developer", "function", "observation", "ipython")
Render = Callable[[Any, bool], str]  # (messages, add_generation_prompt) -> text


class JinjaFormat:
    """The chat format of a template.

    Attributes:
        name: "jinja".
        template: the default template.
    """

    name = "jinja"

    def __init__(self, templates: Mapping[str, str], origin: str) -> None:
        self._templates = dict(templates)
        self._origin = origin

    @property
    def template(self) -> str | None:
        """The default template."""
        return self._templates.get("default")

    def layout(
        self,
        tokenizer: "Tokenizer",
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        add_generation_prompt: bool,
    ) -> Layout:
        """Render a conversation and say what its characters are.

        A template that is not prefix-stable (it writes an earlier turn differently once a later one
        follows) cannot be trained on and is refused, unless a prompt is asked for: nothing is
        learned from a prompt, so it is then rendered with an empty loss mask.

        Raises:
            TokenizerError: for wrong messages, or a template that cannot be used so.
        """
        check_messages(messages, ROLES)
        marks = choose_marks([list(messages), list(tools or ())])
        now = datetime.now()  # one time for all the renderings below
        render = self._renderer(tokenizer, tools, now)
        text = render(messages, add_generation_prompt)
        if tools and text == self._renderer(tokenizer, None, now)(messages, add_generation_prompt):
            raise TokenizerError(
                f"The chat template of {self._origin} does not show tools (got {len(tools)}). "
                "Use a model or template that knows tools."
            )
        broken_tools = break_controls(tools, marks, tokenizer.control_splitter)
        marked_render = self._renderer(tokenizer, broken_tools, now)
        broken = break_controls(list(messages), marks, tokenizer.control_splitter)
        found = unmark(marked_render(enclose_contents(broken, marks), add_generation_prompt), marks)
        contents = content_spans(found, messages)
        if found.text != text:  # the template looks at how a content begins or ends
            found = unmark(marked_render(broken, add_generation_prompt), marks)
            _check_same(found.text, text, self._origin)
            contents = _search_contents(text, messages, self._origin)
        return Layout(
            text=text,
            controls=control_spans(found, marks, tokenizer.control_splitter),
            contents=contents,
            learned=self._learned(render, messages, text, add_generation_prompt),
        )

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control token that the template writes after an assistant's content."""
        probe = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": "again"},
        ]
        try:
            layout = self.layout(tokenizer, probe, None, True)
        except TokenizerError as error:
            logger.debug("no end of turn can be read from the template: %s", error)
            return []
        answers = [span.end for span in layout.contents if span.role == "assistant"]
        after = [span for span in layout.controls if answers and span.start >= answers[0]]
        return [tokenizer.control_texts[after[0].token_id]] if after else []

    def _renderer(
        self, tokenizer: "Tokenizer", tools: Sequence[Tool] | None, now: datetime
    ) -> Render:
        source = self._templates.get("tool_use") if tools else None
        source = source or self.template
        if source is None:
            names = ", ".join(sorted(self._templates))
            raise TokenizerError(
                f"{self._origin} has chat templates ({names}) but none named 'default'. "
                "Pass format= with a built-in name or a .jinja file."
            )
        shared = {"tools": list(tools) if tools else None, "documents": None}

        def render(messages: Any, add_generation_prompt: bool) -> str:
            variables = {
                **tokenizer.named,
                **shared,
                "messages": [dict(message) for message in messages],
                "add_generation_prompt": add_generation_prompt,
            }
            return render_template(source, self._origin, variables, now)

        return render

    def _learned(
        self, render: Render, messages: Sequence[Message], text: str, is_prompt: bool
    ) -> list[tuple[int, int]]:
        try:
            return [
                _learned_span(render, messages, index, text, self._origin)
                for index, message in enumerate(messages)
                if message["role"] == "assistant"
            ]
        except TokenizerError as error:
            if not is_prompt:
                raise
            logger.debug("a prompt without loss mask: %s", error)
            return []


def _learned_span(
    render: Render, messages: Sequence[Message], index: int, text: str, origin: str
) -> tuple[int, int]:
    """Return the characters that the assistant writes in `messages[index]`.

    They begin where the prompt for that answer ends and end where the conversation up to that
    answer ends. Both must be prefixes of the whole text.
    """
    before = render(messages[:index], True)
    through = render(messages[: index + 1], False)
    for prefix, end in ((before, index), (through, index + 1)):
        place = _first_difference(prefix, text)
        if place < len(prefix):
            raise TokenizerError(
                f"The chat template of {origin} is not prefix-stable: messages[:{end}] alone and "
                f"in the whole conversation differ at character {place}: {_near(prefix, place)} "
                f"became {_near(text, place)}. No loss mask can be derived. Use another format, or "
                "train on conversations that end with this answer."
            )
    return len(before), max(len(before), len(through))


def _check_same(found: str, text: str, origin: str) -> None:
    if found != text:
        place = _first_difference(found, text)
        raise TokenizerError(
            f"The chat template of {origin} changes the text of the messages at character "
            f"{place}: {_near(text, place)}. Control tokens inside messages cannot be told from "
            "its own there. Expected contents to appear as they are; use another format."
        )


def _search_contents(text: str, messages: Sequence[Message], origin: str) -> list[ContentSpan]:
    """Find each content by its text; it must occur exactly once.

    Raises:
        TokenizerError: naming the message that does not.
    """
    spans = []
    for index, message in enumerate(messages):
        core = (message.get("content") or "").strip()
        if not core:
            continue
        count = text.count(core)
        if count != 1:
            raise TokenizerError(
                f"The content of messages[{index}] ({core[:40]!r}) occurs {count} times in what "
                f"the chat template of {origin} wrote; expected once, so that its role is certain. "
                "Use another format."
            )
        start = text.index(core)
        spans.append(ContentSpan(start, start + len(core), message["role"]))
    return sorted(spans, key=lambda span: span.start)


def _first_difference(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))


def _near(text: str, place: int) -> str:
    return repr(text[max(0, place - 20) : place + 20])
