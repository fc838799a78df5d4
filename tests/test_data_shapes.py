"""Row shapes: every shape that data sets use, what is told apart, and every public file at hand."""

import json
from pathlib import Path

import pytest

from danlu.config.data import DataSource
from danlu.data.conversations import read_conversations, read_labelled, read_preferences
from danlu.data.examples import Conversation
from danlu.data.shaping.marked_calls import text_of_calls, tool_calls_of
from danlu.data.shaping.shape import shapes
from danlu.data.shaping.tools import tools_of
from danlu.data.sources import read_corpus
from danlu.errors import ConfigError, DataError


def said(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "rows"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def problem(folder: Path, row: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        list(read_conversations(DataSource(path=str(written(folder, row)), **options)))
    first, *_ = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert "rows:1: " in first
    return first


def test_every_file_is_a_shape():
    assert len(shapes()) == 10
    names = [name for shape in shapes().values() for name in shape.aliases]
    assert len(names) == len(set(names))
    assert not set(names) & set(shapes())


CONVERSATIONS = [
    ({"instruction": "i", "context": "c", "response": "a"}, said("i\nc", "a")),
    ({"prompt": "q", "completion": "a", "system": "s"}, said("q", "a", system="s")),
    ({"prompt": said("q"), "completion": said("q", "a")[1:]}, said("q", "a")),
    ({"question": "q", "answer": "a", "kind": None}, said("q", "a")),
    ({"system_prompt": "s", "question": "q", "response": "a"}, said("q", "a", system="s")),
    ({"messages": said("q", "a"), "prompt": "q"}, said("q", "a")),  # as UltraChat has it
    ({"messages": json.dumps(said("q", "a"))}, said("q", "a")),  # a cell of a table
    ({"conversations": said("q", "a")}, said("q", "a")),
    (
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        said("q", "a"),
    ),
    ({"src": "q", "tgt": "a", "system": "s"}, said("q", "a", system="s")),
    (
        {"messages": [{"role": "developer", "content": "s"}, *said("q", "a")]},
        said("q", "a", system="s"),
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                said("", "a")[1],
            ]
        },
        said("q", "a"),
    ),
]


@pytest.mark.parametrize(("row", "messages"), CONVERSATIONS)
def test_conversations(tmp_path, row, messages):
    assert [one.messages for one in read_conversations(written(tmp_path, row))] == [messages]


def test_seed_tasks_have_an_example_per_instance(tmp_path):
    instances = [{"input": "", "output": "a"}, {"input": "x", "output": "b"}]
    path = written(tmp_path, {"instruction": "i", "instances": instances, "name": "n"})
    assert [one.messages for one in read_conversations(path)] == [said("i", "a"), said("i\nx", "b")]


def test_emphasis_of_turns(tmp_path):
    turns = said("q", "a", "r", "b")
    turns[1] |= {"weight": 0.5, "train": False}
    turns[3] |= {"loss": 1}
    [read] = read_conversations(written(tmp_path, {"messages": turns}))
    assert read.messages[1] == {"role": "assistant", "content": "a", "loss": False, "weight": 0.5}
    assert read.messages[3] == {"role": "assistant", "content": "b", "loss": True}


TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [{"type": "function", "function": TOOL}]]
)
def test_tools_have_one_form(tmp_path, tools):
    [read] = read_conversations(written(tmp_path, {"messages": said("q", "a"), "tools": tools}))
    assert read.tools == [{"type": "function", "function": TOOL}]


def test_calls_have_one_form(tmp_path):
    openai = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {
                    "id": "2",
                    "type": "function",
                    "function": {"name": "g", "arguments": {"y": None}},
                },
            ],
        },
        {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"},
        {"role": "tool", "content": "", "tool_call_id": "2"},
        {"role": "assistant", "content": "a"},
    ]
    sharegpt = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "function_call", "value": '[{"name": "g", "arguments": {"y": null}}]'},
        {"from": "observation", "value": "r"},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "a"},
    ]
    path = written(tmp_path, {"messages": openai}, {"conversations": sharegpt})
    first, second = [one.messages for one in read_conversations(path)]
    calls = [call("f", x=1), call("g", y=None)]
    assert second[1] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert first[1]["tool_calls"] == [{"id": "1", **calls[0]}, {"id": "2", **calls[1]}]
    assert [one["role"] for one in first] == [one["role"] for one in second]
    assert first[2] == {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"}


def test_an_answer_and_its_call_are_one_message(tmp_path):
    turns = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "let me see"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
    ]
    [read] = read_conversations(written(tmp_path, {"conversations": turns}))
    assert read.messages[1] == {
        "role": "assistant",
        "content": "let me see",
        "tool_calls": [call("f")],
    }


PAIRS = [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"question": "q", "chosen": "a", "rejected": "b"},
    {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"role": "assistant", "content": "b"},
    },
    {"messages": said("q"), "chosen": said("q", "a")[1:], "rejected": said("q", "b")[1:]},
    {
        "prompt": "q",
        "chosen": said("q", "a"),
        "rejected": said("q", "b"),
        "messages": said("q", "a"),
    },
    {"chosen": said("q", "a"), "rejected": said("q", "b")},
    {"src": "q", "tgt": "", "response": ["b", "a"], "sort": [0, 1]},
    {"src": ["q"], "tgt": [], "response": [["a"], ["b"]], "sort": [1, 0]},
]


@pytest.mark.parametrize("row", PAIRS)
def test_preference_pairs(tmp_path, row):
    [pair] = read_preferences(written(tmp_path, row))
    assert (pair.prompt, pair.chosen, pair.rejected) == (
        said("q"),
        said("q", "a")[1:],
        said("q", "b")[1:],
    )
    assert "is a preference pair" in problem(tmp_path, row)


def test_pairs_with_history_system_and_margin(tmp_path):
    rows = [
        {
            "src": ["q", "r"],
            "tgt": ["a"],
            "response": ["b", "c"],
            "sort": [2, 5],
            "context": {"system": "s"},
        },
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 8.5, "score_rejected": 6},
        {
            "prompt": "q",
            "chosen": said("q", "a", system="s"),
            "rejected": said("q", "b", system="s"),
        },
    ]
    sort, scores, system = read_preferences(written(tmp_path, *rows))
    assert sort.prompt == said("q", "a", "r", system="s")
    assert (sort.chosen[0]["content"], sort.rejected[0]["content"]) == ("c", "b")
    assert scores.margin == 2.5
    assert system.prompt == said("q", system="s")


BAD_PAIRS = [
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
    ({"prompt": "q", "chosen": "a"}, "'rejected' is null"),
    ({"prompt": "q", "chosen": "a", "rejected": 3}, "'rejected' is 3; expected a text"),
    ({"chosen": said("q", "a"), "rejected": said("r", "b")}, "'chosen' is no answer"),
    ({"prompt": said("q", "a"), "chosen": "b", "rejected": "c"}, "ends with an answer"),
    ({"prompt": "q", "chosen": "", "rejected": "c"}, "turn 2, from assistant, is empty"),
    ({"src": "q", "tgt": "a", "response": ["b", "c"], "sort": [1, 0]}, "one more in 'src'"),
    ({"src": "q", "tgt": "", "response": ["b", "c"], "sort": [1, 1]}, "expected two"),
    ({"src": "q", "tgt": "", "response": ["b"], "sort": [1, 0]}, "'response' has 1 texts"),
    ({"prompt": "q", "response": "a"}, "is a conversation, for `danlu finetune`"),
]


def test_bad_pairs(tmp_path):
    with pytest.raises(DataError) as caught:
        list(read_preferences(written(tmp_path, *(row for row, _ in BAD_PAIRS))))
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    for line, (_, reason) in zip(lines, BAD_PAIRS, strict=True):
        assert reason in line


@pytest.mark.parametrize(
    ("row", "good"),
    [
        ({"messages": said("q", "a"), "label": True}, True),
        ({"prompt": "q", "completion": "a", "label": "false"}, False),
        ({"instruction": "q", "input": "", "output": "a", "kto_tag": True}, True),
        ({"conversations": said("q", "a"), "kto_tag": False}, False),
        ({"src": "q", "tgt": "", "response": ["a"], "sort": [1]}, True),
        ({"src": ["q"], "tgt": [], "response": '["a"]', "sort": [-1]}, False),
    ],
)
def test_labelled_answers(tmp_path, row, good):
    [read] = read_labelled(written(tmp_path, row))
    assert (read.messages, read.desirable) == (said("q", "a"), good)
    assert "is a labelled answer" in problem(tmp_path, row)


def test_a_shape_can_be_forced(tmp_path):
    row = {"prompt": "q", "response": "a", "messages": said("r", "b"), "label": True}
    path = str(written(tmp_path, row))
    for name, expected in (("messages", said("r", "b")), ("prompt_completion", said("q", "a"))):
        [read] = read_conversations(DataSource(path=path, format=name))
        assert read.messages == expected
    with pytest.raises(ConfigError, match="Did you mean 'alpaca'"):
        list(read_conversations(DataSource(path=path, format="alpacca")))
    with pytest.raises(ConfigError, match="gives a PreferencePair"):
        list(read_conversations(DataSource(path=path, format="preference")))


def test_columns_get_other_names(tmp_path):
    row = {"problem": "q", "solution": "a", "id": 3}
    path = str(written(tmp_path, row))
    columns = {"problem": "prompt", "solution": "response"}
    [read] = read_conversations(DataSource(path=path, columns=columns))
    assert read.messages == said("q", "a")
    with pytest.raises(DataError, match=r"names 'ids', which no row has. Did you mean 'id'"):
        list(read_conversations(DataSource(path=path, columns={**columns, "ids": "kind"})))
    assert "the row has it too" in problem(tmp_path, row | {"prompt": "p"}, columns=columns)


def deep(depth: int) -> dict[str, object]:
    return {"type": "object", "properties": {"x": deep(depth - 1)} if depth else {}}


def schema(**definitions: object) -> dict[str, object]:
    parameters = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/a"}},
        "$defs": definitions,
    }
    return {"messages": said("q", "a"), "tools": [{"name": "f", "parameters": parameters}]}


BAD = [
    (schema(a={"$ref": "#/$defs/a"}), "tool 1 (f) refers to itself: #/$defs/a -> #/$defs/a"),
    (schema(a={"items": {"$ref": "#/$defs/b"}}, b={"$ref": "#/$defs/a"}), "refers to itself"),
    (schema(b={}), "refers to '#/$defs/a', which it does not hold"),
    ({"messages": said("q", "a"), "tools": "[{"}, "'tools' is not JSON"),
    ({"messages": said("q", "a"), "tools": {"f": 1}}, "'tools' is not a list but an object"),
    ({"messages": said("q", "a"), "tools": [{"nam": "f"}]}, "tool 1 has no name"),
    ({"messages": said("q", "a", "r")}, "the last turn is from the user"),
    ({"messages": [*said("q"), *said("q", "a")]}, "turn 2 is from user; expected assistant"),
    ({"messages": [*said("q", "a"), *said("", system="s")]}, "turn 3 is a system message"),
    ({"messages": said("q", "")}, "turn 2, from assistant, is empty"),
    ({"messages": [{"role": "user"}]}, "has no 'content' or 'value'"),
    ({"messages": [{"content": "q"}]}, "has no 'role' or 'from'"),
    ({"messages": [{"role": "asistant", "content": "q"}]}, "Did you mean 'assistant'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text can be read"),
    ({"messages": [said("q")[0] | {"tool_calls": [call("f")]}]}, "only the assistant can"),
    ({"messages": [*said("q"), {"from": "function_call", "value": "f(x)"}]}, "is not JSON"),
    ({"messages": [said("q")[0], said("", "a")[1] | {"weight": -1}]}, "expected 0 or more"),
    ({"messages": [said("q")[0], said("", "a")[1] | {"weight": 10**400}]}, "expected a number"),
    ({"messages": [said("q")[0], said("", "a")[1] | {"loss": "yes"}]}, "expected true or false"),
    ({"prompt": "q", "response": "a", "sytem": "s"}, "unknown key 'sytem'. Did you mean 'system'?"),
    ({"messages": said("q", "a"), "conversations": said("q", "a")}, "conversations or messages"),
    ({"messages": said("q", "a"), "images": ["x.png"]}, "has 'images', which a model of texts"),
    ({"promt": "q", "respons": "a"}, "About 'promt': Did you mean 'prompt'?"),
    ({"text": "t"}, "a plain text, for `danlu pretrain`"),
    ({"src": "q", "tgt": "a", "context": {"sistem": "s"}}, "Did you mean 'system'"),
    ({"instruction": "i", "instances": [3]}, "instance 1 is not an object"),
    ({"prompt": "q", "response": "a", "answer": "b"}, "both response and answer"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_bad_rows(tmp_path, row, reason):
    assert reason in problem(tmp_path, row)


def test_a_known_key_is_not_its_own_closest_match(tmp_path):
    assert problem(tmp_path, {"output": "a"}).endswith("no known shape; its keys are ['output'].")


def test_deep_and_shared_schemas_are_read(tmp_path):
    row = schema(a={"items": [{"$ref": "#/$defs/b"}] * 2}, b={"type": "string"})
    row["tools"].append({"name": "g", "parameters": deep(200)})
    [read] = read_conversations(written(tmp_path, row))
    assert len(read.tools) == 2


def test_notes_of_the_data_set_are_named_once(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [{"prompt": "q", "response": "a", "id": at, "lang": "en"} for at in range(3)]
    assert len(list(read_conversations(written(tmp_path, *rows)))) == 3
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["id, lang"]


def test_mending(tmp_path, caplog):
    path = str(
        written(tmp_path, {"messages": [*said("", "x")[1:], *said("q"), *said("r", "a", "s")]})
    )
    [read] = read_conversations(DataSource(path=path, mend=True))
    assert read.messages == said("q\nr", "a")
    assert "Mended 1 conversations" in caplog.text


def test_bad_rows_can_be_handed_to_the_caller(tmp_path):
    dropped: list[str] = []
    path = written(tmp_path, {"prompt": "q", "response": "a"}, {"prompt": "q"}, {"id": 3})
    assert len(list(read_conversations(path, dropped))) == 1
    assert [line.split(": ")[0] for line in dropped] == [f"{path}:2", f"{path}:3"]


# ---------------------------------------------------------------- public files


def test_answers_with_marks_are_texts_and_calls(shared):
    path = str(shared / "data" / "train" / "sft" / "aquila_sft_samples.jsonl")
    texts = list(read_conversations(path))
    calls = list(read_conversations(DataSource(path=path, tool_marks=True)))
    answer = texts[0].messages[1]["content"]
    assert "\n#text2image#\n" in answer
    for one in texts:
        for message in one.messages:
            assert text_of_calls(*tool_calls_of(message["content"])) == message["content"]
    prompt = answer.partition("#text2image#\n")[2]
    assert calls[0].messages[1]["tool_calls"] == [call("text2image", prompt=prompt)]
    assert calls[0].messages[1]["content"] == answer.partition("\n#text2image#\n")[0]
    [edit] = calls[1].messages[1]["tool_calls"]
    assert edit["function"]["name"] == "InstructFace"
    assert len(edit["function"]["arguments"]["instructions"]) == 2
    assert calls[2] == texts[2]


SFT = {
    "train/sft/alpaca_en_demo.jsonl": 850,
    "train/sft/alpaca_zh_demo.jsonl": 850,
    "train/sft/alpaca_seed_tasks.jsonl": 175,
    "train/sft/belle_zh_seed_tasks.jsonl": 175,
    "train/sft/aquila_alpaca_train.jsonl": 819,
    "train/sft/aquila_convo_samples.jsonl": 80,
    "train/sft/aquila_sft_samples.jsonl": 3,
    "train/sft/fastchat_dummy_conversation.json": 500,
    "train/sft/identity.jsonl": 91,
    "train/code/mbpp_train.jsonl": 464,
    "tooluse/glaive_toolcall_en_demo.jsonl": 240,
    "tooluse/glaive_toolcall_zh_demo.jsonl": 240,
}
CODE = {"text": "prompt", "code": "response"}


@pytest.mark.parametrize(("name", "count"), SFT.items())
def test_public_conversations(shared, name, count):
    columns = CODE if "code" in name else {}
    path = str(shared / "data" / name)
    rows = list(read_conversations(DataSource(path=path, columns=columns, mend="convo" in name)))
    assert len(rows) == count
    assert all(isinstance(row, Conversation) for row in rows)
    if "tooluse" in name:
        assert sum(row.tools is not None for row in rows) == (148 if "_en_" in name else 163)
        called = [row for row in rows if any("tool_calls" in message for message in row.messages)]
        assert len(called) > 50


def test_public_tools(shared):
    folder = shared / "data" / "tooluse"
    tools = tools_of({"tools": (folder / "shopping_tool_schema.json").read_text()})
    assert len(tools or []) == 15
    with pytest.raises(DataError, match=r"50 problems(.|\n)*no known shape; its keys are .*query"):
        list(read_conversations(folder / "shopping_level_1_query_meta.json"))


def test_public_questions_without_answers_are_an_error(shared):
    with pytest.raises(DataError, match=r"64 problems(.|\n)*last turn is from the user(.|\n)*mend"):
        list(read_conversations(shared / "data/train/sft/aquila_convo_samples.jsonl"))


def test_public_preferences(shared):
    folder = shared / "data" / "train" / "preference"
    assert len(list(read_preferences(folder / "dpo_en_demo.jsonl"))) == 249
    assert len(list(read_preferences(folder / "dpo_zh_demo.jsonl"))) == 250
    labels = [row.desirable for row in read_labelled(folder / "kto_en_demo_150.jsonl")]
    assert (len(labels), sum(labels)) == (150, 78)


def test_public_texts(shared):
    counts = {
        path.name: sum(1 for _ in read_corpus(path))
        for path in sorted((shared / "data/train/pretrain").iterdir())
    }
    assert counts == {
        "c4_demo.jsonl": 240,
        "chinese_classics.txt": 675,
        "quatrains_zh.jsonl": 16673,
        "tinyshakespeare.txt": 557,
        "tinystories_sample.txt": 5,
        "wiki_demo.txt": 30,
    }


def test_rounds_before_a_question_are_read_wherever_they_stand(tmp_path):
    for row in (
        {"prompt": "q2", "response": "a2", "history": [["q", "a"]]},  # ChatGLM's scripts
        {"query": "q2", "response": "a2", "history": [["q", "a"]], "prompt": ""},
        {"input": "q2", "output": "a2", "history": [["q", "a"]]},
    ):
        (example,) = read_conversations(written(tmp_path, row))
        assert example.messages == said("q", "a", "q2", "a2")
    pair = {"prompt": "q2", "chosen": "c", "rejected": "r", "history": [["q", "a"]]}
    (example,) = read_preferences(written(tmp_path, pair))
    assert example.prompt == said("q", "a", "q2")


def test_transcripts_of_two_speakers_are_pairs(tmp_path):
    start = "\n\nHuman: q\n\nAssistant: a\nb\n\nHuman: q2\n\nAssistant:"
    for row in (
        {"chosen": f"{start} c", "rejected": f"{start} r"},
        {"prompt": start, "chosen": " c", "rejected": " r"},
    ):
        (pair,) = read_preferences(written(tmp_path, row))
        assert pair.prompt == said("q", "a\nb", "q2")
        assert [pair.chosen[0]["content"].strip(), pair.rejected[0]["content"].strip()] == [
            "c",
            "r",
        ]
    with pytest.raises(DataError, match="there is no prompt"):
        list(read_preferences(written(tmp_path, {"chosen": "q c", "rejected": "q r"})))


def test_thoughts_under_other_names(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for name in ("thinking", "reasoning", "reasoning_content"):
        row = {"messages": [turns[0], {**turns[1], name: "hm"}]}
        (example,) = read_conversations(written(tmp_path, row))
        assert example.messages[1] == {**turns[1], "reasoning_content": "hm"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_table_of_one_column_is_called_one(name, tmp_path):
    cell = json.dumps(said("q, really", "a")).replace('"', '""')
    (tmp_path / name).write_text(f'messages\n"{cell}"\n')
    (example,) = read_conversations(tmp_path / name)
    assert example.messages == said("q, really", "a")
