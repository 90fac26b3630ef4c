//! The daemon's rules, as tables.

use serde_json::Value;

use super::shape::{Fault, Field, Rule, Shape, check, get, read};
use Rule::{AtMost, Basic, Between, Each, Is, OmitEmpty, OneOf, Required, Scope};
use Shape::{Anything, Bool, Decimal, Float, List, Object, Signed, Text, Time, Unsigned};

/// A field that is zero when it is absent.
const fn field(name: &'static str, shape: Shape, rules: &'static [Rule]) -> Field {
    Field { name, shape, rules, optional: false }
}

/// A field that may be absent.
const fn maybe(name: &'static str, shape: Shape, rules: &'static [Rule]) -> Field {
    Field { name, shape, rules, optional: true }
}

pub(super) const LANGUAGES: [&str; 4] = ["en_US", "zh_Hans", "ja_JP", "pt_BR"];

static TRANSLATED: [Field; 4] = [
    field("en_US", Text, &[Required, AtMost(1023)]),
    field("ja_JP", Text, &[AtMost(1023)]),
    field("zh_Hans", Text, &[AtMost(1023)]),
    field("pt_BR", Text, &[AtMost(1023)]),
];

const TAGS: &[&str] = &[
    "search",
    "image",
    "videos",
    "weather",
    "finance",
    "design",
    "travel",
    "social",
    "news",
    "medical",
    "productivity",
    "education",
    "business",
    "entertainment",
    "utilities",
    "agent",
    "other",
    "trigger",
];

pub(super) static ASSET: [Field; 3] = [
    field("filename", Text, &[Required]),
    field("data", Text, &[Required]),
    field("end", Bool, &[]),
];

static ENABLED: [Field; 1] = [field("enabled", Bool, &[])];

static PERMISSIONS: [Field; 6] = [
    maybe("tool", Object(&ENABLED), &[OmitEmpty]),
    maybe("model", Object(&MODEL_PERMISSION), &[OmitEmpty]),
    maybe("node", Object(&ENABLED), &[OmitEmpty]),
    maybe("endpoint", Object(&ENABLED), &[OmitEmpty]),
    maybe("app", Object(&ENABLED), &[OmitEmpty]),
    maybe("storage", Object(&STORAGE_PERMISSION), &[OmitEmpty]),
];

static MODEL_PERMISSION: [Field; 7] = [
    field("enabled", Bool, &[]),
    field("llm", Bool, &[]),
    field("text_embedding", Bool, &[]),
    field("rerank", Bool, &[]),
    field("tts", Bool, &[]),
    field("speech2text", Bool, &[]),
    field("moderation", Bool, &[]),
];

static STORAGE_PERMISSION: [Field; 2] =
    [field("enabled", Bool, &[]), field("size", Unsigned, &[Between(1024, 1 << 30)])];

static RESOURCE: [Field; 2] =
    [field("memory", Signed, &[Required]), maybe("permission", Object(&PERMISSIONS), &[OmitEmpty])];

const FILES: &[Rule] = &[OmitEmpty, Each(&[AtMost(128)])];

static FILES_OF_KINDS: [Field; 6] = [
    field("tools", List(&Text), FILES),
    field("models", List(&Text), FILES),
    field("endpoints", List(&Text), FILES),
    field("agent_strategies", List(&Text), FILES),
    field("datasources", List(&Text), FILES),
    field("triggers", List(&Text), FILES),
];

static RUNNER: [Field; 3] = [
    field("language", Text, &[Required, OneOf(&["python"])]),
    field("version", Text, &[Required, AtMost(128)]),
    field("entrypoint", Text, &[Required, AtMost(256)]),
];

static META: [Field; 4] = [
    field("version", Text, &[Required, VERSION]),
    field("arch", List(&Text), &[Required, Each(&[OneOf(&["amd64", "arm64"])])]),
    field("runner", Object(&RUNNER), &[Required]),
    maybe("minimum_dify_version", Text, &[]),
];

const VERSION: Rule =
    Is(is_version, "three numbers, such as 0.0.1, and a suffix such as -rc1 or none");

pub(super) static MANIFEST: [Field; 16] = [
    field("version", Text, &[Required, VERSION]),
    field("type", Text, &[Required, OneOf(&["plugin"])]),
    field("author", Text, &[OmitEmpty, AtMost(64)]),
    field("name", Text, &[Required, AtMost(128)]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("description", Object(&TRANSLATED), &[Required]),
    field("icon", Text, &[Required, AtMost(128)]),
    field("icon_dark", Text, &[OmitEmpty, AtMost(128)]),
    field("resource", Object(&RESOURCE), &[Required]),
    field("plugins", Object(&FILES_OF_KINDS), &[Required]),
    field("meta", Object(&META), &[Required]),
    field("tags", List(&Text), &[OmitEmpty, Each(&[OneOf(TAGS), AtMost(128)])]),
    field("created_at", Time, &[Required]),
    maybe("privacy", Text, &[OmitEmpty]),
    maybe("repo", Text, &[OmitEmpty, Is(is_url, "a URL")]),
    field("verified", Bool, &[]),
];

const NAME: Rule = Is(is_name, "of letters, digits, `-` and `_`");

static PROVIDER_IDENTITY: [Field; 7] = [
    field("author", Text, &[Required]),
    field("name", Text, &[Required, NAME]),
    field("description", Object(&TRANSLATED), &[]),
    field("icon", Text, &[Required]),
    field("icon_dark", Text, &[OmitEmpty]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("tags", List(&Text), &[OmitEmpty, Each(&[OneOf(TAGS)])]),
];

static IDENTITY: [Field; 3] = [
    field("author", Text, &[Required]),
    field("name", Text, &[Required, NAME]),
    field("label", Object(&TRANSLATED), &[Required]),
];

const SETTING_TYPES: &[&str] = &[
    "secret-input",
    "text-input",
    "select",
    "boolean",
    "app-selector",
    "model-selector",
    "array[tools]",
];

static SETTING_OPTION: [Field; 2] = [
    field("value", Text, &[Required, AtMost(127)]),
    field("label", Object(&TRANSLATED), &[Required]),
];

/// A credential, or a setting of an endpoint.
static SETTING: [Field; 12] = [
    field("name", Text, &[OmitEmpty, AtMost(1023)]),
    field("type", Text, &[Required, OneOf(SETTING_TYPES)]),
    maybe("scope", Text, &[OmitEmpty, Scope]),
    field("required", Bool, &[]),
    field("default", Anything, &[OmitEmpty, Basic]),
    field("options", List(&Object(&SETTING_OPTION)), &[OmitEmpty, AtMost(127), Each(&[])]),
    field("multiple", Bool, &[OmitEmpty]),
    field("label", Object(&TRANSLATED), &[Required]),
    maybe("help", Object(&TRANSLATED), &[OmitEmpty]),
    maybe("url", Text, &[OmitEmpty]),
    maybe("placeholder", Object(&TRANSLATED), &[OmitEmpty]),
    field("reset_on_change", List(&Text), RESETS),
];

const RESETS: &[Rule] = &[OmitEmpty, AtMost(16), Each(&[Required, AtMost(1023)])];

const EACH: &[Rule] = &[OmitEmpty, Each(&[])];

static OAUTH: [Field; 2] = [
    field("client_schema", List(&Object(&SETTING)), EACH),
    field("credentials_schema", List(&Object(&SETTING)), EACH),
];

static AUTO_GENERATE: [Field; 1] =
    [field("type", Text, &[Required, OneOf(&["prompt_instruction"])])];

static OPTION: [Field; 3] = [
    field("value", Text, &[Required]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("icon", Text, &[OmitEmpty]),
];

static SHOW_ON: [Field; 2] = [
    field("variable", Text, &[Required, AtMost(255)]),
    field("value", Text, &[Required, AtMost(255)]),
];

const SHOWN: &[Rule] = &[OmitEmpty, AtMost(16), Each(&[])];

const TOOL_TYPES: &[&str] = &[
    "string",
    "number",
    "boolean",
    "select",
    "secret-input",
    "file",
    "files",
    "app-selector",
    "model-selector",
    "any",
    "dynamic-select",
    "array",
    "object",
    "checkbox",
    "date",
    "date-range",
];

static TOOL_PARAMETER: [Field; 17] = [
    field("name", Text, &[Required, AtMost(1023)]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("human_description", Object(&TRANSLATED), &[Required]),
    field("type", Text, &[Required, OneOf(TOOL_TYPES)]),
    maybe("scope", Text, &[OmitEmpty, AtMost(1024), Scope]),
    field("form", Text, &[Required, OneOf(&["schema", "form", "llm"])]),
    field("llm_description", Text, &[OmitEmpty]),
    field("required", Bool, &[]),
    maybe("auto_generate", Object(&AUTO_GENERATE), &[OmitEmpty]),
    maybe("template", Object(&ENABLED), &[OmitEmpty]),
    field("default", Anything, &[OmitEmpty]),
    maybe("min", Float, &[OmitEmpty]),
    maybe("max", Float, &[OmitEmpty]),
    field("multiple", Bool, &[OmitEmpty]),
    maybe("precision", Signed, &[OmitEmpty]),
    field("options", List(&Object(&OPTION)), EACH),
    field("show_on", List(&Object(&SHOW_ON)), SHOWN),
];

static TOOL_DESCRIPTION: [Field; 2] =
    [field("human", Object(&TRANSLATED), &[Required]), field("llm", Text, &[Required])];

static TOOL: [Field; 5] = [
    field("identity", Object(&IDENTITY), &[Required]),
    field("description", Object(&TOOL_DESCRIPTION), &[Required]),
    field("parameters", List(&Object(&TOOL_PARAMETER)), EACH),
    field("output_schema", Shape::Map, &[]),
    field("has_runtime_parameters", Bool, &[]),
];

static TOOL_PROVIDER: [Field; 4] = [
    field("identity", Object(&PROVIDER_IDENTITY), &[Required]),
    field("credentials_schema", List(&Object(&SETTING)), EACH),
    maybe("oauth_schema", Object(&OAUTH), &[OmitEmpty]),
    field("tools", List(&Object(&TOOL)), EACH),
];

const METHODS: &[&str] = &["HEAD", "GET", "POST", "PUT", "DELETE", "OPTIONS"];

static ENDPOINT: [Field; 3] = [
    field("path", Text, &[Required]),
    field("method", Text, &[Required, OneOf(METHODS)]),
    field("hidden", Bool, &[OmitEmpty]),
];

static ENDPOINT_PROVIDER: [Field; 3] = [
    field("settings", List(&Object(&SETTING)), EACH),
    field("endpoints", List(&Object(&ENDPOINT)), EACH),
    field("custom_initialize_process_enabled", Bool, &[OmitEmpty]),
];

const MODEL_TYPES: &[&str] = &[
    "llm",
    "text-embedding",
    "rerank",
    "speech2text",
    "moderation",
    "tts",
    "text2img",
    "multimodal-embedding",
    "multimodal-rerank",
];

const MODEL_TEMPLATES: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "response_format",
    "json_schema",
];

/// Of a model nothing is asked but its types; hence no rules.
static PARAMETER_RULE: [Field; 11] = [
    field("name", Text, &[]),
    maybe("use_template", Text, &[]),
    maybe("label", Object(&TRANSLATED), &[]),
    maybe("type", Text, &[]),
    maybe("help", Object(&TRANSLATED), &[]),
    field("required", Bool, &[]),
    field("default", Anything, &[]),
    maybe("min", Float, &[]),
    maybe("max", Float, &[]),
    maybe("precision", Signed, &[]),
    field("options", List(&Text), &[]),
];

static PRICING: [Field; 4] = [
    field("input", Decimal, &[]),
    maybe("output", Decimal, &[]),
    field("unit", Decimal, &[]),
    field("currency", Text, &[]),
];

static MODEL: [Field; 9] = [
    field("model", Text, &[]),
    field("label", Object(&TRANSLATED), &[]),
    field("model_type", Text, &[]),
    field("features", List(&Text), &[]),
    field("fetch_from", Text, &[]),
    field("model_properties", Shape::Map, &[]),
    field("deprecated", Bool, &[]),
    field("parameter_rules", List(&Object(&PARAMETER_RULE)), &[]),
    maybe("pricing", Object(&PRICING), &[]),
];

static MODELS: Shape = List(&Object(&MODEL));

static FORM_OPTION: [Field; 3] = [
    field("label", Object(&TRANSLATED), &[Required]),
    field("value", Text, &[Required, AtMost(255)]),
    field("show_on", List(&Object(&SHOW_ON)), SHOWN),
];

const FORM_TYPES: &[&str] = &["text-input", "secret-input", "select", "radio", "switch"];

static FORM: [Field; 9] = [
    field("variable", Text, &[Required, AtMost(255)]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("type", Text, &[Required, OneOf(FORM_TYPES)]),
    field("required", Bool, &[]),
    maybe("default", Text, &[OmitEmpty, AtMost(255)]),
    field("options", List(&Object(&FORM_OPTION)), &[OmitEmpty, AtMost(128), Each(&[])]),
    maybe("placeholder", Object(&TRANSLATED), &[OmitEmpty]),
    field("max_length", Signed, &[]),
    field("show_on", List(&Object(&SHOW_ON)), SHOWN),
];

const FORMS: &[Rule] = &[OmitEmpty, AtMost(32), Each(&[])];

static PROVIDER_FORM: [Field; 1] = [field("credential_form_schemas", List(&Object(&FORM)), FORMS)];

static MODEL_FIELD: [Field; 2] = [
    field("label", Object(&TRANSLATED), &[Required]),
    maybe("placeholder", Object(&TRANSLATED), &[OmitEmpty]),
];

static MODEL_FORM: [Field; 2] = [
    field("model", Object(&MODEL_FIELD), &[Required]),
    field("credential_form_schemas", List(&Object(&FORM)), FORMS),
];

static HELP: [Field; 2] = [
    field("title", Object(&TRANSLATED), &[Required]),
    field("url", Object(&TRANSLATED), &[Required]),
];

static POSITION: [Field; 6] = [
    maybe("llm", List(&Text), &[]),
    maybe("text_embedding", List(&Text), &[]),
    maybe("rerank", List(&Text), &[]),
    maybe("tts", List(&Text), &[]),
    maybe("speech2text", List(&Text), &[]),
    maybe("moderation", List(&Text), &[]),
];

const WAYS: &[&str] = &["predefined-model", "customizable-model"];

static MODEL_PROVIDER: [Field; 14] = [
    field("provider", Text, &[Required, AtMost(255)]),
    field("label", Object(&TRANSLATED), &[Required]),
    maybe("description", Object(&TRANSLATED), &[OmitEmpty]),
    maybe("icon_small", Object(&TRANSLATED), &[OmitEmpty]),
    maybe("icon_large", Object(&TRANSLATED), &[OmitEmpty]),
    maybe("icon_small_dark", Object(&TRANSLATED), &[OmitEmpty]),
    maybe("icon_large_dark", Object(&TRANSLATED), &[OmitEmpty]),
    maybe("background", Text, &[OmitEmpty]),
    maybe("help", Object(&HELP), &[OmitEmpty]),
    field(
        "supported_model_types",
        List(&Text),
        &[Required, AtMost(16), Each(&[OneOf(MODEL_TYPES)])],
    ),
    field("configurate_methods", List(&Text), &[Required, AtMost(16), Each(&[OneOf(WAYS)])]),
    maybe("provider_credential_schema", Object(&PROVIDER_FORM), &[OmitEmpty]),
    maybe("model_credential_schema", Object(&MODEL_FORM), &[OmitEmpty]),
    maybe("position", Object(&POSITION), &[]),
];

const STRATEGY_TYPES: &[&str] = &[
    "string",
    "number",
    "boolean",
    "select",
    "secret-input",
    "file",
    "files",
    "app-selector",
    "model-selector",
    "array[tools]",
    "any",
];

static STRATEGY_PARAMETER: [Field; 14] = [
    field("name", Text, &[Required, AtMost(1023)]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("help", Object(&TRANSLATED), &[OmitEmpty]),
    field("type", Text, &[Required, OneOf(STRATEGY_TYPES)]),
    maybe("auto_generate", Object(&AUTO_GENERATE), &[OmitEmpty]),
    maybe("template", Object(&ENABLED), &[OmitEmpty]),
    maybe("scope", Text, &[OmitEmpty, AtMost(1024), Scope]),
    field("required", Bool, &[]),
    field("default", Anything, &[OmitEmpty, Basic]),
    maybe("min", Float, &[OmitEmpty]),
    maybe("max", Float, &[OmitEmpty]),
    maybe("precision", Signed, &[OmitEmpty]),
    field("options", List(&Object(&OPTION)), EACH),
    field("reset_on_change", List(&Text), RESETS),
];

static STRATEGY: [Field; 5] = [
    field("identity", Object(&IDENTITY), &[Required]),
    field("description", Object(&TRANSLATED), &[Required]),
    field("parameters", List(&Object(&STRATEGY_PARAMETER)), EACH),
    field("output_schema", Shape::Map, &[OmitEmpty]),
    field("features", List(&Text), &[OmitEmpty, Each(&[AtMost(255)])]),
];

static STRATEGY_PROVIDER: [Field; 2] = [
    field("identity", Object(&PROVIDER_IDENTITY), &[Required]),
    field("strategies", List(&Object(&STRATEGY)), EACH),
];

static SOURCE_IDENTITY: [Field; 4] = [
    field("author", Text, &[Required]),
    field("name", Text, &[Required]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("icon", Text, &[OmitEmpty]),
];

const SOURCE_TYPES: &[&str] = &["string", "number", "boolean", "select", "secret-input"];

static SOURCE_PARAMETER: [Field; 13] = [
    field("name", Text, &[Required, AtMost(1023)]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("type", Text, &[Required, OneOf(SOURCE_TYPES)]),
    maybe("scope", Text, &[OmitEmpty, AtMost(1024), Scope]),
    field("required", Bool, &[]),
    maybe("auto_generate", Object(&AUTO_GENERATE), &[OmitEmpty]),
    maybe("template", Object(&ENABLED), &[OmitEmpty]),
    field("default", Anything, &[OmitEmpty, Basic]),
    maybe("min", Float, &[OmitEmpty]),
    maybe("max", Float, &[OmitEmpty]),
    maybe("precision", Signed, &[OmitEmpty]),
    field("options", List(&Object(&OPTION)), EACH),
    field("description", Object(&TRANSLATED), &[Required]),
];

static SOURCE: [Field; 4] = [
    field("identity", Object(&SOURCE_IDENTITY), &[Required]),
    field("parameters", List(&Object(&SOURCE_PARAMETER)), &[Required, Each(&[])]),
    field("description", Object(&TRANSLATED), &[Required]),
    field("output_schema", Shape::Map, &[OmitEmpty]),
];

static SOURCE_PROVIDER_IDENTITY: [Field; 6] = [
    field("author", Text, &[Required]),
    field("name", Text, &[Required]),
    field("description", Object(&TRANSLATED), &[Required]),
    field("icon", Text, &[Required]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("tags", List(&Text), &[OmitEmpty, Each(&[OneOf(TAGS)])]),
];

const PROVIDER_TYPES: &[&str] = &["website_crawl", "online_document", "online_drive"];

static SOURCE_PROVIDER: [Field; 5] = [
    field("identity", Object(&SOURCE_PROVIDER_IDENTITY), &[Required]),
    field("credentials_schema", List(&Object(&SETTING)), EACH),
    maybe("oauth_schema", Object(&OAUTH), &[OmitEmpty]),
    field("provider_type", Text, &[Required, OneOf(PROVIDER_TYPES)]),
    field("datasources", List(&Object(&SOURCE)), EACH),
];

const EVENT_TYPES: &[&str] = &[
    "string",
    "number",
    "boolean",
    "select",
    "file",
    "files",
    "model-selector",
    "app-selector",
    "object",
    "array",
    "dynamic-select",
    "checkbox",
];

static EVENT_OPTION: [Field; 2] =
    [field("label", Object(&TRANSLATED), &[Required]), field("value", Anything, &[Required])];

static EVENT_PARAMETER: [Field; 14] = [
    field("name", Text, &[Required]),
    field("label", Object(&TRANSLATED), &[Required]),
    field("type", Text, &[Required, OneOf(EVENT_TYPES)]),
    maybe("auto_generate", Object(&AUTO_GENERATE), &[]),
    maybe("template", Object(&ENABLED), &[]),
    maybe("scope", Text, &[]),
    field("required", Bool, &[]),
    field("multiple", Bool, &[]),
    field("default", Anything, &[]),
    maybe("min", Float, &[]),
    maybe("max", Float, &[]),
    maybe("precision", Signed, &[]),
    field("options", List(&Object(&EVENT_OPTION)), EACH),
    maybe("description", Object(&TRANSLATED), &[]),
];

static EVENT: [Field; 4] = [
    field("identity", Object(&IDENTITY), &[Required]),
    field("parameters", List(&Object(&EVENT_PARAMETER)), EACH),
    field("description", Object(&TRANSLATED), &[Required]),
    field("output_schema", Shape::Map, &[]),
];

static CONSTRUCTOR: [Field; 3] = [
    field("parameters", List(&Object(&EVENT_PARAMETER)), EACH),
    field("credentials_schema", List(&Object(&SETTING)), EACH),
    maybe("oauth_schema", Object(&OAUTH), &[OmitEmpty]),
];

static TRIGGER_PROVIDER: [Field; 4] = [
    field("identity", Object(&PROVIDER_IDENTITY), &[Required]),
    // Its types are looked at, and that it is there; of its fields nothing is asked.
    field("subscription_schema", List(&Object(&SETTING)), &[Required]),
    maybe("subscription_constructor", Object(&CONSTRUCTOR), &[OmitEmpty]),
    field("events", List(&Object(&EVENT)), EACH),
];

/// What a scope may be, by the type of what has it.
pub(super) fn scopes(of: &str) -> &'static [&'static str] {
    match of {
        "app-selector" => &["all", "chat", "workflow", "completion"],
        "model-selector" => &[
            "llm",
            "text-embedding",
            "rerank",
            "tts",
            "speech2text",
            "moderation",
            "vision",
            "document",
            "tool-call",
        ],
        "any" => &[
            "string",
            "number",
            "object",
            "array[number]",
            "array[string]",
            "array[object]",
            "array[file]",
        ],
        _ => &[],
    }
}

/// Whether the daemon takes a provider of this kind.
///
/// An entry that cannot be read (a tool whose name is a number, say) the daemon leaves out without a
/// word. Here it is an error: what is declared and not there is missed later.
pub(super) fn check_provider(kind: &str, provider: &Value) -> Result<(), Fault> {
    match kind {
        "tool" => check_tools(provider),
        "model" => check_models(provider),
        "endpoint" => check(provider, &ENDPOINT_PROVIDER),
        "agent_strategy" => check(provider, &STRATEGY_PROVIDER),
        "datasource" => check_sources(provider),
        "trigger" => check(provider, &TRIGGER_PROVIDER),
        _ => Ok(()),
    }
}

fn check_tools(provider: &Value) -> Result<(), Fault> {
    // It may be an object by name, and it may go by another name.
    let schema = ["credentials_schema", "credentials_for_provider"];
    let has = |key| {
        provider.as_object().is_some_and(|all| all.keys().any(|k| k.eq_ignore_ascii_case(key)))
    };
    let Some(key) = schema.into_iter().find(|key| has(key)) else {
        return Err(Fault::new(
            "credentials_schema",
            "is missing: it has to be a list, which may be empty",
        ));
    };
    let mut provider = provider.clone();
    if let Some(all) = provider.as_object_mut() {
        let schema = match get(&Value::Object(all.clone()), key) {
            Some(Value::Object(by_name)) => {
                for (name, setting) in by_name {
                    read(Some(setting), &Object(&SETTING), name)
                        .map_err(|fault| fault.within("credentials_schema"))?;
                }
                by_name.values().cloned().collect()
            }
            Some(other) => other.clone(),
            None => Value::Null,
        };
        all.retain(|known, _| !known.eq_ignore_ascii_case("credentials_schema"));
        all.insert("credentials_schema".to_owned(), schema);
    }
    check(&provider, &TOOL_PROVIDER)
}

fn check_sources(provider: &Value) -> Result<(), Fault> {
    check(provider, &SOURCE_PROVIDER)
}

fn check_models(provider: &Value) -> Result<(), Fault> {
    read(Some(provider), &Object(&MODEL_PROVIDER), "")?;
    let has = provider
        .as_object()
        .is_some_and(|all| all.keys().any(|k| k.eq_ignore_ascii_case("models")));
    if !has {
        return Err(Fault::new("models", "is missing: it has to be a list, which may be empty"));
    }
    let models = get(provider, "models").filter(|models| !models.is_object());
    read(models, &MODELS, "models")?;
    for (at, model) in models.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let rules = get(model, "parameter_rules").and_then(Value::as_array);
        for (rule_at, rule) in rules.into_iter().flatten().enumerate() {
            let template = get(rule, "use_template").and_then(Value::as_str).unwrap_or_default();
            if !template.is_empty() && !MODEL_TEMPLATES.contains(&template) {
                let path = format!("models[{at}].parameter_rules[{rule_at}].use_template");
                let known = MODEL_TEMPLATES.join(", ");
                return Err(Fault::new(
                    path,
                    format!("is `{template}`: it has to be one of {known}"),
                ));
            }
        }
    }
    check(provider, &MODEL_PROVIDER)
}

/// Of an author and of a plugin's name.
pub(super) fn is_identifier(text: &str, longest: usize) -> bool {
    let is = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=longest).contains(&text.len()) && text.bytes().all(is)
}

fn is_name(text: &str) -> bool {
    let is = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !text.is_empty() && text.bytes().all(is)
}

fn is_version(text: &str) -> bool {
    let (numbers, suffix) = match text.split_once('-') {
        Some((numbers, suffix)) => (numbers, Some(suffix)),
        None => (text, None),
    };
    let is_number = |part: &str| {
        (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_suffix = |part: &str| (1..=16).contains(&part.len()) && part.bytes().all(is_word);
    numbers.split('.').count() == 3
        && numbers.split('.').all(is_number)
        && suffix.is_none_or(is_suffix)
}

/// As Go's parser and the daemon's validator have it: a scheme, and after it a host, an opaque part or
/// a fragment.
fn is_url(text: &str) -> bool {
    let text = text.to_lowercase();
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return false;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let mut letters = scheme.bytes();
    let is_scheme = letters.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
    if !is_scheme || !has_good_escapes(fragment) {
        return false;
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
        None if !rest.starts_with('/') => {
            return scheme != "file" && (!rest.is_empty() || !fragment.is_empty());
        }
        None => ("", rest),
    };
    let is_good = is_host(host) && has_good_escapes(path);
    let says_something = match scheme {
        "file" => path.len() > 1,
        _ => !host.is_empty() || !fragment.is_empty(),
    };
    is_good && says_something
}

fn is_host(authority: &str) -> bool {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (name, port) = match host.rfind(']') {
        Some(at) => host.split_at(at + 1),
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let is_letter = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]%<>\"".contains(c)
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    let brackets = name.starts_with('[') == name.ends_with(']');
    port_is_good && brackets && name.chars().all(is_letter) && !name.contains('%')
}

fn has_good_escapes(text: &str) -> bool {
    let mut parts = text.split('%').skip(1);
    parts.all(|part| {
        let mut digits = part.chars().take(2);
        digits.by_ref().all(|c| c.is_ascii_hexdigit()) && part.chars().count() >= 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_three_numbers() {
        assert!(["0.0.1", "1.0.0-rc1", "1234.5.6-a_b"].into_iter().all(is_version));
        let bad = [
            "",
            "1.0",
            "1.0.0.0",
            "12345.0.0",
            "1.0.0-",
            "1.0.0-a.b",
            "v1.0.0",
            "1.0.0\n",
            "1.0.0+x",
        ];
        assert!(!bad.into_iter().any(is_version));
    }

    #[test]
    fn a_url_has_a_scheme_and_says_where() {
        let good = [
            "https://example.com/a/b?x=1",
            "mailto:me@example.com",
            "http://[::1]:80/",
            "file:///a",
            "HTTP://EXAMPLE.COM",
            "https://exämple.com",
        ];
        for url in good {
            assert!(is_url(url), "{url}");
        }
        let bad = [
            "",
            "example.com",
            "/a/b",
            "http://",
            "http://a b/",
            "http://a:b/",
            "file:///",
            "http://a/%zz",
            "1http://a",
            "ht tp://a",
        ];
        for url in bad {
            assert!(!is_url(url), "{url}");
        }
    }
}
