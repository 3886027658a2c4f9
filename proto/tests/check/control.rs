//! Any control frame: it has one encoding, and printing it keeps secrets.

use twinlane_proto::Control;
use twinlane_proto::control::Auth;

/// The whole of `data` is the control frame.
pub(crate) fn check(data: &[u8]) {
    let Ok(control) = Control::decode(data) else { return };
    let mut encoded = Vec::new();
    control.encode(&mut encoded);
    assert_eq!(encoded, data, "a control message has one encoding");
    assert!(Control::TYPES.contains(&(control.number(), control.name())));
    if let Control::Hello(hello) = &control
        && let Auth::Token(_) = hello.auth
    {
        assert!(format!("{hello:?}").contains("auth: Token(…)"), "Debug prints no token");
    }
}
