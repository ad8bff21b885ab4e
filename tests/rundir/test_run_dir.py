"""The run folder: its exact files, what they hold, and that a run never overwrites another."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.run_files import ALWAYS, MODEL, files
from weitiao.config.run import RunConfig
from weitiao.data.hashes import same_data
from weitiao.errors import DataError, RunError, Stopped
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir

SUMMARY = {
    "method", "task", "base_model", "num_params", "num_trainable_params", "trainable_percent", "train_seconds", "steps",
    "epochs", "samples_per_s", "tokens_per_s", "peak_memory_bytes", "artifact_bytes", "metrics", "plan_error", "seed",
}  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
def test_exact_file_set(method: str, options: dict[str, Any]) -> None:
    run = weitiao.train({**options, "method": {"type": method}})
    assert files(run.path) == ALWAYS | MODEL[method]
    assert set(run.summary) >= SUMMARY
    assert run.config.method.type == method
    summary = run.summary
    assert summary["artifact_bytes"] == sum((run.path / f).stat().st_size for f in MODEL[method])
    assert 0 < summary["num_trainable_params"] <= summary["num_params"]
    events = list(run.events())
    assert [e["event"] for e in events][:1] == ["stage"]
    assert [e["event"] for e in events][-1] == "done"
    logs = [e for e in events if e["event"] == "log"]
    assert [e["step"] for e in logs] == list(range(1, summary["steps"] + 1))
    assert set(logs[0]) >= {"loss", "grad_norm", "learning_rate", "epoch", "tokens_per_s", "peak_memory_bytes", "eta_s"}
    predictions = list(read_jsonl(run.path / "predictions.jsonl"))
    assert [row["id"] for row in predictions] == run.read_json("split.json")["eval"]
    right = sum(row["gold"] == row["predicted"] for row in predictions)
    assert right / len(predictions) == pytest.approx(summary["metrics"]["accuracy"])
    environment = run.read_json("environment.json")
    assert [len(value) for value in environment["data_sha256"]["train"].values()] == [64]
    assert set(environment["resolved"]) == {"device", "dtype", "attention", "max_length"}


def test_checkpoints_and_best(options: dict[str, Any]) -> None:
    train = {**options["train"], "save_steps": 2, "save_total_limit": 2, "load_best_model_at_end": True}
    run = weitiao.train({**options, "train": train})
    steps = sorted(p.name for p in run.checkpoints.iterdir())
    last = run.summary["steps"] // 2 * 2
    best = f"best-step-{run.summary['kept_step']}"
    assert steps == sorted(["best", best, "last", f"step-{last - 2}", f"step-{last}"])
    links = {name: str((run.checkpoints / name).readlink()) for name in ("best", "last")}
    assert links == {"best": best, "last": f"step-{last}"}
    assert run.summary["selected_on_eval"] is True
    assert "chose the step" in (run.path / "README.md").read_text(encoding="utf-8")


def test_best_model_is_the_one_kept(options: dict[str, Any]) -> None:
    """With a rate that ruins the model in the end, the kept step is an earlier one and its metrics are reported."""
    train = {**options["train"], "learning_rate": 0.05, "num_train_epochs": 4, "load_best_model_at_end": True}
    train |= {"lr_scheduler_type": "constant", "metric_for_best_model": "log_loss", "max_grad_norm": None}
    run = weitiao.train({**options, "train": train})
    evaluations = [e for e in run.events() if e["event"] == "eval"]
    best = min(evaluations[:-1], key=lambda e: e["log_loss"])
    assert run.summary["kept_step"] == best["step"]
    assert run.summary["metrics"]["log_loss"] == pytest.approx(best["log_loss"], abs=1e-4)


def test_early_stopping(options: dict[str, Any]) -> None:
    train = {**options["train"], "num_train_epochs": 50, "learning_rate": 1e-6, "early_stopping_patience": 2}
    run = weitiao.train({**options, "train": train})
    assert run.summary["epochs"] < 10


def test_a_run_never_overwrites(options: dict[str, Any]) -> None:
    run = weitiao.train(options)
    before = run.path.joinpath("summary.json").read_bytes()
    with pytest.raises(RunError, match="already exists"):
        weitiao.train(options)
    assert run.path.joinpath("summary.json").read_bytes() == before
    assert weitiao.train(resume=run.path).path == run.path  # finished: returned as it is
    assert run.path.joinpath("summary.json").read_bytes() == before


def test_unfinished_and_foreign_folders_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    run = RunDir.create(weitiao.RunConfig.model_validate({**options, "output": {"dir": str(tmp_path / "new")}}))
    with pytest.raises(RunError, match="has not finished"):
        weitiao.predict(run.path, text="好")
    assert weitiao.train(resume=run.path).is_done  # no checkpoint yet: it starts at step 1
    with pytest.raises(RunError, match="not a run folder"):
        weitiao.eval(tmp_path)


def test_predict_and_eval(options: dict[str, Any], rows_file: Path, tmp_path: Path) -> None:
    run = weitiao.train({**options, "method": {"type": "lora"}, "train": {**options["train"], "learning_rate": 5e-3}})
    answers = weitiao.predict(run.path, text=["很好看", "太差了"])
    assert [set(a) for a in answers] == [{"label", "score", "probabilities"}] * 2
    assert answers[0]["score"] == max(answers[0]["probabilities"].values())
    assert weitiao.predict(run.path, input=rows_file, output=tmp_path / "out.jsonl") == []
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    assert [line["input"] for line in lines] == rows  # the row's own label is not lost under the answer's
    assert [line["id"] for line in lines[:2]] == [f"{rows_file.name}:1", f"{rows_file.name}:2"]
    one = weitiao.predict(run.path, text=rows[3]["text"])[0]
    assert lines[3]["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)
    metrics = weitiao.eval(run.path, data=rows_file)["metrics"]
    assert metrics["num_rows"] == 64
    assert weitiao.eval(run.path)["metrics"] == run.summary["metrics"]


def test_predict_refusals_lose_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    run = weitiao.train(options)
    (tmp_path / "in.jsonl").write_text('{"text": "好"}\n{"txt": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"in\.jsonl:2"):
        weitiao.predict(run.path, input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(DataError, match="exists already"):
        weitiao.predict(run.path, input=tmp_path / "in.jsonl", output=tmp_path / "in.jsonl")
    for arguments in ({}, {"text": "a", "input": "b"}, {"text": " "}, {"text": "a", "output": "x"}):
        with pytest.raises(DataError):
            weitiao.predict(run.path, **arguments)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_sparse_embedding_saves_the_same_model(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from torch.testing import assert_close

    saved = []
    for sparse in (True, False):
        train = {**options["train"], "sparse_embedding": sparse, "learning_rate": 3e-3, "weight_decay": 0.1}
        changed = {"method": {"type": method}, "train": train, "output": {"dir": str(tmp_path / str(sparse))}}
        run = weitiao.train(options | changed)
        saved.append(load_file(next(run.model.glob("*model.safetensors"))))
    assert saved[0].keys() == saved[1].keys()
    for name, value in saved[0].items():
        assert_close(value, saved[1][name], atol=2e-5, rtol=1e-4, msg=name)


def test_streaming(options: dict[str, Any], rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read as needed: windows, passes, what equals an evaluation row left out, everything counted; resumable."""
    from weitiao.data import stream

    monkeypatch.setattr(stream, "WINDOW_ROWS", 16)
    lines = rows_file.read_text(encoding="utf-8").splitlines()
    (tmp_path / "held.jsonl").write_text("\n".join(lines[::4]), encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(
        "\n".join([*lines, '{"text": "  ", "label": "good"}', "broken"]), encoding="utf-8"
    )
    data = {"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "held.jsonl"), "streaming": True}
    data |= {"near_duplicates": "off", "bad_rows": "skip"}
    train = {**options["train"], "max_steps": 25, "save_steps": 10}
    run = weitiao.train({**options, "data": data, "train": train})
    assert run.summary["steps"] == 25
    assert run.summary["epochs"] >= 1
    counts = run.read_json("data_report.json")["stream"]
    assert counts == {"rows_used": 48, "overlap_dropped_from_train": 16, "num_empty": 1, "num_rejected": 1}
    assert [row["id"] for row in read_jsonl(run.path / "rejected.jsonl")] == ["train.jsonl:65", "train.jsonl:66"]

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 14:
            raise Stop

    again = {**options, "data": data, "train": train, "output": {"dir": str(tmp_path / "again")}}
    with pytest.raises(Stop):
        weitiao.train(again, listener=stop)
    resumed = weitiao.train(resume=tmp_path / "again")
    assert resumed.summary["metrics"] == run.summary["metrics"]
    with pytest.raises(DataError, match=r"train\.jsonl:66"):
        weitiao.train({**again, "data": {**data, "bad_rows": "fail"}, "output": {"dir": str(tmp_path / "strict")}})
    for change in ({"eval": None}, {"train_size": 3}):
        with pytest.raises(weitiao.WeitiaoError, match="streaming needs"):
            weitiao.train({**again, "data": {**data, **change}, "output": {"dir": str(tmp_path / "no")}})


def test_rows_of_a_stream_that_are_cut_dropped_or_pairs_are_counted(options: dict[str, Any], tmp_path: Path) -> None:
    lines = Path(str(options["data"]["train"])).read_text(encoding="utf-8").splitlines()
    long = [json.dumps({"text": "很好" * 40 + str(i), "label": "good"}, ensure_ascii=False) for i in range(3)]
    pairs = [json.dumps({"text": f"好 {i}", "text_pair": "又", "label": "good"}, ensure_ascii=False) for i in range(20)]
    for name, own in (("held", lines[::4]), ("train", [*lines[1::4], *long]), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(own), encoding="utf-8")
    data = {"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "held.jsonl"), "streaming": True}
    data |= {"near_duplicates": "off", "max_length": 32}
    short = len(lines[1::4])
    for policy, expected in (("truncate", short + 3), ("drop", short)):
        train = {**options["train"], "max_steps": 12}
        output = {"dir": str(tmp_path / policy)}
        run = weitiao.train({**options, "data": {**data, "over_length": policy}, "train": train, "output": output})
        counts = run.read_json("data_report.json")["stream"]
        assert (counts["rows_used"], counts["rows_over_length"]) == (expected, 3)
        assert counts.get("too_long_dropped") == (3 if policy == "drop" else None)
        assert counts.get("tokens_lost", 0) > 3 * 32 or policy == "drop"
    (tmp_path / "tags.jsonl").write_text('{"tokens": ["a"], "ner_tags": ["O"]}\n' * 3, encoding="utf-8")
    tagged = {**data, "train": str(tmp_path / "tags.jsonl")}
    with pytest.raises(DataError, match="the label None is unknown"):
        weitiao.train({**options, "data": tagged, "train": train, "output": {"dir": str(tmp_path / "tags")}})
    with pytest.raises(DataError, match=r"pairs\.jsonl holds pairs of texts"):
        weitiao.train(
            {
                **options,
                "data": {**data, "train": str(tmp_path / "pairs.jsonl")},
                "train": train,
                "output": {"dir": str(tmp_path / "two")},
            }
        )


def test_over_length_and_weights_in_a_run(options: dict[str, Any], tmp_path: Path) -> None:
    """Windows share their row's answer; dropped rows are counted; class weights change what is learnt."""
    weights = []
    for i, (data, train) in enumerate(
        (
            ({"over_length": "window", "max_length": 6}, {}),
            ({"over_length": "drop", "max_length": 9}, {}),
            ({}, {"class_weights": {"good": 5.0, "bad": 0.1}}),
        )
    ):
        config = {
            **options,
            "data": {**options["data"], **data, "near_duplicates": "off"},
            "train": {**options["train"], "learning_rate": 5e-3, **train},
            "output": {"dir": str(tmp_path / f"r{i}")},
        }
        run = weitiao.train(config)
        predictions = list(read_jsonl(run.path / "predictions.jsonl"))
        assert [p["id"] for p in predictions] == run.read_json("split.json")["eval"]
        tokens = run.read_json("data_report.json")["split"]["eval_tokens"]
        weights.append((len(predictions), tokens, [p["predicted"] for p in predictions]))
    assert weights[0][0] == 16 < weights[0][1]["encoded_rows"]
    assert weights[1][0] == weights[1][1]["rows"] < 16
    assert weights[1][1]["rows_over_length"] == 16 - weights[1][0]
    assert weights[2][2].count("good") > 12
    with pytest.raises(weitiao.WeitiaoError, match="Expected a weight for each of: bad, good"):
        weitiao.train(
            {
                **config,
                "train": {**options["train"], "class_weights": {"good": 1}},
                "output": {"dir": str(tmp_path / "x")},
            }
        )


def test_resumed_run_tells_one_story(options: dict[str, Any], tmp_path: Path) -> None:
    """After a kill in the middle of a line: each step once, time that goes on, and what the whole run took."""

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 6 and event["event"] == "log":
            raise Stop

    config = {**options, "train": {**options["train"], "save_steps": 4}}
    with pytest.raises(Stop):
        weitiao.train(config, listener=stop)
    run = RunDir(Path(config["output"]["dir"]))
    before = run.read_json("checkpoints/step-4/state.json")["train_seconds"]
    with (run.path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "log", "st')
    weitiao.train(resume=run.path)
    logs = [e for e in run.events() if e["event"] == "log"]
    assert [e["step"] for e in logs] == list(range(1, run.summary["steps"] + 1))
    seconds = [e["seconds"] for e in run.events()]
    assert seconds == sorted(seconds)
    assert run.summary["train_seconds"] > before > 0


def _is_refused_once_changed(config: dict[str, Any], file: Path, changed: str) -> None:
    """A run stops at step 5, the file changes under the same path, and the run is resumed."""

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 5:
            raise Stop

    with pytest.raises(Stop):
        weitiao.train({**config, "train": {**config["train"], "save_steps": 2}}, listener=stop)
    assert file.read_text(encoding="utf-8") != changed
    file.write_text(changed, encoding="utf-8")
    with pytest.raises(RunError, match="has changed since it began"):
        weitiao.train(resume=config["output"]["dir"])


@pytest.mark.fault("a data file changed between stop and resume")
def test_resume_refuses_changed_data(options: dict[str, Any], tmp_path: Path) -> None:
    text = Path(str(options["data"]["train"])).read_text(encoding="utf-8")
    rows = tmp_path / "own.jsonl"
    rows.write_text(text, encoding="utf-8")
    config = {**options, "data": {**options["data"], "train": str(rows)}}
    _is_refused_once_changed(config, rows, text.replace('"good"', '"fine"'))


@pytest.mark.fault("a file of label names changed between stop and resume")
def test_resume_refuses_changed_names(options: dict[str, Any], tmp_path: Path) -> None:
    """The classes would change places."""
    names = tmp_path / "names.txt"
    names.write_text("good\nbad\n", encoding="utf-8")
    config = {**options, "data": {**options["data"], "label_names": str(names)}}
    _is_refused_once_changed(config, names, "bad\ngood\n")


@pytest.mark.parametrize("sign", ["checkpoint", "log", None])
def test_a_folder_that_holds_steps_is_no_folder_of_a_mistake(sign: str | None, options: dict[str, Any]) -> None:
    """The first step may be logged later than it is saved, and a mistake's folder is removed."""
    run = RunDir.create(RunConfig.model_validate(options))
    if sign == "checkpoint":
        (run.checkpoints / "step-3").mkdir(parents=True)
    elif sign is not None:
        (run.path / "events.jsonl").write_text(json.dumps({"event": sign, "step": 1}) + "\n")
    assert run.has_trained == (sign is not None)


def test_hashes_of_an_earlier_version_are_understood() -> None:
    now = {"train": {"a.csv": "1"}, "label_names": "2"}
    assert same_data({"train": {"a.csv": "1"}}, now)
    assert not same_data({"train": {"a.csv": "1"}, "label_names": "3"}, now)
    assert not same_data({"train": {"a.csv": "9"}}, now)
    assert not same_data(None, now)


def test_a_mistake_leaves_the_folder_free(options: dict[str, Any]) -> None:
    with pytest.raises(weitiao.WeitiaoError, match="nolabel"):
        weitiao.train({**options, "data": {**options["data"], "label": "nolabel"}})
    with pytest.raises(weitiao.WeitiaoError, match="no module named nothing"):
        weitiao.train({**options, "method": {"type": "lora", "target_modules": ["nothing"]}})
    assert weitiao.train(options).is_done


def test_divergence_is_a_message(options: dict[str, Any], tmp_path: Path) -> None:
    for i, train in enumerate(({}, {"logging_steps": 1000, "eval_strategy": "no"}, {"logging_steps": 1000})):
        wild = {**options["train"], "learning_rate": 1e30, "max_grad_norm": None, **train}
        with pytest.raises(RunError, match=r"Lower train\.learning_rate"):
            weitiao.train({**options, "train": wild, "output": {"dir": str(tmp_path / f"w{i}")}})


def test_three_labels_with_lora(options: dict[str, Any], tmp_path: Path) -> None:
    """More labels than a base has by default: saved, loaded, predicted; roc_auc is refused with the reason."""
    from conftest import BAD, GOOD, write_jsonl

    rows = [
        {"text": t + tail, "label": n}
        for tail in ("", "啊")
        for n, ts in (("a", GOOD[:4]), ("b", BAD), ("c", GOOD[4:]))
        for t in ts
    ]
    data = {"train": str(write_jsonl(tmp_path / "three.jsonl", rows)), "test_size": 9, "near_duplicates": "off"}
    config = {**options, "data": data, "method": {"type": "lora"}}
    run = weitiao.train(config)
    assert set(weitiao.predict(run.path, text="好")[0]["probabilities"]) == {"a", "b", "c"}
    assert "num_labels=3" in (run.path / "README.md").read_text(encoding="utf-8")
    train = {**options["train"], "metric_for_best_model": "roc_auc"}
    with pytest.raises(weitiao.WeitiaoError, match="there are 3 labels"):
        weitiao.train({**config, "train": train, "output": {"dir": str(tmp_path / "auc")}})


def test_labels_with_dots_in_class_weights(options: dict[str, Any], tmp_path: Path) -> None:
    from conftest import BAD, GOOD, write_jsonl

    rows = [{"text": t, "label": n} for n, ts in (("v1.0", GOOD), ("lr", BAD)) for t in ts]
    data = {"train": str(write_jsonl(tmp_path / "dots.jsonl", rows)), "test_size": 4, "near_duplicates": "off"}
    train = {**options["train"], "class_weights": {"v1.0": 2.0, "lr": 1.0}}
    run = weitiao.train({**options, "data": data, "train": train})
    assert run.config.train.class_weights == {"v1.0": 2.0, "lr": 1.0}
    assert run.config.train.learning_rate is None
    assert weitiao.predict(run.path, text="好")[0]["label"] in ("v1.0", "lr")


def test_full_run_predicts_without_its_base(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "base")
    run = weitiao.train({**options, "model": str(tmp_path / "base")})
    shutil.rmtree(tmp_path / "base")
    assert weitiao.predict(run.path, text="好")[0]["label"] in ("good", "bad")
    lora = weitiao.train({**options, "method": {"type": "lora"}, "output": {"dir": str(tmp_path / "lora")}})
    (lora.path / "config.yaml").write_text(
        (lora.path / "config.yaml").read_text(encoding="utf-8").replace(str(tiny_model), str(tmp_path / "gone"))
    )
    with pytest.raises(weitiao.WeitiaoError, match="No model folder"):
        weitiao.predict(lora.path, text="好")


def test_the_tokenizer_takes_the_place_of_what_a_killed_run_left(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    new, old = {"a.json": "new", "templates/b.jinja": "new"}, {"a.json": "old old", "templates/c.jinja": "old"}
    for folder, content in ((run.staged_tokenizer, new), (run.model, old)):
        for name, text in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    assert run.add_tokenizer() == 6
    assert {name: (run.model / name).read_text() for name in files(run.model)} == new
    assert files(tmp_path) == {"model/a.json", "model/templates/b.jinja"}


def test_another_process_names_the_folder_that_stays(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works in a folder that is thrown away."""
    from weitiao import run

    def stopped(config: Any, own: Any, resuming: bool, listener: Any) -> None:
        raise Stopped(f"Continue it: weitiao train --resume {own.path}", 143)

    monkeypatch.setattr(run, "_run", stopped)
    with pytest.raises(Stopped, match=f"--resume {tmp_path / 'run'}$") as found:
        run._take_part(options, None)
    assert logging.getLogger("weitiao").level == logging.NOTSET  # as it was
    assert found.value.exit_code == 143
