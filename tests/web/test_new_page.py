"""/new: the form of a run, its words, its plan, and the jobs that it starts."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import yaml
from forms_support import REVIEWS, browser_page, client_of, serious, served, wait
from starlette.testclient import TestClient

from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import dump, load
from weitiao.web.options import (
    read,
)
from weitiao.web.settings import Settings

MODEL = "multilingual-e5-small"
LORA = {"model": MODEL, "data.train": "a.csv", "method.type": "lora"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(Settings(tmp_path / "runs")) as found:
        yield found


def make_run(root: Path, name: str, **options: str) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    config, _ = read({**LORA, **options}, str(folder))
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")


def test_the_empty_form_says_what_is_missing_and_blames_nobody(client: TestClient) -> None:
    shown = client.get("/new").text
    assert "Still missing" in shown
    assert 'role="alert"' not in shown
    assert len(shown.encode()) < 150_000


def test_the_address_fills_the_form(client: TestClient) -> None:
    address = {
        "data.train": "a.csv",
        "data.duplicates": "keep",
        "train.class_weights": "balanced",
        "nonsense": "x",
        "model": MODEL,
    }
    shown = client.get("/new", params=address).text
    assert 'value="a.csv"' in shown
    assert "<option selected>keep</option>" in shown
    assert (
        f"weitiao train model={MODEL} data.train=a.csv data.duplicates=keep train.class_weights=balanced output.dir="
        in unescape(shown)
    )
    several = unescape(client.get("/new?data.train=a.csv&data.train=b.csv").text)
    assert 'value="["a.csv", "b.csv"]"' in several


def test_a_run_fills_the_form_under_a_new_name(client: TestClient) -> None:
    make_run(client.app.state.settings.root, "a-lora", **{"method.r": "4"})
    shown = client.get("/new?from=a-lora").text
    assert re.search(r'id="method-r" name="method.r" value="4"', shown)
    assert 'placeholder="a-lora-2"' in shown
    assert client.get("/new?from=../x").status_code == 422
    assert client.get("/new?from=nothing").status_code == 422


def test_a_comparison_fills_the_form_with_what_its_arms_share(client: TestClient) -> None:
    folder = client.app.state.settings.root / "both"
    folder.mkdir(parents=True)
    words = [f"model={MODEL}", "data.train=a.csv", "train.max_steps=5", "compare.seeds=[1, 2]", f"output.dir={folder}"]
    config = load(CompareConfig, None, words)
    (folder / "compare.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    shown = unescape(client.get("/new?from=both").text)
    assert "train.max_steps=5" in shown
    assert 'name="compare.seeds" value="[1, 2]"' in shown


def test_a_part_answers_with_errors_at_their_fields(client: TestClient) -> None:
    part = client.post("/new/check", data={**LORA, "method.r": "0", "shown_method": "full"}).text
    assert "<html" not in part
    assert re.search(r'id="method" hx-swap-oob="true"', part)
    assert "greater than or equal to 1" in part
    mended = client.post("/new/check", data={**LORA, "method.r": "8", "shown_method": "lora", "wrong": "method.r"}).text
    assert re.search(r'id="error-method-r" hx-swap-oob="true"></p>', mended)
    assert "method.r=8" in mended
    assert 'id="method"' not in mended


@pytest.mark.parametrize("name", ["../x", "a/b", ".web", "-x", "a b", "x" * 200, "\x00"])
def test_a_name_that_is_none_is_refused(client: TestClient, name: str) -> None:
    refused = client.post("/new/start", data={**LORA, "name": name})
    assert refused.status_code == 422
    assert "is no name of a run" in refused.text
    assert client.app.state.jobs.all() == []


def test_a_run_starts_once_under_its_name(client: TestClient) -> None:
    started = client.post("/new/start", data={**LORA, "name": "mine", "method.r": "8"})
    assert (started.status_code, started.headers["location"]) == (303, "/run/mine")
    job = client.app.state.jobs.of_run("mine")
    folder = client.app.state.settings.root / "mine"
    assert list(job.words) == [
        "train",
        f"model={MODEL}",
        "data.train=a.csv",
        "method.type=lora",
        "method.r=8",
        f"output.dir={folder}",
    ]
    assert (job.kind, job.state) == ("train", "queued")
    again = client.post("/new/start", data={**LORA, "name": "mine"})
    assert again.status_code == 422
    assert "mine is there already" in again.text
    assert len(client.app.state.jobs.all()) == 1


def test_a_comparison_starts(client: TestClient) -> None:
    started = client.post("/new/compare", data={**LORA, "name": "both", "compare.seeds": "[1, 2]"})
    assert started.headers["location"] == "/run/both"
    job = client.app.state.jobs.of_run("both")
    assert job.kind == "compare"
    assert load(CompareConfig, None, job.words[1:]).compare.seeds == (1, 2)
    refused = client.post("/new/compare", data={**LORA, "name": "c", "compare.seeds": "[1, 1]"})
    assert refused.status_code == 422
    assert "seeds are repeated" in refused.text


def test_a_start_without_the_essentials_marks_them(client: TestClient) -> None:
    refused = client.post("/new/start", data={"name": "x"})
    assert refused.status_code == 422
    assert re.search(r'id="error-model">\s*This is needed', refused.text)
    assert re.search(r'id="error-data-train">\s*This is needed', refused.text)


def test_a_plan_of_other_words_ends_the_one_before(client: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(REVIEWS, encoding="utf-8")
    form = {**LORA, "data.train": str(file)}
    first = client.post("/new/plan", data=form).text
    key = re.search(r'name="plan_job" value="(\w+)"', first)[1]
    assert client.app.state.jobs.get(key).words[-3:] == ("--methods", "full,lora", "--json")
    assert "output.dir" not in str(client.app.state.jobs.get(key).words)  # a name makes no other plan
    same = client.post("/new/plan", data={**form, "plan_job": key, "name": "other"}).text
    assert f'value="{key}"' in same
    other = client.post("/new/plan", data={**form, "plan_job": key, "method.r": "8"}).text
    assert f'value="{key}"' not in other
    assert wait(client.app.state.jobs, key).state == "stopped"
    client.app.state.jobs.stop(client.app.state.jobs.get(re.search(r'name="plan_job" value="(\w+)"', other)[1]))


def test_what_a_plan_refuses_is_said(client: TestClient) -> None:
    form = {**LORA, "data.train": "nowhere.csv"}
    key = re.search(r'name="plan_job" value="(\w+)"', client.post("/new/plan", data=form).text)[1]
    wait(client.app.state.jobs, key)
    assert "No file 'nowhere.csv'" in unescape(client.get(f"/new/plan/{key}").text)
    kept = client.post("/new/plan", data={**form, "plan_job": key}).text
    assert "No file" in unescape(kept)  # the same words are not tried again by themselves
    assert client.get("/new/plan/a00").status_code == 422


@pytest.mark.beyond_test
def test_a_visitor_plans_and_starts_a_run(tmp_path: Path, e5: Path) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text(REVIEWS, encoding="utf-8")
    root = tmp_path / "runs"
    with served(root) as address, browser_page() as (page, wrong):
        page.goto(f"{address}/new?data.train={file}")
        assert serious(page) == []
        page.fill("#model", str(e5))
        page.select_option("#method-type", "lora")
        page.wait_for_selector("#method-r")
        page.fill("#method-r", "0")
        page.press("#method-r", "Tab")
        page.wait_for_selector("#error-method-r:not(:empty)")
        page.fill("#method-r", "4")
        page.press("#method-r", "Tab")
        page.wait_for_selector("#error-method-r", state="hidden")
        page.wait_for_selector("#plan table", timeout=120_000)
        page.wait_for_selector("#plan .note", timeout=120_000)
        assert "Advice" in page.inner_text("#plan .note")
        assert page.inner_text("#plan thead").split() == ["full", "lora"]
        assert serious(page) == []
        shown = page.inner_text("#side pre >> nth=1")
        page.click("text=Start training")
        page.wait_for_url("**/run/reviews-lora")
        assert wrong == []
    job = json.loads(next(root.glob(".web/jobs/j*/job.json")).read_text(encoding="utf-8"))
    assert job["words"] == shlex.split(shown)[1:]


def test_the_pages_import_no_torch() -> None:
    found = subprocess.run([sys.executable, "-c", "import sys, weitiao.web.app; sys.exit('torch' in sys.modules)"])
    assert found.returncode == 0


def test_a_comparison_fills_the_form_with_its_margin_and_budget(client: TestClient, tmp_path: Path) -> None:
    folder = client.app.state.settings.root / "cmp"  # type: ignore[attr-defined]
    given = {
        "margin": 0.02,
        "budget": "steps",
        "budget_value": 500,
        "lr_search": 3,
        "methods": ["full", {"type": "lora", "r": 64, "name": "wide"}],
    }
    config = {"model": "multilingual-e5-small", "data": {"train": "a.csv"}, "compare": given, "output": {"dir": "o"}}
    folder.mkdir(parents=True)
    (folder / "compare.yaml").write_text(dump(load(CompareConfig, config)), encoding="utf-8")
    page = unescape(client.get("/new?from=cmp").text)
    for path, value in (("margin", "0.02"), ("budget_value", "500.0"), ("lr_search", "3")):
        assert re.search(
            rf'name="compare.{path}"[^>]*value="{value}"|name="compare.{path}"(.|\n)*?<option selected>{value}<', page
        ), path
    assert "The arms wide are not taken over" in page


@pytest.mark.parametrize("value", ["truncate", "window"])
def test_the_form_holds_a_value_that_is_a_default_elsewhere(value: str, client: TestClient) -> None:
    page = client.get(f"/new?task=token_classification&data.over_length={value}").text
    assert f"<option selected>{value}</option>" in page
