"""GGUF files of Danlu in llama.cpp: logits and greedy ids beside Danlu's own, and tokenizers.

Every model is exported as f32, f16, bf16 and q8_0, opened by llama-cpp-python in an interpreter of
its own (named by DANLU_LLAMA_PYTHON), and fed the same token ids: 2 rows of random ids, at most 24
long, and greedy decoding through llama.cpp's cache. Danlu computes in float32 from the source. The
difference is the largest one over max(1, the largest logit). llama.cpp's keys and values are kept
in float32; its GELU is a float16 table, and its matrix products round activations to the type of
the weights. Greedy ids count where the types keep them apart; only f32 must have all of them equal.

    DANLU_LLAMA_PYTHON=PYTHON python -m benchmarks.exports_gguf [--only NAME ...] [--out FILE.md]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.facts import ROOT, shown_command
from benchmarks.results import Report, Table, add_output_options, publish
from danlu.errors import ExportError
from danlu.export.gguf import FILE_TYPES, export_gguf
from danlu.export.source import open_source
from danlu.export.target import ExportOptions
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.progress import Silent
from danlu.tokenizer import Tokenizer, load_tokenizer

GOLDEN = ROOT / "tests" / "golden-small"
TOKENIZERS = ROOT.parent / "shared" / "data" / "tokenizers"
BOUNDS = {"f32": 1e-3, "f16": 2e-2, "bf16": 1e-1, "q8_0": 2e-1}
ROWS, TOKENS, PROMPT = 2, 24, 8

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

# What the golden folders do not have: the depths that llama.cpp's graph of Baichuan asks for, rows
# that make whole blocks of Q8_0 everywhere, biases with a tied head, and scaled positions.
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, whole blocks": ("llama", {"intermediate_size": 128}),
    "Llama, biases and tied": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "Llama, linear scaling": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "Llama, YaRN": ("llama", {"rope_scaling": YARN}),
    "Qwen2, YaRN": ("qwen2", {"rope_scaling": YARN, "use_sliding_window": False}),
    "Qwen2, whole blocks": ("qwen2", {"intermediate_size": 128}),
    "Qwen-1, whole blocks": ("qwen", {"intermediate_size": 256}),
    "ChatGLM2, whole blocks": ("chatglm2", {"ffn_hidden_size": 128}),
    "BLOOM, whole blocks": ("bloom", {"hidden_size": 96}),
    "GPT-2, whole blocks": ("gpt2", {"n_embd": 96}),
    "Baichuan-7B, 32 layers": ("baichuan_7b", {"num_hidden_layers": 32}),
    "Baichuan2-7B, 32 layers": ("baichuan2_7b", {"num_hidden_layers": 32}),
    "Baichuan-13B, 40 layers": ("baichuan_13b", {"num_hidden_layers": 40}),
    "Baichuan2-13B, 40 layers": ("baichuan2_13b", {"num_hidden_layers": 40}),
}


@dataclass(frozen=True)
class Asked:
    """What both sides compute.

    Attributes:
        rows: token ids.
        prompt_tokens: of each row that are continued greedily.
        new_tokens: to add to them.
        logits: Danlu's [rows, tokens, V].
        greedy: Danlu's new ids of each row.
    """

    rows: list[list[int]]
    prompt_tokens: int
    new_tokens: int
    logits: np.ndarray
    greedy: list[list[int]]


@torch.inference_mode()
def asked_of(decoder: Decoder, context_length: int) -> Asked:
    length = min(TOKENS, context_length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(decoder.config.vocab_size, (ROWS, length), generator=generator)
    half = min(PROMPT, length // 2)
    greedy = _greedy(decoder, ids[:, :half], half)[:, half:]
    return Asked(ids.tolist(), half, half, decoder(ids).numpy(), greedy.tolist())


def _greedy(decoder: Decoder, ids_BT: Tensor, new_tokens: int) -> Tensor:
    for _ in range(new_tokens):
        ids_BT = torch.cat((ids_BT, decoder(ids_BT)[:, -1:].argmax(-1)), dim=1)
    return ids_BT


def read_in_llama(path: Path, request: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    """Return what llama.cpp says to a request of `llama_reader.py`."""
    with tempfile.TemporaryDirectory() as work:
        question, answer = Path(work) / "request.json", Path(work) / "answer.npz"
        question.write_text(json.dumps(request), encoding="utf-8")
        reader = [
            os.environ["DANLU_LLAMA_PYTHON"],
            str(Path(__file__).with_name("llama_reader.py")),
        ]
        done = subprocess.run([*reader, path, question, answer], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"llama.cpp failed: {done.stderr.strip()[-500:]}")
        return dict(np.load(answer))


def golden_models() -> Iterator[tuple[str, Path]]:
    for folder in sorted(GOLDEN.iterdir()):
        if (folder / "config.json").exists():
            yield f"golden {folder.name}", folder


def random_models(work: Path) -> Iterator[tuple[str, Path]]:
    """Yield checkpoints with random weights, written below `work`."""
    for name, (family, changes) in RANDOM.items():
        folder = work / name
        config = {**discover()[family].tiny(), **changes}
        decoder = decoder_from_config(config, family).to_empty(device="cpu")
        decoder.tie_head()
        generator = torch.Generator().manual_seed(0)
        decoder.init_weights(generator)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        save_decoder(decoder, folder)
        yield name, folder


def model_row(source: Path, work: Path) -> tuple[str, dict[str, tuple[float, int]]]:
    """Return the architecture, and for each type the difference and how many greedy rows agree.

    Raises:
        ExportError: if the model is refused.
    """
    found: dict[str, tuple[float, int]] = {}
    reference = load_decoder(source)
    asked: Asked | None = None
    architecture = ""
    for name in FILE_TYPES:
        path = work / f"{name}.gguf"
        path.unlink(missing_ok=True)
        report = export_gguf(open_source(source), None, path, ExportOptions(dtype=name), Silent())
        architecture = report.architecture
        asked = asked or asked_of(reference, context_length(path))
        answer = read_in_llama(
            path,
            {
                "rows": asked.rows,
                "prompt_tokens": asked.prompt_tokens,
                "new_tokens": asked.new_tokens,
            },
        )
        found[name] = difference(asked, answer)
    return architecture, found


def context_length(path: Path) -> int:
    return int(read_in_llama(path, {})["context_length"])


def difference(asked: Asked, answer: Mapping[str, np.ndarray]) -> tuple[float, int]:
    logits = np.stack([answer[f"logits_{i}"] for i in range(ROWS)])
    scale = max(1.0, float(np.abs(asked.logits).max()))
    equal = [answer[f"greedy_{i}"].tolist() == asked.greedy[i] for i in range(ROWS)]
    return float(np.abs(logits - asked.logits).max()) / scale, sum(equal)


def models_tables(work: Path, only: list[str]) -> list[Table]:
    """Return the table of models, and that of refusals."""
    header = ("model", "graph", *(f"{name} (at most {b:g})" for name, b in BOUNDS.items()))
    table = Table("Logits of llama.cpp beside Danlu's (rows with equal greedy ids)", header)
    refused = Table("Refused", ("model", "reason"))
    for name, source in [*golden_models(), *random_models(work)]:
        if only and not any(part in name for part in only):
            continue
        try:
            architecture, found = model_row(source, work)
        except ExportError as error:
            refused.rows.append((name, str(error).replace("\n", " ").replace("|", "/")))
            continue
        cells = [f"{worst:.1e} ({equal} of {ROWS})" for worst, equal in found.values()]
        table.rows.append((name, architecture, *cells))
        missed = [t for t, (worst, _) in found.items() if not worst <= BOUNDS[t]]
        if missed or found["f32"][1] < ROWS:
            print(f"{name}: beyond the bound or other greedy ids: {missed or 'f32'}")
    return [table, refused]


def tokenizer_table(work: Path) -> Table:
    """Return how many golden texts llama.cpp cuts as Danlu does, for every tokenizer there is."""
    table = Table(
        "Tokenizers: golden texts with equal ids", ("tokenizer", "as", "equal", "not normalised")
    )
    for folder in sorted(TOKENIZERS.iterdir()) if TOKENIZERS.is_dir() else []:
        goldens = folder / "golden_encodings.json"
        if goldens.exists():
            cases = json.loads(goldens.read_text(encoding="utf-8"))["cases"]
            texts = [case["text"] for case in cases]
            tokenizer = load_tokenizer(folder, family=folder.name)
            table.rows.append((folder.name, *tokenizer_cells(tokenizer, texts, work)))
    return table


def tokenizer_cells(tokenizer: Tokenizer, texts: list[str], work: Path) -> tuple[str, str, str]:
    path = work / "tokenizer.gguf"
    path.unlink(missing_ok=True)
    config = {**discover()["llama"].tiny(), "vocab_size": tokenizer.vocab_size}
    decoder = decoder_from_config(config).to_empty(device="cpu")
    decoder.init_weights(torch.Generator().manual_seed(0))
    try:
        report = export_gguf(decoder, tokenizer, path, ExportOptions(dtype="f16"), Silent())
    except ExportError as error:
        return "refused", str(error), ""
    answer = read_in_llama(path, {"texts": texts})
    ids = [tokenizer.encode(text) for text in texts]
    equal = sum(answer[f"ids_{i}"].tolist() == wanted for i, wanted in enumerate(ids))
    folds = any("normalise" in note for note in report.notes)
    return report.tokenizer, f"{equal} of {len(texts)}", "yes" if folds else ""


def llama_version() -> str:
    code = "import llama_cpp; print(llama_cpp.__version__)"
    python = os.environ["DANLU_LLAMA_PYTHON"]
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Compare and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_output_options(parser)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of models")
    options = parser.parse_args()
    if "DANLU_LLAMA_PYTHON" not in os.environ:
        raise SystemExit("Set DANLU_LLAMA_PYTHON to a python that has llama-cpp-python.")
    torch.set_num_threads(1)
    report = Report(
        "exports-gguf",
        "GGUF files in llama.cpp",
        shown_command("benchmarks.exports_gguf", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    report.facts["llama-cpp-python"] = llama_version()
    with tempfile.TemporaryDirectory() as work:
        report.tables += models_tables(Path(work), options.only)
        if not options.only and not options.tiny:
            report.tables.append(tokenizer_table(Path(work)))
    publish(report, options, keep=not options.only)


if __name__ == "__main__":
    main()
