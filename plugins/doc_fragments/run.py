# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """Options that the modules of a run share."""

    DOCUMENTATION = r"""
options:
  login_db:
    description: Name of the database that is migrated.
    type: str
    required: true
  env:
    description: Name of the environment; it appears in the commands that messages suggest.
    type: str
    required: true
  run_id:
    description:
      - Id of the run, such as V(20261122t100211z-k3f).
      - Every session of the run has the application_name C(runbook/<run id>).
    type: str
    required: true
  container:
    description:
      - The service of a Docker Compose project in which the database runs, when it runs in one on this host.
      - Address and password are then found on this host by the labels that Compose gives its containers, so
        O(login_host), O(login_port) and O(login_unix_socket) are not looked at.
      - The port is a published one, else that of the container's address on a network.
      - The password is O(login_password). Without it, it is that of the container (E(POSTGRES_PASSWORD), or the file
        that E(POSTGRES_PASSWORD_FILE) names) if O(login_user) is the container's E(POSTGRES_USER), else none.
      - Without O(login_password), and when the server does not accept what was found, the database is reached by its
        socket inside the container, through C(docker exec).
      - When it is empty, the database is reached by O(login_host), O(login_port) or O(login_unix_socket).
    type: dict
    default: {}
    suboptions:
      folder:
        description: Folder of the Compose project, on this host.
        type: str
      file:
        description: The project's file, relative to O(container.folder); several with commas between them.
        type: str
      service:
        description: Name of the database's service.
        type: str
requirements:
  - psycopg >= 3.1
author:
  - The Habitat team (@habitat)
attributes:
  diff_mode:
    description: Will return details on what has changed, or would change in check mode, when in diff mode.
  platform:
    description: Target systems the module runs on.
    platforms: posix
    support: full
"""
