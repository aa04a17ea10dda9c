//! The files that the demo works on.

use std::fs::File;
use std::path::{Path, PathBuf};

/// Folders that hold what programs made, or what is nobody's business.
fn is_skipped(name: &str) -> bool {
    name.starts_with('.') || name == "target" || name == "node_modules"
}

/// Greater files are left out: the demo takes seconds.
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The most entries of folders that are looked at.
const ENTRIES_MAX: usize = 50_000;

/// At most `max` readable files below `folder`, by their absolute paths, in a fixed order.
pub(super) fn below(folder: &Path, max: usize) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        let mut inner = Vec::new();
        for path in paths {
            seen += 1;
            if files.len() >= max || seen > ENTRIES_MAX {
                return files;
            }
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            // Symbolic links are neither here: they may lead anywhere, and in circles.
            match std::fs::symlink_metadata(&path) {
                Ok(entry) if entry.is_dir() && !is_skipped(&name) => inner.push(path),
                Ok(entry) if entry.is_file() && entry.len() <= FILE_MAX_BYTES => {
                    files.extend(readable(&path));
                }
                Ok(_) | Err(_) => {}
            }
        }
        folders.extend(inner.into_iter().rev());
    }
    files
}

/// The path as text, if it is text and can be opened.
fn readable(path: &Path) -> Option<String> {
    File::open(path).ok()?;
    path.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_order_without_hidden_and_built_folders_and_never_too_many() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2", "a", "b/1", ".git/x", "target/x", "c"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), folder.path().join("circle")).unwrap();
        let names = |max| -> Vec<String> {
            let strip = |path: String| path[folder.path().to_str().unwrap().len() + 1..].to_owned();
            below(folder.path(), max).into_iter().map(strip).collect()
        };
        assert_eq!(names(10), ["a", "c", "b/1", "b/2"]);
        assert_eq!(names(2), ["a", "c"]);
    }
}
