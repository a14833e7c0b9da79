//! System calls that `rustix` has no safe form for.

use core::arch::asm;
use rustix::io::{Errno, Result};

/// A system call (syscall(2)); gives what the kernel gives, where the last 4095 values are errors.
///
/// # Safety
///
/// As the call's own.
#[cfg(target_arch = "x86_64")]
pub unsafe fn call(number: u32, arguments: [usize; 4]) -> usize {
    let [first, second, third, fourth] = arguments;
    let result;
    // SAFETY: the kernel's convention: it keeps all registers but these, and does not touch the stack.
    unsafe {
        asm!("syscall", inlateout("rax") number as usize => result, in("rdi") first, in("rsi") second, in("rdx") third,
            in("r10") fourth, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// As above.
///
/// # Safety
///
/// As the call's own.
#[cfg(target_arch = "aarch64")]
pub unsafe fn call(number: u32, arguments: [usize; 4]) -> usize {
    let [first, second, third, fourth] = arguments;
    let result;
    // SAFETY: as above.
    unsafe {
        asm!("svc #0", in("x8") number as usize, inlateout("x0") first => result, in("x1") second, in("x2") third, in("x3") fourth,
            options(nostack));
    }
    result
}

/// What a call gave, or its error.
pub fn check(result: usize) -> Result<usize> {
    match result.cast_signed() {
        error @ -4095..0 => Err(Errno::from_raw_os_error(-error as i32)),
        _ => Ok(result),
    }
}
