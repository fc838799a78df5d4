"""danlu export: what it writes, checks and reports, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import assert_close, spoil_config, tiny_decoder
from safetensors.torch import load_file
from test_model_commands import disk_of, files
from torch import Tensor
from typer.testing import CliRunner

from danlu.adapters.handling import attach_adapter, merge_adapters
from danlu.cli.app import build_app
from danlu.commands.export import export, size_bytes
from danlu.config.adapter import LoraConfig
from danlu.errors import (
    AdapterError,
    CheckpointError,
    ConfigError,
    DanluError,
    ExportError,
    OutputError,
    TokenizerError,
)
from danlu.export.checking import check_logits, float32_logits, random_rows
from danlu.export.dense import DenseState
from danlu.export.targets import find_target, target_names
from danlu.loading import decoder_from_config, load_decoder, save_adapter, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer, load_tokenizer, train_bpe
from danlu.tokenizer.stamp import write_stamp

VOCAB = 272


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Llama checkpoint with room for the tokenizer of `trained`."""
    values = {**discover()["llama"].tiny(), "vocab_size": VOCAB, "intermediate_size": 96}
    decoder = decoder_from_config(values).to_empty(device="cpu")
    decoder.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8)
    save_decoder(decoder, tmp_path / "model")
    return tmp_path / "model"


def trained() -> Tokenizer:
    """A small tokenizer with ChatML as its format."""
    return train_bpe(["some text to learn from " * 20], VOCAB)


@torch.inference_mode()
def logits(folder: Path) -> Tensor:
    return load_decoder(folder)(random_rows(VOCAB, 9))


def adapted(decoder: Decoder, folder: Path) -> Decoder:
    """The decoder with a LoRA adapter that moves its outputs, which is saved in `folder`."""
    generator = torch.Generator().manual_seed(5)
    attach_adapter(decoder, LoraConfig(lora_rank=4), generator)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.1, generator=generator)
    save_adapter(decoder, folder, "base")
    return decoder


def test_targets_are_found_by_file_name() -> None:
    assert {"baichuan", "transformers"} <= set(target_names())
    for name in target_names():
        assert find_target(name).name == name


def test_a_folder_with_everything(model: Path, tmp_path: Path) -> None:
    trained().save(model)
    report = export(model, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert report.check is not None
    assert report.check.difference < 1e-6
    assert report.check.num_tokens == 3 * 48
    assert report.notes == ()
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["command"] == "export"
    assert manifest["parents"]["model"]["path"] == str(model)
    assert manifest["result"]["architecture"] == "LlamaForCausalLM"
    written, source = load_tokenizer(tmp_path / "out"), load_tokenizer(model)
    assert written.encode("some text") == source.encode("some text")


def test_dtype_and_shards(model: Path, tmp_path: Path) -> None:
    report = export(model, tmp_path / "out", dtype="bf16", max_shard_size="100KB")
    assert report.dtype == "bfloat16"
    assert report.check is not None
    assert report.check.difference < 1e-6
    assert 1e-4 < report.check.rounding < 0.5
    assert "rounding the weights moved them" in dict(report.rows())["check"]
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 120_000 for shard in shards)
    assert {t.dtype for s in shards for t in load_file(s).values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_an_adapter_is_merged_first(model: Path, tmp_path: Path) -> None:
    merged = adapted(load_decoder(model), tmp_path / "adapter")
    merge_adapters(merged)
    export(model, tmp_path / "out", adapter=tmp_path / "adapter")
    with torch.inference_mode():
        assert torch.equal(logits(tmp_path / "out"), merged(random_rows(VOCAB, 9)))
    assert (logits(model) - logits(tmp_path / "out")).abs().max() > 0.01


def test_the_chat_format_is_the_one_the_adapter_was_trained_with(
    model: Path, tmp_path: Path
) -> None:
    base = trained()
    base.save(model)
    template = tmp_path / "shouting.jinja"
    template.write_text("{% for m in messages %}{{ m.content | upper }}\n{% endfor %}")
    adapted(load_decoder(model), tmp_path / "adapter")
    write_stamp(tmp_path / "adapter", base.with_chat_format(str(template)), str(template))
    export(model, tmp_path / "out", adapter=tmp_path / "adapter")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template.read_text()


def test_a_changed_tokenizer_is_noticed(model: Path, tmp_path: Path) -> None:
    base = trained()
    base.save(model)
    write_stamp(model, base)
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    refused(TokenizerError, "was trained", tmp_path, model, tmp_path / "out")


def test_an_adapter_of_another_base_is_refused(model: Path, tmp_path: Path) -> None:
    adapted(tiny_decoder("bloom"), tmp_path / "adapter")
    with pytest.raises(AdapterError):
        export(model, tmp_path / "out", adapter=tmp_path / "adapter")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_quantized_model_becomes_dense(model: Path, scheme: str, tmp_path: Path) -> None:
    save_decoder(load_decoder(model, quantize=scheme), tmp_path / "small")
    report = export(tmp_path / "small", tmp_path / "out")
    assert any("quantized layers" in note for note in report.notes)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert_close(logits(tmp_path / "out"), logits(tmp_path / "small"))


def test_mixed_dtypes_come_back_as_they_are(model: Path, tmp_path: Path) -> None:
    decoder = load_decoder(model)
    published = decoder.published
    assert published is not None
    object.__setattr__(
        published,
        "dtypes",
        {n: torch.float32 if "norm" in n else torch.float16 for n in published.dtypes},
    )
    save_decoder(decoder, tmp_path / "mixed")
    report = export(tmp_path / "mixed", tmp_path / "out")
    assert report.check is not None
    assert report.check.difference < 1e-6
    before = load_file(tmp_path / "mixed" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor)


def test_a_published_generation_config_keeps_what_is_understood(
    model: Path, tmp_path: Path
) -> None:
    given = {"chat_format": "chatml", "eos_token_id": 7, "top_p": 0.5, "do_sample": True}
    (model / "generation_config.json").write_text(json.dumps(given))
    export(model, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == {"eos_token_id": 7, "top_p": 0.5, "do_sample": True}


def test_ids_that_end_an_answer_are_all_named(model: Path, tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.save(model)
    export(model, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    stops = written["eos_token_id"]
    assert set(stops if isinstance(stops, list) else [stops]) == set(tokenizer.stop_ids())
    assert load_tokenizer(tmp_path / "out").settings.templates()


def test_float32_logits_need_no_float32_copy() -> None:
    decoder = tiny_decoder("llama")
    half = tiny_decoder("llama").bfloat16()
    rows = random_rows(256, 9)
    found = float32_logits(half, rows)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert_close(found, float32_logits(decoder.bfloat16().float(), rows), 1e-6)


# Bad input: one error each, and nothing is left behind.


def refused(
    error: type[DanluError], match: str, tmp_path: Path, *args: object, **kw: object
) -> str:
    before = files(tmp_path)
    with pytest.raises(error, match=match) as raised:
        export(*args, **kw)  # type: ignore[arg-type]
    assert files(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
    return str(raised.value)


def test_an_unknown_target(model: Path, tmp_path: Path) -> None:
    text = refused(ConfigError, "transformer", tmp_path, model, tmp_path / "out", "transformer")
    assert "Did you mean 'transformers'?" in text
    assert "baichuan" in text


def test_an_unknown_dtype_or_size(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = refused(ConfigError, "cannot store 'int8'", tmp_path, model, out, dtype="int8")
    assert "float32, bfloat16, float16" in text
    for size in ("0GB", "-1GB", "5 apples", "", "GB"):
        refused(ConfigError, "is no size", tmp_path, model, out, max_shard_size=size)
    assert size_bytes("5GB") == 5 * 10**9
    assert size_bytes("1.5 MiB") == 3 * 2**19


def test_an_existing_output_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    refused(OutputError, "Nothing was overwritten", tmp_path, model, tmp_path / "mine")
    refused(OutputError, "Nothing was overwritten", tmp_path, model, tmp_path / "file")


def test_a_target_that_the_family_cannot_become(model: Path, tmp_path: Path) -> None:
    text = refused(ExportError, "'llama'", tmp_path, model, tmp_path / "out", "baichuan")
    assert "Expected one of these families: baichuan2_13b, baichuan2_7b." in text


def test_broken_sources(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    refused(CheckpointError, "config.json' is missing", tmp_path, tmp_path / "empty", out)
    refused(CheckpointError, "is not a folder", tmp_path, tmp_path / "nowhere", out)
    spoil_config(model, hidden_sise=64)
    refused(CheckpointError, "unknown key", tmp_path, model, out)
    spoil_config(model, hidden_sise="REMOVE")
    whole = (model / "model.safetensors").read_bytes()
    for cut in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (model / "model.safetensors").write_bytes(whole[:cut])
        refused(CheckpointError, "model.safetensors", tmp_path, model, out)


def test_a_tokenizer_with_more_tokens_than_the_model(model: Path, tmp_path: Path) -> None:
    train_bpe(["some text to learn from, and other words 1234567890 " * 20], 290).save(model)
    text = refused(TokenizerError, "289 tokens", tmp_path, model, tmp_path / "out")
    assert f"{VOCAB} rows" in text
    assert export(model, tmp_path / "out", with_tokenizer=False).tokenizer == "none"


def test_a_broken_tokenizer_is_not_taken_for_none(model: Path, tmp_path: Path) -> None:
    trained().save(model)
    text = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(text[: len(text) // 2])
    refused(TokenizerError, "tokenizer.json", tmp_path, model, tmp_path / "out")
    report = export(model, tmp_path / "out", with_tokenizer=False)
    assert report.tokenizer == "none"
    assert "there is no tokenizer" in report.notes[-1]


def test_an_export_that_computes_something_else_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = DenseState.__getitem__

    def wrong(self: DenseState, name: str) -> Tensor:
        return right(self, name) * (1.01 if "v_proj" in name else 1.0)

    monkeypatch.setattr(DenseState, "__getitem__", wrong)
    refused(ExportError, "does not compute", tmp_path, model, tmp_path / "out")


def test_a_difference_that_is_no_number_fails() -> None:
    zeros, nans = torch.zeros(1, 2, 3), torch.full((1, 2, 3), torch.nan)
    with pytest.raises(ExportError, match="nan"):
        check_logits(zeros, zeros, nans, "out")


def test_a_full_disk_is_one_error_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    with disk_of(20_000):
        refused(OutputError, "Cannot write", tmp_path, model, tmp_path / "out")


def test_the_command_line(model: Path, tmp_path: Path) -> None:
    def run(*args: object) -> str:
        done = CliRunner().invoke(build_app(), ["export", *map(str, args)], terminal_width=200)
        assert done.exit_code == 0, done.output
        return done.stdout

    shown = run(model, tmp_path / "a", "--to", "transformers", "--dtype", "fp16")
    assert "LlamaForCausalLM, float16" in shown
    assert "logits differ by" in shown
    report = json.loads(run(model, tmp_path / "b", "--json", "--no-tokenizer"))
    assert report["target"] == "transformers"
    assert report["check"]["difference"] <= 1e-4
