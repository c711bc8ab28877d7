#!/usr/bin/env bash
# AUTHORIZED_KEY: the public key that deploy logs in with. DOCKER_GID: the group of the mounted Docker socket.
# SSH_PORT and SSH_ADDRESS: where sshd listens (2222 on 127.0.0.1, which suits --network host).
set -euo pipefail

if [ -n "${DOCKER_GID:-}" ]; then
  getent group "$DOCKER_GID" >/dev/null || groupadd --gid "$DOCKER_GID" docker
  usermod --append --groups "$(getent group "$DOCKER_GID" | cut -d: -f1)" deploy
fi
if [ -n "${AUTHORIZED_KEY:-}" ]; then
  install -o deploy -g deploy -m 0600 /dev/stdin /home/deploy/.ssh/authorized_keys <<<"$AUTHORIZED_KEY"
fi
install -d -m 0755 /run/sshd
ssh-keygen -q -A
exec /usr/sbin/sshd -D -e -o "ListenAddress=$SSH_ADDRESS" -p "$SSH_PORT"
