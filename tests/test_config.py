"""Configs: precedence, every problem at once, YAML that means what it says, templates."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import Field, model_validator

from danlu.config.base import Config
from danlu.config.load import load_config
from danlu.config.run import FinetuneRun
from danlu.config.template import dump_yaml
from danlu.config.yaml_text import parse_yaml, scalar_text
from danlu.errors import ConfigError


class Adapter(Config):
    lora_rank: int = Field(8, gt=0, description="size of the low-rank update")


class Train(Config):
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    max_steps: int = Field(description="optimizer steps to run")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's two decay rates")


class Run(Config):
    out: Path = Field(description="folder for everything the run writes")
    seed: int = Field(0, description="seed of all randomness")
    note: str | None = Field(None, description="a remark kept with the run")
    train: Train
    adapter: Adapter | None = Field(None, description="train an adapter instead of all weights")

    @model_validator(mode="after")
    def _seed_is_small(self) -> "Run":
        if self.seed > 1000:
            raise ValueError(f"seed {self.seed} is too large; expected at most 1000")
        return self


BOMB = "a0: &a0 [1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
GOOD = "out: runs/a\ntrain:\n  max_steps: 10\n  learning_rate: 2e-5\n"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    return path


def test_flag_beats_file_beats_default(good: Path) -> None:
    run = load_config(Run, good, ["train.max_steps=20", "adapter.lora_rank=4"])
    assert run.train.max_steps == 20
    assert run.train.learning_rate == 2e-5
    assert run.train.betas == (0.9, 0.95)
    assert run.out == Path("runs/a")
    assert run.adapter == Adapter(lora_rank=4)


def test_overrides_alone_make_a_config() -> None:
    run = load_config(Run, None, ["out=x", "train.max_steps=1", "train.max_steps=2", "note=1e3 b"])
    assert (run.train.max_steps, run.note) == (2, "1e3 b")


def test_override_opens_a_section_that_is_null(good: Path) -> None:
    good.write_text(GOOD + "adapter: null\n")
    assert load_config(Run, good, ["adapter.lora_rank=2"]).adapter == Adapter(lora_rank=2)


def test_all_problems_at_once(good: Path) -> None:
    good.write_text("trian: 1\nseed: many\ntrain:\n  lerning_rate: 1\n  betas: [1]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Run, good, ["adapter.lora_rank=0", "nonsense", "seed.x=1"])
    message = str(caught.value)
    assert message.startswith(f"9 problems in '{good}':")
    for expected in (
        "trian: unknown key. Did you mean 'train'?",
        "train.lerning_rate: unknown key. Did you mean 'learning_rate'?",
        "train.max_steps: missing; expected optimizer steps to run",
        "out: missing; expected folder for everything the run writes",
        "seed: should be a valid integer; found 'many'",
        "adapter.lora_rank: should be greater than 0; found 0 (from the command line)",
        "'nonsense': expected key=value",
        "seed.x: 'seed' is a text, so it has no key 'x'",
        "train.betas.1: ",
    ):
        assert expected in message


def test_unknown_key_without_a_close_one_lists_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"zzz: unknown key.* Known keys: adapter, note, out, seed"
    ):
        load_config(Run, None, ["out=x", "train.max_steps=1", "zzz=1"])


def test_strict_types() -> None:
    with pytest.raises(ConfigError, match=r"max_steps: should be a valid integer; found '10'"):
        load_config(Run, None, ["out=x", "train.max_steps='10'"])
    with pytest.raises(ConfigError, match="seed: should be a valid integer; found True"):
        load_config(Run, None, ["out=x", "train.max_steps=1", "seed=true"])


def test_infinities_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"learning_rate: should be a finite number; found inf"):
        load_config(Run, None, ["out=x", "train.max_steps=1", "train.learning_rate=.inf"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "quantize=nf5",
            "quantize: should be 'int8', 'int4', 'nf4', 'fp4', 'llm_int8' or 'w8a8'; found 'nf5'",
        ),
        ("quantize=nf5", "Did you mean 'nf4'?"),
        ("quantize={methd: rtn}", "quantize.methd: unknown key. Did you mean 'method'?"),
        ("adapter.method=lorra", "found 'lorra'. Did you mean 'lora'?"),
        ("adapter={method: prompt, init_text: a, init_ids: [1]}", "give either init_text or init_"),
        ("train.steps=1000000000001", "should be less than or equal to 1000000000"),
        ("seed=9223372036854775808", "seed: should be less than 9223372036854775808"),
        ("data.workers=100000", "data.workers: should be less than or equal to 256"),
        ("adapter=lora", "found 'lora' (from the command line). Write it as {method: NAME}."),
        ("evaluation={metrics: [bleu]}", "found 'bleu'. Did you mean 'bleu4'?"),
        ("data.instructions={pth: a}", "data.instructions.0.pth: unknown key. Did you mean 'path'"),
    ],
)
def test_each_level_of_a_run_file_has_its_closest_match(override: str, expected: str) -> None:
    given = ["out=x", "model=m", "data={instructions: a}", "train={steps: 1}", override]
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_config(FinetuneRun, None, given)


def test_cross_field_problem_has_our_words() -> None:
    with pytest.raises(ConfigError, match="seed 2000 is too large; expected at most 1000"):
        load_config(Run, None, ["out=x", "train.max_steps=1", "seed=2000"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "line 2, column 1 is not valid YAML"),
        ("a: 1\na: 2\n", "line 2, column 1 is not valid YAML: the key 'a' is written twice"),
        ("- 1\n", "holds a list; expected lines 'key: value'"),
        ("", "holds nothing; expected lines 'key: value'"),
        ("a: &a {b: *a}\n", "more than 1,000,000 values once its aliases (*) are written out"),
        (BOMB, "more than 1,000,000 values once its aliases (*) are written out"),
        ("{" * 3000, "is nested too deeply to be read"),
        ('out: "\\ud800"\n', "half of a pair, or a byte that is not UTF-8"),
    ],
)
def test_bad_files(good: Path, text: str, expected: str) -> None:
    good.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_config(Run, good)


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml' does not exist.*danlu init"):
        load_config(Run, tmp_path / "no.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"note: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml'.*expected a UTF-8|Expected a UTF-8"):
        load_config(Run, latin)


def test_manifest_repeats_its_run(good: Path, tmp_path: Path) -> None:
    run = load_config(Run, good, ["note=yes"])
    manifest = tmp_path / "run.json"
    manifest.write_text(json.dumps({"config": run.model_dump(mode="json"), "version": "0"}))
    assert load_config(Run, manifest) == run


def test_yaml_means_what_it_says() -> None:
    text = "{a: 1e-4, b: no, c: 2024-01-01, d: 010, e: true, f: .inf, g: ~, h: -3, i: 1., j: 'on'}"
    assert parse_yaml(text, "x") == {
        "a": 1e-4, "b": "no", "c": "2024-01-01", "d": 10, "e": True, "f": float("inf"),
        "g": None, "h": -3, "i": 1.0, "j": "on",
    }  # fmt: skip
    assert yaml.safe_load("no") is False  # the rest of the process keeps its YAML


@pytest.mark.parametrize(
    "value",
    [1, 2e-5, 1e16, float("-inf"), "a: b", "no", "1e3", "", None, True, [1, "x"], "丹炉 #1"],
)
def test_scalar_text_comes_back(value: object) -> None:
    back = parse_yaml(scalar_text(value), "x")
    assert (back, type(back)) == (value, type(value))


def test_template_has_help_and_loads_back(tmp_path: Path) -> None:
    run = load_config(
        Run, None, ["out=a b", "train.max_steps=3", "adapter.lora_rank=1", "note='no'"]
    )
    text = dump_yaml(run)
    assert "# folder for everything the run writes (required)\nout: a b" in text
    assert "  # peak learning rate\n  learning_rate: 0.001" in text
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert load_config(Run, path) == run
