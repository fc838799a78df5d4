"""The chat: a scripted conversation with a model that is not there."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from danlu.cli import chat as terminal_chat
from danlu.cli.chat_session import ChatSession, Message
from danlu.engine.sampling import SamplingParams
from danlu.errors import RequestError
from danlu.tokenizer import Rendered
from danlu.tokenizer.chat.truncation import FittedHistory

LONGEST = 5  # messages


class Echo:
    """Answers with the number of messages and the last text; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], SamplingParams]] = []

    def fit_history(self, messages: Sequence[Message], params: SamplingParams) -> FittedHistory:
        first = max(0, len(messages) - LONGEST)
        nothing = Rendered([], "", [], [], [])
        return FittedHistory(list(messages[first:]), list(messages[:first]), nothing)

    def stream(self, prompt: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        self.asked.append((list(prompt), params))
        text = prompt[-1]["content"]
        yield f"{len(prompt)}: "
        if text == "stop me":
            raise KeyboardInterrupt
        if text == "too long":
            raise RequestError("The prompt has 9 tokens; the model takes 8.")
        yield text


def say(session: ChatSession, line: str) -> str:
    return "".join(session.handle(line))


@pytest.fixture
def session() -> ChatSession:
    return ChatSession(Echo(), SamplingParams(), system=None)


def test_history_grows_and_clear_keeps_the_system_text() -> None:
    session = ChatSession(Echo(), SamplingParams(), system="be brief")
    assert say(session, "hello") == "2: hello\n"
    assert say(session, "again") == "4: again\n"
    assert [m["role"] for m in session.messages] == ["system", *["user", "assistant"] * 2]
    say(session, "/clear")
    assert session.messages == [{"role": "system", "content": "be brief"}]
    say(session, "/system")
    assert session.messages == []
    say(session, "/system speak Chinese")
    assert say(session, "x") == "2: x\n"


def test_blank_lines_bring_nothing(session: ChatSession) -> None:
    assert say(session, "   ") == ""
    assert session.messages == []


def test_set_changes_sampling_and_wrong_values_are_said(session: ChatSession) -> None:
    assert say(session, "/set temperature=0") == "temperature = 0.0\n"
    assert say(session, "/set stop=[a, b]") == "stop = ('a', 'b')\n"
    assert "Did you mean 'temperature'?" in say(session, "/set temprature=1")
    assert "top_p" in say(session, "/set top_p=2")
    assert "Expected /set NAME=VALUE" in say(session, "/set top_p")
    assert "temperature = 0.0" in say(session, "/set")
    assert session.params == SamplingParams(temperature=0.0, stop=("a", "b"))


def test_unknown_command_and_help(session: ChatSession) -> None:
    assert "There is no command /sett. Did you mean '/set'?" in say(session, "/sett x=1")
    assert all(word in say(session, "/help") for word in ("/clear", "/system", "/set", "/save"))


def test_save_refuses_to_overwrite(session: ChatSession, tmp_path: Path) -> None:
    from danlu.data.conversations import read_conversations

    say(session, "你好")
    path = tmp_path / "chat.jsonl"
    assert "Saved 2 messages" in say(session, f"/save {path}")
    assert json.loads(path.read_text()) == {"messages": session.messages}
    assert "exists; nothing was overwritten" in say(session, f"/save {path}")
    assert "Expected /save FILE" in say(session, "/save")
    assert next(read_conversations(path)).messages == session.messages


def test_ctrl_c_inside_an_answer_keeps_what_was_said(session: ChatSession) -> None:
    assert say(session, "stop me") == "1: \n"[:-1] + " [stopped]\n"
    assert session.messages[-1] == {"role": "assistant", "content": "1: "}
    assert say(session, "go on").startswith("3: ")


def test_leaving_the_answer_early_keeps_what_was_said(session: ChatSession) -> None:
    pieces = session.handle("hello")
    assert next(pieces) == "1: "
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": "1: "}


def test_an_error_of_the_model_is_said_and_the_chat_goes_on(session: ChatSession) -> None:
    assert "The prompt has 9 tokens" in say(session, "too long")
    assert say(session, "ok").endswith(": ok\n")


def test_what_no_longer_fits_is_left_out_and_said(session: ChatSession) -> None:
    for text in ("one", "two", "three"):
        assert "no longer fit" not in say(session, text)
    assert say(session, "four") == "[2 older messages no longer fit]\n5: four\n"
    assert len(session.messages) == 8  # all are kept for /save


def script(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    waiting = iter(lines)

    def answer(prompt: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", answer)


def test_a_scripted_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], session: ChatSession
) -> None:
    script(monkeypatch, "hello", KeyboardInterrupt, "[b]more[/b]", "/exit", "never read")
    terminal_chat.converse(session)
    shown = capsys.readouterr()
    assert shown.out == "1: hello\n3: [b]more[/b]\nGoodbye.\n"
    assert "Ctrl-D or /exit leaves" in shown.err


def test_end_of_input_leaves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], session: ChatSession
) -> None:
    script(monkeypatch, "one")
    terminal_chat.converse(session)
    assert capsys.readouterr().out == "1: one\n"
