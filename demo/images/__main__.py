"""``python -m demo.images``: build the demo's images that are missing or whose files have changed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from demo.images import base
from demo.images.base import ImageError

REPOSITORY = Path(__file__).resolve().parents[2]
LABEL = "org.habitat.demo.content"
"""Label of an image: the SHA-256 of the files that it was built from."""

_BUILD_SECONDS = 900
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Image:
    """An image: its tag, the folder with its Dockerfile, the Dockerfile's target, and what else goes into it."""

    tag: str
    folder: str
    target: str = ""
    sources: tuple[str, ...] = ()


IMAGES = (
    Image("habitat-demo/postgres:15", "demo/images/postgres"),
    Image(
        "habitat-demo/app:1",
        "demo/images/app",
        sources=("demo/__init__.py", "demo/database.py", "demo/worker.py", "demo/api"),
    ),
    Image("habitat-demo/node:1", "demo/images/node", target="node"),
    Image("habitat-demo/node:1-client", "demo/images/node", target="client"),
)


def context(image: Image, root: Path = REPOSITORY) -> bytes:
    """The files of an image as a tar archive that is the same for the same files: no owners, no times."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in _files(image, root):
            entry = tarfile.TarInfo(str(file.relative_to(root)))
            entry.mode = 0o755 if os.access(file, os.X_OK) else 0o644
            entry.size = file.stat().st_size
            with file.open("rb") as stream:
                tar.addfile(entry, stream)
    return archive.getvalue()


def _files(image: Image, root: Path) -> list[Path]:
    found: list[Path] = []
    for name in (image.folder, *image.sources):
        path = root / name
        found += path.rglob("*") if path.is_dir() else [path]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def content(image: Image, root: Path = REPOSITORY) -> str:
    """What the image's label has to be."""
    return hashlib.sha256(context(image, root) + image.target.encode()).hexdigest()


def is_current(image: Image) -> bool:
    """Whether the engine has the image, built from the files as they are now."""
    found = subprocess.run(
        ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image.tag],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.returncode == 0 and found.stdout.strip() == content(image)


def build(image: Image) -> None:
    """Build an image under its tag. Raises ImageError with the end of what Docker printed."""
    # The host's network, so that a proxy on its loopback address works, too.
    command = ["docker", "build", "--network=host", f"--tag={image.tag}", f"--file={image.folder}/Dockerfile"]
    command += [f"--target={image.target}"] if image.target else []
    command += [f"--build-arg={name}" for name in _PROXIES if name in os.environ]
    command += [f"--build-arg=BASE={base.ensure()}", f"--label={LABEL}={content(image)}", "-"]
    done = subprocess.run(command, input=context(image), capture_output=True, check=False, timeout=_BUILD_SECONDS)
    if done.returncode:
        printed = (done.stdout + b"\n" + done.stderr).decode(errors="replace").strip().splitlines()
        print("\n".join(printed[-20:]), file=sys.stderr)
        raise ImageError(f"{image.tag} was not built, see what Docker printed; is the package mirror reachable?")


def ensure() -> None:
    """Build what is missing or old, one caller at a time. Raises ImageError."""
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        raise ImageError("Docker does not answer; type: .ci/engine")
    runtime = REPOSITORY / ".runtime"
    runtime.mkdir(exist_ok=True)
    with (runtime / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for image in IMAGES:
            if is_current(image):
                continue
            start = time.monotonic()
            build(image)
            print(f"{image.tag} built in {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    try:
        ensure()
    except FileNotFoundError:
        sentence = "There is no docker command; type: .ci/engine"
    except subprocess.TimeoutExpired as error:
        sentence = f"docker build has not ended after {error.timeout:.0f} s"
    except ImageError as error:
        sentence = str(error)
    except KeyboardInterrupt:
        sentence = "Interrupted; the same command goes on from here"
    else:
        return 0
    print(f"Error: {sentence.rstrip('.')}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
