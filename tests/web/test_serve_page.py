"""Models in memory and the figures of what is asked; a run merged and exported by jobs, with what was measured."""

import html
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.pages import browser, pages
from weitiao.adapters.merge import merge
from weitiao.errors import WeitiaoError
from weitiao.exporting.export import export
from weitiao.rundir.folder import RunDir
from weitiao.web.app import create_app
from weitiao.web.exports import KINDS, Exports
from weitiao.web.jobs import Jobs
from weitiao.web.settings import Settings

Runs = Mapping[str, RunDir]


@pytest.fixture(scope="module")
def root(served_runs: Runs, writer_runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "runs"
    for name in ("reviews", "full", "tags"):
        shutil.copytree(served_runs[name].path, folder / name)
    for name in ("lora", "dora", "prompt"):
        shutil.copytree(writer_runs[name].path, folder / "chat" / name)
    return folder


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(root)), base_url="http://127.0.0.1:7860") as found:
        yield found


def row(page: str, name: str) -> str:
    return next(part for part in page.split("<tr>") if f">{name}</a>" in part)


def test_models_are_loaded_and_let_go(client: TestClient) -> None:
    assert "No model has been asked yet" in client.get("/serve").text
    assert ">on disk<" in row(client.get("/serve/models").text, "reviews")
    confirm = client.get("/serve/load/confirm", params={"model": "reviews"}).text
    assert re.search(r"About [\d.]+ [kM]B are read", confirm)
    assert client.post("/serve/load", data={"model": "reviews"}, follow_redirects=False).status_code == 303
    page = client.get("/serve/models").text
    assert ">in memory<" in row(page, "reviews")
    assert re.search(r'class="n">[\d.]+ [kM]?B<', row(page, "reviews"))
    assert "in memory: " in page  # the base
    for _ in range(3):
        assert client.post("/predict", json={"model": "reviews", "inputs": ["好", "坏"]}).status_code == 200
    page = client.get("/serve/models").text
    figures = dict(re.findall(r"<div><span>(.*?)</span><span>(.*?)</span></div>", page))
    assert float(figures["Requests/s, last minute"]) == pytest.approx(3 / 60, abs=0.006)
    assert re.fullmatch(r"\d+ ms|[\d.]+ s", figures["95 % answered, or begun, within"])
    assert (figures["Batches"], figures["Rows a batch"]) == ("3", "2.0")
    assert figures["Batches by how many models they hold"] == "1: 100 %"
    assert "answered first" in client.get("/serve/unload/confirm", params={"model": "reviews"}).text
    client.post("/serve/unload", data={"model": "reviews"})
    page = client.get("/serve/models").text
    assert ">on disk<" in row(page, "reviews")
    assert "in memory: " not in page  # nobody is left on it
    for what, model in (("load", "revews"), ("unload", "revews"), ("explode", "reviews")):
        assert client.get(f"/serve/{what}/confirm", params={"model": model}).status_code == 422
    client.post("/serve/load", data={"model": "chat/lora"})
    assert ">in memory<" in row(client.get("/serve/models").text, "chat/lora")
    client.post("/serve/unload", data={"model": "chat/lora"})


@pytest.mark.parametrize("name", ["reviews", "full", "tags", "chat/lora", "chat/dora", "chat/prompt"])
def test_refusals_are_those_of_the_commands(root: Path, name: str, tmp_path: Path) -> None:
    """Nothing is offered that the command would refuse at once, and nothing refused that it would do."""
    exports = Exports(root, name, Jobs(root / ".web" / "jobs", root))
    for one in exports.all():
        wanted, said = KINDS[one.kind], None
        output = tmp_path / one.kind
        output.mkdir()
        (output / "taken").touch()  # so that the command ends there, before it loads anything
        try:
            if wanted is None:
                merge(root / name, output=output)
            else:
                export(
                    root / name, output=output, format=wanted.format, int8=wanted.int8,  # type: ignore[arg-type]
                    quantization=wanted.quantization, adapter_only=wanted.adapter_only,
                )  # fmt: skip
        except WeitiaoError as error:
            said = str(error)
        assert said is not None
        assert one.refusal == (None if "already exists" in said else said), one.kind


def test_what_is_refused_is_said_and_has_no_button(client: TestClient) -> None:
    page = html.unescape(client.get("/serve", params={"run": "full"}).text)
    assert "which has no adapter" in page
    assert "llama.cpp has no place for the head" in page
    assert set(re.findall(r'name="kind" value="([^"]+)"', page)) == {"safetensors", "onnx", "onnx-int8"}
    answer = client.post("/serve/export", data={"run": "full", "kind": "merged"})
    assert (answer.status_code, "which has no adapter" in answer.text) == (422, True)
    for run, kind in (("full", "zip"), ("revews", "onnx"), ("../x", "onnx")):
        assert client.post("/serve/export", data={"run": run, "kind": kind}).status_code == 422
    field = client.get("/serve", params={"run": "revews"}).text
    assert "Did you mean reviews" in field
    assert "aria-invalid" in field


def made(client: TestClient, run: str, kind: str) -> str:
    """The part of the page once the job has ended."""
    answer = client.post("/serve/export", data={"run": run, "kind": kind}, follow_redirects=False)
    assert answer.headers["location"] == f"/serve?run={run}#{kind}"
    until = time.monotonic() + 180
    while "hx-trigger" in (page := client.get(f"/serve/part/{kind}", params={"run": run}).text):
        assert time.monotonic() < until
        time.sleep(0.3)
    return html.unescape(page)


def test_a_run_is_merged_measured_downloaded_and_removed(client: TestClient, root: Path) -> None:
    page = made(client, "reviews", "merged")
    folder = root / "exports" / "reviews" / "merged"
    report = json.loads((folder / "merge_report.json").read_text(encoding="utf-8"))
    assert f"{report['worst']:.2g}" in page
    assert f"{report['same_predictions']} of {report['compared']}" in page
    assert f"weitiao merge {root / 'reviews'} --output {folder}" in page
    for name in ("config.json", "model.safetensors"):
        got = client.get(f"/serve/file/merged/{name}", params={"run": "reviews"})
        assert got.content == (folder / name).read_bytes()
        assert got.headers["content-disposition"].startswith("attachment")
    for name in ("..%2F..%2F..%2Freviews%2Fconfig.yaml", "nothing"):
        assert client.get(f"/serve/file/merged/{name}", params={"run": "reviews"}).status_code in (404, 422)
    assert "exports" not in re.findall(r'href="/run/([^"/]+)', client.get("/runs").text)
    assert "exports/reviews/merged" not in {one["id"] for one in client.get("/v1/models").json()["data"]}
    (root / "reviews" / "DONE").touch()
    assert "trained again since" in client.get("/serve/part/merged", params={"run": "reviews"}).text
    assert str(folder) in client.get("/serve/remove/confirm", params={"run": "reviews", "kind": "merged"}).text
    client.post("/serve/remove", data={"run": "reviews", "kind": "merged"})
    assert not folder.exists()
    assert 'value="merged"' in client.get("/serve/part/merged", params={"run": "reviews"}).text


REPORTS = {
    "gguf": ({"llama_cpp": None}, "llama.cpp was not run"),
    "gguf-q8_0": ({"llama_cpp": {"same_answers": 3, "answers": 4, "worst": 0.01}}, "3 of 4"),
    "onnx": ({"worst": 1e-6, "tolerance": 1e-4, "same_predictions": None, "compared": 4, "metrics": {"mse": 0.5}}, "1e-06"),
    "onnx-int8": (
        {
            "worst": 1e-6, "tolerance": 1e-4, "same_predictions": 4, "compared": 4, "metrics": {"accuracy": 0.5},
            "int8": {
                "loss": {"accuracy": {"difference": -0.01, "lower": -0.02, "upper": 0.0}},
                "same_predictions": None,
            },
        },
        "-0.0100",
    ),
}  # fmt: skip


@pytest.mark.hand_written
def test_reports_of_every_format_are_shown(tmp_path: Path) -> None:
    """Each format measures something else."""
    run = tmp_path / "one"
    run.mkdir()
    for name in ("config.yaml", "summary.json", "DONE"):
        (run / name).write_text("{}", encoding="utf-8")
    common = {"notes": ["llama.cpp was not run"], "metrics_before": {"accuracy": 0.5, "num_rows": 3}}
    for kind, (report, _) in REPORTS.items():
        folder = tmp_path / "exports" / "one" / kind
        folder.mkdir(parents=True)
        (folder / "export_report.json").write_text(json.dumps(common | report), encoding="utf-8")
    with TestClient(create_app(Settings(tmp_path)), base_url="http://127.0.0.1:7860") as found:
        for kind, (_, said) in REPORTS.items():
            answer = found.get(f"/serve/part/{kind}", params={"run": "one"})
            assert (answer.status_code, said in html.unescape(answer.text)) == (200, True), kind


@pytest.mark.beyond_test
def test_onnx_says_what_int8_loses(client: TestClient, root: Path) -> None:
    page = made(client, "tags", "onnx-int8")
    report = json.loads((root / "exports" / "tags" / "onnx-int8" / "export_report.json").read_text(encoding="utf-8"))
    for name, loss in report["int8"]["loss"].items():
        assert f"int8 − fp32, {name}" in page
        assert f"{loss['difference']:+.4f}" in page


def test_a_job_that_fails_says_why_and_can_be_tried_again(client: TestClient, root: Path) -> None:
    predictions = root / "tags" / "predictions.jsonl"
    whole = predictions.read_text(encoding="utf-8")
    predictions.write_text("", encoding="utf-8")
    page = made(client, "tags", "safetensors")
    predictions.write_text(whole, encoding="utf-8")
    assert "It was not written." in page
    assert "held-out rows" in page
    assert "Try again" in page


@pytest.mark.beyond_test
def test_a_walk_in_a_browser(root: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with pages(root) as served, browser(390) as found:
        page = found.page
        page.goto(f"{served.url}/serve?run=full")
        page.get_by_text("which has no adapter").wait_for()
        violations = axe.Axe().run(page).response["violations"]
        assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("link", name="Load full", exact=True).click()
        page.get_by_role("button", name="Load").click()
        page.get_by_role("link", name="Unload full", exact=True).click()
        page.get_by_role("button", name="Unload").click()
        page.get_by_role("link", name="Load full", exact=True).wait_for()
        assert (found.left, found.errors) == ([], [])
