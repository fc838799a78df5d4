"""merge, quantize and compare: what they write and report, and what they refuse."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from danlu.commands.compare import compare
from danlu.commands.merge import MAX_KL, merge
from danlu.commands.quantize import quantize
from danlu.config.quantize.scheme import PRESETS, QuantScheme
from danlu.engine.llm import LLM
from danlu.errors import AdapterError, ConfigError, OutputError, QuantizationError, TokenizerError
from danlu.loading import load_decoder, save_decoder
from danlu.tokenizer import load_tokenizer
from danlu.tokenizer.stamp import STAMP


@pytest.fixture(scope="module")
def base(tiny_tour: Path) -> Path:
    return tiny_tour / "pretrain" / "model"


@pytest.fixture(scope="module")
def adapter(tiny_tour: Path) -> Path:
    return tiny_tour / "finetune" / "adapter"


@contextmanager
def disk_of(max_file_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: what a full disk does to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_merged_model_is_complete_and_has_not_moved(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    report = merge(base, adapter, tmp_path / "merged")
    assert report.comparison.kl_mean < 1e-6
    assert report.comparison.top1_agreement > 0.999
    assert report.merged_layers == 14
    assert dict(report.rows())["merged layers"] == "14, stored as float32"
    manifest = json.loads((tmp_path / "merged" / "run.json").read_text())
    assert manifest["parents"]["adapter"]["path"] == str(adapter)
    assert load_tokenizer(tmp_path / "merged").fingerprint() == load_tokenizer(base).fingerprint()
    answer = LLM(tmp_path / "merged").chat([{"role": "user", "content": "hello"}])
    assert answer.finish_reason in ("stop", "length")


def test_a_merge_that_moves_the_outputs_is_refused(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(decoder: object) -> list[str]:
        for layer in decoder.modules():  # type: ignore[attr-defined]
            if hasattr(layer, "lora_B"):
                layer.lora_B.data.add_(1.0)
        from danlu.adapters.handling import merge_adapters

        return merge_adapters(decoder)  # type: ignore[arg-type]

    monkeypatch.setattr("danlu.commands.merge.merge_adapters", forget)
    with pytest.raises(AdapterError, match=rf"mean KL of at most {MAX_KL}"):
        merge(base, adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["int8", "int4", "nf4"])
def test_a_quantized_model_is_complete_and_says_what_it_cost(
    base: Path, preset: str, tmp_path: Path
) -> None:
    out = tmp_path / "quantized"
    report = quantize(base, out, PRESETS[preset], with_speed=False)
    assert report.quantized_bytes < report.original_bytes * (0.65 if preset == "int4" else 0.75)
    assert 0 < report.comparison.kl_mean < 0.1
    assert sum(report.operators.values()) == (14 if preset == "nf4" else 15)  # the head
    assert json.loads((out / "quantization_report.json").read_text())["scheme"]["bits"] in (4, 8)
    assert (out / STAMP).exists()
    again = load_decoder(out)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(out, tmp_path / "twice", PRESETS[preset])
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        online = load_decoder(base, quantize=preset)  # type: ignore[arg-type]
        assert torch.equal(again(ids), online(ids))


def test_quantizing_with_speed_measures_both(base: Path, tmp_path: Path) -> None:
    report = quantize(base, tmp_path / "quantized", QuantScheme(bits=8))
    labels = [label for label, _ in report.rows()]
    assert {"prefill", "decode", "operator"} <= set(labels)


def test_comparing_a_model_with_itself(base: Path, tmp_path: Path) -> None:
    report = compare(base, base, with_speed=False)
    assert report.comparison.kl_mean == 0
    assert report.comparison.top1_agreement == 1
    assert report.comparison.num_tokens > 100
    text = tmp_path / "text.txt"
    text.write_text("Tom has a red ball. " * 20)
    assert compare(base, base, text, with_speed=False).comparison.max_logit_difference == 0


def test_models_of_different_tokenizers_are_not_compared(
    base: Path, tiny_tour: Path, tmp_path: Path
) -> None:
    from danlu.tokenizer import train_bpe

    save_decoder(load_decoder(base), tmp_path / "other")
    train_bpe(["some other text " * 20], 270).save(tmp_path / "other")
    with pytest.raises(ConfigError, match="different tokenizers"):
        compare(base, tmp_path / "other")


def test_an_existing_folder_is_kept(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match="exists and is not empty"):
        merge(base, adapter, tmp_path / "mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        quantize(base, tmp_path / "mine", PRESETS["int8"])
    assert files(tmp_path) == {"mine/notes.txt": b"keep me"}


def test_a_full_disk_is_one_error_and_leaves_nothing(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    for work in (
        lambda: merge(base, adapter, tmp_path / "out"),
        lambda: quantize(base, tmp_path / "out", PRESETS["int8"]),
    ):
        with disk_of(20_000), pytest.raises(OutputError, match="Cannot write"):
            work()
        assert list(tmp_path.iterdir()) == []


def test_a_changed_tokenizer_is_noticed_where_the_weights_are_used(
    base: Path, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(base, tmp_path / "model"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "bot"))
    with pytest.raises(TokenizerError, match="not the one the model was trained with"):
        LLM(folder)
