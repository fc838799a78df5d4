"""Is this a conversation? Everything wrong with one, said at once."""

from collections.abc import Mapping, Sequence

from danlu.errors import TokenizerError, bullet_list, did_you_mean
from danlu.tokenizer.chat.chat_format import TRAINING_KEYS, ChatInput, Message
from danlu.tokenizer.chat.tool_messages import TOOL_HINT, TOOL_ROLES, call_problems


def check_messages(
    messages: Sequence[Message],
    roles: Sequence[str],
    allowed_keys: Sequence[str] | None = None,
    further: Sequence[str] = (),
) -> None:
    """Complain about everything wrong with a conversation at once.

    Args:
        messages: the conversation.
        roles: roles it may have.
        allowed_keys: keys a message may have, None for any (a template may read them).
        further: problems that the caller found.

    Raises:
        TokenizerError: naming the index of each wrong message.
    """
    check_list(messages)
    problems = [
        f"messages[{index}]: {problem}"
        for index, message in enumerate(messages)
        for problem in _message_problems(message, roles, allowed_keys)
    ]
    problems += [*call_problems(messages), *further]
    if problems:
        hint = f" {TOOL_HINT}" if any(_is_of_tools(message) for message in messages) else ""
        raise TokenizerError(
            f"The conversation cannot be rendered:{bullet_list(problems)}\n"
            f'Each message needs {{"role": ..., "content": text}}.{hint}'
        )


def _is_of_tools(message: Message) -> bool:
    return isinstance(message, Mapping) and (
        "tool_calls" in message or message.get("role") in TOOL_ROLES
    )


def check_list(messages: Sequence[Message]) -> None:
    """Raise TokenizerError unless it is a list with at least one entry."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TokenizerError(
            f"A conversation is a list of messages; got {type(messages).__name__} "
            f'{messages!r:.80}. Expected [{{"role": "user", "content": "..."}}, ...].'
        )
    if not messages:
        raise TokenizerError("The conversation is empty. Expected at least one message.")


def _message_problems(
    message: Message, roles: Sequence[str], allowed_keys: Sequence[str] | None
) -> list[str]:
    if not isinstance(message, Mapping):
        return [f"is a {type(message).__name__}, expected an object"]
    problems = []
    role = message.get("role")
    if role not in roles:
        hint = did_you_mean(str(role), roles)
        problems.append(f"unknown role {role!r}, expected one of {', '.join(roles)}.{hint}")
    content = message.get("content")
    may_call = allowed_keys is None or "tool_calls" in allowed_keys
    calls_only = content is None and bool(message.get("tool_calls")) and may_call
    if not isinstance(content, str) and not calls_only:
        problems.append(f"content is {content!r:.80} ({type(content).__name__}), expected text")
    unknown = sorted(str(key) for key in set(message) - set(allowed_keys or message))
    if unknown:
        problems.append(f"this format cannot show {', '.join(unknown)}")
    return problems


def without_training_keys(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages without what they say of training; others stay as they are."""
    if not isinstance(messages, list | tuple):
        return messages
    return [
        {key: value for key, value in message.items() if key not in TRAINING_KEYS}
        if isinstance(message, Mapping) and not TRAINING_KEYS.isdisjoint(message)
        else message
        for message in messages
    ]


def role_of(message: Message) -> object:
    """Return the role of a message, None for something that is no message."""
    return message.get("role") if isinstance(message, Mapping) else None


def taking_turns(chat: ChatInput) -> list[str]:
    """Return what is wrong for a format of questions and answers that a question must end."""
    return [*alternating(chat), *begins_with_user(chat), *ends_with_user(chat)]


def begins_with_user(chat: ChatInput) -> list[str]:
    """Return what is wrong where the first turn must be the user's."""
    if _turns(chat)[:1] == ["assistant"]:
        return ["the first turn is the assistant's; expected the user's"]
    return []


def ends_with_user(chat: ChatInput) -> list[str]:
    """Return what is wrong where an answer can only be asked for with a question."""
    if chat.add_generation_prompt and _turns(chat)[-1:] == ["assistant"]:
        return [
            "an answer is asked for, but the last message is the assistant's; "
            "expected the user's (add_generation_prompt=False writes finished conversations)"
        ]
    return []


def _turns(chat: ChatInput) -> list[object]:
    roles = map(role_of, chat.messages)
    return [role for role in roles if role in ("user", "assistant")]


def alternating(chat: ChatInput) -> list[str]:
    """Return what is wrong where user and assistant must alternate after an optional system."""
    problems = []
    previous: object = None
    for index, role in enumerate(map(role_of, chat.messages)):
        if role == "system" and index:
            problems.append(f"messages[{index}]: a system message must be the first")
        if role in ("user", "assistant"):
            if role == previous:
                problems.append(
                    f"messages[{index}]: two messages of the {role} in a row; expected user and "
                    "assistant to take turns"
                )
            previous = role
    if previous is None:
        problems.append("there is no message of the user; expected at least one")
    return problems


def split_system(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Return the system messages in front (as a list of none or more), and the rest."""
    count = 0
    while count < len(messages) and role_of(messages[count]) in ("system", "developer"):
        count += 1
    return list(messages[:count]), list(messages[count:])


def rounds_of(messages: Sequence[Message]) -> list[list[Message]]:
    """Return the rounds: each begins at a message of the user, and the first with the first."""
    rounds: list[list[Message]] = []
    for message in messages:
        if role_of(message) == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return rounds
