//! Copies of a few dozen bytes without a call.
//!
//! Frames and their heads are small: for them the call of the C library costs as much as the copy. It is for
//! byte ranges that do not overlap, and for nothing else.

/// As [`std::ptr::copy_nonoverlapping`] for bytes.
///
/// # Safety
///
/// As there: `from` is readable and `to` writable for `bytes` bytes, and they do not overlap.
#[inline(always)]
pub(crate) unsafe fn apart(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: `both_ends` gets at least half of `bytes`, and the caller's promise covers all of them.
    unsafe {
        match bytes {
            33..=64 => both_ends::<32>(from, to, bytes),
            17..=32 => both_ends::<16>(from, to, bytes),
            8..=16 => both_ends::<8>(from, to, bytes),
            _ => std::ptr::copy_nonoverlapping(from, to, bytes),
        }
    }
}

/// Copies the first and the last `N` bytes, which together are all: the ranges may overlap each other.
///
/// # Safety
///
/// As [`apart`], and `N <= bytes <= 2 * N`.
#[inline(always)]
unsafe fn both_ends<const N: usize>(from: *const u8, to: *mut u8, bytes: usize) {
    debug_assert!(N <= bytes && bytes <= 2 * N, "{bytes} bytes by two moves of {N}");
    // SAFETY: both ranges lie within the first `bytes` bytes, because `N <= bytes`; arrays of bytes have no
    // alignment.
    unsafe {
        let (first, last) = (from.cast::<[u8; N]>().read(), from.add(bytes - N).cast::<[u8; N]>().read());
        to.cast::<[u8; N]>().write(first);
        to.add(bytes - N).cast::<[u8; N]>().write(last);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_small_length_is_copied_whole_and_nothing_beside_it() {
        let from: Vec<u8> = (1..=200).collect();
        for bytes in 0..=200 {
            let mut to = [0_u8; 202];
            // SAFETY: `from` has 200 bytes, `to` has 201 after its first, and they are apart.
            unsafe { apart(from.as_ptr(), to.as_mut_ptr().add(1), bytes) };
            assert_eq!(to[0], 0, "{bytes} bytes");
            assert_eq!(to[1..=bytes], from[..bytes], "{bytes} bytes");
            assert!(to[1 + bytes..].iter().all(|&byte| byte == 0), "{bytes} bytes");
        }
    }
}
