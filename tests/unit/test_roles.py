"""Roles and playbooks keep the form they promise: documented defaults, own names, short task files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

from tests.unit import samples
from tests.unit.test_screens import preflight

REPOSITORY = Path(__file__).parents[2]
ROLES = sorted(path for path in (REPOSITORY / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((REPOSITORY / "playbooks").glob("*.yml"))
FIRST = "_environment.yml"
REVERT, RESTORE = "_revert.yml", "_restore.yml"
PARTS = ("_migrate.yml", RESTORE, REVERT)
CHANGING = ("migrate", "backup", "baseline", "rollback", "resume")
SHARED = "habitat_run"
SECTIONS = ("block", "rescue", "always")
KEYWORDS = {
    *("name", "when", "vars", "register", "loop", "loop_control", "until", "retries", "delay", "changed_when"),
    *(
        "failed_when",
        "check_mode",
        "diff",
        "delegate_to",
        "delegate_facts",
        "become",
        "no_log",
        "tags",
        "run_once",
        "ignore_errors",
        "notify",
    ),
}


def of(role: Path, file: str) -> Any:
    path = role / file
    return yaml.safe_load(path.read_text()) if path.exists() else None


def specified(role: Path) -> dict[str, dict[str, Any]]:
    return of(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def every(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tasks with those inside their blocks, in order."""
    for task in tasks or []:
        yield task
        for section in SECTIONS:
            yield from every(task.get(section, []))


def action_of(task: dict[str, Any]) -> set[str]:
    return set(task) - KEYWORDS - set(SECTIONS)


def names(folder: list[Path]) -> list[str]:
    return [path.stem if path.suffix else path.name for path in folder]


def every_play() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, play) for path in PLAYBOOKS for play in yaml.safe_load(path.read_text())]


def test_there_are_roles_and_playbooks():
    assert {"preflight", "backup", "stop", "apply", "start", "verify", "report", "recover"} <= set(names(ROLES))
    assert {"choices", "choose", "restore", "swap", "account", "plan_revert", "revert"} <= set(names(ROLES))
    assert {"migrate", "status", "plan", "backup", "baseline", "_environment"} <= set(names(PLAYBOOKS))
    assert {"rollback", "resume", "cancel", "_migrate", "_restore", "_revert"} <= set(names(PLAYBOOKS))


@pytest.mark.parametrize("role", ROLES, ids=names(ROLES))
def test_defaults_are_the_options_that_are_not_required(role):
    optional = {name: option for name, option in specified(role).items() if not option.get("required")}
    assert [name for name, option in optional.items() if "default" not in option] == []
    assert (of(role, "defaults/main.yml") or {}) == {name: option["default"] for name, option in optional.items()}


@pytest.mark.parametrize("role", ROLES, ids=names(ROLES))
def test_every_option_says_what_it_is(role):
    for option in specified(role).values():
        assert option["type"]
        assert option["description"]
        assert option["type"] != "list" or option["elements"]


@pytest.mark.parametrize("role", ROLES, ids=names(ROLES))
def test_variables_bear_the_name_of_their_role(role):
    tasks = list(every(of(role, "tasks/main.yml")))
    facts = [name for task in tasks for name in task.get("ansible.builtin.set_fact", {}) if name != "cacheable"]
    own = [
        *specified(role),
        *(of(role, "defaults/main.yml") or {}),
        *(of(role, "vars/main.yml") or {}),
        *(task["register"] for task in tasks if "register" in task),
        *facts,
    ]
    allowed = re.compile(rf"(__)?{role.name}_\w+|{SHARED}")
    assert [name for name in own if not allowed.fullmatch(name)] == []


@pytest.mark.parametrize("role", ROLES, ids=names(ROLES))
def test_the_shared_variable_is_required_where_it_is_used(role):
    text = "".join(path.read_text() for path in role.glob("[dtv]*/main.yml"))
    if re.search(rf"\b{SHARED}\b", text):
        assert specified(role)[SHARED]["required"] is True


@pytest.mark.parametrize("role", ROLES, ids=names(ROLES))
def test_a_role_reads_top_to_bottom_on_one_screen(role):
    assert len((role / "tasks/main.yml").read_text().splitlines()) <= 60
    allowed = {"tasks/main.yml", "defaults/main.yml", "meta/argument_specs.yml", "vars/main.yml"}
    assert {str(path.relative_to(role)) for path in role.rglob("*") if path.is_file()} <= allowed


@pytest.mark.parametrize("role", ROLES, ids=names(ROLES))
def test_tasks_of_roles_are_named_and_use_full_names(role):
    check_tasks(of(role, "tasks/main.yml"))


@pytest.mark.parametrize(("file", "play"), every_play(), ids=lambda value: value if isinstance(value, str) else "")
def test_plays_are_named_and_use_full_names(file, play):
    assert play["name"][0].isupper()
    check_tasks(play.get("tasks", []))
    assert not set(play) & {"roles", "pre_tasks", "post_tasks", "vars_prompt"}


def check_tasks(tasks: list[dict[str, Any]]) -> None:
    for task in every(tasks):
        assert task["name"][0].isupper(), task["name"]
        for action in action_of(task):
            assert re.fullmatch(r"\w+\.\w+\.\w+", action), f"{task['name']}: {action}"


def registered(role: str) -> set[str]:
    """Names a role's tasks register; none for the lock, whose second import is the last thing a run does."""
    if role == "habitat.runbook.lock":
        return set()
    tasks = of(REPOSITORY / "roles" / role.rpartition(".")[2], "tasks/main.yml")
    return {task["register"] for task in every(tasks) if "register" in task}


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=names(PLAYBOOKS))
def test_no_imported_role_is_switched_by_what_it_sets_itself(playbook):
    """A condition of import_role is asked again before every task of the role, so the role would cut itself off.

    What a skipped task registers also replaces what the task had registered before.
    """
    found = []
    for play in yaml.safe_load(playbook.read_text()):
        for task in every(play.get("tasks", [])):
            role = task.get("ansible.builtin.import_role", {}).get("name")
            if role:
                words = set(re.findall(r"\w+", str(task.get("when", ""))))
                found += [(task["name"], name) for name in sorted(words & registered(role))]
    assert found == []


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=names(PLAYBOOKS))
def test_no_second_import_of_a_role_wipes_what_the_first_found(playbook):
    """A task that is skipped registers that it was skipped, so the report would not see what had really happened.

    include_role asks its condition once and leaves everything alone when it is false.
    """
    for play in yaml.safe_load(playbook.read_text()):
        seen: set[str] = set()
        for task in every(play.get("tasks", [])):
            role = task.get("ansible.builtin.import_role", {}).get("name", "")
            assert not ("when" in task and role in seen and registered(role)), task["name"]
            seen.add(role)


def inputs_of(playbook: str, **given: str) -> list[str]:
    """What a playbook takes behind -e; given: what was typed, where that decides."""
    first = yaml.safe_load((REPOSITORY / "playbooks" / playbook).read_text())[0]["vars"]
    by_downs = rendered(first["runbook_by_downs"], given) == "True" if "runbook_by_downs" in first else None
    inputs = first["runbook_inputs"]
    return inputs if isinstance(inputs, list) else eval(rendered(inputs, {"runbook_by_downs": by_downs}))  # noqa: S307


def rendered(text: str, variables: dict[str, Any]) -> str:
    environment = Environment(autoescape=False)  # noqa: S701
    # A test of Ansible's own.
    environment.tests["truthy"] = bool
    return environment.from_string(text).render(variables)


@pytest.mark.parametrize(
    "playbook", [path for path in PLAYBOOKS if path.name not in (FIRST, *PARTS)], ids=lambda p: p.stem
)
def test_every_playbook_checks_its_environment_first(playbook):
    plays = yaml.safe_load(playbook.read_text())
    assert plays[0]["ansible.builtin.import_playbook"] == FIRST
    assert "env" in inputs_of(playbook.name)
    assert yaml.safe_load((playbook.parent / FIRST).read_text())[0]["hosts"] == "localhost"


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_several_playbooks_share_does_nothing_unless_they_have_checked_the_environment(name):
    (play,) = yaml.safe_load((REPOSITORY / "playbooks" / name).read_text())
    assert "mandatory('the first play was left out" in play["vars"]["habitat_run"]


@pytest.mark.parametrize("playbook", CHANGING)
def test_a_playbook_that_changes_something_can_be_asked_to_confirm(playbook):
    for typed in ({}, {"to": "05"}, {"backup": "latest"}):
        assert "confirm" in inputs_of(f"{playbook}.yml", **typed)


def test_a_playbook_of_the_root_runs_the_one_of_the_same_name():
    files = sorted(REPOSITORY.glob("*.yml"))
    roots = [path for path in files if any("import_playbook" in line for line in path.read_text().splitlines())]
    assert [path.name for path in roots] == ["migrate.yml", "rollback.yml"]
    for path in roots:
        (play,) = yaml.safe_load(path.read_text())
        assert play["ansible.builtin.import_playbook"] == f"playbooks/{path.name}"


def dispatched(**inputs: str) -> str:
    _, play = yaml.safe_load((REPOSITORY / "playbooks/rollback.yml").read_text())
    return rendered(play["ansible.builtin.import_playbook"], inputs)


@pytest.mark.parametrize(
    ("inputs", "file"),
    [
        ({}, RESTORE),
        ({"env": "local"}, RESTORE),
        ({"backup": "latest"}, RESTORE),
        ({"to": "05"}, REVERT),
        ({"to": "0"}, REVERT),
        ({"steps": "1"}, REVERT),
        ({"backup": "latest", "to": "05"}, REVERT),
    ],
)
def test_a_rollback_goes_the_way_that_was_typed(inputs, file):
    assert dispatched(**inputs) == file


@pytest.mark.parametrize("typed", [{"backup": "latest"}, {"to": "05"}, {"steps": "1"}])
def test_each_way_back_knows_what_the_other_takes_so_that_both_at_once_are_refused_in_plain_words(typed):
    assert {"backup", "to", "steps"} <= set(inputs_of("rollback.yml", **typed))


def test_only_down_migrations_can_be_told_to_lose_rows():
    losing = "accept_data_loss"
    assert losing in inputs_of("rollback.yml", to="05")
    assert losing in inputs_of("rollback.yml", steps="1")
    assert losing not in inputs_of("rollback.yml", backup="latest")
    assert [name for name in CHANGING if losing in inputs_of(f"{name}.yml")] == []


def test_cancelling_takes_what_the_playbook_takes_that_is_cancelled():
    for typed in ({"backup": "latest"}, {"to": "05"}):
        for name in CHANGING:
            assert set(inputs_of(f"{name}.yml", **typed)) <= set(inputs_of("cancel.yml"))


@pytest.mark.parametrize("file", PARTS)
def test_what_stops_services_has_one_rescue_that_starts_them_and_always_reports(file):
    (play,) = yaml.safe_load((REPOSITORY / "playbooks" / file).read_text())
    blocks = [task for task in play["tasks"] if "block" in task]
    (block,) = blocks
    roles = {
        section: [task["ansible.builtin.import_role"]["name"].rpartition(".")[2] for task in block[section]]
        for section in SECTIONS
    }
    assert (roles["rescue"], roles["always"]) == (["recover"], ["report"])
    window = roles["block"][roles["block"].index("stop") :]
    assert window[0] == "stop"
    assert window[2:4] == ["start", "verify"]


def defined_by_roles() -> set[str]:
    """Everything some role's tasks register or set."""
    tasks = [task for role in ROLES for task in every(of(role, "tasks/main.yml"))]
    facts = [name for task in tasks for name in task.get("ansible.builtin.set_fact", {})]
    return {*facts, *(task["register"] for task in tasks if "register" in task)}


def test_the_report_is_handed_what_it_reads():
    given = of(REPOSITORY / "roles/report", "vars/main.yml")["report_facts"]
    assert set(given) == set(samples.raw())


def test_the_report_reads_only_what_some_role_has_left():
    given = of(REPOSITORY / "roles/report", "vars/main.yml")["report_facts"]
    inventory = {"habitat_run", "habitat_database", "inventory_hostname"}
    read = {name for text in given.values() for name in re.findall(r"(?<![.\w'])[a-z]+(?:_[a-z]+)+(?![\w'])", text)}
    assert len(read) > 15
    assert read - inventory - defined_by_roles() == set()


def test_the_preflight_screen_is_handed_what_it_reads():
    assert set(of(REPOSITORY / "roles/preflight", "vars/main.yml")["preflight_screen"]) == set(preflight(target=""))
