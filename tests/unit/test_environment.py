"""The environment that a backup's id implies, before anything else is looked at."""

from __future__ import annotations

import pytest
from ansible.parsing.splitter import parse_kv
from ansible_collections.habitat.runbook.plugins.action.environment import _with_environment, whole_reason
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import Refused, check_environment

from tests.unit.rollbacks import KEPT
from tests.unit.samples import BACKUP_ID
from tests.unit.test_inputs import GROUPS, HOSTVARS


def refused(inputs: dict[str, str]) -> Refused:
    with pytest.raises(Refused) as caught:
        _with_environment(inputs)
    return caught.value


@pytest.mark.parametrize(
    "backup", [BACKUP_ID, f"{BACKUP_ID}.dump", f"backups/{BACKUP_ID}.json", f"/var/backups/habitat/{BACKUP_ID}.dump"]
)
def test_a_backup_names_its_environment(backup):
    assert _with_environment({"backup": backup}) == {"backup": BACKUP_ID, "env": "staging"}


def test_saying_it_once_more_does_no_harm():
    assert _with_environment({"backup": BACKUP_ID, "env": "staging"}) == {"backup": BACKUP_ID, "env": "staging"}


@pytest.mark.parametrize("env", ["production", "stagin", "", "x\x1b[2J" * 50])
def test_another_environment_is_refused(env):
    refusal = refused({"backup": BACKUP_ID, "env": env, "confirm": "production"})
    assert refusal.what == f"backup {BACKUP_ID} is of environment staging"
    assert refusal.found.startswith("env is ")
    assert refusal.next.startswith("leave -e env= out; or, to make it one of ")
    assert all(len(text) < 300 and text.isprintable() for text in refusal.as_data().values())


ADOPTION = {"adopt_identity": "staging", "reason": "slow query"}
PRODUCTIONS = BACKUP_ID.replace("staging", "production")


def test_another_environments_backup_is_adopted_by_the_one_that_is_named():
    typed = {"backup": PRODUCTIONS, "env": "staging", **ADOPTION}
    assert _with_environment(typed) == typed
    assert check_environment(typed, GROUPS, HOSTVARS, None, True) == "staging"


@pytest.mark.parametrize("more", [{}, {"env": "production", "confirm": "production"}])
def test_adopting_into_another_environment_than_the_runs_is_refused(more):
    inputs = _with_environment({"backup": PRODUCTIONS, **ADOPTION, **more})
    with pytest.raises(Refused, match=r"confirm|adopt_identity") as caught:
        check_environment({"confirm": "production", **inputs}, GROUPS, HOSTVARS, None, True)
    assert (caught.value.what, caught.value.found) == ('adopt_identity is "staging"', "env is production")


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("reason=slow query of alice, ticket 12", "slow query of alice, ticket 12"),
        ('reason="slow query"', "slow query"),
        ("reason=slow", "slow"),
    ],
)
def test_a_reason_of_several_words_is_one_text(option, found):
    given = {"env": "staging", **parse_kv(option)}
    assert whole_reason(given, ["env=staging", option]) == {"env": "staging", "reason": found}


def test_what_is_more_than_a_reason_is_left_to_be_refused():
    option = "reason=slow query backup=latest"
    given = parse_kv(option)
    assert whole_reason(given, [option]) == given
    assert "_raw_params" in given


@pytest.mark.parametrize("backup", ["latest", KEPT, "pre-migration-20260210-100000"])
def test_what_names_no_environment_needs_one(backup):
    inputs = _with_environment({"backup": backup})
    assert inputs == {"backup": backup}
    with pytest.raises(Refused, match="no environment given"):
        check_environment(inputs, GROUPS, HOSTVARS, None, True)
    assert _with_environment({"backup": backup, "env": "staging"}) == {"backup": backup, "env": "staging"}


def test_without_a_backup_nothing_is_implied():
    assert _with_environment({"env": "staging", "to": "05"}) == {"env": "staging", "to": "05"}
    assert _with_environment({}) == {}


def test_what_is_implied_is_checked_like_what_was_typed():
    production = _with_environment({"backup": BACKUP_ID.replace("staging", "production")})
    with pytest.raises(Refused, match="production needs to be confirmed"):
        check_environment(production, GROUPS, HOSTVARS, None, True)
    unknown = _with_environment({"backup": BACKUP_ID.replace("staging", "qa")})
    with pytest.raises(Refused, match='env is "qa"'):
        check_environment(unknown, GROUPS, HOSTVARS, None, True)


@pytest.mark.parametrize("backup", ["", "../etc/passwd", "-h", "x" * 5000, "a\nb", "$(reboot)"])
def test_what_is_no_backup_is_refused_before_an_environment_is_guessed(backup):
    assert refused({"backup": backup}).what.startswith("backup is ")
