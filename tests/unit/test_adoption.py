"""Of which environment a database, a backup and a copy are, and what it takes to make them another one's."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import adoption, identity
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import compare
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import Refused

from tests.unit.samples import head, ledger, row

WHAT = "backup production-20261122t100211z-k3f"
PLAIN = {"env": "staging", "adopt_identity": None, "reason": None}
ADOPTING = {"env": "staging", "adopt_identity": "staging", "reason": "slow query"}


@pytest.mark.parametrize("given", [PLAIN, ADOPTING])
@pytest.mark.parametrize("origin", [None, "staging"])
def test_what_is_of_the_environment_is_not_adopted(origin, given):
    assert adoption.adoption(WHAT, origin, given) is None


def test_what_is_of_another_environment_is_adopted_with_a_reason():
    assert adoption.adoption(WHAT, "production", ADOPTING) == {
        "from": "production",
        "to": "staging",
        "reason": "slow query",
    }


@pytest.mark.parametrize(
    "given", [PLAIN, {**ADOPTING, "reason": None}, {**ADOPTING, "reason": ""}, {**ADOPTING, "adopt_identity": "local"}]
)
def test_it_is_refused_without_both_words(given):
    with pytest.raises(Refused) as caught:
        adoption.adoption(WHAT, "production", given)
    assert caught.value.what == f"{WHAT} is of environment production, not of staging"
    assert '-e adopt_identity=staging -e reason="..."' in caught.value.next


@pytest.mark.parametrize("says", [None, "staging"])
def test_a_database_of_the_environment_is_let_through(says):
    assert identity.contradiction(says, "staging") is None
    assert compare([head("01")], ledger(row("01"), environment=says), "staging").refusals == []


def test_a_database_of_another_environment_is_refused_before_all_else():
    found = compare([head("01")], ledger(environment="production", foreign="its column dirty"), "staging")
    (refusal,) = found.refusals
    assert refusal.what == "the database says it is production, env is staging"
    assert refusal.next.startswith("point the inventory of staging at its own database; ")


def test_what_somebody_wrote_into_the_table_does_not_break_the_line():
    what, _, next = identity.contradiction("x\x1b[2J\n" * 100, "st'aging")
    assert what.isprintable()
    assert len(what) < 200
    assert "= 'st''aging'" in next
