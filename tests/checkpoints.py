"""Golden folders, and small checkpoints that tests spoil."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.loading import decoder_from_config, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.models.families.chatglm import ContextFromIds
from danlu.models.families.glm_10b import ContextBeforeSop

HERE = Path(__file__).parent
FAMILIES = tuple(sorted(path.name for path in (HERE / "golden-small").iterdir() if path.is_dir()))
PLAIN_IDS = 240  # tiny vocabularies keep their command tokens above


def golden(name: str) -> Path:
    return HERE / "golden-small" / name


def expected(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "expected.safetensors")


def assert_close(found: Tensor, wanted: Tensor, bound: float = 1e-4) -> None:
    """The tolerance of the golden vectors: relative to the largest expected value, at least 1."""
    limit = bound * max(1.0, float(wanted.abs().max()))
    difference = (found.float() - wanted.float()).abs()
    worst = int(difference.argmax())
    assert float(difference.max()) <= limit, (
        f"index {worst}: {float(found.flatten()[worst])} against {float(wanted.flatten()[worst])}"
    )


@torch.inference_mode()
def padded_logits_close(decoder: Decoder, wanted: dict[str, Tensor]) -> None:
    mask = wanted["compare_mask"]
    found = decoder(wanted["input_ids"], wanted["attention_mask"])
    assert_close(found[mask], wanted["logits"][mask])


def tiny_decoder(family: str, seed: int = 0) -> Decoder:
    """A two-layer decoder of a family with random weights, biases and norms."""
    decoder = decoder_from_config(discover()[family].tiny()).to_empty(device="cpu")
    decoder.tie_head()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(0.0, 0.15, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return decoder.eval()


def sequences(decoder: Decoder, rows: int, length: int, seed: int = 0) -> Tensor:
    """Random token ids; in prefix families the third token is a mask, the fourth begins a block."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(PLAIN_IDS, (rows, length), generator=generator)
    rule = decoder.config.sequence_rule
    if isinstance(rule, ContextFromIds):
        ids[:, 2:4] = torch.tensor([rule.gmask_id, rule.bos_id])
    if isinstance(rule, ContextBeforeSop):
        ids[:, 2:4] = torch.tensor([rule.commands.masks[0], rule.commands.sop])
    return ids


def tiny_checkpoint(folder: Path, family: str = "llama") -> Path:
    save_decoder(tiny_decoder(family), folder)
    return folder


def spoil_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "REMOVE"}))


def spoil_weights(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors (names with `__` for dots); None removes one."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        dotted = name.replace("__", ".")
        if tensor is None:
            del tensors[dotted]
        else:
            tensors[dotted] = tensor
    save_file(tensors, path)


def copy_golden(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(golden(name), folder))
