#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compare sevsim's launch with what other people's programs compute.

    test_launch.py SEVSIM_RUN SEVSIM SEV_SNP_MEASURE VIRT_QEMU_SEV_VALIDATE FIRMWARE WORK_FOLDER

sev-snp-measure computes the digest for the FPU state of newer kernels, virt-qemu-sev-validate
checks a measurement for that of older ones (or, by given save areas, of any). Prints KTAP; the last
line counts.
"""

import base64
import hashlib
import itertools
import os
import re
import struct
import subprocess
import sys
import uuid

RUN, SEVSIM, MEASURE, VALIDATE, FIRMWARE, WORK = sys.argv[1:7]

# As QEMU names them; family, model and stepping of its definitions.
PROCESSORS = {
    "EPYC": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
}
COUNTS = (1, 2, 4, 8)
NONCE = bytes(range(0x40, 0x50))
COMMAND_LINE = "console=ttyS0 root=/dev/vda 'two words' -- x"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
HASHES_AREA = "7255371f-3a3b-4b04-927b-1da6efa8d454"
HASHES_TABLE = "9438d606-4f22-4cc9-b479-a793d411fd21"
HASH_ENTRIES = (
    "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",  # command line
    "44baf731-3a2f-4bd7-9af1-41e29169781d",  # initramfs
    "4de79437-abd2-427f-b835-d5b172d2045b",  # kernel
)
# Where AmdSev's OVMF has its area for hashes.
AREA = struct.pack("<II", 0x810C00, 0x400)

results = []


def check(name, good, remark=""):
    """One line of KTAP."""
    results.append(good)
    line = f"{'ok' if good else 'not ok'} {len(results)} {name}"
    print(line if good else f"{line}\n# {remark}".replace("\n", "\n# "), flush=True)


def call(*command):
    """Status and output of a program."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
        text=True,
    )
    return done.returncode, done.stdout


def signature(family, model, stepping):
    """EAX of CPUID leaf 1 (family above 15)."""
    return (family - 15) << 20 | (model >> 4) << 16 | 0xF00 | (model & 15) << 4 | stepping


def ours(*options):
    """What sevsim-run measure prints, by name."""
    status, text = call(RUN, "measure", *options)
    if status:
        return {"error": text}
    return dict(line.split(" ", 1) for line in text.splitlines())


def path(name, content=None):
    """A file of the work folder."""
    name = os.path.join(WORK, name)
    if content is not None:
        with open(name, "wb") as file:
            file.write(content)
    return name


def entries(image):
    """The firmware's GUIDed entries: where the data of each lies."""
    found = {}
    end = len(image) - 32
    (length,) = struct.unpack_from("<H", image, end - 18)
    start, at = end - length, end - 18
    while at > start:
        (length,) = struct.unpack_from("<H", image, at - 18)
        found[str(uuid.UUID(bytes_le=bytes(image[at - 16 : at])))] = (at - length, at - 18)
        at -= length
    return found


def make_firmware():
    """Firmware images: Debian's, one that has an area for hashes, and damaged ones."""
    with open(FIRMWARE, "rb") as file:
        image = file.read()
    table = entries(image)
    images = {"plain": image}
    measured = bytearray(image)
    start, end = table[HASHES_AREA]
    measured[start:end] = AREA
    images["measured"] = measured
    absent = bytearray(image)
    absent[-48:-32] = bytes(16)
    images["absent"] = absent
    damaged = bytearray(image)
    struct.pack_into("<H", damaged, table[RESET_BLOCK][1], 0xFFFF)
    images["damaged"] = damaged
    nowhere = bytearray(image)
    nowhere[slice(*table[RESET_BLOCK])] = bytes(4)
    images["nowhere"] = nowhere
    return {name: path(f"{name}.fd", content) for name, content in images.items()}


def digests(firmware, files):
    """Digests, for the FPU state of newer kernels."""
    plain = ("plain", [], [])
    kernel = ["--kernel", files["kernel"]]
    rest = ["--initrd", files["initrd"], "--append", COMMAND_LINE]
    kinds = [plain, ("measured", kernel + rest, ["hashes"]), ("measured", kernel, ["kernel only"])]
    for (name, numbers), vcpus, (image, options, words) in itertools.product(
        PROCESSORS.items(), COUNTS, kinds
    ):
        title = " ".join(["digest", name, f"{vcpus} vCPUs"] + words)
        common = ["--vcpus", vcpus, *options]
        got = ours(
            "--firmware", firmware[image], "--signature", signature(*numbers), *common
        ).get("digest")
        status, want = call(
            MEASURE, "--mode", "seves", "--vcpu-type", name, "--ovmf", firmware[image], *common
        )
        check(title, status == 0 and got == want.strip(), f"{got}\n{want}")


def save_areas(firmware):
    """The save areas themselves."""
    status, text = call("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", WORK, MEASURE,
                        "--mode", "seves", "--vcpus", 2, "--vcpu-type", "EPYC-Milan", "--ovmf",
                        firmware["plain"], "--dump-vmsa")
    theirs = []
    for index in (0, 1):
        with open(path(f"vmsa{index}.bin"), "rb") as file:
            theirs.append(file.read())
    result = ours("--firmware", firmware["plain"], "--vcpus", 2, "--dump-vmsa", WORK)
    for index in (0, 1):
        with open(path(f"vmsa{index}.bin"), "rb") as file:
            own = file.read()
        differing = [hex(at) for at in range(4096) if own[at] != theirs[index][at]]
        good = status == 0 and "digest" in result and not differing
        check(f"save area of vCPU {index}", good, f"{text}{result} {differing}")


def validate(blob, *options):
    """Whether virt-qemu-sev-validate takes a measurement; None if it did something else."""
    status, text = call(VALIDATE, "--measurement", blob, "--tik", path("tik"), "--tek",
                        path("tek"), "--api-major", 1, "--build-id", 21, *options)
    if status == 0 and "OK" in text:
        return True
    if "Measurement does not match" in text:
        return False
    print("# " + text.replace("\n", "\n# "))
    return None


def measurements(firmware, files):
    """Measurements with the owner's key, for the FPU state of older kernels."""
    kernel = ["--kernel", files["kernel"], "--initrd", files["initrd"]]
    key = ["--tik", path("tik"), "--nonce", NONCE.hex(), "--initial-fpu", "zero"]
    for (name, numbers), vcpus, hashes in itertools.product(
        PROCESSORS.items(), COUNTS, (False, True)
    ):
        image = firmware["measured" if hashes else "plain"]
        policy = 0x01000005 if hashes else 4
        blob = ours(
            "--firmware", image, "--vcpus", vcpus, "--signature", signature(*numbers),
            "--policy", policy, *key, *(kernel + ["--append", COMMAND_LINE] if hashes else []),
        ).get("measurement", "")
        given = ["--api-minor", 55, "--policy", policy, "--firmware", image]
        processor = ["--num-cpus", vcpus, "--cpu-family", numbers[0], "--cpu-model", numbers[1],
                     "--cpu-stepping", numbers[2]]
        if hashes:
            given += kernel + ["--cmdline", COMMAND_LINE]
        title = f"measurement {name} {vcpus} vCPUs{' hashes' if hashes else ''}"
        check(title, validate(blob, *given, *processor) is True)
    # The last one again, each time with something else than was launched.
    raw = base64.b64decode(blob)
    check("nonce as given", raw[32:] == NONCE)
    other = ["--kernel", files["initrd"], "--initrd", files["initrd"], "--cmdline", COMMAND_LINE]
    wrong = {
        "a bit of the measurement": (bytes([raw[0] ^ 1]) + raw[1:], given, processor),
        "a bit of the nonce": (raw[:-1] + bytes([raw[-1] ^ 1]), given, processor),
        "another policy": (raw, ["--policy" if word == "--policy" else 5 if word == policy else
                                 word for word in given], processor),
        "another API version": (raw, given[:1] + [54] + given[2:], processor),
        "another kernel": (raw, given[:6] + other, processor),
        "one vCPU less": (raw, given, ["--num-cpus", vcpus - 1] + processor[2:]),
        "another stepping": (raw, given, processor[:-1] + [numbers[2] + 1]),
    }
    for title, (blob, options, processor) in wrong.items():
        encoded = base64.b64encode(blob).decode()
        check(f"refused: {title}", validate(encoded, *options, *processor) is False)


def newer_fpu(firmware):
    """By our own save areas virt-qemu-sev-validate also knows the newer kernels' FPU state."""
    result = ours("--firmware", firmware["plain"], "--vcpus", 4, "--dump-vmsa", WORK, "--tik",
                  path("tik"))
    given = ["--api-minor", 55, "--policy", 4, "--firmware", firmware["plain"], "--num-cpus", 4]
    areas = ["--vmsa-cpu0", path("vmsa0.bin"), "--vmsa-cpu1", path("vmsa1.bin")]
    blob = result.get("measurement", "")
    check("measurement with the newer FPU state", validate(blob, *given, *areas) is True)
    processor = ["--cpu-family", 25, "--cpu-model", 1, "--cpu-stepping", 1]
    check("refused: the newer FPU state for the older", validate(blob, *given, *processor) is False)


def refusals(firmware, files):
    """Mistakes end with words about them."""
    kernel = ["--kernel", files["kernel"]]
    for title, words, options in (
        ("hashes without an area", "area for hashes", ["plain", "--vcpus", 1, *kernel]),
        ("no table, two vCPUs", "not made for SEV", ["absent", "--vcpus", 2]),
        ("a damaged table", "damaged", ["damaged", "--vcpus", 2]),
        ("a reset block of 0", "damaged", ["nowhere", "--vcpus", 2]),
        ("a policy without SEV-ES", "bit 2", ["plain", "--policy", "0x1"]),
        ("a policy with reserved bits", "reserved", ["plain", "--policy", "0x8005"]),
        ("a policy for later firmware", "SEV API 2.0", ["plain", "--policy", "0x20005"]),
    ):
        error = ours("--firmware", firmware[options[0]], *options[1:]).get("error", "")
        check(f"refused: {title}", words in error, error)
    for name in ("plain", "absent", "damaged", "nowhere"):
        result = ours("--firmware", firmware[name], "--vcpus", 1)
        check(f"one vCPU needs no reset block: {name}", "digest" in result, str(result))


def start(*options):
    """What sevsim-run prints of a guest that it starts and soon ends, and sevsim's own log."""
    logs = path("run")
    _, text = call(RUN, "--sevsim", SEVSIM, "--batch", "--quiet", "--memory", 256, "--timeout", 6,
                   "--log-dir", logs, *options)
    with open(os.path.join(logs, "sevsim.log"), encoding="utf-8", errors="replace") as file:
        text += file.read()
    told = re.findall(r"^sevsim-run: launch (\w+) (\S+)$", text, re.MULTILINE)
    return text, dict(told)


def pages_in_use(log, vcpus):
    """Whether each vCPU has its own VMCB, VMSA, host save area and scratch VMCB, and none where an
    RMP check of a large page would take the mark of VMRUN for that of 2 MiB. The first one was
    allocated with such a place next."""
    lines = re.findall(r"^sevsim: event in-use vcpu=(\d+) (.*)$", log, re.MULTILINE)
    pages = [int(word.split("=0x")[1], 16) for _, words in lines for word in words.split()]
    good = all(page % 0x1000 == 0 and page % 0x200000 for page in pages)
    tried = any(page % 0x200000 == 0x1000 for page in pages)
    return good and tried and len(lines) == vcpus and len(set(pages)) == 4 * vcpus


def guests(firmware, files):
    """Guests that sevsim starts are launched with the same digest and measurement."""
    milan, rome = (signature(*PROCESSORS[name]) for name in ("EPYC-Milan", "EPYC-Rome"))
    features = "phys-bits=52,+svm,+npt,+la57,+x2apic"
    key = ["--tik", path("tik"), "--nonce", NONCE.hex(), "--policy", "0x5"]
    kernel = ["--kernel", files["kernel"], "--initrd", files["initrd"]]
    hashes = [*kernel, "--kernel-hashes", "--bare-cmdline", "--append", COMMAND_LINE]
    for title, image, given, run, measure in (
        ("4 vCPUs", "plain", ["--vcpus", 4, *key], [], ["--signature", milan]),
        ("1 vCPU, older FPU state", "plain", ["--vcpus", 1, "--initial-fpu", "zero", *key], [], []),
        ("EPYC-Rome", "plain", ["--vcpus", 2, *key], ["--cpu", f"EPYC-Rome,{features}"],
         ["--signature", rome]),
        ("hashes", "measured", ["--vcpus", 2, *key], hashes,
         [*kernel, "--append", COMMAND_LINE]),
    ):
        text, told = start("--firmware", firmware[image], *given, *run)
        want = ours("--firmware", firmware[image], *given, *measure)
        check(f"guest of sevsim, {title}", told == want and len(want) == 2, f"{text}{want}")
        if title == "4 vCPUs":
            check("pages in use are not 2 MiB-aligned", pages_in_use(text, 4), text)
    for title, words, image, options in (
        ("hashes without an area", "area for hashes", "plain", hashes),
        ("no table, two vCPUs", "not made for SEV", "absent", ["--vcpus", 2]),
        ("a damaged table", "damaged", "damaged", ["--vcpus", 2]),
        ("a policy without SEV-ES", "bit 2", "plain", ["--policy", "0x1"]),
        ("system management mode", "no system management mode", "plain", ["--option", "smm=on"]),
    ):
        text, told = start("--firmware", firmware[image], *options)
        check(f"sevsim refuses {title}", words in text and not told, text)


def hashes_table(files):
    """The table of hashes as its reader expects it, by Python's own SHA-256."""
    def entry(guid, data):
        return uuid.UUID(guid).bytes_le + struct.pack("<H", 18 + len(data)) + data

    contents = [COMMAND_LINE.encode() + b"\0"]
    for name in ("initrd", "kernel"):
        with open(files[name], "rb") as file:
            contents.append(file.read())
    hashes = [hashlib.sha256(content).digest() for content in contents]
    table = entry(HASHES_TABLE, b"".join(map(entry, HASH_ENTRIES, hashes)))
    return table + bytes(-len(table) % 16)


def comparing_firmware(files):
    """Firmware that compares the hashes with those of the files that its owner wants
    (sevsim/probe/hashes.S) finds them in its memory, and notices other files."""
    with open(os.path.join(os.path.dirname(SEVSIM), "hashes.bin"), "rb") as file:
        image = file.read()
    table = hashes_table(files)
    firmware = path("comparing.fd", table + image[len(table) :])
    for title, kernel, initrd, line, options, code in (
        ("the files expected", "kernel", "initrd", COMMAND_LINE, ["--kernel-hashes"], 0),
        ("another kernel", "other", "initrd", COMMAND_LINE, ["--kernel-hashes"], 1),
        ("another initramfs", "kernel", "other", COMMAND_LINE, ["--kernel-hashes"], 1),
        ("another command line", "kernel", "initrd", COMMAND_LINE + "y", ["--kernel-hashes"], 1),
        ("no hashes", "kernel", "initrd", COMMAND_LINE, [], 1),
    ):
        given = ["--kernel", files[kernel], "--initrd", files[initrd], "--append", line]
        status, text = call(RUN, "--sevsim", SEVSIM, "--batch", "--quiet", "--memory", 256,
                            "--vcpus", 1, "--timeout", 100, "--log-dir", path("run"), "--expect",
                            f"terminate:4:{code}", "--tik", path("tik"), "--firmware", firmware,
                            "--bare-cmdline", *given, *options)
        _, want = call(MEASURE, "--mode", "seves", "--vcpu-type", "EPYC-Milan", "--vcpus", 1,
                       "--ovmf", firmware, *(given if options else []))
        told = f"sevsim-run: launch digest {want.strip()}"
        check(f"firmware that compares hashes: {title}", status == 0 and told in text,
              f"{text}{want}")


def main():
    """All of it."""
    os.makedirs(WORK, exist_ok=True)
    path("tik", bytes(range(16)))
    path("tek", bytes(16))
    files = {"initrd": path("initrd", b"initrd" * 1000)}
    # Enough of a bzImage for sevsim: the setup header's magic, and the DOS signature.
    kernel = bytearray(0x2000)
    kernel[0:2] = b"MZ"
    kernel[0x1FE:0x200] = b"\x55\xaa"
    kernel[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", kernel, 0x206, 0x20F)
    files["kernel"] = path("kernel", kernel)
    files["other"] = path("other", kernel + bytes(16))
    firmware = make_firmware()
    print("KTAP version 1")
    digests(firmware, files)
    save_areas(firmware)
    measurements(firmware, files)
    newer_fpu(firmware)
    refusals(firmware, files)
    guests(firmware, files)
    comparing_firmware(files)
    failed = results.count(False)
    print(f"1..{len(results)}\n{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
