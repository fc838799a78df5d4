"""A chat format given by a Jinja template: control tokens, contents and loss mask worked out.

The template alone says what is written. Which characters are control tokens and contents is found
with marks (`danlu.tokenizer.chat.marks`); what is learned, by rendering prefixes of the
conversation (`danlu.tokenizer.chat.jinja_answers`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from danlu.errors import ChatFormatError, TokenizerError
from danlu.tokenizer.chat.chat_format import ChatInput, ContentSpan, Layout, Message
from danlu.tokenizer.chat.jinja import MARKERS, render_template, variables_of
from danlu.tokenizer.chat.jinja_answers import (
    Answers,
    Render,
    answers_by_prefixes,
    enclosed_answers,
    first_difference,
    marked_answers,
    near,
    without_thoughts,
)
from danlu.tokenizer.chat.marks import (
    Marks,
    break_controls,
    choose_marks,
    content_spans,
    control_spans,
    enclose_contents,
    unmark,
)
from danlu.tokenizer.chat.messages import check_messages
from danlu.tokenizer.chat.segments import Truncation, check_options
from danlu.tokenizer.chat.tool_messages import (
    TOOL_HINT,
    TOOL_ROLES,
    with_tool_role,
)

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

logger = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant", "tool", "developer", "function", "observation", "ipython")
GIVEN = ("messages", "add_generation_prompt", "tools", "documents", "strftime_now", *MARKERS)


class JinjaFormat:
    """The chat format of a template.

    Args:
        templates: templates by name; "default" is used, and "tool_use" with tools.
        origin: what messages call it.
        name: its name among the formats.
        stops: control tokens that end an answer; None: as read from the template.
        answers: how it encloses answers; None: found by rendering prefixes of the conversation.
        tool_role: what it calls the role of a tool's answer; None: what the messages call it.
    """

    stop_texts: tuple[str, ...] = ()
    truncation: Truncation | None = None
    sees_prompt_whole: bool = False

    def __init__(
        self,
        templates: Mapping[str, str],
        origin: str,
        name: str = "jinja",
        stops: tuple[str, ...] | None = None,
        answers: Answers | None = None,
        tool_role: str | None = None,
    ) -> None:
        self.name = name
        self._templates = dict(templates)
        self._origin = origin
        self._stops = stops
        self._answers = answers
        self._tool_role = tool_role

    @property
    def template(self) -> str | None:
        """The default template."""
        return self._templates.get("default")

    def layout(self, tokenizer: "Tokenizer", chat: ChatInput) -> Layout:
        """Render a conversation and say what its characters are.

        A template that is not prefix-stable (it writes an earlier turn differently once a later one
        follows) cannot be trained on and is refused, unless a prompt is asked for: nothing is
        learned from a prompt, so it is then rendered with an empty loss mask. Built-in templates
        say where their answers are, and need not be stable.

        Raises:
            TokenizerError: for wrong messages or options, or a template that cannot be used so.
        """
        check_messages(chat.messages, ROLES)
        chat = replace(chat, messages=with_tool_role(chat.messages, self._tool_role or ""))
        now = datetime.now()  # one time for all the renderings below
        render = self._renderer(tokenizer, chat, now)
        text = render(chat.messages, chat.add_generation_prompt)
        self._check_tools_shown(tokenizer, chat, text, now)
        self._check_calls_shown(render, chat, text)
        layout = self._marked_layout(tokenizer, chat, text, now)
        if self._answers is not None:
            layout.learned.extend(enclosed_answers(layout, self._answers, chat.messages))
            if self._answers.drops_thoughts:
                layout.unlearned.update(without_thoughts(layout, chat.messages))
        elif not layout.learned:
            layout.learned.extend(answers_by_prefixes(render, chat, text, self._origin))
        return layout

    def _marked_layout(
        self, tokenizer: "Tokenizer", chat: ChatInput, text: str, now: datetime
    ) -> Layout:
        """Return the layout of `text`, as marks in the messages tell it.

        Nothing is learned yet, unless the template itself marks what the assistant writes.
        """
        messages, splitter = chat.messages, tokenizer.control_splitter
        marks = choose_marks([list(messages), list(chat.tools or ()), dict(chat.options)])
        broken = break_controls(list(messages), marks, splitter)
        broken_chat = ChatInput(
            broken,
            chat.add_generation_prompt,
            break_controls(chat.tools, marks, splitter),
            break_controls(chat.options, marks, splitter),
        )
        render = self._renderer(tokenizer, broken_chat, now, marks)
        prompt = chat.add_generation_prompt
        found = unmark(render(enclose_contents(broken, marks), prompt), marks)
        contents = content_spans(found, messages)
        if found.text != text:  # the template looks at how a content begins or ends
            found = unmark(render(broken, prompt), marks)
            _check_same(found.text, text, self._origin)
            contents = _search_contents(text, messages, self._origin)
        learned = marked_answers(found.generated, messages) or []
        return Layout(text, control_spans(found, marks, splitter), contents, learned)

    def _check_tools_shown(
        self, tokenizer: "Tokenizer", chat: ChatInput, text: str, now: datetime
    ) -> None:
        if not chat.tools:
            return
        bare = ChatInput(chat.messages, chat.add_generation_prompt, None, chat.options)
        without = self._renderer(tokenizer, bare, now)(chat.messages, chat.add_generation_prompt)
        if text == without:
            raise TokenizerError(
                f"The chat template of {self._origin} does not show tools (got {len(chat.tools)}). "
                f"{TOOL_HINT}"
            )

    def _check_calls_shown(self, render: Render, chat: ChatInput, text: str) -> None:
        """Refuse calls and answers of tools that the template would drop without a word."""
        dropped = [
            index
            for index, without in _without_tools(chat.messages)
            if render(without, chat.add_generation_prompt) == text
        ]
        if dropped:
            named = ", ".join(f"messages[{index}]" for index in dropped)
            raise TokenizerError(
                f"The chat template of {self._origin} does not show the calls or answers of tools "
                f"in {named}. {TOOL_HINT}"
            )

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control token that the template writes after an assistant's content."""
        if self._stops is not None:
            return list(self._stops)
        probe = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": "again"},
        ]
        try:
            layout = self.layout(tokenizer, ChatInput(probe))
        except TokenizerError as error:
            logger.debug("no end of turn can be read from the template: %s", error)
            return []
        answers = [span.end for span in layout.contents if span.role == "assistant"]
        after = [span for span in layout.controls if answers and span.start >= answers[0]]
        return [tokenizer.control_texts[after[0].token_id]] if after else []

    def _renderer(
        self, tokenizer: "Tokenizer", chat: ChatInput, now: datetime, marks: Marks | None = None
    ) -> Render:
        """Return what renders messages; `marks` to enclose what `{% generation %}` does."""
        source = self._templates.get("tool_use") if chat.tools else None
        source = source or self.template
        if source is None:
            names = ", ".join(sorted(self._templates))
            raise ChatFormatError(
                f"{self._origin} has chat templates ({names}) but none named 'default'. "
                "Pass format= with a built-in name or a .jinja file."
            )
        if chat.options:
            known = variables_of(source, self._origin) - {*GIVEN, *tokenizer.named}
            check_options(chat, sorted(known), f"the chat template of {self._origin}")
        tools = list(chat.tools) if chat.tools else None
        markers = ("", "") if marks is None else (marks.generated, marks.generated)
        shared = {
            **tokenizer.named,
            **chat.options,
            **dict(zip(MARKERS, markers, strict=True)),
            "tools": tools,
            "documents": None,
        }

        def render(messages: Any, add_generation_prompt: bool) -> str:
            variables = {
                **shared,
                "messages": [dict(message) for message in messages],
                "add_generation_prompt": add_generation_prompt,
            }
            return render_template(source, self._origin, variables, now)

        return render


def _without_tools(messages: Sequence[Message]) -> Iterator[tuple[int, list[Message]]]:
    """Yield, for each message of tools, the conversation without its calls or its text."""
    for index, message in enumerate(messages):
        before, after = list(messages[:index]), list(messages[index + 1 :])
        if message.get("tool_calls"):
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            yield index, [*before, {**rest, "content": rest.get("content") or ""}, *after]
        elif message["role"] in TOOL_ROLES and message.get("content"):
            yield index, [*before, {**message, "content": ""}, *after]


def _check_same(found: str, text: str, origin: str) -> None:
    if found != text:
        place = first_difference(found, text)
        raise TokenizerError(
            f"The chat template of {origin} changes the text of the messages at character "
            f"{place}: {near(text, place)}. Control tokens inside messages cannot be told from "
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
        spans.append(ContentSpan(start, start + len(core), message["role"], index))
    return sorted(spans, key=lambda span: span.start)
