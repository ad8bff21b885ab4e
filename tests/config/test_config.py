"""Bad configurations are refused with the path, what was found and what to do; good ones survive a round trip."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.fork_server import ForkServer
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import dump, load, option_paths
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError

GOOD = ["model=m", "data.train=t.jsonl", "output.dir=o"]

BAD = [
    (["train.learning_rat=1"], "train.learning_rat: no such option. Did you mean train.learning_rate?"),
    (["lerning_rate=1"], "Did you mean train.learning_rate?"),
    (["modle=x"], "Did you mean model?"),
    (["data.labl=x"], "Did you mean data.label?"),
    (["train.learning_rate=fast"], "train.learning_rate: found 'fast'"),
    (["train.learning_rate=-1"], "greater than 0"),
    (["train.num_train_epochs=0"], "greater than or equal to 1"),
    (["train.seed=-1"], "train.seed"),
    (["train.lr_scheduler_type=step"], "'linear', 'cosine' or 'constant'"),
    (["train.warmup_ratio=1"], "less than 1"),
    (["train.dropout=1.5"], "dropout is 1.5"),
    (["train.tokens_per_batch=abc"], "train.tokens_per_batch"),
    (["method.type=lroa"], "found 'lroa'"),
    (["method.type=apollo"], "type=apollo is not here: the kept library"),
    (["method.type=qlora", "train.int8_base=true"], "does not go with train.int8_base"),
    (["method.type=qlora", "method.lora_dropout=0.1"], "no lora_dropout"),
    (["method.type=full", "method.galore_gap=3"], "belong to galore_rank"),
    (["method.type=full", "method.galore_rank=4", "method.top_k=0"], "trained matrices of layers"),
    (["method.r=8"], "method.type: expected full, lora"),
    (["method.type=full", "method.r=8"], "method.r: method 'full' has no such option"),
    (["method.type=lora", "method.r=0"], "greater than or equal to 1"),
    (["method.type=lora", "method.lora_dropout=1"], "less than 1"),
    (["method.type=lora", "method.rank=8", "method.lora_alhpa=3"], "Did you mean method.lora_alpha?"),
    (["data.test_size=0"], "greater than 0"),
    (["data.test_size=2.5"], "test_size is 2.5"),
    (["data.max_length=1"], "greater than or equal to 4"),
    (["task=translation"], "task: found 'translation'"),
    (["train.load_best_model_at_end=true", "train.eval_strategy=no"], "load_best_model_at_end needs evaluations"),
    (["train.early_stopping_patience=2", "train.eval_strategy=no"], "early_stopping_patience needs evaluations"),
    (["train"], "Expected key=value"),
    (["=3"], "Expected key=value"),
    (["model.name=x"], "model already has the value"),
    (["train.learning_rate=.inf"], "train.learning_rate"),
    (["train.class_weights={a: 0, b: 1}"], "greater than 0"),
    (["train.metric_for_best_model=f2"], "train.metric_for_best_model"),
    (["train.seed=99999999999"], "train.seed"),
    (["data.fold=2"], "num_folds is not given"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_bad_configuration(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(RunConfig, None, GOOD + words)
    assert message in str(caught.value)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(RunConfig, None, ["train.seed=-1", "train.sed=1", "method.type=lora", "method.r=0"])
    text = str(caught.value)
    assert "6 problems" in text  # model, data, output are missing too
    assert all(part in text for part in ("model: required", "output: required", "train.seed", "train.sed", "method.r"))


def test_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read the configuration"):
        load(RunConfig, tmp_path / "none.yaml")
    for text, message in (("a: [1", "not valid YAML"), ("- 1", "holds list"), ("", "holds NoneType")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load(RunConfig, tmp_path / "c.yaml")


def test_synonyms_reach_the_same_configuration() -> None:
    ours = load(RunConfig, None, [*GOOD, "method.type=lora", "method.r=8", "train.learning_rate=1e-4", "train.seed=3"])
    theirs = load(
        RunConfig,
        None,
        [
            "model_name_or_path=m",
            "dataset=t.jsonl",
            "output_dir=o",
            "finetuning_type=lora",
            "lora_rank=8",
            "lr=1e-4",
            "seed=3",
        ],
    )
    assert ours == theirs
    assert load(RunConfig, None, [*GOOD, "cutoff_len=99"]).data.max_length == 99


def test_names_that_say_the_opposite(tmp_path: Path) -> None:
    chat = [*GOOD, "task=causal_lm"]

    def on_prompt(*words: str) -> bool:
        return load(RunConfig, None, [*chat, *words]).data.train_on_prompt

    assert on_prompt("completion_only_loss=false")
    assert on_prompt("data.completion_only_loss=false", "assistant_only_loss=false")
    # what TRL has as defaults asks for nothing
    for word in ("completion_only_loss=true", "completion_only_loss=null", "train.assistant_only_loss=false"):
        assert not on_prompt(word)
    both = ["completion_only_loss=true", "assistant_only_loss=false"]
    assert not on_prompt(*both)
    assert not on_prompt(*reversed(both))
    for against in ("assistant_only_loss=true", "data.train_on_prompt=false"):
        with pytest.raises(ConfigError, match="one learns the prompt and the other does not"):
            on_prompt("completion_only_loss=false", against)
    with pytest.raises(ConfigError, match=r"Found completion_only_loss='often'\.\nExpected true or false"):
        on_prompt("completion_only_loss=often")
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: m\ntask: causal_lm\ndata: {train: t.jsonl}\noutput: {dir: o}\ncompletion_only_loss: false\n"
    )
    assert load(RunConfig, file).data.train_on_prompt
    assert not load(RunConfig, file, ["data.train_on_prompt=false"]).data.train_on_prompt  # words win over files


def test_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: m\ndata: {train: t.jsonl}\noutput: {dir: o}\ntrain: {lr: 1e-3, epochs: 7}\n")
    config = load(RunConfig, file, ["train.num_train_epochs=2"])
    assert (config.train.learning_rate, config.train.num_train_epochs) == (1e-3, 2)


def test_dump_round_trip(tmp_path: Path) -> None:
    config = load(RunConfig, None, [*GOOD, "method.type=lora", "method.target_modules=[query, value]"])
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load(RunConfig, tmp_path / "c.yaml") == config


def test_compare_forms_and_refusals() -> None:
    words = [*GOOD, "compare.methods=[full, {type: lora, r: 4, name: r4, learning_rate: 1e-3}]", "compare.seeds=[1, 2]"]
    config = load(CompareConfig, None, words)
    cells = config.cells()
    assert [(arm.name, seed) for arm, seed in cells] == [("full", 1), ("r4", 1), ("full", 2), ("r4", 2)]
    cell = config.cell_config(cells[1][0], 1, "x")
    assert (cell.train.learning_rate, cell.train.seed, cell.method.type) == (1e-3, 1, "lora")
    for word, message in (
        ("train.learning_rate=1e-4", "would give every arm one rate"),
        ("compare.methods=[lora, lora]", "distinct names"),
        ("compare.seeds=[1, 1]", "seeds are repeated"),
        ("compare.method=[lora]", "Did you mean compare.methods?"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(CompareConfig, None, [*GOOD, word])
        assert message in str(caught.value)


def test_every_option_is_described() -> None:
    for path, field in option_paths(RunConfig).items():
        assert field.description, path


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml")), ids=lambda p: p.name
)
def test_recipes_are_valid(recipe: Path) -> None:
    load(CompareConfig if "compare:" in recipe.read_text(encoding="utf-8") else RunConfig, recipe)


def test_cli_exit_code_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "weitiao", "train", "model=x", "data.trian=y", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Did you mean data.train?" in done.stderr
    assert "Traceback" not in done.stderr


def test_resume_with_options_is_explained(fork_server: ForkServer) -> None:
    done = fork_server.run("train", "--resume", "r", "train.max_steps=3")
    assert done.returncode == 2
    assert "Expected --resume alone" in done.stderr


def test_files_that_cannot_be_written_are_a_message(fork_server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "r.csv").write_text("text,label\na b,1\nc d,2\n")
    done = fork_server.run("data", "check", str(tmp_path / "r.csv"), "--output", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_deepspeed_is_refused_with_a_way_on() -> None:
    with pytest.raises(ConfigError, match="fsdp2"):
        load(RunConfig, None, ["model=m", "data.train=d", "output.dir=o", "train.distributed=deepspeed"])


def test_a_key_or_an_option_that_stands_twice(tmp_path: Path) -> None:
    """Of two YAML keeps the last, and the other is gone."""
    file = tmp_path / "c.yaml"
    start = "model: m\ndata: {train: t.jsonl}\noutput: {dir: o}\n"
    file.write_text(f"{start}train: {{seed: 1}}\ntrain: {{num_train_epochs: 2}}\n")
    with pytest.raises(ConfigError, match="the key 'train' stands twice, again in line 5"):
        load(RunConfig, file)
    file.write_text(f"{start}cutoff_len: 256\nmax_seq_length: 128\n")
    with pytest.raises(ConfigError, match=r"cutoff_len=256 and max_seq_length=128, two names(.|\n)*data.max_length"):
        load(RunConfig, file)
    file.write_text(f"{start}cutoff_len: 256\nmax_seq_length: 256\n")
    assert load(RunConfig, file, ["data.max_length=64"]).data.max_length == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [
                "method.type=full",
                "method.lisa_layers=1",
                "train.optimizer_in_backward=true",
                "train.max_grad_norm=null",
            ],
            "does not go with method.lisa_layers",
        ),
        (
            ["method.type=full", "method.top_k=auto", "data.streaming=true", "data.eval=e.jsonl", "train.max_steps=5"],
            "a stream has none at hand",
        ),
        (
            ["method.type=lora", "method.top_k=auto", "data.streaming=true", "data.eval=e.jsonl", "train.max_steps=5"],
            "a stream has none at hand",
        ),
    ],
)
def test_options_that_contradict_each_other(words: list[str], message: str) -> None:
    base = {"model": "m", "data": {"train": "t.jsonl"}, "output": {"dir": "o"}}
    with pytest.raises(ConfigError, match=message):
        load(RunConfig, base, words)
