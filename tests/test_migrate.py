"""`danlu migrate`: every old command becomes a run file that the config accepts, flag by flag."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import Capture, complained, printed

from danlu.commands.migrate.migrating import migrate
from danlu.commands.migrate.old_command import parse_command
from danlu.config.data import sources
from danlu.config.load import load_config
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import QuantizeRun
from danlu.config.quantize.w8a8 import ShiftConfig, SmoothConfig, W8A8Scheme
from danlu.config.run import FinetuneRun
from danlu.errors import ConfigError, OutputError

BAICHUAN = r"""hostfile=""
deepspeed --hostfile=$hostfile fine-tune.py  \
    --report_to "none" \
    --data_path "data/belle_chat_ramdon_10k.json" \
    --model_name_or_path "baichuan-inc/Baichuan2-7B-Base" \
    --output_dir "output" \
    --model_max_length 512 \
    --num_train_epochs 4 \
    --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --save_strategy epoch \
    --learning_rate 2e-5 \
    --lr_scheduler_type constant \
    --adam_beta1 0.9 \
    --adam_beta2 0.98 \
    --adam_epsilon 1e-8 \
    --max_grad_norm 1.0 \
    --weight_decay 1e-4 \
    --warmup_ratio 0.0 \
    --logging_steps 1 \
    --gradient_checkpointing True \
    --deepspeed ds_config.json \
    --bf16 True \
    --tf32 True"""
LAUNCH = 'python -u -m paddle.distributed.launch --gpus "0,1,2,3" '
COMMANDS = (
    "bash finetune/finetune_ds.sh",
    "bash finetune/finetune_lora_single_gpu.sh -m Qwen-7B-Chat -d my.json",
    "bash finetune/finetune_lora_ds.sh",
    "bash finetune/finetune_qlora_single_gpu.sh -m /data/Qwen-7B-Chat-Int4 -d example.json",
    "bash finetune/finetune_qlora_ds.sh",
    "python finetune.py --model_name_or_path Qwen-7B --data_path d.json --use_lora --q_lora",
    LAUNCH + "finetune_generation.py ./llama/sft_argument.json",
    LAUNCH + "finetune_generation.py ./llama/sft_pp_argument.json",
    LAUNCH + "finetune_generation.py ./chatglm2/sft_argument.json",
    "python finetune_generation.py ./llama/lora_argument.json",
    "python finetune_generation.py ./llama/pt_argument.json",
    "python finetune_generation.py ./llama/lora_argument.json --chat_template ./template.json",
    "bash finetune/7B/finetune.sh",
    "bash finetune/7B/finetune_lora.sh",
    "bash finetune/7B/finetune_qlora.sh",
    "bash finetune/34B/finetune.sh",
    "bash finetune/34B/finetune_lora.sh",
    "bash finetune/34B/finetune_qlora.sh",
    BAICHUAN,
    BAICHUAN + " --use_lora True",
)


def run_of(old: str, tmp_path: Path) -> FinetuneRun:
    """The run file of an old command, read back as the program reads it."""
    draft = migrate(old).draft
    assert draft is not None
    path = tmp_path / "run.yaml"
    path.write_text(draft.text(), encoding="utf-8")
    return load_config(FinetuneRun, path)


@pytest.mark.parametrize("old", COMMANDS)
def test_every_command_becomes_a_run_file_that_the_config_accepts(old: str, tmp_path: Path) -> None:
    run = run_of(old, tmp_path)
    migration = migrate(old)
    assert migration.command == "danlu finetune RUN.yaml"
    assert run.train.epochs is not None
    assert not [flag for flag, why in migration.draft.missing.items() if "not known" in why]


def test_qwen_lora_keeps_its_numbers(tmp_path: Path) -> None:
    run = run_of("bash finetune/finetune_lora_single_gpu.sh -m Qwen-7B -d my.json", tmp_path)
    assert (run.model, run.data.instruction_paths) == ("Qwen-7B", ["my.json"])
    assert (run.data.max_seq_len, run.data.batching, run.data.long) == (512, "padded", "truncate")
    assert run.adapter is not None
    assert run.adapter.method == "lora"
    assert (run.adapter.lora_rank, run.adapter.lora_alpha, run.adapter.lora_dropout) == (
        64,
        16.0,
        0.05,
    )
    assert run.adapter.targets == ["c_attn", "c_proj", "w1", "w2"]
    assert run.adapter.whole == ["wte", "lm_head"]
    train = run.train
    assert (train.micro_batch_size, train.global_batch_size) == (2, 16)
    assert (train.learning_rate, train.schedule, train.min_lr_ratio) == (3e-4, "cosine", 0.0)
    assert (train.betas, train.warmup_ratio, train.weight_decay) == ((0.9, 0.95), 0.01, 0.1)
    assert (train.precision, train.activation_checkpointing) == ("bf16", "full")


def test_a_chat_model_needs_no_new_tokens(tmp_path: Path) -> None:
    run = run_of("bash finetune/finetune_lora_single_gpu.sh -m Qwen-7B-Chat -d my.json", tmp_path)
    assert run.adapter is not None
    assert run.adapter.method == "lora"
    assert run.adapter.whole == []


def test_baichuan_is_whole_without_its_flag_and_rank_1_with_it(tmp_path: Path) -> None:
    assert run_of(BAICHUAN, tmp_path).adapter is None
    adapter = run_of(BAICHUAN + " --use_lora True", tmp_path).adapter
    assert adapter is not None
    assert adapter.method == "lora"
    assert (adapter.lora_rank, adapter.lora_alpha, adapter.targets) == (1, 32.0, ["W_pack"])


def test_paddle_devices_become_rows_of_one_batch(tmp_path: Path) -> None:
    run = run_of(LAUNCH + "finetune_generation.py ./llama/sft_argument.json", tmp_path)
    assert (run.train.micro_batch_size, run.train.global_batch_size) == (4, 64)
    assert (run.data.max_prompt_tokens, run.data.max_seq_len) == (1024, 2048)
    split = LAUNCH + "finetune_generation.py ./llama/sft_argument.json --tensor_parallel_degree 4"
    assert run_of(split, tmp_path).train.global_batch_size == 16


def test_a_file_of_arguments_counts_before_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {
        "model_name_or_path": "my/model",
        "dataset_name_or_path": "rows",
        "output_dir": "out",
        "prefix_tuning": True,
        "num_prefix_tokens": 64,
        "neftune": True,
        "neftune_noise_alpha": 7.5,
        "max_steps": 30,
        "learning_rate": 0.01,
    }
    (tmp_path / "pt_argument.json").write_text(json.dumps(arguments))
    for old in ("pt_argument.json", "python run_finetune.py pt_argument.json"):
        run = run_of(old, tmp_path)
        assert run.adapter is not None
        assert run.adapter.method == "prefix"
        assert run.adapter.num_tokens == 64
        assert (run.train.steps, run.train.epochs, run.train.neftune_alpha) == (30, None, 7.5)


def test_flagai_reads_its_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "lr": 4.0e-5,
        "warm_up": 0.01,
        "warm_up_iters": 20,
        "lora_r": 16,
        "lora": True,
        "epochs": 10,
        "save_interval": 500,
        "enable_sft_dataset_dir": "./data/",
        "enable_sft_dataset_file": "convo_samples.jsonl",
    }
    (tmp_path / "Aquila-sft.yaml").write_text(yaml.safe_dump(values))
    for old in (
        "Aquila-sft.yaml",
        "bash dist_trigger_docker.sh hostfile Aquila-sft.yaml aquilachat-7b try",
    ):
        run = run_of(old, tmp_path)
        assert run.model == "checkpoints_in/aquilachat-7b"
        assert run.data.instruction_paths == ["data/convo_samples.jsonl"]
        assert (run.train.global_batch_size, run.train.warmup_steps) == (8, 20)
        assert run.adapter is not None
        assert run.adapter.method == "lora"
        assert run.adapter.lora_rank == 16


def test_flags_that_are_not_known_are_said() -> None:
    draft = migrate(BAICHUAN + " --warmup_ration 0.1").draft
    assert draft is not None
    assert "warmup_ratio" in draft.missing["--warmup_ration 0.1"]


PTQ = LAUNCH + "finetune_generation.py ./llama/ptq_argument.json"
ONLINE = (
    "python finetune_generation.py --do_ptq True --model_name_or_path m --dataset_name_or_path d"
)


def quantize_run_of(old: str, tmp_path: Path) -> QuantizeRun:
    migration = migrate(old)
    assert migration.command == "danlu quantize RUN.yaml"
    assert migration.draft is not None
    assert migration.draft.missing == {}
    path = tmp_path / "run.yaml"
    path.write_text(migration.draft.text(), encoding="utf-8")
    return load_config(QuantizeRun, path)


def test_paddle_ptq_is_smoothed_w8a8_on_the_training_data(tmp_path: Path) -> None:
    run = quantize_run_of(PTQ, tmp_path)
    assert run.scheme == W8A8Scheme(
        activations="static",
        shift=None,
        smooth=SmoothConfig(
            sampler="none", steps=16, piecewise_search=True, k_piece=3, search_piece=True
        ),
    )
    assert (run.out, run.calibration.samples) == ("./checkpoints/llama_ptq_ckpts", 16 * 8)
    assert run.calibration.sources == sources("./data")
    assert run.report.text == "data/dev.json"


def test_every_option_of_smoothing_and_shifting_has_its_key(tmp_path: Path) -> None:
    flags = (
        " --shift True --shift_all_linear True --shift_sampler ema --shift_step 4 --smooth True"
        " --smooth_all_linears True --smooth_sampler multi_step --smooth_step 8"
        " --search_alpha_min 0.3 --search_scale_max 4 --skip_list_names down_proj lm_head"
        " --quant_type A8W8C8"
    )
    run = quantize_run_of(ONLINE + flags, tmp_path)
    assert isinstance(run.scheme, W8A8Scheme)
    assert run.scheme.shift == ShiftConfig(all_linears=True, sampler="ema", steps=4)
    assert run.scheme.smooth == SmoothConfig(
        all_linears=True,
        sampler="multi_step",
        steps=8,
        search_alpha=(0.3, 0.8),
        search_scale=(1.0, 4.0),
    )
    assert run.skip == ["*down_proj*", "*lm_head*"]
    assert run.kv_cache is not None


@pytest.mark.parametrize(
    ("flags", "method", "bits"),
    [
        ("--quant_type WINT8", "rtn", 8),
        ("--quant_type weight_only_int4", "rtn", 4),
        ("--do_gptq True", "gptq", 4),
    ],
)
def test_types_of_quantization(flags: str, method: str, bits: int, tmp_path: Path) -> None:
    run = quantize_run_of(f"{ONLINE} {flags}", tmp_path)
    assert (run.scheme.method, run.scheme.bits) == (method, bits)
    with pytest.raises(ConfigError, match="--quant_type is 'W2A2'; expected one of a8w8"):
        migrate(ONLINE + " --quant_type W2A2")


def test_qwen_gptq_is_one_command_without_work_by_hand(tmp_path: Path) -> None:
    old = "python run_gptq.py --model_name_or_path m --data_path d.json --out_path o --bits 8"
    run = quantize_run_of(old, tmp_path)
    assert run.scheme == GptqScheme(bits=8, group_size=128, act_order=False, damping=0.01)
    assert (run.model, run.out, run.calibration.max_tokens) == ("m", "o", 8192)
    assert run.calibration.sources == sources("d.json")
    assert any("no file to be renamed" in note for note in migrate(old).notes)
    with pytest.raises(ConfigError, match="--bits four"):
        migrate(old.replace("8", "four"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "python merge_lora_params.py --model_name_or_path m --lora_path a",
            "danlu merge m a runs/merged",
        ),
        (
            "python predictor.py --model_name_or_path m --prefix_path p",
            "danlu generate m --prompt TEXT --adapter p",
        ),
        (
            "python predictor.py --model_name_or_path m --cachekv_int8_type dynamic",
            "danlu generate m --prompt TEXT --kv-cache int8",
        ),
        ("python cli_demo.py -c 'my model'", "danlu chat 'my model'"),
        (
            "python cli_demo.py -c m --use_cache_quantization --use_cache_kernel",
            "danlu chat m --kv-cache int8",
        ),
    ],
)
def test_commands_without_a_run_file(old: str, new: str) -> None:
    assert migrate(old).command.startswith(new)


def test_fixed_scales_of_a_cache_are_said_to_need_text() -> None:
    found = migrate("python predictor.py --model_name_or_path m --cachekv_int8_type static")
    assert found.command.endswith("--kv-cache int8")
    assert any("kv_cache: {scales: head}" in note for note in found.notes)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("ls -la", "No script is named"),
        ("python other.py --x 1", "No project that is known"),
        ("python finetune.py --data_path 'open", "cannot be read"),
        ("nowhere.json", "is not here"),
        ("bash dist_trigger_docker.sh hostfile", "no .yaml file"),
    ],
)
def test_what_cannot_be_migrated(old: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        migrate(old)


def test_all_values_that_are_no_numbers_are_said() -> None:
    old = "python finetune.py --learning_rate abc --num_train_epochs $EPOCHS --model_max_length"
    with pytest.raises(ConfigError, match=r"--num_train_epochs \$EPOCHS\n.*--learning_rate abc\n"):
        migrate(old)


def test_nothing_of_a_command_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = parse_command(
        f"python finetune.py --data_path $(touch {mark}) --use_lora; touch {mark}"
    )
    assert command.script == "finetune.py"
    assert not mark.exists()


def test_the_command_writes_a_new_file_only(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run.yaml"
    arguments = ["migrate", COMMANDS[1], "--out", out]
    assert f"danlu finetune {out}" in printed(capsys, *arguments)
    before = out.read_text()
    assert OutputError.__name__ in complained(capsys, *arguments)
    assert out.read_text() == before


def test_without_a_file_stdout_is_the_run_file(tmp_path: Path, capsys: Capture) -> None:
    shown = printed(capsys, "migrate", COMMANDS[1])
    assert yaml.safe_load(shown)["model"] == "Qwen-7B-Chat"
