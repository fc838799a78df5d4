"""The walk through the blocks: what it watches, what it rounds, and that nothing is done twice."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import sequences, spoil_weights, tiny_checkpoint, tiny_decoder
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import danlu.weights.writing
from danlu.calibration.block import UNSEEN, WorkingBlock
from danlu.calibration.entering import entering_states
from danlu.calibration.stages import waves
from danlu.calibration.text import batches
from danlu.calibration.walk import Quantized, quantize_decoder
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import QuantizeRun
from danlu.config.quantize.scheme import QuantScheme, preset
from danlu.config.quantize.w8a8 import W8A8Scheme
from danlu.data.calibration import TokenRow
from danlu.errors import CheckpointError, DataError, OutputError, QuantizationError
from danlu.loading import load_decoder, save_decoder
from danlu.loading.layout import published_layout
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.progress import Silent
from danlu.quantize.linear import QuantizedLinear

INT4 = QuantScheme(bits=4, group_size=4)  # which divides the inputs of every tiny model
NF4 = QuantScheme(method="nf4", block_size=32)
Rows = list[list[int]]


def rows_of(decoder: Decoder) -> Rows:
    """Rows of two lengths, in which the short ones are between the long ones."""
    long, short = sequences(decoder, 3, 12).tolist(), sequences(decoder, 2, 9, seed=1).tolist()
    return [long[0], short[0], long[1], long[2], short[1]]


def walk(folder: Path, work: Path, rows: Rows, progress: Any = None, **run: Any) -> Quantized:
    values = {"model": str(folder), "out": "unused", "scheme": INT4, "device": "cpu", **run}
    return quantize_decoder(folder, QuantizeRun(**values), rows, work, progress or Silent())


def saved(decoder: Decoder, folder: Path) -> bytes:
    save_decoder(decoder, folder)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", sorted(discover()))
def test_rounding_is_that_of_loading(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", family)
    rows = rows_of(tiny_decoder(family))
    for scheme, text in ((INT4, []), (NF4, rows)):
        result = walk(folder, tmp_path / scheme.method, text, scheme=scheme)
        wanted = load_decoder(folder, quantize=scheme)
        assert saved(result.decoder, tmp_path / "a") == saved(wanted, tmp_path / "b")
        quantized = [n for n, each in wanted.linears() if isinstance(each, QuantizedLinear)]
        assert sorted(layer.name for layer in result.layers) == sorted(quantized)
        assert all(0 < layer.relative_error < 0.2 for layer in result.layers)


@pytest.mark.parametrize("name", ["llm_int8", "w8a8"])
def test_rounded_inputs_are_kept_too(name: str, tmp_path: Path) -> None:
    folder, rows = tiny_checkpoint(tmp_path / "model"), rows_of(tiny_decoder("llama"))
    ids = torch.tensor(rows[:1])
    wanted = load_decoder(folder, quantize=name)(ids)
    for _ in range(2):
        result = walk(folder, tmp_path / "work", rows, scheme=preset(name))
        assert torch.equal(result.decoder(ids), wanted)


@torch.no_grad()
def heard_alone(decoder: Decoder, name: str, rows: Rows) -> Tensor:
    """What enters a layer, row by row through the whole model."""
    heard: list[Tensor] = []
    layer = decoder.get_submodule(name)
    hook = layer.register_forward_pre_hook(
        lambda module, args: heard.append(args[0].flatten(0, -2))
    )
    for row in rows:
        decoder(torch.tensor([row]))
    hook.remove()
    return torch.cat(heard)


@torch.no_grad()
def last_block(decoder: Decoder, rows: Rows) -> WorkingBlock:
    """The second block of a dense model, with what enters it."""
    text = batches(rows)
    states = entering_states(decoder, text, torch.float32, torch.device("cpu"))
    entries = published_layout(decoder).entries
    WorkingBlock(decoder, 0, text, states, entries).advance()
    return WorkingBlock(decoder, 1, text, states, entries)


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "qwen",
        "chatglm",
        "glm_10b",
        "baichuan_13b",
        "opt",
        "glm4",
        "deepseek_v3",
        "qwen3_moe",
    ],
)
def test_a_block_hears_what_the_whole_model_hears(family: str) -> None:
    decoder = tiny_decoder(family)
    rows = rows_of(decoder)
    block = last_block(decoder, rows)
    names = list(block.linears())
    heard = block.inputs(names, moments=True)
    for name in names:
        alone, found = heard_alone(decoder, name, rows), heard[name]
        assert found.count == len(alone) == len(found.rows_NI)
        moment = alone.T @ alone / max(1, len(alone))
        assert found.moment_II is not None
        torch.testing.assert_close(found.moment_II, moment, rtol=1e-4, atol=1e-5)


def test_layers_with_one_input_share_what_is_known_of_it() -> None:
    block = last_block(tiny_decoder("llama"), rows_of(tiny_decoder("llama")))
    heard = block.inputs(list(block.linears()))
    last = {name.rpartition(".")[2]: each for name, each in heard.items()}
    assert last["q_proj"] is last["k_proj"] is last["v_proj"]
    assert last["gate_proj"] is last["up_proj"]
    assert len({id(each) for each in last.values()}) == 4


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe"])
def test_stages_follow_the_forward_pass(family: str) -> None:
    decoder = tiny_decoder(family)
    block = last_block(decoder, rows_of(decoder))
    order: dict[str, None] = {}
    block.watch(list(block.linears()), lambda name, x: order.setdefault(name))
    number = {n: i for i, wave in enumerate(waves(block.linears())) for n in sum(wave, ())}
    plain = [number[name] for name in order if "expert" not in name]
    assert plain == sorted(plain)
    assert len(set(number.values())) == 4
    small = list(waves(block.linears(), limit=4 * 64**2))
    assert all(len(wave) == 1 for wave in small if "experts" in wave[0][0] and "up" in wave[0][0])


def test_latent_attention_has_stages_of_its_own() -> None:
    last = [
        [name.rpartition(".")[2] for stage in wave for name in stage]
        for wave in waves(dict(last_block(tiny_decoder("deepseek_v3"), [[1, 2]]).linears()))
    ]
    assert sorted(last[0]) == ["kv_a_proj_with_mqa", "q_a_proj"]
    assert last[1:4] == [["q_b_proj"], ["kv_b_proj"], ["o_proj"]]


def test_experts_that_saw_no_token_are_told(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "qwen3_moe")
    result = walk(folder, tmp_path / "work", [[1, 2]])
    unseen = [layer for layer in result.layers if UNSEEN in layer.notes]
    assert unseen
    assert all(".experts." in layer.name and layer.relative_error > 0 for layer in unseen)


def test_no_text_gives_errors_of_weights(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    result = walk(folder, tmp_path / "work", [])
    last = result.layers[-1]
    exact = dict(load_decoder(folder).linears())[last.name].dense_weight().detach()
    rounded = dict(result.decoder.linears())[last.name].dense_weight()
    assert last.relative_error == pytest.approx(float((exact - rounded).norm() / exact.norm()))


class Killed(BaseException):
    """The end of a process, as far as code can raise it."""


class KillAfter(Silent):
    """Ends the run when so many layers are done."""

    def __init__(self, layers: int) -> None:
        self.left = layers
        self.done = 0
        self.total: int | None = None

    def start(self, what: str, total: int | None) -> None:
        self.total = total

    def advance(self, done: int, note: str = "") -> None:
        self.done += done
        self.left -= done
        if self.left < 0:
            raise Killed


GPTQ = GptqScheme(group_size=16)


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [(GPTQ, torch.float32), (W8A8Scheme(), torch.bfloat16)],  # the second one changes norms
    ids=["gptq", "w8a8"],
)
def test_a_killed_run_goes_on(scheme: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_decoder(tiny_decoder("llama"), folder, dtype)
    rows = rows_of(tiny_decoder("llama"))
    whole = walk(folder, tmp_path / "whole", rows, scheme=scheme, skip=["lm_head"])
    work = tmp_path / "work"
    with pytest.raises(Killed):
        walk(folder, work, rows, KillAfter(9), scheme=scheme, skip=["lm_head"])
    first = work / "block-00000.safetensors"
    kept = first.stat().st_mtime_ns
    assert load_file(first)["parameter.input_layernorm.weight"].dtype == dtype
    (work / ".block-00001.safetensors.partial").write_bytes(b"a part")
    resumed = walk(folder, work, rows, scheme=scheme, skip=["lm_head"])
    assert first.stat().st_mtime_ns == kept
    assert resumed.layers == whole.layers
    assert saved(resumed.decoder, tmp_path / "a") == saved(whole.decoder, tmp_path / "b")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_decoder(tiny_decoder("llama"), folder, dtype)
    for scheme in (INT4, NF4, NF4):  # the last one: all is finished
        rounded = walk(folder, tmp_path / scheme.method, [], scheme=scheme).decoder
        wanted = load_decoder(folder, quantize=scheme)
        assert saved(rounded, tmp_path / "a") == saved(wanted, tmp_path / "b")
    result = walk(folder, tmp_path / "work", rows_of(tiny_decoder("llama")), skip=["*.o_proj"])
    assert result.decoder.dtype == dtype
    save_decoder(result.decoder, tmp_path / "out")
    before, after = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    kept = [name for name in after if name in before]
    assert any("o_proj" in name for name in kept)
    assert any("norm" in name for name in kept)
    assert all(torch.equal(before[name], after[name]) for name in kept)
    with torch.no_grad():
        logits = load_decoder(tmp_path / "out")(torch.tensor([[1, 2, 3]]))
        assert torch.allclose(result.decoder(torch.tensor([[1, 2, 3]])).float(), logits, atol=0.1)


def schemes_of(result: Quantized) -> dict[str, str]:
    return {layer.name: layer.scheme for layer in result.layers}


def test_patterns_say_what_is_rounded_how(tmp_path: Path) -> None:
    folder, wide = tiny_checkpoint(tmp_path / "model", "qwen"), QuantScheme(bits=4, group_size=16)
    overrides = [
        {"match": "transformer.h.0.attn.c_attn", "scheme": QuantScheme(bits=8)},
        {"match": "*.down_proj", "scheme": None},
        {"match": "*.0.*", "scheme": wide},
    ]
    result = walk(folder, tmp_path / "work", [], skip=["lm_head", "*.o_proj"], overrides=overrides)
    first, second = (
        {n.rpartition(".")[2]: s for n, s in schemes_of(result).items() if f"layers.{i}." in n}
        for i in range(2)
    )
    eight = QuantScheme(bits=8).summary
    assert first == dict.fromkeys(("q_proj", "k_proj", "v_proj"), eight) | dict.fromkeys(
        ("o_proj", "gate_proj", "up_proj"), wide.summary
    )
    names = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    assert second == dict.fromkeys(names, INT4.summary)
    assert "lm_head" not in schemes_of(result)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (
            {"skip": ["*.dwon_proj", "lm_haed"]},
            "(?s)no linear layer.*dwon_proj.*Did you mean 'lm_head'",
        ),
        ({"skip": ["*.k_proj"]}, "(?s)c_attn.weight .*k_proj: left alone.*widen"),
        (
            {"scheme": QuantScheme(bits=4, group_size=48)},
            "has 64 inputs, which groups of 48 do not",
        ),
        ({"scheme": GPTQ}, "gptq watches the model at work.*no row"),
        (
            {"overrides": [{"match": "lm_head", "scheme": GPTQ}]},
            "override of lm_head asks for gptq.*Expected rtn",
        ),
    ],
    ids=["pattern", "fused", "groups", "text", "head"],
)
def test_what_does_not_fit_is_told_at_once(run: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "qwen")
    with pytest.raises(QuantizationError, match=told):
        walk(folder, tmp_path / "work", [], **run)
    assert not (tmp_path / "work").exists()


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    save_decoder(walk(folder, tmp_path / "work", []).decoder, tmp_path / "out")
    with pytest.raises(QuantizationError, match=r"quantized already.*the original"):
        walk(tmp_path / "out", tmp_path / "again", [])


def test_rows_must_fit_the_model(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    told = "(?s)row 2 has no token.*row 3 has the token 999.*0 to 255"
    with pytest.raises(DataError, match=told):
        walk(folder, tmp_path / "work", [[1, 2], [], [3, 999]])


def test_a_damaged_checkpoint_is_one_error(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    down = "model__layers__0__mlp__down_proj__weight"
    spoil_weights(folder, model__norm__weight=None, other=torch.ones(2), **{down: torch.ones(2, 2)})
    told = "(?s)other .*belongs to no.*down_proj.*2, 2.*model.norm.weight .*missing"
    with pytest.raises(CheckpointError) as caught:
        walk(folder, tmp_path / "work", [])
    for part in ("other [2]", "is [2, 2]", "model.norm.weight [64] is missing"):
        assert part in str(caught.value), told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "model__embed_tokens__weight",
            r"enters the first block is not finite on row 2 \(x.txt:5\)",
        ),
        (
            "model__layers__1__self_attn__v_proj__bias",
            "enters model.layers.1.self_attn.o_proj is not finite on row 1 ",
        ),
    ],
    ids=["row", "layer"],
)
def test_what_is_not_finite_is_named(name: str, told: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "qwen2")
    weights = load_file(folder / "model.safetensors")[name.replace("__", ".")]
    weights[7] = torch.nan
    spoil_weights(folder, **{name: weights})
    rows = [[1, 2, 3], TokenRow([4, 7, 5], "x.txt:5"), [6, 8, 9]]
    with pytest.raises(QuantizationError, match=told):
        walk(folder, tmp_path / "work", rows)
    assert (tmp_path / "work/block-00000.safetensors").exists() == ("layers" in name)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    save = danlu.weights.writing.save_file

    def full(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        if "00001" in path.name:
            path.write_bytes(b"a part")
            raise SafetensorError("No space left on device (os error 28)")
        save(tensors, path, **options)

    monkeypatch.setattr(danlu.weights.writing, "save_file", full)
    with pytest.raises(OutputError, match=r"block-00001.*No space left.*Free some space"):
        walk(folder, tmp_path / "work", [])
    found = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert found == ["block-00000.safetensors", "run.json"]
    monkeypatch.undo()
    resumed = walk(folder, tmp_path / "work", [])
    wanted = load_decoder(folder, quantize=INT4)
    assert saved(resumed.decoder, tmp_path / "a") == saved(wanted, tmp_path / "b")


def test_the_work_of_another_run_is_left_alone(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    walk(folder, tmp_path / "work", [])
    files = sorted((tmp_path / "work").glob("[!.]*"))
    before = [path.stat().st_mtime_ns for path in files]
    with pytest.raises(OutputError, match=r"(?s)another run.*scheme: .*rows: .*Go on with that"):
        walk(folder, tmp_path / "work", [[1, 2, 3]], scheme=NF4)
    assert [path.stat().st_mtime_ns for path in files] == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"no folder of a quantization.*notes.txt"):
        walk(folder, tmp_path / "other", [])


def test_a_damaged_block_is_told(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    walk(folder, tmp_path / "work", [])
    block = tmp_path / "work/block-00001.safetensors"
    block.write_bytes(block.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"block-00001.*truncated"):
        walk(folder, tmp_path / "work", [])


def test_progress_counts_what_is_left(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(Killed):
        walk(folder, tmp_path / "work", [], KillAfter(9))
    resumed = KillAfter(99)
    result = walk(folder, tmp_path / "work", [], resumed)
    assert len(result.layers) == 15
    assert resumed.total == resumed.done == 8  # the head, which is quickly done again, and a block
