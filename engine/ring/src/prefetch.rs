//! Asks the processor for a cache line that will be written soon.
//!
//! A hint only: without it a producer waits for every line its last reader still holds (measured:
//! 150 ns instead of 20 ns per 64-byte frame handed over). It touches no memory.

/// Requests the line at `address` for writing. Any address is allowed, mapped or not.
#[inline(always)]
pub(crate) fn for_writing(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    // SAFETY: `prefetchw` is a hint: it never faults and changes neither memory nor registers nor flags.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri), not(loom)))]
    // SAFETY: `prfm` is a hint: it never faults and changes neither memory nor registers nor flags.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    let _ = address;
}
