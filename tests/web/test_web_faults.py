"""What goes wrong around the pages: odd requests, damaged folders, full disks, kills and clocks."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from forms_support import REVIEWS, client_of, wait
from starlette.datastructures import URL
from starlette.testclient import TestClient

from weitiao.errors import RunError
from weitiao.web import jobs as jobs_module
from weitiao.web.app import create_app
from weitiao.web.exports import Exports
from weitiao.web.jobs import Jobs
from weitiao.web.live import line_start, lines_from
from weitiao.web.mistakes import mistakes
from weitiao.web.options import read
from weitiao.web.runs import Runs
from weitiao.web.settings import Settings

pytestmark = pytest.mark.hand_written  # of most files here


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(Settings(tmp_path / "runs")) as found:
        yield found


def make_run(root: Path, name: str, **summary: Any) -> Path:
    """A folder as a finished run leaves it, as far as the pages look."""
    folder = root / name
    folder.mkdir(parents=True)
    config, _ = read({"model": "m", "data.train": "a.csv"}, str(folder))
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    facts = {"task": "classification", "method": {"type": "full"}, "metrics": {"accuracy": 0.5}, **summary}
    (folder / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "DONE").touch()
    return folder


def test_a_failed_check_is_shown_when_its_page_is_loaded_again(client: TestClient) -> None:
    client.get("/data?source=nowhere.csv")
    wait(client.app.state.jobs, client.app.state.jobs.all()[0].id)
    again = client.get("/data?source=nowhere.csv")
    assert again.status_code == 200
    assert "No file 'nowhere.csv'" in unescape(again.text)


def test_a_failed_plan_is_shown_without_scripts(client: TestClient) -> None:
    form = {"model": "multilingual-e5-small", "data.train": "nowhere.csv"}
    client.post("/new", data=form)
    wait(client.app.state.jobs, client.app.state.jobs.all()[0].id)
    again = client.post("/new", data=form)
    assert again.status_code == 200
    assert "No file 'nowhere.csv'" in unescape(again.text)


def test_what_failed_is_checked_again_once_its_file_is_there(client: TestClient, tmp_path: Path) -> None:
    file, jobs = tmp_path / "late.csv", client.app.state.jobs
    client.get(f"/data?source={file}")
    wait(jobs, jobs.all()[0].id)
    file.write_text(REVIEWS, encoding="utf-8")
    client.get(f"/data?source={file}")
    assert wait(jobs, jobs.all()[0].id).state == "done"


def test_what_failed_is_checked_again_when_asked(client: TestClient) -> None:
    jobs = client.app.state.jobs
    client.get("/data?source=nowhere.csv")
    before = wait(jobs, jobs.all()[0].id).created
    client.get("/data?source=nowhere.csv&again=yes")
    assert jobs.all()[0].created > before


def test_a_file_of_an_older_time_is_another_file(client: TestClient, tmp_path: Path) -> None:
    """cp -p, tar and unzip give a file the time that it had elsewhere."""
    file, jobs = tmp_path / "a.csv", client.app.state.jobs
    file.write_text(REVIEWS, encoding="utf-8")
    client.get(f"/data?source={file}")
    wait(jobs, jobs.all()[0].id)
    file.write_text(REVIEWS + "又一条,good\n", encoding="utf-8")
    os.utime(file, (1e9, 1e9))
    client.get(f"/data?source={file}")
    wait(jobs, jobs.all()[0].id)
    assert "<span>25</span>" in client.get(f"/data?source={file}").text


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/runs?first=abc", {}, 422),
        ("GET", "/data/rows/x/abc", {}, 422),
        ("GET", "/serve/part/merged", {}, 422),
        ("GET", "/events/x?since=abc", {}, 422),
        ("GET", "/nothing", {}, 404),
        ("GET", "/static/nothing.js", {}, 404),
        ("DELETE", "/runs", {}, 405),
        ("POST", "/machine/move", {}, 422),
        ("POST", "/run/x/stop", {"origin": "http://["}, 403),
        ("POST", "/run/x/stop", {"origin": "http://elsewhere"}, 403),
        ("POST", "/new/check", {"content-length": str(5 << 20)}, 413),
        ("GET", "/runs", {"host": "elsewhere"}, 400),
        ("GET", "/events/x", {"last-event-id": "9" * 5000}, 200),
        ("GET", "/data?source=%00", {}, 422),
        ("GET", "/run/" + "a/" * 3000 + "a", {}, 422),
    ],
)
def test_what_is_refused_says_what_was_found_expected_and_next(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    app = create_app(Settings(tmp_path / "runs", hosts=("127.0.0.1",)))
    client = TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)
    for language in ("en", "zh"):
        answer = client.request(method, path, headers={"accept-language": language, **headers})
        assert answer.status_code == status
        if status == 200:
            continue
        page = answer.text
        assert 'role="alert"' in page
        assert page.count("<br>") >= 2 or page.partition('role="alert">')[2].partition("</p>")[0].count("\n") >= 2
        if status != 422 or "first" in path:
            assert ("应为" in page or "最多" in page) == (language == "zh"), page


def test_the_password_is_asked_by_the_path_that_is_routed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions of starlette make the address with the Host header, which may hold a path: GET /runs, Host: x/static/?"""
    app = create_app(Settings(tmp_path, password="sesame"))
    client = TestClient(app, follow_redirects=False)
    monkeypatch.setattr("starlette.requests.Request.url", property(lambda _: URL("http://x/static/")))
    assert client.get("/runs").status_code == 303
    monkeypatch.setattr("starlette.requests.Request.url", property(lambda _: URL("http://x/health")))
    assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", '{"task": "classification", "num_trainable_params": "many"}'),
        ("summary.json", '{"task": "classification", "plan_error": {"other": 1}}'),
        ("summary.json", '{"task": "classification", "metrics": "good", "peak_memory_bytes": [1]}'),
        ("summary.json", "[" * 100_000),
        ("plan.json", '{"methods": ["x"]}'),
        ("plan.json", "[" * 100_000),
        ("predictions.jsonl", '{"id": "1", "text": [1], "gold": "a", "predicted": "b"}\n'),
        ("predictions.jsonl", "[" * 100_000),
        ("config.yaml", "[1]"),
        ("split.json", "[1]"),
        ("environment.json", "3"),
    ],
)
def test_a_damaged_run_says_so_and_breaks_no_other_page(
    client: TestClient, tmp_path: Path, file: str, content: str
) -> None:
    root = tmp_path / "runs"
    make_run(root, "whole")
    (make_run(root, "broken") / file).write_text(content, encoding="utf-8")
    for path in ("/run/broken", "/compare?runs=broken&runs=whole", "/new?from=broken", "/try?model=broken"):
        answer = client.get(path)
        assert answer.status_code in (200, 422), path
        assert answer.status_code == 200 or answer.text.count("<br>") >= 2, path
    for path in ("/runs", "/run/whole", "/try", "/serve", "/compare"):
        assert client.get(path).status_code == 200, path


def test_the_machine_is_shown_on_a_full_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RunError("No space left")

    monkeypatch.setattr(jobs_module, "write_atomic", full)
    answer = client.get("/machine")
    assert answer.status_code == 200
    assert "No space left" in answer.text


def test_what_a_job_names_in_an_option_is_not_deleted(client: TestClient, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name in ("base", "bas"):
        make_run(root, name)
    file = root / ".web" / "uploads" / "a.csv"
    file.parent.mkdir(parents=True)
    for path in (file, file.with_name("b.csv"), file.with_name("a.csv.gz")):
        path.write_text(REVIEWS, encoding="utf-8")
    words = ["train", f"model={root}/base/model", f'data.train=["{file}", "{file.with_name("b.csv")}#5"]']
    job = client.app.state.jobs.add("train", words, run="new")
    assert client.post("/delete/base", data={"typed": "base"}).status_code == 422
    assert client.post("/data/delete", data={"name": "a.csv"}).status_code == 422
    assert client.post("/data/delete", data={"name": "b.csv"}).status_code == 422
    assert client.post("/data/delete", data={"name": "a.csv.gz"}).status_code == 303
    assert client.post("/delete/bas", data={"typed": "bas"}).status_code == 303
    client.app.state.jobs.stop(job)
    assert client.post("/data/delete", data={"name": "a.csv"}).status_code == 303


def test_an_export_that_is_half_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "mine")
    folder = tmp_path / "exports" / "mine" / "merged"
    folder.mkdir(parents=True)
    (folder / "merge_report.json").write_text("{}")
    exports = Exports(tmp_path, "mine", Jobs(tmp_path / "jobs", tmp_path))
    assert exports.one("merged").state == "done"

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        exports.remove("merged")
    assert exports.one("merged").state != "done"


def test_a_folder_of_runs_that_has_gone_is_no_empty_list(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").rename(tmp_path / "away")
    for path in ("/runs", "/try", "/serve", "/machine", "/compare"):
        answer = client.get(path)
        assert answer.status_code == 422, path
        assert "is not there any more" in answer.text
    assert client.get("/v1/models").status_code == 503
    jobs = client.app.state.jobs
    Jobs.begin(jobs)
    time.sleep(1.3)
    jobs.end()
    assert len(caplog.records) == 1  # not twice a second
    assert not (tmp_path / "runs").exists()
    (tmp_path / "away").rename(tmp_path / "runs")
    assert client.get("/runs").status_code == 200


def test_a_deleted_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    make_run(tmp_path, "mine")
    (tmp_path / "link").symlink_to("mine")
    runs = Runs(tmp_path)
    found = runs.get("link")
    assert found is not None
    runs.delete(found)
    assert not list((tmp_path / ".web" / "deleted").iterdir())
    assert (tmp_path / "mine" / "DONE").exists()


def test_mistakes_beyond_what_is_read_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.web.mistakes._MOST_ROWS", 2)
    path = tmp_path / "predictions.jsonl"
    row = json.dumps({"gold": "a", "predicted": "b", "text": "x", "scores": {"a": 0.1, "b": 0.9}})
    path.write_text(f"{row}\n" * 2)
    assert (mistakes(path, 8).of, mistakes(path, 8).is_cut) == (2, False)
    path.write_text(f"{row}\n" * 3)
    assert (mistakes(path, 8).of, mistakes(path, 8).is_cut) == (2, True)


def test_what_was_deleted_has_not_failed(client: TestClient, tmp_path: Path) -> None:
    job = client.app.state.jobs.add("train", ["--version"], run="mine")
    (job.folder / "started").touch()
    (job.folder / "exit").write_text("0")
    for path in ("/run/mine", "/compare/mine"):
        assert "There is no run mine" in client.get(path).text


def test_a_run_of_a_terminal_is_not_that_of_an_older_job(client: TestClient, tmp_path: Path) -> None:
    import fcntl

    job = client.app.state.jobs.add("train", ["--version"], run="mine")
    client.app.state.jobs.stop(job)
    (make_run(tmp_path / "runs", "mine") / "DONE").unlink()
    with (tmp_path / "runs" / "mine" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        page = client.get("/run/mine").text
    assert "It runs from a terminal" in page
    assert "/run/mine/stop" not in page
    assert "Saving" not in page


def test_events_of_another_file_begin_anew_and_a_torn_line_spoils_none(client: TestClient, tmp_path: Path) -> None:
    path = make_run(tmp_path / "runs", "mine") / "events.jsonl"
    path.write_text('{"event": "log", "step": 1}\n{"event": "log", "step": 2}\n')
    assert line_start(path, 28) == 28
    assert line_start(path, 10) == line_start(path, 999) == 0
    path.write_text('{"event": "stage", "message": "a\u2028b"}\n{"eve\n{"event": "log"}\n', encoding="utf-8")
    sent = client.get("/events/mine", headers={"last-event-id": "10"}).text
    assert "event: reset" in sent
    data = next(line for line in sent.split("\n") if line.startswith("data: ["))
    assert json.loads(data[6:]) == [{"event": "stage", "message": "a\u2028b"}, {"event": "log"}]
    assert lines_from(path, 0)[1] == path.stat().st_size


def test_a_run_that_was_killed_says_so_whatever_its_log_says(client: TestClient, tmp_path: Path) -> None:
    job = client.app.state.jobs.add("train", ["--version"], run="mine")
    (job.folder / "started").touch()
    (job.folder / "log").write_text("encoding 77 training rows")
    (make_run(tmp_path / "runs", "mine") / "DONE").unlink()
    for path in ("/run/mine", "/machine"):
        page = client.get(path).text
        assert "killed" in page
        assert "encoding 77 training rows" in page


def test_the_best_metric_is_first_also_where_low_is_good(client: TestClient, tmp_path: Path) -> None:
    for name, loss in (("middle", 2.0), ("best", 1.0), ("worst", 3.0)):
        make_run(tmp_path / "runs", name, task="causal_lm", metrics={"log_loss": loss})
    make_run(tmp_path / "runs", "none", task="causal_lm", metrics={})
    page = client.get("/runs?sort=metric").text
    assert re.findall(r'href="/run/([^"]+)"', page) == ["best", "middle", "worst", "none"]
