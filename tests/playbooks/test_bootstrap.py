"""bootstrap.yml as an operator types it: a host without folders and a database that belongs to a superuser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.playbooks.conftest import Finished, Operator

pytestmark = pytest.mark.long


@pytest.fixture
def bootstrap(operator: Operator, tmp_path: Path):
    """Run bootstrap.yml; its folders are under ``tmp_path``."""

    def run(*arguments: str, **variables: object) -> Finished:
        stack = operator.stack
        place = {"login_host": "", "login_unix_socket": stack.socket_folder, "login_user": stack.superuser}
        own = {
            "habitat_postgres_admin": place,
            "habitat_writer_passwords": {stack.app_user: stack.app_password},
            "habitat_state_dir": str(tmp_path / "new" / "state"),
            "habitat_backup_dir": str(tmp_path / "backups"),
            **variables,
        }
        done = operator.run("playbooks/bootstrap.yml", "-e", json.dumps(own), *arguments)
        assert not {word for word in (stack.app_password, stack.owner_password) if word in done.screen}
        return done

    return run


def test_a_host_is_made_ready_once(operator, bootstrap, tmp_path):
    operator.stop_service("habitat:")
    operator.execute("ALTER DATABASE habitat OWNER TO postgres")
    operator.execute("CREATE TABLE old ()")
    predicted = bootstrap("--check", "--diff")
    assert predicted.code == 0, predicted.screen
    assert 'ALTER TABLE public.old OWNER TO "habitat";' in predicted.screen
    assert list(tmp_path.iterdir()) == []
    first = bootstrap()
    assert (first.code, first.changed["habitat-local"]) == (0, predicted.changed["habitat-local"]), first.screen
    assert "table public.old to habitat" in first.screen
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "new" / "state", tmp_path / "backups")] == [0o700] * 2
    again = bootstrap("-vvv")
    assert (again.code, set(again.changed.values())) == (0, {0}), again.screen
    operator.start_service("habitat:")


def test_what_is_missing_is_named_before_the_database_is_touched(operator, bootstrap, tmp_path):
    (tmp_path / "backups").write_text("")
    done = bootstrap()
    assert done.code != 0
    assert f"{tmp_path / 'backups'} is not a folder; move it away" in done.screen
    no_python = bootstrap("-e", "ansible_python_interpreter=/nowhere/python3")
    assert "habitat-local has no Python 3.9 or later at /nowhere/python3; install one there" in no_python.screen
    venv = bootstrap(habitat_bootstrap_venv=str(tmp_path / "venv"))
    assert f"write ansible_python_interpreter: {tmp_path}/venv/bin/python into the inventory" in venv.screen
    for one in (done, no_python, venv):
        assert "Traceback" not in one.screen
        assert one.changed["habitat-local"] == 0
