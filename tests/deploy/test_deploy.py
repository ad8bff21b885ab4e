"""deploy/: what its files say of weitiao is what weitiao has. No container is built here."""

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from weitiao.commands.app import app
from weitiao.serving.app import create_app
from weitiao.serving.metrics import Metrics
from weitiao.serving.registry import Registry
from weitiao.serving.server import END_SECONDS, KEYS
from weitiao.serving.state import Server
from weitiao.serving.workers import Workers

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DEPLOYMENT, SERVICE = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each on one line."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]  # type: ignore[misc]


def said(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def options(words: list[str]) -> dict[str, Any]:
    """What `weitiao WORDS` is understood as."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("weitiao", list(words))
    name, command, rest = command.resolve_command(context, context._protected_args + context.args)
    assert name == "serve"
    return dict(command.make_context(name, rest, parent=context).params)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(Registry([]), Workers())
    made.workers.start()
    yield made
    made.workers.stop()


@pytest.fixture(scope="module")
def paths(server: Server) -> set[str]:
    return {route.path for route in create_app(server).app.routes}


def test_the_image_runs_the_command() -> None:
    assert json.loads(said("ENTRYPOINT")[0]) == ["weitiao"]
    words = json.loads(said("CMD")[0])
    found = options(words)
    assert (found["host"], str(found["port"])) == ("0.0.0.0", said("EXPOSE")[0])
    assert found["roots"] == [Path("/runs")]


def test_the_image_is_pinned_and_not_roots() -> None:
    order = [word for word, _ in instructions()]
    assert order.index("USER") > max(i for i, word in enumerate(order) if word == "RUN")
    assert int(said("USER")[0]) == POD["securityContext"]["runAsUser"] > 0
    installs = [rest for rest in said("RUN") if "pip install" in rest]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in rest for rest in installs)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert re.findall(r"\.\[(\w+)\]", " ".join(installs)) == ["serve"]
    assert "serve" in extras
    assert re.fullmatch(r"python:3\.\d+-slim", said("FROM")[0])


def test_the_image_gets_what_it_copies() -> None:
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [word for rest in said("COPY") for word in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert sorted(f"!{name}" for name in copied) == sorted(line for line in kept if line.startswith("!"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "src"} <= set(copied)  # without them the build fails


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check(status: int, code: int, paths: set[str]) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    assert "/health" in paths
    words = json.loads(said("HEALTHCHECK")[0].partition("CMD ")[2])
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = words[2].replace(":8000/", f":{server.server_port}/")
        done = subprocess.run([sys.executable, words[1], program], capture_output=True)
        server.shutdown()
    assert done.returncode == code


def test_compose() -> None:
    server, prometheus = COMPOSE["services"]["server"], COMPOSE["services"]["prometheus"]
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert KEYS in server["environment"]
    assert "${WEITIAO_METRICS_KEY:?" in server["environment"][KEYS]  # Prometheus's key is one of them
    assert server["ports"] == [f"127.0.0.1:8000:{said('EXPOSE')[0]}"]
    assert server["volumes"][0].endswith(":/runs:ro")
    assert server["volumes"][1] == f"cache:{said('VOLUME')[0]}"
    assert int(server["stop_grace_period"].rstrip("s")) > END_SECONDS
    mounted = [volume.split(":")[0] for volume in prometheus["volumes"] if volume.startswith("./")]
    assert all((DEPLOY / name).is_file() for name in mounted)
    assert set(prometheus["secrets"]) == set(COMPOSE["secrets"])
    assert prometheus["depends_on"]["server"]["condition"] == "service_healthy"


def test_prometheus_asks_the_server_with_a_key(paths: set[str]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] in paths
    assert job["static_configs"] == [{"targets": [f"server:{said('EXPOSE')[0]}"]}]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{next(iter(COMPOSE['secrets']))}"
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} <= mounted


def test_alerts_name_figures_that_exist(server: Server, paths: set[str]) -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    metrics = Metrics(server.workers)
    metrics.requests.labels("/predict", 200).inc()
    metrics.seconds.labels("/predict").observe(1.0)
    samples = {sample.name: sample.labels for family in metrics.registry.collect() for sample in family.samples}
    named = {name for rule in rules for name in re.findall(r"\bweitiao_\w+", rule["expr"])}
    assert len(named) >= 3
    assert named <= set(samples)
    for rule in rules:
        for name, labels in re.findall(r"(weitiao_\w+)\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)=", labels)) <= set(samples[name])
        for one in re.findall(r'path=~"([^"]*)"', rule["expr"]):
            assert set(one.split("|")) <= paths


def test_kubernetes_runs_the_command() -> None:
    found = options(CONTAINER["args"])
    (port,) = CONTAINER["ports"]
    assert found["port"] == port["containerPort"]
    assert found["host"] == "0.0.0.0"
    assert SERVICE["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert mounts[str(found["roots"][0])]["readOnly"]
    assert set(mounts) == {"/runs", said("VOLUME")[0], "/tmp"}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in POD["volumes"]}
    assert [one["name"] for one in CONTAINER["env"]] == [KEYS]


def test_kubernetes_probes_and_end(paths: set[str]) -> None:
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert [probes[name]["path"] for name in probes] == ["/ready", "/ready", "/health"]
    assert {probe["path"] for probe in probes.values()} <= paths
    assert {probe["port"] for probe in probes.values()} == {CONTAINER["ports"][0]["name"]}
    waits = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert POD["terminationGracePeriodSeconds"] > waits + END_SECONDS
    own = CONTAINER["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert {"requests", "limits"} == set(CONTAINER["resources"])


def test_commands_of_the_page_exist() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()]
    assert any(line.startswith("docker build -f deploy/Dockerfile") for line in lines)
    for line in lines:
        for word in shlex.split(line):
            if word.startswith("deploy/"):
                assert (ROOT / word).exists(), line
