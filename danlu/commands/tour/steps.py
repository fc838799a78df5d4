"""The steps of a tour. Each calls the function of a command and returns its line of proof.

A step may be run again after a kill at any moment: what it makes is whole or not there (world,
tokenizer, merge, quantize, each score), or goes on by itself (the two training runs).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.commands.compression import compare_token_counts
from danlu.commands.finetune import run_finetune
from danlu.commands.manifest import write_manifest
from danlu.commands.merge import merge
from danlu.commands.pretrain import run_pretrain
from danlu.commands.quantize import quantize
from danlu.commands.tokenizer import train_tokenizer
from danlu.commands.tour.evaluation import evaluate_models, models_of
from danlu.commands.tour.material import write_material
from danlu.commands.tour.options import TourOptions
from danlu.commands.tour.paths import TourPaths
from danlu.commands.tour.plan import TourPlan
from danlu.config.data import FinetuneData, PretrainData, sources
from danlu.config.quantize.scheme import PRESETS
from danlu.config.run import FinetuneRun, PretrainRun
from danlu.files import atomic_folder, size_text
from danlu.progress import Progress
from danlu.train.metrics import read_metrics
from danlu.train.run_folder import RunResult

Facts = dict[str, Any]


@dataclass(frozen=True)
class Tour:
    """What every step may read: options, plan, places, and the facts of the steps before it."""

    options: TourOptions
    plan: TourPlan
    paths: TourPaths
    facts: dict[str, Facts]
    progress: Progress


@dataclass(frozen=True)
class Step:
    """A step: its name, its title, its work, and the paths that prove it is finished."""

    name: str
    title: str
    work: Callable[[Tour], tuple[str, Facts]]
    outputs: Callable[[TourPaths], list[Path]]


def make_world(tour: Tour) -> tuple[str, Facts]:
    """Write the tiny world, or the user's own text."""
    folder = tour.paths.material.folder
    with atomic_folder(folder, replace=True) as temporary:
        facts = write_material(temporary, tour.options, tour.plan)
        write_manifest(temporary, "tour: world", {}, tour.options.choices(), facts)
    what = "documents of your text" if facts["own_text"] else "stories in Chinese and English"
    proof = (
        f"{facts['documents']:,} {what}, {facts['characters'] / 1e6:.1f} M characters; "
        f"{facts['instructions']:,} instructions to learn; held out: "
        f"{facts['held_out_documents']:,} documents, {facts['test_instructions']:,} instructions"
    )
    return proof, facts


def make_tokenizer(tour: Tour) -> tuple[str, Facts]:
    """Train the tokenizer and count what it makes of held-out text and code."""
    paths, files = tour.paths, tour.paths.material
    _clear(paths.tokenizer)
    report = train_tokenizer(
        [files.corpus], paths.tokenizer, tour.plan.vocab_size, progress=tour.progress
    )
    kinds = compare_token_counts([paths.tokenizer], [files.held_out, f"code={files.code}"]).kinds
    rows = [
        [
            kind.kind,
            f"{kind.bytes_per_document:,.1f}",
            *(f"{count:,.1f}" for count in kind.tokens_per_document.values()),
        ]
        for kind in kinds
    ]
    counts = ", ".join(f"{kind} {tokens} (bytes: {in_bytes})" for kind, in_bytes, tokens in rows)
    proof = f"{report.vocab_size:,} tokens; tokens per document: {counts}"
    return proof, {**report.as_dict(), "table": rows}


def pretrain_model(tour: Tour) -> tuple[str, Facts]:
    """Train a model from scratch."""
    paths, files = tour.paths, tour.paths.material
    data = PretrainData(
        corpus=sources(files.corpus),
        held_out=sources(files.held_out),
        max_seq_len=tour.plan.max_seq_len,
    )
    run = PretrainRun(
        out=str(paths.pretrain),
        seed=tour.options.seed,
        model=tour.plan.model,
        tokenizer=str(paths.tokenizer),
        data=data,
        train=tour.plan.pretrain,
    )
    proof, facts = _training_facts(run_pretrain(run, tour.progress))
    return f"{facts['parameters'] / 1e6:.1f} M parameters from scratch, {proof}", facts


def finetune_model(tour: Tour) -> tuple[str, Facts]:
    """Teach it the instructions through an adapter."""
    paths, files = tour.paths, tour.paths.material
    # The tiny world's rows all fit. Of a user's own, those that do not are dropped and listed in
    # finetune/ledger.json, and the proof says how many.
    own_text = tour.options.instructions or tour.options.corpus
    spare = tour.facts["world"]["instructions"] if own_text else 0
    data = FinetuneData(
        instructions=sources(files.instructions),
        held_out=sources(files.instructions_test),
        max_seq_len=tour.plan.max_seq_len,
        max_dropped=spare,
    )
    run = FinetuneRun(
        out=str(paths.finetune),
        seed=tour.options.seed,
        model=str(paths.base),
        data=data,
        adapter=tour.plan.adapter,
        train=tour.plan.finetune,
    )
    result = run_finetune(run, tour.progress)
    proof, facts = _training_facts(result)
    dropped = _read_json(result.folder / "ledger.json")["dropped"]
    lost = f"; {dropped} conversations did not fit (finetune/ledger.json)" if dropped else ""
    return f"LoRA, {proof}{lost}", facts


def _training_facts(result: RunResult) -> tuple[str, Facts]:
    final = result.final
    parameters = _read_json(result.folder / "run.json")["counts"]["parameters"]["total"]
    losses = [
        line["loss"] for line in read_metrics(result.folder / "metrics.jsonl") if "loss" in line
    ]
    facts = {
        "parameters": parameters,
        "steps": final.steps,
        "first_loss": losses[0],
        "loss": final.loss,
        "held_out_perplexity": final.held_out_perplexity,
        "tokens": final.tokens,
        "tokens_per_s": final.tokens_per_s,
        "seconds": final.elapsed_s,
    }
    proof = (
        f"{final.steps:,} steps, {final.tokens / 1e6:.1f} M tokens at {final.tokens_per_s:,.0f} "
        f"tokens/s; loss {losses[0]:.2f} -> {final.loss:.2f}; "
        f"held-out perplexity {final.held_out_perplexity or float('nan'):.2f}"
    )
    return proof, facts


def _read_json(path: Path) -> Facts:
    values: Facts = json.loads(path.read_text(encoding="utf-8"))
    return values


def merge_adapter(tour: Tour) -> tuple[str, Facts]:
    """Merge the adapter and show that the logits did not move."""
    paths = tour.paths
    _clear(paths.model)
    text = paths.material.held_out
    report = merge(paths.base, paths.adapter, paths.model, text, progress=tour.progress)
    change = report.comparison
    proof = (
        f"logits did not move: KL {change.kl_mean:.1e}, top-1 agreement "
        f"{change.top1_agreement:.2%}, largest difference {change.max_logit_difference:.1e}"
    )
    return proof, report.as_dict()


def quantize_model(tour: Tour) -> tuple[str, Facts]:
    """Make an int8 and an int4 model and show what they cost and gain."""
    proofs, facts = [], {}
    for bits in (8, 4):
        out = tour.paths.quantized(bits)
        _clear(out)
        report = quantize(
            tour.paths.model,
            out,
            PRESETS[f"int{bits}"],
            tour.paths.material.held_out,
            progress=tour.progress,
        )
        change = report.comparison
        drift = change.perplexity_candidate / change.perplexity_reference - 1
        proofs.append(
            f"int{bits}: {size_text(report.original_bytes)} -> {size_text(report.quantized_bytes)}"
            f", perplexity {drift:+.2%}, KL {change.kl_mean:.1e}"
        )
        facts[f"int{bits}"] = report.as_dict()
    return "; ".join(proofs), facts


def evaluate_all(tour: Tour) -> tuple[str, Facts]:
    """Ask all models the held-out instructions."""
    paths = tour.paths
    scores = evaluate_models(paths, tour.progress)
    parents = {name: str(adapter or model) for name, (model, adapter) in models_of(paths).items()}
    write_manifest(paths.evaluate, "tour: evaluate", parents, {}, scores)
    before, after = scores["before"], scores["after"]
    same = ", ".join(
        f"{name} {scores[name]['accuracy']:.1%}" for name in ("merged", "int8", "int4")
    )
    proof = (
        f"{after['total']} held-out instructions answered exactly right: "
        f"{before['accuracy']:.1%} before fine-tuning, {after['accuracy']:.1%} after; {same}"
    )
    return proof, scores


def _clear(folder: Path) -> None:
    """Remove what a killed step left whole but unrecorded, so that it is made and proved again."""
    shutil.rmtree(folder, ignore_errors=True)


STEPS = (
    Step("world", "Material", make_world, lambda p: [p.material.instructions_test]),
    Step("tokenizer", "Tokenizer", make_tokenizer, lambda p: [p.tokenizer]),
    Step("pretrain", "Pre-training", pretrain_model, lambda p: [p.base]),
    Step("finetune", "Fine-tuning", finetune_model, lambda p: [p.adapter]),
    Step("merge", "Merge", merge_adapter, lambda p: [p.model]),
    Step("quantize", "Quantization", quantize_model, lambda p: [p.quantized(8), p.quantized(4)]),
    Step("evaluate", "Evaluation", evaluate_all, lambda p: [p.evaluate]),
)
