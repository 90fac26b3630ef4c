//! Endpoints: which one an HTTP request is for, and how it is answered.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use data_encoding::HEXLOWER_PERMISSIVE;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::action::{ErrorType, SessionContext, fail};
use super::errand::{self, Errands};
use super::http::{HttpRequest, HttpResponse};
use super::invocations::Dify;
use super::outgoing::Outlet;
use crate::contain::contain;
use crate::session::SessionError;
use crate::session::duplex::Request;
use crate::session::error::Kind;

pub(super) type EndpointHandler =
    Box<dyn Fn(&mut EndpointRequest) -> anyhow::Result<()> + Send + Sync>;

/// A piece of a body, in bytes.
const CHUNK: usize = 8192;
/// What is not longer goes out with the status, as the SDK has it.
const WHOLE: usize = 1 << 20;

/// The endpoints of a plugin, in the order in which they were declared.
#[derive(Default)]
pub(super) struct Endpoints {
    all: Vec<(Route, EndpointHandler)>,
    errands: Arc<Errands>,
}

/// A method and a path, parts of which may be parameters.
pub(super) struct Route {
    pub(super) method: String,
    pub(super) path: String,
}

type PathParameters = Vec<(String, String)>;

impl Route {
    /// The path's parameters, if it fits.
    ///
    /// As the SDK's routing has it: `<name>` is anything without a slash, `<int:name>` digits, and
    /// `<path:name>` anything.
    fn fit(&self, path: &str) -> Option<PathParameters> {
        fit(&self.path, path)
    }

    fn takes(&self, method: &str) -> bool {
        // What can be got can be asked about.
        self.method == method || (method == "HEAD" && self.method == "GET")
    }

    fn is_fixed(&self) -> bool {
        !self.path.contains('<')
    }
}

fn fit(pattern: &str, path: &str) -> Option<PathParameters> {
    let Some((fixed, rest)) = pattern.split_once('<') else {
        return (pattern == path).then(Vec::new);
    };
    let (parameter, pattern) = rest.split_once('>')?;
    let path = path.strip_prefix(fixed)?;
    let (kind, name) = parameter.split_once(':').unwrap_or(("string", parameter));
    let is_part = |part: &str| match kind.split('(').next().unwrap_or(kind) {
        "int" => part.bytes().all(|byte| byte.is_ascii_digit()),
        "float" => part.split_once('.').is_some_and(|(whole, rest)| {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits(whole) && digits(rest)
        }),
        "uuid" => {
            part.len() == 36 && part.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        }
        "path" => !part.starts_with('/'),
        _ => !part.contains('/'),
    };
    // The longest part that lets the rest fit.
    let mut ends: Vec<usize> = path.char_indices().map(|(at, _)| at).skip(1).collect();
    ends.extend((!path.is_empty()).then_some(path.len()));
    ends.into_iter().rev().find_map(|end| {
        let (part, path) = path.split_at(end);
        let mut parameters = vec![(name.to_owned(), part.to_owned())];
        if !is_part(part) {
            return None;
        }
        parameters.extend(fit(pattern, path)?);
        Some(parameters)
    })
}

impl Endpoints {
    pub(super) fn add(&mut self, route: Route, handler: EndpointHandler) {
        self.all.push((route, handler));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.all.iter().map(|(route, _)| route)
    }

    fn find(&self, http: &HttpRequest) -> Option<(PathParameters, &EndpointHandler)> {
        let path = percent_decode_str(&http.path).decode_utf8_lossy();
        // A path without parameters comes before one that fits by its parameters.
        let fixed = self.all.iter().filter(|(route, _)| route.is_fixed());
        let others = self.all.iter().filter(|(route, _)| !route.is_fixed());
        fixed
            .chain(others)
            .filter(|(route, _)| route.takes(&http.method))
            .find_map(|(route, handler)| route.fit(&path).map(|parameters| (parameters, handler)))
    }

    /// On a thread of the workers.
    pub(super) fn handle(&self, request: Request, outlet: Outlet) {
        #[derive(Deserialize)]
        struct Asked {
            raw_http_request: String,
            #[serde(default)]
            settings: Value,
        }
        let asked = request.parse::<Asked>();
        let parsed = asked.ok().and_then(|asked| {
            HttpRequest::from_hex(&asked.raw_http_request).map(|http| (http, asked.settings))
        });
        let Some((http, settings)) = parsed else {
            let error = anyhow::anyhow!("`raw_http_request` is no HTTP request in hexadecimal");
            return fail(request, &error, &ErrorType::Value);
        };
        let session = SessionContext::of(&request);
        let is_errand = http.header(errand::TOKEN).is_some();
        let found = self.find(&http).filter(|_| !is_errand);
        let (path, handler) = match found {
            Some((path, handler)) => (path, Some(handler)),
            None => (Vec::new(), None),
        };
        let answer = Answer::None;
        let errands = Arc::clone(&self.errands);
        let mut endpoint =
            EndpointRequest { request, outlet, session, http, path, settings, answer, errands };
        if is_errand && endpoint.runs_errand() {
            return endpoint.request.finish();
        }
        let outcome = match handler {
            Some(handler) => contain(|| handler(&mut endpoint)).and_then(|outcome| outcome),
            None => endpoint.respond(HttpResponse::new(404, "Not Found")).map_err(Into::into),
        };
        if endpoint.answer == Answer::None {
            let why = match outcome {
                Err(error) => format!("Internal Server Error: {error:#}"),
                Ok(()) => "Internal Server Error: the handler gave no answer".to_owned(),
            };
            let _ = endpoint.respond(HttpResponse::new(500, why));
        } else if let Err(error) = outcome {
            // The status is out already: the session's error is all there is to tell it by.
            return fail(endpoint.request, &error, &ErrorType::Exception);
        }
        endpoint.request.finish();
    }
}

/// A request to an endpoint.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{HttpResponse, Manifest, Plugin};
///
/// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1"))
///     .endpoint("GET", "/boats/<id>", |request| {
///         let id = request.path_parameter("id").unwrap_or_default();
///         let colour = request.settings()["colour"].as_str().unwrap_or("red");
///         request.respond(HttpResponse::text(format!("{colour} boat {id}")))?;
///         Ok(())
///     });
/// # drop(plugin);
/// ```
pub struct EndpointRequest {
    request: Request,
    outlet: Outlet,
    session: SessionContext,
    http: HttpRequest,
    path: PathParameters,
    settings: Value,
    answer: Answer,
    errands: Arc<Errands>,
}

#[derive(PartialEq, Eq)]
enum Answer {
    None,
    Begun,
    Whole,
}

#[derive(Serialize)]
struct Piece<'a> {
    #[serde(flatten)]
    head: Option<&'a HttpResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

impl EndpointRequest {
    /// Gives what was asked.
    #[must_use]
    pub fn http(&self) -> &HttpRequest {
        &self.http
    }

    /// Gives a parameter of the path, by its name in the declared path: `/boats/<id>` has `id`.
    #[must_use]
    pub fn path_parameter(&self, name: &str) -> Option<&str> {
        self.path.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Gives the endpoint's settings, as its user made them.
    #[must_use]
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// Tells where the request comes from: which endpoint it is, among others.
    #[must_use]
    pub fn session(&self) -> &SessionContext {
        &self.session
    }

    /// Calls Dify on behalf of this request; also from other threads, also after the answer, for as
    /// long as the HTTP client waits.
    #[must_use]
    pub fn dify(&self) -> Dify {
        Dify::new(self.request.invoker(), self.outlet.clone(), self.session.clone())
    }

    /// Has `work` done in a session of its own, that does not end when the HTTP client leaves: for a
    /// webhook whose sender gives up after a few seconds.
    ///
    /// The plugin posts to its own endpoint, by the URL that this request came to (`Dify-Hook-Url`), and
    /// does the work in the session that this begins. Where that URL does not lead back here, it does
    /// the work in the session of this request, as long as its client waits. An error of the work is
    /// written to the log of Dify's daemon. The daemon's own limit for a request holds, 10 min unless it
    /// is told otherwise.
    ///
    /// # Errors
    ///
    /// If the request does not tell its URL, or there is no thread to be had. `https` needs the feature
    /// `tls`.
    ///
    /// # Threads
    ///
    /// `work` runs on a thread of the plugin's handlers.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use sessile::session::dify::{HttpResponse, Manifest, Plugin};
    ///
    /// let plugin = Plugin::new(Manifest::new("me", "hook", "0.0.1"))
    ///     .endpoint("POST", "/hook", |request| {
    ///         let event = String::from_utf8_lossy(&request.http().body).into_owned();
    ///         request.go_on(move |dify| {
    ///             let answer = dify.chat_blocking("APP", &event, &json!({}), None)?;
    ///             Ok(dify.storage_set("last", answer.to_string().as_bytes())?)
    ///         })?;
    ///         Ok(request.respond(HttpResponse::text("thank you"))?)
    ///     });
    /// # drop(plugin);
    /// ```
    pub fn go_on(
        &self,
        work: impl FnOnce(Dify) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let url = self.http.header(errand::URL).context("the request has no Dify-Hook-Url")?;
        self.errands.send(url, self.dify(), work)
    }

    /// This is what the plugin has posted to itself.
    fn runs_errand(&mut self) -> bool {
        let token = self.http.header(errand::TOKEN).unwrap_or_default();
        let Some((work, from)) = self.errands.take(token) else { return false };
        // The client has to know that it was taken, and is to stay.
        let _ = self.begin(HttpResponse::new(200, ""));
        drop(from);
        errand::run(work, self.dify());
        true
    }

    /// Answers with this. A body that is long goes out in pieces.
    ///
    /// # Errors
    ///
    /// If an answer was begun before; if the daemon is gone, or there is no room.
    pub fn respond(&mut self, mut response: HttpResponse) -> Result<(), SessionError> {
        let mut body = std::mem::take(&mut response.body);
        if self.http.method == "HEAD" {
            body.clear();
        }
        let (first, rest) = body.split_at(body.len().min(WHOLE));
        response.body = first.to_vec();
        self.begin(response)?;
        for piece in rest.chunks(WHOLE) {
            self.write_piece(piece)?;
        }
        self.answer = Answer::Whole;
        Ok(())
    }

    /// Begins an answer, to be followed by more of its body.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn begin(&mut self, response: HttpResponse) -> Result<(), SessionError> {
        if self.answer != Answer::None {
            return Err(Kind::Ended.into());
        }
        let (first, rest) = response.body.split_at(response.body.len().min(WHOLE));
        let result = Some(HEXLOWER_PERMISSIVE.encode(first));
        self.outlet.item(&self.request, &Piece { head: Some(&response), result })?;
        self.answer = Answer::Begun;
        rest.chunks(WHOLE).try_for_each(|piece| self.write_piece(piece))
    }

    /// Sends more of the body.
    ///
    /// # Errors
    ///
    /// If no answer was begun; if the daemon is gone, or there is no room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        if self.answer != Answer::Begun {
            return Err(Kind::Ended.into());
        }
        bytes.chunks(CHUNK).try_for_each(|chunk| self.write_piece(chunk))
    }

    fn write_piece(&self, piece: &[u8]) -> Result<(), SessionError> {
        let result = Some(HEXLOWER_PERMISSIVE.encode(piece));
        self.outlet.item(&self.request, &Piece { head: None, result })
    }
}

impl fmt::Debug for EndpointRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointRequest").field("http", &self.http).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gives_its_parameters() {
        let fits = |pattern, path| {
            let parameters = fit(pattern, path)?;
            Some(parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
        };
        let some = |all: &[&str]| Some(Vec::from_iter(all.iter().map(|one| (*one).to_owned())));
        assert_eq!(fits("/a", "/a"), some(&[]));
        assert_eq!(fits("/a", "/a/"), None);
        assert_eq!(fits("/x/<id>", "/x/7"), some(&["id=7"]));
        assert_eq!(fits("/x/<id>", "/x/"), None);
        assert_eq!(fits("/x/<id>", "/x/7/8"), None);
        assert_eq!(fits("/x/<id>/y", "/x/7/y"), some(&["id=7"]));
        assert_eq!(fits("/x/<int:id>", "/x/7"), some(&["id=7"]));
        assert_eq!(fits("/x/<int:id>", "/x/seven"), None);
        assert_eq!(fits("/<a>/<path:b>", "/1/2/3"), some(&["a=1", "b=2/3"]));
        assert_eq!(fits("/<a>-<b>", "/1-2-3"), some(&["a=1-2", "b=3"]));
        assert_eq!(fits("/x/<id>", "/x/ä"), some(&["id=ä"]));
    }
}
