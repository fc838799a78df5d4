"""The guide to fine-tuning tells the truth: its commands run, its rows are read, its keys exist."""

import json
import re
from pathlib import Path

import pytest
import yaml
from shown_commands import blocks, run_shown
from test_docs import described_words, undescribed, written_keys

from danlu.commands.init import STARTERS
from danlu.config.adapter import Ia3Config, LoraConfig, PrefixConfig, PromptConfig, TokenRowsConfig
from danlu.config.align import AlignData, AlignRun
from danlu.config.base import Config
from danlu.config.data import FinetuneData
from danlu.config.evaluation import EvaluationConfig
from danlu.config.objective import CpoConfig, DpoConfig, KtoConfig, OrpoConfig, RewardConfig
from danlu.config.run import FinetuneRun
from danlu.config.train import TrainOptions
from danlu.data.conversations import read_conversations, read_labelled, read_preferences
from danlu.data.examples import Conversation, LabelledAnswer, PreferencePair
from danlu.data.shaping.shape import shapes

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "fine-tuning.md"
TEXT = GUIDE.read_text(encoding="utf-8")
CODE = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S))
SECTIONS: dict[str, list[type[Config]]] = {
    "adapter": [LoraConfig, TokenRowsConfig, Ia3Config, PrefixConfig, PromptConfig],
    "data": [FinetuneData, AlignData],
    "evaluation": [EvaluationConfig],
    "objective": [DpoConfig, KtoConfig, OrpoConfig, CpoConfig, RewardConfig],
    "train": [TrainOptions],
}
READERS = {
    Conversation: read_conversations,
    PreferencePair: read_preferences,
    LabelledAnswer: read_labelled,
}


def test_every_key_exists() -> None:
    used = set(re.findall(rf"\b({'|'.join(SECTIONS)})\.(\w+)", " ".join(CODE)))
    assert len(used) > 40
    for section, key in used:
        assert any(key in config.model_fields for config in SECTIONS[section]), (section, key)
    keys = {code.split(":")[0] for code in CODE if re.match(r"[a-z_]+: ", code)}
    own = {*FinetuneRun.model_fields, *AlignRun.model_fields}
    foreign = {"finetuning_type", "lora_target", "lora_target_linear", "quantization_bit", "rl"}
    of_sources = {"path", "columns", "mend", "tool_marks", "temperature"}
    assert keys - own - foreign - of_sources <= {"load_in_4bit", "stage"}


def test_every_method_and_kind_of_run_file_is_there() -> None:
    methods = set(re.findall(r"method: (\w+)", TEXT))
    known = {
        c.model_fields["method"].default
        for part in SECTIONS.values()
        for c in part
        if "method" in c.model_fields
    }
    assert known - {"simpo", "kto", "orpo", "cpo"} == methods
    assert all(f"`{name}`" in TEXT for name in known)
    assert set(re.findall(r"--kind (\w+)", TEXT)) | {"sft", "prefix", "quantize"} == set(STARTERS)


def test_every_shape_has_a_row_that_is_read(tmp_path: Path) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\{.*\})` \|$", TEXT, re.MULTILINE))
    assert rows.keys() == shapes().keys()
    for name, row in rows.items():
        assert shapes()[name].recognises(json.loads(row))
        path = tmp_path / f"{name}.jsonl"
        path.write_text(row, encoding="utf-8")
        [example] = READERS[shapes()[name].gives](path)
        assert example.origin == f"{path}:1"


def test_the_mixture_is_a_section_of_a_run_file() -> None:
    [text] = [text for kind, text in blocks(GUIDE) if kind == "yaml"]
    data = FinetuneData(**yaml.safe_load(text)["data"])
    assert [source.weight for source in data.instructions] == [1, 3, 0.5]


def test_the_commands_run_one_after_the_other(
    tiny_tour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "danlu-tour").symlink_to(tiny_tour)
    monkeypatch.chdir(tmp_path)
    done = [
        words
        for kind, text in blocks(GUIDE)
        if kind == "bash"
        for words in run_shown(text, tmp_path)
    ]
    assert len(done) > 20
    made = "runs/lora/adapter runs/merged rows.html overlaps.json mixed.jsonl runs/corpus qwen.yaml"
    made += " runs/prefix/adapter runs/qlora-merged runs/dpo/adapter runs/reward/adapter"
    assert all((tmp_path / name).exists() for name in made.split())
    for path in (tmp_path / "runs").rglob("*"):
        if path.is_file():
            told = path.name in described_words() or path.name.endswith((".ends.bin", ".lock"))
            assert told, path.relative_to(tmp_path)
        if path.suffix in (".json", ".jsonl") and path.name != "tokenizer.json":
            assert not undescribed(path, {"base", "adapter", *layer_names(path)}), path


def layer_names(path: Path) -> set[str]:
    """The keys that name layers of a model or arrays of a store, or hold settings."""
    return {key for key in written_keys(path) if "." in key or key in ("ids", "labels", "weights")}
