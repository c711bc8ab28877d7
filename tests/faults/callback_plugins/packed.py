"""A callback that lets the commands of a stand share the modules that Ansible packs for a target.

Every command packs the same ones anew, which is a sixth of what a migration takes. HABITAT_PACKED names the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: packed
type: notification
short_description: Share packed modules among commands
description: For tests only.
requirements: []
"""


class CallbackModule(CallbackBase):
    """Ansible removes its own folder at its end, in which this is a link; it locks a module while it packs it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "packed"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        (Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache").symlink_to(os.environ["HABITAT_PACKED"])
