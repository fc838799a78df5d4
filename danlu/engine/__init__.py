"""Generation: sampling parameters, sampler, runner, batches, and `LLM` in front of them."""
