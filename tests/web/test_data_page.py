"""/data: what comes in, what a check says of it, and what goes on to a new run."""

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from forms_support import REVIEWS, browser_page, client_of, serious, served, wait
from starlette.testclient import TestClient

from weitiao.config.data import DataConfig
from weitiao.web import sources
from weitiao.web.app import create_app
from weitiao.web.charts import histogram
from weitiao.web.findings import checked, meant, policies, readings
from weitiao.web.settings import Settings
from weitiao.web.sources import stamp
from weitiao.web.uploads import clean
from weitiao.web.words import texts


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(Settings(tmp_path / "runs", upload_bytes=2000)) as found:
        yield found


def upload(client: TestClient, *files: tuple[str, bytes]):
    return client.post("/data/upload", files=[("files", file) for file in files])


def checked_page(client: TestClient, address: str) -> str:
    """The page of a check that has ended."""
    key = re.search(r"/data/(?:result|rows)/(\w+)", client.get(address).text)
    if key is not None:
        wait(client.app.state.jobs, key[1])
    return unescape(client.get(address).text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews.csv", "reviews.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\评论 数据.csv", "评论_数据.csv"),
        (".hidden", "hidden"),
        ("--model=x.csv", "model_x.csv"),
        ("a*b#5?.jsonl", "a_b_5_.jsonl"),
        ("", "data"),
        ("...", "data"),
        ("_.bashrc", "bashrc"),
        ("x" * 300 + ".jsonl.gz", "x" * 191 + ".jsonl.gz"),
        ("评" * 300 + ".csv", "评" * 65 + ".csv"),  # three bytes each
        ("a." + "论" * 100, "a." + "论" * 16),
    ],
)
def test_names_are_cleaned(name: str, expected: str) -> None:
    assert clean(name) == expected


def test_a_name_that_exists_gets_a_number(client: TestClient) -> None:
    addresses = [upload(client, ("a.jsonl.gz", b"x")).headers["location"] for _ in range(3)]
    assert [address.rpartition("%2F")[2] for address in addresses] == ["a.jsonl.gz", "a-2.jsonl.gz", "a-3.jsonl.gz"]


def test_several_files_are_one_source_and_a_test_file_is_for_evaluation(client: TestClient) -> None:
    assert upload(client, ("a.csv", b"x"), ("b.csv", b"y")).headers["location"].count("source=") == 2
    address = upload(client, ("my_test.csv", b"x"), ("my_train.csv", b"y")).headers["location"]
    assert re.search(r"data.eval=[^&]*my_test.csv&source=[^&]*my_train.csv", address)
    assert upload(client, ("latest.csv", b"x"), ("b2.csv", b"y")).headers["location"].count("source=") == 2


def test_a_file_that_is_too_large_leaves_nothing(client: TestClient) -> None:
    refused = upload(client, ("small.csv", b"x"), ("large.csv", b"x" * 3000))
    assert refused.status_code == 422
    assert "large.csv is larger than" in refused.text
    assert list(client.app.state.settings.uploads.iterdir()) == []


@pytest.mark.parametrize("body", [b"", b"--x\r\nbroken", b"--x--\r\n"])
def test_a_broken_form_is_said(client: TestClient, body: bytes) -> None:
    refused = client.post("/data/upload", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert refused.status_code == 422
    assert client.post("/data/upload", json={}).status_code == 422


def test_uploads_are_deleted_by_their_name_alone(client: TestClient) -> None:
    upload(client, ("a.csv", b"x"))
    outside = client.app.state.settings.own / "secret.csv"
    outside.write_text("x")
    for name in ("../secret.csv", "/etc/hosts", ".", ""):
        assert client.post("/data/delete", data={"name": name}).status_code == 422
    assert client.post("/data/delete", data={"name": "a.csv"}).status_code == 303
    assert outside.exists()
    assert not list(client.app.state.settings.uploads.iterdir())


def test_a_source_is_no_option_of_the_command(client: TestClient) -> None:
    refused = client.get("/data", params={"source": "--output=/tmp/x"})
    assert refused.status_code == 422
    assert "begins like an option" in refused.text
    assert client.app.state.jobs.all() == []


def test_a_page_of_another_site_starts_no_check(client: TestClient) -> None:
    picture = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}
    assert client.get("/data?source=nowhere.csv", headers=picture).status_code == 200
    assert client.app.state.jobs.all() == []


def test_a_wrong_option_stands_at_its_field(client: TestClient) -> None:
    refused = client.get("/data", params={"source": "x.csv", "data.max_length": "1"})
    assert refused.status_code == 422
    assert re.search(r'id="error-data-max_length">\s*found 1', refused.text)


def test_the_cuts_of_a_histogram_are_exact() -> None:
    lengths = [3, 3, 4, 7, 9, 9, 9, 20]
    import numpy as np

    counts, edges = np.histogram(lengths, bins=7)
    found = histogram({"counts": counts.tolist(), "edges": edges.tolist()})
    assert [(cut.length, cut.rows) for cut in found.cuts] == [
        (cut.length, sum(n > cut.length for n in lengths)) for cut in found.cuts
    ]
    assert found.cuts[-1].rows == 0
    assert found.cuts[found.nearest(6)].length >= 6
    assert sum(bar.height > 0 for bar in found.bars) == sum(counts > 0)


def test_one_length_alone_is_drawn() -> None:
    found = histogram({"counts": [5], "edges": [9.5, 10.5]})
    assert found.cuts == (found.cuts[0],)
    assert found.cuts[0].rows == 0


def test_policies_say_what_they_lose() -> None:
    report = {
        "findings": [
            {"code": "label_variants", "severity": "error", "count": 4},
            {"code": "duplicates", "severity": "warning", "count": 7},
            {"code": "over_length", "severity": "warning", "count": 2},
        ]
    }
    found = {
        policy.option: policy for policy in policies(report, checked(["data", "check", "x", "data.duplicates=keep"]))
    }
    duplicates = {one.value: (one.loss, one.rows, one.is_current) for one in found["data.duplicates"].choices}
    assert duplicates == {"drop": ("rows", 7, False), "keep": ("none", 0, True)}
    assert {one.value: one.loss for one in found["data.over_length"].choices}["truncate"] == "cut"
    assert [one.value for one in found["data.check"].choices] == ["strict", "warn"]
    report["findings"].append({"code": "conflicts", "severity": "warning", "count": 3})
    assert policies(report, checked(["data", "check", "x"]))[1].choices[0].loss == "most"  # some go as conflicts


def test_every_policy_is_an_option() -> None:
    options = {key.removeprefix("data.policy_data_") for key in texts() if key.startswith("data.policy_data_")}
    assert options <= set(DataConfig.model_fields)


def test_every_finding_has_a_name() -> None:
    """Of all codes that the checks of the data can give."""
    source = Path(create_app.__code__.co_filename).parents[1] / "data"
    text = "".join(path.read_text(encoding="utf-8") for path in source.glob("*findings.py")) + (
        source / "vocabulary.py"
    ).read_text(encoding="utf-8")
    codes = set(re.findall(r'(?:[Ff]inding\(\s*(?:code=)?|code=)"(\w+)"', text)) | {
        "control",
        "replacement",
        "mojibake",
        "single",
        "empty",
        "rejected",
    }
    assert len(codes) > 30
    known = texts()
    assert [code for code in codes if f"findings.{code}" not in known or f"findings.{code}_fix" not in known] == []


def test_damaged_texts_are_shown_as_they_were_meant() -> None:
    assert meant("这家酒店".encode().decode("latin-1")) == "这家酒店"
    assert meant("这家酒店很好".encode().decode("latin-1")[:-1]) == "这家酒店很"  # an example is cut anywhere
    assert meant("锟斤拷") is None


def test_a_file_is_read_in_every_encoding_that_fits(tmp_path: Path) -> None:
    file = tmp_path / "gb.csv"
    file.write_bytes(REVIEWS.encode("gb18030"))
    found = readings(file)
    assert found[0].encoding == "gb18030"
    assert "这家酒店很好" in found[0].text
    assert len({one.text for one in found}) == len(found) > 1
    file.write_text(REVIEWS, encoding="utf-8")
    assert readings(file) == []


def test_a_check_from_upload_to_new_run(client: TestClient) -> None:
    rows = REVIEWS + "这家酒店很好1,good\n房间又脏又吵1,good\n<b>不错</b>,good\n"
    address = upload(client, ("评论.csv", rows.encode())).headers["location"]
    working = client.get(address).text
    assert 'hx-trigger="every 1s"' in working
    shown = checked_page(client, address)
    assert "Repeated texts" in shown
    assert "<code>keep</code>" in shown
    assert 'value="classification"' in shown
    assert "weitiao data check" in shown
    key = re.search(r"/data/rows/(\w+)/0", shown)[1]
    report = client.app.state.jobs.get(key).output()
    number = next(i for i, one in enumerate(report["findings"]) if one["code"] == "conflicts")
    opened = unescape(client.get(f"/data/rows/{key}/{number}").text)
    assert "text: 房间又脏又吵1\nlabel: good" in opened
    assert client.get(f"/data/rows/{key}/99").status_code == 422
    client.cookies.set("weitiao_language", "zh")
    assert "重复文本" in client.get(address).text


def test_a_check_is_made_again_where_the_file_has_changed(client: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(REVIEWS, encoding="utf-8")
    assert "<span>24</span>" in checked_page(client, f"/data?source={file}")
    asked = [job.created for job in client.app.state.jobs.all()]
    client.get(f"/data?source={file}")
    assert [job.created for job in client.app.state.jobs.all()] == asked  # the same words, the same answer
    file.write_text(REVIEWS + "又一条,good\n", encoding="utf-8")
    assert "<span>25</span>" in checked_page(client, f"/data?source={file}")
    assert len(client.app.state.jobs.all()) == 1


def test_errors_of_the_data_are_findings_and_what_cannot_be_read_is_said(client: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("text,label\n好,good\n很好,good\n", encoding="utf-8")
    shown = checked_page(client, f"/data?source={file}")
    assert "One label alone" in shown
    assert "training is refused" in shown
    missing = client.get("/data?source=nowhere.csv").text
    wait(client.app.state.jobs, re.search(r"/data/result/(\w+)", missing)[1])
    key = client.app.state.jobs.all()[-1].id
    assert "No file 'nowhere.csv'" in unescape(client.get(f"/data/result/{key}?source=nowhere.csv").text)


def test_a_visitor_checks_data(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    lines = [
        {"text": f"很好的酒店{i}" + "好" * (i * 7 % 90), "label": "ab"[i % 2] * (1 + 200 * (i == 3))} for i in range(60)
    ]
    file.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*lines, *lines[:5]]), encoding="utf-8"
    )
    with served(tmp_path / "runs") as address, browser_page(390) as (page, wrong):
        page.goto(f"{address}/data")
        assert serious(page) == []
        page.set_input_files("#files", str(file))
        page.click("text=Upload and check")
        page.wait_for_selector("#cut", timeout=60_000)
        before = page.inner_text("#cut-said")
        page.focus("#cut")
        page.keyboard.press("Home")
        after = page.inner_text("#cut-said")
        assert before != after
        assert "rows are longer" in after
        page.click("text=Show the rows >> nth=0")
        page.wait_for_selector(".rows pre")
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.check("input[name='data.duplicates'][value=keep]")
        page.click("text=New run with this data")
        page.wait_for_url("**/new?**")
        assert page.input_value("#data-duplicates") == "keep"
        assert page.input_value("#data-train").endswith("long.jsonl")
        assert wrong == []


def test_a_stamp_sees_every_file_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    files = [tmp_path / "deep" / "er" / "a.csv", tmp_path / "names.txt"]
    for file in files:
        file.write_text(REVIEWS, encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: m\ndata: {{train: {files[0]}}}\noutput: {{dir: o}}\n", encoding="utf-8")
    named = [f"{tmp_path}/deep#5", f"{tmp_path}/**/*.csv", f"{tmp_path}/**/*.csv#3", str(recipe), str(files[1])]
    before = [stamp([source]) for source in named]
    assert "" not in before
    for file in files:
        file.write_text(REVIEWS + "又一条,good\n", encoding="utf-8")
    after = [stamp([source]) for source in named]
    assert [one != other for one, other in zip(before, after, strict=True)] == [True] * 5
    assert stamp(["{% for m in messages %}" * 500]) == ""


def test_a_stamp_of_very_many_files_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a page that asks again and again would begin again and again."""
    monkeypatch.setattr(sources, "_LOOKED_AT", 3)
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("x")
    assert stamp([str(tmp_path)]) == stamp([str(tmp_path)]) != ""


def test_options_that_mean_nothing_to_tags_do_not_hide_the_report() -> None:
    words = ["data", "check", "x", "data.labels=canonical"]
    assert checked(words, "tokens").data.labels == "canonical"
    assert checked(words[:3], "tokens").data.over_length == "window"
