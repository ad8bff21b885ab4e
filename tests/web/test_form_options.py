"""The options of a run as fields of a form, and forms as words of the command line."""

import re

import pytest
import yaml

from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import load, option_paths
from weitiao.config.method_names import ALIASES, METHOD_SECTIONS
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.web.options import (
    as_text,
    as_yaml,
    compare_words,
    errors_of,
    every_field,
    method_fields,
    of_config,
    of_task,
    read,
    section_fields,
    word,
)
from weitiao.web.words import LANGUAGES, texts

MODEL = "multilingual-e5-small"
LORA = {"model": MODEL, "data.train": "a.csv", "method.type": "lora"}


def test_every_option_has_a_field() -> None:
    missing = set(option_paths(RunConfig)) - set(every_field()) - {"output.dir"}
    assert missing == set()


def test_every_option_is_described_in_both_languages() -> None:
    fields = [*every_field().values(), *(field for kind in METHOD_SECTIONS for field in method_fields(kind))]
    for field in fields:
        found = texts()[f"options.{field.key}"]
        assert found["en"] == field.description, f"texts/options.json, {field.key}: the declaration has changed"
        assert found["zh"]


@pytest.mark.parametrize("page", ["data", "findings", "new", "options"])
def test_texts_are_there_in_every_language_with_the_same_values(page: str) -> None:
    for key, found in texts().items():
        if key.startswith(f"{page}."):
            assert set(found) == set(LANGUAGES)
            assert all(found.values()), key
            if page != "options" or key in ("options.default", "options.not_given"):
                values = {language: set(re.findall(r"\{\w+\}", text)) for language, text in found.items()}
                assert values["en"] == values["zh"], key


@pytest.mark.parametrize("text", ["no", "1e5", "评论 数据.csv", "a: b", "a # b", "[", "null", "'x'y", "2026-01-01"])
def test_a_text_is_read_as_a_text(text: str) -> None:
    config = load(RunConfig, None, ["model=m", word("data.train", "a.csv"), word("data.text", text), "output.dir=x"])
    assert config.data.text == text


def test_lists_and_numbers_are_read_as_such() -> None:
    config, words = read(
        {**LORA, "data.train": "[a.csv, b.csv]", "method.target_modules": "[query]", "train.dropout": "0.1"}, "x"
    )
    assert config.data.train == ("a.csv", "b.csv")
    assert config.method.target_modules == ("query",)
    assert "train.dropout=0.1" in words


def test_only_what_differs_becomes_a_word() -> None:
    given = {
        "method.r": "16",
        "train.num_train_epochs": "3",
        "train.seed": "7",
        "task": "classification",
        "data.label": " ",
    }
    _, words = read({**LORA, **given}, "runs/x")
    assert words == [f"model={MODEL}", "data.train=a.csv", "method.type=lora", "train.seed=7", "output.dir=runs/x"]


def test_options_of_another_method_are_left_out() -> None:
    _, words = read({**LORA, "method.galore_rank": "8"}, "x")
    assert not any("galore" in one for one in words)


@pytest.mark.parametrize("kind", [*METHOD_SECTIONS, *ALIASES])
def test_every_method_is_the_same_run_as_its_words(kind: str) -> None:
    config, words = read({**LORA, "method.type": kind}, "x")
    assert load(RunConfig, None, words) == config
    assert load(RunConfig, yaml.safe_load(as_yaml(words))) == config


@pytest.mark.parametrize("task", ["causal_lm", "token_classification", "multi_label", "regression"])
def test_the_defaults_of_a_task_are_no_differences(task: str) -> None:
    _, words = read({**LORA, "task": task}, "x")
    assert words == [f"model={MODEL}", f"task={task}", "data.train=a.csv", "method.type=lora", "output.dir=x"]


def test_a_run_gives_the_form_back() -> None:
    options = {
        **LORA,
        "method.init_lora_weights": "pissa",
        "train.max_grad_norm": "null",
        "train.eval_strategy": "no",
        "data.near_duplicates": "off",
    }
    config, words = read(options, "x")
    again, same = read(of_config(config.model_dump(mode="json")), "x")
    assert again == config
    assert sorted(same) == sorted(words)


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        ({}, ["full", "lora"]),
        ({"method.r": "8"}, ["full", {"type": "lora", "r": 8}]),
        ({"method.r": "16"}, ["full", "lora"]),
        ({"method.type": "dora"}, ["full", "lora", {"type": "dora"}]),
        (
            {"method.type": "full", "method.top_k": "4"},
            ["full", "lora", {"name": "full-own", "type": "full", "top_k": 4}],
        ),
        ({"train.learning_rate": "1e-3"}, ["full", {"type": "lora", "learning_rate": "1e-3"}]),
    ],
)
def test_a_comparison_takes_the_form(options: dict[str, str], methods: list[object]) -> None:
    values = {**LORA, **options, "compare.seeds": "[1, 2]"}
    _, words = read(values, "runs/x")
    compared = compare_words(values, words)
    config = load(CompareConfig, None, compared)
    expected = load(
        CompareConfig,
        {
            "model": MODEL,
            "data": {"train": "a.csv"},
            "output": {"dir": "runs/x"},
            "compare": {"methods": methods, "seeds": [1, 2]},
        },
    )
    assert config == expected


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"method.r": "0"}, "method.r"),
        ({"train.num_train_epochs": "x"}, "train.num_train_epochs"),
        ({"data.fold": "3"}, "data.fold"),
        ({"task": "regression", "data.labels": "canonical"}, "data.labels"),
        ({"data.train": ""}, "data.train"),
        ({"model": ""}, "model"),
        ({"train.fp16": "true", "train.bf16": "true"}, "train.bf16"),
    ],
)
def test_an_error_stands_at_its_field(options: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({**LORA, **options}, "x")
    by_field, above = errors_of(str(caught.value))
    assert list(by_field) == [field]
    assert above == []


def test_values_are_written_as_words_have_them() -> None:
    assert [as_text(value) for value in (True, None, 1e-4, ["a"], "x", {"a": 1})] == [
        "true",
        "null",
        "0.0001",
        '["a"]',
        "x",
        '{"a": 1}',
    ]


def test_a_value_that_is_the_default_of_another_task_can_be_chosen() -> None:
    """token_classification makes windows where others cut."""
    chosen = {"model": MODEL, "task": "token_classification", "data.train": "a.conll", "data.over_length": "truncate"}
    assert "data.over_length=truncate" in read(chosen, "runs/x")[1]
    (field,) = (f for f in of_task(section_fields("data"), "token_classification") if f.path == "data.over_length")
    assert (field.default, "truncate" in field.choices) == ("window", True)


@pytest.mark.parametrize(
    ("kind", "option", "value"), [("dora", "use_dora", "false"), ("qlora", "load_in_4bit", "false")]
)
def test_an_option_that_contradicts_a_short_name_stays(kind: str, option: str, value: str) -> None:
    given = {**LORA, "method.type": kind, f"method.{option}": value}
    config, words = read(given, "runs/x")
    assert f"method.{option}={value}" in words
    assert load(RunConfig, None, words) == config


def test_a_blank_may_stand_between_labels() -> None:
    given = {"model": MODEL, "task": "multi_label", "data.train": "a.csv", "data.label_separator": " "}
    config, words = read(given, "runs/x")
    assert config.data.label_separator == " "
    assert load(RunConfig, None, words) == config
