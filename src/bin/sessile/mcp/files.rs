//! The files of a session: put there, fetched, listed; and as resources.

use std::any::Any;
use std::io;

use data_encoding::{BASE64, BASE64_MIME_PERMISSIVE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rmcp::model::{
    CallToolResult, ContentBlock, ReadResourceResponse, ReadResourceResult, Resource,
    ResourceContents,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::json;
use sessile::interpreter::cpython::CPython;

use super::said;
use super::server::{Answer, Server};
use super::sessions::Held;
use super::tools::{GetFile, OfSession, PutFile};

/// How resources are called.
pub(super) const TEMPLATE: &str = "sessile://{session}/{+name}";

impl Server {
    pub(super) async fn put_file(&self, file: PutFile, cx: &RequestContext<RoleServer>) -> Answer {
        let PutFile { session, name, text, base64 } = file;
        let data = match (text, base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => BASE64_MIME_PERMISSIVE
                .decode(base64.as_bytes())
                .map_err(|error| format!("`base64` is none: {error}"))?,
            _ => return Err("give the contents, either as `text` or as `base64`".to_owned()),
        };
        let most = self.shared.limits.max_file;
        let bytes = data.len();
        if bytes as u64 > most {
            return Err(format!("the file has {bytes} bytes, and no more than {most} are taken"));
        }
        let (session, is_new) = self.session(session)?;
        let path = name.clone();
        let put = self.on(&session, cx, move |held| python(held)?.put_file(path, data)).await?;
        put.map_err(|error| format!("{name} cannot be written: {error}"))?;
        let begun = if is_new { " of the new session" } else { "" };
        Ok(said::text(
            format!("[{name} is written: {bytes} bytes{begun}; `session` = \"{session}\"]\n"),
            json!({ "session": session, "name": name, "bytes": bytes }),
        ))
    }

    pub(super) async fn get_file(&self, file: GetFile, cx: &RequestContext<RoleServer>) -> Answer {
        let GetFile { session, name } = file;
        let data = self.take_file(&session, &name, cx).await?;
        let bytes = data.len();
        let told = ContentBlock::text(format!("[{name}: {bytes} bytes]\n"));
        let contents = match mime(&name) {
            Some(image) if image.starts_with("image/") && !image.contains("svg") => {
                ContentBlock::image(BASE64.encode(&data), image)
            }
            _ => ContentBlock::resource(contents(&session, &name, data)),
        };
        let mut result = CallToolResult::success(vec![told, contents]);
        let uri = uri(&session, &name);
        result.structured_content =
            Some(json!({ "session": session, "name": name, "bytes": bytes, "uri": uri }));
        Ok(result)
    }

    pub(super) async fn list_files(
        &self,
        of: OfSession,
        cx: &RequestContext<RoleServer>,
    ) -> Answer {
        let OfSession { session } = of;
        let files = self.on(&session, cx, |held| python(held)?.files()).await?;
        let files = files.map_err(|error| format!("the files cannot be listed: {error}"))?;
        let names: Vec<_> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
        let text = match names.is_empty() {
            true => "[no files]\n".to_owned(),
            false => names.iter().map(|name| format!("{name}\n")).collect(),
        };
        let mut content = vec![ContentBlock::text(text)];
        // Of a thousand files, the names are enough.
        content.extend(names.iter().take(100).map(|name| {
            let resource = Resource::new(uri(&session, name), name.clone());
            ContentBlock::resource_link(match mime(name) {
                Some(mime) => resource.with_mime_type(mime),
                None => resource,
            })
        }));
        let mut result = CallToolResult::success(content);
        result.structured_content = Some(json!({ "session": session, "files": names }));
        Ok(result)
    }

    pub(super) async fn read_file(
        &self,
        uri: &str,
        cx: &RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, String> {
        let rest = uri.strip_prefix("sessile://").and_then(|rest| rest.split_once('/'));
        let Some((session, name)) = rest else {
            return Err(format!("{uri} is no resource of this server: they are {TEMPLATE}"));
        };
        let name = plain(name)?;
        let data = self.take_file(session, &name, cx).await?;
        Ok(ReadResourceResult::new(vec![contents(session, &name, data)]).into())
    }

    async fn take_file(
        &self,
        session: &str,
        name: &str,
        cx: &RequestContext<RoleServer>,
    ) -> Result<Vec<u8>, String> {
        let path = name.to_owned();
        let data = self.on(session, cx, move |held| python(held)?.take_file(path)).await?;
        data.map_err(|error| format!("{name} cannot be read: {error}"))
    }
}

fn python(held: &Held) -> io::Result<&CPython> {
    let engine: &dyn Any = &*held.python;
    engine.downcast_ref().ok_or_else(|| io::Error::other("the engine has no files"))
}

fn contents(session: &str, name: &str, data: Vec<u8>) -> ResourceContents {
    let uri = uri(session, name);
    match String::from_utf8(data) {
        Ok(text) => {
            let contents = ResourceContents::text(text, uri);
            contents.with_mime_type(mime(name).unwrap_or("text/plain"))
        }
        Err(error) => {
            let contents = ResourceContents::blob(BASE64.encode(error.as_bytes()), uri);
            contents.with_mime_type(mime(name).unwrap_or("application/octet-stream"))
        }
    }
}

fn mime(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "csv" => "text/csv",
        "json" => "application/json",
        "html" => "text/html",
        "md" => "text/markdown",
        "pdf" => "application/pdf",
        _ => return None,
    })
}

/// What stands in a URI as it is.
const AS_IT_IS: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

fn uri(session: &str, name: &str) -> String {
    format!("sessile://{session}/{}", utf8_percent_encode(name, &AS_IT_IS))
}

fn plain(name: &str) -> Result<String, String> {
    let plain = percent_decode_str(name).decode_utf8();
    plain.map(Into::into).map_err(|_| format!("{name} is no name: it is not UTF-8"))
}
