"""Declarations by chance, and what Dify's own SDK makes of each: what it would send to the daemon, or that
it does not take it. Writes a line of JSON for each."""

import copy
import json
import random
import sys

from dify_plugin.core.entities.plugin.setup import PluginConfiguration
from dify_plugin.entities.agent import AgentStrategyConfiguration
from dify_plugin.entities.datasource_manifest import DatasourceEntity
from dify_plugin.entities.endpoint import EndpointConfiguration
from dify_plugin.entities.model.provider import ProviderEntity
from dify_plugin.entities.provider_config import ProviderConfig
from dify_plugin.entities.tool import ToolConfiguration
from dify_plugin.entities.trigger import EventConfiguration

SEED, COUNT = int(sys.argv[1]), int(sys.argv[2])
CHANCE = random.Random(SEED)

TEXT = {"en_US": "Text"}
IDENTITY = {"author": "mill", "name": "grind", "label": TEXT}
PROVIDER = {**IDENTITY, "icon": "icon.svg", "description": TEXT}
PYTHON = {"python": {"source": "a.py"}}

PARAMETER = {
    "name": "corn", "label": TEXT, "human_description": TEXT, "type": "select", "form": "form",
    "llm_description": "Which", "required": True, "default": "a", "min": 1, "max": 5, "precision": 2,
    "scope": None, "options": [{"value": "a", "label": TEXT}],
    "auto_generate": {"type": "prompt_instruction"}, "template": {"enabled": True},
}  # fmt: skip

# For each kind: the SDK's class, one of it, and the provider that it goes into.
KINDS = {
    "manifest": (
        PluginConfiguration,
        {
            "version": "1.2.3", "type": "plugin", "author": "mill", "name": "flour", "label": TEXT,
            "description": TEXT, "icon": "icon.svg", "created_at": "2025-03-04T05:06:07Z",
            "repo": "https://example.com/flour",
            "resource": {"memory": 1048576, "permission": {
                "tool": {"enabled": True}, "model": {"enabled": True, "llm": True},
                "storage": {"enabled": True, "size": 1048576}}},
            "plugins": {"tools": ["a.yaml"]},
            "meta": {"version": "0.0.1", "arch": ["amd64"], "minimum_dify_version": "1.0.0",
                "runner": {"language": "python", "version": "3.12", "entrypoint": "main"}},
        },
        lambda item: item,
    ),
    "tool": (
        ToolConfiguration,
        {
            "identity": IDENTITY, "description": {"human": TEXT, "llm": "Grinds"}, "extra": PYTHON,
            "parameters": [PARAMETER], "output_schema": {"type": "object"},
            "has_runtime_parameters": False,
        },
        lambda item: {"identity": PROVIDER, "credentials_schema": [], "tools": [item]},
    ),
    "credential": (
        ProviderConfig,
        {
            "name": "key", "type": "select", "label": TEXT, "required": True, "default": "a",
            "options": [{"value": "a", "label": TEXT}], "help": TEXT, "url": "https://example.com",
            "placeholder": TEXT, "scope": None,
        },
        lambda item: {"identity": PROVIDER, "credentials_schema": [item], "tools": []},
    ),
    "endpoint": (
        EndpointConfiguration,
        {"path": "/a", "method": "GET", "hidden": False, "extra": PYTHON},
        lambda item: {"settings": [], "endpoints": [item]},
    ),
    "model": (
        ProviderEntity,
        {
            "provider": "wheel", "label": TEXT, "description": TEXT, "background": "#fff",
            "help": {"title": TEXT, "url": TEXT}, "supported_model_types": ["llm"],
            "configurate_methods": ["predefined-model"], "models": {},
            "provider_credential_schema": {"credential_form_schemas": [
                {"variable": "key", "label": TEXT, "type": "secret-input", "required": True,
                 "default": "a", "options": [{"value": "a", "label": TEXT}], "placeholder": TEXT,
                 "max_length": 5, "show_on": [{"variable": "a", "value": "b"}]}]},
        },
        # The SDK reads them from files.
        lambda item: {**item, "models": []},
    ),
    "agent_strategy": (
        AgentStrategyConfiguration,
        {
            "identity": IDENTITY, "description": TEXT, "extra": PYTHON, "output_schema": None,
            "features": ["history-messages"],
            "parameters": [{k: PARAMETER[k] for k in
                ("name", "label", "type", "required", "default", "min", "max", "scope", "options")}],
        },
        lambda item: {"identity": PROVIDER, "strategies": [item]},
    ),
    "datasource": (
        DatasourceEntity,
        {
            "identity": {**IDENTITY, "icon": "icon.svg"}, "description": TEXT, "extra": PYTHON,
            "parameters": [{**{k: PARAMETER[k] for k in
                ("name", "label", "type", "required", "default", "options")}, "description": TEXT}],
        },
        lambda item: {
            "identity": PROVIDER, "credentials_schema": [], "provider_type": "online_drive",
            "datasources": [item],
        },
    ),
    "trigger": (
        EventConfiguration,
        {
            "identity": IDENTITY, "description": TEXT, "extra": PYTHON,
            "output_schema": {"type": "object"},
            "parameters": [{**{k: PARAMETER[k] for k in
                ("name", "label", "type", "required", "default", "options")}, "description": TEXT}],
        },
        lambda item: {"identity": PROVIDER, "subscription_schema": [], "events": [item]},
    ),
}  # fmt: skip

VALUES = [
    None, "", " ", "a", "A b", "x" * 200, "ü", 0, 1, -1, 2.5, True, False, [], {}, ["a"], [1],
    {"a": 1}, {"en_US": "x", "ja_JP": "y"}, {"ja_JP": "y"}, "string", "number", "boolean", "file",
    "files", "secret-input", "text-input", "model-selector", "app-selector", "array[tools]", "any",
    "dynamic-select", "checkbox", "object", "llm", "schema", "POST", "PATCH", "1.2", "2.0.0-rc1",
    "https://example.com", "rerank", ["llm", "tts"], ["predefined-model"], "radio", "switch",
    "all", "llm&vision", "2025-01-01",
]  # fmt: skip


def places(value, at=()):
    """Everything in it that can be changed."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key)
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*at, index)
            yield from places(inner, (*at, index))


def changed(item):
    item = copy.deepcopy(item)
    *way, last = CHANCE.choice([place for place in places(item) if place[0] not in ("extra", "models")])
    holder = item
    for key in way:
        holder = holder[key]
    if isinstance(holder, dict) and CHANCE.random() < 0.3:
        del holder[last]
        what = "without"
    else:
        holder[last] = copy.deepcopy(CHANCE.choice(VALUES))
        what = json.dumps(holder[last])
    return item, f"{'.'.join(map(str, (*way, last)))} = {what}"


for number in range(COUNT):
    kind = list(KINDS)[number % len(KINDS)]
    entity, item, provider = KINDS[kind]
    item, what = changed(item)
    said = {"kind": kind, "what": what, "raw": provider(copy.deepcopy(item))}
    try:
        dumped = json.loads(entity(**copy.deepcopy(item)).model_dump_json())
        said["sent"] = provider(dumped)
    except Exception as error:
        said["refused"] = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps(said))
