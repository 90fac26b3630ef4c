"""What code that nobody has read may try. Each attack returns if it came through, and raises if not.

The test has set up what there is to be attacked, and says where in `TARGETS`.
"""

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p


def call(number, *arguments):
    """A system call past all of Python's and the library's."""
    wide = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    value = libc.syscall(ctypes.c_long(number), *wide)
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return value


def forked(work):
    """Does the work in a fork of ours, and says here what came of it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(254)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "in the fork")


# ---- files ---------------------------------------------------------------------------------------


def reads_a_secret():
    assert open(TARGETS["secret"]).read() == "secret"


def reads_the_password_file():
    open("/etc/passwd").read()


def lists_a_directory_outside():
    os.listdir(TARGETS["outside"])


def writes_outside():
    with open(TARGETS["outside"] + "/written", "w") as f:
        f.write("x")


def writes_to_tmp():
    path = f"/var/tmp/sessile-attack-{os.getpid()}"
    open(path, "w").close()
    os.unlink(path)


def cuts_a_file_outside():
    os.truncate(TARGETS["victim_file"], 1)


def makes_a_directory_outside():
    os.mkdir(TARGETS["outside"] + "/made")


def removes_a_file_outside():
    os.unlink(TARGETS["to_remove"])


def renames_a_file_outside():
    os.rename(TARGETS["to_rename"], TARGETS["to_rename"] + ".renamed")


def links_a_secret_into_its_directory():
    os.link(TARGETS["secret"], "linked")
    try:
        open("linked").read()
    finally:
        os.unlink("linked")


def moves_a_secret_into_its_directory():
    os.rename(TARGETS["to_move"], "moved")


def reads_through_a_symbolic_link():
    os.symlink(TARGETS["secret"], "symbolic")
    try:
        open("symbolic").read()
    finally:
        os.unlink("symbolic")


def climbs_out_by_a_descriptor():
    d = os.open(".", os.O_RDONLY)
    os.close(os.open("../" * 20 + TARGETS["secret"].lstrip("/"), os.O_RDONLY, dir_fd=d))


def changes_a_mode_outside():
    os.chmod(TARGETS["victim_file"], 0o600)


def changes_a_mode_by_descriptor():
    fd = os.open(sys.executable, os.O_RDONLY)
    try:
        os.fchmod(fd, os.stat(fd).st_mode & 0o7777)
    finally:
        os.close(fd)


def changes_times_outside():
    os.utime(TARGETS["victim_file"], (0, 0))


def changes_an_owner_outside():
    os.chown(TARGETS["victim_file"], os.getuid(), os.getgid())


def changes_attributes_by_ioctl():
    import fcntl
    fd = os.open("flagged", os.O_RDWR | os.O_CREAT)
    flags = fcntl.ioctl(fd, 0x80086601, bytes(8))
    fcntl.ioctl(fd, 0x40086602, flags)


def leases_a_file():
    import fcntl
    fd = os.open("leased", os.O_RDWR | os.O_CREAT, 0o600)
    os.close(fd)
    fd = os.open("leased", os.O_RDONLY)
    fcntl.fcntl(fd, 1024, 0)
    fcntl.fcntl(fd, 1024, 2)


def watches_a_directory_outside():
    fd = libc.inotify_init()
    if libc.inotify_add_watch(fd, b"/etc", 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")


def writes_to_its_own_interpreter():
    os.close(os.open(os.path.dirname(os.__file__) + "/os.py", os.O_RDWR))


def opens_a_file_by_handle():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call(303, -100, TARGETS["secret"].encode(), handle, ctypes.byref(mount), 0)


def makes_a_device():
    os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3))
    os.unlink("device")


# ---- other processes -----------------------------------------------------------------------------


def reads_the_environment_of_its_parent():
    assert open(f"/proc/{TARGETS['parent']}/environ", "rb").read()


def reads_the_memory_of_its_parent():
    open(f"/proc/{TARGETS['parent']}/mem", "rb").close()


def lists_processes():
    assert any(name.isdigit() for name in os.listdir("/proc"))


def signals_its_parent():
    os.kill(TARGETS["parent"], 0)


def signals_a_stranger():
    os.kill(TARGETS["victim"], 0)


def signals_by_descriptor():
    fd = os.pidfd_open(TARGETS["victim"])
    signal.pidfd_send_signal(fd, 0)


def traces_a_stranger():
    call(101, 16, TARGETS["victim"], 0, 0)  # ptrace, PTRACE_ATTACH
    os.waitpid(TARGETS["victim"], 0x40000000)
    call(101, 17, TARGETS["victim"], 0, 0)


def reads_the_memory_of_a_stranger():
    local = ctypes.create_string_buffer(8)
    here = struct.pack("QQ", ctypes.addressof(local), 8)
    there = struct.pack("QQ", TARGETS["victim_address"], 8)
    call(310, TARGETS["victim"], here, 1, there, 1, 0)


def takes_a_descriptor_of_a_stranger():
    fd = os.pidfd_open(TARGETS["victim"])
    os.close(call(438, fd, 0, 0))


def limits_a_stranger():
    import resource
    resource.prlimit(TARGETS["victim"], resource.RLIMIT_CORE, (0, 0))


def pins_its_parent_to_a_processor():
    os.sched_setaffinity(TARGETS["parent"], os.sched_getaffinity(TARGETS["parent"]))


def schedules_its_parent():
    os.sched_setscheduler(TARGETS["parent"], os.SCHED_OTHER, os.sched_param(0))


def reprioritizes_all_of_its_user():
    # To what it is, so that nobody is harmed.
    os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_PROCESS, 0))


def reprioritizes_its_group():
    os.setpriority(os.PRIO_PGRP, 0, os.getpriority(os.PRIO_PROCESS, 0))


def starts_a_process():
    forked(lambda: None)


def starts_a_process_by_vfork():
    subprocess.run([sys.executable, "-c", ""], check=True)


def runs_a_program():
    if os.system("/bin/true") != 0:
        raise PermissionError(errno.EPERM, "the program did not run")


def runs_a_program_in_its_place():
    # In a fork, for it would be the end of this session.
    forked(lambda: os.execv("/bin/true", ["true"]))


def runs_a_program_of_its_own_making():
    memory = os.memfd_create("program", 0)
    with open("/bin/true", "rb") as f:
        os.write(memory, f.read())
    forked(lambda: os.execve(memory, ["true"], {}))


def makes_nameless_memory():
    os.close(os.memfd_create("nameless", 0))


def becomes_another_user():
    if os.getuid() != 0:
        subprocess.run(["/bin/su", "--version"], check=True, capture_output=True)
    else:
        forked(lambda: os.setuid(65533))


def reaches_inherited_descriptors():
    assert TARGETS["descriptor"] in {int(fd) for fd in os.listdir("/proc/self/fd")}


def uses_an_inherited_descriptor():
    os.fstat(TARGETS["descriptor"])


# ---- network and sockets -------------------------------------------------------------------------


def connects_by_tcp():
    with socket.create_connection(("127.0.0.1", TARGETS["tcp"]), 5) as s:
        assert s.recv(5) == b"hello"


def connects_by_tcp_at_the_first_data():
    with socket.socket() as s:
        s.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", TARGETS["tcp"]))


def connects_by_multipath_tcp():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as s:
        s.connect(("127.0.0.1", TARGETS["tcp"]))


def listens_by_tcp():
    with socket.socket() as s:
        s.listen()


def sends_by_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", TARGETS["udp"]))


def opens_a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def opens_a_netlink_socket():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


def opens_a_vsock_socket():
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


def connects_to_an_abstract_socket():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + TARGETS["abstract"])


def connects_to_a_socket_by_path():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(TARGETS["unix"])


def sends_to_a_socket_by_path_from_a_pair():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.connect(TARGETS["unix_datagram"])
    a.send(b"x")


def sends_to_a_socket_by_path_by_address():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b"x", TARGETS["unix_datagram"])


# ---- the kernel ----------------------------------------------------------------------------------


def queues_work_for_the_kernel():
    os.close(call(425, 4, ctypes.create_string_buffer(240)))


def enters_a_user_name_space():
    # In a child, which asks for itself: `unshare`.
    forked(lambda: call(272, 0x10000000))


def clones_into_a_user_name_space():
    pid = call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clones_by_the_newer_call():
    arguments = struct.pack("8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = call(435, arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def mounts():
    forked(lambda: (call(272, 0x00020000 | (0 if os.getuid() == 0 else 0x10000000)), call(165, b"none", os.getcwd().encode(), b"tmpfs", 0, None)))


def uses_the_kernels_keys():
    call(250, 0, -3, 1)  # keyctl, KEYCTL_GET_KEYRING_ID of the session's keyring


def loads_a_program_into_the_kernel():
    try:
        call(321, 5, bytes(72), 72)  # bpf, BPF_PROG_LOAD
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.E2BIG, errno.EFAULT):
            return  # the kernel has looked at it
        raise


def counts_events():
    attributes = bytearray(128)
    struct.pack_into("IIQ", attributes, 0, 1, 128, 9)  # software, dummy
    struct.pack_into("Q", attributes, 40, 0x60)  # not the kernel's, not the hypervisor's
    os.close(call(298, bytes(attributes), 0, -1, -1, 0))


def handles_faults():
    os.close(call(323, 1))  # userfaultfd, of user space only


def types_into_a_terminal():
    import fcntl
    ours, theirs = os.openpty()
    forked(lambda: (os.setsid(), fcntl.ioctl(theirs, 0x540E, 0), fcntl.ioctl(theirs, 0x5412, b"x")))


def shares_memory_by_key():
    segment = call(29, 0, 4096, 0o1600)
    call(31, segment, 0, 0)


def opens_a_message_queue():
    libc.mq_open.restype = ctypes.c_int
    if libc.mq_open(b"/sessile-attack", 0o100 | 2, 0o600, None) < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    libc.mq_unlink(b"/sessile-attack")


def changes_its_personality():
    before = call(135, 0xFFFFFFFF)
    call(135, before | 0x0040000)
    call(135, before)


def takes_the_x32_interface():
    value = libc.syscall(0x40000000 | 101, 0, 0, 0, 0)
    if value < 0:
        code = ctypes.get_errno()
        if code == errno.EPERM:
            raise OSError(code, "refused")


# ---- leases --------------------------------------------------------------------------------------


def forges_a_lease():
    with open(TARGETS["leases"] + "/forged", "w") as f:
        f.write("{}")


def removes_a_lease():
    assert os.listdir(TARGETS["leases"])
    os.unlink(TARGETS["a_lease"])


def sheds_the_end_of_its_parent():
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    if libc.prctl(1, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def reads_attributes_outside():
    os.listxattr(TARGETS["secret"])


def opens_a_handle_to_a_stranger():
    os.close(os.pidfd_open(TARGETS["victim"]))


def reads_the_clock_of_a_stranger():
    time.clock_gettime((~TARGETS["victim"] << 3) | 2)


def asks_for_the_addresses_of_the_machine():
    import fcntl
    a, b = socket.socketpair()
    with a, b:
        fcntl.ioctl(a, 0x8912, bytes(16))


def takes_an_abstract_name():
    a, b = socket.socketpair()
    with a, b:
        a.bind("\0sessile-attack-%d" % os.getpid())


def sends_a_descriptor():
    import array
    a, b = socket.socketpair()
    with a, b:
        a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])


def watches_many_directories():
    made = []
    try:
        for _ in range(4):
            fd = libc.inotify_init1(0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "inotify_init1")
            made.append(fd)
    finally:
        for fd in made:
            os.close(fd)


# ---- resources -----------------------------------------------------------------------------------


def writes_a_huge_file():
    with open("huge", "wb") as f:
        f.truncate(TARGETS["huge"])
    os.unlink("huge")


def opens_very_many_files():
    opened = []
    try:
        for _ in range(TARGETS["many_files"]):
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in opened:
            os.close(fd)


def starts_very_many_processes():
    started = []
    try:
        for _ in range(TARGETS["many_processes"]):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            started.append(pid)
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
