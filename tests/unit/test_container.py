"""Where a container's database can be reached, from docker's own data; whose folder a bridge is put in."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import bridge, container

ANY = "0.0.0.0"  # noqa: S104
ID = "0123456789abcdef" * 4


def inspected(ports: dict | None = None, mode: str = "habitat_default", **networks: dict) -> dict:
    """The parts of ``docker inspect`` that are read, as Docker Engine 20.10 and 28 write them."""
    return {"HostConfig": {"NetworkMode": mode}, "NetworkSettings": {"Ports": ports, "Networks": networks}}


def network(address: str, address6: str = "") -> dict:
    return {"IPAddress": address, "GlobalIPv6Address": address6}


def published(*places: tuple[str, str]) -> list[dict]:
    return [{"HostIp": host, "HostPort": port} for host, port in places]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path so short that a socket fits into it."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("data", "port", "expected"),
    [
        (
            inspected({"5432/tcp": published((ANY, "15432"), ("::", "15432"))}, a=network("172.18.0.2")),
            5432,
            [("127.0.0.1", 15432), ("::1", 15432), ("172.18.0.2", 5432)],
        ),
        (inspected({"5432/tcp": published(("10.0.0.7", "6000"))}), 5432, [("10.0.0.7", 6000)]),
        (inspected({"5432/tcp": published(("", "6000"))}), 5432, [("127.0.0.1", 6000)]),
        (inspected({"5432/tcp": None}, a=network("172.18.0.2")), 5432, [("172.18.0.2", 5432)]),
        (
            inspected({}, a=network("172.18.0.2"), b=network("172.19.0.2", "fd00::2")),
            5432,
            [("172.18.0.2", 5432), ("172.19.0.2", 5432), ("fd00::2", 5432)],
        ),
        (
            inspected({"5432/tcp": published(("127.0.0.1", "5432"))}, a=network("172.18.0.2")),
            5544,
            [("172.18.0.2", 5544)],
        ),
        (inspected({}, "host", host=network("")), 5544, [("127.0.0.1", 5544)]),
        (inspected({}, "none", none=network("")), 5432, []),
        (inspected(None, "container:abc"), 5432, []),
    ],
)
def test_a_published_port_comes_before_the_networks(data, port, expected):
    assert container.addresses(data, port) == expected


@pytest.mark.parametrize(("given", "port"), [({}, 5432), ({"PGPORT": "5544"}, 5544), ({"PGPORT": "x"}, 5432)])
def test_the_port_inside_is_pgport(given, port):
    assert container.server_port(given) == port


def test_a_folder_that_others_may_write_to_is_never_used(short):
    folder = short / f"habitat-bridge-{os.geteuid()}-{ID[:12]}-5432"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(bridge.BridgeError, match=r"mode 0755 and not to uid \d+ alone; remove it: rm -r /"):
        bridge.open_bridge(ID, 5432, str(short))
    folder.rmdir()
    folder.symlink_to("/root")
    with pytest.raises(bridge.BridgeError, match="remove it"):
        bridge.open_bridge(ID, 5432, str(short))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_never_used(short):
    folder = short / f"habitat-bridge-0-{ID[:12]}-5432"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(bridge.BridgeError, match="belongs to uid 12345"):
        bridge.open_bridge(ID, 5432, str(short))
    assert list(folder.iterdir()) == []


def test_the_sockets_path_always_fits(tmp_path):
    deep = tmp_path / ("d" * 120)
    folder = bridge._folder(ID, 65535, str(deep))
    assert deep not in folder.parents
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):
        probe.connect(str(folder / bridge.SOCKET))  # not "AF_UNIX path too long"


def test_a_refusal_is_a_whole_message_of_the_protocol():
    message = bridge.refusal("gone")
    assert message[:1] == b"E" and struct.unpack(">i", message[1:5])[0] == len(message) - 1
    assert message[5:] == b"SFATAL\0VFATAL\0C08006\0Mgone\0\0"
