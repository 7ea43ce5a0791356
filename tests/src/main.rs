// SPDX-License-Identifier: GPL-2.0
//! `sev-tests`: boots guests in a covering set of configurations (`boot`), by each way into the
//! kernel and against hosts that lie (`early`), with NMIs at each instruction (`nmi`), with work
//! for all CPUs in a storm of NMIs (`load`), against a host that is hostile at random (`hostile`),
//! on one that isolates its address space (`asi`), and counts what Rust and C cost side by side
//! (`bench`). Prints KTAP; the last line is "N passed, N failed".

mod asi;
mod attempts;
mod bench;
mod boot;
mod cases;
mod cost;
mod counting;
mod deceived;
mod decompressor;
mod disk;
mod early;
mod hostile;
mod kexec;
mod kunit;
mod nmi;
mod runner;
mod scenario;
mod selftests;
mod suite;
mod times;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::Parser;
use clap::Subcommand;

use crate::runner::Places;
use crate::suite::Test;

#[derive(Debug, Parser)]
#[command(
    name = "sev-tests",
    version,
    about = "Boots guests under sevsim and compares Rust with C"
)]
struct Cli {
    /// The project's folder
    #[arg(long, global = true, default_value = ".")]
    top: PathBuf,
    /// Its build folder (default: build in the project's folder)
    #[arg(long, global = true)]
    build: Option<PathBuf>,
    #[command(subcommand)]
    part: Part,
}

/// Which boots, and how.
#[derive(Debug, Args)]
struct Boots {
    /// Only cases whose name begins with one of these
    names: Vec<String>,
    /// Show the cases and their settings, boot nothing
    #[arg(long)]
    list: bool,
    /// Seconds for one boot
    #[arg(long, default_value_t = 240)]
    timeout: u64,
    /// Guests that run side by side (default: as many as there are CPUs)
    #[arg(long, short)]
    jobs: Option<NonZero<usize>>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Boot the covering set; in each guest the check of all user-space exits runs
    Boot(Boots),
    /// Boot by each way into the kernel, and with a host that deceives each stage of the boot
    Early(Boots),
    /// NMIs at each instruction of the #VC handler, and in storms
    Nmi {
        /// Only cases whose name begins with one of these
        names: Vec<String>,
        /// Only what takes little time
        #[arg(long)]
        short: bool,
        /// Seconds for one boot
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
        /// Guests that run side by side (default: as many as there are CPUs)
        #[arg(long, short)]
        jobs: Option<NonZero<usize>>,
    },
    /// Compilers, stress-ng and a disk on all CPUs, in a storm of NMIs
    Load {
        /// How long, in seconds
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// vCPUs
        #[arg(long, default_value_t = 2)]
        vcpus: usize,
        /// Whose handler
        #[arg(long, value_enum, default_value = "rust", value_delimiter = ' ')]
        handlers: Vec<nmi::load::Handler>,
    },
    /// A host that is hostile at random, and what was found with it
    Hostile {
        /// Only cases whose name begins with one of these
        names: Vec<String>,
        /// What decides what the host does; one boot of each kernel a seed
        #[arg(long, default_value = "1", value_delimiter = ' ')]
        seeds: Vec<u64>,
        /// Image of a kernel to attack instead of the project's own; NAMES are those of its
        /// handler, hostile-rust-... or hostile-c-...
        #[arg(long, requires = "names")]
        image: Option<PathBuf>,
        /// Steps of a boot, with about two hostile acts each
        #[arg(long, default_value_t = 12000)]
        steps: u64,
        /// Seconds for one boot
        #[arg(long, default_value_t = 900)]
        timeout: u64,
        /// Guests that run side by side (default: as many as there are CPUs)
        #[arg(long, short)]
        jobs: Option<NonZero<usize>>,
    },
    /// Address space isolation of the host: boots, a load, faults, cost
    Asi {
        /// Only cases whose name begins with one of these
        names: Vec<String>,
        /// Seconds for one boot
        #[arg(long, default_value_t = 400)]
        timeout: u64,
        /// Guests that run side by side (default: as many as there are CPUs)
        #[arg(long, short)]
        jobs: Option<NonZero<usize>>,
    },
    /// The kernel's own selftests, in a guest without SEV, with C and with Rust
    Selftests {
        /// Seconds for one boot
        #[arg(long, default_value_t = 1200)]
        timeout: u64,
    },
    /// Count and compare: C and Rust side by side
    Bench {
        /// Paired boots for the ratio of times
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Only the tables of guest instructions
        #[arg(long)]
        instructions: bool,
        /// Only the table of processor times
        #[arg(long, conflicts_with = "instructions")]
        times: bool,
    },
}

impl Boots {
    fn run<T: Test + Sync>(&self, places: &Places, cases: Vec<T>) -> bool {
        suite::run_all(places, cases, &self.names, self.timeout, self.jobs)
    }
}

/// Has another image attacked, in the cases of one handler.
fn set_image(places: &mut Places, image: Option<PathBuf>, names: &[String]) -> Result<(), String> {
    let Some(image) = image else { return Ok(()) };
    let of = |handler: &str| names.iter().all(|name| name.starts_with(handler));
    if !of("hostile-rust-") && !of("hostile-c-") {
        return Err("--image takes names of one handler, hostile-rust-... or hostile-c-...".into());
    }
    let image = image
        .canonicalize()
        .map_err(|error| format!("{}: {error}", image.display()))?;
    places.image = Some(image);
    Ok(())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let top = match std::fs::canonicalize(&cli.top) {
        Ok(top) => top,
        Err(error) => {
            eprintln!("sev-tests: {}: {error}", cli.top.display());
            return ExitCode::from(2);
        }
    };
    let build = cli.build.unwrap_or_else(|| top.join("build"));
    let mut places = Places {
        top,
        build,
        image: None,
    };
    let good = match cli.part {
        Part::Boot(Boots { list: true, .. }) => {
            boot::list();
            true
        }
        Part::Boot(boots) => boots.run(&places, cases::cases()),
        Part::Early(Boots { list: true, .. }) => {
            early::list();
            true
        }
        Part::Early(boots) => boots.run(&places, early::cases()),
        Part::Nmi {
            names,
            short,
            timeout,
            jobs,
        } => nmi::run_all(&places, short, &names, timeout, jobs),
        Part::Load {
            seconds,
            vcpus,
            handlers,
        } => nmi::load::run(&places, &handlers, vcpus, seconds),
        Part::Hostile {
            names,
            image,
            seeds,
            steps,
            timeout,
            jobs,
        } => {
            if let Err(why) = set_image(&mut places, image, &names) {
                eprintln!("sev-tests: {why}");
                return ExitCode::from(2);
            }
            let cases = hostile::all(&places.top, &seeds, steps);
            suite::run_all(&places, cases, &names, timeout, jobs)
        }
        Part::Asi {
            names,
            timeout,
            jobs,
        } => suite::run_all(&places, asi::cases(), &names, timeout, jobs),
        Part::Selftests { timeout } => selftests::run(&places, timeout),
        Part::Bench {
            instructions: true, ..
        } => bench::instructions(&places),
        Part::Bench {
            times: true, pairs, ..
        } => bench::times(&places, pairs),
        Part::Bench { pairs, .. } => bench::run(&places, pairs),
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
