from copy import deepcopy
from pathlib import Path

import pytest
import torch
from engine_parts import tiny_decoder

from danlu.engine.llm import LLM
from danlu.engine.placement import choose_device, choose_dtype, named_dtype
from danlu.errors import CheckpointError, ConfigError
from danlu.loading import save_decoder

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("stored", "computed"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16),
    ],
)
def test_auto_asks_the_weights(tmp_path, stored, computed):
    save_decoder(deepcopy(tiny_decoder()).to(stored), tmp_path / "m")
    assert choose_dtype("auto", tmp_path / "m", CPU) == computed


def test_names_of_dtypes():
    assert named_dtype("bf16") is named_dtype("bfloat16") is torch.bfloat16
    assert named_dtype(torch.float32) is torch.float32
    for wrong in ("int8", torch.int8):
        with pytest.raises(ConfigError, match="is unknown; expected 'auto' or one of float32"):
            named_dtype(wrong)


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device(CPU) == CPU
    with pytest.raises(ConfigError, match="'warp' cannot be used"):
        choose_device("warp")


def test_a_path_that_is_no_checkpoint(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match=r"config\.json|not a folder"):
            LLM(Path(path))
