//! Data that stands outside the repository.

use std::path::PathBuf;

/// The golden embeddings of MiniLM, and its folder, which `ANYNPU_MINILM` names.
///
/// `None` where either is not there; then a line tells that `test` was skipped.
///
/// # Panics
/// As [`test_data`].
pub fn minilm(test: &str) -> Option<(PathBuf, PathBuf)> {
    let golden = test_data(test, "minilm/golden.json")?;
    let Some(folder) = std::env::var_os("ANYNPU_MINILM") else {
        println!("SKIPPED {test}: ANYNPU_MINILM is not set");
        return None;
    };
    Some((golden, folder.into()))
}

/// The file or folder `path` under the directory that `ANYNPU_TEST_DATA` names.
///
/// `None` where the variable is unset; then a line tells that `test` was skipped.
///
/// # Panics
/// If the variable is set but there is nothing at `path`: a test must not skip by a typing error.
pub fn test_data(test: &str, path: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("ANYNPU_TEST_DATA") else {
        println!("SKIPPED {test}: ANYNPU_TEST_DATA is not set");
        return None;
    };
    let path = PathBuf::from(root).join(path);
    assert!(
        path.exists(),
        "ANYNPU_TEST_DATA is set but {} does not exist",
        path.display()
    );
    Some(path)
}
