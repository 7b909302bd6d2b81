"""examples/deploy and the Grafana dashboard: what they name is there, and what they run runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from hfs_providers.contract import environment
from hfs_providers.gateway.server import DRAIN_SECONDS
from hfs_providers.testing import LoopbackServer, RateLimited
from hfs_providers.usage.forwarding.url import DatabaseUrl
from tests.gateway.served import Served
from tests.gateway.test_access import listed
from tests.gateway.test_serve import serving

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
DEPLOY = ROOT / "examples" / "deploy"
UNIT = (DEPLOY / "hfs-providers.service").read_text(encoding="utf-8")
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
BOARD = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))


def settings(text: str, folder: Path, home: str) -> dict[str, str]:
    """The variables that are set, with what lies in one folder in another one. There is one client."""
    found = dict(re.findall(r"\b(HFS_\w+)=(\S+)", text))
    assert set(found) == {"HFS_USAGE_DB", "HFS_CLIENTS_FILE"}
    env = {name: value.replace(home, str(folder)) for name, value in found.items()}
    Path(env["HFS_CLIENTS_FILE"]).write_bytes(listed("web"))
    Path(env["HFS_CLIENTS_FILE"]).chmod(0o600)
    return env


def unit(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def test_the_unit_starts_and_stops_the_gateway(tmp_path: Path) -> None:
    env = settings(UNIT, tmp_path, unit("WorkingDirectory"))
    program, command, *options = shlex.split(unit("ExecStart"))
    assert (Path(program).name, command) == ("hfs-providers", "serve")
    with serving(*options, "--demo", env=env) as (process, printed):
        url = printed.split()[1].replace("0.0.0.0", "127.0.0.1").replace("/v1/chat/completions", "")
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == int(unit("SuccessExitStatus"))
    assert int(unit("TimeoutStopSec")) > DRAIN_SECONDS


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    # The program is not installed on this machine.
    path = tmp_path / "hfs-providers.service"
    path.write_text(UNIT.replace(unit("ExecStart").split()[0], sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert "hfs-providers.service" not in done.stderr, done.stderr


def test_the_container_runs_the_gateway(tmp_path: Path) -> None:
    env = settings(CONTAINER, tmp_path, "/data")
    lists = {name: json.loads(value) for name, value in re.findall(r"(ENTRYPOINT|CMD) (\[.*\])", CONTAINER)}
    checks = json.loads(re.findall(r"^HEALTHCHECK CMD (.*)$", CONTAINER, re.MULTILINE)[0])
    assert lists["ENTRYPOINT"] == ["hfs-providers"]
    command, *options = lists["CMD"]
    assert command == "serve"
    with serving(*options, "--demo", env=env) as (_, printed):
        port = re.findall(r":(\d+)/", printed)[0]
        check = [sys.executable, *(part.replace("8321", port) for part in checks[1:])]
        assert subprocess.run(check, check=False).returncode == 0
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0
    (extras,) = re.findall(r"'/source\[(.*)\]'", CONTAINER)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_compose_agrees_with_the_code_and_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    services = COMPOSE["services"]
    gateway, redis, postgres = services["gateway"], services["redis"], services["postgres"]
    build = (DEPLOY / gateway["build"]["context"]).resolve()
    assert (build, build / gateway["build"]["dockerfile"]) == (ROOT, DEPLOY / "Containerfile")
    assert set(gateway["environment"]) == {environment.REDIS, environment.FORWARD}
    own = urlsplit(gateway["environment"][environment.REDIS])
    assert (services[own.hostname], own.port) == (redis, 6379)
    assert gateway["environment"][environment.FORWARD].count(postgres["environment"]["POSTGRES_PASSWORD"]) == 1
    url = gateway["environment"][environment.FORWARD].replace(postgres["environment"]["POSTGRES_PASSWORD"], "secret")
    found = urlsplit(url)
    assert (services[found.hostname], found.port) == (postgres, 5432)
    assert (found.username, found.path) == (postgres["environment"]["POSTGRES_USER"], "/usage")
    assert postgres["environment"]["POSTGRES_DB"] == "usage"
    # What connects to the two is in the container, and reads these addresses.
    (extras,) = re.findall(r"'/source\[(.*)\]'", CONTAINER)
    assert {"redis", "postgres"} <= set(extras.split(","))
    monkeypatch.setattr(DatabaseUrl, "_check_driver", lambda self: None)
    assert "secret" not in repr(DatabaseUrl(url))
    exposed = re.findall(r"^EXPOSE (\d+)$", CONTAINER, re.MULTILINE)
    assert [each.split(":")[1:] for each in gateway["ports"]] == [[port, port] for port in exposed] == [["8321"] * 2]
    folders = re.findall(r"^VOLUME (\S+)$", CONTAINER, re.MULTILINE)
    assert gateway["volumes"] == [f"gateway:{folder}" for folder in folders]
    mounted = {each.split(":")[0] for service in services.values() for each in service.get("volumes", ())}
    assert mounted == set(COMPOSE["volumes"])
    for name in gateway["depends_on"]:
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert int(gateway["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS
    assert gateway["env_file"] == unit("EnvironmentFile")


def test_compose_reads_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no docker compose")
    keys = tmp_path / "keys.env"
    keys.write_text("NUM_GROQ=1\n")
    copy = tmp_path / "compose.yaml"
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    copy.write_text(text.replace(COMPOSE["services"]["gateway"]["env_file"], str(keys)))
    command = [docker, "compose", "-f", str(copy), "config", "--quiet"]
    done = subprocess.run(
        command, env={**os.environ, "POSTGRES_PASSWORD": "secret"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_documents_name_the_files() -> None:
    for path in re.findall(r"examples/deploy/[\w.-]+\w", DOCS):
        assert (ROOT / path).is_file(), path
    assert "examples/deploy/hfs-providers.service" in DOCS
    assert "examples/deploy/Containerfile" in DOCS
    assert "examples/deploy/compose.yaml" in DOCS
    assert "(grafana.json)" in DOCS
    for setting in ("StateDirectory", "User"):
        assert unit(setting) in DOCS


def test_every_metric_and_label_of_the_dashboard_is_served() -> None:
    with LoopbackServer() as server:
        server.script("groq", "*", [], then=RateLimited(retry_after=50))
        with Served(server.env({"groq": 1, "gemini": 1})) as served:
            assert served.ask("groq,gemini").status_code == 200
            page = httpx.get(f"{served.url}/metrics").text
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for name, given in re.findall(r"^(hfs_\w+)(?:\{(.*)\})? ", page, re.MULTILINE):
        labels[name] |= set(re.findall(r'(\w+)="', given))
    asked = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    asked += [each["query"]["query"] for each in BOARD["templating"]["list"] if isinstance(each["query"], dict)]
    assert len(asked) > 10
    named = {name for expression in asked for name in re.findall(r"\bhfs_\w+", expression)}
    assert named <= labels.keys()
    # And it shows all there is, but for when a series began.
    assert {name for name in labels if not name.endswith("_created")} <= named
    for expression in asked:
        for name, given in re.findall(r"\b(hfs_\w+)\{(.*?)\}", expression):
            assert set(re.findall(r"(\w+)[=!]", given)) <= labels[name], expression
        (name, *_) = re.findall(r"\bhfs_\w+", expression)
        for group in re.findall(r"by \((.*?)\)", expression):
            assert set(group.split(", ")) - {"instance"} <= labels[name], expression


def test_panels_have_names_and_places_of_their_own() -> None:
    panels = BOARD["panels"]
    for field in ("id", "title", "gridPos"):
        values = [json.dumps(panel[field]) for panel in panels]
        assert len(set(values)) == len(values), field
