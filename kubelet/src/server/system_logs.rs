//! `/logs/`: files and directories below `/var/log`, to those who may read `nodes/log`. What a link leads to must lie there
//! too.

use std::path::Path;

use common::serving::{Body, stream, text};
use http::{HeaderValue, Response, StatusCode, header};
use tokio_util::io::ReaderStream;

use super::lookup::Refusal;

const DIRECTORY: &str = "/var/log";
const MOST_NAMES: usize = 10_000;

fn not_found() -> Refusal {
    Refusal::not_found("404 page not found\n")
}

/// A file's content or a directory's names.
pub(super) async fn serve(path: &str) -> Result<Response<Body>, Refusal> {
    below(Path::new(DIRECTORY), path).await
}

async fn below(root: &Path, path: &str) -> Result<Response<Body>, Refusal> {
    if path.split('/').any(|part| part == "..") {
        return Err(Refusal::bad("invalid URL path\n"));
    }
    let root = tokio::fs::canonicalize(root).await.map_err(|_| not_found())?;
    let target = tokio::fs::canonicalize(root.join(path)).await.map_err(|_| not_found())?;
    if !target.starts_with(&root) {
        return Err(not_found());
    }
    let metadata = tokio::fs::metadata(&target).await.map_err(|_| not_found())?;
    if metadata.is_dir() {
        return listing(&target).await;
    }
    if !metadata.is_file() {
        return Err(not_found());
    }
    let file = tokio::fs::File::open(&target).await.map_err(|_| not_found())?;
    let mut response = Response::new(stream(ReaderStream::new(file)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

async fn listing(directory: &Path) -> Result<Response<Body>, Refusal> {
    let failed = |_| Refusal::internal("Error reading directory\n");
    let mut entries = tokio::fs::read_dir(directory).await.map_err(failed)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        let slash = if entry.file_type().await.is_ok_and(|kind| kind.is_dir()) { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        if names.len() == MOST_NAMES {
            break;
        }
    }
    names.sort();
    let mut page = String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in &names {
        let link = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        page.push_str(&format!("<a href=\"{}\">{shown}</a>\n", link.replace("%2F", "/").replace("%2E", ".")));
    }
    page.push_str("</pre>\n");
    let mut response = text(StatusCode::OK, &page);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(root: &Path, path: &str) -> Result<String, u16> {
        let response = below(root, path).await.map_err(|refusal| refusal.0.as_u16())?;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn files_directories_and_what_is_outside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("pods")).unwrap();
        std::fs::write(root.path().join("pods/a<b.log"), "text").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("away")).unwrap();
        assert_eq!(get(root.path(), "pods/a<b.log").await, Ok("text".into()));
        assert!(get(root.path(), "").await.unwrap().contains("<a href=\"pods/\">pods/</a>"));
        assert!(get(root.path(), "pods").await.unwrap().contains(">a&lt;b.log</a>"));
        assert_eq!(get(root.path(), "away/secret").await, Err(404));
        assert_eq!(get(root.path(), "../etc/passwd").await, Err(400));
        assert_eq!(get(root.path(), "none").await, Err(404));
    }
}
