//! From the kernel to `main`. There is nothing to set up: no threads, no thread-local variables, no relocations.

use super::{Process, Strings, say, streams};
use core::arch::global_asm;
use core::panic::PanicInfo;
use linux_raw_sys::general::__NR_exit_group;
use rustix::fd::IntoRawFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_getfd};

/// Bytes of `memory`: more than the arguments and environment of a process can be (execve(2)). Pages of it that are never touched
/// cost nothing.
const MEMORY: usize = 8 << 20;

static mut MEMORY_SPACE: [u8; MEMORY] = [0; MEMORY];

// The kernel leaves on the stack: the number of arguments, the arguments, a null pointer, the environment, a null pointer.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {start}", "ud2", start = sym start);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {start}", "brk #1", start = sym start);

/// # Safety
///
/// `stack` is what the kernel has made, and this is called once.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    open_streams();
    // SAFETY: see above; nothing else names the memory.
    let (process, memory) = unsafe {
        let arguments = stack.add(1);
        let environment = arguments.add(*stack + 1);
        let memory = &raw mut MEMORY_SPACE;
        (Process { arguments: Strings(arguments.cast()), environment: Strings(environment.cast()) }, &mut *memory)
    };
    exit(crate::main(&process, memory))
}

/// Open those of the standard streams that whoever started us has closed, so that no other file gets their numbers.
fn open_streams() {
    for stream in streams() {
        if fcntl_getfd(stream) == Err(Errno::BADF) {
            // The lowest number that is free: this one.
            let _ = open(c"/dev/null", OFlags::RDWR, Mode::empty()).map(IntoRawFd::into_raw_fd);
        }
    }
}

fn exit(code: u8) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { super::call(__NR_exit_group, [code.into(), 0, 0, 0]) };
    }
}

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    say(b"the start of grootfs has a bug\n");
    exit(1)
}
