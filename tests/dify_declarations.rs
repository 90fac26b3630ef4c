//! Declarations: what Dify's daemon takes is taken, and what it refuses is refused, with the field named.

#![cfg(all(feature = "dify", unix))]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};
use sessile::session::dify::{
    Daemon, Datasource, DatasourceKind, DatasourceProvider, Event, Manifest, Package, Parameter,
    Permission, Plugin, Setting, Strategy, StrategyProvider, Tool, ToolProvider, TriggerProvider,
};
use support::PATIENCE;

fn manifest() -> Value {
    json!({"author": "mill", "name": "flour", "version": "1.2.3"})
}

fn tool() -> Value {
    json!({
        "identity": {"author": "mill", "name": "flour", "icon": "icon.svg",
            "label": {"en_US": "Flour"}, "description": {"en_US": "Grinds"}},
        "credentials_schema": [{"name": "key", "type": "secret-input", "label": {"en_US": "Key"}}],
        "tools": [{
            "identity": {"author": "mill", "name": "grind", "label": {"en_US": "Grind"}},
            "description": {"human": {"en_US": "Grinds"}, "llm": "Grinds corn"},
            "parameters": [{
                "name": "corn", "label": {"en_US": "Corn"}, "human_description": {"en_US": "Which"},
                "type": "string", "form": "llm",
            }],
        }],
    })
}

fn model() -> Value {
    json!({
        "provider": "wheel", "label": {"en_US": "Wheel"}, "supported_model_types": ["llm", "rerank"],
        "configurate_methods": ["predefined-model"],
        "models": [{"model": "w-1", "model_type": "llm", "label": {"en_US": "W"},
            "parameter_rules": [{"name": "speed", "use_template": "top_p"}]}],
    })
}

fn endpoint() -> Value {
    json!({
        "settings": [{"name": "key", "type": "select", "label": {"en_US": "Key"},
            "options": [{"value": "a", "label": {"en_US": "A"}}]}],
        "endpoints": [{"path": "/grain/<id>", "method": "POST"}],
    })
}

fn strategy() -> Value {
    json!({
        "identity": {"author": "mill", "name": "miller", "icon": "icon.svg",
            "label": {"en_US": "Miller"}, "description": {"en_US": "Thinks"}},
        "strategies": [{
            "identity": {"author": "mill", "name": "slow", "label": {"en_US": "Slow"}},
            "description": {"en_US": "Takes its time"},
            "parameters": [{"name": "model", "label": {"en_US": "Model"}, "type": "model-selector",
                "scope": "llm & tool-call"}],
        }],
    })
}

fn datasource() -> Value {
    json!({
        "identity": {"author": "mill", "name": "barn", "icon": "icon.svg",
            "label": {"en_US": "Barn"}, "description": {"en_US": "Corn"}},
        "credentials_schema": [], "provider_type": "online_drive",
        "datasources": [{
            "identity": {"author": "mill", "name": "loft", "label": {"en_US": "Loft"}},
            "description": {"en_US": "Under the roof"},
            "parameters": [{"name": "sack", "type": "number", "label": {"en_US": "Sack"},
                "description": {"en_US": "Which"}}],
        }],
    })
}

fn trigger() -> Value {
    json!({
        "identity": {"author": "mill", "name": "bell", "icon": "icon.svg",
            "label": {"en_US": "Bell"}, "description": {"en_US": "Rings"}},
        "subscription_schema": [],
        "events": [{
            "identity": {"author": "mill", "name": "empty", "label": {"en_US": "Empty"}},
            "description": {"en_US": "No corn left"},
            "parameters": [{"name": "stone", "type": "select", "label": {"en_US": "Stone"},
                "options": [{"value": 0, "label": {"en_US": "None"}}]}],
        }],
    })
}

/// With this in the place of what the pointer names; `null` takes it away.
fn with(mut declaration: Value, at: &str, value: Value) -> Value {
    let (holder, key) = at.rsplit_once('/').unwrap();
    let holder = declaration.pointer_mut(holder).unwrap();
    match (holder, value) {
        (Value::Object(all), Value::Null) => drop(all.remove(key)),
        (Value::Object(all), value) => drop(all.insert(key.to_owned(), value)),
        (Value::Array(all), value) => all[key.parse::<usize>().unwrap()] = value,
        _ => panic!("there is no {at}"),
    }
    declaration
}

fn check(kind: &'static str, declaration: Value) -> Result<(), String> {
    let plugin = match kind {
        "manifest" => Plugin::new(declaration).endpoint("GET", "/flour", |_| Ok(())),
        _ => Plugin::new(manifest()).declare(kind, declaration),
    };
    plugin.check().map_err(|error| error.field().to_owned())
}

#[test]
fn each_rule_of_the_daemon_holds_and_its_error_names_the_field() {
    let manifest = || {
        json!({"author": "mill", "name": "flour", "version": "1.2.3", "label": {"en_US": "Flour"},
            "meta": {"version": "0.0.1", "arch": ["amd64"], "runner":
                {"language": "python", "version": "3.12", "entrypoint": "main"}}})
    };
    let long = |count| Value::from("ü".repeat(count));
    for (kind, declaration, changes) in [
        (
            "manifest",
            manifest(),
            vec![
                ("/author", json!("Mill"), Some("author")),
                ("/author", json!("m".repeat(65)), Some("author")),
                ("/author", json!("mill-2_x"), None),
                ("/name", json!("Flour"), Some("name")),
                ("/name", json!(""), Some("name")),
                ("/version", json!("1.2"), Some("version")),
                ("/version", json!("1.2.3-beta_1"), None),
                ("/version", json!("1.2.3\n"), Some("version")),
                ("/version", json!(1), Some("version")),
                ("/label", json!({"ja_JP": "x"}), Some("label.en_US")),
                ("/label", json!({"en_US": long(1023)}), None),
                ("/label", json!({"en_US": long(1024)}), Some("label.en_US")),
                ("/LABEL", json!({"en_US": "also"}), None),
                ("/type", json!("bundle"), Some("type")),
                ("/tags", json!(["search", "mills"]), Some("tags[1]")),
                ("/repo", json!("https://example.com/mill"), None),
                ("/repo", json!("example"), Some("repo")),
                ("/created_at", json!("2025-01-01"), Some("created_at")),
                ("/created_at", json!("0001-01-01T00:00:00Z"), Some("created_at")),
                ("/created_at", json!("2025-01-01T1:00:00,5+02:00"), None),
                ("/meta/arch", json!(["x86"]), Some("meta.arch[0]")),
                ("/meta/arch", json!([]), None),
                ("/meta/arch", Value::Null, Some("meta.arch")),
                ("/meta/runner/language", json!("rust"), Some("meta.runner.language")),
                ("/resource", json!({"memory": 0}), Some("resource.memory")),
                ("/resource", json!({"memory": 1.5}), Some("resource.memory")),
                (
                    "/resource",
                    json!({"permission": {"storage": {"enabled": false, "size": 1023}}}),
                    Some("resource.permission.storage.size"),
                ),
                ("/plugins", json!({"tools": [long(128)]}), None),
                ("/plugins", json!({"tools": [long(129)]}), Some("plugins.tools[0]")),
                ("/icon", json!("stone.svg"), Some("icon")),
                ("/icon_dark", json!("night.svg"), Some("icon_dark")),
                ("/anything", json!([1]), None),
            ],
        ),
        (
            "tool",
            tool(),
            vec![
                ("/identity/name", json!("flour mill"), Some("identity.name")),
                ("/identity/icon", json!("stone.svg"), Some("identity.icon")),
                ("/identity/description", Value::Null, Some("identity.description.en_US")),
                ("/credentials_schema", Value::Null, Some("credentials_schema")),
                (
                    "/credentials_schema",
                    json!({"key": {"type": "boolean", "label": {"en_US": "K"}}}),
                    None,
                ),
                ("/credentials_schema/0/type", json!("number"), Some("credentials_schema[0].type")),
                ("/credentials_schema/0/help", json!({}), Some("credentials_schema[0].help.en_US")),
                ("/credentials_schema/0/default", json!({}), Some("credentials_schema[0].default")),
                (
                    "/credentials_schema/0/required",
                    json!("yes"),
                    Some("credentials_schema[0].required"),
                ),
                (
                    "/oauth_schema",
                    json!({"client_schema": [{"type": "text-input"}]}),
                    Some("oauth_schema.client_schema[0].label.en_US"),
                ),
                ("/tools", json!([]), None),
                ("/tools/0/identity/author", Value::Null, Some("tools[0].identity.author")),
                ("/tools/0/description/llm", json!(""), Some("tools[0].description.llm")),
                // The daemon leaves such a tool out without a word.
                (
                    "/tools/0/description/llm",
                    json!({"en_US": "x"}),
                    Some("tools[0].description.llm"),
                ),
                ("/tools/0/parameters/0/type", json!("text"), Some("tools[0].parameters[0].type")),
                ("/tools/0/parameters/0/type", json!("date-range"), None),
                ("/tools/0/parameters/0/form", json!("chat"), Some("tools[0].parameters[0].form")),
                ("/tools/0/parameters/0/scope", json!("all"), Some("tools[0].parameters[0].scope")),
                ("/tools/0/parameters/0/default", json!([1]), None),
                (
                    "/tools/0/parameters/0/show_on",
                    json!([{"variable": "a"}]),
                    Some("tools[0].parameters[0].show_on[0].value"),
                ),
                (
                    "/tools/0/parameters/0/precision",
                    json!(0.5),
                    Some("tools[0].parameters[0].precision"),
                ),
            ],
        ),
        (
            "model",
            model(),
            vec![
                ("/provider", json!(long(256)), Some("provider")),
                ("/models", Value::Null, Some("models")),
                ("/models", json!({"llm": {"predefined": ["*.yaml"]}}), None),
                ("/models/0/model_type", json!("wheel"), None),
                ("/models/0/deprecated", json!(1), Some("models[0].deprecated")),
                ("/models/0/pricing", json!({"input": "0.1", "unit": 1, "currency": "EUR"}), None),
                ("/models/0/pricing", json!({"input": "cheap"}), Some("models[0].pricing.input")),
                (
                    "/models/0/parameter_rules/0/use_template",
                    json!("none"),
                    Some("models[0].parameter_rules[0].use_template"),
                ),
                ("/supported_model_types/0", json!("chat"), Some("supported_model_types[0]")),
                ("/configurate_methods", json!([]), None),
                ("/icon_large", json!({"en_US": "no.svg"}), Some("icon_large.en_US")),
                ("/help", json!({"title": {"en_US": "x"}}), Some("help.url.en_US")),
                (
                    "/model_credential_schema",
                    json!({}),
                    Some("model_credential_schema.model.label.en_US"),
                ),
            ],
        ),
        (
            "endpoint",
            endpoint(),
            vec![
                ("/endpoints/0/method", json!("PATCH"), Some("endpoints[0].method")),
                ("/endpoints/0/path", json!(""), Some("endpoints[0].path")),
                ("/endpoints/0/hidden", json!(1), Some("endpoints[0].hidden")),
                ("/settings/0/options/0/value", json!(""), Some("settings[0].options[0].value")),
                ("/endpoints", Value::Null, None),
            ],
        ),
        (
            "agent_strategy",
            strategy(),
            vec![
                (
                    "/strategies/0/parameters/0/type",
                    json!("object"),
                    Some("strategies[0].parameters[0].type"),
                ),
                (
                    "/strategies/0/parameters/0/scope",
                    json!("all"),
                    Some("strategies[0].parameters[0].scope"),
                ),
                ("/strategies/0/parameters/0/help", json!({"en_US": ""}), None),
                (
                    "/strategies/0/parameters/0/help",
                    json!({"ja_JP": "x"}),
                    Some("strategies[0].parameters[0].help.en_US"),
                ),
                ("/strategies", Value::Null, None),
            ],
        ),
        (
            "datasource",
            datasource(),
            vec![
                ("/provider_type", json!("files"), Some("provider_type")),
                ("/datasources/0/parameters", Value::Null, Some("datasources[0].parameters")),
                (
                    "/datasources/0/identity/icon",
                    json!("no.svg"),
                    Some("datasources[0].identity.icon"),
                ),
                (
                    "/datasources/0/parameters/0/type",
                    json!("any"),
                    Some("datasources[0].parameters[0].type"),
                ),
            ],
        ),
        (
            "trigger",
            trigger(),
            vec![
                ("/subscription_schema", Value::Null, Some("subscription_schema")),
                ("/subscription_schema", json!([{"type": "colour"}]), None),
                ("/events/0/parameters/0/type", json!("any"), Some("events[0].parameters[0].type")),
                (
                    "/events/0/parameters/0/options/0/value",
                    Value::Null,
                    Some("events[0].parameters[0].options[0].value"),
                ),
            ],
        ),
    ] {
        assert_eq!(check(kind, declaration.clone()), Ok(()), "{kind} as it is");
        for (at, value, field) in changes {
            let changed = with(declaration.clone(), at, value.clone());
            let found = check(kind, changed).err();
            assert_eq!(found.as_deref(), field, "{kind}{at} = {value}");
        }
    }
}

/// All that the builders can say, with nothing left at its default.
#[test]
fn what_the_builders_declare_is_taken() {
    let parameters = || {
        [
            Parameter::string("s").required().description("text").default("x"),
            Parameter::number("n").min(0.0).max(1.0).precision(2).default(0.5),
            Parameter::select("c", [("a", "A"), ("b", "B")]).default("a"),
            Parameter::model("m").scope("llm&vision").label("Model"),
            Parameter::boolean("b"),
        ]
    };
    let settings = || {
        [
            Setting::secret("key")
                .required()
                .help("ask us")
                .placeholder("k-..")
                .url("https://e.com"),
            Setting::select("region", [("eu", "Europe")]).default("eu").label("Region"),
            Setting::app("app").scope("chat"),
        ]
    };
    let manifest = Manifest::new("mill", "flour", "1.2.3")
        .label("Flour")
        .description("Grinds")
        .tag("utilities")
        .memory(1 << 20)
        .created_at("2025-05-05T05:05:05Z")
        .repo("https://example.com")
        .minimum_dify_version("1.4.0")
        .permissions([Permission::Tools, Permission::Models, Permission::Storage(1024)]);
    let mut tool =
        Tool::new("grind").label("Grind").description("Grinds").llm_description("grinds");
    for parameter in parameters() {
        tool = tool.parameter(parameter);
    }
    let mut tools = ToolProvider::new("flour").label("Flour").description("d").tag("search");
    let mut plugin = Plugin::new(manifest.clone());
    for setting in settings() {
        tools = tools.credential(setting.clone());
        plugin = plugin.endpoint_setting(setting);
    }
    plugin
        .tool_provider(tools.oauth(settings(), settings()))
        .tool("flour", tool.output_schema(json!({"type": "object"})), |_| Ok(()))
        .endpoint("POST", "/grain/<id>", |_| Ok(()))
        .asset("mill.png", [1, 2, 3])
        .check()
        .unwrap();

    let [s, n, c, ..] = parameters();
    let of = Strategy::new("slow").label("Slow").description("d").feature("history-messages");
    let of = of.parameter(s.clone()).parameter(Parameter::tools("tools"));
    let strategies = StrategyProvider::new("miller").strategy(of);
    let of = Datasource::new("loft").label("Loft").description("d").icon("icon.svg").parameter(n);
    let sources = DatasourceProvider::new("barn", DatasourceKind::OnlineDrive).datasource(of);
    let of = Event::new("empty").label("Empty").description("d").parameter(c.clone());
    let triggers = TriggerProvider::new("bell")
        .subscription(Setting::secret("secret"))
        .constructor([c], settings())
        .oauth(settings(), settings())
        .event(of.output_schema(json!({})));
    // What these declare is seen by those who handle them.
    drop((strategies, sources, triggers));
}

#[test]
fn a_second_provider_of_a_kind_is_an_error_that_names_the_kind() {
    let plugin = Plugin::new(manifest()).tool("a", "x", |_| Ok(())).tool("b", "y", |_| Ok(()));
    let error = plugin.check().unwrap_err();
    assert_eq!(error.declaration(), "tool");
    assert!(error.to_string().contains("2 providers"), "{error}");
    let plugin = Plugin::new(manifest()).declare("model", model()).declare("tool", tool());
    assert_eq!(plugin.check().unwrap_err().declaration(), "plugin");
}

#[test]
fn an_asset_by_any_name_is_the_icon_and_a_plugin_without_assets_has_one() {
    let plugin = || Plugin::new(manifest()).tool("flour", "grind", |_| Ok(()));
    plugin().check().unwrap();
    plugin().asset("logo.png", [1]).check().unwrap();
    let error = plugin().asset("logo.png", "").check().unwrap_err();
    assert_eq!(error.field(), "identity.icon", "an empty asset is not sent");
}

/// The events of a handshake after the key, and what the daemon says to them.
fn says(events: &[Value]) -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut said = format!("{}\n", json!({"type": "handshake", "data": {"key": "a key"}}));
    for event in events.iter().chain([&json!({"type": "end", "data": {}})]) {
        said += &format!("{event}\n\n");
    }
    stream.write_all(said.as_bytes()).unwrap();
    let taken = Daemon::new("a key").accept(&listener, PATIENCE);
    taken.err().map(|error| {
        assert!(error.is_connect());
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    })
}

#[test]
fn the_daemon_refuses_by_the_same_rules_and_in_difys_words() {
    let event = |kind: &str, data: Value| json!({"type": kind, "data": data});
    let complete = json!({
        "version": "1.2.3", "type": "plugin", "author": "mill", "name": "flour", "plugins": {},
        "label": {"en_US": "Flour"}, "description": {"en_US": "Grinds"}, "icon": "icon.svg",
        "resource": {"memory": 1}, "created_at": "2025-01-01T00:00:00Z",
        "meta": {"version": "0.0.1", "arch": [], "runner":
            {"language": "python", "version": "3.12", "entrypoint": "main"}},
    });
    let whole = event("manifest_declaration", complete.clone());
    let tools = event("tool_declaration", json!([tool()]));
    let icon = event("asset_chunk", json!({"filename": "icon.svg", "data": "PHN2Zy8+"}));
    let unknown = event("weather_declaration", json!(1));
    assert_eq!(says(&[whole.clone(), tools.clone(), unknown, icon.clone()]), None);
    for (events, heard) in [
        (vec![whole.clone()], "no registration transferred"),
        (vec![whole.clone(), tools.clone()], "assets remap failed"),
        (vec![whole.clone(), whole.clone()], "declaration already registered"),
        (vec![whole.clone(), tools.clone(), tools.clone()], "tools declaration already registered"),
        (vec![tools.clone(), whole.clone(), icon.clone()], "register failed, invalid manifest"),
        (
            vec![whole.clone(), event("tool_declaration", json!([])), icon.clone()],
            "register failed",
        ),
        (vec![whole.clone(), event("tool_declaration", tool())], "tools register failed"),
        (
            vec![event("manifest_declaration", with(complete.clone(), "/version", json!("1")))],
            "handshake failed, invalid plugin declaration: `version` is `1`",
        ),
        (
            vec![
                whole.clone(),
                event(
                    "tool_declaration",
                    json!([with(tool(), "/tools/0/identity/name", json!(""))]),
                ),
            ],
            "tools register failed, invalid tools declaration: `tools[0].identity.name` is missing",
        ),
        (
            vec![whole, event("asset_chunk", json!({"filename": "icon.svg", "data": "<svg/>"}))],
            "transfer assets failed, error: `data` is no base64",
        ),
    ] {
        let said = says(&events).expect("it is refused");
        assert!(said.starts_with(heard), "{said}");
    }
}

/// The tests' plugin for the SDK: what the SDK makes of its folder and what is made of it here are the
/// same for the daemon.
#[test]
fn the_sdks_own_folder_is_taken_over_with_its_files_and_variables() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dify_plugin");
    Package::read(&here).unwrap().plugin().check().unwrap();

    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("dify-package");
    let _ = std::fs::remove_dir_all(&folder);
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "manifest.yaml",
        "version: 0.0.1\nauthor: mill\nname: flour\nlabel:\n  en_US: Flour\nplugins:\n  tools:\n  - provider/flour.yaml\n",
    );
    write(
        "provider/flour.yaml",
        "identity:\n  author: mill\n  name: flour\n  label: &text\n    en_US: Flour\n  description: *text\n  icon: stone.svg\ncredentials_for_provider:\n  key:\n    type: secret-input\n    label:\n      en_US: Key\ntools:\n- tools/grind.yaml\n",
    );
    write(
        "tools/grind.yaml",
        "identity:\n  author: mill\n  name: grind\n  label:\n    en_US: Grind\ndescription:\n  human:\n    en_US: Grinds\n  llm: Grinds\nparameters:\n- name: speed\n  type: select\n  form: form\n  label:\n    en_US: Speed\n  human_description:\n    en_US: How fast\n  options:\n  - value: 1\n    label:\n      en_US: One\n",
    );
    write("_assets/stone.svg", "<svg/>");
    write(
        ".env",
        "INSTALL_METHOD=remote\nREMOTE_INSTALL_URL=daemon:7\nREMOTE_INSTALL_KEY=hunter2\n",
    );
    let package = Package::read(&folder).unwrap();
    assert!(!format!("{package:?}").contains("hunter2"));
    package.plugin().tool("flour", "grind", |_| Ok(())).check().unwrap();
    let expected = sessile::session::dify::Environment::remote("daemon:7", "hunter2");
    assert_eq!(package.environment().unwrap(), expected);

    write("tools/grind.yaml", "identity: [");
    let error = format!("{:#}", Package::read(&folder).unwrap_err());
    assert!(error.contains("grind.yaml"), "{error}");
    write(".env", "hunter2 hunter2\n");
    write("tools/grind.yaml", "{}");
    let error = format!("{:#}", Package::read(&folder).unwrap_err());
    assert!(error.contains(".env") && !error.contains("hunter2"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
