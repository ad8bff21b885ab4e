"""What comes out trains and can be planned; the command prints, writes and ends as others do."""

import json
from pathlib import Path

import pytest
import yaml
from tests.support.fork_server import ForkServer
from tests.support.schema import validator
from typer.testing import CliRunner

import weitiao
from weitiao.commands.app import app
from weitiao.config.loading import load
from weitiao.config.run import RunConfig

EXAMPLES = Path(__file__).parent / "examples"


def test_llamafactorys_example_trains_two_steps(tiny_chat_model: Path, tmp_path: Path) -> None:
    words = [f"model={tiny_chat_model}", "train.max_steps=2", "train.bf16=false", f"output.dir={tmp_path / 'run'}"]
    words += ["train.generate_rows=1", "train.max_new_tokens=4"]
    weitiao.convert(
        EXAMPLES / "llamafactory" / "llama3_lora_sft.yaml", "llamafactory", words, output=tmp_path / "c.yaml"
    )
    run = weitiao.train(tmp_path / "c.yaml")
    assert run.summary["steps"] == 2
    assert (run.config.method.type, run.config.data.max_length) == ("lora", 2048)
    report = json.loads((run.path / "data_report.json").read_text(encoding="utf-8"))
    assert report["check"]["num_rows"] == 14, "ten rows at most of each file, of which one has four"
    assert report["split"]["train"]["duplicates_dropped"] == 0, "LLaMA-Factory keeps equal rows"


@pytest.mark.parametrize(
    "name", ["llamafactory/full_sft.yaml", "swift/sft.yaml", "trl/sft.yaml", "axolotl/lora_kernels.yml"]
)
def test_one_of_each_tool_can_be_planned(name: str, tiny_chat_model: Path, tmp_path: Path) -> None:
    words = [f"model={tiny_chat_model}", f"output.dir={tmp_path / 'run'}"]
    made = weitiao.convert(EXAMPLES / name, name.partition("/")[0], words)
    assert made["config"] is not None
    planned = weitiao.plan(load(RunConfig, made["config"]))
    assert planned["methods"]


def test_a_classifier_of_swift_trains(tiny_model: Path, tmp_path: Path) -> None:
    words = [f"model={tiny_model}", f"output.dir={tmp_path / 'run'}", "train.bf16=false", "data.max_length=32"]
    made = weitiao.convert(EXAMPLES / "swift" / "seq_cls_bert.sh", "swift", words)
    assert made["config"] is not None
    run = weitiao.train(made["config"])
    assert "accuracy" in run.summary["metrics"]


def test_the_yaml_goes_to_stdout_and_the_table_to_stderr(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["convert", str(EXAMPLES / "trl" / "sft.yaml"), "--from", "trl"])
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["task"] == "causal_lm"
    assert "model_name_or_path" in done.stderr
    assert "6 keys: 4 mapped, 2 ignored." in done.stderr


@pytest.mark.beyond_check
def test_a_refused_key_ends_with_2_and_writes_nothing(fork_server: ForkServer, tmp_path: Path) -> None:
    target, file = tmp_path / "new.yaml", EXAMPLES / "axolotl" / "qlora.yml"
    words = ["convert", str(file), "--from", "axolotl", "--output", str(target)]
    done = fork_server.run(*words, "--json")
    assert done.returncode == 2
    assert not target.exists()
    report = json.loads(done.stdout)
    assert not list(validator("conversion.json").iter_errors(report))
    assert report["config"] is None
    assert "lora_dropout" in done.stderr
    done = fork_server.run(*words, "method.lora_dropout=0")
    assert done.returncode == 0, done.stderr
    assert load(RunConfig, target).method.type == "lora"
    done = fork_server.run(*words, "method.lora_dropout=0")
    assert (done.returncode, "exists" in done.stderr) == (2, True)
    assert fork_server.run("convert", str(file), "--from", "axolotl", "--json", "method.lora_dropout=0").returncode == 0
    assert fork_server.run("convert", str(tmp_path / "gone.yaml"), "--from", "trl").returncode == 2
    assert fork_server.run("convert", str(file)).returncode == 2, "--from is needed"
