"""danlu quantize as a whole: the run, the folder, the report, bounds, and going on after a kill."""

import json
import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Capture, complained, printed

from danlu.calibration.block import LayerResult
from danlu.calibration.work_folder import WorkFolder
from danlu.cli.app import run as danlu_command
from danlu.cli.quantize import read_run
from danlu.commands.quantize import QuantizeReport, precision, run_quantize
from danlu.commands.quantize.bounds import MARK
from danlu.commands.quantize.charts import error_chart, error_map, percent
from danlu.commands.quantize.source import Source
from danlu.commands.quantize.speed import Served, reasons
from danlu.commands.quantize.texts import Texts, read_texts
from danlu.config.data import sources
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.kv_cache import KvCacheScheme
from danlu.config.quantize.run import (
    Bounds,
    CalibrationData,
    Fit,
    QuantizeReporting,
    QuantizeRun,
)
from danlu.config.quantize.scheme import QuantScheme
from danlu.engine.llm import LLM
from danlu.errors import ConfigError, DanluError
from danlu.eval.layer_times import LayerTimes
from danlu.eval.speed import Speed
from danlu.loading import decoder_from_config, load_decoder, load_tokenizer, save_decoder
from danlu.models import discover
from danlu.progress import Silent
from danlu.quantize.operators.operator import DequantizeOperator
from danlu.tokenizer import train_bpe
from danlu.tokenizer.stamp import read_stamp

GPTQ = GptqScheme(group_size=32)
QUIET = QuantizeReporting(speed=False, samples=2)


@pytest.fixture(scope="module")
def model(tiny_tour: Path) -> Path:
    return tiny_tour / "model"


@pytest.fixture(scope="module")
def rows(tiny_tour: Path) -> Path:
    return tiny_tour / "world" / "instructions.jsonl"


def run_of(model: Path, out: Path, **changes: Any) -> QuantizeRun:
    return QuantizeRun(**{"model": str(model), "out": str(out), "report": QUIET, **changes})


def calibrated(rows: Path) -> CalibrationData:
    return CalibrationData(sources=sources(rows), samples=8, max_tokens=64)


# ------------------------------------------------------------ the run


def test_flags_and_run_files_describe_one_run(tmp_path: Path) -> None:
    flagged = {
        "scheme.method": "gptq",
        "scheme.group_size": 32,
        "calibration.sources": ["a.jsonl", "b.txt"],
        "bounds.max_ppl_increase": "1%",
        "fit.bytes": "6GB",
        "kv_cache.bits": 8,
        "skip": ["*down_proj"],
        "format": None,
    }
    expected = QuantizeRun(
        model="m",
        out="o",
        scheme=GPTQ,
        calibration=CalibrationData(sources=sources("a.jsonl", "b.txt"), samples=16),
        bounds=Bounds(max_ppl_increase=0.01),
        fit=Fit(bytes=6 * 10**9),
        kv_cache=KvCacheScheme(),
        skip=["*down_proj"],
    )
    assert read_run(["m", "o", "calibration.samples=16"], flagged) == expected
    path = tmp_path / "run.yaml"
    path.write_text("{model: m, out: x, scheme: {method: gptq}, calibration: {samples: 2}}")
    values = ["out=o", "calibration.samples=16"]
    assert read_run([str(path), *values], flagged) == expected
    assert read_run(["model=m", "out=o", "bounds.max_ppl_increase=0.01"], {}).bounds == Bounds(
        max_ppl_increase=0.01
    )


def test_everything_wrong_with_flags_is_told_at_once() -> None:
    flagged = {
        "scheme.method": "nf4",
        "scheme.bits": 9,
        "fit.bytes": "6XB",
        "bounds.max_ppl_increase": "-1%",
        "bounds.max_kl": -1.0,
    }
    with pytest.raises(ConfigError) as told:
        read_run(["m", "o", "scheme.bitz=4", "oout=x"], flagged)
    for problem in (
        "6 problems",
        "scheme.bits: should be",
        "'6XB' is no size; expected a positive number with a unit",
        "'-1%' is no share; expected 1% or 0.01",
        "bounds.max_kl: should be greater than or equal to 0",
        "scheme.bitz: unknown key (from the command line). Did you mean 'bits'?",
        "oout: unknown key (from the command line). Did you mean 'out'?",
    ):
        assert problem in str(told.value)


@pytest.mark.parametrize("words", [["m"], ["a", "b", "c"]])
def test_a_model_needs_a_folder_to_go_to(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"Expected a model and a new folder.*{words[-1]}"):
        read_run(words, {})


def test_a_method_that_is_not_there_has_a_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"found 'gtpq'\. Did you mean 'gptq'"):
        read_run(["m", "o"], {"scheme.method": "gtpq"})


# ------------------------------------------------------------ the folder and its report


@pytest.fixture(scope="module")
def finished(
    model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, QuantizeReport]:
    """A GPTQ int4 model with everything in its report."""
    out = tmp_path_factory.mktemp("quantized") / "out"
    run = run_of(
        model,
        out,
        scheme=GPTQ,
        calibration=calibrated(rows),
        bounds=Bounds(max_ppl_increase=0.5, max_kl=1.0),
        report=QuantizeReporting(),
        kv_cache=KvCacheScheme(),
    )
    return out, run_quantize(run)


def test_the_folder_is_complete(model: Path, finished: tuple[Path, QuantizeReport]) -> None:
    out, _ = finished
    assert {path.name for path in model.iterdir()} <= {path.name for path in out.iterdir()}
    tokenizer = load_tokenizer(out)
    assert tokenizer.fingerprint() == load_tokenizer(model).fingerprint()
    assert read_stamp(out)["tokenizer_fingerprint"] == tokenizer.fingerprint()
    assert LLM(out).chat([{"role": "user", "content": "hello"}]).finish_reason
    assert json.loads((out / "config.json").read_text())["quantization_config"]["bits"] == 4
    assert not list(out.parent.glob(".*")), "work is left beside the folder"


def test_the_report_says_what_it_cost_and_gained(finished: tuple[Path, QuantizeReport]) -> None:
    out, report = finished

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    told = json.loads((out / "quantization_report.json").read_text(), parse_constant=refuse)
    assert told == json.loads(json.dumps(report.as_dict()))
    layers = [name for name, _ in load_decoder(out).linears() if name != "lm_head"]
    assert [layer["name"] for layer in told["layers"]] == layers
    assert all(0 < layer["relative_error"] < 0.5 for layer in told["layers"])
    assert told["comparison"]["num_tokens"] > 100
    assert told["ppl_increase"] == pytest.approx(
        told["comparison"]["perplexity_candidate"] / told["comparison"]["perplexity_reference"] - 1
    )
    assert len(told["answers"]) == 16
    assert told["layer_bytes"] < told["quantized_bytes"] < told["original_bytes"]
    before, after = told["cache_token_bytes"]
    assert after < 0.7 * before
    assert told["calibration_ledger"]["tokens"]["kept"] > 0
    for side in ("original", "quantized"):
        assert told[f"{side}_speed"]["decode_tokens_per_s"] > 0
        assert sum(times["layers"] for times in told["layer_times"][side]) > 0
    assert sum(told["operators"].values()) == len(layers)
    assert told["bounds"] == {"max_ppl_increase": 0.5, "max_kl": 1.0, "broken": []}
    assert not (out / MARK).exists()
    assert (told["written_as"], told["summary"]) == ("gptq", report.scheme_text)


def test_the_page_needs_nothing_beside_it(finished: tuple[Path, QuantizeReport]) -> None:
    out, report = finished
    page = (out / "quantization_report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|<script|<link|@import|url\(", page)
    assert page.count('class="card sample"') == 16
    assert page.count('<rect class="heat"') >= len(report.layers)
    for shown in ("q_proj", "down_proj", "Kept", "prefill", f"{report.ppl_increase:+.2%}"):
        assert shown in page


def test_answers_go_on_from_the_text_that_is_compared(
    finished: tuple[Path, QuantizeReport],
) -> None:
    _, report = finished
    assert len({answer.prompt for answer in report.answers}) == 16
    for answer in report.answers:
        assert 0 <= answer.same_tokens <= answer.tokens
        assert (answer.same_tokens == answer.tokens) or answer.original != answer.quantized
    assert sum(answer.same_tokens for answer in report.answers) > 0


def test_its_own_run_file_repeats_it(finished: tuple[Path, QuantizeReport], tmp_path: Path) -> None:
    out, report = finished
    run = read_run([str(out / "run.json"), f"out={tmp_path / 'again'}"], {"report.speed": False})
    assert run.scheme == report.run.scheme
    again = run_quantize(run)
    assert again.comparison == report.comparison
    assert weights(tmp_path / "again") == weights(out)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_large_models_are_compared_in_the_dtype_they_are_stored_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_decoder(load_decoder(model), tmp_path, torch.bfloat16)
    source = Source(tmp_path, None, load_tokenizer(model))
    cpu = torch.device("cpu")
    assert precision.compared_dtype(source, cpu) == torch.float32
    monkeypatch.setattr(precision, "free_bytes", lambda device: 100_000)
    assert precision.compared_dtype(source, cpu) == torch.bfloat16


def test_text_that_the_model_writes_for_calibration_is_not_what_is_compared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Texts] = {}

    def spy(*arguments: Any) -> Texts:
        seen["texts"] = read_texts(*arguments)
        return seen["texts"]

    monkeypatch.setattr("danlu.commands.quantize.running.read_texts", spy)
    data = CalibrationData(samples=4, max_tokens=32)
    report = run_quantize(run_of(model, tmp_path / "out", scheme=GPTQ, calibration=data))
    texts = seen["texts"]
    assert len(texts.watched) == 4
    assert not {tuple(row[:16]) for row in texts.watched} & {tuple(r[:16]) for r in texts.rows}
    assert "4 texts that the model wrote itself (seed 1)" in report.calibrated_on
    assert "(seed 0)" in report.compared_on


def test_texts_that_were_kept_are_those_of_one_model_and_seed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    decoder = load_decoder(model)
    decoder.init_weights(torch.Generator().manual_seed(1))
    save_decoder(decoder, other)
    numbers = iter(range(9))
    monkeypatch.setattr(
        "danlu.commands.quantize.texts.comparison_batches", lambda *_: [[[next(numbers)] * 8]]
    )

    def compared(folder: Path, seed: int) -> int:
        source = Source(folder, None, load_tokenizer(model))
        run = run_of(folder, tmp_path / "out", seed=seed)
        return read_texts(run, source, tmp_path, Silent()).rows[0][0]

    asked = [(model, 0), (model, 0), (model, 1), (model, 0), (other, 0)]
    assert [compared(*each) for each in asked] == [0, 0, 1, 0, 2]


# ------------------------------------------------------------ bounds


def test_a_broken_bound_fails_and_marks_the_folder(
    model: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    flags = ["--bits", "2", "--no-speed", "--answers", "0", "--max-ppl-increase", "0.0001%"]
    code = danlu_command(["quantize", str(model), str(out), *flags, "--max-kl", "1e-9"])
    shown = capsys.readouterr()
    assert code == 1
    assert "bound broken" in shown.out
    assert "BoundBroken: perplexity changed by +" in shown.err
    assert "Traceback" not in shown.err
    told = json.loads((out / "quantization_report.json").read_text())
    assert any("head is in 2 bits too, which vLLM" in note for note in told["notes"])
    broken = told["bounds"]["broken"]
    assert len(broken) == 2
    assert all(bound in (out / MARK).read_text() for bound in broken)
    shown_info = printed(capsys, "info", out)
    assert "quantized under a bound that it does not keep: perplexity" in " ".join(
        shown_info.split()
    )
    logging.getLogger("danlu").propagate = True
    with caplog.at_level(logging.WARNING):
        load_decoder(out)
    assert [record.message for record in caplog.records] == [
        f"'{out}' was quantized under a bound that it does not keep: {bound}." for bound in broken
    ]


# ------------------------------------------------------------ what goes wrong


def wrong_model(name: str) -> Callable[[Path, Path], list[object]]:
    return lambda tour, out: ["quantize", tour / name, out]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (wrong_model("finetune/adapter"), "is an adapter; expected the folder of a model. Merge"),
        (wrong_model("model-int4"), "is quantized already, as 'compressed-tensors'"),
        (lambda tour, out: ["quantize", tour / "model", tour / "world"], "is not empty"),
        (
            lambda tour, out: ["quantize", tour / "model", out, "--format", "gtpq"],
            "Did you mean 'gptq'?",
        ),
        (
            lambda tour, out: ["quantize", tour / "model", out, "--group-size", 48],
            "which groups of 48 do not divide",
        ),
        (
            lambda tour, out: ["quantize", tour / "model", out, "--data", out / "none.jsonl"],
            "none.jsonl",
        ),
        (
            lambda tour, out: ["quantize", tour / "model", out, "--fit", "1B"],
            "The model does not fit into 1 B",
        ),
    ],
)
def test_what_cannot_be_quantized_leaves_nothing(
    arguments: Callable[[Path, Path], list[object]],
    told: str,
    tiny_tour: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(*arguments: Any) -> None:
        raise AssertionError("known before the model is opened to write texts")

    monkeypatch.setattr("danlu.commands.quantize.texts.load_decoder", late)
    assert told in complained(capsys, *arguments(tiny_tour, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------ going on


def killed_after_a_block(run: QuantizeRun) -> None:
    """Quantize in a child that dies by SIGKILL once its first block is written."""
    child = os.fork()
    if child == 0:
        real = WorkFolder.write

        def write(self: WorkFolder, *arguments: Any) -> None:
            real(self, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        WorkFolder.write = write  # type: ignore[method-assign, assignment]
        try:
            run_quantize(run)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(model, tmp_path / "out", scheme=GPTQ, calibration=calibrated(rows))
    killed_after_a_block(run)
    assert not (tmp_path / "out").exists()
    written: list[int] = []
    real = WorkFolder.write

    def write(self: WorkFolder, index: int, *arguments: Any) -> None:
        written.append(index)
        real(self, index, *arguments)

    monkeypatch.setattr(WorkFolder, "write", write)
    resumed = run_quantize(run)
    assert written == [1]
    whole = run_quantize(run.model_copy(update={"out": str(tmp_path / "whole")}))
    assert written == [1, 0, 1]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert (resumed.layers, resumed.comparison) == (whole.layers, whole.comparison)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}


def test_after_an_error_the_same_run_goes_on_and_another_does_not(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(model, tmp_path / "out", scheme=GPTQ, calibration=calibrated(rows))

    def fail(*arguments: Any) -> None:
        raise DanluError("no")

    with monkeypatch.context() as patch:
        patch.setattr("danlu.commands.quantize.running.measure", fail)
        with pytest.raises(DanluError, match="no"):
            run_quantize(run)
    assert [path.name for path in tmp_path.iterdir()] == [".out.work"]
    with pytest.raises(DanluError, match="scheme"):
        run_quantize(run.model_copy(update={"scheme": QuantScheme()}))
    run_quantize(run)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ------------------------------------------------------------ orphans


def test_an_orphan_is_quantized_into_its_living_form(tmp_path: Path) -> None:
    values = {**discover()["qwen"].tiny(), "vocab_size": 272}
    decoder = decoder_from_config(values).to_empty(device="cpu")
    decoder.init_weights(torch.Generator().manual_seed(0))
    save_decoder(decoder, tmp_path / "qwen")
    train_bpe(["some text to learn from " * 20], 272).save(tmp_path / "qwen")
    data = CalibrationData(samples=4, max_tokens=24)
    run = run_of(
        tmp_path / "qwen",
        tmp_path / "out",
        scheme=GptqScheme(group_size=16),
        calibration=data,
        export="transformers",
    )
    report = run_quantize(run)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["quantization_config"]["quant_method"] == "gptq"
    assert "qwen re-expressed as Qwen2ForCausalLM: its logits differ by" in report.notes[0]
    assert len(report.layers) == 14
    parents = json.loads((tmp_path / "out" / "run.json").read_text())["parents"]
    assert parents["model"]["path"] == str(tmp_path / "qwen")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.encode("some text") == load_tokenizer(tmp_path / "qwen").encode("some text")
    assert read_stamp(tmp_path / "out")["tokenizer_fingerprint"] == tokenizer.fingerprint()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "qwen"}


# ------------------------------------------------------------ why it is slower, and drawings


def served_model(decode: float, prefill: float, *times: LayerTimes) -> Served:
    return Served(Speed(prefill, decode, 128, 32, 3), times)


DENSE = LayerTimes("dense product, packed", 8, 1000, decode_ms=1.0, prefill_ms=4.0)


def test_reasons_name_the_operator_that_takes_the_time() -> None:
    before = served_model(100, 1000, DENSE)
    slow = LayerTimes(DequantizeOperator.label, 14, 900, decode_ms=5.0, prefill_ms=3.0)
    fast = LayerTimes("int8 kernel", 1, 100, decode_ms=0.5, prefill_ms=0.5)
    [decode] = reasons(before, served_model(50, 1000, slow, fast))
    assert decode.startswith("Decode is slower (0.50x).")
    assert "5.50 ms instead of 1.00 ms; 91% of it goes to 'dequantize + dense product'" in decode
    assert "no kernel that reads this form" in decode
    [prefill] = reasons(before, served_model(100, 500, slow, fast), rounds_cache=True)
    assert "3.50 ms instead of 4.00 ms, so they are not the cause: it is rounding keys" in prefill
    assert reasons(before, served_model(99, 2000, slow)) == []


def test_the_map_of_errors_shows_the_worst_expert_of_each_block() -> None:
    names = ["model.layers.0.mlp.experts.0.up_proj", "model.layers.0.mlp.experts.1.up_proj"]
    names += ["model.layers.11.self_attn.q_proj", "lm_head"]
    errors = (0.1, 0.3, 0.02, 0.9)
    found = error_map([LayerResult(n, "rtn", 4, e, 1) for n, e in zip(names, errors, strict=True)])
    assert found.errors == {("up_proj", 0): 0.3, ("q_proj", 11): 0.02}
    assert found.blocks == 12
    chart = error_chart(found)
    assert "block 0, up_proj: 30 %" in chart
    assert "block 11, q_proj: 2.0 %" in chart
    assert error_chart(error_map([])) == ""
    shares = {0.5: "50 %", 0.012: "1.2 %", 0.00012: "0.012 %", 0.0: "0 %"}
    assert {share: percent(share) for share in shares} == shares
