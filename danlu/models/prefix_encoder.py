"""What a config.json of ChatGLM says about P-Tuning v2 (arXiv:2110.07602)."""

from danlu.models.family import RawConfig


def refuse_prefix_encoder(raw: RawConfig) -> None:
    """Take the keys of a prefix encoder; a config.json that has one is that of an adapter."""
    raw.take("prefix_projection", default=None)
    length = raw.take("pre_seq_len", default=None)
    if length:
        raw.problem(
            f"'pre_seq_len' is {length!r}: the folder holds a P-Tuning v2 prefix. Open the model "
            "it was trained on, and give this folder as the adapter"
        )
