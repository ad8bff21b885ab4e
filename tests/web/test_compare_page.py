"""The page of a comparison, two runs side by side, and the list of comparisons: from the folders that weitiao writes."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import weitiao
from support.cells import config_of, finish_cells
from support.pages import browser, pages
from weitiao.comparison.rows import headline
from weitiao.web.app import create_app
from weitiao.web.compared import place, unequal
from weitiao.web.differing import differing, entities
from weitiao.web.settings import Settings

HTMX = {"hx-request": "true"}


@pytest.fixture(scope="module")
def made(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one comparison of full and LoRA at two seeds, whose cells are real."""
    root = tmp_path_factory.mktemp("compared") / "runs"
    options = {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16},
        "train": {"bf16": False, "max_steps": 6, "tokens_per_batch": 96, "logging_steps": 1},
    }
    config = config_of(options, root / "both", methods=["full", {"type": "lora", "learning_rate": 5e-5}], seeds=[1, 2])
    finish_cells(config)
    weitiao.compare(config)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(root)), base_url="http://127.0.0.1:7860") as found:
        found.app.state.jobs.end()  # what is asked for waits, and nothing starts
        yield found


def result_of(root: Path) -> Any:
    return json.loads((root / "both" / "comparison.json").read_text(encoding="utf-8"))


def test_the_verdict_stands_first_and_in_both_languages(client: TestClient, root: Path) -> None:
    result = result_of(root)
    for language, said in zip(("en", "zh"), headline(result), strict=True):
        page = client.get("/compare/both", headers={"accept-language": language}).text
        text = re.sub(r"<[^>]+>", "", page)
        assert said in text
        assert page.index("note verdict") < page.index("<table")
    english = client.get("/compare/both").text
    assert "undecided" in english
    assert "not its own" in english
    assert "weitiao compare verify" in english
    for name in ("Costs", "Options that differ", "Class by class", "Rows on which they disagree", "Evidence"):
        assert name in english
    assert 'href="/run/both/cells/full-seed1"' in english


def test_every_metric_has_its_interval_or_the_reason_for_none(client: TestClient, root: Path) -> None:
    page = client.get("/compare/both").text
    metrics = result_of(root)["pairs"][0]["metrics"]
    for name, found in metrics.items():
        assert name in page
        assert f"{found['mean_difference']:+.4f}" in page
    assert page.count('<svg class="interval"') >= len(metrics)


def test_arms_of_many_are_summed_up_in_one_sentence(root: Path) -> None:
    result = result_of(root)
    pair = result["pairs"][0]
    kept = {**pair, "second": "a", "decision": {**pair["decision"], "keep": "a"}}
    lost = {**pair, "second": "b", "decision": {**pair["decision"], "keep": "full"}}
    open_ = {**pair, "second": "c", "decision": {**pair["decision"], "keep": "undecided"}}
    english, chinese = headline({**result, "pairs": [kept, lost, open_]})
    assert english == "Against full: keep a; keep full rather than b; undecided for c."
    assert chinese == "与 full 相比：保留 a；保留 full，不取 b；c 未定。"
    assert "nothing to decide" in headline({**result, "pairs": []})[0]


def test_the_report_may_run_its_scripts_and_nothing_else(client: TestClient) -> None:
    answer = client.get("/report/both")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert "Learning curves" in answer.text
    assert "sandbox" not in client.get("/compare/both").headers["content-security-policy"]


def test_evidence_is_checked_by_the_command(root: Path) -> None:
    """In a process of its own, as a user's is."""
    with TestClient(create_app(Settings(root)), base_url="http://127.0.0.1:7860") as client:
        assert "has not been checked" in client.get("/compare/both").text
        answer = client.post("/compare/both/verify", headers=HTMX).text
        assert 'hx-get="/verify/both"' in answer
        assert "The evidence holds." in until_checked(client)
        assert "The evidence holds." in client.get("/compare/both").text
        path = root / "both" / "cells" / "lora-seed2" / "predictions.jsonl"
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        client.post("/compare/both/verify", follow_redirects=False)
        said = until_checked(client)
        assert "does not hold" in said
        assert "predictions.jsonl has changed" in said


def until_checked(client: TestClient) -> str:
    until = time.monotonic() + 120
    while "hx-trigger" in (said := client.get("/verify/both", headers=HTMX).text):
        assert time.monotonic() < until
        time.sleep(0.2)
    return said


def test_an_unfinished_comparison_shows_its_cells_and_resumes_once(client: TestClient, root: Path) -> None:
    unfinish(root)
    page = client.get("/compare/both").text
    assert "2 of 4 runs have ended" in page or "3 of 4" in page
    assert "the shelf is empty" in page
    assert "failed" in page
    for _ in range(2):
        assert client.post("/compare/both/resume", follow_redirects=False).status_code == 303
    (job,) = client.app.state.jobs.waiting()
    assert job.words == ("compare", str(root / "both" / "compare.yaml"))
    assert job.run == "both"
    assert "waits until" in client.get("/compare/both").text
    client.post("/compare/both/stop")
    assert not client.app.state.jobs.waiting()
    assert client.post("/compare/both/stop").status_code == 422


def test_a_finished_comparison_that_tries_again_says_that_it_waits(client: TestClient) -> None:
    client.app.state.jobs.end()  # nothing starts
    client.post("/compare/both/resume", follow_redirects=False)
    page = client.get("/compare/both").text
    assert "waits until" in page
    assert "/compare/both/stop" in page
    client.post("/compare/both/stop")
    assert "waits until" not in client.get("/compare/both").text


def test_one_that_waits_has_a_page_before_its_folder(client: TestClient) -> None:
    client.app.state.jobs.end()  # nothing starts
    client.app.state.jobs.add("compare", ["compare", "x.yaml"], run="later")
    assert client.get("/run/later", follow_redirects=False).headers["location"] == "/compare/later"
    page = client.get("/compare/later").text
    assert "waits until" in page
    assert "Its runs are not planned yet" in page
    assert "weitiao compare x.yaml" in page
    assert "later" in client.get("/compare").text


def unfinish(root: Path) -> None:
    """As if it had been stopped with one cell failed and one not begun."""
    folder = root / "both"
    for name in ("comparison.json", "evidence.json", "report.html"):
        (folder / name).unlink()
    for name in ("full-seed2", "lora-seed2"):
        shutil.rmtree(folder / "cells" / name)
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "full-seed2.log").write_text("loading\nError: the shelf is empty\n", encoding="utf-8")


def test_a_running_comparison_says_how_far_each_run_is(client: TestClient, root: Path) -> None:
    unfinish(root)
    cell = root / "both" / "cells" / "lora-seed2"
    shutil.copytree(root / "both" / "cells" / "lora-seed1", cell)
    (cell / "DONE").unlink()
    events = (cell / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    upto = next(i for i, line in enumerate(events) if json.loads(line).get("step") == 3)
    (cell / "events.jsonl").write_text("".join(events[: upto + 1]), encoding="utf-8")
    with (root / "both" / ".lock").open("w") as whole, (cell / ".lock").open("w") as one:
        for lock in (whole, one):
            fcntl.flock(lock, fcntl.LOCK_EX)
        page = client.get("/compare/both").text
        assert "50 %" in page
        assert "It runs from a terminal" in page
        part = client.get("/cells/both", params={"state": "running"}, headers=HTMX)
        assert "50 %" in part.text
        assert "hx-refresh" not in part.headers
        assert client.post("/compare/both/resume").status_code == 422
    ended = client.get("/cells/both", params={"state": "running"}, headers=HTMX)
    assert ended.headers["hx-refresh"] == "true"


def test_two_runs_stand_side_by_side_and_decide_nothing(client: TestClient) -> None:
    pair = [("runs", f"both/cells/{name}-seed1") for name in ("full", "lora")]
    page = client.get("/compare", params=pair).text
    assert "nothing is decided" in page
    assert "method.type" in page
    assert "lora" in page
    assert 'href="/new?from=both/cells/full-seed1"' in page or "from=both%2Fcells%2Ffull-seed1" in page
    assert "compare.seeds=[1,2,3,4,5,6]" in page.replace("&#39;", "'")
    assert "held-out rows" in page


@pytest.mark.parametrize("names", [["full"], ["full", "lora", "full-seed2"], ["full", "full"]])
def test_other_counts_than_two_say_what_to_do(client: TestClient, names: list[str]) -> None:
    seeded = [name if "seed" in name else f"{name}-seed1" for name in names]
    answer = client.get("/compare", params=[("runs", f"both/cells/{name}") for name in seeded])
    assert answer.status_code == 422
    assert "Expected two finished runs" in answer.text
    assert "/new" in answer.text


def test_runs_on_other_rows_are_not_subtracted(client: TestClient, root: Path) -> None:
    path = root / "both" / "cells" / "lora-seed1" / "split.json"
    split = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**split, "eval": split["eval"][1:]}), encoding="utf-8")
    page = client.get("/compare", params=[("runs", f"both/cells/{name}-seed1") for name in ("full", "lora")]).text
    assert "different rows" in page
    assert "Rows on which they disagree" not in page


def test_a_run_is_no_comparison_and_an_unknown_one_is_named(client: TestClient) -> None:
    answer = client.get("/compare/both/cells/full-seed1", follow_redirects=False)
    assert answer.headers["location"] == "/run/both/cells/full-seed1"
    answer = client.get("/compare/bot")
    assert answer.status_code == 422
    assert "both" in answer.text
    assert client.get("/compare/../x").status_code in (404, 422)
    pair = [("runs", "both"), ("runs", "both/cells/full-seed1")]
    assert "is a comparison" in client.get("/compare", params=pair).text


def test_the_list_of_comparisons(client: TestClient, root: Path, tmp_path: Path) -> None:
    assert headline(result_of(root))[0][:40] in client.get("/compare").text
    with TestClient(create_app(Settings(tmp_path / "none")), base_url="http://localhost") as empty:
        assert "There is no comparison yet" in empty.get("/compare").text


def test_another_version_of_the_file_says_how_to_write_it_anew(client: TestClient, root: Path) -> None:
    path = root / "both" / "comparison.json"
    path.write_text(json.dumps({**result_of(root), "schema": 2}), encoding="utf-8")
    answer = client.get("/compare/both")
    assert answer.status_code == 422
    assert "has the schema 2" in answer.text
    assert client.get("/compare").status_code == 200


def test_rows_differ_by_label_entity_number_and_loss(tmp_path: Path) -> None:
    def side(name: str, rows: list[dict[str, Any]]) -> dict[int, Path]:
        (tmp_path / name).mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "predictions.jsonl").write_text(text, encoding="utf-8")
        return {1: tmp_path / name}

    tags = {"id": "t", "tokens": ["a", "b", "c"], "gold": ["B-PER", "I-PER", "O"]}
    one, other = (
        side("a", [{**tags, "predicted": ["B-PER", "I-PER", "B-LOC"]}]),
        side("b", [{**tags, "predicted": ["O"] * 3}]),
    )
    found = differing(one, other)
    assert found is not None
    assert found.count == 1
    assert (found.examples[0]["first"], found.examples[0]["second"]) == ("PER ab, LOC c", "–")
    assert entities(["a", "b"], ["B-X", "B-X"]) == "X a, X b"
    numbers = [
        [{"id": str(i), "text": "x", "gold": 1.0, "predicted": v} for i, v in enumerate(vs)] for vs in ((1, 2), (1, 5))
    ]
    found = differing(side("c", numbers[0]), side("d", numbers[1]))
    assert found is not None
    assert found.count is None
    assert found.examples[0]["second"] == "5.0000"
    losses = [
        [{"id": "0", "messages": [{"role": "user", "content": "q"}], "loss_sum": s, "num_targets": 2}] for s in (1, 3)
    ]
    found = differing(side("e", losses[0]), side("f", losses[1]))
    assert found is not None
    assert (found.examples[0]["first"], found.examples[0]["second"]) == ("0.5000", "1.5000")
    assert (
        differing(
            side("g", [tags | {"predicted": ["O"] * 3}]), side("h", [{**tags, "id": "u", "predicted": ["O"] * 3}])
        )
        is None
    )
    assert differing({1: tmp_path / "none"}, one) is None


def test_a_picture_holds_its_interval_and_its_margin() -> None:
    drawn = place(-0.01, 0.02, 0.05, margin=0.005)
    assert drawn is not None
    assert drawn["low"] < 100 < drawn["mid"] < drawn["high"] <= 195
    assert drawn["from"] < 100 < drawn["to"]
    assert place(None, None, None) is None
    assert place(None, 0.0, None) is not None
    assert unequal([{"a": 1, "b": []}, {"a": 2}]) == [("a", [1, 2])]


@pytest.mark.beyond_test
def test_a_walk_in_a_real_browser(root: Path) -> None:
    """The list, the comparison with its report and a check of its evidence; nothing leaves the machine, axe is content."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with pages(root) as server, browser(width=390) as chromium:
        page = chromium.page
        page.goto(f"{server.url}/compare")
        page.get_by_role("link", name="both").click()
        page.get_by_role("heading", name="Evidence").wait_for()
        found = axe.Axe().run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="Verify").click()
        page.get_by_text("The evidence holds.").wait_for()
        assert not chromium.errors
        page.get_by_role("link", name="Full report").click()
        page.wait_for_selector(".js-plotly-plot .xtitle")
        assert page.locator(".xtitle").first.text_content() == "step"
        page.get_by_role("button", name="中文").click()
        page.locator(".xtitle", has_text="步数").first.wait_for()
        assert not chromium.left


@pytest.mark.beyond_test
def test_a_comparison_is_started_stopped_and_resumed(root: Path, tiny_model: Path, rows_file: Path) -> None:
    """By the queue of a real server, whose cells are processes as a user's are."""
    with pages(root) as server, browser() as chromium:
        words = [
            "compare", f"model={tiny_model}", f"data.train={rows_file}", "data.test_size=16", "train.bf16=false",
            "train.max_steps=400", "compare.methods=[full]", "compare.seeds=[1,2]", f"output.dir={root / 'new'}",
        ]  # fmt: skip
        code = "import sys; from pathlib import Path; from weitiao.web.jobs import Jobs; r = Path(sys.argv[1]); Jobs(r / '.web/jobs', r).add('compare', sys.argv[2:], run='new')"
        subprocess.run([sys.executable, "-c", code, str(root), *words], check=True, env=dict(os.environ))
        page = chromium.page
        page.goto(f"{server.url}/compare/new")
        page.get_by_role("cell", name="full-seed1").wait_for(timeout=90_000)
        page.get_by_role("button", name="Stop and keep what is done").click()
        page.get_by_role("button", name="Resume").wait_for(timeout=90_000)
        page.get_by_role("button", name="Resume").click()
        page.get_by_role("link", name="Full report").wait_for(timeout=180_000)
        assert not chromium.left


def test_the_comparison_of_two_runs_is_of_these_two(client: TestClient) -> None:
    pair = [("runs", f"both/cells/{name}-seed1") for name in ("full", "lora")]
    page = unescape(client.get("/compare", params=pair).text)
    line = next(line for line in page.splitlines() if "compare.methods=" in line)
    for word in (
        "data.test_size=16",
        "train.max_steps=6",
        "train.tokens_per_batch=96",
        '"learning_rate": 5e-05',
        '"type": "lora"',
    ):
        assert word in line, word


def test_two_runs_of_one_name_are_two_arms(client: TestClient, root: Path) -> None:
    shutil.copytree(root / "both", root / "other")
    page = unescape(
        client.get("/compare", params=[("runs", f"{name}/cells/lora-seed1") for name in ("both", "other")]).text
    )
    (methods,) = re.findall(r"compare\.methods=(\[.*?\])", page)[:1]
    assert len({arm["name"] for arm in json.loads(methods)}) == 2


def test_a_check_that_was_killed_says_nothing_of_the_evidence(client: TestClient, root: Path) -> None:
    client.post("/compare/both/verify", headers=HTMX)
    (job,) = client.app.state.jobs.all(queued=False)
    for name, text in (("started", ""), ("exit", "137")):
        (job.folder / name).write_text(text)
    page = client.get("/verify/both", headers=HTMX).text
    assert "ended before it could say anything" in page
    assert "does not hold" not in page
    (job.folder / "exit").write_text("0")
    (job.folder / "out").write_text("{}")
    assert "The evidence holds." in client.get("/verify/both", headers=HTMX).text
    later = time.time() + 60
    os.utime(root / "both" / "cells" / "full-seed1" / "predictions.jsonl", (later, later))
    assert "has not been checked" in client.get("/verify/both", headers=HTMX).text
