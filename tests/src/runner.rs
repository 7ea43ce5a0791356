// SPDX-License-Identifier: GPL-2.0
//! Runs sevsim-run and reads its result.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::cases::Kernel;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The project's folder.
    pub top: PathBuf,
    /// Its build folder.
    pub build: PathBuf,
    /// The image that is booted instead of the project's kernels.
    pub image: Option<PathBuf>,
}

impl Places {
    /// The runner.
    pub fn sevsim_run(&self) -> PathBuf {
        self.build.join("sevsim/sevsim-run")
    }

    /// The guest's initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.build.join("initramfs.cpio.gz")
    }

    /// The image of a kernel that has been built, or fetched.
    pub fn kernel(&self, kernel: Kernel) -> Result<PathBuf, String> {
        let image = match (kernel, &self.image) {
            (Kernel::Rust | Kernel::C, Some(image)) => Some(image.clone()),
            _ => kernel.image(&self.build),
        };
        image.filter(|image| image.exists()).ok_or_else(|| {
            format!(
                "the {kernel:?} kernel is not there: build it first (make kernel-rust, make \
                 kernel-c; Debian's is fetched by make test-boot)"
            )
        })
    }

    /// Folder for the logs of `name`; another one if the image is not the project's.
    pub fn logs(&self, name: &str) -> PathBuf {
        let folder = match self.image {
            Some(_) => "logs/image",
            None => "logs/test",
        };
        self.build.join(folder).join(name)
    }
}

/// What sevsim-run told.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: Option<i32>,
    /// Its last line without the program's name.
    pub line: String,
    /// Its result file; null if there is none.
    pub json: Value,
    /// The guest's console.
    pub console: String,
}

#[cfg(test)]
impl Outcome {
    /// A run with this status and console.
    pub fn made_up(status: i32, line: &str, console: &str) -> Self {
        Self {
            status: Some(status),
            line: line.into(),
            json: Value::Null,
            console: console.into(),
        }
    }
}

/// One list of known failures out of several.
fn join_lists(places: &Places, lists: &[&str], to: &Path) -> io::Result<()> {
    let mut text = String::new();
    for list in lists {
        let path = places.top.join("tests/known").join(list);
        text += &fs::read_to_string(path)?;
    }
    fs::write(to, text)
}

/// The options by which sevsim-run learns what is known to fail with a kernel; the list it reads
/// goes to `logs`.
pub fn known_failures(places: &Places, kernel: Kernel, logs: &Path) -> Result<Vec<String>, String> {
    let lists = kernel.known_failures();
    if lists.is_empty() {
        return Ok(Vec::new());
    }
    let list = logs.join("known-failures");
    join_lists(places, lists, &list)
        .map_err(|error| format!("cannot read tests/known: {error}"))?;
    Ok(vec![
        "--known-failures".into(),
        list.to_string_lossy().into_owned(),
    ])
}

/// Runs one guest; what it prints is kept as `output` in its log folder.
pub fn run(places: &Places, name: &str, args: &[String]) -> io::Result<Outcome> {
    let logs = places.logs(name);
    fs::create_dir_all(&logs)?;
    let json = logs.join("result.json");
    // A result of an earlier run must not be taken for this one's.
    let _ = fs::remove_file(&json);
    let output = Command::new(places.sevsim_run())
        .current_dir(&places.top)
        .args(["--batch", "--log-dir"])
        .arg(&logs)
        .arg("--json")
        .arg(&json)
        .arg("--sevsim")
        .arg(places.build.join("sevsim/sevsim.elf32"))
        .args(args)
        .output()?;
    let mut text = output.stdout;
    text.extend(&output.stderr);
    fs::write(logs.join("output"), &text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let told = text
        .lines()
        .filter_map(|line| line.strip_prefix("sevsim-run: "));
    let line = told
        .filter(|line| !line.starts_with("logs are in"))
        .next_back();
    let result = fs::read_to_string(&json).unwrap_or_default();
    let console = fs::read(logs.join("console.log")).unwrap_or_default();
    Ok(Outcome {
        status: output.status.code(),
        line: line.unwrap_or("sevsim-run said nothing").to_string(),
        json: serde_json::from_str(&result).unwrap_or(Value::Null),
        console: String::from_utf8_lossy(&console).into_owned(),
    })
}
