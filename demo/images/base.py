"""What the images are made from: ``debian:bookworm-slim``, or where no registry answers, the same made with apt.

mmdebstrap fetches Debian's minimal system with this machine's own package sources, proxies and certificates, so it
also works behind a mirror. They stay in the image, because later builds fetch packages with them, too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
OFFICIAL = f"debian:{SUITE}-slim"
OWN = f"habitat-demo/base:{SUITE}"

_PULL_SECONDS = 60
_BUILD_SECONDS = 900
_SETTINGS = re.compile(r"Acquire::(https?::|Check-|Max-ValidTime|Retries|ForceIPv)")
_LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")
_NOT_NEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


class ImageError(Exception):
    """An image cannot be built; the text is one sentence that says what to do."""


def exists(image: str) -> bool:
    """Whether the engine has the image."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def ensure() -> str:
    """Name of an image with Debian's minimal system; it is pulled or made if there is none. Raises ImageError."""
    for image in (OFFICIAL, OWN):
        if exists(image):
            return image
    if _pulled():
        return OFFICIAL
    _make()
    return OWN


def _pulled() -> bool:
    try:
        done = subprocess.run(["docker", "pull", OFFICIAL], capture_output=True, check=False, timeout=_PULL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _make() -> None:
    if shutil.which("mmdebstrap") is None:
        raise ImageError(f"{OFFICIAL} cannot be pulled and mmdebstrap is not installed; type: .ci/engine")
    with tempfile.TemporaryDirectory(prefix="habitat-base-") as folder:
        archive = Path(folder, "root.tar")
        settings = Path(folder, "apt.conf")
        settings.write_text(_apt_settings())
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--aptopt={settings}", *_options(), SUITE]
        _run([*command, str(archive), *_sources()])
        _run(["docker", "import", "--change", 'CMD ["bash"]', str(archive), OWN])


def _options() -> list[str]:
    options = [f"--dpkgopt=path-exclude={path}" for path in _NOT_NEEDED]
    options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io"]
    if _LOCAL_CERTIFICATES.is_dir() and any(_LOCAL_CERTIFICATES.iterdir()):
        # Whoever answers for the mirror's certificate here has to be known in the image, too.
        options += [
            "--include=ca-certificates",
            f"--customize-hook=copy-in {_LOCAL_CERTIFICATES} /usr/local/share",
            '--customize-hook=chroot "$1" update-ca-certificates >/dev/null',
        ]
    return options


def _apt_settings() -> str:
    """This machine's settings of apt that say how to reach a mirror."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return "".join(f"{line}\n" for line in dumped.splitlines() if _SETTINGS.match(line))


def _sources() -> list[str]:
    """This machine's package sources if they are those of the same Debian; else mmdebstrap knows the usual ones."""
    if f"VERSION_CODENAME={SUITE}\n" not in Path("/etc/os-release").read_text():
        return []
    # Those of other publishers would need their keys in the image.
    names = [Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")]
    return [str(name) for name in names if name.is_file() and re.search(r"(?m)^(deb |Types:)", name.read_text())]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise ImageError(f"{command[0]} has not ended after {_BUILD_SECONDS} s; is the mirror reachable?") from None
    if done.returncode:
        last = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise ImageError(f"{command[0]} failed: {last}")
