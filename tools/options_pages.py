"""docs/options.md and options.zh.md, made from the declarations of the options: python tools/options_pages.py [FOLDER]

A table for each section, and one for each method, since methods have defaults of their own. A test compares the pages.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from weitiao.config.comparison import CompareSection
from weitiao.config.data import DataConfig
from weitiao.config.loading import option_paths
from weitiao.config.method_names import ALIASES, METHOD_SECTIONS
from weitiao.config.options import default_of, in_cell, type_of
from weitiao.config.run import OutputConfig, RunConfig
from weitiao.config.synonyms import ANSWERS_ONLY, SYNONYMS
from weitiao.config.task import TASK_OPTIONS
from weitiao.config.train import TrainConfig
from weitiao.web.options import as_text, method_fields
from weitiao.web.words import texts

PLACE = Path(__file__).resolve().parents[1] / "docs"
SECTIONS: dict[str, type[BaseModel]] = {"data": DataConfig, "train": TrainConfig, "compare": CompareSection}
COMMAND = "weitiao train recipes/reviews-lora.yaml method.r=8 train.seed=1"
# Options that no form of the web page has, so that its texts lack them.
CHINESE = {
    "output.dir": "产物文件夹，不能已经存在。",
    "compare.methods": "参加对比的方法：`full`、`lora`，或 {name, method, learning_rate}。",
    "compare.executor": "在本机逐个运行（local），或作为 Ray 任务同时运行（ray，需要附加依赖 `ray`）。",
    "compare.cpus_per_cell": "用 Ray 时，每次运行占几个 CPU。放得下几个就同时跑几个。",
    "compare.retries": "用 Ray 时，被终止的运行最多重试几次。每次都从最近的检查点继续。",
}
WORDS = {
    "en": {
        "title": "Options",
        "intro": "This page lists every option. `make options` generates it from the declarations in `src/weitiao/config/`.\n\n"
        "In a YAML file an option is a key in its section. On the command line it is a word:",
        "task": "task",
        "task_intro": "Some tasks have defaults of their own. `config.yaml` in a run's folder keeps every value.",
        "run": "Model and task",
        "data": "Data",
        "train": "Training",
        "method": "Method",
        "method_intro": "`method.type` chooses the method. Each has its own options and defaults; "
        "[methods](methods.md) says what each is for. Some names stand for a method with an option:",
        "name": "name",
        "stands_for": "stands for",
        "output": "Run folder",
        "compare": "Comparison",
        "compare_intro": "`weitiao compare` takes the options above, without `method` and `train.learning_rate`. It adds these:",
        "synonyms": "Names of other tools",
        "synonyms_intro": "These names are read as ours, and the log says so. "
        "[migrate.md](migrate.md) converts whole configurations.",
        "opposite": "the opposite of `data.train_on_prompt`",
        "default": "default",
        "head": "| option | type | default | meaning |",
        "required": "**required**",
        "option": "option",
    },
    "zh": {
        "title": "选项",
        "intro": "这一页列出所有选项，由 `make options` 根据 `src/weitiao/config/` 里的声明生成。\n\n"
        "在 YAML 文件里，选项是所在小节的一个键。在命令行里，选项是一个词：",
        "task": "任务",
        "task_intro": "有的任务有自己的默认值。产物文件夹里的 `config.yaml` 存着每一个值。",
        "run": "模型与任务",
        "data": "数据",
        "train": "训练",
        "method": "方法",
        "method_intro": "用 `method.type` 选方法。每种方法有自己的选项和默认值，用途见[方法](methods.md)。"
        "下面这些名称代表某种方法加上一个选项：",
        "name": "名称",
        "stands_for": "代表",
        "output": "产物文件夹",
        "compare": "对比",
        "compare_intro": "`weitiao compare` 接受上面的选项，`method` 和 `train.learning_rate` 除外。另外还有：",
        "synonyms": "其他工具的选项名",
        "synonyms_intro": "下面这些名称会当作本工具的选项读取，并记入日志。整份配置的转换见[从其他工具迁移](migrate.md)。",
        "opposite": "与 `data.train_on_prompt` 相反",
        "default": "默认值",
        "head": "| 选项 | 类型 | 默认值 | 含义 |",
        "required": "**必填**",
        "option": "选项",
    },
}
# In this order: a longer phrase before its parts.
TYPES = {
    "mapping of text or whole number or number or true or false to text or whole number or null": "映射（键：文本、数值或 true/false；值：文本、整数或 null）",
    "mapping of text to number": "映射（文本到数值）",
    "true or false": "true 或 false",
    "list of Arm": "方法的列表",
    "list of whole number": "整数的列表",
    "list of text": "文本的列表",
    "list of ": "列表，元素为 ",
    "whole number": "整数",
    "number": "数值",
    "text": "文本",
    " or ": " 或 ",
    " (": "（",
    ")": "）",
    ", ": "，",
}  # fmt: skip


def type_cell(field: FieldInfo, language: str) -> str:
    """Type and bounds of an option. Choices, which stand in backticks, are the same in every language."""
    parts = re.split(r"(`[^`]*`)", type_of(field))
    if language == "zh":
        for english, chinese in TYPES.items():
            parts[::2] = [part.replace(english, chinese) for part in parts[::2]]
    return "".join(parts)


def meaning(key: str, field: FieldInfo, language: str) -> str:
    english = field.description or ""
    return in_cell(english if language == "en" else CHINESE.get(key) or texts()[f"options.{key}"]["zh"])


def table(fields: Mapping[str, FieldInfo], language: str, keys: Mapping[str, str] | None = None) -> str:
    """Options as rows. ``keys``: by option the key of its Chinese text, where that is another."""
    words = WORDS[language]
    rows = [
        f"| `{path}` | {type_cell(field, language)} | {default_of(field) or words['required']} "
        f"| {meaning((keys or {}).get(path, path), field, language)} |"
        for path, field in fields.items()
    ]
    return "\n".join([words["head"], "|---|---|---|---|", *rows])


def own(kind: type[BaseModel], section: str) -> dict[str, FieldInfo]:
    return {f"{section}{name}": field for name, field in kind.model_fields.items()}


def task_defaults(language: str) -> str:
    """What each task has by default, where an option's own default is another."""
    words = WORDS[language]
    rows = []
    for name, task in TASK_OPTIONS.items():
        metric = {"train": {"metric_for_best_model": next(iter(task.metrics))}, "compare": {"margin": task.margin}}
        for section, values in (*task.defaults.items(), *metric.items()):
            fields = own(SECTIONS[section], f"{section}.")
            for key, value in values.items():
                path, shown = f"{section}.{key}", f"`{as_text(value)}`"
                if shown != default_of(fields[path]):
                    rows.append(f"| `{name}` | `{path}` | {shown} |")
    return "\n".join([f"| {words['task']} | {words['option']} | {words['default']} |", "|---|---|---|", *rows])


def methods(language: str) -> Iterator[str]:
    words = WORDS[language]
    stands = {
        name: ", ".join(f"`method.{key}={value}`" for key, value in options.items())
        for name, options in ALIASES.items()
    }
    stands = {name: re.sub("=True", "=true", text) for name, text in stands.items()}
    yield f"## {words['method']}\n\n{words['method_intro']}"
    yield f"| {words['name']} | {words['stands_for']} |\n|---|---|\n" + "\n".join(
        f"| `{name}` | {text} |" for name, text in stands.items()
    )
    for name, section in METHOD_SECTIONS.items():
        keys = {field.path: field.key for field in method_fields(name)}
        fields = own(section, "method.").items()
        has = {path: field for path, field in fields if path != "method.type" and type_of(field) != "null"}
        yield f"### {name}\n\n{table(has, language, keys)}"


def synonyms(language: str) -> str:
    """Other tools' names and the options that they mean."""
    words = WORDS[language]
    rows = [f"| `{other}` | `{ours}` |" for other, ours in SYNONYMS.items()]
    rows += [f"| `{other}` | {words['opposite']} |" for other in ANSWERS_ONLY]
    return "\n".join([f"| {words['name']} | {words['option']} |", "|---|---|", *rows])


def page(language: str) -> str:
    words = WORDS[language]
    run = {name: field for name, field in option_paths(RunConfig).items() if "." not in name}
    parts = [
        f"# {words['title']}",
        words["intro"],
        f"```\n{COMMAND}\n```",
        f"## {words['run']}\n\n{table(run, language)}",
        words["task_intro"],
        task_defaults(language),
        f"## {words['data']}\n\n{table(own(DataConfig, 'data.'), language)}",
        f"## {words['train']}\n\n{table(own(TrainConfig, 'train.'), language)}",
        *methods(language),
        f"## {words['output']}\n\n{table(own(OutputConfig, 'output.'), language)}",
        f"## {words['compare']}\n\n{words['compare_intro']}\n\n{table(own(CompareSection, 'compare.'), language)}",
        f"## {words['synonyms']}\n\n{words['synonyms_intro']}\n\n{synonyms(language)}",
    ]
    return "\n\n".join(parts) + "\n"


PAGES = {"options.md": "en", "options.zh.md": "zh"}


def main(place: Path) -> None:
    for name, language in PAGES.items():
        (place / name).write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PLACE)
