"""salvage.yml: what was written between a backup and its rollback comes back from the kept database."""

from __future__ import annotations

import re
import stat
import subprocess
from typing import Any

import pytest

MEMBERS = "SELECT display_name, email FROM members ORDER BY 1"


def kept(operator: Any) -> list[str]:
    query = "SELECT datname FROM pg_database WHERE datname LIKE 'habitat\\_before\\_%' ORDER BY 1"
    return [name for (name,) in operator.query(query)]


def copies(operator: Any) -> list[str]:
    return [name for (name,) in operator.query("SELECT datname FROM pg_database WHERE datname ~ '^habitat_[a-z]+_2'")]


@pytest.mark.long
def test_rows_written_before_a_rollback_come_back(at_05):
    at_05.stop_service("habitat:worker")
    at_05.execute(
        "INSERT INTO members (display_name, email) SELECT 'm' || i, 'm' || i || '@x.org' FROM generate_series(1, 9) i"
    )
    assert at_05.run("migrate.yml").code == 0
    at_05.execute("CREATE TABLE notes (text text); INSERT INTO notes VALUES ('a'); ALTER TABLE notes OWNER TO habitat")
    at_05.execute(
        "INSERT INTO members (display_name, email) SELECT 'n' || i, 'n' || i || '@x.org' FROM generate_series(1, 30) i"
    )
    at_05.execute(
        "UPDATE members SET display_name = 'was m1' WHERE email = 'm1@x.org'; DELETE FROM members WHERE email IN ('m2@x.org')"
    )
    at_05.execute(
        "INSERT INTO email_verifications (member_id, email, token, expires_at) SELECT id, email, id::text, now() FROM members LIMIT 3"
    )
    wanted = at_05.query(MEMBERS)
    back = at_05.run("rollback.yml", "-e", "backup=latest")
    assert back.code == 0, back.screen
    (former,) = kept(at_05)
    command = f"ansible-playbook playbooks/salvage.yml -e env=local -e kept={former}"
    assert command in back.screen
    at_05.execute("UPDATE members SET display_name = 'changed since' WHERE email = 'm3@x.org'")
    with at_05.connect(former) as session:
        session.execute("UPDATE members SET display_name = 'before' WHERE email = 'm3@x.org'")

    found = at_05.run("playbooks/salvage.yml")
    assert found.code == 0, found.screen
    assert re.search(r"public\.members +30 +2 +1\n", found.screen), found.screen
    assert "table public.email_verifications is not in the backup: 3 rows" in found.screen
    assert "table public.notes is not in the backup: 1 row" in found.screen
    path = at_05.runtime / "backups" / f"{former}.sql"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert at_05.stack.owner_password.encode() not in path.read_bytes()
    assert copies(at_05) == [former]
    assert at_05.query("SELECT count(*) FROM members WHERE email LIKE 'n%'") == [(0,)]

    done = at_05.run("playbooks/salvage.yml", "-e", f"kept={former}", "-e", "import=true")
    assert done.code == 0, done.screen
    assert re.search(r"IMPORT +32 of 33 rows brought back into habitat, 1 left alone", done.screen), done.screen
    assert copies(at_05) == [former]
    assert at_05.query(MEMBERS) == sorted(
        ("changed since", email) if email == "m3@x.org" else (name, email) for name, email in wanted
    )
    again = at_05.run("playbooks/salvage.yml", "-e", "import=true")
    assert re.search(
        r"IMPORT +0 of 33 rows brought back into habitat, 32 had come back before, 1 left alone", again.screen
    )

    typed = re.search(r"or, on \S+: (psql .*)", found.screen)
    assert typed, found.screen
    environment = {"PGPASSWORD": at_05.stack.owner_password, "PATH": at_05.stack.bin_dir}
    psql = subprocess.run(typed[1], shell=True, env=environment, text=True, capture_output=True, check=False)  # noqa: S602
    assert (psql.returncode, psql.stderr) == (0, "")
    at_05.start_service("habitat:worker")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no database is kept from before a rollback of habitat"),
        (["kept=habitat"], "a kept database's name is as in"),
    ],
)
def test_what_makes_no_sense_is_refused(at_05, given, words):
    before = copies(at_05)
    done = at_05.run("playbooks/salvage.yml", *[word for one in given for word in ("-e", one)])
    assert done.code == 2
    assert "REFUSED" in done.screen
    assert words in done.screen
    assert copies(at_05) == before


@pytest.mark.long
def test_an_unknown_copy_and_a_backup_that_is_gone_are_refused(at_05):
    at_05.run("playbooks/backup.yml")
    (taken,) = (at_05.runtime / "backups").glob("*.json")
    assert at_05.run("rollback.yml", "-e", f"backup={taken.stem}").code == 0
    (former,) = kept(at_05)
    unknown = at_05.run("playbooks/salvage.yml", "-e", "kept=habitat_before_20261122t100211z-k3f")
    assert unknown.code == 2
    assert "there is no kept database habitat_before_20261122t100211z-k3f" in unknown.screen
    assert f"add -e kept={former}" in unknown.screen
    before = at_05.written()
    checked = at_05.run("playbooks/salvage.yml", "--check", "-e", "import=true")
    assert (checked.code, at_05.written(), copies(at_05)) == (0, before, [former]), checked.screen
    taken.unlink()
    gone = at_05.run("playbooks/salvage.yml")
    assert gone.code == 2
    assert "there is no backup local-" in gone.screen
    assert "add -e backup=ID" in gone.screen
    assert copies(at_05) == [former]
