"""A real systemd, which runs in a container: a start of the host puts right what it cut off, and the guard's scope."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible_collections.habitat.runbook.plugins.module_utils import guard_program, run_folder

from tests.integration.service_hosts import REPOSITORY, docker
from tests.integration.test_services_systemd import API, NAME, WORKER, host, made  # noqa: F401 - fixtures
from tests.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]

RUN = "20261122t100211z-k3f"
STATE_DIR = "/var/lib/habitat-runbook"
# The first line of a program names Python, but psycopg is elsewhere in this container.
PYTHON = '#!/bin/sh\nPYTHONPATH=/packages exec /usr/bin/python3 "$@"\n'
MANAGER = {"manager": "systemd", "scope": "system", "server_url": None, "folder": None, "file": None}


def unit() -> str:
    """The unit as the role installs it."""
    told = yaml.safe_load((REPOSITORY / "roles/boot_hook/vars/main.yml").read_text())["boot_hook_text"]
    return jinja2.Template(told).render(boot_hook_user="root", boot_hook_state_dir=STATE_DIR)


def left_by_a_run(folder: Path) -> Path:
    """What a run leaves that has stopped both services when the host goes down."""
    folder.mkdir()
    (folder / run_folder.STEP).touch()
    nowhere = {"host": "/nowhere", "port": 5432, "user": "habitat_owner", "connect_timeout": 2}
    run = {"id": RUN, "env": "staging", "database": "habitat", "host": "db1", "operator": "alice", "origin": "desk"}
    told = {**run, "command": "migrate.yml", "inputs": {"env": "staging"}, "container": None, "connect": nowhere}
    run_folder.write_json(folder / run_folder.RUN, told)
    run_folder.note(folder, run_folder.INTENT, "STOP", names=[API, WORKER], manager=MANAGER)
    guard_program.write(folder)
    return folder


def test_a_start_of_the_host_starts_what_a_run_had_stopped(host, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sys, "executable", "/opt/python")
    for name, text in (("unit", unit()), ("python", PYTHON), ("nothing", "[Unit]\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "python").chmod(0o755)
    host.run("mkdir", "-p", STATE_DIR, "/opt")
    docker("cp", str(tmp_path / "unit"), f"{NAME}:/etc/systemd/system/habitat-runbook-boot.service")
    docker("cp", str(tmp_path / "python"), f"{NAME}:/opt/python")
    docker("cp", str(left_by_a_run(tmp_path / RUN)), f"{NAME}:{STATE_DIR}/{RUN}")
    assert (
        "error" not in host.run("systemd-analyze", "verify", "/etc/systemd/system/habitat-runbook-boot.service").lower()
    )
    host.run("systemctl", "stop", API, WORKER)
    # This container's default target is a smaller one than a host's.
    host.run("mkdir", "-p", "/etc/systemd/system/default.target.wants")
    host.run(
        "ln", "-sf", "/etc/systemd/system/habitat-runbook-boot.service", "/etc/systemd/system/default.target.wants/"
    )
    docker("restart", "--time=5", NAME)
    wait_for(lambda: host.states(API, WORKER) == ["active", "active"])
    # Without a server the database's side is not put right, so the run stays on record.
    wait_for(lambda: host.run("cat", f"{STATE_DIR}/reports/{RUN}/report.json"))
    told = json.loads(host.run("cat", f"{STATE_DIR}/reports/{RUN}/report.json"))
    assert (told["outcome"], told["ended_by"]) == ("needs_operator", "the boot hook")
    assert f"Started again: {API}, {WORKER}." in told["state"]
    assert "the database server does not answer" in told["problems"][0]
    assert told["next"] == "ansible-playbook playbooks/resume.yml -e env=staging"
    assert "guard.pyz" in host.run("ls", f"{STATE_DIR}/{RUN}")


def test_the_guard_is_in_a_scope_of_its_own(host):  # noqa: F811
    code = (
        "from ansible_collections.habitat.runbook.plugins.module_utils.run_lock import _in_scope; import subprocess\n"
        "subprocess.Popen(_in_scope('r1', ['sleep', '60']), start_new_session=True)\n"
    )
    settings = ["--env=PYTHONPATH=/repository/collections:/packages", "--env=PYTHONDONTWRITEBYTECODE=1"]
    subprocess.run(["docker", "exec", *settings, NAME, "python3", "-c", code], check=True)
    wait_for(lambda: host.states("habitat-runbook-r1.scope") == ["active"])
    assert "sleep 60" in host.run("systemctl", "status", "habitat-runbook-r1.scope")
    host.run("systemctl", "stop", "habitat-runbook-r1.scope")


def test_a_user_who_does_not_linger_has_no_scope(host):  # noqa: F811
    """It would end with his last login, which other processes do not."""
    code = (
        "from ansible_collections.habitat.runbook.plugins.module_utils.run_lock import _in_scope\n"
        "print(_in_scope('r1', ['sleep', '60'])[0])\n"
    )
    settings = ["--user=visitor", "--env=PYTHONPATH=/repository/collections:/packages"]
    ask = ["exec", *settings, "--env=PYTHONDONTWRITEBYTECODE=1", NAME, "python3", "-c", code]
    assert docker(*ask).strip() == "sleep"
    host.run("mkdir", "-p", "/var/lib/systemd/linger")
    host.run("touch", "/var/lib/systemd/linger/visitor")
    assert docker(*ask).strip() == "systemd-run"
    nameless = [word.replace("visitor", "4321") for word in ask]
    assert docker(*nameless).strip() == "sleep"
    host.run("rm", "/var/lib/systemd/linger/visitor")
