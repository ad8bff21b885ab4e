"""The example configurations of the four tools: every key is in the report once, and what comes out is a configuration."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.support.schema import validator

from weitiao.config.loading import load
from weitiao.config.run import RunConfig
from weitiao.converting.convert import TOOLS, convert, examine, refusal
from weitiao.converting.reading import read
from weitiao.errors import ConfigError

EXAMPLES = Path(__file__).parent / "examples"
FILES = sorted(
    path
    for tool in TOOLS
    for path in (EXAMPLES / tool).iterdir()
    if path.suffix in (".yaml", ".yml", ".sh", ".py", ".ipynb")
)
# What each file needs besides itself: words, keys that are left out, and which keys are refused or unknown without them.
NEEDS: dict[str, tuple[list[str], list[str], set[str]]] = {
    "swift/lora_sft.sh": ([], ["system", "model_author", "model_name"], {"system", "model_author", "model_name"}),
    "swift/qlora.sh": (["method.lora_dropout=0"], [], set()),
    "trl/qlora_sft.yaml": (["method.lora_dropout=0"], [], {"lora_dropout"}),
    "trl/sft.sh": (["data.train_on_prompt=true"], ["eos_token"], {"eos_token"}),
    "axolotl/qlora.yml": (["method.lora_dropout=0"], [], {"lora_dropout"}),
    "axolotl/lora.yml": (
        ["method.load_in_4bit=false", "train.warmup_ratio=0.05"], [], {"load_in_8bit", "warmup_steps"},
    ),
    "llamafactory/train_dpo.yaml": (
        ["task=causal_lm"],
        ["stage", "pref_beta", "pref_loss", "neftune_noise_alpha", "use_badam", "mask_history"],
        {"stage", "pref_beta", "pref_loss", "neftune_noise_alpha", "use_badam", "mask_history"},
    ),
    "trainer/lora_reviews.py": (["data.test_size=1"], [], set()),
    "trainer/full_tags.py": (
        ["output.dir=out", "train.fp16=false", "data.train=x.jsonl", "data.max_length=512"], [],
        {"output_dir", "fp16"},
    ),
    "trainer/head_only.py": (
        ["data.train_size=2", "method.top_k=0"], [], {"select", "filter", "requires_grad"},
    ),
    "axolotl/dpo.yml": (
        [],
        ["rl", "datasets[0].split", "datasets[0].field_messages", "cosine_min_lr_ratio", "special_tokens.eos_token", "context_parapllel_size"],
        {"rl", "datasets[0].split", "datasets[0].field_messages", "cosine_min_lr_ratio", "special_tokens.eos_token", "context_parapllel_size"},
    ),
}  # fmt: skip


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names of data are found from the file, not by luck from here."""
    monkeypatch.chdir(tmp_path)


def leaves(keys: dict[str, Any]) -> list[str]:
    """The names of a file's keys, with those inside lists of mappings and inside groups."""
    found = []
    for name, value in keys.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found += [f"{name}[{number}].{inner}" for number, group in enumerate(value) for inner in group]
        elif name in (
            "special_tokens", "from_pretrained", "LoraConfig", "AutoTokenizer", "tokenizer", "load_dataset", "train_test_split", "Trainer",
        ):  # fmt: skip
            found += [f"{name}.{inner}" for inner in value]
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_is_in_the_report_once(path: Path) -> None:
    made = examine(path, path.parent.name)
    source = read(path, TOOLS[path.parent.name])
    reported = [key["key"] for key in made["keys"]]
    assert reported == [*leaves(source.keys), *source.environment]
    assert len(set(reported)) == len(reported) == sum(made["counts"].values())
    assert all(key["reason"] for key in made["keys"] if key["fate"] not in ("mapped",))
    assert not list(validator("conversion.json").iter_errors(made))
    bad = {key["key"] for key in made["keys"] if key["fate"] in ("refused", "unknown")}
    assert bad == NEEDS.get(name_of(path), ([], [], set()))[2]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_comes_out_loads(path: Path, tmp_path: Path) -> None:
    words, without, _ = NEEDS.get(name_of(path), ([], [], set()))
    made = convert(path, path.parent.name, words, without, output=tmp_path / "new.yaml")
    config = load(RunConfig, tmp_path / "new.yaml")
    assert made["config"] is not None
    assert config == load(RunConfig, made["config"])
    assert yaml.safe_load(made["yaml"] or "") == made["config"]
    assert not list(validator("conversion.json").iter_errors(made))
    options = {path for key in made["keys"] for path in key["options"]} | {one["option"] for one in made["defaults"]}
    assert {
        f"{section}.{name}" for section, inner in made["config"].items() if isinstance(inner, dict) for name in inner
    } <= (options | {word.partition("=")[0] for word in words}), "an option without an origin"
    assert {key["key"] for key in made["keys"] if key["fate"] == "left out"} == set(without)


def test_four_examples_of_each_tool() -> None:
    assert all(sum(path.parent.name == tool for path in FILES) >= 4 for tool in TOOLS)


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_without_what_it_needs_nothing_is_written(name: str, tmp_path: Path) -> None:
    made = examine(EXAMPLES / name, name.partition("/")[0])
    reason = refusal(made)
    assert made["config"] is None
    assert reason is not None
    assert reason.count("\n") == 2
    with pytest.raises(ConfigError, match="Found"):
        convert(EXAMPLES / name, name.partition("/")[0], output=tmp_path / "new.yaml")
    assert not (tmp_path / "new.yaml").exists()


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "new.yaml"
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists"):
        convert(EXAMPLES / "trl" / "sft.yaml", "trl", output=target)
    assert target.read_text(encoding="utf-8") == "mine"


def test_the_schema_tells_a_changed_report(tmp_path: Path) -> None:
    made: dict[str, Any] = dict(convert(EXAMPLES / "trl" / "sft.yaml", "trl"))
    check: Draft202012Validator = validator("conversion.json")
    assert list(check.iter_errors({**made, "surplus": 1}))
    assert list(check.iter_errors({name: value for name, value in made.items() if name != "keys"}))


def test_the_page_is_current() -> None:
    from weitiao.converting.page import page

    written = Path(__file__).parents[2] / "docs" / "migrate.md"
    assert written.read_text(encoding="utf-8") == page(), "run: make options"
