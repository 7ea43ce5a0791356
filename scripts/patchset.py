# SPDX-License-Identifier: GPL-2.0
"""The series as data: patch files, overlay folders, and the kernel files that they make together.

patches/series names the patch files in order. A patch file holds a commit message, the overlay
files that the commit adds, and its hooks: a diff of files that exist at that point, be they the
kernel's or overlay files that an earlier patch adds (patches/README describes the format).
scripts/assemble turns this into a kernel tree, scripts/series into mails; both see only what this
module says.

An overlay folder has the final form of a file. What a patch adds is that form with all hooks of
later patches into this file taken back.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

# Where the project's overlay folders lie in the kernel: (project path, kernel path). Kconfig is a
# single file.
OVERLAYS = (
    ("Kconfig", "arch/x86/coco/sev/Kconfig"),
    ("arch-x86-sev", "arch/x86"),
    ("rust", "rust"),
    ("selftests", "tools/testing/selftests"),
    ("Documentation", "Documentation"),
)

# What editors, compilers and cargo leave behind is no part of an overlay.
LITTER = re.compile(r"~$|\.(orig|rej|o|pyc|sw[a-p])$|^\.#|^#.*#$|^(__pycache__|target)$")


class PatchsetError(Exception):
    """Something in patches/ or an overlay folder is wrong; the text tells what and where."""


@dataclass
class Patch:
    """One commit of the series."""

    name: str
    subject: str
    body: str
    adds: list = field(default_factory=list)
    diff: bytes = b""
    # The line of the patch file at which the diff starts, for messages.
    diff_line: int = 0
    # Kernel paths that the hooks touch.
    hooked: list = field(default_factory=list)


@dataclass
class File:
    """Wanted content of one kernel file; `data` is None for a file that a hook deletes."""

    data: bytes
    executable: bool


def read_series(top):
    """Parse patches/series and the patch files that it names, in order."""
    listing = Path(top, "patches/series")
    try:
        lines = listing.read_text().splitlines()
    except FileNotFoundError:
        raise PatchsetError(
            "patches/series is missing: it names the patch files in order, one a line"
        ) from None
    patches = []
    for number, line in enumerate(lines, 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        path = Path(top, "patches", name)
        if not path.is_file():
            raise PatchsetError(f"patches/series:{number}: there is no file patches/{name}")
        if any(p.name == name for p in patches):
            raise PatchsetError(f"patches/series:{number}: {name} is named twice")
        patches.append(parse_patch(name, path.read_bytes()))
    for path in sorted(Path(top, "patches").glob("*.patch")):
        if not any(p.name == path.name for p in patches):
            raise PatchsetError(f"patches/{path.name} is not named in patches/series")
    return patches


def parse_patch(name, raw):
    """Split a patch file into message, `add` lines and hooks."""
    lines = raw.split(b"\n")
    try:
        cut = lines.index(b"---")
    except ValueError:
        raise PatchsetError(
            f"patches/{name}: no line '---' between the message and what the commit adds"
        ) from None
    message = b"\n".join(lines[:cut]).decode("utf-8")
    subject, _, body = message.strip("\n").partition("\n")
    if not subject.strip() or (body and not body.startswith("\n")):
        raise PatchsetError(
            f"patches/{name}: the message is a subject line, a blank line, then the body"
        )
    for number, line in enumerate(message.split("\n"), 1):
        if line.startswith("#"):
            raise PatchsetError(f"patches/{name}:{number}: git takes the line for a comment")
    patch = Patch(name=name, subject=subject.strip(), body=body.strip("\n"))
    for index in range(cut + 1, len(lines)):
        line = lines[index]
        if line.startswith(b"diff --git "):
            patch.diff = b"\n".join(lines[index:])
            patch.diff_line = index + 1
            break
        text = line.decode("utf-8").strip()
        if text.startswith("add "):
            patch.adds.append(text[4:].strip())
        elif text:
            raise PatchsetError(
                f"patches/{name}:{index + 1}: expected 'add PATH' or 'diff --git', found: {text}"
            )
    patch.hooked = hooked_paths(patch)
    return patch


def hooked_paths(patch):
    """The kernel paths that a patch's hooks touch; only files that exist already may be touched."""
    paths = []
    in_header = False
    for offset, line in enumerate(patch.diff.split(b"\n")):
        where = f"patches/{patch.name}:{patch.diff_line + offset}"
        if line.startswith(b"diff --git "):
            match = re.fullmatch(r"diff --git a/(\S+) b/(\S+)", line.decode("utf-8"))
            if not match:
                raise PatchsetError(f"{where}: expected 'diff --git a/PATH b/PATH'")
            paths += [p for p in match.groups() if p not in paths]
            in_header = True
        elif line.startswith(b"@@"):
            in_header = False
        elif in_header and line.startswith(b"new file mode"):
            raise PatchsetError(
                f"{where}: hooks change existing files; put {paths[-1]} into an overlay folder "
                "and name it with 'add'"
            )
    return paths


def overlay_files(top):
    """All overlay files: kernel path -> project path."""
    found = {}
    for source, target in OVERLAYS:
        base = Path(top, source)
        if base.is_file():
            found[target] = base
        for folder, subfolders, names in os.walk(base):
            subfolders[:] = sorted(d for d in subfolders if not LITTER.search(d))
            for name in sorted(names):
                if LITTER.search(name):
                    continue
                path = Path(folder, name)
                if path.is_symlink():
                    raise PatchsetError(
                        f"{path.relative_to(top)}: overlay folders hold plain files, not links"
                    )
                found[f"{target}/{path.relative_to(base)}"] = path
    return found


def is_project_only(kernel_path, pristine):
    """Guides for this project lie in Documentation/ too: at its top, or in folders that the kernel
    does not have.
    """
    parts = kernel_path.split("/")
    return parts[0] == "Documentation" and (
        len(parts) == 2 or not Path(pristine, *parts[:2]).is_dir()
    )


def claim(top, pristine, patches):
    """Decide which patch adds which overlay file: a list, parallel to `patches`, of {kernel path:
    File}.
    """
    overlay = overlay_files(top)
    owner = {}
    errors = []
    claims = []
    for patch in patches:
        mine = {}
        for entry in patch.adds:
            if entry.endswith("/"):
                paths = [p for p in overlay if p.startswith(entry)]
            else:
                paths = [p for p in overlay if p == entry]
            if not paths:
                errors.append(
                    f"patches/{patch.name}: 'add {entry}' names nothing in the overlay folders"
                )
            for path in paths:
                if path in owner:
                    errors.append(f"{path}: added by both {owner[path]} and {patch.name}")
                    continue
                owner[path] = patch.name
                if Path(pristine, path).exists():
                    errors.append(
                        f"{overlay[path].relative_to(top)}: the kernel has {path} already; "
                        f"change it by a hook in patches/{patch.name}"
                    )
                source = overlay[path]
                mine[path] = File(source.read_bytes(), os.access(source, os.X_OK))
        claims.append(mine)
    for path, source in overlay.items():
        if path not in owner and not is_project_only(path, pristine):
            errors.append(
                f"{source.relative_to(top)}: no patch adds it; name it in one of patches/*.patch "
                f"as 'add {path}'"
            )
    if errors:
        more = [f"and {len(errors) - 10} more of that kind"] if len(errors) > 10 else []
        raise PatchsetError("\n".join(errors[:10] + more))
    take_back(patches, claims)
    return claims


def take_back(patches, claims):
    """Turn the final form of overlay files in `claims` into the one that the patch which adds them
    gives them: without the hooks of later patches, which are taken back, the last one first.
    """
    owner = {path: index for index, mine in enumerate(claims) for path in mine}
    with tempfile.TemporaryDirectory(prefix="sevforms-") as folder:
        scratch = Scratch(folder, folder)
        for index in reversed(range(len(patches))):
            patch = patches[index]
            paths = [p for p in patch.hooked if p in owner]
            for path in paths:
                if owner[path] >= index:
                    raise PatchsetError(
                        f"patches/{patch.name}: hooks {path}, an overlay file that "
                        f"{patches[owner[path]].name} adds: the hooks belong in a later patch"
                    )
                if path not in scratch.present:
                    scratch.write(path, claims[owner[path]][path])
            if paths:
                scratch.git_apply(patch, ["-R", *[f"--include={p}" for p in paths]])
        for path in scratch.present:
            claims[owner[path]][path] = scratch.read(path)


class Scratch:
    """A folder holding just the kernel files that the series touches, in the state after the
    patches applied so far.
    """

    def __init__(self, folder, pristine):
        self.folder = Path(folder)
        self.pristine = Path(pristine)
        self.present = set()

    def fetch(self, path):
        """Bring a pristine file into the scratch folder unless a patch brought it already."""
        if path in self.present:
            return
        self.present.add(path)
        source = self.pristine / path
        if source.is_file():
            self.write(path, File(source.read_bytes(), os.access(source, os.X_OK)))

    def write(self, path, file):
        """Put a file into the scratch folder."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(0o755 if file.executable else 0o644)
        self.present.add(path)

    def read(self, path):
        """Read a file back; None if a hook deleted it."""
        target = self.folder / path
        if not target.is_file():
            return File(None, False)
        return File(target.read_bytes(), os.access(target, os.X_OK))

    def apply(self, patch, added):
        """Apply one patch: its hooks, then the overlay files that it adds."""
        for path in patch.hooked:
            if path not in self.present and not (self.pristine / path).is_file():
                raise PatchsetError(
                    f"patches/{patch.name}: hooks {path}, which is neither in this kernel nor "
                    "added by an earlier patch"
                )
            self.fetch(path)
        if patch.diff:
            self.git_apply(patch, [])
        for path, file in added.items():
            self.write(path, file)

    def git_apply(self, patch, options):
        """Apply a patch's hooks, or take them back."""
        # Without a ceiling git would find the repository around the scratch folder and skip every
        # file.
        env = dict(
            os.environ, GIT_CEILING_DIRECTORIES=str(self.folder.resolve().parent), LC_ALL="C"
        )
        run = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", *options, "-"],
            cwd=self.folder,
            env=env,
            input=patch.diff,
            capture_output=True,
        )
        if run.returncode:
            back = "-R" in options
            raise PatchsetError(explain(patch, run.stderr.decode("utf-8", "replace"), back))


def explain(patch, stderr, back):
    """Turn git's complaint into one that names the patch file, its line, and the hunk."""
    text = [
        f"patches/{patch.name}: a hook cannot be taken back: the overlay file has other lines there"
        if back
        else f"patches/{patch.name}: a hook does not apply to this kernel"
    ]
    for line in stderr.splitlines():
        failed = re.fullmatch(r"error: patch failed: (.+):(\d+)", line)
        corrupt = re.match(
            r"error: (corrupt patch|patch fragment without header) at (?:<stdin>:|line )?(\d+)",
            line,
        )
        if failed:
            text += find_hunk(patch, failed[1], int(failed[2]), back)
        elif corrupt:
            text.append(
                f"  patches/{patch.name}:{patch.diff_line + int(corrupt[2]) - 1}: {corrupt[1]}"
            )
        elif not line.endswith("patch does not apply"):
            text.append(f"  {line}")
    return "\n".join(text)


def find_hunk(patch, path, line, back):
    """Where in the patch file the hunk stands that git could not place."""
    current = None
    count = 0
    lines = patch.diff.decode("utf-8", "replace").split("\n")
    for index, row in enumerate(lines):
        if row.startswith("diff --git "):
            current = row.rpartition(" b/")[2]
            count = 0
        match = re.match(r"@@ -.* \+(\d+)" if back else r"@@ -(\d+)", row)
        if match:
            count += 1
            if current == path and int(match[1]) == line:
                head = [
                    f"  patches/{patch.name}:{patch.diff_line + index}: "
                    f"hunk {count} of {path}: {row}"
                ]
                return head + [
                    f"  | {r}" for r in lines[index + 1 : index + 8] if r and r[0] in " -+"
                ]
    return [f"  {path}, hunk at line {line}"]


def wanted_files(top, pristine, patches=None, scratch_parent=None, first=None):
    """Every kernel file that differs from pristine once the series (or its first patches) is
    applied: {kernel path: File}.
    """
    if patches is None:
        patches = read_series(top)
    claims = claim(top, pristine, patches)[:first]
    with tempfile.TemporaryDirectory(prefix="sevtree-", dir=scratch_parent) as folder:
        scratch = Scratch(folder, pristine)
        for patch, added in zip(patches, claims):
            scratch.apply(patch, added)
        wanted = {path: scratch.read(path) for path in sorted(scratch.present)}
    if first is None:
        # A hook whose context occurs twice may be taken back here and put in there.
        for path, source in overlay_files(top).items():
            if path in wanted and wanted[path].data != source.read_bytes():
                raise PatchsetError(
                    f"{source.relative_to(top)}: the series ends in another form of it; give the "
                    "hooks into it more context"
                )
    return wanted


def die(error):
    """End a script on an error that the person at the keyboard can mend."""
    for line in str(error).splitlines():
        print(f"error: {line}" if not line.startswith(" ") else line, file=sys.stderr)
    sys.exit(1)
