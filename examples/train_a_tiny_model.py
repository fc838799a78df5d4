"""Train a tokenizer and a tiny model from scratch, from Python, in seconds, and let it write.

    python examples/train_a_tiny_model.py tiny-run

The same command goes on with a run that was stopped, and returns at once when it has finished.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import danlu
from danlu.commands.pretrain import run_pretrain
from danlu.commands.tokenizer import train_tokenizer
from danlu.config.model import ModelShape
from danlu.config.run import PretrainData, PretrainRun, TrainOptions
from danlu.data.tiny_world import write_world

SHAPE = ModelShape(hidden_size=64, intermediate_size=192, num_layers=2, max_seq_len=256)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Train a tiny model from scratch.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("tiny-run"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--stories", type=int, default=2000)
    options = parser.parse_args(arguments)
    world, tokenizer = options.out / "world", options.out / "tokenizer"
    if not tokenizer.exists():
        write_world(world, num_stories=options.stories, num_held_out=50)
        train_tokenizer([world / "corpus.jsonl"], tokenizer, vocab_size=512)

    run = PretrainRun(
        out=str(options.out / "run"),
        model=SHAPE,
        tokenizer=str(tokenizer),
        data=PretrainData(
            corpus=str(world / "corpus.jsonl"), held_out=str(world / "held_out.jsonl")
        ),
        train=TrainOptions(steps=options.steps, learning_rate=5e-3, warmup_steps=2),
    )
    result = run_pretrain(run)
    print(f"{result.final.steps} steps, held-out perplexity {result.final.held_out_perplexity:.1f}")

    llm = danlu.LLM(result.output)
    params = danlu.SamplingParams(max_tokens=48, temperature=0.8, seed=1)
    print("Tom has" + llm.generate("Tom has", params)[0].text)
    print(f"The model is in {result.output}")


if __name__ == "__main__":
    main()
