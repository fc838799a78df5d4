"""`danlu models`: every family, and what the code says works with it."""

import json

import pytest

from danlu.cli.app import run
from danlu.commands.models import HEADER, describe_family, list_families
from danlu.errors import ConfigError
from danlu.models import discover

Capture = pytest.CaptureFixture[str]


def test_the_table_has_every_family_and_says_what_its_code_says(capsys: Capture) -> None:
    assert run(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == list(HEADER)
    assert [line.split()[0] for line in lines[1 : len(discover()) + 1]] == list(discover())
    assert max(map(len, lines)) <= 80
    for row in list_families():
        has_target = "transformers" in discover()[row.name].exports
        assert (row.transformers != "-") == has_target
        assert ("export" in row.why_not) == (not has_target)
        assert (row.gguf == "-") == ("gguf" in row.why_not)


def test_graphs_that_go_by_depth_are_asked_at_the_published_one() -> None:
    graphs = {row.name: row.gguf for row in list_families()}
    assert [graphs[f"baichuan{name}"] for name in ("_7b", "_13b", "2_7b", "2_13b")] == (
        ["baichuan"] * 4
    )
    assert graphs["aquila"] == "llama"
    assert graphs["opt"] == "-"


def test_every_family_can_be_shown(capsys: Capture) -> None:
    for name, family in discover().items():
        found = describe_family(name)
        read = {key for spelling in found.keys_read for key in spelling.split(" or ")}
        tiny = set(family.tiny()) - {"architectures", "model_type"}
        assert tiny <= read | found.keys_ignored.keys() | found.keys_always_ignored.keys()
        assert "object at" not in str(found.keys_read)
        assert found.detected.startswith("config.json")
        assert all(row.ours for row in found.tensors)


def test_a_family_is_shown_with_its_names(capsys: Capture) -> None:
    assert run(["models", "ChatGLM2"]) == 0
    shown = capsys.readouterr().out
    assert "model.layers.{i}.self_attn.[q_proj, k_proj, v_proj].weight  Stacked" in shown
    assert "chatglm2: ChatGLM2-6B" in shown
    assert "default 1e-05" in shown
    assert "padded_vocab_size" in shown
    assert "rotary_pos_emb.inv_freq" in shown


def test_as_json(capsys: Capture) -> None:
    assert run(["models", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(discover())
    assert run(["models", "bloom", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["row"]["name"] == "bloom"
    assert "auto_map" in told["keys_always_ignored"]
    assert any(row["how"] == "PerHead" for row in told["tensors"])


def test_a_family_that_is_not_there(capsys: Capture) -> None:
    assert run(["models", "blom"]) == 2
    assert "There is no family 'blom'. Did you mean 'bloom'?" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="Known: "):
        describe_family("")
