//! Which system calls a confined session is refused, as two filters for the kernel (seccomp).
//!
//! The list says what is refused, not what is allowed: numerical code makes calls that nobody lists
//! beforehand. A call is on it if it leads around what Landlock keeps (sockets, other processes,
//! name spaces, metadata of files), or opens a large part of the kernel that Python has no use for.
//! What is refused returns an error, which Python raises; nothing is killed.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::Confinement;

/// The filters, to be applied in this order.
pub(super) struct Filters {
    /// Answers "not permitted".
    pub(super) refused: BpfProgram,
    /// Answers "no such call", after which libraries take another way.
    pub(super) unknown: BpfProgram,
    /// Answers "not supported here", after which libraries do without.
    pub(super) unsupported: BpfProgram,
}

/// Refused whatever the arguments.
const NEVER: &[libc::c_long] = &[
    // Work queued for the kernel goes past every filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other name spaces, other roots, mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Memory and descriptors of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Keys, programs in the kernel, counters, faults.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // What others do in a directory, which rules on paths do not cover; and each user has few.
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_lookup_dcookie,
    // Files by number, and files that no rule on paths covers.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // Memory and queues that all processes of a user share.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    SYS_QUOTACTL_FD,
    SYS_STATMOUNT,
    SYS_LISTMOUNT,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[libc::c_long] = &[
    libc::SYS_inotify_init,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS__sysctl,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[libc::c_long] = &[];

/// The bit that marks a call of the x32 interface, which has numbers of its own for the same calls.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// Modes, owners, times and attributes of files.
const METADATA: &[libc::c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
];

#[cfg(target_arch = "x86_64")]
const METADATA_HERE: &[libc::c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const METADATA_HERE: &[libc::c_long] = &[];

/// Attributes of files with names of their own, as they are read: of files outside as well. Libraries take
/// "not supported" for an answer.
const READ_ATTRIBUTES: &[libc::c_long] = &[
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    SYS_GETXATTRAT,
    SYS_LISTXATTRAT,
    SYS_FILE_GETATTR,
];

// Newer than the numbers that `libc` knows; they are the same on every architecture.
const SYS_QUOTACTL_FD: libc::c_long = 443;
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_FILE_GETATTR: libc::c_long = 468;
const SYS_REMOVEXATTRAT: libc::c_long = 466;
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
const SYS_FILE_SETATTR: libc::c_long = 469;

/// Attributes of files once more, by `ioctl`: flags (two sizes), extended ones, versions, fs-verity.
const ATTRIBUTES: [u64; 6] =
    [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4008_7602, 0x4004_7602, 0x4080_6685];

/// Asks a socket for a handle to its peer's process.
const SO_PEERPIDFD: u64 = 77;

/// New name spaces, as flags of `clone`.
const NAME_SPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The calls that are refused, each with the arguments for which it is.
struct Table(BTreeMap<i64, Vec<SeccompRule>>);

impl Table {
    fn always(&mut self, call: libc::c_long) {
        self.0.insert(call, Vec::new());
    }

    /// Refuses a call if all conditions hold. Several of these for one call: if any does.
    fn when(&mut self, call: libc::c_long, conditions: Vec<SeccompCondition>) {
        let rule = SeccompRule::new(conditions).expect("there is a condition");
        match self.0.get_mut(&call) {
            Some(rules) if rules.is_empty() => {} // it is refused whatever the arguments
            Some(rules) => rules.push(rule),
            None => _ = self.0.insert(call, vec![rule]),
        }
    }

    /// Makes a filter of it: this error for what is in the table, and nothing for the rest.
    fn filter(mut self, error: i32) -> Result<BpfProgram, String> {
        #[cfg(target_arch = "x86_64")]
        {
            let again: Vec<_> =
                self.0.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
            self.0.extend(again);
            // Those that have a number of their own there.
            self.0.extend((512..=547).map(|call| (call | X32, Vec::new())));
        }
        let arch = std::env::consts::ARCH.try_into().map_err(|_| {
            format!("system calls cannot be filtered on {}", std::env::consts::ARCH)
        })?;
        SeccompFilter::new(
            self.0,
            SeccompAction::Allow,
            SeccompAction::Errno(error.cast_unsigned()),
            arch,
        )
        .and_then(BpfProgram::try_from)
        .map_err(|error| format!("the filter of system calls cannot be built: {error}"))
    }
}

fn is(argument: u8, op: Op, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, Len::Dword, op, value).expect("there are six arguments")
}

/// The filters for this confinement; `unix_sockets` says that Landlock keeps sockets by path.
pub(super) fn filters(asked: &Confinement, unix_sockets: bool) -> Result<Filters, String> {
    let mut refused = Table(BTreeMap::new());
    for call in NEVER.iter().chain(NEVER_HERE).chain(&[SYS_OPEN_TREE_ATTR]) {
        refused.always(*call);
    }
    if !asked.metadata {
        for call in METADATA.iter().chain(METADATA_HERE) {
            refused.always(*call);
        }
        for request in ATTRIBUTES {
            refused.when(libc::SYS_ioctl, vec![is(1, Op::Eq, request)]);
        }
    }
    processes(&mut refused, asked);
    sockets(&mut refused, asked, unix_sockets);
    others(&mut refused);

    let mut unknown = Table(BTreeMap::new());
    // Its flags are behind a pointer, where no filter can look. Without it, `clone` is taken.
    unknown.always(libc::SYS_clone3);
    let mut unsupported = Table(BTreeMap::new());
    READ_ATTRIBUTES.iter().for_each(|call| unsupported.always(*call));
    Ok(Filters {
        refused: refused.filter(libc::EPERM)?,
        unknown: unknown.filter(libc::ENOSYS)?,
        unsupported: unsupported.filter(libc::EOPNOTSUPP)?,
    })
}

fn processes(refused: &mut Table, asked: &Confinement) {
    for bit in (0..32).map(|bit| 1_u64 << bit).filter(|bit| NAME_SPACES as u64 & bit != 0) {
        refused.when(libc::SYS_clone, vec![is(0, Op::MaskedEq(bit), bit)]);
    }
    // A program without a path is one that no rule on paths covers.
    let nameless = libc::AT_EMPTY_PATH as u64;
    refused.when(libc::SYS_execveat, vec![is(4, Op::MaskedEq(nameless), nameless)]);
    if asked.processes == 0 {
        // A handle to a process tells of it, whoever's it is.
        refused.always(libc::SYS_pidfd_open);
        #[cfg(target_arch = "x86_64")]
        for call in [libc::SYS_fork, libc::SYS_vfork] {
            refused.always(call);
        }
        // A thread is a `clone` too, with this flag.
        refused.when(libc::SYS_clone, vec![is(0, Op::MaskedEq(libc::CLONE_THREAD as u64), 0)]);
    }
}

fn sockets(refused: &mut Table, asked: &Confinement, unix_sockets: bool) {
    // Made in pairs, they reach nobody else; but a datagram socket can be connected anew.
    for kind in (0..16).filter(|&kind| kind != libc::SOCK_STREAM as u64) {
        refused.when(libc::SYS_socketpair, vec![is(1, Op::MaskedEq(0xf), kind)]);
    }
    refused.when(libc::SYS_socketpair, vec![is(0, Op::Ne, libc::AF_UNIX as u64)]);
    // A handle to the process at the other end.
    let peer = vec![is(1, Op::Eq, libc::SOL_SOCKET as u64), is(2, Op::Eq, SO_PEERPIDFD)];
    refused.when(libc::SYS_getsockopt, peer);
    // Addresses of the machine, by whatever socket there is.
    refused.when(libc::SYS_ioctl, vec![is(1, Op::MaskedEq(0xffff_ff00), 0x8900)]);
    let tcp = !asked.connect_tcp.is_empty() || !asked.bind_tcp.is_empty();
    let unix = unix_sockets && !asked.unix_sockets.is_empty();
    let families = [(tcp, libc::AF_INET), (tcp, libc::AF_INET6), (unix, libc::AF_UNIX)];
    let allowed: Vec<_> = families.iter().filter(|(open, _)| *open).map(|(_, one)| *one).collect();
    if allowed.is_empty() {
        refused.always(libc::SYS_socket);
        // Descriptors under way count for the user, not for the session.
        refused.always(libc::SYS_sendmsg);
        refused.always(libc::SYS_sendmmsg);
    } else {
        // Any other family.
        let none = allowed.iter().map(|&family| is(0, Op::Ne, family as u64)).collect();
        refused.when(libc::SYS_socket, none);
        for internet in [libc::AF_INET, libc::AF_INET6] {
            let internet = || is(0, Op::Eq, internet as u64);
            // No UDP, nothing raw; and no other protocol that carries a stream past Landlock.
            for kind in (0..16).filter(|&kind| kind != libc::SOCK_STREAM as u64) {
                refused.when(libc::SYS_socket, vec![internet(), is(1, Op::MaskedEq(0xf), kind)]);
            }
            let tcp = libc::IPPROTO_TCP as u64;
            refused.when(libc::SYS_socket, vec![internet(), is(2, Op::Ne, 0), is(2, Op::Ne, tcp)]);
        }
    }
    if asked.bind_tcp.is_empty() {
        // Without `bind` the system would choose a port; and an abstract name would be taken from others.
        refused.always(libc::SYS_listen);
        refused.always(libc::SYS_bind);
    }
    // A connection that is opened by its first data.
    let fast_open = libc::MSG_FASTOPEN as u64;
    for (call, argument) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)]
    {
        refused.when(call, vec![is(argument, Op::MaskedEq(fast_open), fast_open)]);
    }
}

fn others(refused: &mut Table) {
    // Text put into a terminal as if somebody had typed it.
    for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD] {
        refused.when(libc::SYS_ioctl, vec![is(1, Op::Eq, request)]);
    }
    // Who writes to a file that is only read here would have to wait for us.
    refused.when(libc::SYS_fcntl, vec![is(1, Op::Eq, libc::F_SETLEASE as u64)]);
    refused.when(libc::SYS_fcntl, vec![is(1, Op::Eq, libc::F_NOTIFY as u64)]);
    // Limits, processors, priorities of other processes: only one's own, which is 0.
    for call in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ] {
        refused.when(call, vec![is(0, Op::Ne, 0)]);
    }
    // Nor those of a group, or of all that a user has, for which 0 stands as well.
    for (call, process) in
        [(libc::SYS_setpriority, libc::PRIO_PROCESS as u64), (libc::SYS_ioprio_set, 1)]
    {
        refused.when(call, vec![is(1, Op::Ne, 0)]);
        refused.when(call, vec![is(0, Op::Ne, process)]);
    }
    // It ends with who has started it, and cannot shed that.
    refused.when(libc::SYS_prctl, vec![is(0, Op::Eq, libc::PR_SET_PDEATHSIG as u64)]);
    // Clocks of other processes, which are negative numbers; but not a process's and a thread's own.
    for call in [libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_timer_create] {
        let others = [0xffff_fffa, 0xffff_fffe].map(|own| is(0, Op::Ne, own));
        let negative = is(0, Op::MaskedEq(0x8000_0000), 0x8000_0000);
        refused.when(call, [negative].into_iter().chain(others).collect());
    }
    // Only to be asked, which takes all ones.
    refused.when(libc::SYS_personality, vec![is(0, Op::Ne, 0xffff_ffff)]);
}
