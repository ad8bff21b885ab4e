"""Cases of cases.py that train."""

import json
import shutil
import signal
import time
from pathlib import Path

from case_tools import CHAT, MODEL, Run, rows, train, trained


def stopped(folder: Path, run: Run, *words: str) -> Path:
    """A run that a signal stopped after some checkpoints."""
    file, out = rows(folder, "train.jsonl", 60, lambda i, r: r), folder / "run"
    options = (
        "train.num_train_epochs=400",
        "train.save_steps=5",
        "train.save_total_limit=1",
        "train.load_best_model_at_end=true",
    )
    process = run(
        "train",
        f"model={MODEL}",
        f"data.train={file}",
        "method.type=lora",
        "data.near_duplicates=off",
        f"output.dir={out}",
        *options,
        *words,
        background=True,
    )
    while process.poll() is None and not any(int(p.name[5:]) >= 15 for p in (out / "checkpoints").glob("step-*")):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return out


def epochs_changed(folder: Path, run: Run) -> bool:
    out = stopped(folder, run)
    config = out / "config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("num_train_epochs: 400", "num_train_epochs: 30"), encoding="utf-8"
    )
    done = run("train", "--resume", str(out))
    return done.code == 2 and "num_train_epochs" in done.text


def keeps_best(folder: Path, run: Run) -> bool:
    names = [p.name for p in (stopped(folder, run) / "checkpoints").iterdir()]
    return any(n.startswith("step-") for n in names) and any(n.startswith("best-step-") for n in names)


def best_gone(folder: Path, run: Run) -> bool:
    out = stopped(folder, run, "train.max_steps=40")
    for path in (out / "checkpoints").glob("best*"):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    done = run("train", "--resume", str(out))
    return done.code == 0 and "weights are lost" in done.text and (out / "model").is_dir()


def newest_broken(folder: Path, run: Run) -> bool:
    out = stopped(folder, run)
    for path in (out / "checkpoints").glob("step-*"):
        (path / "optimizer.safetensors").unlink()
    process = run("train", "--resume", str(out), background=True)
    while process.poll() is None and not any((out / "checkpoints" / f"step-{n}").is_dir() for n in (5, 10)):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    return "starts from step 0" in said and (out / "checkpoints" / "last").resolve().is_dir()


def pad_ids(folder: Path, run: Run) -> bool:
    where = Path(run("models", "get", CHAT).text.strip().splitlines()[-1])
    shutil.copytree(where, folder / "llama")
    config = json.loads((folder / "llama" / "config.json").read_text())
    (folder / "llama" / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    (folder / "r.csv").write_text(
        "text,label\n"
        + "".join(f"{'fine' if i % 2 else 'bad'} film number {i},{'pos' if i % 2 else 'neg'}\n" for i in range(20))
    )
    run(
        "train",
        f"model={folder / 'llama'}",
        f"data.train={folder / 'r.csv'}",
        "method.type=lora",
        "method.target_modules=[q_proj,v_proj]",
        "train.max_steps=2",
        "data.near_duplicates=off",
        f"output.dir={folder / 'run'}",
    )
    long = "The bread was awful and the hotel was bad and I will never go there again"
    alone = run("predict", str(folder / "run"), "--text", "fine film").report
    mixed = json.loads(run("predict", str(folder / "run"), "--text", "fine film", "--text", long).text.splitlines()[-2])
    return abs(alone["score"] - mixed["score"]) < 1e-3 and alone["label"] == mixed["label"]


def long(folder: Path, run: Run) -> bool:
    file = rows(folder, "r.jsonl", 40, lambda i, r: {**r, "text": r["text"] * 40})
    done = train(run, file, folder / "run", "data.max_length=2000", "train.max_steps=1")
    return done.code == 0 and "512" in done.text


def predict_rows(folder: Path, run: Run) -> bool:
    out = trained(folder, run)
    (folder / "p.csv").write_text(f'text\n好\n""\n{"长" * 3000}\n', encoding="utf-8")
    done = run("predict", str(out), "--input", str(folder / "p.csv"))
    kept = run("predict", str(out), "--input", str(folder / "p.csv"), "--bad-rows", "skip")
    return done.code == 2 and "is empty" in done.text and kept.code == 0 and "tokens_cut" in kept.text


def other_labels(folder: Path, run: Run) -> bool:
    two = rows(folder, "two.jsonl", 40, lambda i, r: r)
    three = rows(folder, "three.jsonl", 60, lambda i, r: {**r, "label": "abc"[i % 3]})
    run(
        "train",
        f"model={MODEL}",
        f"data.train={two}",
        "method.type=full",
        "train.max_steps=1",
        "data.near_duplicates=off",
        f"output.dir={folder / 'a'}",
    )
    done = run(
        "train",
        f"model={folder / 'a' / 'model'}",
        f"data.train={three}",
        "method.type=lora",
        "train.max_steps=1",
        "data.near_duplicates=off",
        f"output.dir={folder / 'b'}",
    )
    return done.code == 0


def adapters(folder: Path, run: Run) -> bool:
    file = rows(folder, "r.jsonl", 40, lambda i, r: r)
    for name, rank in (("a", 8), ("b", 4)):
        train(run, file, folder / name, f"method.r={rank}", "train.max_steps=1")
    done = run(
        "adapters",
        "combine",
        str(folder / "a"),
        str(folder / "b"),
        "--weights",
        "0.5,0.5",
        "--output",
        str(folder / "both"),
    )
    return done.code == 0


def absent_class(folder: Path, run: Run) -> bool:
    out = trained(folder, run)
    one = rows(folder, "one.jsonl", 10, lambda i, r: {**r, "label": "正面"})
    other = rows(folder, "other.jsonl", 10, lambda i, r: {**r, "label": "别的"})
    return run("eval", str(out), "--data", str(one)).code == 0 and run("eval", str(out), "--data", str(other)).code == 2
