"""Files that are no configuration, and shell scripts."""

from pathlib import Path

import pytest

from weitiao.converting.convert import convert, examine, refusal
from weitiao.errors import ConfigError

BAD = {
    "empty.yaml": (b"", "an empty file"),
    "blank.yaml": (b" \n\n", "an empty file"),
    "comment.yaml": (b"# nothing\n", "nothing at the top"),
    "list.yaml": (b"- a\n- b\n", "a list at the top"),
    "list.json": (b"[1, 2]", "a list at the top"),
    "text.yaml": (b"just words", "a text at the top"),
    "binary.yaml": (bytes(range(128, 256)), "no UTF-8"),
    "zero.yaml": (b"a: 1\0", "zero bytes"),
    "broken.yaml": (b"a: [1, 2\nb: }", "no valid YAML"),
    "broken.json": (b'{"a": 1,}', "no valid JSON"),
    "twice.yaml": (b"stage: sft\nlora_rank: 8\nstage: dpo\n", "the key 'stage' stands twice, again in line 3"),
    "twice.json": (b'{"stage": "sft", "stage": "dpo"}', "the key 'stage' stands twice"),
    "inside.yaml": (b"a:\n  b: 1\n  b: 2\n", "stands twice"),
    "number.yaml": (b"1: a\n", "the key 1"),
    "itself.yaml": (b"a: &x\n  b: *x\n", "recursive"),
    "deep.yaml": (b"a: " + b"[" * 40 + b"]" * 40, "nested too deeply"),
    "object.yaml": (b"a: !!python/object:os.system {}\n", "no valid YAML"),
    "none.sh": (b"echo hello\n", "0 commands"),
    "two.sh": (b"llamafactory-cli train --a 1\nllamafactory-cli train --a 2\n", "2 commands"),
    "quote.sh": (b"llamafactory-cli train --a 'x\n", "not closed"),
    "variable.sh": (b"llamafactory-cli train --model_name_or_path $MODEL\n", "the variable $MODEL"),
    "again.sh": (b"llamafactory-cli train --a 1 --a 2\n", "--a twice"),
    "word.sh": (b"llamafactory-cli train sft\n", "the word sft"),
    "gone.sh": (b"llamafactory-cli train gone.yaml\n", "gone.yaml"),
    "inner.sh": (b"llamafactory-cli train \\\n  --a 1 \\\n  # --b 2 \\\n  --c 3\n", "a comment inside a command"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_message(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        convert(tmp_path / name, "llamafactory")
    assert reason in str(error.value)
    assert str(error.value).count("\n") == 2
    assert error.value.exit_code == 2


def test_no_file_no_tool_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        convert(tmp_path / "none.yaml", "trl")
    with pytest.raises(ConfigError, match="Is a directory"):
        convert(tmp_path, "trl")
    file = tmp_path / "c.yaml"
    file.write_text("model_name_or_path: m\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="llamafactory, swift, trl, axolotl"):
        convert(file, "unsloth")
    with pytest.raises(ConfigError, match="--without nothing"):
        convert(file, "trl", without=["nothing"])
    with pytest.raises(ConfigError, match="no such option"):
        convert(file, "trl", ["data.train=r.jsonl", "data.train_on_prompt=true", "train.sped=1"])
    with pytest.raises(ConfigError, match="key=value"):
        convert(file, "trl", ["r.jsonl"])


def test_a_large_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"a": "' + "x" * 1_000_001 + '"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="bytes"):
        convert(file, "trl")


def test_the_file_of_another_tool_is_told(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("base_model: m\nmicro_batch_size: 1\nsequence_len: 64\nadapter: lora\n", encoding="utf-8")
    assert "--from axolotl?" in (refusal(examine(file, "llamafactory")) or "")
    assert "--from" not in (refusal(examine(file, "axolotl")) or "")


def test_an_unknown_key_is_never_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model_name_or_path: m\nlora_rnak: 8\nempty:\n", encoding="utf-8")
    made = examine(file, "llamafactory", ["data.train=r.jsonl"])
    assert {key["key"]: key["fate"] for key in made["keys"]}["lora_rnak"] == "unknown"
    assert {key["key"]: key["fate"] for key in made["keys"]}["empty"] == "unknown"
    with pytest.raises(ConfigError, match="lora_rnak: not known to this version; nothing was done with it"):
        convert(file, "llamafactory", ["data.train=r.jsonl", "output.dir=o"])
    made = convert(file, "llamafactory", ["data.train=r.jsonl", "output.dir=o"], without=["lora_rnak", "empty"])
    assert "# Left out: lora_rnak." in (made["yaml"] or "")


def test_a_command_with_a_file_and_words_that_win(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model_name_or_path: m\nlora_rank: 4\nseed: 1\n", encoding="utf-8")
    script = tmp_path / "run.sh"
    script.write_text("CUDA_VISIBLE_DEVICES=0 llamafactory-cli train c.yaml lora_rank=16\n", encoding="utf-8")
    made = convert(script, "llamafactory", ["data.train=r.jsonl", "output.dir=o"])
    assert {key["key"]: key["value"] for key in made["keys"]} == {
        "model_name_or_path": "m",
        "lora_rank": 16,
        "seed": 1,
        "CUDA_VISIBLE_DEVICES": "0",
    }


def test_words_of_a_shell_as_a_shell_reads_them(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(
        "# don't read this\nSIZE=8  # rows\nif true; then\n"
        "swift sft --model \"a b\" --dataset x/y#5 'z/w#6' --max_length=64 --lora_rank ${SIZE} --learning_rate 1e-4 \\\n"
        "  --target_modules q_proj v_proj --use_rslora && swift infer\nfi\n",
        encoding="utf-8",
    )
    made = examine(script, "swift")
    assert {key["key"]: key["value"] for key in made["keys"]} == {
        "model": "a b",
        "dataset": ["x/y#5", "z/w#6"],
        "max_length": 64,
        "lora_rank": 8,
        "learning_rate": 1e-4,
        "target_modules": ["q_proj", "v_proj"],
        "use_rslora": True,
    }
    assert "swift infer" in made["unused_commands"]


def test_a_script_that_trains_something_else(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("swift rlhf --rlhf_type dpo --model m\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="swift rlhf"):
        convert(script, "swift")


def test_sums_redirections_and_commands_inside_a_command(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    start = "N=4\nNPROC_PER_NODE=$N swift sft --model m --dataset x/y --max_length 64 "
    script.write_text(
        start + "--gradient_accumulation_steps $(expr 32 / $N) --save_steps $((10 * 5)) --seed 3 2>&1 | tee log.txt\n",
        encoding="utf-8",
    )
    found = {key["key"]: key["value"] for key in examine(script, "swift")["keys"]}
    assert (found["gradient_accumulation_steps"], found["save_steps"], found["seed"]) == (8, 50, 3)
    assert found["NPROC_PER_NODE"] == "4"
    for inner in ("$(date +%F)", "`date`", "$(expr 1 / 0)"):
        script.write_text(start + f"--output_dir {inner} --lora_rank 8\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="a command inside the command"):
            convert(script, "swift")
    script.write_text(start + "--model_type 'a > b' > log.txt\n", encoding="utf-8")
    assert {key["key"]: key["value"] for key in examine(script, "swift")["keys"]}["model_type"] == "a > b"
