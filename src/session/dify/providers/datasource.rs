//! Datasources.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{answers, nested, unsupported};
use crate::session::dify::action::{ActionRequest, ErrorType};
use crate::session::dify::declare::DatasourceProvider;
use crate::session::dify::plugin::Plugin;

impl Plugin {
    /// Adds datasources: their declaration, and what gives what is in them.
    ///
    /// # Examples
    ///
    /// As at [`DatasourceActions`].
    pub fn datasource(self, provider: DatasourceProvider, actions: impl DatasourceActions) -> Self {
        let name = provider.name().to_owned();
        let actions = Arc::new(actions);
        let of = [("provider", &*name)];
        let mut plugin = self.datasources(provider);
        let mut add = |action, ordinary, handler| plugin.acts.add(action, &of, ordinary, handler);
        let own = Arc::clone(&actions);
        add(
            "datasource.validate_datasource_credentials",
            ErrorType::DatasourceCredentials,
            answers(move |request| {
                own.validate_credentials(request)?;
                Ok(json!({"result": true}))
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_website_datasource_get_crawl",
            ErrorType::Exception,
            Box::new(move |request| own.crawl(request)),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_online_document_datasource_get_pages",
            ErrorType::Exception,
            answers(move |request| Ok(json!({"result": own.pages(request)?}))),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_online_document_datasource_get_page_content",
            ErrorType::Exception,
            Box::new(move |request| {
                let page = nested(request, "page")?;
                own.page_content(request, page)
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_online_drive_browse_files",
            ErrorType::Exception,
            answers(move |request| {
                let browse = nested(request, "request")?;
                Ok(json!({"result": own.browse(request, browse)?}))
            }),
        );
        add(
            "datasource.invoke_online_drive_download_file",
            ErrorType::Exception,
            Box::new(move |request| {
                let file = nested(request, "request")?;
                actions.download(request, file)
            }),
        );
        plugin
    }
}

/// What a provider of datasources does. What it does not implement is answered with an error.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{
///     ActionRequest, Datasource, DatasourceActions, DatasourceKind, DatasourceProvider, Manifest,
///     OnlinePage, Plugin, ToolMessage, Workspace,
/// };
///
/// struct Archive;
///
/// impl DatasourceActions for Archive {
///     fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
///         Ok(drop(request.credential::<String>("token")?))
///     }
///
///     fn pages(&self, _: &ActionRequest) -> anyhow::Result<Vec<Workspace>> {
///         Ok(vec![Workspace::new("w", "Harbour").page(OnlinePage::new("p1", "Log of 1901"))])
///     }
///
///     fn page_content(&self, request: &ActionRequest, page: OnlinePage) -> anyhow::Result<()> {
///         request.send(ToolMessage::variable("content", format!("page {}", page.page_id)))?;
///         Ok(())
///     }
/// }
///
/// let provider = DatasourceProvider::new("archive", DatasourceKind::OnlineDocument)
///     .datasource(Datasource::new("log"));
/// Plugin::new(Manifest::new("quay", "archive", "0.0.1")).datasource(provider, Archive).check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait DatasourceActions: Send + Sync + 'static {
    /// Checks credentials: they are valid if it returns `Ok`.
    ///
    /// # Errors
    ///
    /// If they are not valid.
    fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        let _ = request;
        unsupported("check credentials")
    }

    /// Crawls a web site, by the request's parameters, and answers what it finds:
    /// `{"result": {"status", "web_info_list", "total", "completed"}}`, as often as there is news.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn crawl(&self, request: &ActionRequest) -> anyhow::Result<()> {
        let _ = request;
        unsupported("crawl web sites")
    }

    /// Lists the pages that there are.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn pages(&self, request: &ActionRequest) -> anyhow::Result<Vec<Workspace>> {
        let _ = request;
        unsupported("list pages")
    }

    /// Sends what is in a page, as messages.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn page_content(&self, request: &ActionRequest, page: OnlinePage) -> anyhow::Result<()> {
        let _ = (request, page);
        unsupported("give the content of pages")
    }

    /// Lists the files of a folder.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn browse(&self, request: &ActionRequest, browse: Browse) -> anyhow::Result<Vec<Bucket>> {
        let _ = (request, browse);
        unsupported("list files")
    }

    /// Sends a file, as messages.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn download(&self, request: &ActionRequest, file: DriveFile) -> anyhow::Result<()> {
        let _ = (request, file);
        unsupported("give files")
    }
}

/// Pages that belong together.
///
/// # Examples
///
/// As at [`DatasourceActions`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workspace {
    workspace_id: String,
    workspace_name: String,
    workspace_icon: String,
    total: usize,
    pages: Vec<OnlinePage>,
}

impl Workspace {
    /// Makes one without pages.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            workspace_id: id.into(),
            workspace_name: name.into(),
            workspace_icon: String::new(),
            total: 0,
            pages: Vec::new(),
        }
    }

    /// Adds a page.
    #[must_use]
    pub fn page(mut self, page: OnlinePage) -> Self {
        self.pages.push(page);
        self.total = self.pages.len();
        self
    }
}

/// A page of a service: listed, or asked for.
///
/// # Examples
///
/// As at [`DatasourceActions`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OnlinePage {
    /// The workspace that it is in, when it is asked for.
    #[serde(skip_serializing)]
    pub workspace_id: String,
    /// How the service calls it.
    pub page_id: String,
    /// What people call it.
    pub page_name: String,
    /// Its icon, an object.
    pub page_icon: Option<Value>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was changed.
    pub last_edited_time: String,
    /// The page that it is under.
    pub parent_id: Option<String>,
}

impl OnlinePage {
    /// Makes one of type `page`.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        let (page_id, page_name) = (id.into(), name.into());
        Self { page_id, page_name, kind: "page".to_owned(), ..Self::default() }
    }
}

/// Which files are to be listed.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{ActionRequest, Browse, Bucket, DatasourceActions, DriveFile};
///
/// struct Drive;
///
/// impl DatasourceActions for Drive {
///     fn browse(&self, _: &ActionRequest, browse: Browse) -> anyhow::Result<Vec<Bucket>> {
///         let file = DriveFile::new("f1", "chart.svg", 5_000);
///         Ok(vec![Bucket { bucket: browse.bucket, files: vec![file], ..Bucket::default() }])
///     }
/// }
/// # drop(Drive);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Browse {
    /// The bucket, if there are several.
    pub bucket: Option<String>,
    /// The folder.
    pub prefix: Option<String>,
    /// How many at most. Default: 20.
    #[serde(default = "page")]
    pub max_keys: u64,
    /// What the answer before said, to go on from there.
    pub next_page_parameters: Option<Value>,
}

fn page() -> u64 {
    20
}

/// Files of a bucket.
///
/// # Examples
///
/// As at [`Browse`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bucket {
    /// The bucket, if there are several.
    pub bucket: Option<String>,
    /// Its files and folders.
    pub files: Vec<DriveFile>,
    /// Whether there are more.
    pub is_truncated: bool,
    /// What is to be asked with to go on from here.
    pub next_page_parameters: Option<Value>,
}

/// A file or a folder of a drive: listed, or asked for.
///
/// # Examples
///
/// As at [`Browse`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DriveFile {
    /// The bucket that it is in, when it is asked for.
    #[serde(skip_serializing)]
    pub bucket: Option<String>,
    /// How the service calls it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// `file` or `folder`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl DriveFile {
    /// Makes a file.
    pub fn new(id: impl Into<String>, name: impl Into<String>, size: u64) -> Self {
        let (id, name, kind) = (id.into(), name.into(), "file".to_owned());
        Self { id, name, size, kind, bucket: None }
    }

    /// Makes a folder.
    pub fn folder(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: "folder".to_owned(), ..Self::new(id, name, 0) }
    }
}
