//! The console's token: made by the server at its start, known to whoever reads its output.
//!
//! It is in no log, no status and no `Debug`; pages keep it for their tab only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

const SCHEME: &[u8] = b"Bearer ";

/// 256 random bits that open one console.
#[derive(Clone)]
pub struct Token {
    text: String,
}

impl Token {
    /// A new token, from the system's generator.
    ///
    /// # Panics
    ///
    /// If the system has no random numbers, which nothing secure can be built on.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system has random numbers");
        Self { text: URL_SAFE_NO_PAD.encode(bytes) }
    }

    /// The token itself: for the person who may open the console, and nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether `authorization` is this token, as `Bearer TOKEN`. Takes the same time wherever they differ.
    pub(super) fn admits(&self, authorization: &[u8]) -> bool {
        match authorization.split_at_checked(SCHEME.len()) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(SCHEME) => {
                given.ct_eq(self.text.as_bytes()).into()
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_admits_itself_and_nothing_else() {
        let token = Token::generate();
        assert_eq!(token.reveal().len(), 43, "256 bits in base64");
        assert!(token.admits(format!("Bearer {}", token.reveal()).as_bytes()));
        assert!(token.admits(format!("bearer {}", token.reveal()).as_bytes()));
        let cut = &token.reveal()[..42];
        for other in ["", "Bearer ", &format!("Bearer {cut}"), token.reveal(), Token::generate().reveal()] {
            assert!(!token.admits(other.as_bytes()));
        }
        assert!(!token.admits(format!("Bearer {}", Token::generate().reveal()).as_bytes()));
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", Token::generate()), "Token(…)");
    }
}
