"""The objects of a training script (model, arguments, trainer, tokenizer, rows), and what is done to them.

What is done must be known to leave the run alone. Everything else is named.
"""

import ast
import re
from collections.abc import Iterator, Sequence

from weitiao.converting.python_names import PARAMETER, READ, Names, code, last_name, root

TOKENIZES = ("encode_plus", "batch_encode_plus", "encode", "__call__")
MODEL = re.compile(
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
    "get_input_embeddings named_modules modules children peft_config numel size dim nelement element_size startswith endswith split "
    "join format items keys values get_memory_footprint named_children",
    "args": "output_dir to_dict to_json_string device",
    "trainer": "train evaluate predict save_model save_state save_metrics log_metrics log push_to_hub state args model create_model_card "
    "is_world_process_zero is_local_process_zero metrics",
    "tokenizer": "pad_token eos_token pad_token_id eos_token_id padding_side save_pretrained push_to_hub decode batch_decode model_max_length "
    "vocab_size convert_ids_to_tokens convert_tokens_to_ids tokenize pad unk_token word_ids __call__ encode encode_plus batch_encode_plus "
    "cls_token sep_token mask_token bos_token name_or_path apply_chat_template",
    "rows": "column_names features num_rows shape info describe set_format with_format remove_columns from_dict from_pandas from_list "
    "from_csv from_json items keys values unique value_counts columns dtypes save_to_disk push_to_hub to_csv train_test_split tolist "
    "to_list format names num_classes rename_column",
    "config": "to_dict r task_type",
}  # fmt: skip
_NAMED = {
    "select": "select", "filter": "filter", "shuffle": "shuffle", "sort": "sort", "rename_columns": "rename_columns",
    "cast_column": "cast_column", "class_encode_column": "class_encode_column", "take": "select",
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


_PASSES_ON = (
    "map", "shuffle", "sort", "rename_column", "rename_columns", "remove_columns", "set_format", "with_format", "cast_column",
    "class_encode_column", "select", "filter", "train_test_split", "take", "shard",
)  # fmt: skip


class Objects:
    """Which names are which objects, and what a node does to one."""

    def __init__(self, nodes: Sequence[ast.AST], names: Names) -> None:
        self.names = names
        self.kinds: dict[str, str] = {"tokenizer": "tokenizer"}  # also as a parameter and as an attribute of self
        self.parts: dict[str, str] = {}  # rows by name -> their part, where it is known
        self.functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
        self.returns: dict[str, str] = {}
        for node in nodes:
            if isinstance(node, ast.Call) and _MAKES.get(names.named(node.func)) == "trainer":
                self._given_to_trainer(node)
        for _ in range(4):  # a name of a name of a name
            for node in nodes:
                for target, value in _pairs(node):
                    self._learn(target, value)
            for name, function in self.functions.items():
                for inner in ast.walk(function):
                    if isinstance(inner, ast.Return) and inner.value is not None and (kind := self.kind(inner.value)):
                        self.returns.setdefault(name, kind)

    def _given_to_trainer(self, call: ast.Call) -> None:
        given = [*zip(("model", "args"), call.args, strict=False), *((k.arg, k.value) for k in call.keywords)]
        for name, value in given:
            if name in ("model", "args") and isinstance(value, ast.Name | ast.Attribute):
                self.kinds.setdefault(last_name(value), str(name))

    def _learn(self, target: ast.expr, value: ast.expr) -> None:
        if (kind := self.kind(value)) is None:
            return
        for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            if isinstance(one, ast.Name) or root(one) == "self":
                self.kinds.setdefault(last_name(one), kind)
                if kind == "rows" and isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
                    self.parts.setdefault(last_name(one), str(value.slice.value))

    def made_by(self, call: ast.Call) -> str | None:
        """The kind of object that a call makes anew."""
        name = self.names.named(call.func)
        if name in ("from_pretrained", "from_config") and isinstance(call.func, ast.Attribute):
            owner = self.names.named(call.func.value)
            return "tokenizer" if "Tokenizer" in owner else "model" if MODEL.fullmatch(owner) else None
        if name in ("from_dict", "from_pandas", "from_list", "from_csv", "from_json", "from_generator"):
            return "rows"
        if name == "compile" and root(call.func) != "torch":
            return None
        return _MAKES.get(name) or (self.returns.get(name) if isinstance(call.func, ast.Name) else None)

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
            found = self.kind(node.value)
            return found if found in ("rows", "model") else None
        if isinstance(node, ast.Attribute):
            if root(node) == "self":
                return self.kinds.get(node.attr)
            found = self.kind(node.value)
            return found if found in ("model", "args", "trainer") and node.attr != "config" else None
        return None

    def trains_on(self, node: ast.AST) -> bool:
        """Rows that are not the part for tests."""
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return node.slice.value == "train"
        return self.kind(node) == "rows" and self.parts.get(last_name(node), "train") == "train"

    def is_train_part(self, node: ast.AST, seen: frozenset[str] = frozenset()) -> bool:
        """The part `train` of what load_dataset gave, through calls that leave the choice of rows to keys of their own."""
        if isinstance(node, ast.Name):
            values = [value for value in self.names.bound.get(node.id, []) if value is not PARAMETER]
            known = [value for value in values if value is not None]
            through = seen | {node.id}
            is_known = bool(values) and len(known) == len(values)
            return node.id in seen or (is_known and all(self.is_train_part(value, through) for value in known))
        if isinstance(node, ast.Subscript):
            return (
                isinstance(node.slice, ast.Constant)
                and node.slice.value == "train"
                and self.is_train_part(node.value, seen)
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PASSES_ON:
            return self.is_train_part(node.func.value, seen)
        return isinstance(node, ast.Call) and self.names.named(node.func) == "load_dataset"

    def change(self, node: ast.AST) -> str | None:
        """The rule of a statement that changes an object in place; None where it changes none."""
        if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            return None
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
        for target in (one for t in targets for one in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])):
            if not isinstance(target, ast.Attribute | ast.Subscript):
                continue
            if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
                return "requires_grad"
            path, first = str(code(target)).partition(".")[2], root(target)
            patched = (
                isinstance(target, ast.Attribute)
                and first in (*self.names.imported, *READ)
                and not path.startswith("backends.")
            )
            if (self.kinds.get(first) or patched) and not _MAY_BE_SET.fullmatch(path):
                return self._new_rows(node, target) if self.kinds.get(first) == "rows" else "other code"
        return None

    def _new_rows(self, node: ast.AST, target: ast.expr) -> str | None:
        """rows["train"] = rows["train"].map(...) has keys of its own; anything else may be other rows."""
        made = node.value if isinstance(node, ast.Assign) else None
        while isinstance(made, ast.Call) and isinstance(made.func, ast.Attribute) and made.func.attr in _PASSES_ON:
            made = made.func.value
        return None if made is not None and code(made) == code(target) else "select"

    def call(self, call: ast.Call) -> str | None:
        """The rule of a call that does something to an object, or that decides a run in another way; None where it does not."""
        name, func = self.names.named(call.func), call.func
        owner = root(func) if isinstance(func, ast.Attribute) else ""
        if (found := _by_name(name, owner, func)) is not None:
            return found
        if name in ("setattr", "replace"):
            first = call.args[0] if call.args else func
            touched = self.kind(first) or root(first) in (*self.names.imported, *READ)
            text = str(code(call.args[1])) if len(call.args) > 1 else ""
            return "requires_grad" if "requires_grad" in text else "other code" if touched else None
        if isinstance(func, ast.Name) and self.kind(func) == "tokenizer":
            return None
        if isinstance(func, ast.Attribute) and (kind := self.kind(func.value) or self._of_config(func)) is not None:
            return self._method(kind, name, call)
        if name in _TAKES or self.made_by(call) is not None:
            return None
        given = [inner for one in (*call.args, *(k.value for k in call.keywords)) for inner in _members(one)]
        return "other code" if any(self.kind(one) in ("model", "args", "trainer", "rows") for one in given) else None

    def _of_config(self, func: ast.Attribute) -> str | None:
        """model.config.update(...): of the model too."""
        return self.kinds.get(root(func)) if root(func) != "self" else None

    def _method(self, kind: str, name: str, call: ast.Call) -> str | None:
        if kind == "rows":
            if name == "train_test_split" and isinstance(call.func, ast.Attribute):
                return None if self.trains_on(call.func.value) else "other code"
            if name == "map":
                return "map" if call.args and self._tokenizes(call.args[0]) else "filter"
            if name in _NAMED:
                return _NAMED[name]
        if kind == "model" and name == "to" and not _is_device_alone(call):
            return "other code"
        return None if name in _HARMLESS[kind].split() else "other code"

    def _tokenizes(self, mapped: ast.expr) -> bool:
        """Whether a function that is mapped over rows is the one that calls the tokenizer."""
        function: ast.AST | None = self.functions.get(mapped.id) if isinstance(mapped, ast.Name) else mapped
        if isinstance(mapped, ast.Attribute):  # self.cut
            function = self.functions.get(mapped.attr)
        if isinstance(mapped, ast.Call) and mapped.args:  # partial(cut, ...)
            return self._tokenizes(mapped.args[0])
        if function is None:
            return self.kind(mapped) == "tokenizer"
        calls = [inner for inner in ast.walk(function) if isinstance(inner, ast.Call)]
        return any("tokenizer" in (self.kind(one.func), self.kind(getattr(one.func, "value", one))) for one in calls)


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets and what they are given, one by one where both sides are listed; what a loop runs over is given to its target."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if (
                isinstance(target, ast.Tuple)
                and isinstance(node.value, ast.Tuple)
                and len(target.elts) == len(node.value.elts)
            ):
                yield from zip(target.elts, node.value.elts, strict=True)
            else:
                yield target, node.value
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter


def _members(node: ast.expr) -> Iterator[ast.expr]:
    """An argument, and those of a list that it is."""
    yield node
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        yield from node.elts
    elif isinstance(node, ast.Starred):
        yield node.value


def _by_name(name: str, owner: str, func: ast.expr) -> str | None:
    """The rule of a call that its name alone decides."""
    if _PEFT.fullmatch(name) or (name == "from_pretrained" and "Peft" in owner and "AutoPeft" not in owner):
        return "peft"
    if _FREEZES.fullmatch(name):
        return "requires_grad"
    if name in ("set_seed", "manual_seed", "seed_everything"):
        return "set_seed"
    runs = name in ("exec", "eval", "globals", "locals") and isinstance(func, ast.Name)
    trained = name in ("from_file", "train_new_from_iterator") and "Tokenizer" in code(func)
    bare = name == "from_config" or (name == "from_pretrained" and "AutoPeft" in owner)
    return "other code" if runs or trained or bare else None


def _is_device_alone(call: ast.Call) -> bool:
    """model.to(device), without a dtype."""
    plain = all(isinstance(one, ast.Constant) or last_name(one) == "device" for one in call.args)
    return plain and all(keyword.arg in ("device", "non_blocking") for keyword in call.keywords)
