"""A callback that lets the commands of a stand share the modules that Ansible packs for a target.

Every command packs the same ones anew, and every task compiles all that is in its module's package: a third of what a
migration takes. HABITAT_PACKED names the folder; what an earlier command has packed there gets its compiled code, too.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import marshal
import os
import zipfile
from dataclasses import replace
from pathlib import Path

from ansible import constants
from ansible.executor.module_common import _CachedModule
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: packed
type: notification
short_description: Share packed modules among commands
description: For tests only.
requirements: []
"""

_UNCHECKED = (1).to_bytes(4, "little")
"""Flags of a pyc that is valid whatever its source is (PEP 552)."""


class CallbackModule(CallbackBase):
    """Ansible removes its own folder at its end, in which this is a link; it locks a module while it packs it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "packed"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        folder = Path(os.environ["HABITAT_PACKED"])
        for path in folder.glob("ansible*"):
            mark = path.with_name(f"compiled {path.name}")
            if not (path.name.endswith((".lock", "-part")) or mark.exists()):
                _compile(path, mark)
        (Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache").symlink_to(folder)


def _compile(path: Path, mark: Path) -> None:
    module = _CachedModule.load(str(path))
    package = zipfile.ZipFile(io.BytesIO(base64.b64decode(module.zip_data)))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as other:
        for part in package.infolist():
            source = package.read(part)
            other.writestr(part, source)
            if part.filename.endswith(".py"):
                head = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
                code = compile(source, part.filename, "exec", dont_inherit=True)
                other.writestr(f"{part.filename}c", head + marshal.dumps(code))
    replace(module, zip_data=base64.b64encode(written.getvalue())).dump(str(path))
    mark.touch()
