//! The only module with `unsafe`: what has to happen before the standard library is there, or that it has no form for.

#![allow(unsafe_code)]

/// Make a closed stdout one that cannot be written to. Otherwise the standard library would put `/dev/null` there and results
/// would be lost silently; or the next file that is opened would be there, and get them.
extern "C" fn keep_stdout_closed(_count: libc::c_int, _arguments: *mut *mut libc::c_char, _environment: *mut *mut libc::c_char) {
    // SAFETY: system calls on descriptors, with a path that is constant.
    unsafe {
        if libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) < 0 {
            let fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            if fd >= 0 && fd != libc::STDOUT_FILENO {
                libc::dup2(fd, libc::STDOUT_FILENO);
                libc::close(fd);
            }
        }
    }
}

// SAFETY: the C library calls the functions in this section before `main`, with its arguments.
#[used]
#[unsafe(link_section = ".init_array")]
static KEEP_STDOUT_CLOSED: extern "C" fn(libc::c_int, *mut *mut libc::c_char, *mut *mut libc::c_char) = keep_stdout_closed;

/// A caller may have ignored SIGCHLD, and that is inherited: then nobody learns how a child ended.
pub fn reset_child_signal() {
    // SAFETY: no handler of ours is involved; the default disposition is always valid.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}
