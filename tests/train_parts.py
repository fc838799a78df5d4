"""Small parts that the training tests share."""

import torch

from danlu.models.decoder import Decoder
from danlu.models.family import discover

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def tiny_decoder(seed: int = 0, **changes: object) -> Decoder:
    """Return a Llama-style decoder of two layers with seeded weights."""
    decoder = Decoder(discover()["llama"].config("llama", SHAPE | changes))
    decoder.init_weights(torch.Generator().manual_seed(seed))
    return decoder
