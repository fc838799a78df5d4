"""Conversations to learn from: labels, weights, and what goes where one is too long."""

import random
from pathlib import Path
from typing import Any

import pytest
from chat_cases import conversation, every_control_tokenizer, hostile_text
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.errors import TokenizerError
from danlu.tokenizer.chat.formats import format_names
from danlu.tokenizer.chat.training import NOT_LEARNED, TrainingText, render_training

NAMES = format_names()
FOLDED = ("chatglm-6b", "chatglm2-6b")
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "The cat?"},
    {"role": "assistant", "content": "dog"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "egg"},
]
TOKENIZER = every_control_tokenizer()


def train(messages: list[dict[str, Any]], format: str = "chatml", **options: Any) -> TrainingText:
    return render_training(TOKENIZER, messages, format=format, **options)


def learned(text: TrainingText) -> str:
    return TOKENIZER.decode([label for label in text.labels if label != NOT_LEARNED])


def with_key(index: int, **keys: Any) -> list[dict[str, Any]]:
    return [{**m, **keys} if i == index else m for i, m in enumerate(TALK)]


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_are_those_of_a_chat(name: str) -> None:
    rendered = TOKENIZER.render_chat(TALK, format=name, add_generation_prompt=False)
    for learn in ("answers", "last") if name == "chatglm-6b" else ("answers", "last", "all"):
        text = train(TALK, name, learn=learn)
        assert text.rendered == rendered
        assert (text.weights, text.shortened, text.problem) == (None, "", "")
        assert text.messages == TALK
    prompt = TOKENIZER.render_chat(TALK[:-1], format=name).ids
    last = train(TALK, name, learn="last")
    assert rendered.ids[: len(prompt)] == prompt
    assert last.labels[: len(prompt)] == [NOT_LEARNED] * len(prompt)
    assert [label for label in last.labels if label != NOT_LEARNED] == rendered.ids[len(prompt) :]


@pytest.mark.parametrize("name", NAMES)
def test_every_token_knows_its_message(name: str) -> None:
    rendered = train(TALK, name).rendered
    for turn, message in enumerate(TALK):
        spans = [
            span
            for span, found, role in zip(
                rendered.spans, rendered.turns, rendered.roles, strict=True
            )
            if found == turn and role == message["role"]
        ]
        shown = "".join(rendered.text[start:end] for start, end in spans)
        assert shown.strip() == message["content"], name


def test_what_the_modes_learn() -> None:
    assert learned(train(TALK)) == "dog<|im_end|>\negg<|im_end|>\n"
    assert learned(train(TALK, learn="last")) == "egg<|im_end|>\n"
    whole = train(TALK, learn="all")
    assert whole.labels == whole.rendered.ids
    assert learned(train(with_key(1, loss=False))) == "egg<|im_end|>\n"
    assert learned(train(with_key(1, loss=True), learn="last")) == "dog<|im_end|>\negg<|im_end|>\n"
    assert learned(train(with_key(0, loss=True), learn="last")) == "The cat?egg<|im_end|>\n"
    assert "The cat?" not in learned(train(with_key(0, loss=False), learn="all"))


def test_weights() -> None:
    half = train(with_key(1, weight=0.5))
    assert half.weights is not None
    expected = {1: 0.5}
    assert half.weights == [expected.get(turn, 1.0) for turn in half.rendered.turns]
    assert half.weights.count(0.5) == len(TOKENIZER.encode("dog")) + 2
    none = train(with_key(3, weight=0))
    assert learned(none) == "dog<|im_end|>\n"
    assert half.rendered == train(TALK).rendered
    assert train(with_key(1, weight=1)).weights is None


def test_training_keys_reach_no_template(tmp_path: Path) -> None:
    template = tmp_path / "shows_keys.jinja"
    template.write_text("{% for m in messages %}[{{ m | length }}{{ m.content }}]{% endfor %}")
    messages = with_key(1, loss=False, weight=2)
    rendered = TOKENIZER.render_chat(messages, format=str(template))
    assert rendered.text == "[2The cat?][2dog][2And?][2egg]"


def test_wrong_keys_are_named_at_once() -> None:
    messages = with_key(1, loss="yes", weight=-1)
    messages[3] = {**messages[3], "weight": float("nan")}
    with pytest.raises(TokenizerError) as caught:
        train(messages)
    for part in ("messages[1]: loss is 'yes'", "messages[1]: weight is -1", "messages[3]: weight"):
        assert part in str(caught.value)
    with pytest.raises(TokenizerError, match=r"learn is 'lasst'; .* Did you mean 'last'\?"):
        train(TALK, learn="lasst")
    with pytest.raises(TokenizerError, match=r"long is 'cut'; expected truncate or drop"):
        train(TALK, long="cut")


def test_baichuan_learns_to_end_earlier_answers() -> None:
    """In place of the user's id, as its own fine-tuning does; not in front of any answer."""
    text = train([SYSTEM, *TALK], "baichuan2-chat")
    user, end = (TOKENIZER.special_tokens[name] for name in ("<reserved_106>", "</s>"))
    places = [place for place, token_id in enumerate(text.rendered.ids) if token_id == user]
    assert [text.labels[place] for place in places] == [NOT_LEARNED, end]
    assert learned(text) == "dog</s>egg</s>"
    assert learned(train([SYSTEM, *TALK], "baichuan2-chat", learn="last")) == "egg</s>"
    assert text.rendered.loss_mask[places[1]] is False  # the model does not write the user's id


@pytest.mark.parametrize("name", FOLDED)
def test_folded_rounds_say_what_they_do_not_teach(name: str) -> None:
    text = train(TALK, name)
    assert learned(text) == "egg" + ("</s>" if name == "chatglm2-6b" else "<eop>")
    assert text.unlearned == (
        "messages[1] not learned: earlier rounds are folded into the prompt of the last one"
    )
    assert train(TALK[:2], name).unlearned == ""
    assert train(TALK, name, learn="last").unlearned == ""


def test_a_prompt_that_is_seen_whole_cannot_be_learned() -> None:
    with pytest.raises(TokenizerError, match=r"'chatglm-6b' cannot learn every token .learn: all"):
        train(TALK, "chatglm-6b", learn="all")
    with pytest.raises(TokenizerError, match=r"cannot learn messages\[1\]: its model sees"):
        train(with_key(1, loss=True), "chatglm-6b")
    assert learned(train(with_key(1, loss=True), "chatglm2-6b")) == "dogegg</s>"


def test_answers_without_their_thoughts() -> None:
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\ndog"}
    messages = [TALK[0], thought, TALK[2], TALK[3]]
    text = train(messages, "qwen3-chat")
    assert learned(text) == "<think>\n\n</think>\n\negg<|im_end|>\n"
    assert text.unlearned.startswith("messages[1] not learned: its thoughts are left out")
    asked = [messages[0], {**thought, "loss": True}, *messages[2:]]
    assert learned(train(asked, "qwen3-chat")).startswith("dog<|im_end|>")
    assert learned(train(TALK, "qwen3-chat")).startswith("dog<|im_end|>")  # no thoughts to lose


def test_nothing_to_learn_is_a_problem() -> None:
    assert train(TALK[:1]).problem == "no token to learn"
    silent = [{**message, "loss": False} for message in TALK]
    assert train(silent).problem == "no token to learn"
    dropped = [TALK[0], {"role": "assistant", "content": ""}]
    assert train(dropped, "glm4-chat").problem == (
        "no token to learn: messages[1] not learned: the format shows nothing of it"
    )


def size(messages: list[dict[str, Any]], name: str = "chatml") -> int:
    return len(train(messages, name).labels)


def test_the_oldest_rounds_go_first() -> None:
    messages = [SYSTEM, *TALK, *TALK]
    kept = [SYSTEM, *TALK]
    for room in (size(kept), size(kept) + 1):
        text = train(messages, max_tokens=room)
        assert text.messages == kept
        assert text.labels == train(kept).labels
        whole = size(messages)
        assert text.shortened == f"{whole} tokens, room for {room}: 2 of 4 rounds dropped"
    assert train(messages, max_tokens=size(messages)).shortened == ""
    dropped = train(messages, max_tokens=20, long="drop")
    assert dropped.problem == f"{size(messages)} tokens, more than 20"


LONG = [
    SYSTEM,
    {"role": "user", "content": " ".join(["cat"] * 100)},
    {"role": "assistant", "content": " ".join(["dog"] * 100)},
]


def test_one_long_round_shares_the_room() -> None:
    text = train([*LONG, *LONG[1:]], max_tokens=80)
    assert len(text.labels) == 80
    assert text.shortened.startswith(f"{size([*LONG, *LONG[1:]])} tokens, room for 80: 1 of 2 rou")
    question = text.rendered.turns.count(1)
    answer = len([label for label in text.labels if label != NOT_LEARNED])
    assert (
        f"question cut from {train(LONG).rendered.turns.count(1)} to {question}" in text.shortened
    )
    assert abs(question - answer) <= 1
    assert SYSTEM["content"] in text.rendered.text
    end = TOKENIZER.special_tokens["<|im_end|>"]
    assert end not in text.labels  # the answer was cut: nothing says that it ends there


def test_what_the_answer_does_not_need_the_question_has() -> None:
    messages = [*LONG[:2], TALK[1]]
    text = train(messages, max_tokens=80)
    assert len(text.labels) >= 79
    assert learned(text) == "dog<|im_end|>\n"
    assert "answer cut" not in text.shortened
    messages = [SYSTEM, TALK[0], LONG[2]]
    text = train(messages, max_tokens=80)
    assert "question cut" not in text.shortened
    assert len(text.labels) == 80


def test_the_prompt_can_be_limited_by_itself() -> None:
    text = train(LONG, max_tokens=80, max_prompt_tokens=60)
    assert text.labels.index(next(i for i in text.labels if i != NOT_LEARNED)) == 60


def test_a_system_text_is_never_cut() -> None:
    long_system = {"role": "system", "content": " ".join(["cat"] * 60)}
    text = train([long_system, *TALK], max_tokens=40)
    assert text.problem.startswith(f"{size([long_system, *TALK])} tokens, room for 40: the system")
    assert "are never cut" in text.problem


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(NAMES),
    rounds=st.integers(1, 4),
    room=st.integers(1, 300),
    learn=st.sampled_from(["answers", "last"]),
)
def test_whatever_is_kept_fits_and_is_right(
    seed: int, name: str, rounds: int, room: int, learn: Any
) -> None:
    rng = random.Random(seed)
    messages = conversation(rng, name, rounds)
    if rng.random() < 0.5:
        messages[-1]["content"] += hostile_text(rng) * rng.randint(1, 8)
    messages = [{**m, "content": m["content"].replace("[", "(")} for m in messages]
    text = train(messages, name, max_tokens=room, learn=learn)
    ids = text.rendered.ids
    if text.problem:
        assert len(ids) > room
        return
    assert len(ids) <= room
    lists = (text.labels, text.rendered.turns, text.rendered.roles, text.rendered.spans)
    assert {len(entries) for entries in lists} == {len(ids)}
    assert text.num_learned > 0
    if messages[0]["role"] == "system":
        assert text.messages[0] == messages[0]
        assert messages[0]["content"].strip() in text.rendered.text
    assert [m["content"] for m in text.messages if m["role"] == "assistant"] == [
        m["content"] for m in messages if m["role"] == "assistant"
    ][-sum(m["role"] == "assistant" for m in text.messages) :]
    whole = TOKENIZER.render_chat(text.messages, format=name, add_generation_prompt=False)
    assert ids == whole.ids[: len(ids)]
    prompt = TOKENIZER.render_chat(text.messages[:-1], format=name).ids
    assert ids[: len(prompt)] == prompt[: len(ids)]
    assert all(label in (NOT_LEARNED, whole.labels[i]) for i, label in enumerate(text.labels))
    first = next(i for i, label in enumerate(text.labels) if label != NOT_LEARNED)
    assert first == len(prompt) or learn == "answers"


@pytest.mark.parametrize("messages", [[], None, "hi", [None], [{"role": "user"}], [3]])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    for name in ("chatml", "chatglm-6b", "qwen3-chat"):
        with pytest.raises(TokenizerError, match=r"[Cc]onversation"):
            train(messages, name)


THINKING = {"role": "assistant", "content": "<think>\nhm\n</think>\n\ndog"}
# What each published template does with several rounds, and where an answer had thoughts.
TEMPLATES = {
    "glm4": (True, True),
    "glm4moe": (True, False),
    "llama3": (True, True),
    "llama3_1": (True, True),
    "qwen2_5": (True, True),
    "qwen3": (False, False),
    "qwen3_instruct_2507": (True, True),
}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_published_templates(shared: Path, name: str) -> None:
    """Learned where prefix-stable, else refused with the place; last answers always."""
    folder = shared / "data/chat/templates"
    assert sorted(path.stem for path in folder.glob("*.jinja")) == sorted(TEMPLATES)
    template = str(folder / f"{name}.jinja")
    thoughtful = [TALK[0], THINKING, *TALK[2:]]
    for messages, is_stable in zip((TALK, thoughtful), TEMPLATES[name], strict=True):
        if not is_stable:
            with pytest.raises(
                TokenizerError, match=r"not prefix-stable: messages\[:.\] alone and"
            ):
                train(messages, template)
            spared = [{**m, "loss": False} if i == 1 else m for i, m in enumerate(messages)]
            assert learned(train(spared, template)) == learned(
                train(messages, template, learn="last")
            )
        text = train(messages, template, learn="answers" if is_stable else "last")
        for end in (1, 3) if is_stable else (3,):
            prompt = TOKENIZER.render_chat(messages[:end], format=template).ids
            assert text.rendered.ids[: len(prompt)] == prompt
            assert text.labels[len(prompt)] == text.rendered.ids[len(prompt)]
            assert text.labels[len(prompt) - 1] == NOT_LEARNED
        assert "egg" in learned(text)
        assert ("dog" in learned(text)) == is_stable


def test_generation_markers_are_believed(tmp_path: Path) -> None:
    """Also where the template is not prefix-stable, if they are one for each answer."""
    body = "{{ m.content }}{{ '!' if loop.last }}<|im_end|>"
    marked = f"{{% generation %}}{body}{{% endgeneration %}}"
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}MARKED"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template, plain = tmp_path / "marked.jinja", tmp_path / "plain.jinja"
    template.write_text(source.replace("MARKED", marked))
    plain.write_text(source.replace("MARKED", body))
    text = train(TALK, str(template))
    assert learned(text) == "dog<|im_end|>egg!<|im_end|>"
    assert learned(train(TALK, str(template), learn="last")) == "egg!<|im_end|>"
    with pytest.raises(TokenizerError, match="not prefix-stable"):
        train(TALK, str(plain))
    last = train(TALK, str(plain), learn="last")
    assert last.rendered.text == text.rendered.text
    template.write_text(source.replace("MARKED", marked + "{% generation %}x{% endgeneration %}"))
    with pytest.raises(TokenizerError, match="not prefix-stable"):
        train(TALK, str(template))
