"""Manifests and the list of backups, without a database."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import dump_files, manifest
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from hypothesis import given
from hypothesis import strategies as st

RUN = "20261122t100211z-k3f"
CONTENT = b"the dump"


def facts(**changes):
    """What is known of a small backup."""
    known = {
        "taken_by": "alice",
        "taken_at": "2026-11-22T10:02:15.120311Z",
        "seconds": 1.5,
        "server_version": "17.10",
        "pg_dump_version": "17.10",
        "dump": {
            "file": f"staging-{RUN}.dump",
            "size": len(CONTENT),
            "sha256": "0" * 64,
            "compression": "zstd",
            "form": "custom",
        },
        "proof": {"kind": "restore", "seconds": 3.5, "restore_seconds": 2.5},
        "globals": {"file": f"staging-{RUN}.globals.sql", "size": 5, "sha256": "2" * 64},
        "tag": None,
        "snapshot": {
            "system_identifier": "7575757575757575757",
            "database_oid": 16384,
            "xmin": "740",
            "xmax": "743",
            "xip": ["740", "741"],
            "lsn": "0/1A2B3C4",
        },
        "database": {
            "name": "habitat",
            "owner": "habitat_owner",
            "encoding": "UTF8",
            "collate": "C.UTF-8",
            "ctype": "C.UTF-8",
            "locale_provider": "c",
            "locale": None,
            "icu_rules": None,
            "environment": "staging",
            "properties": {
                "connection_limit": -1,
                "comment": None,
                "settings": [{"role": None, "name": "work_mem", "value": "64MB"}],
                "acl": [{"grantee": "", "grantor": "habitat_owner", "privilege": "CONNECT", "grantable": False}],
                "tablespace": "pg_default",
                "security_labels": [],
            },
        },
        "ledger_versions": ["01", "9", "10"],
        "schema_sha256": "1" * 64,
        "tables": {"public.members": {"rows": 3, "digest": "-17"}},
        "materialized_views": {"public.totals": {"rows": None}},
        "sequences": {"public.members_id_seq": {"last_value": 3, "is_called": True}},
        "large_objects": {"count": 0, "digest": "0"},
        "roles": ["habitat_owner"],
        "extensions": {"plpgsql": "1.0"},
    }
    return {**known, **changes}


def put(folder: Path, environment="staging", run=RUN, content=CONTENT, **changes) -> Path:
    """A backup in a folder; returns the path of its manifest."""
    identity = f"{environment}-{run}"
    dump = folder / f"{identity}.dump"
    dump.write_bytes(content)
    told = {"file": dump.name, "size": len(content), "sha256": dump_files.digest_of(dump), "compression": "zstd"}
    more = {"file": f"{identity}.globals.sql", "size": 5, "sha256": "2" * 64}
    data = manifest.build(environment, run, **facts(dump={**told, "form": "custom"}, **{"globals": more, **changes}))
    path = folder / f"{identity}.json"
    path.write_text(manifest.to_text(data), encoding="utf-8")
    return path


def damage(path: Path, *keys, to) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    path.write_text(json.dumps(data), encoding="utf-8")


# Ids


def test_backup_id():
    assert manifest.backup_id("staging", RUN) == f"staging-{RUN}"


@pytest.mark.parametrize(
    "environment", ["", "Staging", "1st", "-x", "a/b", "a.b", "staging\n", "x" * 32, "../x", "a b"]
)
def test_environment_of_another_form_is_refused(environment):
    with pytest.raises(BackupError, match=r"env is .* expected"):
        manifest.backup_id(environment, RUN)


@pytest.mark.parametrize(
    "run", ["", "x", RUN.upper(), f"{RUN}\n", f" {RUN}", f"{RUN}x", "20261122t100211z", "20261122t100211z-../", RUN[1:]]
)
def test_run_id_of_another_form_is_refused(run):
    with pytest.raises(BackupError, match=r"run_id is .* expected a form such as"):
        manifest.backup_id("staging", run)


@pytest.mark.parametrize(
    "asked", ["", "../../x", "/etc/passwd", "a/b", "x\n", ";id", "$(id)", "A", ".x", "x" * 5000, "é"]
)
def test_asked_id_of_another_form_is_refused(tmp_path, asked):
    put(tmp_path)
    with pytest.raises(BackupError, match=r"^id is .* expected a backup's id such as"):
        manifest.find_backup(tmp_path, asked)


def test_asked_id_must_be_among_those_of_the_folder(tmp_path):
    put(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    for asked in ("notes", f"staging-{RUN[:-1]}x", f"staging-{RUN}.dump"):
        with pytest.raises(BackupError, match=f"there is no backup {asked} in .* there are: staging-{RUN}"):
            manifest.find_backup(tmp_path, asked)
    assert manifest.find_backup(tmp_path, f"staging-{RUN}").verified


# Names


@pytest.mark.parametrize(
    ("schema", "name", "expected"),
    [
        ("public", "members", "public.members"),
        ("public", "user", "public.user"),
        ("public", "Members", 'public."Members"'),
        ("a.b", 'c"d', '"a.b"."c""d"'),
        ("ünï", "1x", '"ünï"."1x"'),
        ("", " ", '""." "'),
    ],
)
def test_qualified(schema, name, expected):
    assert manifest.qualified(schema, name) == expected


def test_requalified_does_not_care_about_key_words():
    assert manifest.requalified('public."user"') == "public.user" == manifest.requalified("public.user")


@given(st.text(min_size=1).filter(lambda t: "\0" not in t), st.text(min_size=1).filter(lambda t: "\0" not in t))
def test_requalified_understands_every_quoted_name(schema, name):
    text = f"{manifest.quoted(schema)}.{manifest.quoted(name)}"
    assert manifest.requalified(text) == manifest.qualified(schema, name)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_different_names_have_different_keys(one, other):
    assert (manifest.qualified(*one) == manifest.qualified(*other)) == (one == other)


# Versions


def test_versions_are_ordered_by_number_and_other_texts_stand_behind():
    assert manifest.sorted_versions(["10", "9", "by hand", "007", "²"]) == ["007", "9", "10", "by hand", "²"]
    assert manifest.latest_version(["10", "9", "by hand"]) == "10"
    assert manifest.latest_version([]) is None
    assert manifest.latest_version(["by hand"]) is None


# Manifests


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    path = put(tmp_path, taken_by="Zoë", tables={'public."Größe"': {"rows": 1, "digest": "5"}})
    read = manifest.read(path)
    assert read["taken_by"] == "Zoë"
    assert read["tables"] == {'public."Größe"': {"rows": 1, "digest": "5"}}
    assert read == manifest.build("staging", RUN, **{key: value for key, value in read.items() if key in facts()})


def test_what_could_not_be_read_again_is_not_built():
    with pytest.raises(BackupError, match="would have no valid manifest: the manifest's sequences is 'None'"):
        manifest.build("staging", RUN, **facts(sequences=None))


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        (("format",), 1, "the manifest has format 1, this version reads 3"),
        (("format",), "2", "the manifest has format '2', this version reads 3"),
        (("id",), "staging-20261122t100211z-zzz", "the manifest is of 'staging-20261122t100211z-zzz'"),
        (("environment",), "production", f"the manifest is of 'staging-{RUN}'"),
        (("dump", "file"), "../../etc/passwd", "the manifest is of the file '../../etc/passwd'"),
        (("dump", "size"), True, "the manifest's dump.size is 'True'"),
        (("dump", "size"), "8", "the manifest's dump.size is '8'"),
        (("dump", "sha256"), "zz", "the manifest's sha256 is not one"),
        (("dump",), [], "the manifest's dump is missing or not an object"),
        (("taken_at",), "yesterday", "the manifest's taken_at is 'yesterday'"),
        (("ledger_versions",), [7], "the manifest's ledger_versions are not texts"),
        (("ledger_versions",), "07", "the manifest's ledger_versions is '07'"),
        (("snapshot", "database_oid"), "16384", "the manifest's snapshot.database_oid is '16384'"),
        (("snapshot", "xip"), [740], "the manifest's snapshot.xip are not texts"),
        (("database", "locale"), 7, "the manifest's database.locale is '7'"),
        (("database", "properties"), None, "the manifest's database.properties is missing or not an object"),
        (("database", "properties", "acl"), {}, "the manifest's database.properties.acl is '{}'"),
        (("database", "properties", "acl"), [{}], "the manifest's database.properties.acl say: '{}'"),
        (("database", "properties", "settings"), [7], "the manifest's database.properties.settings say: '7'"),
        (
            ("database", "properties", "security_labels"),
            [{"provider": "selinux", "label": None}],
            "the manifest's database.properties.security_labels say: ",
        ),
        (("roles",), [7], "the manifest's roles are not texts"),
        (("large_objects",), 1, "the manifest's large_objects is missing or not an object"),
        (("tables",), [], "the manifest's tables is '[]'"),
        (("tables", "public.members"), {"rows": "3"}, "the manifest's tables say about 'public.members'"),
        (("tables", "public.members", "rows"), True, "the manifest's tables say about 'public.members'"),
        (("sequences", "public.members_id_seq", "is_called"), 1, "the manifest's sequences say about"),
    ],
)
def test_a_broken_manifest_is_a_problem_by_name(tmp_path, keys, value, problem):
    path = put(tmp_path)
    damage(path, *keys, to=value)
    (found,) = manifest.list_backups(tmp_path)
    assert not found.verified
    assert problem in found.problems[0]
    with pytest.raises(BackupError) as refused:
        manifest.read(path)
    assert str(refused.value).startswith(f"backup staging-{RUN} cannot be used: ")


@pytest.mark.parametrize("key", sorted(facts()))
def test_every_key_is_needed(tmp_path, key):
    path = put(tmp_path)
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))
    assert f"the manifest's {key} is missing" in manifest.list_backups(tmp_path)[0].problems[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"null", b"[]", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}", b'"x"', b"{}\0"],
)
def test_a_manifest_that_is_none_is_a_problem(tmp_path, content):
    path = put(tmp_path)
    path.write_bytes(content)
    (found,) = manifest.list_backups(tmp_path)
    assert (found.id, found.verified, found.taken_at) == (f"staging-{RUN}", False, None)
    assert found.problems[0].startswith("the manifest ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
VALID = manifest.build("staging", RUN, **facts())


@given(st.data(), json_values)
def test_no_manifest_whatsoever_makes_the_check_fail(data, value):
    broken = copy.deepcopy(VALID)
    place = broken
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = value
        break
    problems = manifest.problems_of(broken, f"staging-{RUN}")
    assert all(isinstance(problem, str) for problem in problems)
    if not problems:
        manifest.latest_version(broken["ledger_versions"] or ())


# Lists


def test_newest_first_by_the_time_they_were_taken_not_by_name(tmp_path):
    put(tmp_path, run="20261122t100211z-aaa", taken_at="2026-11-22T12:00:00.000000Z")
    put(tmp_path, run="20261123t100211z-bbb", taken_at="2026-11-22T11:00:00.000000Z")
    put(tmp_path, environment="production", taken_at="2026-11-22T11:30:00.000000Z")
    damage(put(tmp_path, run="20261124t100211z-ccc"), "format", to=0)
    found = [backup.id for backup in manifest.list_backups(tmp_path)]
    assert found == [
        "staging-20261122t100211z-aaa",
        f"production-{RUN}",
        "staging-20261123t100211z-bbb",
        "staging-20261124t100211z-ccc",
    ]


def test_a_backup_is_described(tmp_path):
    put(tmp_path)
    assert manifest.list_backups(tmp_path) == [
        manifest.Backup(
            id=f"staging-{RUN}",
            dump=str(tmp_path / f"staging-{RUN}.dump"),
            verified=True,
            problems=(),
            taken_at="2026-11-22T10:02:15.120311Z",
            size=8,
            environment="staging",
            database="habitat",
            ledger_version="10",
            form="custom",
            tag=None,
            proof="restore",
            restore_seconds=2.5,
        )
    ]


def test_other_files_are_ignored(tmp_path):
    put(tmp_path)
    for name in ("package.json", "x.dump", f"staging-{RUN}x.json", f"old-{RUN}.json.part", f"old-{RUN}.dump", "ü.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "folder.json").mkdir()
    assert [backup.id for backup in manifest.list_backups(tmp_path)] == [f"staging-{RUN}"]


def test_no_folder_is_no_backups(tmp_path):
    assert manifest.list_backups(tmp_path / "none") == []


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match=r"the backups in .*/file cannot be listed: Not a directory"):
        manifest.list_backups(tmp_path / "file")


def test_a_dump_that_is_gone_or_cut_is_not_verified(tmp_path):
    path = put(tmp_path)
    dump = path.with_suffix(".dump")
    dump.write_bytes(CONTENT[:-1])
    assert manifest.list_backups(tmp_path)[0].problems == ("the dump has 7 bytes, its manifest says 8",)
    dump.unlink()
    assert manifest.list_backups(tmp_path)[0].problems == ("the dump is missing",)


def test_a_changed_dump_of_the_same_size_is_seen_by_the_check(tmp_path):
    path = put(tmp_path)
    path.with_suffix(".dump").write_bytes(CONTENT[:-1] + b"P")
    assert manifest.list_backups(tmp_path)[0].verified
    (found,) = manifest.list_backups(tmp_path, check=True)
    assert not found.verified
    assert "sha256 is not the manifest's" in found.problems[0]
    assert manifest.find_backup(tmp_path, found.id, check=True) == found
    assert manifest.find_backup(tmp_path, found.id).verified


@pytest.mark.parametrize("name", ["json", "dump"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_regular_files_are_trusted(tmp_path, name, kind):
    path = put(tmp_path).with_suffix(f".{name}")
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    (found,) = manifest.list_backups(tmp_path, check=True)
    assert not found.verified
    what = "is not a regular file" if name == "json" else "is neither a regular file nor a folder"
    if (name, kind) == ("dump", "folder"):
        what = "is in the directory form, its manifest says custom"
    assert found.problems[0].endswith(what)


def test_a_folder_of_files_is_a_dump(tmp_path):
    path = put(tmp_path)
    dump = path.with_suffix(".dump")
    dump.unlink()
    dump.mkdir()
    (dump / "toc.dat").write_bytes(b"PGDMP")
    (dump / "3500.dat.gz").write_bytes(b"rows")
    told = json.loads(path.read_text())["dump"]
    told.update(form="directory", size=9, sha256=dump_files.digest_of(dump))
    damage(path, "dump", to=told)
    assert manifest.list_backups(tmp_path, check=True)[0].verified
    (dump / "3500.dat.gz").write_bytes(b"rowz")
    assert "sha256" in manifest.list_backups(tmp_path, check=True)[0].problems[0]
    (dump / "3500.dat.gz").unlink()
    (dump / "3500.dat.gz").symlink_to(path)
    assert manifest.list_backups(tmp_path)[0].problems == ("3500.dat.gz in the dump's folder is not a regular file",)


def test_the_digest_of_a_folder_is_what_people_can_compute(tmp_path):
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    listed = subprocess.run(["sha256sum", "a", "b"], cwd=tmp_path, capture_output=True, check=True)
    typed = subprocess.run(["sha256sum"], input=listed.stdout, capture_output=True, check=True)
    assert typed.stdout.decode().split()[0] == dump_files.digest_of(tmp_path)
