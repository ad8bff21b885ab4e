"""The objects of a training script (model, arguments, trainer, tokenizer, rows), and what is done to them.

What is done must be known to leave the run alone. Everything else is named.
"""

import ast
import re
from collections.abc import Sequence

from weitiao.converting.python_names import Names, code, last_name, root

TOKENIZES = ("encode_plus", "batch_encode_plus", "encode", "__call__")
_MODEL = re.compile(
    r"Auto(?:Peft)?Model(?:For\w+)?|[A-Z]\w*(?:For(?:Sequence|Token)Classification|ForCausalLM|LMHeadModel|For[A-Z]\w+|Model)"
)
_MAKES = {
    "TrainingArguments": "args", "Seq2SeqTrainingArguments": "args", "Trainer": "trainer", "Seq2SeqTrainer": "trainer",
    "LoraConfig": "config", "load_dataset": "rows", "load_from_disk": "rows", "concatenate_datasets": "rows", "read_csv": "rows",
    "read_json": "rows", "read_excel": "rows", "read_parquet": "rows", "read_table": "rows", "DataFrame": "rows", "Dataset": "rows",
    "DatasetDict": "rows", "get_peft_model": "model", "prepare_model_for_kbit_training": "model", "compile": "model",
}  # fmt: skip
# Methods and attributes that leave a run as it is, by kind; those with a rule of their own are in _NAMED.
_HARMLESS = {
    "model": "print_trainable_parameters get_nb_trainable_parameters num_parameters parameters named_parameters state_dict save_pretrained "
    "push_to_hub eval train config gradient_checkpointing_enable enable_input_require_grads to cuda cpu base_model device "
    "get_input_embeddings named_modules modules children peft_config",
    "args": "output_dir to_dict to_json_string device",
    "trainer": "train evaluate predict save_model save_state save_metrics log_metrics log push_to_hub state args model create_model_card "
    "is_world_process_zero is_local_process_zero metrics",
    "tokenizer": "pad_token eos_token pad_token_id eos_token_id padding_side save_pretrained push_to_hub decode batch_decode model_max_length "
    "vocab_size convert_ids_to_tokens convert_tokens_to_ids tokenize pad unk_token word_ids __call__ encode encode_plus batch_encode_plus "
    "cls_token sep_token mask_token bos_token name_or_path apply_chat_template",
    "rows": "column_names features num_rows shape head info describe set_format with_format remove_columns from_dict from_pandas from_list "
    "from_csv from_json items keys values unique value_counts columns dtypes save_to_disk push_to_hub to_csv train_test_split tolist "
    "to_list format names num_classes",
    "config": "to_dict r task_type",
}  # fmt: skip
_NAMED = {
    "select": "select", "filter": "filter", "map": "map", "shuffle": "shuffle", "sort": "sort", "rename_columns": "rename_columns",
    "cast_column": "cast_column", "class_encode_column": "class_encode_column", "rename_column": "rename_column", "take": "select",
    "shard": "select", "sample": "select", "head": "select", "dropna": "filter", "drop_duplicates": "filter",
}  # fmt: skip
# Functions that objects may be given to.
_TAKES = (
    "get_peft_model", "prepare_model_for_kbit_training", "Trainer", "Seq2SeqTrainer", "print", "len", "type", "str", "repr", "isinstance", "pipeline",
    "DataCollatorWithPadding", "DataCollatorForTokenClassification", "default_data_collator", "sum", "list", "dict", "set", "enumerate",
    "display", "pprint", "from_pandas", "DatasetDict", "range", "sorted", "iter", "next", "hasattr", "partial", "info", "zip", "any", "all", "map",
)  # fmt: skip
_MAY_BE_SET = re.compile(
    r"(model\.)?config\.(use_cache|pad_token_id|label2id|id2label|name_or_path)|pad_token(_id)?|padding_side"
)
_PEFT = re.compile(
    r"(AdaLora|IA3|PrefixTuning|PromptTuning|PromptEncoder|MultitaskPromptTuning|Vera|LoHa|LoKr|OFT|BOFT|LNTuning|FourierFT|XLora|Miss|Bone|Poly|"
    r"CPT|TrainableTokens|HRA|Shira|RandLora|C3A|Road)Config|get_peft_config|PeftConfig"
)
_FREEZES = re.compile(r"requires_grad_?|\w*freeze\w*")


class Objects:
    """Which names are which objects, and what a node does to one."""

    def __init__(self, nodes: Sequence[ast.AST], names: Names) -> None:
        self.names = names
        self.kinds: dict[str, str] = {"tokenizer": "tokenizer"}  # also as a parameter and as an attribute of self
        self.parts: dict[str, str] = {}  # rows by name -> their part, where it is known
        assigned = [node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None]
        for _ in range(4):  # a name of a name of a name
            for node in assigned:
                self._learn(node)

    def _learn(self, node: ast.Assign | ast.AnnAssign) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is None or (kind := self.kind(node.value)) is None:
            return
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                if name := last_name(one):
                    self.kinds.setdefault(name, kind)
                    if (
                        kind == "rows"
                        and isinstance(node.value, ast.Subscript)
                        and isinstance(node.value.slice, ast.Constant)
                    ):
                        self.parts.setdefault(name, str(node.value.slice.value))

    def made_by(self, call: ast.Call) -> str | None:
        """The kind of object that a call makes anew."""
        name = self.names.named(call.func)
        if name in ("from_pretrained", "from_config") and isinstance(call.func, ast.Attribute):
            owner = self.names.named(call.func.value)
            return "tokenizer" if "Tokenizer" in owner else "model" if _MODEL.fullmatch(owner) else None
        if name in ("from_dict", "from_pandas", "from_list", "from_csv", "from_json", "from_generator"):
            return "rows"
        return _MAKES.get(name)

    def kind(self, node: ast.AST) -> str | None:
        """Of an expression: a name, one of its parts, or what a call makes or gives back."""
        if isinstance(node, ast.Name):
            return self.kinds.get(node.id)
        if isinstance(node, ast.Call):
            if (made := self.made_by(node)) is not None:
                return made
            if isinstance(node.func, ast.Attribute):
                return self.kind(node.func.value)
            given = [self.kind(one) for one in node.args]  # f(model) may give the model back
            return given[0] if given and self.names.named(node.func) not in _TAKES else None
        if isinstance(node, ast.Subscript):
            return "rows" if self.kind(node.value) == "rows" else None
        if isinstance(node, ast.Attribute):
            return self.kinds.get(node.attr) if root(node) == "self" else None
        return None

    def trains_on(self, node: ast.AST) -> bool:
        """Rows that are not the part for tests."""
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return node.slice.value == "train"
        return self.kind(node) == "rows" and self.parts.get(last_name(node), "train") == "train"

    def change(self, node: ast.AST) -> str | None:
        """The rule of a statement that changes an object in place; None where it changes none."""
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            for target in (one for t in targets for one in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])):
                if not isinstance(target, ast.Attribute | ast.Subscript):
                    continue
                if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
                    return "requires_grad"
                path = ast.unparse(target).partition(".")[2]
                first = root(target)
                if (self.kinds.get(first) or self._is_class(first)) and not _MAY_BE_SET.fullmatch(path):
                    return self._new_rows(node) if self.kinds.get(first) == "rows" else "other code"
        return None

    def _new_rows(self, node: ast.AST) -> str:
        """rows["train"] = rows["train"].map(...) maps; anything else may be other rows."""
        made = node.value if isinstance(node, ast.Assign) else None
        mapped = (
            isinstance(made, ast.Call)
            and isinstance(made.func, ast.Attribute)
            and made.func.attr in ("map", "shuffle", "remove_columns")
        )
        return "map" if mapped else "select"

    def _is_class(self, name: str) -> bool:
        return name in ("Trainer", "TrainingArguments", "torch", "transformers") and name not in self.kinds

    def call(self, call: ast.Call) -> str | None:
        """The rule of a call that does something to an object, or that decides a run in another way; None where it does not."""
        name, func = self.names.named(call.func), call.func
        if _PEFT.fullmatch(name) or (
            name == "from_pretrained" and "Peft" in root(func) and "AutoPeft" not in root(func)
        ):
            return "peft"
        if _FREEZES.fullmatch(name) and isinstance(func, ast.Attribute):
            return "requires_grad"
        if name == "setattr" or name == "replace":
            objects = [self.kind(one) or self.kinds.get(root(one)) for one in call.args[:1]]
            text = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
            return "requires_grad" if "requires_grad" in text else "other code" if any(objects) else None
        if name in ("set_seed", "manual_seed", "seed_everything"):
            return "set_seed"
        if name in ("exec", "eval", "globals", "locals") and isinstance(func, ast.Name):
            return "other code"
        if name in ("from_file", "train_new_from_iterator") and "Tokenizer" in code(func):
            return "other code"
        if name == "from_config" or (name == "from_pretrained" and "AutoPeft" in root(func)):
            return "other code"
        if isinstance(func, ast.Name) and self.kind(func) == "tokenizer":
            return None
        if isinstance(func, ast.Attribute) and (kind := self._of(func)) is not None:
            return self._method(kind, name, call)
        given = [self.kind(one) for one in (*call.args, *(k.value for k in call.keywords))]
        touched = [kind for kind in given if kind in ("model", "args", "trainer", "rows")]
        if (
            not touched
            or name in _TAKES
            or self.made_by(call) is not None
            or (name in ("train_test_split",) and "rows" not in touched)
        ):
            return None
        return "other code"

    def _of(self, func: ast.Attribute) -> str | None:
        """The kind of the object that a method belongs to, also through its parts: model.bert.encoder.layer.pop."""
        return self.kind(func.value) or self.kinds.get(root(func)) if root(func) != "self" else self.kind(func.value)

    def _method(self, kind: str, name: str, call: ast.Call) -> str | None:
        if kind == "rows":
            if name == "train_test_split" and isinstance(call.func, ast.Attribute):
                return None if self.trains_on(call.func.value) else "other code"
            if name in _NAMED and name != "rename_column":
                return _NAMED[name] if name != "head" else None
        if (
            kind == "model"
            and name == "to"
            and not all(isinstance(one, ast.Constant) or last_name(one) == "device" for one in call.args)
        ):
            return "other code"
        return None if name in _HARMLESS[kind].split() or name == "rename_column" else "other code"
