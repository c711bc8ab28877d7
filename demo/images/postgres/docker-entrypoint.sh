#!/usr/bin/env bash
# Makes the cluster at the first start, then becomes the server. It follows the official image's entrypoint
# (https://github.com/docker-library/postgres), with one difference: a cluster is complete or not there at all,
# whenever the container was killed.
set -Eeuo pipefail

PART="$PGDATA/.part" # inside the volume, since a rename cannot leave it

fail() {
  echo "Error: $*" >&2
  exit 1
}

# VAR from the environment or from the file that VAR_FILE names.
from_file() {
  local name=$1 file_name="$1_FILE" default=${2:-}
  if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
    fail "both $name and $file_name are set; set one of them."
  fi
  local value=${!name:-$default}
  if [ -n "${!file_name:-}" ]; then
    [ -r "${!file_name}" ] || fail "$file_name names ${!file_name}, which cannot be read."
    value=$(<"${!file_name}")
  fi
  printf -v "$name" '%s' "$value"
  unset "$file_name"
}

settings() {
  from_file POSTGRES_PASSWORD
  from_file POSTGRES_USER postgres
  from_file POSTGRES_DB "$POSTGRES_USER"
  : "${POSTGRES_HOST_AUTH_METHOD:=scram-sha-256}"
  if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
    fail "the superuser has no password; set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" \
      "(or POSTGRES_HOST_AUTH_METHOD=trust, which lets everybody in)."
  fi
}

sql() {
  PGHOST= PGHOSTADDR= psql --no-psqlrc --no-password --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" "$@"
}

run_scripts() {
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) sql --dbname "$POSTGRES_DB" --file "$file" ;;
      *.sql.gz) gunzip -c "$file" | sql --dbname "$POSTGRES_DB" ;;
    esac
  done
}

# The official image's pg_hba.conf: initdb's lines trust the container itself, everybody else needs the password.
# Nothing is worth a sync before the whole is complete.
make_cluster() {
  initdb --no-sync --pgdata "$PART" --username "$POSTGRES_USER" --encoding UTF8 --auth trust \
    ${POSTGRES_PASSWORD:+--pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")} >/dev/null
  printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$PART/pg_hba.conf"
  pg_ctl --pgdata "$PART" --options "-c listen_addresses='' -c fsync=off" --wait start >/dev/null
  if [ "$POSTGRES_DB" != postgres ]; then
    sql --dbname postgres --set database="$POSTGRES_DB" <<<'CREATE DATABASE :"database";'
  fi
  run_scripts
  pg_ctl --pgdata "$PART" --mode fast --wait stop >/dev/null
  initdb --sync-only --pgdata "$PART" >/dev/null
}

# PG_VERSION goes last: without it the folder counts as unfinished.
put_in_place() {
  find "$PART" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
  sync "$PGDATA"
  mv "$PART/PG_VERSION" "$PGDATA/"
  sync "$PGDATA"
}

ensure_cluster() {
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    settings
    if [ -d "$PART" ]; then
      echo "An earlier start did not finish the cluster; it is made again."
      find "$PGDATA" -mindepth 1 ! -path "$PART" -delete
      find "$PART" -mindepth 1 -delete
    elif [ -n "$(ls -A "$PGDATA")" ]; then
      fail "$PGDATA has files in it but no cluster; mount an empty volume."
    fi
    mkdir -p -m 0700 "$PART"
    make_cluster
    put_in_place
    echo "The cluster is ready."
  fi
  rm -rf "$PART"
}

# Like the official image: a first word that is an option belongs to postgres.
if [ "${1:0:1}" = - ]; then
  set -- postgres "$@"
fi
if [ "$1" = postgres ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    find "$PGDATA" ! -user postgres -exec chown postgres:postgres {} +
    chmod 0700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "${BASH_SOURCE[0]}" "$@"
  fi
  # As process 1 the shell would ignore what it does not handle.
  trap 'exit 130' INT TERM
  ensure_cluster
fi
exec "$@"
