"""What is kept of the last drill: by database, for its owner alone, and not believed when it is damaged."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.drill_record import FILE, read_last, record

ENTRY = {"id": "local-20261122t100211z-k3f", "at": "2026-11-23T05:00:12.120+00:00", "ok": True, "seconds": 3.2}


def test_every_database_has_its_own(tmp_path):
    assert read_last(tmp_path, "habitat") is None
    record(tmp_path, "habitat", ENTRY)
    record(tmp_path, "other/one", {**ENTRY, "ok": False})
    record(tmp_path, "habitat", {**ENTRY, "seconds": 4.5})
    assert read_last(tmp_path, "habitat") == {**ENTRY, "seconds": 4.5}
    assert read_last(tmp_path, "other/one") == {**ENTRY, "ok": False}
    assert (tmp_path / "reports" / FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "reports").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "[]", '{"habitat": 1}', '{"habitat": {"id": "x"}}', "\x00"])
def test_a_damaged_file_is_no_drill_and_can_be_written_anew(tmp_path, text):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / FILE).write_text(text)
    assert read_last(tmp_path, "habitat") is None
    record(tmp_path, "habitat", ENTRY)
    assert read_last(tmp_path, "habitat") == ENTRY
