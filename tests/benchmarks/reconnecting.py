"""Clients that are always connected: ``python -m tests.benchmarks.reconnecting SOCKET_FOLDER DATABASE CLIENTS``.

Each asks twenty times a second; when its session is ended it connects again at once, and when that is refused, 10 ms
later. They run until they are killed.
"""

from __future__ import annotations

import sys
import threading
import time

import psycopg


def client(host: str, database: str) -> None:
    while True:
        try:
            with psycopg.connect(host=host, user="postgres", dbname=database, autocommit=True) as session:
                while True:
                    session.execute("SELECT 1")
                    time.sleep(0.05)
        except psycopg.Error:
            time.sleep(0.01)


def main(host: str, database: str, clients: str) -> None:
    for _ in range(int(clients)):
        threading.Thread(target=client, args=(host, database)).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
