"""Shared material: a tiny random model where only speed matters, the catalogue's real ones for everything else."""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, settings

from support.fork_server import ForkServer, Process
from support.schema import faults

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("WEITIAO_ALLOCATOR", "system")  # the same on every machine; see test_allocator.py

_BEGAN = time.monotonic()


@dataclass
class Tally:
    """What a fault test counts: how often it tried, how often the run came through, what was lost."""

    tried: int = 0
    survived: int = 0
    lost: str = "nothing"


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """For tests that try a fault more than once; others count as one try."""
    counted = Tally()
    record_property("tally", counted)
    return counted


@pytest.fixture(autouse=True)
def files_follow_their_schemas(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test leaves in its folder is what docs/schemas/ says, unless the test wrote it by hand."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    if folder is None or request.node.get_closest_marker("hand_written"):
        return
    for name in ("summary.json", "plan.json", "comparison.json"):
        for path in folder.rglob(name):
            assert not (wrong := faults(path)), "\n".join(wrong)


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """One for all processes of pytest-xdist."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts real `weitiao` processes without the imports' seconds."""
    server = ForkServer(shared_folder(tmp_path_factory) / "fork-server")
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole_fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """The same for processes that train together."""
    server = ForkServer(shared_folder(tmp_path_factory) / "whole-fork-server", whole=True)
    yield server
    server.close()


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """What earlier modules have imported and made is not walked again by every run's garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cells_are_forked(fork_server: ForkServer) -> Iterator[None]:
    """The cells of a comparison are still processes of their own, but need not import torch each."""
    from weitiao.comparison import cells

    def start(words: Sequence[str], log: IO[str]) -> Process:
        return fork_server.start(*words, stderr=log, env={"COLUMNS": "160"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "start", start)
        yield


# Whatever these give, a test of it trains.
# Data is drawn slowly where other tests use the cores.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TRAINING = {"served_runs", "writer_runs", "tiny_model", "tiny_chat_model", "e5", "smollm", "whole_fork_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TRAINING & set(getattr(item, "fixturenames", ())):
            item.add_marker("beyond_check")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[object]:
    report = yield
    # plain values, since reports travel between the processes of pytest-xdist
    report.user_properties = [(k, asdict(v) if isinstance(v, Tally) else v) for k, v in report.user_properties]  # type: ignore[attr-defined]
    if marker := item.get_closest_marker("fault"):
        report.fault = marker.args[0]  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """The table of faults: counted from what ran, nothing else. FAULTS_TO names a file that keeps it."""
    rows: dict[str, Tally] = {}
    skipped: dict[str, int] = {}
    for report in (r for kind in ("passed", "failed", "skipped") for r in terminalreporter.stats.get(kind, [])):
        if not hasattr(report, "fault"):
            continue
        row = rows.setdefault(report.fault, Tally())
        if report.skipped:
            skipped[report.fault] = skipped.get(report.fault, 0) + 1
            continue
        counted = dict(report.user_properties).get("tally")
        one = Tally(**counted) if counted else Tally(1, int(report.passed))
        row.tried, row.survived = row.tried + one.tried, row.survived + one.survived
        if report.failed:
            row.lost = "see the failure"
        elif one.lost != "nothing" and row.lost == "nothing":
            row.lost = one.lost
    if rows and (kept := os.environ.get("FAULTS_TO")):
        seconds = round(time.monotonic() - _BEGAN)
        found = [{"fault": name, **asdict(row), "not_possible": skipped.get(name, 0)} for name, row in rows.items()]
        Path(kept).write_text(json.dumps({"seconds": seconds, "faults": found}, indent=2) + "\n", encoding="utf-8")
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line("| fault | tried | survived | anything lost |\n|---|---|---|---|")
        for name, row in rows.items():
            note = f" ({skipped[name]} not possible here)" if name in skipped else ""
            terminalreporter.write_line(f"| {name} | {row.tried} | {row.survived} | {row.lost}{note} |")


GOOD = ["很好看的书", "质量很好", "非常喜欢", "孩子喜欢看", "物流很快很好", "酒店很好很干净", "很值得买", "服务好"]
BAD = ["太差了", "质量很差", "不喜欢", "孩子不看", "物流太慢", "酒店又脏又差", "千万别买", "服务差劲"]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 short labelled texts, all distinct."""
    tails = ["", "啊", "真的", "推荐", "两次了", "价格便宜", "下次再来看看吧"]
    rows = [
        {"text": text + tail, "label": label}
        for tail in tails[:4]
        for texts, label in ((GOOD, "good"), (BAD, "bad"))
        for text in texts
    ]
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer BERT without pooler or classifier, with a tokenizer of single characters."""
    import peft  # noqa: F401
    import torch
    import transformers.modeling_utils  # noqa: F401

    gc.collect()
    gc.freeze()  # as a command does: a run walks the heap three times otherwise, and takes three times as long
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    characters = sorted(set("".join(GOOD + BAD) + "啊真的推荐两次了价格便宜下再来看吧"))
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary) + 20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def options(tiny_model: Path, rows_file: Path, tmp_path: Path) -> dict[str, object]:
    """A small, quick fp32 run on the tiny model; change what a test is about."""
    return {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16},
        "method": {"type": "full"},
        "train": {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 96, "logging_steps": 1},
        "output": {"dir": str(tmp_path / "run")},
    }


@pytest.fixture(scope="session")
def e5() -> Path:
    """The real multilingual-e5-small of the catalogue."""
    from weitiao.catalogue import fetch

    return fetch("multilingual-e5-small")


@pytest.fixture(scope="session")
def smollm() -> Path:
    """The real SmolLM2-135M-Instruct of the catalogue."""
    from weitiao.catalogue import fetch

    return fetch("SmolLM2-135M-Instruct")


def tiny_llama(folder: Path, tie: bool = True, vocab_size: int = 49152) -> Path:
    """A random llama with grouped heads and SmolLM2's vocabulary, for what does not depend on what it knows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tie, max_position_embeddings=2048, pad_token_id=2,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


CHATS: list[dict[str, object]] = []
for number, text in enumerate([*GOOD, *BAD, *(good + bad for good, bad in zip(GOOD, BAD, strict=True))]):
    turns = [("user", f"{text}？"), ("assistant", f"是，{text[::-1]}。")]
    turns += [("user", f"再说一次{number}"), ("assistant", text)] if number % 4 == 0 else []
    CHATS.append({"messages": [{"role": role, "content": content} for role, content in turns]})


@pytest.fixture(scope="session")
def tiny_chat_model(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with SmolLM2's chat template, and of its tokenizer the first 2,048 tokens and those of CHATS.

    CHATS have the same tokens as with all 49,152, which would take most of a tiny run's time.
    """
    import shutil

    from support.llm import cut_tokenizer, written

    folder = tmp_path_factory.mktemp("tiny-chat") / "model"
    cut = cut_tokenizer(smollm / "tokenizer.json", 2048, written(smollm, CHATS))
    tiny_llama(folder, vocab_size=len(cut["model"]["vocab"]))
    (folder / "tokenizer.json").write_text(json.dumps(cut, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def chats_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 short questions with answers, one in four with two turns."""
    return write_jsonl(tmp_path_factory.mktemp("chats") / "chats.jsonl", CHATS)


@pytest.fixture
def chat_options(tiny_chat_model: Path, chats_file: Path, tmp_path: Path) -> dict[str, object]:
    """A small, quick fp32 run of causal_lm on the tiny llama; change what a test is about."""
    return {
        "model": str(tiny_chat_model),
        "task": "causal_lm",
        "data": {"train": str(chats_file), "test_size": 8, "near_duplicates": "off"},
        "method": {"type": "full"},
        "train": {
            "bf16": False, "num_train_epochs": 2, "tokens_per_batch": 256, "logging_steps": 1, "learning_rate": 3e-3,
            "generate_rows": 2, "max_new_tokens": 6, "eval_tokens_per_batch": 256,
        },
        "output": {"dir": str(tmp_path / "run")},
    }  # fmt: skip


@pytest.fixture(scope="session")
def tagged_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 short sentences with persons and places, out of the tiny model's characters."""
    rows: list[dict[str, object]] = []
    for start in ("很好", "下次再来", "推荐"):
        for who in ("孩子", "服务"):
            for where in ("酒店", "质量差"):
                for middle, end in (
                    ("喜欢", "啊"),
                    ("不看", ""),
                    ("看看", "了"),
                    ("不买", "吧"),
                    ("别看", "真的"),
                    ("喜欢看", "值得"),
                ):
                    parts = [(start, ""), (who, "PER"), (middle, ""), (where, "LOC"), (end, "")]
                    tags = [
                        f"{'I' if i else 'B'}-{kind}" if kind else "O" for text, kind in parts for i in range(len(text))
                    ]
                    rows.append({"tokens": list("".join(text for text, _ in parts)), "tags": tags})
    return write_jsonl(tmp_path_factory.mktemp("tagged") / "tagged.jsonl", rows)


@pytest.fixture
def tag_options(tiny_model: Path, tagged_file: Path, tmp_path: Path) -> dict[str, object]:
    """A small, quick fp32 run on the tiny model; change what a test is about."""
    return {
        "model": str(tiny_model),
        "task": "token_classification",
        "data": {"train": str(tagged_file), "test_size": 24, "near_duplicates": "off"},
        "method": {"type": "full"},
        "train": {
            "bf16": False, "num_train_epochs": 2, "tokens_per_batch": 128, "logging_steps": 1, "learning_rate": 1e-2,
        },
        "output": {"dir": str(tmp_path / "run")},
    }  # fmt: skip


@pytest.fixture
def config_alone(tmp_path: Path) -> Path:
    """A folder with the config.json of a small llama, and nothing else."""
    from support.config_alone import write_config

    return write_config(tmp_path / "llama")


@pytest.fixture(scope="session")
def served_runs(
    tiny_model: Path, rows_file: Path, tagged_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    """Finished runs of every task that labels texts, by name (support/served.py), trained once for all processes."""
    import fcntl

    from support.served import runs_of_many_tasks
    from weitiao.rundir.folder import RunDir

    folder = shared_folder(tmp_path_factory) / "served"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            runs_of_many_tasks(folder, tiny_model, rows_file, tagged_file)
            (folder / "made").touch()
    return {path.name: RunDir(path) for path in sorted((folder / "runs").iterdir())}


@pytest.fixture(scope="session")
def writer_runs(tiny_chat_model: Path, chats_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Finished runs that write texts, by method (support/served.py), trained once for all processes."""
    import fcntl

    from support.served import writers
    from weitiao.rundir.folder import RunDir

    folder = shared_folder(tmp_path_factory) / "writers"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            writers(folder, tiny_chat_model, chats_file)
            (folder / "made").touch()
    return {path.name: RunDir(path) for path in sorted((folder / "runs").iterdir())}
