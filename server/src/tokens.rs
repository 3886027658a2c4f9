//! Access tokens in files: the server's list of who may enter, and the client's own.
//!
//! A token is never taken from the command line and never printed. A file that others can read is refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use twinlane::TokenHash;

/// Room for some ten thousand tokens.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a server accepts from a client.
const TOKEN_BYTES_MAX: usize = 512;
/// A shorter token can be guessed: 16 characters of base64 are 96 bits.
const TOKEN_BYTES_MIN: usize = 16;
/// Marks a line that holds a token's hash instead of the token.
const HASH_MARK: &str = "sha256:";

/// Why a token file cannot be used. The tokens in it are never part of the text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("cannot read the token file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the token file {} can be read by others (mode {mode:03o}): chmod 600 it", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the token file {} holds no token", path.display())]
    Empty { path: PathBuf },
    #[error("{}:{line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: String },
}

/// The hashes of all tokens in a server's file.
pub(crate) fn admitted(path: &Path) -> Result<Vec<TokenHash>, TokenError> {
    let text = read(path)?;
    let mut hashes = Vec::new();
    for (line, token) in lines(&text) {
        let wrong = |what: String| TokenError::Line { path: path.to_owned(), line, what };
        hashes.push(match token.strip_prefix(HASH_MARK) {
            Some(hex) => hex.parse().map_err(|error| wrong(format!("{error}")))?,
            None => TokenHash::of(checked(token).map_err(wrong)?),
        });
    }
    if hashes.is_empty() { Err(TokenError::Empty { path: path.to_owned() }) } else { Ok(hashes) }
}

/// The first token in a client's file.
pub(crate) fn own(path: &Path) -> Result<String, TokenError> {
    let text = read(path)?;
    let (line, token) = lines(&text).next().ok_or_else(|| TokenError::Empty { path: path.to_owned() })?;
    let wrong = |what: String| TokenError::Line { path: path.to_owned(), line, what };
    if token.starts_with(HASH_MARK) {
        return Err(wrong("this is a token's hash: a client needs the token itself".to_owned()));
    }
    checked(token).map(str::to_owned).map_err(wrong)
}

fn checked(token: &str) -> Result<&str, String> {
    match token.len() {
        TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX => Ok(token),
        bytes => {
            Err(format!("a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} bytes, this one has {bytes}"))
        }
    }
}

/// Line numbers from 1 and what stands there, without comments and empty lines.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn read(path: &Path) -> Result<String, TokenError> {
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    // A pipe or descriptor given by a shell or service manager is nobody else's to read.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(TokenError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.by_ref().take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_servers_file_holds_tokens_hashes_and_comments() {
        let hash = TokenHash::of("correct horse battery");
        let (_dir, path) = file(&format!("# staff\n\nanother-long-token-1\n{HASH_MARK}{hash}\n"), 0o600);
        assert_eq!(admitted(&path).unwrap(), [TokenHash::of("another-long-token-1"), hash]);
    }

    #[test]
    fn a_client_uses_the_first_token_and_cannot_use_a_hash() {
        let (_dir, path) = file("# mine\nanother-long-token-1\nanother-long-token-2\n", 0o600);
        assert_eq!(own(&path).unwrap(), "another-long-token-1");
        let (_dir, path) = file(&format!("{HASH_MARK}{}", TokenHash::of("x")), 0o600);
        assert!(own(&path).unwrap_err().to_string().contains("the token itself"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_dir, path) = file("another-long-token-1\n", 0o644);
        let shown = admitted(&path).unwrap_err().to_string();
        assert!(shown.contains("mode 644") && shown.contains("chmod 600"), "{shown}");
    }

    #[test]
    fn an_error_names_the_line_and_never_the_token() {
        let (_dir, path) = file("# x\nshort-secret\n", 0o600);
        let shown = admitted(&path).unwrap_err().to_string();
        assert!(shown.contains(":2: ") && !shown.contains("short-secret"), "{shown}");
        let (_dir, path) = file("# nothing\n", 0o600);
        assert!(matches!(admitted(&path), Err(TokenError::Empty { .. })));
        let (_dir, path) = file("sha256:zz\n", 0o600);
        assert!(matches!(admitted(&path), Err(TokenError::Line { line: 1, .. })));
    }
}
