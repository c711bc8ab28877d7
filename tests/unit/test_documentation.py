"""What the plugins' documentation says is what they take, and its examples would be accepted."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.action import ActionBase

REPOSITORY = Path(__file__).parents[2]
PLUGINS = REPOSITORY / "plugins"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
ON_THE_CONTROLLER = [name for name in MODULES if "AnsibleModule(" not in (PLUGINS / f"modules/{name}.py").read_text()]
ON_THE_HOST = [name for name in MODULES if name not in ON_THE_CONTROLLER]
# Takes its options on the controller and hands others to its module; both are documented in one place.
ON_BOTH_SIDES = "report"
OTHERS = {"filter": ["reason"], "callback": ["interrupt", "plain"]}
NAMESPACE = "habitat.runbook"

# Runs every module until it makes its AnsibleModule, in a process of its own, and prints what it gave to it.
CAPTURE = """
import importlib, json, sys
from ansible.module_utils import basic

class Captured(Exception):
    pass

def capture(self, argument_spec, *arguments, **keywords):
    raise Captured(argument_spec)

basic.AnsibleModule.__init__ = capture
found = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(f"ansible_collections.habitat.runbook.plugins.modules.{name}").main()
    except Captured as captured:
        found[name] = captured.args[0]
print(json.dumps(found, default=str))
"""


@functools.cache
def documented(kind: str, *names: str) -> dict[str, dict[str, Any]]:
    """What ansible-doc says about plugins, by their short names, fragments included."""
    command = [str(Path(sys.executable).parent / "ansible-doc"), "--json", "-t", kind]
    command += [f"{NAMESPACE}.{name}" for name in names]
    done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True, check=True)
    return {name.rpartition(".")[2]: found for name, found in json.loads(done.stdout).items()}


def module_doc(name: str) -> dict[str, Any]:
    return documented("module", *MODULES)[name]


@functools.cache
def host_specs() -> dict[str, dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "collections")}
    command = [sys.executable, "-c", CAPTURE, *ON_THE_HOST]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    return json.loads(done.stdout)


def controller_spec(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The dict an action plugin hands to validate_argument_spec."""

    class Captured(Exception):
        """Carries the spec out of the plugin."""

    def capture(self: ActionBase, spec: dict[str, Any], *arguments: Any, **keywords: Any) -> None:
        raise Captured(spec)

    monkeypatch.setattr(ActionBase, "run", lambda self, tmp, task_vars: {})
    monkeypatch.setattr(ActionBase, "validate_argument_spec", capture)
    plugin = importlib.import_module(f"ansible_collections.habitat.runbook.plugins.action.{name}").ActionModule
    with pytest.raises(Captured) as caught:
        object.__new__(plugin).run(None, {})
    return caught.value.args[0]


def comparable(options: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Of every option what documentation and argument spec both say."""
    return {
        name: (
            option.get("type", "str"),
            option.get("elements"),
            bool(option.get("required")),
            option.get("default"),
            sorted(map(str, option.get("choices") or [])),
            sorted(option.get("aliases") or []),
        )
        for name, option in options.items()
    }


def every_plugin() -> list[tuple[str, str]]:
    return [("module", name) for name in MODULES] + [(kind, name) for kind, names in OTHERS.items() for name in names]


def doc_of(kind: str, name: str) -> dict[str, Any]:
    return module_doc(name) if kind == "module" else documented(kind, *OTHERS[kind])[name]


def tasks_in(examples: str) -> Iterator[dict[str, Any]]:
    """Tasks of an EXAMPLES block, which holds tasks or plays."""
    for item in yaml.safe_load(examples):
        yield from item.get("tasks", [item])


def test_every_kind_of_plugin_is_looked_at():
    assert {"schema_migrations", "health", "run_lock"} <= set(ON_THE_HOST)
    assert {"environment", "screen", "status", "turn"} == set(ON_THE_CONTROLLER)
    assert ON_BOTH_SIDES in ON_THE_HOST
    assert sorted(path.stem for path in (PLUGINS / "callback").glob("*.py")) == OTHERS["callback"]
    assert len(list((PLUGINS / "filter").glob("*.py"))) == len(OTHERS["filter"])


@pytest.mark.parametrize("name", [name for name in ON_THE_HOST if name != ON_BOTH_SIDES])
def test_options_of_a_module_are_its_argument_spec(name):
    assert comparable(module_doc(name)["doc"]["options"]) == comparable(host_specs()[name])


def test_options_of_the_report_are_those_of_both_sides_and_a_task_gives_the_controllers(monkeypatch):
    handed_over = {name: {**option, "required": False} for name, option in host_specs()[ON_BOTH_SIDES].items()}
    both = {**handed_over, **controller_spec(ON_BOTH_SIDES, monkeypatch)}
    assert comparable(module_doc(ON_BOTH_SIDES)["doc"]["options"]) == comparable(both)


@pytest.mark.parametrize("name", ON_THE_CONTROLLER)
def test_options_of_an_action_are_what_it_validates(name, monkeypatch):
    assert comparable(module_doc(name)["doc"]["options"]) == comparable(controller_spec(name, monkeypatch))


@pytest.mark.parametrize("name", [path.stem for path in sorted((PLUGINS / "action").glob("*.py"))])
def test_every_action_is_documented_by_a_module(name):
    assert name in MODULES


@pytest.mark.parametrize(("kind", "name"), every_plugin())
def test_the_documentation_is_whole(kind, name):
    doc = doc_of(kind, name)["doc"]
    assert not doc["short_description"].endswith(".")
    assert doc["version_added"]
    assert all(text.endswith((".", ":")) for text in doc["description"])
    for option in doc.get("options", {}).values():
        assert option["description"]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_does_in_check_mode(name):
    attributes = module_doc(name)["doc"]["attributes"]
    assert {"check_mode", "diff_mode"} <= set(attributes)
    assert all(attribute["support"] in ("full", "none", "partial", "N/A") for attribute in attributes.values())


@pytest.mark.parametrize("name", MODULES)
def test_examples_use_documented_options_and_all_required_ones(name):
    options = module_doc(name)["doc"]["options"]
    required = {option for option, doc in options.items() if doc.get("required")}
    uses = [
        task[f"{NAMESPACE}.{name}"] for task in tasks_in(module_doc(name)["examples"]) if f"{NAMESPACE}.{name}" in task
    ]
    assert uses
    for used in uses:
        assert set(used) <= set(options)
        assert required <= set(used)


@pytest.mark.parametrize("name", MODULES)
def test_examples_only_use_choices(name):
    options = module_doc(name)["doc"]["options"]
    for task in tasks_in(module_doc(name)["examples"]):
        for option, value in task.get(f"{NAMESPACE}.{name}", {}).items():
            assert value in options[option].get("choices", [value])


@pytest.mark.parametrize("name", OTHERS["filter"])
def test_examples_of_filters_are_yaml_that_uses_them(name):
    examples = documented("filter", *OTHERS["filter"])[name]["examples"]
    assert yaml.safe_load(examples)
    assert f"{NAMESPACE}.{name}" in examples


@pytest.mark.parametrize(("kind", "name"), [pair for pair in every_plugin() if pair[0] != "callback"])
def test_what_is_returned_is_described(kind, name):
    returned = doc_of(kind, name)["return"]
    assert returned
    for value in returned.values():
        assert value["type"]
        assert value["description"]
        assert kind == "filter" or value["returned"]


def test_secrets_are_never_logged():
    for name, spec in host_specs().items():
        for option, found in spec.items():
            if "password" in option:
                assert found.get("no_log") is True, f"{name}: {option}"


def test_every_module_that_connects_takes_its_connection_from_the_group():
    groups = yaml.safe_load((REPOSITORY / "meta/runtime.yml").read_text())["action_groups"]
    # Making the roles is the one thing that is done as another role than every run's.
    connecting = {name for name, spec in host_specs().items() if "login_db" in spec} - {"database_roles"}
    assert {name for name in groups["postgres"] if isinstance(name, str)} == connecting
    # What the group run sets for its members has to be an option of all of them.
    assert all({"login_db", "env", "run_id"} <= set(host_specs()[name]) for name in groups["run"])
