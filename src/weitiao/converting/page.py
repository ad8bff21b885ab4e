"""docs/migrate.md, from the tables that `weitiao convert` reads with: `python -m weitiao.converting.page > docs/migrate.md`.

docs/migrate.zh.md is written by hand: the same without the tables, to which it leads.
"""

from collections.abc import Mapping
from typing import Any

from weitiao.converting.convert import TOOLS
from weitiao.converting.rules import Rules
from weitiao.converting.tool import Rest, Tool
from weitiao.converting.values import said

_SMALL: Mapping[str, dict[str, Any]] = {
    "trl": {"use_peft": True},
    "axolotl": {"adapter": "lora"},
    "trainer": {"LoraConfig": {}},
}  # a LoRA run of each

_HEAD = """# Move from another tool

`weitiao convert` reads a training configuration of LLaMA-Factory, ms-swift, TRL or axolotl, or a script with transformers'
Trainer. It writes one for weitiao, and says of every key what became of it. `make options` generates this page from the
tables that the command itself reads.

```
weitiao convert llama3_lora_sft.yaml --from llamafactory --output reviews.yaml
weitiao convert sft.sh --from swift
weitiao convert sft.yaml --from trl data.train=rows.jsonl
weitiao convert qlora.yml --from axolotl method.lora_dropout=0 --without special_tokens.eos_token
weitiao convert notebook.ipynb --from trainer data.train=reviews.csv data.max_length=512
weitiao plan reviews.yaml
```

The file may be YAML, JSON or a shell script with one training command. For `trainer` it is a Python script or
a notebook. The YAML goes to the screen or into a new file. The
table goes to stderr. `--json` prints both as one object ([schema](schemas/conversion.schema.json)). In Python:

```python
import weitiao

made = weitiao.convert("llama3_lora_sft.yaml", tool="llamafactory", words=["data.train=rows.json"])
print(made["yaml"])
```

## What becomes of a key

| word | meaning |
|---|---|
| mapped | It is an option of weitiao. A name alone is not enough: the value is translated as well. |
| differs | It is kept, but not quite the same here. The table says how. |
| ignored | It has no part in what is trained. The table says why. |
| refused | weitiao would train something else. |
| unknown | This version does not know the key. Nothing was done with it. |
| replaced | An option on the command line says it instead. |
| left out | You said `--without KEY`. |

**One rule for the exit code.** Every key must be mapped, differ, or be ignored. A refused or unknown key ends the command with
exit code 2, and nothing is written. So does an option that neither the file nor the tool's default decides. All of them are
named at once.

**Three ways on.**

- Give weitiao's own option behind the command, such as `data.train=rows.jsonl`. It wins over the file. It also settles a
  refused key whose reason names it.
- Leave the key out with `--without KEY`. Inside a list its name is a path, such as `datasets[0].type`.
- Change the file.

**Defaults are written out.** Where the other tool's default differs from weitiao's, the YAML has the other tool's value. A
comment says so. A table below lists these values for a LoRA run of each tool.

**Chat templates.** weitiao renders rows with the template of the model's own tokenizer. The other tools bring templates under
names of their own. Most of them say the same, but not all do. `data.chat_template` takes another one.

**Held-out rows.** weitiao always holds out rows. A file without a validation set gets one held-out row, so that all others
are trained on. Raise `data.test_size` for figures that mean something. Training rows equal to a row of `data.eval` are left out
and counted.

**Hub data sets.** Their columns are not known before they are fetched. `weitiao data check NAME` shows how they are read.
weitiao takes them from Hugging Face, also where ms-swift takes them from ModelScope.

**Batch size.** The numbers are those of one process. Several processes multiply them, as in the other tools.

Names that a weitiao configuration itself understands are in [options.md](options.md).
"""
_FILES = {
    "llamafactory": "Data sets are looked up in `dataset_info.json`: in `dataset_dir`, from the folder of the command, from the "
    "file's folder, or from one of three folders above it. Columns and speakers of local files are compared with what "
    "weitiao would read. A command `llamafactory-cli train` in a script is read too.",
    "swift": "A script's command is `swift sft`. Its variables are filled in where the script sets them. Variables in front of "
    "the command are listed and ignored.",
    "trl": "The file is what `trl sft --config` reads, or a script with `trl sft`. Which tokens carry loss depends on the "
    "columns of the rows. Where they are not known, the command asks for `data.train_on_prompt`.",
    "axolotl": "Keys inside `datasets` and `special_tokens` have a line each.",
    "trainer": "The file is a Python script or a notebook of one run. It is read and never run. The arguments of `TrainingArguments` "
    "keep their names. Those of `LoraConfig`, `from_pretrained` of the model, `AutoTokenizer`, the tokenizer's call on a column, "
    "`load_dataset`, `train_test_split` and `Trainer` stand behind the name of the call. A name that is given one literal, outside "
    "branches and loops, stands for it. What the script computes is refused until an option says it. So is code that freezes "
    "parameters or chooses rows. What else is done to the model, the arguments, the tokenizer or the rows is `other code`, unless "
    "it is known to leave the run alone. What stands behind the training is not read, and neither is the code of other modules.",
}


def table(rules: Rules) -> str:
    """Keys with what becomes of them; those with the same answer in one row."""
    groups: dict[str, list[str]] = {}
    for name, rule in rules.items():
        groups.setdefault(rule.becomes, []).append(name)
    order = {"refused": 1, "ignored": 2}
    rows = sorted(
        groups.items(), key=lambda group: (order.get(group[0].partition(" ")[0].rstrip(",:"), 0), min(group[1]))
    )
    lines = [f"| {', '.join(f'`{name}`' for name in sorted(names))} | {_cell(becomes)} |" for becomes, names in rows]
    return "\n".join(["| key | what becomes of it |", "|---|---|", *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def defaults(tool: Tool) -> str:
    """What is written where the file of a LoRA run says nothing."""
    rest, top = Rest(), _SMALL.get(tool.name, {})
    tool.finish(top, {}, rest)
    lines = [f"| `{one.option}` | `{said(one.value)}` | {_cell(one.reason)} |" for one in rest.defaults]
    asked = [
        f"| `{one.option}` | asked for | {_cell(one.reason)} |"
        for one in rest.questions
        if "is named" not in one.reason
    ]
    return "\n".join(["| option | value | why |", "|---|---|---|", *lines, *asked])


def page() -> str:
    """docs/migrate.md."""
    parts = [_HEAD]
    for tool in TOOLS.values():
        parts.append(
            f"## {tool.title}\n\n{_FILES[tool.name]}\n\n{table(tool.rules)}\n\nWithout a key, for a LoRA run:\n\n{defaults(tool)}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
