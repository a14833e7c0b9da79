//! Sharing the content of a file that another volume has, after a look at every byte of it.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes compared and copied at once.
const PIECE: usize = 256 << 10;
/// What is cloned begins and ends at a block, unless it ends with the file.
const BLOCK: u64 = 4096;

/// A file that may have the content of one that was begun.
pub(super) struct Twin {
    pub volumes: Arc<OwnedFd>,
    /// From there, with the volume's name.
    pub path: Vec<u8>,
    pub size: u64,
    /// The volume that it is in: an index for `Known::name`.
    pub volume: usize,
}

impl Twin {
    /// Open it: a regular file of its size, through no link and on no other mount; None if it is not there any more.
    fn open(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOATIME;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let open = |flags| groot_btrfs::open(&*self.volumes, &self.path, flags, Mode::empty(), resolve);
        // Not reading the time is for the file's owner alone.
        let file = File::from(open(flags).or_else(|_| open(flags.difference(OFlags::NOATIME))).ok()?);
        let stat = rustix::fs::fstat(&file).ok()?;
        let fits = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size.cast_unsigned() == self.size;
        fits.then_some(file)
    }
}

/// Files that have had, so far, the same content as one that is being filled. Nothing of that is written until it ends or differs.
pub(super) struct Twins {
    /// With the volume that each is in.
    files: Vec<(File, usize)>,
    /// Bytes that were the same.
    same: u64,
}

impl Twins {
    /// Those that can be opened; None if none can.
    pub(super) fn open(twins: &[Twin]) -> Option<Self> {
        let files: Vec<_> = twins.iter().filter_map(|twin| Some((twin.open()?, twin.volume))).collect();
        if files.is_empty() { None } else { Some(Self { files, same: 0 }) }
    }

    /// Compare what comes next. False if no file has it; `settle` then gives what came before.
    /// `buffer` is for one file after the other: making one costs more than comparing a small file.
    pub(super) fn compare(&mut self, bytes: &[u8], buffer: &mut Vec<u8>) -> bool {
        let Self { files, same } = self;
        buffer.resize(PIECE, 0);
        let mut has_it = |file: &File| {
            let mut offset = *same;
            bytes.chunks(PIECE).all(|piece| {
                let read = &mut buffer[..piece.len()];
                let equal = file.read_exact_at(read, offset).is_ok() && read == piece;
                offset += piece.len() as u64;
                equal
            })
        };
        let equal: Vec<bool> = files.iter().map(|(file, _)| has_it(file)).collect();
        if !equal.contains(&true) {
            files.truncate(1);
            return false;
        }
        let mut equal = equal.into_iter();
        files.retain(|_| equal.next() == Some(true));
        *same += bytes.len() as u64;
        true
    }

    /// Give `target` the content that was the same: by cloning, and if that is not possible by copying. Gives the volume and
    /// the bytes that were cloned.
    pub(super) fn settle(mut self, target: &File, buffer: &mut Vec<u8>) -> std::io::Result<(usize, u64)> {
        let Some((file, volume)) = self.files.pop() else { return Ok((0, 0)) };
        let size = file.metadata().map_or(0, |found| found.len());
        let blocks = self.same / BLOCK * BLOCK;
        let cloned = if size == self.same {
            rustix::fs::ioctl_ficlone(target, &file).map_or(0, |()| self.same)
        } else if blocks >= size / 2 && groot_btrfs::clone_start(&file, target, blocks).is_ok() {
            blocks
        } else {
            // Of a small part: as long as it is there, BTRFS keeps the whole extents that it is in.
            0
        };
        let mut offset = cloned;
        while offset < self.same {
            buffer.resize(PIECE, 0);
            let piece = &mut buffer[..PIECE.min((self.same - offset) as usize)];
            file.read_exact_at(piece, offset)?;
            target.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok((volume, cloned))
    }
}
