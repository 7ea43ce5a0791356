// SPDX-License-Identifier: GPL-2.0
//! Boots that count the guest's instructions.
//!
//! QEMU's TSC advances by one an instruction (`-icount shift=0`), and sevsim lets it stand still
//! while the guest does not run. That takes one vCPU and xAPIC.

use std::path::Path;

use crate::cases::Kernel;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;

/// One of them.
pub struct Run<'a> {
    /// Name, for the logs.
    pub name: &'a str,
    /// Kernel.
    pub kernel: Kernel,
    /// Initramfs.
    pub initramfs: &'a Path,
    /// Words on the kernel's command line.
    pub append: &'a str,
    /// What ends it, as `--expect` of sevsim-run has it.
    pub expect: &'a str,
    /// Further options for sevsim-run.
    pub options: &'a [&'a str],
}

impl Run<'_> {
    /// Boots the guest; fails if it ends in another way than expected.
    pub fn boot(&self, places: &Places) -> Result<Outcome, String> {
        let image = places.kernel(self.kernel)?;
        let mut args: Vec<String> = [
            "--count-instructions",
            "--vcpus=1",
            "--apic=xapic",
            "--timeout=600",
            "--idle-timeout=300",
            "--expect",
            self.expect,
            "--append",
            self.append,
        ]
        .map(String::from)
        .into();
        args.extend(self.options.iter().map(|option| option.to_string()));
        for (option, path) in [("--kernel", image.as_path()), ("--initrd", self.initramfs)] {
            args.extend([option.into(), path.to_string_lossy().into_owned()]);
        }
        let outcome = runner::run(places, self.name, &args).map_err(|error| error.to_string())?;
        match outcome.status {
            Some(0) => Ok(outcome),
            _ => Err(outcome.line),
        }
    }
}
