"""``python -m demo.embedded up|down|destroy|status|seed``, from the root of the repository."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from pathlib import Path
from xmlrpc.client import Fault

import psycopg

from demo.embedded import seed, stack, state

_VERBS = {
    "up": "start the stack; returns when PostgreSQL and the API answer",
    "down": "stop the stack and keep its data",
    "destroy": "stop the stack and remove its data",
    "status": "tell what runs; the exit code is 0 when everything answers",
    "seed": "put members and contributions in, if there are none",
}


def _up(folder: Path) -> int:
    stack.up(folder)
    return _status(folder)


def _down(folder: Path) -> int:
    print("Stopped; the data is kept." if stack.down(folder) else "There is no stack here.")
    return 0


def _destroy(folder: Path) -> int:
    print("Stopped and removed." if stack.destroy(folder) else "There is no stack here.")
    return 0


def _status(folder: Path) -> int:
    well, lines = stack.status(folder)
    print("\n".join(lines))
    return 0 if well else 1


def _seed(folder: Path) -> int:
    members, contributions = seed.seed(folder)
    print(f"{members} members and {contributions} contributions put in." if members else "There are members already.")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.embedded", description="Habitat on this machine alone.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb, what in _VERBS.items():
        verbs.add_parser(verb, help=what)
    run = {"up": _up, "down": _down, "destroy": _destroy, "status": _status, "seed": _seed}
    try:
        # A stop of PostgreSQL that writes much may take a while; an answer that takes longer than this is none.
        socket.setdefaulttimeout(300)
        return run[parser.parse_args().verb](state.runtime_folder())
    except state.StackError as error:
        sentence = str(error)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        sentence = (
            f"{Path(error.cmd[0]).name} failed with exit code {error.returncode}{': ' if last else ''}{''.join(last)}"
        )
    except (OSError, Fault, psycopg.Error) as error:
        sentence = " ".join(str(error).split())
    except KeyboardInterrupt:
        sentence = "Interrupted; the same command goes on from here"
    print(f"Error: {sentence.rstrip('.')}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
