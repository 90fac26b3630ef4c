//! Files: those that Dify hands over, and those that it is given.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::message::unique;

/// So much of a file is fetched at most.
const LARGEST: u64 = 1 << 30;

/// A file that a parameter names: where it is, and what.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::ActionRequest;
/// use sessile::session::dify::File;
///
/// fn read(request: &mut ActionRequest) -> anyhow::Result<()> {
///     let file: File = request.parameter("paper")?;
///     let bytes = file.fetch(std::time::Duration::from_secs(30))?;
///     eprintln!("{:?}: {} bytes", file.filename, bytes.len());
///     Ok(())
/// }
/// # drop(read);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct File {
    /// Where it is.
    pub url: String,
    /// Its type, such as `image/png`.
    #[serde(default)]
    pub mime_type: Option<String>,
    /// What it is called.
    #[serde(default)]
    pub filename: Option<String>,
    /// The end of its name, with the point.
    #[serde(default)]
    pub extension: Option<String>,
    /// Its size in bytes.
    #[serde(default)]
    pub size: Option<i64>,
    /// `image`, `document`, `audio`, `video` or `custom`.
    #[serde(rename = "type", default)]
    pub kind: String,
}

impl File {
    /// Fetches its bytes, within this time.
    ///
    /// # Errors
    ///
    /// If its URL has no host (then `FILES_URL` is not set in Dify's `.env`), or it cannot be had in
    /// time. `https` needs the feature `tls`.
    pub fn fetch(&self, within: Duration) -> anyhow::Result<Vec<u8>> {
        ensure!(
            self.url.starts_with("http://") || self.url.starts_with("https://"),
            "the URL of the file is `{}`, without a host: set FILES_URL in the .env of Dify",
            self.url
        );
        let response = agent(within).get(&self.url).call();
        let mut response = response.with_context(|| format!("fetching {}", self.url))?;
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec();
        body.with_context(|| format!("fetching {}", self.url))
    }
}

fn agent(within: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(within)).build().into()
}

/// A file that Dify has been given.
///
/// # Examples
///
/// As at [`Dify::upload`](super::Dify::upload).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct UploadedFile {
    /// How Dify calls it.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The end of its name.
    pub extension: String,
    /// Its type, such as `image/png`.
    pub mime_type: String,
    /// Where it may be looked at.
    #[serde(default)]
    pub preview_url: Option<String>,
}

impl UploadedFile {
    /// Gives what an app takes for the file among its inputs.
    #[must_use]
    pub fn to_app_parameter(&self) -> Value {
        let known = ["image", "video", "audio"];
        let kind = self.mime_type.split('/').next().filter(|kind| known.contains(kind));
        let kind = kind.unwrap_or("document");
        json!({"tool_file_id": self.id, "transfer_method": "tool_file", "type": kind})
    }
}

/// Posts a file as a form does.
pub(super) fn post(
    url: &str,
    filename: &str,
    mime_type: &str,
    content: &[u8],
    within: Duration,
) -> anyhow::Result<UploadedFile> {
    let boundary = unique();
    // Quotes and line breaks would end the name.
    let name = filename.replace(['"', '\r', '\n'], "_");
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: {}\r\n\r\n",
        mime_type.replace(['\r', '\n'], " "),
    )
    .into_bytes();
    body.extend_from_slice(content);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let posted = agent(within)
        .post(url)
        .header("content-type", format!("multipart/form-data; boundary={boundary}"))
        .send(&body[..]);
    let mut response = posted.context("posting the file to Dify")?;
    ensure!(response.status() == 201, "Dify answered with status {}", response.status());
    let text = response.body_mut().read_to_string().context("reading what Dify answered")?;
    serde_json::from_str(&text).context("reading what Dify answered")
}
