//! Parameters, credentials and settings.

use serde_json::{Value, json};

use super::{I18n, text, with_options};

/// Who gives a parameter its value.
///
/// # Examples
///
/// As at [`Parameter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// The model that calls the tool.
    #[default]
    Llm,
    /// Whoever sets up the tool.
    Form,
    /// Whoever sets up the workflow, by its variables.
    Schema,
}

/// A parameter of a tool, an agent strategy, a datasource or an event.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Form, Parameter, Tool};
///
/// let tool = Tool::new("cross")
///     .parameter(Parameter::string("port").required().description("Where it lands"))
///     .parameter(Parameter::select("class", [("1", "First"), ("2", "Second")]).form(Form::Form))
///     .parameter(Parameter::number("cars").min(0.0).max(9.0).default(0));
/// # drop(tool);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter(Value);

macro_rules! of_type {
    ($(#[doc = $doc:literal] $function:ident = $kind:literal;)*) => {
        $(#[doc = $doc]
        pub fn $function(name: impl Into<String>) -> Self {
            Self::of_type(name, $kind)
        })*
    };
}

impl Parameter {
    of_type! {
        #[doc = "Makes one that is text."]
        string = "string";
        #[doc = "Makes one that is a number."]
        number = "number";
        #[doc = "Makes one that is true or false."]
        boolean = "boolean";
        #[doc = "Makes one that is text which is not shown."]
        secret = "secret-input";
        #[doc = "Makes one that is a [`File`](crate::session::dify::File)."]
        file = "file";
        #[doc = "Makes one that is a list of [`File`](crate::session::dify::File)s."]
        files = "files";
        #[doc = "Makes one that chooses an app."]
        app = "app-selector";
        #[doc = "Makes one that chooses a model, as a `ModelConfig`."]
        model = "model-selector";
        #[doc = "Makes one that chooses tools; for agent strategies."]
        tools = "array[tools]";
        #[doc = "Makes one that may be anything."]
        any = "any";
        #[doc = "Makes one whose options the plugin tells when they are wanted."]
        dynamic_select = "dynamic-select";
        #[doc = "Makes one that is a list."]
        array = "array";
        #[doc = "Makes one that is an object."]
        object = "object";
        #[doc = "Makes one that is ticked or not."]
        checkbox = "checkbox";
        #[doc = "Makes one that is a date."]
        date = "date";
        #[doc = "Makes one that is a range of dates."]
        date_range = "date-range";
    }

    /// Makes one of a type by the name that Dify has for it.
    pub fn of_type(name: impl Into<String>, kind: impl Into<String>) -> Self {
        let name = name.into();
        Self(json!({"name": name, "label": {"en_US": name}, "type": kind.into(), "form": "llm"}))
    }

    /// Makes one that is one of these values, each with what users see.
    pub fn select<V, L>(name: impl Into<String>, options: impl IntoIterator<Item = (V, L)>) -> Self
    where
        V: Into<String>,
        L: Into<I18n>,
    {
        Self(with_options(Self::of_type(name, "select").0, options))
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    /// Makes it one that has to be given.
    #[must_use]
    pub fn required(self) -> Self {
        self.with("required", true)
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(self, label: impl Into<I18n>) -> Self {
        self.with("label", text(label))
    }

    /// Sets what it means, for people and for models. Default: the name.
    #[must_use]
    pub fn description(self, description: impl Into<I18n>) -> Self {
        self.with("description", text(description))
    }

    /// Sets what it means for models, if that is to be another text.
    #[must_use]
    pub fn llm_description(self, description: impl Into<String>) -> Self {
        self.with("llm_description", description.into())
    }

    /// Sets who gives it its value. Default: the model.
    #[must_use]
    pub fn form(self, form: Form) -> Self {
        let form = match form {
            Form::Llm => "llm",
            Form::Form => "form",
            Form::Schema => "schema",
        };
        self.with("form", form)
    }

    /// Sets what it is if it is not given.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    /// Sets the smallest number.
    #[must_use]
    pub fn min(self, least: f64) -> Self {
        self.with("min", least)
    }

    /// Sets the largest number.
    #[must_use]
    pub fn max(self, most: f64) -> Self {
        self.with("max", most)
    }

    /// Sets how many digits follow the point.
    #[must_use]
    pub fn precision(self, digits: u8) -> Self {
        self.with("precision", digits)
    }

    /// Sets what may be chosen: for a model such as `llm&vision`, for an app such as `workflow`.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        self.with("scope", scope.into())
    }

    /// Lets several be chosen.
    #[must_use]
    pub fn multiple(self) -> Self {
        self.with("multiple", true)
    }

    /// As it is declared: the description has another key with each kind, and not all have a form.
    pub(super) fn declared(mut self, kind: Kind) -> Value {
        let name = self.0["label"].clone();
        let description = self.0.get("description").cloned().unwrap_or(name);
        let object = self.0.as_object_mut();
        object.into_iter().for_each(|all| {
            all.remove("description");
            if kind != Kind::Tool {
                all.remove("form");
                all.remove("llm_description");
            }
        });
        match kind {
            Kind::Tool => {
                let for_models = description["en_US"].clone();
                self.0["human_description"] = description;
                if self.0.get("llm_description").is_none() {
                    self.0["llm_description"] = for_models;
                }
            }
            Kind::Strategy => self.0["help"] = description,
            Kind::Source | Kind::Event => self.0["description"] = description,
        }
        self.0
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tool,
    Strategy,
    Source,
    Event,
}

/// A credential of a provider, or a setting of the endpoints.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Setting, ToolProvider};
///
/// let key = Setting::secret("api_key").label("API key").required().url("https://example.com/keys");
/// let provider = ToolProvider::new("ferry").credential(key);
/// # drop(provider);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Setting(Value);

impl Setting {
    of_type! {
        #[doc = "Makes one that is text which is not shown, and is kept encrypted."]
        secret = "secret-input";
        #[doc = "Makes one that is text."]
        text = "text-input";
        #[doc = "Makes one that is true or false."]
        boolean = "boolean";
        #[doc = "Makes one that chooses an app."]
        app = "app-selector";
        #[doc = "Makes one that chooses a model."]
        model = "model-selector";
        #[doc = "Makes one that chooses tools."]
        tools = "array[tools]";
    }

    /// Makes one of a type by the name that Dify has for it.
    pub fn of_type(name: impl Into<String>, kind: impl Into<String>) -> Self {
        let name = name.into();
        Self(json!({"name": name, "label": {"en_US": name}, "type": kind.into()}))
    }

    /// Makes one that is one of these values, each with what users see.
    pub fn select<V, L>(name: impl Into<String>, options: impl IntoIterator<Item = (V, L)>) -> Self
    where
        V: Into<String>,
        L: Into<I18n>,
    {
        Self(with_options(Self::of_type(name, "select").0, options))
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    /// Makes it one that has to be given.
    #[must_use]
    pub fn required(self) -> Self {
        self.with("required", true)
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(self, label: impl Into<I18n>) -> Self {
        self.with("label", text(label))
    }

    /// Sets what is said beside it.
    #[must_use]
    pub fn help(self, help: impl Into<I18n>) -> Self {
        self.with("help", text(help))
    }

    /// Sets what stands where nothing has been entered yet.
    #[must_use]
    pub fn placeholder(self, placeholder: impl Into<I18n>) -> Self {
        self.with("placeholder", text(placeholder))
    }

    /// Sets where one gets it.
    #[must_use]
    pub fn url(self, url: impl Into<String>) -> Self {
        self.with("url", url.into())
    }

    /// Sets what it is if it is not given.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    /// Sets what may be chosen: for a model such as `llm`, for an app such as `chat`.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        self.with("scope", scope.into())
    }

    pub(in crate::session::dify) fn declared(self) -> Value {
        self.0
    }
}
