"""What an operator may type behind -e, and what is said about everything else."""

from __future__ import annotations

import datetime

import pytest
import yaml
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import (
    RUN_ID,
    Refused,
    check_environment,
    check_inputs,
    check_required,
    new_run_id,
)
from hypothesis import given
from hypothesis import strategies as st

KNOWN = ["env", "target", "confirm", "output", "to"]
GROUPS = {"local": ["habitat-local"], "staging": ["habitat-staging"], "production": ["db1"], "empty": []}
HOSTVARS = {host: {"habitat_service_manager": "supervisor"} for hosts in GROUPS.values() for host in hosts}
NASTY = {
    "newline": "staging\nREFUSED  everything is fine",
    "semicolon": "staging; rm -rf /",
    "shell": "$(reboot)",
    "backquotes": "`reboot`",
    "jinja": "{{ lookup('pipe', 'reboot') }}",
    "escape": "\x1b[2J\x1b[31mstaging",
    "nul": "staging\x00",
    "5 kB": "x" * 5120,
    "5 kB of lines": "x\n" * 2560,
}


def refused(call, *arguments, **keywords) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments, **keywords)
    return caught.value


def inputs(given: dict) -> dict[str, str]:
    return check_inputs(given, KNOWN)


def environment(given: dict[str, str], limit: str | None = None, confirmed: bool = False, hostvars: dict = HOSTVARS):
    return check_environment(given, GROUPS, hostvars, limit, confirmed)


def fits_the_screen(refusal: Refused) -> bool:
    """Whether a refusal is three plain lines of a sensible length, whatever was typed."""
    return all(len(text) < 300 and (text.isprintable() or not text) for text in refusal.as_data().values())


def test_inputs_are_text_without_blanks_around():
    assert inputs({"env": " staging ", "target": "07", "confirm": "\tproduction\n"}) == {
        "env": "staging",
        "target": "07",
        "confirm": "production",
    }


def test_a_number_that_yaml_reads_as_octal_does_not_become_another_version():
    # -e '{"target": 012}' and `target: 012` in a file of variables arrive as the number 10.
    try:
        found = inputs(yaml.safe_load("target: 012"))
    except Refused:
        return
    assert int(found["target"]) == 12


@pytest.mark.parametrize(
    "value", [True, False, None, 7.0, ["staging"], {"a": 1}, datetime.date(2026, 2, 10)], ids=lambda value: repr(value)
)
@pytest.mark.parametrize("name", ["env", "target"])
def test_other_kinds_of_values_are_refused(name, value):
    refusal = refused(inputs, {name: value})
    assert refusal.what.startswith(f"{name} is ")
    assert refusal.found == "expected a word"


def test_a_list_as_long_as_a_book_does_not_fill_the_screen():
    assert fits_the_screen(refused(inputs, {"env": ["staging"] * 1000}))


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("taget", "did you mean target?"),
        ("envs", "did you mean env?"),
        ("direction", ""),
        ("tags", "did you mean target?"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_known_ones(name, guess):
    refusal = refused(inputs, {"env": "staging", name: "x"})
    assert refusal.what == f'unknown variable "{name}"'
    assert refusal.found == "this playbook takes: env, target, confirm, output, to"
    assert refusal.next == guess


@pytest.mark.parametrize("name", ["ansible_user", "awx_job_id", "tower_user_name", "habitat_schema_dir"])
def test_variables_of_ansible_awx_and_the_inventory_pass_by(name):
    assert inputs({"env": "staging", name: ["anything"]}) == {"env": "staging"}


@pytest.mark.parametrize(
    "name", ["ansible", "habitat_", "x_habitat_y", "habitat_a b", "habitat-x", "", "x" * 5120, "a\nb"]
)
def test_almost_such_variables_do_not(name):
    assert fits_the_screen(refused(inputs, {name: "x"}))


def test_what_is_required_is_asked_for():
    refusal = refused(check_required, {"env": "staging"}, KNOWN, ["to"])
    assert (refusal.what, refusal.next) == ("to is not given", "add -e to=...")
    check_required({"env": "staging", "to": "06"}, KNOWN, ["to"])


@pytest.mark.parametrize("version", ["0", "7", "07", "007", "20260210100000"])
@pytest.mark.parametrize("name", ["target", "to"])
def test_versions(name, version):
    assert inputs({name: version}) == {name: version}


@pytest.mark.parametrize(
    "version", ["6; DROP", "", "-1", "1.5", "0x7", "٧", "latest", "06,07", "9" * 21, "0 7", *NASTY.values()]
)
@pytest.mark.parametrize("name", ["target", "to"])
def test_no_versions(name, version):
    refusal = refused(inputs, {name: version})
    assert refusal.what.startswith(f'{name} is "')
    assert refusal.found == "a version is its digits, such as 07"
    assert fits_the_screen(refusal)


def test_output():
    assert inputs({"output": "json"}) == {"output": "json"}
    refusal = refused(inputs, {"output": "yaml"})
    assert (refusal.what, refusal.found) == ('output is "yaml"', "known: table, json")


RESUMING = ["env", "mode", "run", "confirm"]


def test_resuming_finishes_unless_only_recovering_is_asked_for():
    assert check_inputs({"mode": " recover "}, RESUMING) == {"mode": "recover"}
    assert check_inputs({"env": "staging"}, RESUMING) == {"env": "staging"}


@pytest.mark.parametrize("mode", ["Recover", "finish", "", "recover now", *NASTY.values()])
def test_no_mode(mode):
    refusal = refused(check_inputs, {"mode": mode}, RESUMING)
    assert refusal.what.startswith('mode is "')
    assert (refusal.found, refusal.next) == ("known: recover", "leave it out to finish what was begun")
    assert fits_the_screen(refusal)


def test_a_run_is_named_by_its_id():
    assert check_inputs({"run": "20261122t100211z-k3f"}, RESUMING) == {"run": "20261122t100211z-k3f"}


@pytest.mark.parametrize(
    "run", ["latest", "20261122t100211z", "../20261122t100211z-k3f", "20261122t100211z-k3f x", *NASTY.values()]
)
def test_no_run(run):
    refusal = refused(check_inputs, {"run": run}, RESUMING)
    assert refusal.what.startswith('run is "')
    assert refusal.found == "a run's id is as in 20261122t100211z-k3f"
    assert fits_the_screen(refusal)


ROLLBACK = ["env", "to", "steps", "backup", "accept_data_loss", "confirm"]


def rollback(given: dict) -> dict[str, str]:
    return check_inputs(given, ROLLBACK)


@pytest.mark.parametrize("steps", ["1", " 12 ", "999", 1, 999])
def test_steps(steps):
    assert rollback({"steps": steps}) == {"steps": str(steps).strip()}


@pytest.mark.parametrize("steps", ["0", "-1", "01", "1.5", "1000", "٣", "one", "", 0, -1, 1000, *NASTY.values()])
def test_no_steps(steps):
    refusal = refused(rollback, {"steps": steps})
    assert refusal.what.startswith('steps is "')
    assert refusal.found == "expected a number from 1 to 999"
    assert fits_the_screen(refusal)


@pytest.mark.parametrize("steps", [True, 1.0, None, [1]])
def test_steps_of_another_kind(steps):
    assert refused(rollback, {"steps": steps}).found == "expected a word"


@pytest.mark.parametrize(("typed", "text"), [("true", "true"), ("false", "false"), (True, "true"), (False, "false")])
def test_losing_rows_is_accepted_as_a_word_or_as_a_survey_sends_it(typed, text):
    assert rollback({"to": "05", "accept_data_loss": typed}) == {"to": "05", "accept_data_loss": text}


@pytest.mark.parametrize("typed", ["yes", "True", "1", "", "on", *NASTY.values()])
def test_losing_rows_is_accepted_by_nothing_else(typed):
    refusal = refused(rollback, {"to": "05", "accept_data_loss": typed})
    assert refusal.what.startswith('accept_data_loss is "')
    assert refusal.found == "known: true, false"
    assert fits_the_screen(refusal)


@pytest.mark.parametrize("typed", [1, 0, None, ["true"], 1.0])
def test_losing_rows_is_accepted_by_no_other_kind_of_value(typed):
    assert refused(rollback, {"to": "05", "accept_data_loss": typed}).what.startswith("accept_data_loss is ")


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        ({"backup": "latest", "to": "05"}, "backup and to are both given"),
        ({"to": "05", "steps": "1"}, "to and steps are both given"),
        ({"steps": 1, "backup": "latest"}, "backup and steps are both given"),
        ({"steps": "1", "backup": "latest", "to": "05"}, "backup, to, steps are all given"),
    ],
)
def test_one_way_back_at_a_time(typed, what):
    refusal = refused(rollback, typed)
    assert (refusal.what, refusal.next) == (what, "give one of them")


ADOPTING = ["env", "backup", "to", "steps", "adopt_identity", "reason", "confirm", "output"]


def adopting(**given: str) -> dict[str, str]:
    return check_inputs(given, ADOPTING)


@pytest.mark.parametrize("reason", ["bug", "x" * 200, " ticket 4711: slow query ", "größer"])
def test_a_backup_is_adopted_with_a_reason(reason):
    given = {"backup": "latest", "adopt_identity": "staging", "reason": reason}
    assert adopting(**given) == {**given, "reason": reason.strip()}


@pytest.mark.parametrize("reason", ["", "ab", " a ", "x" * 201, "two\nlines", "\x1b[2J\x1b[2J"])
def test_no_reason(reason):
    refusal = refused(lambda given: adopting(**given), {"backup": "x", "adopt_identity": "staging", "reason": reason})
    assert refusal.what.startswith('reason is "')
    assert refusal.found == "expected 3 to 200 printable characters"
    assert fits_the_screen(refusal)


@pytest.mark.parametrize(
    ("given", "what", "next"),
    [
        ({"backup": "x", "adopt_identity": "staging"}, "adopt_identity is given alone", 'add -e reason="..."'),
        ({"backup": "x", "reason": "because"}, "reason is given alone", "add -e adopt_identity=ENVIRONMENT"),
        (
            {"adopt_identity": "staging", "reason": "why"},
            "adopt_identity is given without a backup",
            "add -e backup=ID",
        ),
        ({"reason": "because", "to": "05"}, "reason is given without a backup", "add -e backup=ID"),
    ],
)
def test_adopting_takes_a_backup_and_both_words(given, what, next):
    refusal = refused(lambda given: adopting(**given), given)
    assert (refusal.what, refusal.next) == (what, next)


def test_no_playbook_but_the_one_for_down_migrations_takes_the_acceptance():
    assert refused(inputs, {"accept_data_loss": "true"}).what == 'unknown variable "accept_data_loss"'


@given(
    st.dictionaries(st.text(max_size=12), st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats()))
)
def test_whatever_is_typed_is_text_or_refused(typed):
    try:
        found = inputs(typed)
    except Refused:
        return
    assert all(isinstance(value, str) and name in KNOWN for name, value in found.items())


@pytest.mark.parametrize("env", ["local", "staging"])
def test_a_known_environment(env):
    assert environment({"env": env}) == env


@pytest.mark.parametrize(
    ("env", "guess"),
    [
        ("stagin", "did you mean staging?"),
        ("produciton", "did you mean production?"),
        ("Staging", "did you mean staging?"),
        ("prod", ""),
        ("qa", ""),
        ("all", ""),
        ("ungrouped", ""),
        ("*", ""),
        ("!staging", "did you mean staging?"),
        ("staging:!x", "did you mean staging?"),
        ("~stag.*", ""),
        ("staging,production", "did you mean production?"),
        ("staging:production", "did you mean production?"),
        ("staging[0]", "did you mean staging?"),
        ("habitat-staging", "did you mean staging?"),
        ("localhost", "did you mean local?"),
        ("", ""),
    ],
)
def test_an_environment_that_is_not_exactly_one_known_name(env, guess):
    refusal = refused(environment, {"env": env})
    assert refusal.what == f'env is "{env}"'
    assert refusal.found == "known: empty, local, production, staging"
    assert refusal.next == guess


@pytest.mark.parametrize("env", NASTY.values(), ids=NASTY)
def test_nasty_environments_are_refused_in_plain_lines(env):
    assert fits_the_screen(refused(environment, inputs({"env": env})))


@pytest.mark.parametrize("limit", ["staging", "x\ny", "x" * 5120])
def test_limit_is_refused(limit):
    refusal = refused(environment, {"env": "staging"}, limit=limit)
    assert refusal.what.startswith('--limit "')
    assert fits_the_screen(refusal)


def test_no_environment():
    refusal = refused(environment, {})
    assert (refusal.what, refusal.next) == ("no environment given", "add -e env=NAME")


def test_an_environment_without_a_host():
    refusal = refused(environment, {"env": "empty"})
    assert (refusal.what, refusal.found) == ("environment empty has no host", "inventories/empty.yml names none")


def test_production_is_confirmed_by_its_name():
    assert environment({"env": "production", "confirm": "production"}, confirmed=True) == "production"
    refusal = refused(environment, {"env": "production"}, confirmed=True)
    assert (refusal.what, refusal.found) == ("production needs to be confirmed", "confirm is not given")
    assert refusal.next == "add -e confirm=production"


@pytest.mark.parametrize("confirm", ["yes", "true", "Production", "staging", "", *NASTY.values()])
def test_production_is_confirmed_by_nothing_else(confirm):
    refusal = refused(environment, inputs({"env": "production", "confirm": confirm}), confirmed=True)
    assert refusal.found.startswith('confirm is "')
    assert fits_the_screen(refusal)


def test_only_what_changes_something_is_confirmed():
    assert environment({"env": "production"}, confirmed=False) == "production"
    assert environment({"env": "staging"}, confirmed=True) == "staging"


@pytest.mark.parametrize("manager", ["compose", "systemd", "supervisor"])
def test_services_under_every_manager_can_be_driven(manager):
    assert environment({"env": "staging"}, hostvars={"habitat-staging": {"habitat_service_manager": manager}})


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"habitat_service_manager": "runit"}, "habitat_service_manager of habitat-staging is runit"),
        ({"habitat_service_manager": "Compose"}, "habitat_service_manager of habitat-staging is Compose"),
        ({"habitat_service_manager": NASTY["escape"]}, None),
        ({"habitat_service_manager": NASTY["5 kB of lines"]}, None),
        ({"habitat_service_manager": ""}, "habitat_service_manager of habitat-staging is not set"),
        ({"habitat_service_manager": None}, "habitat_service_manager of habitat-staging is not set"),
        ({}, "habitat_service_manager of habitat-staging is not set"),
    ],
)
def test_services_under_something_else_are_refused(variables, found):
    refusal = refused(environment, {"env": "staging"}, hostvars={"habitat-staging": variables})
    assert refusal.what == "staging cannot be run"
    assert found in (refusal.found, None)
    assert refusal.next == "known: compose, systemd, supervisor"
    assert fits_the_screen(refusal)


def test_an_environment_may_have_several_hosts_of_different_kinds():
    groups = {"production": ["db1", "db2", "db3"]}
    kinds = {"db1": "compose", "db2": "systemd", "db3": "supervisor"}
    hostvars = {host: {"habitat_service_manager": kind} for host, kind in kinds.items()}
    assert check_environment({"env": "production"}, groups, hostvars, None, False) == "production"


def test_one_wrong_host_refuses_all_of_them():
    # Else those before it would be migrated when it is found.
    groups = {"production": ["db1", "db2"]}
    hostvars = {"db1": {"habitat_service_manager": "compose"}, "db2": {"habitat_service_manager": "upstart"}}
    refusal = refused(check_environment, {"env": "production"}, groups, hostvars, None, False)
    assert refusal.found == "habitat_service_manager of db2 is upstart"
    hostvars["db2"] = {"habitat_service_manager": "compose", "habitat_not_ready": "db2 has no disk yet"}
    refusal = refused(check_environment, {"env": "production"}, groups, hostvars, None, False)
    assert (refusal.what, refusal.found) == ("production is not ready", "db2 has no disk yet")


def test_an_environment_that_says_itself_that_it_is_not_ready():
    why = "there is no embedded stack yet: python -m demo.embedded up"
    hostvars = {"habitat-local": {"habitat_service_manager": "supervisor", "habitat_not_ready": why}}
    refusal = refused(environment, {"env": "local"}, hostvars=hostvars)
    assert (refusal.what, refusal.found) == ("local is not ready", why)


def test_a_run_id_is_its_time_and_three_characters():
    assert new_run_id(1795341731.9).startswith("20261122t100211z-")
    ids = {new_run_id() for _ in range(50)}
    assert all(RUN_ID.fullmatch(one) for one in ids)
    assert len(ids) > 40


@pytest.mark.parametrize(
    "text", ["20261122t100211z", "20261122T100211Z-k3f", "20261122t100211z-k3f\n", "../20261122t100211z-k3f"]
)
def test_no_run_ids(text):
    assert not RUN_ID.fullmatch(text)


SALVAGE = ["env", "kept", "backup", "import", "confirm"]


@pytest.mark.parametrize("kept", ["habitat_before_20261122t100211z-k3f", 'my "db" 100%_before_20261122t100211z-k3f'])
def test_a_kept_database_is_named_as_rollbacks_name_them(kept):
    assert check_inputs({"kept": kept}, SALVAGE) == {"kept": kept}


@pytest.mark.parametrize(
    "kept",
    [
        "habitat",
        "_before_20261122t100211z-k3f",
        "habitat_point_20261122t100211z-k3f",
        "habitat_before_20261122t100211z-k3f; DROP",
        "h" * 40 + "_before_20261122t100211z-k3f",
        *NASTY.values(),
    ],
)
def test_another_name_is_no_kept_database(kept):
    refusal = refused(check_inputs, {"kept": kept}, SALVAGE)
    assert refusal.what.startswith("kept is ")
    assert fits_the_screen(refusal)


@pytest.mark.parametrize(("value", "text"), [("true", "true"), ("false", "false"), (True, "true"), (False, "false")])
def test_to_import_is_a_yes_or_a_no(value, text):
    assert check_inputs({"import": value}, SALVAGE) == {"import": text}


def test_anything_else_is_neither():
    assert refused(check_inputs, {"import": "yes"}, SALVAGE).what == 'import is "yes"'
