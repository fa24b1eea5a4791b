"""An initramfs as the kernel wants it (cpio, newc, gzip): busybox, kernel modules, some files."""

import glob
import gzip
import os

APPLETS = """sh init mount umount mkdir insmod ifconfig route nc kill cat echo ls sleep free ps date
reboot poweroff sync grep head cut df dmesg logger pidof""".split()
DIRECTORIES = "bin sbin etc dev proc sys tmp run var var/lib usr usr/sbin lib lib/modules".split()


class Archive:
    def __init__(self):
        self.bytes = bytearray()
        self.inode = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self.inode += 1
        name = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        header = "070701" + "".join(f"{field:08x}" for field in fields)
        for part in (header.encode() + name, data):
            self.bytes += part
            self.bytes += b"\0" * (-len(self.bytes) % 4)

    def file(self, name, path, mode=None):
        with open(path, "rb") as source:
            self.add(name, 0o100000 | (mode or os.stat(path).st_mode & 0o777), source.read())


def build(out, busybox, module_directory, modules, files, texts):
    """`files`: path inside → path here. `texts`: path inside → content."""
    archive = Archive()
    for directory in DIRECTORIES:
        archive.add(directory, 0o40755)
    archive.add("dev/console", 0o20600, device=(5, 1))
    archive.add("dev/null", 0o20666, device=(1, 3))
    archive.file("bin/busybox", busybox, 0o755)
    for applet in APPLETS:
        archive.add("bin/" + applet, 0o120777, b"/bin/busybox")
    for init in ("init", "sbin/init"):
        archive.add(init, 0o120777, b"/bin/busybox")
    for module in modules:
        found = glob.glob(f"{module_directory}/**/{module}.ko*", recursive=True)
        if not found:
            raise SystemExit(f"no kernel module {module}")
        archive.file(f"lib/modules/{module}.ko", found[0], 0o644)
    archive.add("lib/modules/order", 0o100644, ("\n".join(modules) + "\n").encode())
    for name, path in files.items():
        archive.file(name, path)
    for name, text in texts.items():
        archive.add(name, 0o100644, text.encode())
    archive.add("TRAILER!!!", 0)
    with open(out, "wb") as target:
        target.write(gzip.compress(bytes(archive.bytes), 6))
