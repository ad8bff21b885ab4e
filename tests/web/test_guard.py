"""Who may ask: passwords, forms of other sites, names of other servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from weitiao.web import guard
from weitiao.web.app import create_app
from weitiao.web.settings import Settings


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(tmp_path, password="sesame", hosts=("127.0.0.1",))
    with TestClient(create_app(settings), base_url="http://127.0.0.1:7860", follow_redirects=False) as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None:
        pass

    monkeypatch.setattr("weitiao.web.pages.entry.asyncio.sleep", at_once)


def test_without_the_password_there_is_only_the_login(client: TestClient) -> None:
    assert client.get("/runs").headers["location"] == "/login"
    assert client.get("/runs", headers={"hx-request": "true"}).status_code == 401
    assert client.post("/delete/x", data={"typed": "x"}).status_code == 401
    assert client.get("/login").status_code == 200
    assert client.get("/static/style.css").status_code == 200


def test_the_password_opens_and_a_new_one_closes(client: TestClient, tmp_path: Path) -> None:
    assert client.post("/login", data={"password": "Sesame"}).status_code == 403
    assert client.post("/login", data={"password": "sesame"}).status_code == 303
    assert client.get("/runs").status_code == 200
    cookie = client.cookies[guard.COOKIE]
    with TestClient(create_app(Settings(tmp_path, password="sesame")), follow_redirects=False) as again:
        assert again.get("/runs", headers={"cookie": f"{guard.COOKIE}={cookie}"}).status_code == 200
    with TestClient(create_app(Settings(tmp_path, password="other")), follow_redirects=False) as changed:
        assert changed.get("/runs", headers={"cookie": f"{guard.COOKIE}={cookie}"}).status_code == 303


def test_a_session_cannot_be_made_up_and_ends(client: TestClient, tmp_path: Path) -> None:
    settings = Settings(tmp_path, password="sesame")
    old = guard.session(settings, 0.0)
    end, _, signature = guard.session(settings, 4e9).partition(".")
    for cookie in ("", "x", old, f"{int(end) + 1}.{signature}", f"{end}."):
        assert client.get("/runs", headers={"cookie": f"{guard.COOKIE}={cookie}"}).status_code == 303, cookie
    assert client.get("/runs", headers={"cookie": f"{guard.COOKIE}={end}.{signature}"}).status_code == 200
    assert (tmp_path / ".web" / "secret").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://elsewhere"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 303),
        ({"origin": "http://127.0.0.1:7860"}, 303),
        ({}, 303),
    ],
)
def test_a_form_of_another_site_changes_nothing(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/login", data={"password": "sesame"}, headers=headers).status_code == status


def test_another_host_is_refused(client: TestClient) -> None:
    assert client.get("/login", headers={"host": "evil.example"}).status_code == 400


def test_no_script_of_elsewhere_may_run(client: TestClient) -> None:
    policy = client.get("/login").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy  # that of default-src


def test_a_failed_page_is_armed_too(tmp_path: Path) -> None:
    app = create_app(Settings(tmp_path, hosts=("127.0.0.1",)))

    @app.get("/fails")
    async def fails() -> None:
        raise ZeroDivisionError

    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        answer = client.get("/fails")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == guard.POLICY
    assert "ZeroDivision" not in answer.text


def test_a_wrong_key_costs_as_much_as_a_wrong_password(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("weitiao.web.api.asyncio.sleep", note)
    assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert slept == [guard.WRONG_SECONDS]
    assert client.get("/v1/models", headers={"authorization": "Bearer sesame"}).status_code == 200
    assert slept == [guard.WRONG_SECONDS]


def test_nobody_fills_the_disk_before_the_password(client: TestClient) -> None:
    big = b"x" * (5 << 20)
    assert client.post("/login", files={"password": ("a", b"x")}).status_code == 413
    assert (
        client.post("/login", content=big, headers={"content-type": "application/x-www-form-urlencoded"}).status_code
        == 413
    )
    assert client.post("/new/check", content=iter([b"x"])).status_code == 413


def test_two_servers_have_one_secret_that_nobody_else_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.os, "chmod", lambda *_: None)  # what is open for a moment is open
    settings = Settings(tmp_path, password="sesame")
    first = guard.session(settings, 4e9)
    assert settings.own.joinpath("secret").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(Path, "is_file", lambda _: False)  # both looked before either wrote
    assert guard.session(settings, 4e9) == first
    assert [path.name for path in settings.own.iterdir()] == ["secret"]
