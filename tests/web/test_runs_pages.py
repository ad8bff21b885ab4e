"""The list of runs and the page of a run, from their files."""

import errno
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from weitiao.rundir.folder import RunDir
from weitiao.web.app import create_app
from weitiao.web.live import lines_from
from weitiao.web.settings import Settings
from weitiao.web.words import texts


@pytest.fixture
def root(served_runs: Mapping[str, RunDir], tmp_path: Path) -> Path:
    """A finished run, one that was stopped, and one inside a comparison."""
    reviews = served_runs["reviews"].path
    shutil.copytree(reviews, tmp_path / "runs" / "group" / "reviews")
    shutil.copytree(reviews, tmp_path / "runs" / "stopped")
    for name in ("DONE", "summary.json"):
        (tmp_path / "runs" / "stopped" / name).unlink()
    shutil.copytree(reviews, tmp_path / "runs" / "both" / "lora-42")
    (tmp_path / "runs" / "both" / "compare.yaml").write_text("model: x\n", encoding="utf-8")
    return tmp_path / "runs"


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(root)), base_url="http://127.0.0.1:7860") as found:
        yield found


def test_the_list_has_runs_and_comparisons_but_not_their_parts(client: TestClient) -> None:
    page = client.get("/runs").text
    assert set(re.findall(r'href="/run/([^"]+)"', page)) == {"group/reviews", "stopped"}
    assert set(re.findall(r'href="/compare/([^"]+)"', page)) == {"both"}
    assert "accuracy" in page


def test_it_is_filtered_and_sorted_on_the_server(client: TestClient) -> None:
    part = client.get("/runs", params={"state": "unfinished"}, headers={"hx-request": "true"}).text
    assert "<html" not in part
    assert re.findall(r'href="/run/([^"]+)"', part) == ["stopped"]
    assert "No run fits" in client.get("/runs", params={"text": "no such words"}).text
    by_name = client.get("/runs", params={"sort": "name"}).text
    assert by_name.index("both") < by_name.index("group/reviews") < by_name.index("stopped")


def test_a_changed_file_is_read_again(client: TestClient, root: Path) -> None:
    client.get("/runs")
    path = root / "group" / "reviews" / "summary.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["metrics"]["accuracy"] = 0.1234
    path.write_text(json.dumps(facts), encoding="utf-8")
    assert "0.1234" in client.get("/runs").text


def test_both_languages(client: TestClient) -> None:
    assert "训练记录" in client.get("/runs", headers={"accept-language": "zh-CN,zh;q=0.9"}).text
    answer = client.post(
        "/language", data={"to": "zh"}, headers={"referer": "http://127.0.0.1:7860/runs"}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "http://127.0.0.1:7860/runs")
    assert 'lang="zh-CN"' in client.get("/runs").text
    foreign = client.post(
        "/language", data={"to": "en"}, headers={"referer": "http://elsewhere/x"}, follow_redirects=False
    )
    assert foreign.headers["location"] == "/runs"


def test_every_text_is_there_in_both_languages() -> None:
    for key, found in texts().items():
        assert set(found) == {"en", "zh"}, key
        assert all(found.values()), key
        names = [sorted(re.findall(r"\{(\w+)\}", text)) for text in found.values()]
        assert names[0] == names[1], key


def test_every_text_of_a_template_is_there() -> None:
    from weitiao.web import render

    known = set(texts())
    for path in Path(render.__file__).with_name("templates").glob("*.html"):
        for key in re.findall(r'\bt\("([\w.]+)"(?=[,)])', path.read_text(encoding="utf-8")):
            assert key in known, f"{path.name}: {key}"


def test_a_finished_run_shows_its_figures_mistakes_and_command(client: TestClient) -> None:
    page = client.get("/run/group/reviews").text
    assert "Trained parameters" in page
    assert "Peak memory" in page
    assert "weitiao train" in page


def test_an_unknown_run_names_those_that_are_near(client: TestClient) -> None:
    answer = client.get("/run/group/review")
    assert answer.status_code == 422
    assert "group/reviews" in answer.text


@pytest.mark.parametrize("name", ["../x", "..%2f..%2fetc", ".web", "group/.hidden", "%2fetc"])
def test_names_stay_below_the_root(client: TestClient, name: str) -> None:
    assert client.get(f"/run/{name}").status_code in (404, 422)
    assert client.post(f"/delete/{name}", data={"typed": name}).status_code in (404, 405, 422)


def test_a_link_that_leads_out_is_no_run(client: TestClient, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "stopped", tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    assert client.get("/run/link").status_code == 422
    assert client.post("/delete/link", data={"typed": "link"}).status_code == 422
    assert (tmp_path / "outside" / "config.yaml").is_file()


def test_deleting_wants_the_name(client: TestClient, root: Path) -> None:
    assert "kB" in (asked := client.get("/delete/stopped").text) or "MB" in asked
    assert client.post("/delete/stopped", data={"typed": "stoped"}).status_code == 422
    assert (root / "stopped").is_dir()
    assert client.post("/delete/stopped", data={"typed": "stopped"}, follow_redirects=False).status_code == 303
    assert not (root / "stopped").exists()
    assert not list(root.glob(".deleted*"))


def test_a_running_run_is_not_deleted(client: TestClient, root: Path) -> None:
    import fcntl

    with (root / "both" / "lora-42" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = client.post("/delete/both", data={"typed": "both"})
    assert answer.status_code == 422
    assert "running" in answer.text
    assert (root / "both").is_dir()


def test_what_a_killed_server_left_is_removed_and_what_cannot_be_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(folder))

    left = root / ".web" / "deleted" / "ab"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(b"x")
    with TestClient(create_app(Settings(root)), base_url="http://127.0.0.1:7860") as client:
        assert not left.exists()
        monkeypatch.setattr("weitiao.web.runs.shutil.rmtree", refuse)
        answer = client.post("/delete/stopped", data={"typed": "stopped"})
        assert answer.status_code == 422
        assert "cannot be removed" in answer.text
        assert 'href="/run/stopped"' not in client.get("/runs").text


def test_events_go_on_from_a_byte(client: TestClient, root: Path) -> None:
    path = root / "group" / "reviews" / "events.jsonl"
    whole = client.get("/events/group/reviews").text
    sent = [json.loads(line[6:]) for line in whole.splitlines() if line.startswith("data: [")]
    assert [row for rows in sent for row in rows] == [json.loads(line) for line in path.read_text().splitlines()]
    last = re.findall(r"^id: (\d+)$", whole, re.M)[-1]
    assert int(last) == path.stat().st_size
    assert "event: rows" not in client.get("/events/group/reviews", headers={"last-event-id": last}).text
    with path.open("a") as file:
        file.write('{"event": "late"}\n{"event": "half')
    rest = client.get("/events/group/reviews", headers={"last-event-id": last}).text
    assert '[{"event": "late"}]' in rest
    assert "half" not in rest


def test_a_file_that_got_shorter_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("1\n2\n")
    assert lines_from(path, 0) == (["1", "2"], 4)
    path.write_text("3\n")
    assert lines_from(path, 4) == (["3"], 2)
    assert lines_from(tmp_path / "none", 7) == ([], 0)


def test_resume_asks_for_one_job(client: TestClient) -> None:
    app: Any = client.app
    jobs = app.state.jobs
    jobs.end()  # nothing starts
    for _ in range(2):
        assert client.post("/run/stopped/resume", follow_redirects=False).status_code == 303
    (job,) = jobs.waiting()
    assert job.words[:2] == ("train", "--resume")
    assert job.run == "stopped"
    assert client.post("/run/group/reviews/resume").status_code == 422
    assert "waits until" in client.get("/run/stopped").text
    client.post("/run/stopped/stop")
    assert not jobs.waiting()


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(tmp_path / "none")), base_url="http://localhost") as client:
        page: Any = client.get("/runs").text
    assert "There is no run yet" in page
    assert 'href="/data"' in page


@pytest.mark.parametrize("name", ["h#1", "w?x", "有 空格", "a'b\"c"])
def test_odd_names_lead_to_their_own_pages(client: TestClient, root: Path, name: str) -> None:
    shutil.copytree(root / "stopped", root / name)
    (link,) = [
        one
        for one in re.findall(r'href="(/run/[^"]+)"', client.get("/runs").text)
        if one not in ("/run/stopped", "/run/group/reviews")
    ]
    page = client.get(link)
    assert page.status_code == 200
    (form,) = re.findall(r'action="(/run/[^"]+/resume)"', page.text)
    (delete,) = re.findall(r'href="(/delete/[^"]+)"', page.text)
    client.app.state.jobs.end()  # type: ignore[attr-defined]
    assert client.post(form, follow_redirects=False).status_code == 303
    assert client.app.state.jobs.of_run(name) is not None  # type: ignore[attr-defined]
    assert client.post(delete, data={"typed": name}).status_code == 422  # a job waits for it
    assert (root / name).is_dir()


def test_nothing_is_deleted_by_another_name(client: TestClient, root: Path) -> None:
    (root / "config.yaml").write_text("model: x\n", encoding="utf-8")  # as where the root is a run itself
    (root / "exports" / "a").mkdir(parents=True)
    (root / "exports" / "config.yaml").write_text("model: x\n", encoding="utf-8")
    for path, typed in (("%2e", "."), ("exports", "exports"), ("exports/a", "exports/a"), ("group%2f.", "group/.")):
        assert client.post(f"/delete/{path}", data={"typed": typed}).status_code in (404, 405, 422), path
    assert (root / "exports" / "a").is_dir()
    assert (root / "stopped").is_dir()


@pytest.mark.hand_written
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", b"- a\n"), ("config.yaml", "模型: x\n".encode("gbk")), ("config.yaml", b"label_names: 3\n"),
        ("summary.json", b"[1]"), ("summary.json", b'{"total_seconds": NaN, "metrics": {"accuracy": "x"}}'),
        ("comparison.json", b"[1]"), ("compare.yaml", b"compare: {methods: 3}\n"), ("plan.json", b'{"methods": []}'),
        ("summary.json", b'{"plan_error": null, "tokens_per_s": null}'), ("predictions.jsonl", b"[1]\n"),
    ],
)  # fmt: skip
def test_a_file_of_somebody_else_breaks_no_page(client: TestClient, root: Path, file: str, content: bytes) -> None:
    folder = root / "odd"
    folder.mkdir()
    if not file.startswith("compar"):
        (folder / "config.yaml").write_text("model: x\n", encoding="utf-8")
        (folder / "DONE").touch()
    (folder / file).write_bytes(content)
    for path in ("/runs", "/run/odd", "/compare", "/try", "/serve"):
        assert client.get(path).status_code < 500, path


def test_a_run_may_be_called_as_a_part_of_a_page_is(client: TestClient, root: Path) -> None:
    for part in ("log", "events", "report", "cells", "verify"):
        shutil.copytree(root / "stopped", root / "stopped" / part)
        page = client.get(f"/run/stopped/{part}")
        assert f"<h1>stopped/{part}" in page.text, part
        assert f'data-events="/events/stopped/{part}"' in page.text


def test_odd_offsets_and_long_names(client: TestClient, root: Path) -> None:
    assert client.get("/events/group/reviews", params={"since": -1}).status_code == 200
    assert client.get("/events/group/reviews", headers={"last-event-id": b"\xb2"}).status_code == 200
    for path in ("/run/", "/delete/", "/serve?run=", "/new?from=", "/try?model="):
        assert client.get(path + "x" * 300).status_code < 500, path
    path = root / "group" / "reviews" / "events.jsonl"
    path.write_text(json.dumps({"event": "log", "text": "x" * (2 << 20)}) + "\n", encoding="utf-8")
    assert len(lines_from(path, 0)[0]) == 1
