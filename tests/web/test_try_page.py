"""One text and several models: what they answer, what is refused, files, programs under the same address, conversations."""

import csv
import html
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import weitiao
from support.pages import browser, pages
from weitiao.rundir.folder import RunDir
from weitiao.web import guard
from weitiao.web.app import create_app
from weitiao.web.mistakes import mistakes, text_of
from weitiao.web.settings import Settings

TEXT = "很好看的书，孩子喜欢看"
Runs = Mapping[str, RunDir]


@pytest.fixture(scope="module")
def root(served_runs: Runs, writer_runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every task, one that has not ended, one inside a comparison."""
    folder = tmp_path_factory.mktemp("try") / "runs"
    for name in ("reviews", "five", "full", "tags", "numbers", "several", "pairs"):
        shutil.copytree(served_runs[name].path, folder / name)
    for name in ("lora", "full", "prompt"):
        shutil.copytree(writer_runs[name].path, folder / "chat" / name)
    shutil.copytree(served_runs["reviews"].path, folder / "stopped")
    (folder / "stopped" / "DONE").unlink()
    shutil.copytree(served_runs["rs"].path, folder / "both" / "rs-42")
    (folder / "both" / "compare.yaml").write_text("model: x\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(root)), base_url="http://127.0.0.1:7860") as found:
        yield found


def asked(client: TestClient, *models: str, text: str = TEXT, pair: str = "") -> str:
    """The part with the answers."""
    data = {"model": list(models), "text": text, "pair": pair}
    answer = client.post("/try", data=data, headers={"hx-request": "true"})
    assert answer.status_code == 200
    assert "<html" not in answer.text
    return answer.text


def bars(page: str) -> dict[str, str]:
    """Percent by label."""
    found = re.findall(r'<th scope="row">([^<]*)</th>.*?<td class="n">([\d.]+) %</td>', page)
    return {html.unescape(label): percent for label, percent in found}


def percents(probabilities: Mapping[str, float]) -> dict[str, str]:
    return {label: f"{100 * value:.1f}" for label, value in probabilities.items()}


def test_labels_are_those_of_predict(client: TestClient, root: Path) -> None:
    page = asked(client, "reviews", "full", "both/rs-42")
    sections = page.split("<section")[1:]
    assert len(sections) == 3
    for name, section in zip(("reviews", "full", "both/rs-42"), sections, strict=True):
        expected = weitiao.predict(root / name, text=TEXT)[0]
        assert bars(section) == percents(expected["probabilities"])
        assert re.search(rf'class="given"><th scope="row">{expected["label"]}<', section)
        assert re.search(r"\d (ms|s)", section)
    several = weitiao.predict(root / "several", text=TEXT)[0]
    page = asked(client, "several")
    assert bars(page) == percents(several["probabilities"])
    assert page.count('class="given"') == len(several["labels"])


def test_entities_numbers_and_pairs(client: TestClient, root: Path) -> None:
    text = "很好孩子喜欢酒店啊"
    page = asked(client, "tags", text=text)
    expected = weitiao.predict(root / "tags", text=text)[0]["entities"]
    marks = re.findall(r"<mark[^>]*>(.*?)<small>(.*?)</small></mark>", page)
    assert marks == [(one["text"], one["type"]) for one in expected]
    shown = re.search(r'<p class="entities">(.*?)</p>', page)
    assert shown is not None
    assert re.sub(r"<small>.*?</small>|<[^>]+>", "", shown[1]) == text
    number = weitiao.predict(root / "numbers", text=TEXT)[0]["number"]
    assert f'<p class="number">{number:.4g}</p>' in asked(client, "numbers")
    expected = weitiao.predict(root / "pairs", text="很好", text_pair="太差")[0]["probabilities"]
    assert bars(asked(client, "pairs", text="很好", pair="太差")) == percents(expected)
    assert 'name="pair"' in client.get("/try", params={"model": "pairs"}).text


def test_what_is_no_text_is_an_answer_of_its_model(client: TestClient) -> None:
    assert "no visible characters" in asked(client, "reviews", text=" ")
    assert "100,000 at most" in asked(client, "reviews", text="好" * 100_001)
    assert "tokens were not read" in asked(client, "reviews", text="好" * 500)
    page = client.get("/try", params={"model": "reviews", "text": "<script>alert(1)</script>"}).text
    assert "<script>alert" not in page
    assert "<script>alert" not in asked(client, "tags", text="<script>alert(1)</script>")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["reviws"], "Did you mean reviews"),
        (["stopped"], "stopped is unfinished"),
        (["both"], "both is a comparison"),
        (["chat/prompt"], "before the words"),
        (["../runs/reviews"], "There is no finished run"),
        (["/etc"], "There is no finished run"),
        (["reviews", "chat/lora"], "chat/lora writes texts, and reviews labels texts"),
    ],
)
def test_a_name_that_is_none_is_an_error_at_its_field(client: TestClient, names: list[str], said: str) -> None:
    page = client.get("/try", params={"model": names}).text
    field = next(part for part in page.split('<div class="field')[1:] if 'role="alert"' in part)
    assert said in html.unescape(field)
    assert f'value="{names[-1]}"' in field
    assert "aria-invalid" in field


def test_without_htmx_the_whole_page_comes_back(client: TestClient) -> None:
    page = client.post("/try", data={"model": ["reviews"], "text": TEXT}).text
    assert "<html" in page
    assert set(bars(page)) == {"good", "bad"}


def test_a_link_asks_by_itself(client: TestClient) -> None:
    page = client.get("/try", params={"model": ["reviews", "full"], "text": TEXT}).text
    assert re.search(r'id="answers"[^>]*hx-post="/try"[^>]*hx-trigger="load"', page)
    assert f">{TEXT}</textarea>" in page
    assert page.count('type="hidden" name="model"') == 2


def test_lines_give_the_same(client: TestClient, root: Path) -> None:
    page = asked(client, "reviews", text="它's好")
    command, curl, python = (html.unescape(one) for one in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL))
    assert shlex.split(command) == ["weitiao", "predict", str(root / "reviews"), "--text=它's好"]
    words = shlex.split(curl)
    assert words[:2] == ["curl", "http://127.0.0.1:7860/predict"]
    body = json.loads(words[-1])
    assert body == {"model": "reviews", "inputs": "它's好"}
    assert {one["label"] for one in client.post("/predict", json=body).json()} == {"good", "bad"}
    said: list[Any] = []
    exec(python, {"print": said.append})
    assert said[0][0]["label"] in ("good", "bad")
    chat = client.get("/try", params={"model": "chat/lora", "text": "好"}).text
    line = next(
        html.unescape(one) for one in re.findall(r"<pre>(.*?)</pre>", chat, re.DOTALL) if one.startswith("curl")
    )
    body = {**json.loads(shlex.split(line)[-1]), "max_tokens": 4}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_examples_are_the_worst_mistakes(tmp_path: Path) -> None:
    labels = [
        {"text": f"t{i}", "gold": "a", "predicted": given, "scores": {"a": 0.0, "b": score}}
        for i, (given, score) in enumerate([("b", 0.5), ("a", -1.0), ("b", 3.0)])
    ]
    found = mistakes(written(tmp_path, *labels), 1)
    assert ([row["text"] for row in found.rows], found.wrong, found.of) == (["t2"], 2, 3)
    numbers = [{"text": f"t{i}", "gold": 1.0, "predicted": value} for i, value in enumerate((1.5, 4.0, 1.0))]
    assert [row["text"] for row in mistakes(written(tmp_path, *numbers), 9).rows] == ["t1", "t0"]
    chats = [
        {"messages": [{"role": "user", "content": f"q{i}"}], "loss_sum": loss, "num_targets": 10, "num_first_choice": 1}
        for i, loss in enumerate((5.0, 50.0))
    ]
    assert [text_of(row) for row in mistakes(written(tmp_path, *chats), 9).rows] == ["q1", "q0"]
    tags = {"tokens": ["在", "New", "York", "北"], "gold": ["O", "B", "I", "O"], "predicted": ["O"] * 4}
    assert text_of(mistakes(written(tmp_path, tags), 1).rows[0]) == "在New York北"
    assert mistakes(tmp_path / "none.jsonl", 3).rows == []
    (tmp_path / "predictions.jsonl").write_text("{half", encoding="utf-8")
    assert mistakes(tmp_path / "predictions.jsonl", 3).rows == []


def test_programs_ask_under_the_same_address(client: TestClient) -> None:
    models = {one["id"] for one in client.get("/v1/models").json()["data"]}
    assert {"reviews", "both/rs-42", "chat/lora"} <= models
    assert not {"stopped", "both", "chat/prompt"} & models
    assert client.post("/predict", json={"model": "reviws", "inputs": "好"}).status_code == 404
    assert client.get("/ready").json() == {"status": "ok"}
    assert "POST /classify" in client.get("/docs").text


def test_runs_come_and_go_without_a_restart(client: TestClient, root: Path) -> None:
    body = {"model": "new", "inputs": TEXT}
    assert client.post("/predict", json=body).status_code == 404
    shutil.copytree(root / "five", root / "new")
    time.sleep(0.7)
    assert len(client.post("/predict", json=body).json()) == 5
    shutil.rmtree(root / "new")
    shutil.copytree(root / "reviews", root / "new")  # another run in its place
    time.sleep(0.7)
    assert len(client.post("/predict", json=body).json()) == 2
    shutil.rmtree(root / "new")
    time.sleep(0.7)
    answer = client.post("/predict", json=body)
    assert (answer.status_code, "does not exist" in answer.json()["error"]) == (404, True)
    assert "There is no finished run new" in client.get("/try", params={"model": "new"}).text


def test_with_a_password_a_key_is_needed(tmp_path: Path) -> None:
    settings = Settings(tmp_path, password="sesame", hosts=("127.0.0.1",))
    app = create_app(settings, ("key-1", "key-2"))
    with TestClient(app, base_url="http://127.0.0.1:7860", follow_redirects=False) as found:

        def status(**headers: str) -> int:
            return found.post("/predict", json={"model": "nothing", "inputs": "好"}, headers=headers).status_code

        assert status() == status(authorization="Bearer other") == status(authorization="Basic sesame") == 401
        assert found.get("/v1/models").status_code == found.get("/metrics").status_code == 401
        for key in ("key-1", "key-2", "sesame"):
            assert status(authorization=f"Bearer {key}") == 404, key
        cookie = f"{guard.COOKIE}={guard.session(settings, time.time())}"
        assert status(cookie=cookie) == 404
        assert status(cookie=cookie, **{"sec-fetch-site": "cross-site"}) == 403
        assert status(authorization="Bearer key-1", host="elsewhere") == 400
        assert found.get("/health").status_code == 200
        assert found.get("/try").status_code == 303


def test_torch_comes_with_the_first_question_alone(root: Path) -> None:
    code = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from weitiao.web.app import create_app
from weitiao.web.settings import Settings
with TestClient(create_app(Settings(Path(sys.argv[1])))) as client:
    for path in ("/runs", "/try", "/try?model=reviews", "/serve", "/serve?run=reviews", "/serve?run=chat/lora", "/v1/models",
                 "/health", "/ready", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    assert "torch" not in sys.modules
    assert client.post("/predict", json={"model": "reviews", "inputs": "x"}).status_code == 200
    assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)


def test_an_empty_root(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(tmp_path)), base_url="http://127.0.0.1:7860") as found:
        assert "There is no finished run" in found.get("/try").text
        assert found.get("/v1/models").json() == {"object": "list", "data": []}
        assert found.post("/predict", json={"inputs": "x"}).status_code == 400


def test_a_file_in_and_a_csv_out(client: TestClient, root: Path) -> None:
    rows = f'text\n{TEXT}\n" "\n太差了\n'.encode()
    answer = client.post(
        "/try/file",
        params={"model": "reviews"},
        files={"file": ("../../rows, new.csv", rows)},
        follow_redirects=False,
    )
    found = re.search(r"job=(\w+)", answer.headers["location"])
    assert (answer.status_code, found is not None) == (303, True)
    key = found[1]  # type: ignore[index]
    until = time.monotonic() + 120
    while "hx-trigger" in (page := client.get(f"/try/job/{key}").text):
        assert time.monotonic() < until
        time.sleep(0.3)
    assert "1 of 3 rows have no answer" in page
    answer = client.get(f"/try/file/{key}")
    assert answer.headers["content-disposition"].startswith("attachment")
    told = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    expected = [one["label"] for one in weitiao.predict(root / "reviews", text=[TEXT, "太差了"])]
    assert [row["label"] for row in told if not row["error"]] == expected
    assert len(list((root / ".web" / "uploads").glob("*.csv"))) == 1  # the path in its name leads nowhere
    assert "Download" in client.get("/try", params={"model": "reviews", "job": key}).text
    assert client.get("/try/file/j1").status_code == 422
    refused = client.post("/try/file", params={"model": "nothing"}, files={"file": ("x.csv", b"text\nx\n")})
    assert refused.status_code == 422


def no_fault(found: Any) -> None:
    """Axe has no serious finding, nothing left the machine, no script failed, the page does not scroll sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    violations = axe.Axe().run(found.page).response["violations"]
    assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
    assert found.left == []
    assert found.errors == []
    assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.beyond_test
def test_a_walk_in_a_browser(root: Path) -> None:
    with pages(root) as served, browser(390) as found:
        page = found.page
        page.goto(f"{served.url}/try")
        page.get_by_label("Model", exact=True).fill("reviews")
        page.get_by_label("Model 2").fill("full")
        page.get_by_role("button", name="Choose").click()
        no_fault(found)
        page.locator("a.example").first.click()  # fills the text and asks
        page.locator("#answers section").nth(1).wait_for()
        assert page.get_by_label("Text", exact=True).input_value()
        page.get_by_label("Text", exact=True).fill(TEXT)
        page.get_by_role("button", name="Ask").click()
        page.locator("#answers pre", has_text=TEXT).first.wait_for(state="attached")
        no_fault(found)

        page.goto(f"{served.url}/try?model=chat/lora&model=chat/full")
        assert page.locator(".chat").count() == 3  # and the base beside them
        page.get_by_label("Longest answer").fill("6")
        page.get_by_label("Message").fill("很好看的书？")
        page.get_by_role("button", name="Send").click()
        page.locator(".said", has_text=re.compile("tokens|first words|says nothing")).nth(2).wait_for()
        no_fault(found)
        page.get_by_label("Longest answer").fill("1500")
        page.get_by_label("Message").fill("再说一次")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("button", name="Stop").click()
        page.locator("#send:enabled").wait_for()
        page.get_by_role("button", name="Begin anew").click()
        assert page.locator(".turn").count() == 0
        no_fault(found)
