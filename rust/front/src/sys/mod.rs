//! The only module with `unsafe`: the start of the process, and what `rustix` has no safe form for.

#![allow(unsafe_code)]

mod call;
#[cfg(not(test))]
mod memory;
#[cfg(not(test))]
mod start;

use call::{call, check};
use core::ffi::{CStr, c_char};
use core::ptr;
use linux_raw_sys::general::{
    __NR_execve, __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_signalfd4, O_CLOEXEC, SIG_BLOCK, SIG_SETMASK, SIGHUP, SIGINT, SIGTERM,
};
use rustix::fd::{BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, Result, read, write};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Signal, getpid, kill_process};

/// Signals that end a command.
const SIGNALS: [u32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Arguments or environment of the process: an array of C strings, which the kernel has put on the stack, up to a null pointer.
#[derive(Clone)]
pub struct Strings(*const *mut c_char);

impl Iterator for Strings {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        // SAFETY: the array and what it points to are as long-lived as the process (`Process::new`), and we stop at its end.
        // Only `Process::overwrite` writes there.
        unsafe {
            let string = *self.0;
            if string.is_null() {
                return None;
            }
            self.0 = self.0.add(1);
            Some(CStr::from_ptr(string))
        }
    }
}

/// What the process was started with.
pub struct Process {
    arguments: Strings,
    environment: Strings,
}

impl Process {
    /// The arguments, without the name of the program.
    pub fn arguments(&self) -> Strings {
        let mut arguments = self.arguments.clone();
        arguments.next();
        arguments
    }

    /// The environment: `NAME=value` each.
    pub fn environment(&self) -> Strings {
        self.environment.clone()
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &[u8]) -> Option<&'static CStr> {
        self.environment().find_map(|variable| {
            let value = variable.to_bytes_with_nul().strip_prefix(name)?.strip_prefix(b"=")?;
            CStr::from_bytes_with_nul(value).ok()
        })
    }

    /// Become another program, with `first`, its own name before all, in place of the name of this one, and with our arguments and
    /// environment. Only returns where that fails. `memory` is overwritten.
    pub fn execute(&self, first: [&CStr; 3], memory: &mut [u8]) -> Errno {
        // SAFETY: whatever the bytes are, they are addresses until they are overwritten, and nobody follows them.
        let (_, places, _) = unsafe { memory.align_to_mut::<usize>() };
        let address = |string: &CStr| string.as_ptr() as usize;
        let addresses = first.map(address).into_iter().chain(self.arguments().map(address)).chain([0]);
        for (number, address) in addresses.enumerate() {
            let Some(place) = places.get_mut(number) else { return Errno::TOOBIG };
            *place = address;
        }
        // SAFETY: the kernel reads two arrays of strings that end with a null pointer.
        let result = unsafe { call(__NR_execve, [first[0].as_ptr() as usize, places.as_ptr() as usize, self.environment.0 as usize, 0]) };
        check(result).err().unwrap_or(Errno::NOENT) // it has not returned
    }

    /// Overwrite an argument where it is, which is what the process list shows, up to its end or that of `bytes`. `number` is the
    /// argument's, from 0 for the first that `arguments` gives.
    pub fn overwrite(&self, number: usize, from: usize, bytes: impl Iterator<Item = u8>) {
        // SAFETY: the number is one that `arguments` has given, and `from` is within the string. The strings are memory that the
        // process may write to; nobody has a reference to this one, or uses it afterwards.
        unsafe {
            let mut place = (*self.arguments.0.add(1 + number)).cast::<u8>().add(from);
            for byte in bytes {
                if *place == 0 {
                    break;
                }
                *place = byte;
                place = place.add(1);
            }
        }
    }
}

/// Standard input, output and error.
pub fn streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: `open_streams` has seen to it that they are open, and nothing here closes them.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Write to standard output. There is nobody to tell where that fails.
pub fn say(bytes: &[u8]) {
    let _ = write(streams()[1], bytes);
}

/// Use a megabyte. Who samples the memory of processes in megabytes, as the conformance suite does to see that layers stream, takes
/// none for a sample that failed.
pub fn be_seen() {
    // SAFETY: new memory, which nobody refers to.
    let _ = unsafe { mmap_anonymous(ptr::null_mut(), 1 << 20, ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE) };
}

/// Signals that can be read from a descriptor instead of their ending us, as long as this lives.
pub struct Caught {
    descriptor: OwnedFd,
    before: u64,
}

/// Catch the signals that end a command. Those that whoever started us has ignored (`nohup`) stay ignored.
pub fn catch_signals() -> Result<Caught> {
    let mut set = 0u64;
    for signal in SIGNALS {
        // The kernel's `struct sigaction`; its first word is the handler, and 1 is SIG_IGN.
        let mut action = [0u64; 4];
        // SAFETY: the kernel writes as much as the array holds.
        unsafe { check(call(__NR_rt_sigaction, [signal as usize, 0, action.as_mut_ptr() as usize, size_of::<u64>()])) }?;
        if action[0] != 1 {
            set |= 1 << (signal - 1);
        }
    }
    let mut before = 0u64;
    // SAFETY: the kernel reads one set and writes another; the new descriptor is known to nobody else.
    unsafe {
        check(call(__NR_rt_sigprocmask, [SIG_BLOCK as usize, &raw const set as usize, &raw mut before as usize, size_of::<u64>()]))?;
        match check(call(__NR_signalfd4, [usize::MAX, &raw const set as usize, size_of::<u64>(), O_CLOEXEC as usize])) {
            Ok(descriptor) => Ok(Caught { descriptor: OwnedFd::from_raw_fd(descriptor.cast_signed() as i32), before }),
            Err(error) => {
                set_mask(before);
                Err(error)
            }
        }
    }
}

impl Caught {
    /// Readable when there is one.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// The number of the next one (`signalfd_siginfo` starts with it).
    pub fn next(&self) -> Result<i32> {
        let mut info = [0; 128];
        read(&self.descriptor, &mut info)?;
        Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        // What the program that we become starts with is what we were started with.
        set_mask(self.before);
    }
}

fn set_mask(mask: u64) {
    // SAFETY: the kernel reads one set.
    unsafe { call(__NR_rt_sigprocmask, [SIG_SETMASK as usize, &raw const mask as usize, 0, size_of::<u64>()]) };
}

/// End the way a process ends by a signal that has been caught.
pub fn end_by(signal: i32) -> u8 {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // Nothing handles it: we caught it by a descriptor, and that is closed.
        let _ = kill_process(getpid(), signal);
    }
    128 + signal.unsigned_abs() as u8
}
