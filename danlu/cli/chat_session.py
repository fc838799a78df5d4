"""A chat without a screen: the conversation, its commands and its settings.

The terminal around it reads lines and prints pieces; a test does the same with lists.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from danlu.config.yaml_text import parse_yaml
from danlu.engine.sampling import SamplingParams
from danlu.errors import DanluError, OutputError, RequestError, did_you_mean
from danlu.files import write_text
from danlu.tokenizer.chat.chat_format import Message as AnyMessage
from danlu.tokenizer.chat.truncation import FittedHistory

Message = dict[str, str]

HELP = """\
/help              show this
/clear             forget the conversation (the system text stays)
/system TEXT       set the system text and start again; without TEXT: remove it
/set NAME=VALUE    change how answers are drawn, as in /set temperature=0; without NAME: show all
/save FILE         write the conversation to a new file, one JSON row
/exit              leave (also Ctrl-D)
Ctrl-C stops the answer, not the program."""


class Streams(Protocol):
    """What a chat needs of a model: `danlu.LLM` has it."""

    def fit_history(self, messages: Sequence[AnyMessage], params: SamplingParams) -> FittedHistory:
        """Leave out the oldest rounds of a conversation that is too long."""

    def stream(self, prompt: Sequence[AnyMessage], params: SamplingParams) -> Iterator[str]:
        """Yield the answer to a conversation, piece by piece."""


class ChatSession:
    """A conversation with a model.

    Args:
        llm: what answers.
        params: how answers are drawn; `/set` changes them.
        system: the system text, or none.
    """

    def __init__(self, llm: Streams, params: SamplingParams, system: str | None = None) -> None:
        self.llm = llm
        self.params = params
        self.is_over = False
        self.messages: list[Message] = []
        self._system = system
        self._clear("")

    def handle(self, line: str) -> Generator[str]:
        """Yield the pieces of what the line brings: an answer, or what a command says.

        A wrong command or setting is said, not raised. KeyboardInterrupt inside an answer ends it;
        what was said until then stays in the conversation.
        """
        text = line.strip()
        if text.startswith("/"):
            yield self._command(text) + "\n"
        elif text:
            yield from self._answer(text)

    def _answer(self, text: str) -> Generator[str]:
        asked = [*self.messages, {"role": "user", "content": text}]
        said: list[str] = []
        try:
            fitted = self.llm.fit_history(asked, self.params)
            if fitted.dropped:
                yield f"[{len(fitted.dropped)} older messages no longer fit]\n"
            for piece in self.llm.stream(fitted.messages, self.params):
                said.append(piece)
                yield piece
        except KeyboardInterrupt:
            yield " [stopped]"
        except DanluError as error:
            yield f"{error}\n"
            return
        finally:
            # Also when the reader left early: whole turns are kept, never half of one.
            answer = "".join(said)
            if answer:
                self.messages = [*asked, {"role": "assistant", "content": answer}]
        yield "\n"

    def _command(self, text: str) -> str:
        name, _, rest = text[1:].partition(" ")
        action = self._commands().get(name)
        if action is None:
            hint = did_you_mean(name, self._commands()).replace("'", "'/", 1)
            return f"There is no command /{name}.{hint} /help lists them."
        try:
            return action(rest.strip())
        except DanluError as error:
            return str(error)

    def _commands(self) -> dict[str, Callable[[str], str]]:
        return {
            "help": lambda _: HELP,
            "clear": self._clear,
            "system": self._set_system,
            "set": self._set,
            "save": self._save,
            "exit": self._exit,
        }

    def _clear(self, _: str) -> str:
        self.messages = [{"role": "system", "content": self._system}] if self._system else []
        return "The conversation starts again."

    def _set_system(self, text: str) -> str:
        self._system = text or None
        return self._clear("")

    def _set(self, assignment: str) -> str:
        if not assignment:
            return "\n".join(f"{name} = {value}" for name, value in self._settings().items())
        name, equals, value = assignment.partition("=")
        if not equals:
            raise RequestError(
                f"Expected /set NAME=VALUE, as in /set top_p=0.9; found {assignment!r}."
            )
        name = name.strip()
        changed = {**self._settings(), name: parse_yaml(value, f"the value of {name}")}
        self.params = SamplingParams(**changed)
        return f"{name} = {self._settings()[name]}"

    def _settings(self) -> dict[str, object]:
        return self.params.model_dump()

    def _save(self, file: str) -> str:
        if not file:
            raise OutputError("Expected /save FILE, as in /save chat.jsonl.")
        path = Path(file).expanduser()
        if path.exists():
            raise OutputError(f"'{path}' exists; nothing was overwritten. Choose another name.")
        write_text(path, json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        return f"Saved {len(self.messages)} messages to '{path}'."

    def _exit(self, _: str) -> str:
        self.is_over = True
        return "Goodbye."
