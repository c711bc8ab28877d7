"""What the role of a run could not restore, in words; tests/integration/test_fidelity.py has what is true."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import fidelity, fidelity_query

FOUND = ["event trigger x", "publication y FOR ALL TABLES", "extension z (not trusted)"]


def test_nothing_found_is_fine():
    check = fidelity.judge("habitat", False, [], fidelity.RESTORE)
    assert (check.state, check.text) == ("ok", "role habitat can restore everything that a backup would hold")


@pytest.mark.parametrize(("proof", "state"), [(fidelity.RESTORE, "fail"), (fidelity.READ, "warn")])
def test_what_is_found_is_named(proof, state):
    check = fidelity.judge("habitat", False, FOUND, proof)
    assert check.state == state
    assert check.text == (
        "role habitat cannot restore what the backup would hold: event trigger x, publication y FOR ALL TABLES, "
        "extension z (not trusted)"
    )
    assert check.next.startswith("connect as a superuser")


def test_many_are_cut_and_a_superuser_is_not_told_to_become_one():
    check = fidelity.judge("postgres", True, [f"extension x{n}" for n in range(7)], fidelity.RESTORE)
    assert check.text.endswith("extension x4 and 2 more")
    assert "superuser" not in check.next


@pytest.mark.parametrize(("version", "word"), [(150018, "MEMBER"), (160000, "SET"), (180000, "SET")])
def test_who_may_become_an_owner_is_asked_as_the_server_has_it(version, word):
    text = fidelity_query.text(version)
    assert f"pg_has_role(o.owner, '{word}')" in text
    assert "{" not in text
