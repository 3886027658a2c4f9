//! Random numbers for ids, secrets, epochs and waits.
//!
//! They are the operating system's, except on a thread that a simulation has entered: there the same seed gives the
//! same numbers. Nothing here is fast, and nothing per message asks for it.

/// Fills `bytes`.
pub(crate) fn fill(bytes: &mut [u8]) {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::transport::simulated::world() {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&world.random().to_le_bytes()[..chunk.len()]);
        }
        return;
    }
    getrandom::fill(bytes).expect("the operating system gives random numbers");
}

/// A number.
pub(crate) fn number() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
