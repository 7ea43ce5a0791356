# SPDX-License-Identifier: GPL-2.0
"""Tests of the series' format and of tree assembly, on a kernel of three files."""

import contextlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import patchset  # noqa: E402


def load(name):
    """Import one of the scripts, which have no .py in their names."""
    path = Path(__file__).resolve().parent / name
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


ASSEMBLE = load("assemble")
SERIES = load("series")

HOOK = """diff --git a/arch/x86/Makefile b/arch/x86/Makefile
--- a/arch/x86/Makefile
+++ b/arch/x86/Makefile
@@ -1,3 +1,4 @@
 one
 two
+hooked
 three
"""

SECOND_HOOK = """diff --git a/arch/x86/Makefile b/arch/x86/Makefile
--- a/arch/x86/Makefile
+++ b/arch/x86/Makefile
@@ -1,4 +1,5 @@
 one
 two
 hooked
+again
 three
"""


GROW_HOOK = """diff --git a/arch/x86/coco/sev/a.rs b/arch/x86/coco/sev/a.rs
--- a/arch/x86/coco/sev/a.rs
+++ b/arch/x86/coco/sev/a.rs
@@ -1,3 +1,4 @@
 // a
 mod one;
-// There is no other yet.
+mod two;
+mod three;
"""


class PatchsetTest(unittest.TestCase):
    """Each test starts from a project with two patches that assembles."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = Path(folder.name, "top")
        self.pristine = Path(folder.name, "build/pristine")
        self.tree = Path(folder.name, "build/linux")
        self.put(self.pristine / "Makefile", "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n")
        self.put(self.pristine / "arch/x86/Makefile", "one\ntwo\nthree\n")
        self.put(self.pristine / "Documentation/arch/index.rst", "index\n")
        self.put(self.top / "Kconfig", "config A\n")
        self.put(self.top / "arch-x86-sev/coco/sev/a.rs", "// a\n")
        self.put(self.top / "arch-x86-sev/coco/sev/deep/b.rs", "// b\n")
        self.put(self.top / "Documentation/guide.md", "of the project only\n")
        self.put(self.top / "patches/series", "# comment\n0001-a.patch\n0002-b.patch # another\n")
        self.patch(
            "0001-a.patch", "add arch/x86/coco/sev/Kconfig\nadd arch/x86/coco/sev/a.rs\n\n" + HOOK
        )
        self.patch("0002-b.patch", "add arch/x86/coco/sev/deep/\n\n" + SECOND_HOOK)

    @staticmethod
    def put(path, text):
        """Write a file and the folders above it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def patch(self, name, content):
        """Write a patch file with this after its '---'."""
        self.put(
            self.top / "patches" / name, f"x86/sev: Subject of {name}\n\nBody.\n\n---\n{content}"
        )

    def update(self):
        """Assemble; returns {path: what was done}."""
        changed, _ = ASSEMBLE.update(self.top, self.pristine, self.tree, False)
        return {path: what for what, path in changed}

    def assert_error(self, *words):
        """Assembly has to fail with a message that has all these words."""
        with self.assertRaises(patchset.PatchsetError) as caught:
            self.update()
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_assembles(self):
        self.assertEqual(len(self.update()), 4)
        self.assertEqual(
            (self.tree / "arch/x86/Makefile").read_text(), "one\ntwo\nhooked\nagain\nthree\n"
        )
        self.assertEqual((self.tree / "arch/x86/coco/sev/deep/b.rs").read_text(), "// b\n")
        self.assertFalse((self.tree / "Documentation/guide.md").exists())
        self.assertEqual((self.pristine / "arch/x86/Makefile").read_text(), "one\ntwo\nthree\n")

    def test_touches_only_what_changed(self):
        self.update()
        times = {p: p.stat().st_mtime_ns for p in self.tree.rglob("*") if p.is_file()}
        self.assertEqual(self.update(), {})
        self.put(self.top / "arch-x86-sev/coco/sev/a.rs", "// new\n")
        self.assertEqual(self.update(), {"arch/x86/coco/sev/a.rs": "wrote"})
        changed = [p.name for p, t in times.items() if p.stat().st_mtime_ns != t]
        self.assertEqual(changed, ["a.rs"])

    def test_takes_out_what_no_longer_belongs(self):
        self.update()
        os.unlink(self.top / "arch-x86-sev/coco/sev/deep/b.rs")
        os.unlink(self.top / "patches/0002-b.patch")
        self.put(self.top / "patches/series", "0001-a.patch\n")
        self.patch("0001-a.patch", "add arch/x86/coco/sev/\n")
        old = (self.pristine / "arch/x86/Makefile").stat().st_mtime_ns
        self.assertEqual(
            self.update(),
            {"arch/x86/Makefile": "restored", "arch/x86/coco/sev/deep/b.rs": "removed"},
        )
        self.assertFalse((self.tree / "arch/x86/coco/sev/deep").exists())
        # Objects built from the hooked file must look older than the restored one.
        self.assertGreater((self.tree / "arch/x86/Makefile").stat().st_mtime_ns, old)

    def test_keeps_edits_in_the_tree(self):
        self.update()
        self.put(self.tree / "arch/x86/coco/sev/a.rs", "// precious\n")
        self.assertEqual(self.update(), {"arch/x86/coco/sev/a.rs": "wrote"})
        kept = self.tree.with_name("linux.edits") / "arch/x86/coco/sev/a.rs"
        self.assertEqual(kept.read_text(), "// precious\n")

    def test_hook_that_does_not_apply(self):
        self.patch(
            "0002-b.patch", "add arch/x86/coco/sev/deep/\n\n" + SECOND_HOOK.replace("two", "2")
        )
        self.assert_error("patches/0002-b.patch:11: hunk 1 of arch/x86/Makefile")

    def grow(self):
        """Let the second patch hook an overlay file of the first one."""
        self.put(self.top / "arch-x86-sev/coco/sev/a.rs", "// a\nmod one;\nmod two;\nmod three;\n")
        self.patch(
            "0002-b.patch", "add arch/x86/coco/sev/deep/\n\n" + SECOND_HOOK + GROW_HOOK
        )

    def test_overlay_file_grows(self):
        self.grow()
        path = "arch/x86/coco/sev/a.rs"
        final = b"// a\nmod one;\nmod two;\nmod three;\n"
        early = patchset.wanted_files(self.top, self.pristine, first=1)
        self.assertEqual(early[path].data, b"// a\nmod one;\n// There is no other yet.\n")
        self.assertEqual(patchset.wanted_files(self.top, self.pristine)[path].data, final)
        output = self.top / "out"
        SERIES.make(self.top, self.pristine, output, ("A B", "a@b.c"), [])
        mails = [mail.read_text() for mail in sorted(output.iterdir())]
        self.assertIn("+// There is no other yet.\n", mails[0])
        self.assertNotIn("+mod two;\n", mails[0])
        self.assertIn("-// There is no other yet.\n+mod two;\n+mod three;\n", mails[1])

    def test_overlay_file_with_other_lines_than_its_hook(self):
        self.grow()
        self.put(self.top / "arch-x86-sev/coco/sev/a.rs", "// a\nmod one;\nmod two;\nmod 3;\n")
        self.assert_error("patches/0002-b.patch", "taken back", "hunk 1 of arch/x86/coco/sev/a.rs")

    def test_hook_of_an_overlay_file_in_its_own_patch(self):
        self.grow()
        self.patch("0001-a.patch", "add arch/x86/coco/sev/Kconfig\n\n" + HOOK)
        self.patch(
            "0002-b.patch",
            "add arch/x86/coco/sev/a.rs\nadd arch/x86/coco/sev/deep/\n\n" + GROW_HOOK,
        )
        self.assert_error("0002-b.patch: hooks arch/x86/coco/sev/a.rs", "in a later patch")

    def test_hook_that_fits_twice(self):
        self.put(self.top / "arch-x86-sev/coco/sev/a.rs", "c\nnew\nc\nc\nc\n")
        hook = GROW_HOOK.partition("@@")[0] + "@@ -2,2 +3,3 @@\n c\n+new\n c\n"
        self.patch("0002-b.patch", "add arch/x86/coco/sev/deep/\n\n" + SECOND_HOOK + hook)
        self.assert_error("arch-x86-sev/coco/sev/a.rs", "give the hooks into it more context")

    def test_overlay_errors(self):
        self.put(self.top / "selftests/sev/x.c", "")
        self.assert_error("selftests/sev/x.c", "no patch adds it")
        self.patch(
            "0001-a.patch",
            "add arch/x86/coco/sev/\nadd tools/testing/selftests/sev/x.c\nadd rust/no.rs\n\n"
            + HOOK,
        )
        self.assert_error(
            "added by both 0001-a.patch and 0002-b.patch", "'add rust/no.rs' names nothing"
        )

    def test_overlay_must_not_replace_kernel_files(self):
        self.put(self.top / "Documentation/arch/index.rst", "mine\n")
        self.assert_error("Documentation/arch/index.rst", "no patch adds it")
        self.patch(
            "0002-b.patch", "add arch/x86/coco/sev/deep/\nadd Documentation/arch/index.rst\n"
        )
        self.assert_error("the kernel has Documentation/arch/index.rst already")

    def test_hooks_change_existing_files_only(self):
        new = HOOK.replace("--- a/arch/x86/Makefile", "new file mode 100644\n--- /dev/null")
        self.patch("0001-a.patch", new)
        self.assert_error("hooks change existing files")
        self.patch(
            "0001-a.patch",
            "add arch/x86/coco/sev/Kconfig\nadd arch/x86/coco/sev/a.rs\n\n"
            + HOOK.replace("arch/x86/Makefile", "arch/x86/Nothing"),
        )
        self.assert_error("hooks arch/x86/Nothing", "neither in this kernel nor")

    def test_series_and_patch_files_match(self):
        self.put(self.top / "patches/0003-c.patch", "x")
        self.assert_error("patches/0003-c.patch is not named")
        self.put(self.top / "patches/series", "0001-a.patch\n0009-z.patch\n")
        self.assert_error("patches/series:2", "no file patches/0009-z.patch")
        self.put(self.top / "patches/0001-a.patch", "no separator\n")
        self.put(self.top / "patches/series", "0001-a.patch\n")
        self.assert_error("0001-a.patch: no line '---'")
        self.put(self.top / "patches/0001-a.patch", "x86/sev: A\n\nRaise\n#VC.\n---\n")
        self.assert_error("patches/0001-a.patch:4: git takes the line for a comment")

    def test_mails_give_the_same_tree(self):
        output = self.top / "out"
        self.put(self.top / "patches/0000-cover-letter", "The cover\n\nBlurb.\n")
        self.patch(
            "0001-a.patch", "add arch/x86/coco/sev/Kconfig\nadd arch/x86/coco/sev/a.rs\n\n" + HOOK
        )
        count = SERIES.make(
            self.top, self.pristine, output, ("A B", "a@b.c"), ["Tested-by: C <c@d.e>"]
        )
        self.assertEqual(count, 2)
        mails = sorted(output.iterdir())
        self.assertEqual(len(mails), 3)
        self.assertIn("Subject: [PATCH 0/2] The cover", mails[0].read_text())
        self.assertIn("Blurb.", mails[0].read_text())
        self.assertIn("Body.\n\nTested-by: C <c@d.e>\n---", mails[1].read_text())

    def test_url_goes_into_the_cover_letter(self):
        output = self.top / "out"
        self.put(self.top / "patches/0000-cover-letter", "The cover\n\nOne.\n\n@URL@\n\nTwo.\n")
        for url, wanted in (
            ("https://a.b/c", "\nOne.\n\nLink: https://a.b/c\n\nTwo.\n"),
            ("", "\nOne.\n\nTwo.\n"),
        ):
            SERIES.make(self.top, self.pristine, output, ("A B", "a@b.c"), [], url=url)
            self.assertIn(wanted, sorted(output.iterdir())[0].read_text())
        self.put(self.top / "patches/0000-cover-letter", "The cover\n\nOne.\n")
        with self.assertRaises(patchset.PatchsetError):
            SERIES.make(self.top, self.pristine, output, ("A B", "a@b.c"), [], url="https://a.b/c")

    def with_maintainers(self):
        """Let the second patch add an entry to MAINTAINERS."""
        self.put(self.pristine / "MAINTAINERS", "A\nM:\ta\n\nZ\nM:\tz\n")
        hook = (
            "diff --git a/MAINTAINERS b/MAINTAINERS\n--- a/MAINTAINERS\n+++ b/MAINTAINERS\n"
            f"@@ -1,5 +1,8 @@\n A\n M:\ta\n \n+{SERIES.ENTRY}\n+F:\tx/\n+\n Z\n M:\tz\n"
        )
        self.patch("0002-b.patch", "add arch/x86/coco/sev/deep/\n\n" + SECOND_HOOK + hook)

    def test_submitter_is_maintainer(self):
        self.with_maintainers()
        output = self.top / "out"
        for maintainer in (True, False):
            SERIES.make(self.top, self.pristine, output, ("A B", "a@b.c"), [], maintainer)
            mail = sorted(output.iterdir())[-1].read_text()
            self.assertIn(f"+{SERIES.ENTRY}\n", mail)
            self.assertEqual("+M:\tA B <a@b.c>\n" in mail, maintainer)

    def test_maintainer_needs_an_entry(self):
        self.put(self.pristine / "MAINTAINERS", "A\nM:\ta\n\nZ\nM:\tz\n")
        with self.assertRaises(patchset.PatchsetError):
            SERIES.make(self.top, self.pristine, self.top / "out", ("A B", "a@b.c"), [], True)

    def test_sign_off_is_the_senders(self):
        mine = "Signed-off-by: A B <a@b.c>"
        other = "Signed-off-by: C <c@d.e>"
        author = ("A B", "a@b.c")
        self.assertTrue(SERIES.check_trailers([other, mine], author))
        self.assertFalse(SERIES.check_trailers(["Tested-by: C <c@d.e>"], author))
        for wrong in ([mine, other], [other], ["nonsense"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as text:
                SERIES.check_trailers(wrong, author)
            self.assertRegex(text.getvalue(), "signs it off last|no trailer")

    def test_mail_check_sees_a_difference(self):
        output = self.top / "out"
        SERIES.make(self.top, self.pristine, output, ("A B", "a@b.c"), [])
        wanted = patchset.wanted_files(self.top, self.pristine)
        wanted["arch/x86/coco/sev/a.rs"] = patchset.File(b"// other\n", False)
        touched = [p for p in wanted if (self.pristine / p).is_file()]
        with self.assertRaisesRegex(patchset.PatchsetError, "coco/sev/a.rs"):
            SERIES.check(
                self.top / "check",
                ("A B", "a@b.c"),
                self.pristine,
                touched,
                sorted(output.iterdir()),
                wanted,
            )


if __name__ == "__main__":
    unittest.main()
