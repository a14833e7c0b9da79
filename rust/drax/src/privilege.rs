//! Where the process comes from, and what it may do when.
//!
//! ```text
//! lock_down()       nothing inherited is left that could steer us
//! Caller::settle()  all ids are the caller's for good; CAP_SYS_ADMIN is kept, but not in effect
//! Caller::raise()   CAP_SYS_ADMIN alone is in effect: gives the token that quota.rs asks for
//! give_up()         gone for good
//! ```
//!
//! One way for both kinds of installation: what setuid root grants is cut down at once to what the file capability
//! grants. The process is never root again, so "with the caller's rights" needs no care anywhere else.

use crate::Failure;
use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::{fs, process, thread};
use std::os::fd::{AsRawFd, IntoRawFd};

/// Inode number of the initial user namespace (`PROC_USER_INIT_INO`, part of the kernel's interface).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Make the process independent of what its caller left it: descriptors, environment, umask, core dumps, tracing.
pub fn lock_down() -> Result<(), Failure> {
    let failed = |e| Failure::os("preparing", e);
    process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)?;
    thread::set_no_new_privs(true).map_err(failed)?;
    sys::clear_environment();
    process::umask(Mode::from_raw_mode(0o077));
    sys::close_from(3).map_err(failed)?;
    // Else the volume could become descriptor 1, and our text would go to it.
    loop {
        let null = fs::open("/dev/null", OFlags::RDWR, Mode::empty()).map_err(failed)?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        let _kept_open = null.into_raw_fd();
    }
}

/// Refuse inside a user namespace. The real guard is the kernel, which asks for `CAP_SYS_ADMIN` in the initial one; here
/// is where the ids that we compare would mean something else.
pub fn require_initial_user_namespace() -> Result<(), Failure> {
    let refused = Failure::from("drax has to be called outside of user namespaces");
    let inode = fs::stat("/proc/self/ns/user").map(|stat| stat.st_ino);
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everything = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    if inode == Ok(INITIAL_USER_NAMESPACE) && everything { Ok(()) } else { Err(refused) }
}

/// Who called, and that nothing is in effect which the caller does not have itself.
pub struct Caller {
    uid: rustix::process::Uid,
    admin: CapabilitySet,
}

/// Proof that `CAP_SYS_ADMIN` is in effect.
pub struct Raised(());

impl Caller {
    /// Become the caller. There is one thread, so calls that act on a thread act on the process.
    pub fn settle() -> Result<Self, Failure> {
        let failed = |e| Failure::os("becoming the caller", e);
        let (uid, gid) = (process::getuid(), process::getgid());
        thread::set_keep_capabilities(true).map_err(failed)?;
        thread::set_thread_res_gid(gid, gid, gid).map_err(failed)?;
        thread::set_thread_res_uid(uid, uid, uid).map_err(failed)?;
        thread::set_keep_capabilities(false).map_err(failed)?;
        let admin = thread::capabilities(None).map_err(failed)?.permitted & CapabilitySet::SYS_ADMIN;
        // Root's own rights include its capabilities: without them it could not open somebody's store.
        if !uid.is_root() {
            set(admin, CapabilitySet::empty()).map_err(failed)?;
        }
        Ok(Self { uid, admin })
    }

    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// Whether `raise` can succeed.
    pub fn require_admin(&self) -> Result<(), Failure> {
        if self.admin.is_empty() { Err("missing the setuid bit on drax".into()) } else { Ok(()) }
    }

    /// Put `CAP_SYS_ADMIN`, and nothing else, into effect.
    pub fn raise(self) -> Result<Raised, Failure> {
        set(self.admin, self.admin).map_err(|e| Failure::os("taking CAP_SYS_ADMIN", e))?;
        Ok(Raised(()))
    }
}

/// Give up all capabilities for good.
pub fn give_up() -> Result<(), Failure> {
    set(CapabilitySet::empty(), CapabilitySet::empty()).map_err(|e| Failure::os("giving up privilege", e))
}

fn set(permitted: CapabilitySet, effective: CapabilitySet) -> rustix::io::Result<()> {
    thread::set_capabilities(None, CapabilitySets { permitted, effective, inheritable: CapabilitySet::empty() })
}
