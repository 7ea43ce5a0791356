// SPDX-License-Identifier: GPL-2.0
//! `sevsim-run`: starts a guest under sevsim in QEMU, shows its console and tells how it ended.
//!
//! `--plain` starts the same guest without sevsim, for comparison. The verdicts and their exit
//! codes are in [`verdict`]; `--help` lists them.

mod cli;
mod codes;
mod console;
mod host_cpu;
mod isolation;
mod ktap;
mod measure;
mod process;
mod qemu;
mod report;
mod setup;
mod simlog;
mod starved;
mod symbols;
mod terminal;
mod verdict;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::cli::Command;
use crate::setup::SetupError;

/// Exit code for wrong usage and missing things; clap uses the same.
const USAGE: u8 = 2;

fn run(cli: Cli) -> Result<i32, SetupError> {
    if let Some(Command::Measure(args)) = &cli.command {
        print!("{}", measure::measure(args)?);
        return Ok(0);
    }
    let json_file = cli.json.clone();
    let config = setup::configure(cli)?;
    let version = qemu::probe(&config.cli)?;
    let run = process::run(&config)?;
    let verdict = verdict::classify(&run.seen, &config.expect, &config.known);
    if let Some(path) = json_file {
        let text = format!("{:#}\n", report::json(&config, &run, &verdict, &version));
        std::fs::write(&path, text)
            .map_err(|error| SetupError(format!("cannot write {}: {error}", path.display())))?;
    }
    print!("{}", report::summary(&config, &run, &verdict));
    Ok(verdict.exit_code())
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(SetupError(text)) => {
            eprintln!("sevsim-run: {text}");
            ExitCode::from(USAGE)
        }
    }
}
