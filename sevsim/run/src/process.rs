// SPDX-License-Identifier: GPL-2.0
//! Starts QEMU, watches it and ends it.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::sys::resource::getrusage;
use nix::sys::resource::UsageWho;
use nix::sys::signal;
use nix::sys::signal::Signal;
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use signal_hook::consts::signal as sig;
use signal_hook::iterator::Signals;

use crate::console;
use crate::console::Lines;
use crate::host_cpu::HostCpu;
use crate::qemu;
use crate::setup::Config;
use crate::setup::SetupError;
use crate::starved::Starved;
use crate::terminal::Escape;
use crate::terminal::RawTerminal;
use crate::verdict::Ended;
use crate::verdict::QemuExit;
use crate::verdict::Seen;

/// How often the logs are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long QEMU may live after the guest's last act.
const LINGER: Duration = Duration::from_secs(5);
/// How long QEMU may take to go away when asked.
const GRACE: Duration = Duration::from_secs(2);

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    /// Everything that was seen.
    pub seen: Seen,
    /// From the start of QEMU to its end.
    pub wall: Duration,
    /// Processor time of QEMU, in user space and in the kernel; NaN if the kernel does not tell.
    pub cpu: f64,
    /// When each of [`console::MARKS`] was first seen, in seconds.
    pub marks: Vec<(&'static str, f64)>,
    /// Last console lines.
    pub tail: Vec<String>,
}

enum Message {
    Console(Vec<u8>),
    ConsoleEnd,
    Quit,
    Help,
}

/// Takes the log folder for as long as the lock lives: of two runs in one folder, each would take
/// the other's logs for its own, and judge by them.
fn take(dir: &Path) -> Result<Flock<File>, SetupError> {
    let path = dir.join("lock");
    let complain = |why: String| {
        SetupError(format!(
            "cannot keep logs in {}: {why}; choose another folder with --log-dir",
            dir.display()
        ))
    };
    let file = File::create(path).map_err(|error| complain(error.to_string()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        complain(match error {
            Errno::EWOULDBLOCK => "another guest's are kept there, which is running".into(),
            error => error.to_string(),
        })
    })
}

/// Prepares the log folder: old logs away, links to the input, the kernel's command line. Gives the
/// lock on it.
fn prepare(config: &Config, cpu: Option<&HostCpu>) -> Result<Flock<File>, SetupError> {
    let dir = &config.cli.log_dir;
    let files = dir.join("files");
    let complain = |path: &Path, error: io::Error| {
        SetupError(format!(
            "cannot write to {}: {error}; choose another folder with --log-dir",
            path.display()
        ))
    };
    fs::create_dir_all(&files).map_err(|error| complain(&files, error))?;
    let lock = take(dir)?;
    for name in ["console.log", "sevsim.log", "qemu.log", "machine.log"] {
        let path = dir.join(name);
        File::create(&path).map_err(|error| complain(&path, error))?;
    }
    for name in ["sevsim", "firmware", "kernel", "initrd", "disk"] {
        match fs::remove_file(files.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(complain(&files.join(name), error))
            }
            _ => {}
        }
    }
    for (name, target) in qemu::links(&config.cli) {
        let link = files.join(name);
        std::os::unix::fs::symlink(&target, &link).map_err(|error| complain(&link, error))?;
    }
    let path = files.join("cmdline");
    fs::write(&path, &config.cmdline).map_err(|error| complain(&path, error))?;
    let path = dir.join("qemu-command");
    let bound = cpu.map(|cpu| format!("taskset -c {} ", cpu.number()));
    let text = qemu::command_line(&config.cli, &qemu::arguments(config));
    let text = bound.unwrap_or_default() + &text;
    fs::write(&path, text).map_err(|error| complain(&path, error))?;
    Ok(lock)
}

/// The CPU of the host on which QEMU has to stay, if it has to.
fn host_cpu(config: &Config) -> Option<HostCpu> {
    if config.cli.plain || config.cli.vcpus == 1 {
        return None;
    }
    let cpu = HostCpu::claim("sevsim-run");
    if let Err(error) = &cpu {
        eprintln!(
            "sevsim-run: cannot keep QEMU on one CPU: {error}; the guest may be ended by a race in \
             QEMU (sevsim/README.md)"
        );
    }
    cpu.ok()
}

/// Starts QEMU in a process group of its own, so that a signal from the user's terminal reaches it
/// only through this program.
fn spawn(config: &Config, cpu: Option<&HostCpu>) -> Result<Child, SetupError> {
    let complain = |error: io::Error| SetupError(format!("cannot start QEMU: {error}"));
    let log = File::create(config.cli.log_dir.join("qemu.log")).map_err(complain)?;
    // A relative path with a slash would be searched from the log folder.
    let program = match config.cli.qemu.components().count() {
        1 => config.cli.qemu.clone(),
        _ => fs::canonicalize(&config.cli.qemu).map_err(complain)?,
    };
    let mut command = Command::new(program);
    command
        .args(qemu::arguments(config))
        .current_dir(&config.cli.log_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    end_with_parent(&mut command);
    match cpu {
        Some(cpu) => cpu.keep(|| command.spawn()).and_then(|child| child),
        None => command.spawn(),
    }
    .map_err(complain)
}

/// QEMU ends even if this program is killed and can do nothing any more.
#[allow(unsafe_code)]
fn end_with_parent(command: &mut Command) {
    let set = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) };
}

/// Ends the process group: politely, then for sure. A vCPU thread can be wedged so that QEMU does
/// not heed SIGTERM.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let group = Pid::from_raw(i32::try_from(child.id()).ok()?);
    let _ = signal::killpg(group, Signal::SIGTERM);
    let start = Instant::now();
    while start.elapsed() < GRACE {
        if let Ok(Some(status)) = child.try_wait() {
            // Whatever QEMU started goes with it.
            let _ = signal::killpg(group, Signal::SIGKILL);
            return Some(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = signal::killpg(group, Signal::SIGKILL);
    child.wait().ok()
}

fn watch_signals(sender: Sender<Message>) -> Result<(), SetupError> {
    let mut signals = Signals::new([sig::SIGINT, sig::SIGTERM, sig::SIGHUP, sig::SIGQUIT])
        .map_err(|error| SetupError(format!("cannot handle signals: {error}")))?;
    thread::spawn(move || {
        while signals.forever().next().is_some() && sender.send(Message::Quit).is_ok() {}
    });
    Ok(())
}

fn watch_console(mut out: impl Read + Send + 'static, sender: Sender<Message>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = out.read(&mut buffer) {
            if sender
                .send(Message::Console(buffer[..count].to_vec()))
                .is_err()
            {
                return;
            }
        }
        let _ = sender.send(Message::ConsoleEnd);
    });
}

/// Passes the user's keys (or a file's bytes) to the guest.
fn watch_keyboard(mut guest: impl Write + Send + 'static, raw: bool, sender: Sender<Message>) {
    thread::spawn(move || {
        let mut escape = Escape::default();
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            let input = &buffer[..count];
            if !raw {
                if guest.write_all(input).and_then(|()| guest.flush()).is_err() {
                    return;
                }
                continue;
            }
            let keys = escape.keys(input);
            if keys.help {
                let _ = sender.send(Message::Help);
            }
            if guest
                .write_all(&keys.guest)
                .and_then(|()| guest.flush())
                .is_err()
                || keys.quit
            {
                let _ = sender.send(Message::Quit);
                return;
            }
        }
        // End of a file: keep the guest's line open, it may still have much to say.
        loop {
            thread::park();
        }
    });
}

/// Follows a file that QEMU writes.
struct Follow {
    file: File,
    lines: Lines,
}

impl Follow {
    fn new(path: &Path) -> Option<Self> {
        Some(Self {
            file: File::open(path).ok()?,
            lines: Lines::default(),
        })
    }

    /// New bytes, and the lines that they complete.
    fn read(&mut self) -> (usize, Vec<String>) {
        let mut bytes = Vec::new();
        let count = self.file.read_to_end(&mut bytes).unwrap_or(0);
        (count, self.lines.push(&bytes))
    }
}

/// State of the loop that watches a run.
struct Watch<'a> {
    config: &'a Config,
    run: Run,
    start: Instant,
    last_sign: Instant,
    /// Time for which QEMU had no processor, and what that was at the last sign.
    starved: Starved,
    starved_before: Duration,
    /// When the guest did its last act.
    over: Option<Instant>,
    lines: Lines,
    raw: bool,
    log: Option<File>,
}

/// Whether a time is over its limit in seconds, of which 0 is none. The time for which QEMU had no
/// processor does not count.
fn over(time: Duration, starved: Duration, limit: u64) -> bool {
    limit > 0 && time.saturating_sub(starved).as_secs() >= limit
}

impl Watch<'_> {
    fn console_line(&mut self, line: &str) {
        let text = console::strip_control(line);
        for (name, sign) in console::MARKS {
            let noted = self.run.marks.iter().any(|(mark, _)| *mark == name);
            if !noted && text.contains(sign) {
                self.run
                    .marks
                    .push((name, self.start.elapsed().as_secs_f64()));
            }
        }
        console::observe(&mut self.run.seen, &text, &self.config.expect);
        let seen = &self.run.seen;
        if seen.panic.is_some() || seen.power_down || seen.restart {
            self.over.get_or_insert_with(Instant::now);
        }
        if !text.trim().is_empty() {
            if self.run.tail.len() == 20 {
                self.run.tail.remove(0);
            }
            self.run.tail.push(text.clone());
            if self.config.cli.batch && !self.config.cli.quiet {
                // A reader that went away (head, less) must not end the run.
                let _ = writeln!(io::stdout(), "{text}");
            }
        }
    }

    fn sign_of_life(&mut self) {
        self.last_sign = Instant::now();
        self.starved_before = self.starved.total();
    }

    fn console(&mut self, bytes: &[u8]) {
        self.sign_of_life();
        if let Some(log) = &mut self.log {
            let _ = log.write_all(bytes);
        }
        if !self.config.cli.batch && !self.config.cli.quiet {
            let mut out = io::stdout().lock();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
        for line in self.lines.push(bytes) {
            self.console_line(&line);
        }
    }

    fn sevsim(&mut self, follow: &mut Follow) {
        let (count, lines) = follow.read();
        if count > 0 {
            self.sign_of_life();
        }
        for line in lines {
            self.run.seen.log.line(&line);
        }
        if self.run.seen.log.last_act().is_some() {
            self.over.get_or_insert_with(Instant::now);
        }
    }

    /// Whether it is time to end QEMU, and why. On a loaded machine a guest may be slow or silent
    /// because it does not run.
    fn overdue(&mut self) -> Option<Ended> {
        if self.over.is_some_and(|since| since.elapsed() >= LINGER) {
            return Some(Ended::Lingering);
        }
        let starved = self.starved.total();
        if over(self.start.elapsed(), starved, self.config.timeout) {
            return Some(Ended::Timeout(self.config.timeout));
        }
        let starved = starved - self.starved_before;
        if over(self.last_sign.elapsed(), starved, self.config.idle_timeout) {
            return Some(Ended::Idle(self.config.idle_timeout));
        }
        None
    }
}

fn exit_of(status: Option<ExitStatus>) -> Option<QemuExit> {
    let status = status?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Some(QemuExit::Status(code)),
        (None, Some(signal)) => Some(QemuExit::Signal(signal)),
        (None, None) => None,
    }
}

/// Runs the guest to its end.
pub fn run(config: &Config) -> Result<Run, SetupError> {
    let cpu = host_cpu(config);
    let _lock = prepare(config, cpu.as_ref())?;
    let dir = &config.cli.log_dir;
    let (sender, receiver) = mpsc::channel();
    watch_signals(sender.clone())?;
    let mut child = spawn(config, cpu.as_ref())?;
    let cpus = match cpu {
        Some(_) => Ok(1),
        None => thread::available_parallelism().map(|cpus| cpus.get()),
    };
    let cpus = cpus.map_or(1, |cpus| u32::try_from(cpus).unwrap_or(u32::MAX));
    let start = Instant::now();
    let terminal = if config.cli.batch {
        None
    } else {
        RawTerminal::enter()
    };
    if let Some(out) = child.stdout.take() {
        watch_console(out, sender.clone());
    }
    let keyboard = child.stdin.take();
    if let (false, Some(guest)) = (config.cli.batch, keyboard) {
        watch_keyboard(guest, terminal.is_some(), sender);
    }

    let mut watch = Watch {
        config,
        run: Run {
            seen: Seen {
                sevsim: !config.cli.plain,
                ..Seen::default()
            },
            wall: Duration::ZERO,
            cpu: children_cpu(),
            marks: Vec::new(),
            tail: Vec::new(),
        },
        start,
        last_sign: start,
        starved: Starved::new(child.id(), cpus),
        starved_before: Duration::ZERO,
        over: None,
        lines: Lines::default(),
        raw: terminal.is_some(),
        log: File::create(dir.join("console.log")).ok(),
    };
    let mut sevsim_log = Follow::new(&dir.join("sevsim.log"));
    let mut qemu_log = Follow::new(&dir.join("qemu.log"));
    let mut messages = String::new();
    let mut gone = None;
    let mut console_open = true;
    while console_open || gone.is_none() {
        match receiver.recv_timeout(TICK) {
            Ok(Message::Console(bytes)) => watch.console(&bytes),
            Ok(Message::ConsoleEnd) | Err(RecvTimeoutError::Disconnected) => console_open = false,
            Ok(Message::Quit) => watch.run.seen.ended = Some(Ended::User),
            Ok(Message::Help) => help(watch.raw),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(follow) = &mut sevsim_log {
            watch.sevsim(follow);
        }
        if let Some(follow) = &mut qemu_log {
            let (_, lines) = follow.read();
            for line in lines {
                messages += &line;
                messages.push('\n');
            }
            if let Some(problem) = qemu::setup_problem(&messages) {
                end(&mut child);
                return Err(SetupError(problem));
            }
        }
        if gone.is_none() {
            gone = child.try_wait().ok().flatten();
        }
        if watch.run.seen.ended.is_none() {
            watch.run.seen.ended = watch.overdue();
        }
        if watch.run.seen.ended.is_some() {
            gone = gone.or_else(|| end(&mut child));
            break;
        }
    }
    watch.run.wall = start.elapsed();
    watch.run.cpu = children_cpu() - watch.run.cpu;
    // What QEMU wrote last.
    while let Ok(message) = receiver.recv_timeout(TICK) {
        match message {
            Message::Console(bytes) => watch.console(&bytes),
            _ => break,
        }
    }
    if let Some(rest) = watch.lines.finish() {
        watch.console_line(&rest);
    }
    if let Some(follow) = &mut sevsim_log {
        watch.sevsim(follow);
        if let Some(rest) = follow.lines.finish() {
            watch.run.seen.log.line(&rest);
        }
    }
    drop(terminal);
    messages = fs::read_to_string(dir.join("qemu.log")).unwrap_or(messages);
    let machine = fs::read(dir.join("machine.log")).unwrap_or_default();
    let seen = &mut watch.run.seen;
    seen.machine_triple_fault = String::from_utf8_lossy(&machine).contains("Triple fault");
    seen.qemu_says = qemu::last_message(&messages);
    seen.qemu = exit_of(gone);
    Ok(watch.run)
}

/// Seconds of processor time of all children that have ended.
fn children_cpu() -> f64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(f64::NAN, |usage| {
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}

fn help(raw: bool) {
    let end = if raw { "\r\n" } else { "\n" };
    eprint!("{end}Ctrl-A x: end the guest; Ctrl-A a: send Ctrl-A; Ctrl-A h: this help{end}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_folder_has_one_run_at_a_time() {
        let dir = std::env::temp_dir().join(format!("sevsim-run-lock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = take(&dir).unwrap();
        let second = take(&dir).map(drop).unwrap_err();
        assert!(second.0.contains("is running") && second.0.contains("--log-dir"));
        drop(first);
        assert!(take(&dir).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn time_without_a_processor_does_not_count() {
        let over = |time, starved, limit| {
            super::over(
                Duration::from_secs(time),
                Duration::from_secs(starved),
                limit,
            )
        };
        assert!(over(300, 0, 300) && over(400, 100, 300));
        assert!(!over(299, 0, 300) && !over(400, 101, 300));
        assert!(!over(5, 9, 1), "threads' waits overlap");
        assert!(!over(9999, 0, 0), "no limit");
    }
}
