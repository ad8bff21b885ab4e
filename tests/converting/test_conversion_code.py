"""Code of a script around its calls: what changes the run is named, and what leaves it alone is not."""

from pathlib import Path
from typing import Any

import pytest
from tests.converting.test_conversion_scripts import HELD_OUT, SCRIPT, fates, made

from weitiao.converting.convert import refusal


def before_training(code: str) -> str:
    return SCRIPT.replace("trainer = Trainer", f"{code}\ntrainer = Trainer")


# Code in front of Trainer that changes what trains; the key that names it; words that answer it.
CHANGES = [
    ("for p in model.bert.parameters():\n    p.requires_grad = False", "requires_grad", "method.top_k=0"),
    ("for p in model.bert.parameters():\n    setattr(p, 'requires_grad', False)", "requires_grad", "method.top_k=0"),
    ("a.requires_grad, b.requires_grad = False, False", "requires_grad", None),
    ("p.requires_grad &= False", "requires_grad", None),
    ("model.bert.requires_grad_(False)", "requires_grad", "method.top_k=0"),
    ("model.freeze_base_model()", "requires_grad", None),
    ("class Own(Trainer):\n    pass", "other Trainer", None),
    ("SFTTrainer(model=model)", "other Trainer", None),
    ("rows = rows.select(range(100))", "select", "data.train_size=100"),
    ("rows['train'] = Dataset.from_dict(rows['train'][:100])", "select", "data.train_size=100"),
    ("rows = rows.filter(lambda row: row)", "filter", "data.train=rows.jsonl"),
    ("more = load_dataset('owner/other')", "select", "data.train=rows.jsonl"),
    ("model = get_peft_model(model, IA3Config())", "peft", "method.type=ia3"),
    ("model = PeftModel.from_pretrained(model, 'me/adapter')", "peft", None),
    ("args.learning_rate = 1e-4", "other code", None),
    ("args.num_train_epochs += 2", "other code", None),
    ("setattr(args, 'fp16', True)", "other code", None),
    ("args = replace(args, fp16=True)", "other code", None),
    ("args.set_training(learning_rate=1e-3)", "other code", None),
    ("model.classifier = Sequential()", "other code", None),
    ("del model.bert.encoder.layer[6:]", "other code", None),
    ("model.bert.encoder.layer.pop()", "other code", None),
    ("model.config.hidden_dropout_prob = 0.3", "other code", None),
    ("model.half()", "other code", None),
    ("model.to(torch.bfloat16)", "other code", None),
    ("model.load_state_dict(torch.load('x'))", "other code", None),
    ("model = surgery(model)", "other code", None),
    ("tokenizer.add_tokens(['x'])", "other code", None),
    ("model.to(dtype=torch.bfloat16)", "other code", None),
    ("model.to('cuda', dtype=torch.bfloat16)", "other code", None),
    ("freeze(model.bert)", "requires_grad", None),
    ("nn.init.zeros_(model.classifier.weight)", "other code", None),
    ("for part in model.modules():\n    part.p = 0.0", "other code", None),
    ("for p in model.bert.parameters():\n    p.data.mul_(0)", "other code", None),
    ("encoder = model.bert.encoder\nencoder.layer = encoder.layer[:6]", "other code", None),
    ("layers = model.bert.encoder.layer\ndel layers[6:]", "other code", None),
    ("model, other = model, 3\nmodel.half()", "other code", None),
    ("setattr(Trainer, 'compute_loss', f)", "other code", None),
    ("import torch.nn.functional as F\nF.cross_entropy = f", "other code", None),
    ("from transformers import BertForSequenceClassification\nBertForSequenceClassification.forward = f", "other code", None),
    ("class Net(BertForSequenceClassification):\n    pass", "other code", None),
    ("from models import BertForSequenceClassification", "other code", None),
    ("model = get_peft_model(model, LoraConfig(target_modules=['query'], task_type='SEQ_CLS')) if LORA else model", "other code", None),
    ("def adapt():\n    return get_peft_model(model, LoraConfig(target_modules=['query'], task_type='SEQ_CLS'))", "other code", None),
    ("rows = rows.rename_column(original_column_name=name, new_column_name='label')", "other code", None),
    ("rows = rows.map(lambda row: {'label': 1 - row['label']})", "filter", "data.train=rows.jsonl"),
    ("rows['train'] = rows['validation'].map(cut)", "select", "data.train=rows.jsonl"),
    ("tokenizer.truncation_side = 'left'", "other code", None),
    ("class Net(nn.Module):\n    pass", "other code", None),
    ("exec('args.seed = 1')", "other code", None),
    ("from settings import *", "other code", None),
    ("from mine import TrainingArguments", "other code", None),
    ("config = LoraConfig(r=4, target_modules=['query'], task_type='SEQ_CLS')", "other code", None),
    ("model = get_peft_model(model, read_config())", "other code", None),
    ("if LORA:\n    model = get_peft_model(model, LoraConfig(target_modules=['query'], task_type='SEQ_CLS'))", "other code", None),
    ("model = get_peft_model(model, LoraConfig(r=rank, target_modules=['query'], task_type='SEQ_CLS'))", "LoraConfig.r", "method.r=4"),
    ("model = get_peft_model(model, LoraConfig(rank_pattern={'0': 4}, target_modules='all-linear'))", "LoraConfig.rank_pattern", None),
    ("model = get_peft_model(model, LoraConfig(inference_mode=True, target_modules='all-linear'))", "LoraConfig.inference_mode", None),
]  # fmt: skip


@pytest.mark.parametrize(("code", "key", "answer"), CHANGES, ids=[code for code, *_ in CHANGES])
def test_code_that_changes_what_trains_is_refused_by_its_name(
    tmp_path: Path, code: str, key: str, answer: str | None
) -> None:
    found = made(tmp_path, before_training(code), HELD_OUT)
    assert fates(found)[key] == "refused"
    assert key in str(refusal(found))  # type: ignore[arg-type]
    if answer is not None:
        assert fates(made(tmp_path, before_training(code), HELD_OUT, answer))[key] == "replaced"


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("callbacks=[Own()]", "Trainer.callbacks"), ("callbacks=[Own(), EarlyStoppingCallback(3)]", "Trainer.callbacks"),
        ("optimizers=(a, b)", "Trainer.optimizers"), ("compute_loss_func=f", "Trainer.compute_loss_func"),
        ("data_collator=DataCollatorForLanguageModeling(tokenizer)", "Trainer.data_collator"), ("data_collator=own", "Trainer.data_collator"),
        ("**more", "Trainer.**more"),
    ],
)  # fmt: skip
def test_other_arguments_of_trainer_are_refused(tmp_path: Path, given: str, key: str) -> None:
    text = SCRIPT.replace("Trainer(model, args, ", f"Trainer(model, args, {given}, ")
    assert fates(made(tmp_path, text, HELD_OUT))[key] in ("refused", "unknown")


@pytest.mark.parametrize(
    "code",
    [
        "print(model)\nmodel.print_trainable_parameters()", "model.config.use_cache = False", "tokenizer.pad_token = tokenizer.eos_token",
        "model.gradient_checkpointing_enable()", "model.to('cuda')", "print(tokenizer('a text'))", "rows.set_format('torch')",
        "rows['train'] = rows['train'].map(cut)", "for one in range(3):\n    print(one)", "os.environ['X'] = '1'",
        "print(" + " + ".join(['"a"'] * 400) + ")",
    ],
)  # fmt: skip
def test_code_that_leaves_the_run_alone_is_none_of_it(tmp_path: Path, code: str) -> None:
    plain, found = made(tmp_path, SCRIPT, HELD_OUT), made(tmp_path, before_training(code), HELD_OUT)
    assert found["config"] == plain["config"] is not None
    assert fates(found) == fates(plain)


def test_what_follows_the_training_changes_nothing(tmp_path: Path) -> None:
    after = "def look(text):\n    return tokenizer(text, return_tensors='pt')\nmodel = AutoModelForSequenceClassification.from_pretrained('./out')\nmodel.half()\nargs.seed = 3\n"
    assert made(tmp_path, SCRIPT + after, HELD_OUT)["config"] == made(tmp_path, SCRIPT, HELD_OUT)["config"]


@pytest.mark.parametrize(
    ("old", "new", "key", "fate"),
    [
        ("num_labels=2", "dtype=torch.bfloat16", "from_pretrained.dtype", "differs"),
        ("num_labels=2", "dtype='bfloat16'", "from_pretrained.dtype", "differs"),
        ('AutoTokenizer.from_pretrained("hfl/rbt3")', 'AutoTokenizer.from_pretrained("other/one")', "AutoTokenizer.name", "refused"),
        ('"out")', '"out", max_grad_norm=None)', "max_grad_norm", "mapped"),
        ('"out")', '"out", greater_is_better=True, load_best_model_at_end=True)', "greater_is_better", "refused"),
        ('"out")', '"out", eval_steps=0.1, eval_strategy="steps", load_best_model_at_end=True)', "eval_steps", "refused"),
        ('"out")', '"out", deepspeed=given)', "deepspeed", "refused"),
        ('"out")', '"out", deepspeed="none.json")', "deepspeed", "differs"),
        ('"out")', '"out", do_train=False)', "do_train", "refused"),
        ('"out")', '"out", data_seed=7)', "data_seed", "differs"),
        ('"owner/name")', '"owner/name", "train")', "load_dataset.name", "refused"),
        ('"owner/name")', '"csv", data_files="nowhere/rows.csv")', "load_dataset.data_files", "refused"),
        ('"owner/name")', '"owner/name", data_files="rows.csv")', "load_dataset.path", "refused"),
        ('rows["train"]', 'rows["unsupervised"]', "Trainer.train_dataset", "refused"),
        *(
            ('trainer = Trainer(model, args, train_dataset=rows["train"]', f"train = {chosen}\ntrainer = Trainer(model, args, train_dataset=train", "Trainer.train_dataset", "refused")
            for chosen in ("rows['test']", "Dataset.from_dict(rows['train'][:100])", "list(rows['train'])[:100]", "concatenate_datasets([rows['train'], rows['test']])")
        ),
        ('AutoTokenizer.from_pretrained("hfl/rbt3")', 'AutoTokenizer.from_pretrained("hfl/rbt3", add_prefix_space=True)', "AutoTokenizer.add_prefix_space", "refused"),
        ("trainer = Trainer(", "import setfit\ntrainer = setfit.Trainer(", "other code", "refused"),
        ("trainer.train()", "trainer.evaluate()", "other code", "refused"),
        ("trainer.train()", "trainer.train(resume_from_checkpoint=True)", "other code", "refused"),
        ("from_pretrained(", "from_config(", "other code", "refused"),
    ],
)  # fmt: skip
def test_values_that_change_what_trains(tmp_path: Path, old: str, new: str, key: str, fate: str) -> None:
    assert old in SCRIPT
    assert fates(made(tmp_path, SCRIPT.replace(old, new), HELD_OUT))[key] == fate


@pytest.mark.parametrize(
    ("old", "new", "option", "value"),
    [
        ('"out")', '"out", eval_strategy="steps", logging_steps=50)', "train.eval_steps", 50),
        ('"out")', '"out", eval_strategy=IntervalStrategy.STEPS, eval_steps=20)', "train.eval_steps", 20),
        ("batched=True)", "batched=True)['train'].train_test_split()", "data.test_size", 0.25),
        ("batched=True)", "batched=True).rename_column('review', 'text')", "data.text", "review"),
        ("batched=True)", "batched=True).rename_column('stars', 'label')", "data.label", "stars"),
        ("batched=True)", "batched=True).rename_column('a', 'b').rename_column('b', 'label')", "data.label", "a"),
        ("batched=True)", "batched=True).rename_column(original_column_name='a', new_column_name='label')", "data.label", "a"),
        ("Trainer(model, args, ", "Trainer(model, args, callbacks=[EarlyStoppingCallback(7)], ", "train.early_stopping_patience", 7),
        ('rows["text"]', 'list(rows["text"])', "data.text", "text"),
        ('"out")', '**{"output_dir": "out", "seed": 5})', "train.seed", 5),
    ],
)  # fmt: skip
def test_values_that_are_read(tmp_path: Path, old: str, new: str, option: str, value: Any) -> None:
    words = [] if option == "data.test_size" else [HELD_OUT]
    evaluates = ["train.eval_strategy=epoch"] if "early" in option else []
    config = made(tmp_path, SCRIPT.replace(old, new), *words, *evaluates)["config"]
    section, _, name = option.partition(".")
    assert config[section][name] == value


def test_rows_for_evaluation_are_asked_for(tmp_path: Path) -> None:
    assert [one["option"] for one in made(tmp_path, SCRIPT)["questions"]] == ["data.test_size"]
