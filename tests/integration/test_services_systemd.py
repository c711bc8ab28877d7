"""Services under a real systemd, which runs in a container made of this host's own /usr."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ansible
import pytest

from tests.integration.service_hosts import REPOSITORY, USR, docker, import_image, module, require_engine
from tests.waiting import wait_for

# They need a Docker engine, and their time goes to containers.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]

require_engine()
NEEDED = ("lib/systemd/systemd", "bin/systemctl", "bin/journalctl", "bin/dbus-daemon", "lib/polkit-1/polkitd")
if missing := [name for name in NEEDED if not Path("/usr", name).exists()]:
    pytest.skip(f"this host has no {', '.join(missing)}", allow_module_level=True)

NAME = f"habitat-systemd-{os.getpid()}"
UNITS = "etc/systemd/system"
STEADY = """[Service]
ExecStart=/bin/sh -c 'trap "echo ended; exit 0" TERM; printf "\\\\033[31mred\\\\033[0m\\\\n"; while :; do sleep 0.1; done'
"""
# A mask for what would act on the host rather than on the container.
MASKED = ("systemd-sysctl", "systemd-modules-load", "systemd-udevd", "systemd-udev-trigger", "systemd-logind")
NOBODY_ASKED = "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nvisitor:x:1000:1000::/home/visitor:/bin/sh\n{bus}{polkit}",
    "etc/group": "root:x:0:\nvisitor:x:1000:\nsystemd-journal:x:999:\n",
    "etc/pam.d/systemd-user": NOBODY_ASKED,
    "etc/pam.d/other": NOBODY_ASKED,
    f"{UNITS}/user@.service.d/run.conf": "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
    f"{UNITS}/default.target": "[Unit]\nRequires=basic.target dbus.socket\nAfter=basic.target dbus.socket\n",
    f"{UNITS}/habitat-api.service": STEADY,
    f"{UNITS}/habitat-worker.service": STEADY,
    f"{UNITS}/habitat-bad.service": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo no table members; exit 3'\n",
    f"{UNITS}/habitat-loop.service": "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1000\n",
    "etc/systemd/user/habitat-worker.service": STEADY,
    # Where there is this folder, every user has a journal of their own.
    "var/log/journal/.keep": "",
    "count/systemctl": '#!/bin/sh\necho "$*" >> /tmp/calls\nexec /usr/bin/systemctl "$@"\n',
}
API, WORKER, BAD, LOOP = (f"habitat-{name}.service" for name in ("api", "worker", "bad", "loop"))


def accounts() -> dict[str, str]:
    """The files, with the users that this host's programs want to run as."""
    lines = {one.split(":")[0]: one for one in Path("/etc/passwd").read_text().splitlines(keepends=True)}
    groups = [one for one in Path("/etc/group").read_text().splitlines(keepends=True)]
    found = {"bus": lines.get("messagebus", ""), "polkit": lines.get("polkitd", "")}
    of_them = "".join(one for one in groups if one.split(":")[0] in ("messagebus", "polkitd"))
    return {**FILES, "etc/passwd": FILES["etc/passwd"].format(**found), "etc/group": FILES["etc/group"] + of_them}


class Host:
    """A host that systemd runs, and the module on it."""

    def run(self, *command: str, user: str = "root") -> str:
        return docker("exec", "--user", user, NAME, *command, check=False)

    def __call__(self, state: str, *names: str, user: str = "root", path: str = "", **more) -> dict:
        settings = ["--env=PYTHONPATH=/repository/collections:/packages", "--env=PYTHONDONTWRITEBYTECODE=1"]
        settings += [f"--env=PATH={path}/usr/bin:/bin", f"--user={user}"]
        command = ("docker", "exec", "--interactive", *settings, NAME, "python3")
        return module(*command, manager="systemd", state=state, names=names, **more)

    def states(self, *names: str) -> list[str]:
        return self.run("systemctl", "is-active", *names).split()


@pytest.fixture(scope="module")
def made() -> Iterator[Host]:
    image = f"{NAME}:test"
    import_image(image, accounts())
    mounts = [
        USR,
        f"--volume={REPOSITORY}:/repository:ro",
        f"--volume={Path(ansible.__file__).parents[1]}:/packages:ro",
    ]
    mounts += [
        "--cgroupns=host",
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
        "--tmpfs=/run",
        "--tmpfs=/tmp",
    ]
    mask = [f"systemd.mask={name}.service" for name in MASKED]
    init = ["/usr/lib/systemd/systemd", *mask]
    try:
        docker(
            "run", "--detach", f"--name={NAME}", "--env=container=docker", "--cap-add=SYS_ADMIN", *mounts, image, *init
        )
        host = Host()
        wait_for(lambda: host.run("systemctl", "is-system-running") in ("running", "degraded"))
        yield host
    finally:
        subprocess.run(["docker", "rm", "--force", NAME], capture_output=True, check=False)
        docker("rmi", image)


@pytest.fixture
def host(made) -> Host:
    """api and worker run, the others stand still."""
    made.run("systemctl", "start", API, WORKER)
    made.run("systemctl", "stop", BAD, LOOP)
    return made


def test_what_runs_is_stopped_and_started(host):
    found = host("read", "habitat-api", WORKER, BAD)
    assert (found["changed"], found["running"], found["stopped"]) == (False, [API, WORKER], [BAD])
    assert host("stopped", *found["running"], check=True)["changed"] is True
    assert host.states(API, WORKER) == ["active", "active"]

    wait_for(lambda: all("red" in host.run("journalctl", "-u", name) for name in (API, WORKER)))
    done = host("stopped", *found["running"])
    assert (done["changed"], done["running"], done["stopped"]) == (True, [API, WORKER], [])
    assert host.states(API, WORKER) == ["inactive", "inactive"]
    # The journal may be some milliseconds late.
    wait_for(
        lambda: all(
            {"red", "ended"} <= set(lines) for lines in host("read", API, WORKER, log_lines=50)["logs"].values()
        )
    )
    assert host("stopped", *found["running"])["changed"] is False

    assert host("started", *found["running"])["changed"] is True
    assert host.states(API, WORKER) == ["active", "active"]
    assert host("started", *found["running"])["changed"] is False


def test_no_call_of_systemctl_is_made_that_need_not_be(host):
    for state in ("read", "stopped", "started"):
        host(state, API, WORKER, path="/count:")
    calls = host.run("cat", "/tmp/calls").splitlines()
    assert [next(word for word in call.split() if word[0] != "-") for call in calls] == [
        "show",
        "show",
        "stop",
        "show",
        "show",
        "start",
        "show",
    ]


def test_one_that_does_not_start_is_named_with_what_it_said(host):
    host.run("systemctl", "stop", WORKER)
    failed = host("started", BAD, WORKER)
    assert host.states(WORKER) == ["active"]
    assert (
        f"{BAD} did not start: it does not run (Job for {BAD} failed because the control process exited"
        in failed["msg"]
    )
    assert failed["msg"].endswith(f"; see more of it with: journalctl -u {BAD}")
    wait_for(lambda: "no table members" in host("read", BAD, log_lines=20)["logs"][BAD])
    again = host("started", BAD)["msg"]
    assert f"; the log of {BAD} ends with: no table members; see more" in again, "and not with what systemd says"


def test_one_that_systemd_is_to_start_again_runs_until_it_is_stopped(host):
    host.run("systemctl", "start", LOOP)
    wait_for(lambda: host.states(LOOP) == ["activating"])
    assert host("stopped", LOOP)["running"] == [LOOP]
    assert host.states(LOOP) == ["inactive"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "habitat-wroker",
            "systemd has no unit habitat-wroker.service (system scope): correct habitat-wroker in habitat_services",
        ),
        ("habitat-*", "habitat-* is a pattern: write the units one by one"),
        ("--all", "--all"),
        ("a b", "systemd has no unit a\\x20b.service"),
        ("", "systemctl cannot read the units: "),
        ("x" * 300, "systemctl cannot read the units: "),
    ],
)
def test_a_name_that_systemd_does_not_know_is_an_error(host, name, message):
    assert message in host("stopped", API, name)["msg"]
    assert host.states(API) == ["active"]


def test_without_rights_nothing_is_stopped_and_the_message_says_what_to_allow(host):
    assert host("read", API, user="visitor")["running"] == [API]
    failed = host("stopped", API, WORKER, user="visitor")
    assert failed["msg"].startswith("user visitor may not stop units on this host (Failed to stop habitat-")
    assert "authentication required); set ansible_become" in failed["msg"]
    assert host.states(API, WORKER) == ["active", "active"]
    logs = host("read", API, user="visitor", log_lines=3)["logs"][API]
    assert len(logs) == 1 and logs[0].startswith(
        "(not to be read by visitor, who may if in the group systemd-journal: "
    )


def test_units_of_a_user(host):
    failed = host("read", WORKER, user="visitor", scope="user")
    assert failed["msg"].startswith("the systemd of user visitor does not answer (Failed to connect to bus")
    assert failed["msg"].endswith("loginctl enable-linger visitor")
    host.run("systemctl", "start", "user@1000.service")
    assert host("started", WORKER, user="visitor", scope="user")["stopped"] == [WORKER]
    wait_for(lambda: "red" in host("read", WORKER, user="visitor", scope="user", log_lines=20)["logs"][WORKER])
    found = host("stopped", WORKER, user="visitor", scope="user")
    assert found["running"] == [WORKER]
    assert host("read", WORKER, user="visitor", scope="user")["stopped"] == [WORKER]
    assert host.states(WORKER) == ["active"], "the system's unit of that name is another one"
    assert "has no unit habitat-api.service (user scope)" in host("read", API, user="visitor", scope="user")["msg"]
