//! No system at all: payloads back to back into a preallocated file, one `pwrite` and one `fdatasync` for each group.
//! The limit of whoever waits for the disk.

use std::{fs::File, io::Read as _, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    store::{Desk, Kept, Store, Write},
    system::{AnySystem, Setup},
};

/// What the file grows by, long before it is written.
const PREALLOCATED_BYTES: u64 = 256 << 20;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(Kept(RawFile {
            name: "raw-fdatasync",
            about: "no system: one pwrite and one fdatasync for every 1,024 payloads, preallocated file",
            group: super::WINDOW,
        })),
        Box::new(Kept(RawFile { name: "raw-fdatasync-1", about: "the same for every payload", group: 1 })),
    ]
}

struct RawFile {
    name: &'static str,
    about: &'static str,
    /// Payloads written and synchronized at once.
    group: u64,
}

impl RawFile {
    fn path(setup: &Setup) -> PathBuf {
        setup.directory.join("raw")
    }
}

impl Store for RawFile {
    type Server = ();
    type Writer = RawWriter;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn start(&self, _: &Setup) -> Result<()> {
        Ok(())
    }

    fn processes(&self, (): &()) -> Vec<u32> {
        Vec::new()
    }

    async fn writer(&self, setup: &Setup, (): &()) -> Result<RawWriter> {
        let file = File::create(Self::path(setup))?;
        let mut writer = RawWriter { file, group: self.group, at: 0, allocated: 0 };
        writer.allocate()?;
        Ok(writer)
    }

    async fn read_back(
        &self,
        setup: &Setup,
        (): &(),
        messages_max: u64,
        each: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut file = std::io::BufReader::with_capacity(1 << 20, File::open(Self::path(setup))?);
        let mut payload = vec![0; setup.payload_bytes];
        for _ in 0..messages_max {
            file.read_exact(&mut payload).context("the file ends early")?;
            // Allocated, never written.
            if payload.iter().all(|byte| *byte == 0) {
                break;
            }
            each(&payload)?;
        }
        Ok(())
    }
}

struct RawWriter {
    file: File,
    group: u64,
    at: u64,
    allocated: u64,
}

impl RawWriter {
    fn allocate(&mut self) -> Result<()> {
        fallocate(&self.file, FallocateFlags::empty(), self.allocated, PREALLOCATED_BYTES)?;
        self.file.sync_all()?;
        self.allocated += PREALLOCATED_BYTES;
        Ok(())
    }
}

impl Write for RawWriter {
    async fn write(&mut self, desk: &Arc<Desk>) -> Result<Vec<u64>> {
        let mut stream = desk.stream(0);
        let mut out = Vec::new();
        while !desk.is_enough() {
            out.clear();
            for _ in 0..self.group {
                out.extend_from_slice(stream.next_payload());
            }
            // One payload's worth of zeros is the end for whoever reads back.
            while self.at + 2 * out.len() as u64 > self.allocated {
                self.allocate()?;
            }
            self.file.write_all_at(&out, self.at)?;
            self.file.sync_data()?;
            self.at += out.len() as u64;
            desk.add_acked(self.group);
        }
        Ok(vec![stream.taken()])
    }
}
