"""Stock transformers and peft open what is written here, and what they write is read."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_close, copy_golden, tiny_checkpoint
from test_contract_adapters import CONFIGS, attached, full, moved

from danlu.config.adapter import LoraConfig
from danlu.config.base import Config
from danlu.loading import load_decoder, merge_adapters, save_adapter, save_decoder

IDS = torch.arange(24).reshape(2, 12)
WRITTEN: dict[str, Config] = {
    **CONFIGS,
    "norms": LoraConfig(lora_rank=2, targets=["o_proj"], whole=["input_layernorm"]),
    "patterns": LoraConfig(
        lora_rank=2, rank_pattern={"up_proj": 5}, alpha_pattern={r".*\.1\..*o_proj": 3.0}
    ),
    "part": LoraConfig(lora_rank=2, targets=["q_proj", "v_proj"], dora=True),
}
BASES = {"llama": "tiny", "bloom": "tiny", "gpt2": "tiny", "qwen2": "golden"}
TIED_ROWS = ("bloom", "gpt2", "qwen2")  # peft has no forward for these


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        family: (tiny_checkpoint if kind == "tiny" else lambda f, n: copy_golden(n, f))(
            folder / family, family
        )
        for family, kind in BASES.items()
    }


def stock(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


FUSED = ("lora", "part", "pissa", "ia3", "rows", "embedding")
OPENED = [
    *((family, kind) for family in ("llama", "qwen2") for kind in WRITTEN),
    *((family, kind) for family in ("bloom", "gpt2") for kind in FUSED),
]


@pytest.mark.parametrize(("family", "kind"), OPENED)
def test_stock_tools_open_what_we_write(
    family: str, kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    if kind == "token_rows" and family in TIED_ROWS:
        pytest.skip("peft 0.21.2 cannot run TRAINABLE_TOKENS on a tied head")
    decoder = load_decoder(bases[family])
    config = WRITTEN[kind]
    if getattr(config, "token_rows", None) is not None:
        config = config.model_copy(update={"token_rows": [3, 7, 20]})
    attached(decoder, config)
    wanted = full(moved(decoder), IDS)
    save_adapter(decoder, tmp_path / "adapter", bases[family])
    opened = PeftModel.from_pretrained(stock(bases[family]), tmp_path / "adapter").eval()
    with torch.inference_mode():
        assert_close(opened(IDS).logits, wanted, 1e-5)
        merge_adapters(decoder)
        save_decoder(decoder, tmp_path / "merged")
        assert_close(stock(tmp_path / "merged")(IDS).logits, wanted, 1e-5)


READ = [
    "regex",
    "layers",
    "linear",
    "bias",
    "patterns",
    "dora",
    "tied",
    "rows",
    "pissa",
    "olora",
    "ia3",
]


def stock_configs(family: str) -> dict[str, Any]:
    from peft import IA3Config, LoraConfig

    query, embedding, down = {
        "llama": ("q_proj", "embed_tokens", "down_proj"),
        "bloom": ("query_key_value", "word_embeddings", "dense_4h_to_h"),
        "qwen2": ("v_proj", "embed_tokens", "down_proj"),
    }[family]

    def lora(**options: Any) -> Any:
        return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 5} | options)

    return {
        "regex": lora(target_modules=rf".*\.1\..*({query}|{down})"),
        "layers": lora(target_modules=[query, down], layers_to_transform=[1]),
        "linear": lora(target_modules="all-linear", exclude_modules=[down]),
        "bias": lora(target_modules=[query], bias="all"),
        "patterns": lora(target_modules=[query, down], use_rslora=True, rank_pattern={down: 5}),
        "dora": lora(target_modules=[query, embedding], use_dora=True),
        "tied": lora(target_modules=[query], modules_to_save=[embedding]),
        "rows": lora(
            target_modules=[query], trainable_token_indices={embedding: [5, 3], "lm_head": [7, 9]}
        ),
        "pissa": lora(target_modules=[query, down], init_lora_weights="pissa"),
        "olora": lora(target_modules=[query, down], init_lora_weights="olora"),
        "ia3": IA3Config(
            task_type="CAUSAL_LM", target_modules=[query, down], feedforward_modules=[down]
        ),
    }


@pytest.mark.parametrize("family", ["llama", "bloom", "qwen2"])
@pytest.mark.parametrize(
    "kind",
    [
        "regex",
        "layers",
        "linear",
        "bias",
        "patterns",
        "dora",
        "tied",
        "rows",
        "pissa",
        "olora",
        "ia3",
    ],
)
def test_what_stock_tools_write_is_read(
    family: str, kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(stock(bases[family]), stock_configs(family)[kind]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        wanted = model(IDS).logits
    assert_close(full(load_decoder(bases[family], adapter=tmp_path), IDS), wanted, 1e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "gate_proj", "up_proj", "down_proj"]])
def test_experts_go_both_ways(targets: Any, bases: dict[str, Path], tmp_path: Path) -> None:
    """Stock transformers holds all experts in one parameter, and adapters of it."""
    from peft import LoraConfig as Stock
    from peft import PeftModel, get_peft_model

    base = tiny_checkpoint(tmp_path / "base", "qwen3_moe")
    torch.manual_seed(0)
    config = Stock(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=targets)
    model = get_peft_model(stock(base), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    with torch.inference_mode():
        wanted = model(IDS).logits
    assert_close(full(load_decoder(base, adapter=tmp_path / "theirs"), IDS), wanted, 1e-5)

    decoder = load_decoder(base)
    attached(decoder, LoraConfig(lora_rank=3, targets=targets))
    adapted = full(moved(decoder), IDS)
    save_adapter(decoder, tmp_path / "ours", base)
    opened = PeftModel.from_pretrained(stock(base), tmp_path / "ours").eval()
    with torch.inference_mode():
        assert_close(opened(IDS).logits, adapted, 1e-5)
