//! How many heaps the system's allocator keeps.
#![allow(unsafe_code)]

/// Lets the allocator keep so many heaps, where it is glibc's; to be called before there are threads.
///
/// It keeps up to eight a core, and gives a new thread another one than its neighbours. Threads that
/// read files come and go, what they have read outlives them, and so each heap ends up with a little
/// that is of use between much that is not.
pub fn keep_at_most(heaps: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let heaps = libc::c_int::try_from(heaps.max(1)).unwrap_or(libc::c_int::MAX);
        // SAFETY: it changes a number that the allocator reads under its own lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = heaps;
}
