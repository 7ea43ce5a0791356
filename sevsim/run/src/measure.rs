// SPDX-License-Identifier: GPL-2.0
//! The launch's digest and measurement: computed as the guest's owner does, or told by sevsim.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use machine::firmware;
use machine::launch::hashes;
use machine::launch::options::Hex;
use machine::launch::vmsa::Vmsa;
use machine::launch::Launch;
use machine::launch::LaunchDigest;
use machine::launch::LaunchError;
use machine::launch::Measurement;
use machine::launch::Tik;
use machine::layout::FOUR_GIB;
use machine::reset;

use crate::cli;
use crate::cli::Measure;
use crate::setup::SetupError;
use crate::setup::MAX_VCPUS;
use crate::simlog::SimLog;

/// What `sevsim-run measure` prints.
pub fn measure(args: &Measure) -> Result<String, SetupError> {
    let tik = args.launch.tik.as_deref().map(read_tik).transpose()?;
    let nonce = match args.launch.nonce {
        Some(nonce) => nonce.to_be_bytes(),
        None => draw_nonce()?,
    };
    let (digest, measurement) = launch(args, tik, nonce)?;
    let mut text = format!("digest {}\n", Hex(&digest));
    if tik.is_some() {
        text += &format!("measurement {}\n", base64(&measurement.blob()));
    }
    Ok(text)
}

fn launch(
    args: &Measure,
    tik: Option<Tik>,
    nonce: [u8; 16],
) -> Result<(LaunchDigest, Measurement), SetupError> {
    if args.vcpus == 0 || args.vcpus > MAX_VCPUS as usize {
        return Err(SetupError(format!(
            "{} vCPUs are not possible: choose 1 to {MAX_VCPUS} (--vcpus)",
            args.vcpus
        )));
    }
    let image = read("firmware", &args.firmware)?;
    let told = |error: LaunchError| SetupError(error.to_string());
    let mut launch = Launch::new(args.launch.sev_firmware, args.vcpus);
    launch
        .start(args.launch.policy, Some(tik.unwrap_or(Tik([0; 16]))))
        .map_err(told)?;
    let gpa = FOUR_GIB.checked_sub(image.len() as u64);
    let gpa = gpa.ok_or_else(|| SetupError("the firmware is larger than 4 GiB".into()))?;
    launch.update_data(gpa, &image).map_err(told)?;
    if let Some(kernel) = &args.kernel {
        let area = firmware::hashes_area(&image).map_err(|error| {
            SetupError(format!(
                "{error}; leave --kernel out, or name another --firmware"
            ))
        })?;
        let kernel = read("kernel", kernel)?;
        let initrd = match &args.initrd {
            Some(initrd) => read("initramfs", initrd)?,
            None => Vec::new(),
        };
        let table = hashes::table(&kernel, &initrd, args.append.as_bytes());
        launch.update_data(area.start, &table).map_err(told)?;
    }
    let vmsas = save_areas(args, &image)?;
    for (vcpu, vmsa) in vmsas.iter().enumerate() {
        launch.update_vmsa(vcpu, vmsa).map_err(told)?;
        if let Some(folder) = &args.dump_vmsa {
            let path = folder.join(format!("vmsa{vcpu}.bin"));
            fs::write(&path, vmsa.bytes())
                .map_err(|error| SetupError(format!("cannot write {}: {error}", path.display())))?;
        }
    }
    let measured = launch.measure(nonce).map_err(told)?;
    Ok(measured.expect("there is a key"))
}

fn save_areas(args: &Measure, image: &[u8]) -> Result<Vec<Vmsa>, SetupError> {
    let (signature, fpu) = (args.signature, args.launch.initial_fpu);
    let mut vmsas = vec![reset::vmsa(signature, None, fpu)];
    if args.vcpus > 1 {
        let vector = firmware::reset_vector(image)
            .map_err(|error| SetupError(format!("{error}; choose --vcpus 1")))?;
        vmsas.resize(args.vcpus, reset::vmsa(signature, Some(vector), fpu));
    }
    Ok(vmsas)
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|error| {
        SetupError(format!(
            "cannot read the {what} {}: {error}",
            path.display()
        ))
    })
}

/// Reads the owner's key.
pub fn read_tik(path: &Path) -> Result<Tik, SetupError> {
    let bytes = read("key", path)?;
    let key = bytes.as_slice().try_into().map_err(|_| {
        SetupError(format!(
            "the key {} has {} bytes: 16 are needed, as of 'openssl rand -out FILE 16' (--tik)",
            path.display(),
            bytes.len()
        ))
    })?;
    Ok(Tik(key))
}

/// The secure processor's random number.
fn draw_nonce() -> Result<[u8; 16], SetupError> {
    let mut nonce = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut nonce))
        .map_err(|error| SetupError(format!("cannot read /dev/urandom: {error}")))?;
    Ok(nonce)
}

/// sevsim's words for a launch; none for what is the default. sevsim draws no random numbers, so
/// the nonce comes from here.
pub fn words(args: &cli::Launch, kernel_hashes: bool) -> Result<String, SetupError> {
    let default = machine::launch::options::Options::default();
    let mut text = String::new();
    if args.policy != default.policy {
        text += &format!(" launch-policy={:#x}", args.policy.bits());
    }
    if args.sev_firmware != default.firmware {
        let firmware = args.sev_firmware;
        text += &format!(" launch-api={}.{}", firmware.api, firmware.build);
    }
    if args.initial_fpu != default.fpu {
        text += " launch-fpu=zero";
    }
    if kernel_hashes {
        text += " launch-hashes=on";
    }
    if let Some(path) = &args.tik {
        let tik = read_tik(path)?;
        let nonce = match args.nonce {
            Some(nonce) => nonce.to_be_bytes(),
            None => draw_nonce()?,
        };
        text += &format!(" launch-tik={} launch-nonce={}", Hex(&tik.0), Hex(&nonce));
    }
    Ok(text)
}

/// Lines for the end of a run: what sevsim launched.
pub fn told(log: &SimLog) -> String {
    let value = |name: &str, key: &str| {
        let event = log.events.iter().find(|event| event.name == name)?;
        event.get(key).map(str::to_string)
    };
    let mut text = String::new();
    if let Some(digest) = value("measured", "digest") {
        text += &format!("sevsim-run: launch digest {digest}\n");
    }
    if let Some(bytes) = value("measurement", "blob").and_then(|blob| bytes(&blob)) {
        text += &format!("sevsim-run: launch measurement {}\n", base64(&bytes));
    }
    text
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// RFC 4648, as the VMM hands measurements on.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |index| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4 {
            text.push(if place <= group.len() {
                char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::cli::Command;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["sevsim-run"], args].concat())
    }

    fn measured(args: &[&str]) -> Result<String, String> {
        let cli = parse(&[&["measure"], args].concat()).map_err(|error| error.to_string())?;
        let Some(Command::Measure(args)) = cli.command else {
            panic!("no subcommand");
        };
        measure(&args).map_err(|error| error.0)
    }

    /// A file that goes away with its owner.
    struct Temporary(std::path::PathBuf);

    impl Temporary {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let name = format!("sevsim-run-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, bytes).unwrap();
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn base64_of_all_lengths() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xff]), "+///");
    }

    #[test]
    fn a_firmware_without_table_has_one_vcpu_and_no_hashes() {
        let plain = Temporary::new("plain", &[0x5a; 4096]);
        let one = measured(&["--firmware", plain.path(), "--vcpus", "1"]).unwrap();
        assert!(
            one.starts_with("digest ") && one.lines().count() == 1,
            "{one}"
        );
        let two = measured(&["--firmware", plain.path(), "--vcpus", "2"]).unwrap_err();
        assert!(
            two.contains("not made for SEV") && two.contains("--vcpus 1"),
            "{two}"
        );
        let args = [
            "--firmware",
            plain.path(),
            "--vcpus",
            "1",
            "--kernel",
            "/dev/null",
        ];
        let hashes = measured(&args).unwrap_err();
        assert!(hashes.contains("not made for SEV"), "{hashes}");
    }

    #[test]
    fn the_key_makes_a_measurement() {
        let image = Temporary::new("image", &[0x5a; 4096]);
        let key = Temporary::new("key", &[1; 16]);
        let short = Temporary::new("short", &[1; 15]);
        let base = ["--firmware", image.path(), "--vcpus", "1", "--tik"];
        let nonce = ["--nonce", "000102030405060708090a0b0c0d0e0f"];
        let good = measured(&[&base[..], &[key.path()], &nonce].concat()).unwrap();
        let blob = good
            .lines()
            .nth(1)
            .unwrap()
            .strip_prefix("measurement ")
            .unwrap();
        assert_eq!(blob.len(), 64);
        assert!(blob.ends_with("AQIDBAUGBwgJCgsMDQ4P"), "{blob}");
        let random = [&base[..], &[key.path()]].concat();
        assert_ne!(measured(&random), measured(&random));
        let error = measured(&[&base[..], &[short.path()]].concat()).unwrap_err();
        assert!(error.contains("15 bytes: 16 are needed"), "{error}");
    }

    #[test]
    fn wrong_values_are_told() {
        let image = Temporary::new("wrong", &[0x5a; 4096]);
        let base = ["--firmware", image.path(), "--vcpus", "1"];
        for (more, want) in [
            (["--policy", "0x1"], "demand SEV-ES (bit 2"),
            (["--policy", "0x44"], "6 to 15 are reserved"),
            (["--sev-firmware", "1.55"], "three numbers"),
            (["--initial-fpu", "none"], "reset or zero"),
            (["--vcpus", "9"], "choose 1 to 8"),
            (["--nonce", "00"], "32 hexadecimal digits"),
            (["--signature", "Milan"], "such as 0xa00f11"),
            (["--initrd", "x"], "--kernel"),
        ] {
            let error = measured(&[&base[..], &more].concat()).unwrap_err();
            assert!(error.contains(want), "{more:?}: {error}");
        }
        let late = measured(&[&base[..], &["--policy", "0x38010004"]].concat()).unwrap_err();
        assert!(late.contains("SEV API 1.56"), "{late}");
    }

    #[test]
    fn sevsim_is_told_what_differs_from_its_default() {
        let given = |args: &[&str]| {
            let cli = parse(args).unwrap();
            words(&cli.launch, cli.kernel_hashes).unwrap()
        };
        assert_eq!(given(&[]), "");
        let key = Temporary::new("told", &[0xab; 16]);
        let args = [
            "--policy",
            "0x5",
            "--tik",
            key.path(),
            "--nonce",
            "000102030405060708090a0b0c0d0e0f",
            "--sev-firmware",
            "1.51.3",
            "--initial-fpu",
            "zero",
            "--kernel-hashes",
            "--kernel",
            "k",
        ];
        assert_eq!(
            given(&args),
            " launch-policy=0x5 launch-api=1.51.3 launch-fpu=zero launch-hashes=on \
             launch-tik=abababababababababababababababab \
             launch-nonce=000102030405060708090a0b0c0d0e0f"
        );
        // And understands it.
        assert!(machine::launch::options::Options::parse(&given(&args)).is_ok());
    }

    #[test]
    fn what_sevsim_launched_is_told() {
        let mut log = SimLog::default();
        assert_eq!(told(&log), "");
        log.line("sevsim: event measured digest=00ff policy=0x4 api=1.55 build=21");
        assert_eq!(told(&log), "sevsim-run: launch digest 00ff\n");
        log.line("sevsim: event measurement blob=666f6f");
        assert!(told(&log).ends_with("measurement Zm9v\n"));
    }
}
