//! The images that cells show, as files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use data_encoding::BASE64_MIME_PERMISSIVE;
use sessile::interpreter::{Execution, Output};

/// Each image as a file: the cell, and the how-manieth it is.
pub(super) fn save(execution: &Execution, folder: &Path, cell: &str) -> Result<()> {
    let shown = execution.outputs.iter().filter_map(|output| match output {
        Output::Display { data } => Some(data),
        _ => None,
    });
    let images = shown.chain(&execution.result).filter_map(|data| data.get("image/png")?.as_str());
    for (number, image) in images.enumerate() {
        let bytes = BASE64_MIME_PERMISSIVE
            .decode(image.as_bytes())
            .with_context(|| format!("image {number} of {cell} is no base64"))?;
        let file = folder.join(format!("{cell}-{number}.png"));
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, bytes));
        written.with_context(|| file.display().to_string())?;
    }
    Ok(())
}
