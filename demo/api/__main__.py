"""``python -m demo.api``: serve the API on HABITAT_API_HOST (127.0.0.1) and HABITAT_API_PORT (8080)."""

from __future__ import annotations

import os
import sys

from waitress.server import create_server

from demo.api.app import build
from demo.api.health import Health
from demo.database import Database, end_promptly_on_sigterm

THREADS = 8

BOOT_SECONDS = 2.0
"""How long the start waits for a database that is not up yet; after that health says what is wrong."""


def main() -> int:
    end_promptly_on_sigterm()
    address = os.environ.get("HABITAT_API_HOST", "127.0.0.1"), os.environ.get("HABITAT_API_PORT", "8080")
    database = Database("habitat-api")
    health = Health(database)
    try:
        health.wait(BOOT_SECONDS)
        server = create_server(
            build(database, health),
            host=address[0],
            port=int(address[1]),
            threads=THREADS,
            ident=None,
            max_request_body_size=65536,
        )
        server.run()
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        print(f"The API cannot listen on {':'.join(address)}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # What is still under way was never acknowledged; waiting for its threads would only make the stop longer.
    os._exit(status)
