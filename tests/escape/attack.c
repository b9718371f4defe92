/* Attempts to get out of a container, one per word on the command line. Each says one line per attempt, "NAME ok" or
 * "NAME ERRNO": the tests know which must be which, and run some of them outside too, where they succeed. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *name, long result) {
    if (result >= 0) printf("%s ok\n", name);
    else printf("%s %s\n", name, strerrorname_np(errno));
    fflush(stdout);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* flip A B SECONDS: exchange two names as fast as possible. */
static int flip(char **a) {
    for (double end = now() + atof(a[2]); now() < end;)
        for (int i = 0; i < 100; i++)
            if (syscall(SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], 2) < 0) { perror("renameat2"); return 1; }
    return 0;
}

static int look(const char *pid, const char *what, unsigned long long inode) {
    char path[64];
    struct stat info;
    snprintf(path, sizeof path, "/proc/%s/%s", pid, what);
    return stat(path, &info) == 0 && info.st_ino == inode;
}

/* peek INODE SECONDS: what of a process whose program is file INODE can be got at, seen from here. */
static int peek(char **a) {
    unsigned long long inode = strtoull(a[0], 0, 10);
    long rounds = 0, seen = 0;
    int exe = 0, memory = 0, traced = 0, others = 0;
    char path[64], buffer[64];
    for (double end = now() + atof(a[1]); now() < end; rounds++) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; (entry = readdir(proc));) {
            int pid = atoi(entry->d_name);
            if (pid <= 1 || pid == getpid()) continue;
            seen++;
            if (!look(entry->d_name, "exe", inode)) continue;
            exe++;
            struct iovec here = {buffer, 8}, there = {(void *)0x400000, 8};
            if (process_vm_readv(pid, &here, 1, &there, 1, 0) == 8) memory++;
            snprintf(path, sizeof path, "/proc/%d/environ", pid);
            int fd = open(path, O_RDONLY);
            if (fd >= 0 && read(fd, buffer, 1) == 1) others++;
            if (fd >= 0) close(fd);
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) { traced++; ptrace(PTRACE_DETACH, pid, 0, 0); }
        }
        closedir(proc);
    }
    printf("rounds %ld seen %ld exe %d memory %d environ %d traced %d\n", rounds, seen, exe, memory, others, traced);
    return 0;
}

/* devices: make and open device nodes in the working directory. */
static int devices(char **a) {
    struct { const char *name; mode_t kind; int major, minor; } nodes[] = {
        {"mem", S_IFCHR, 1, 1}, {"kmsg", S_IFCHR, 1, 11}, {"sda", S_IFBLK, 8, 0}, {"vda", S_IFBLK, 254, 0},
        {"null", S_IFCHR, 1, 3}, {"loop0", S_IFBLK, 7, 0}, {"fuse", S_IFCHR, 10, 229},
    };
    for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++)
        say(nodes[i].name, mknod(nodes[i].name, nodes[i].kind | 0666, makedev(nodes[i].major, nodes[i].minor)));
    return 0;
}

/* keys SERIAL: the session keyring's number, the caller's key by search and by its serial. */
static int keys(char **a) {
    char data[64];
    long ring = syscall(SYS_keyctl, 0, -3, 0);
    if (ring < 0) { say("keyctl", ring); return 0; }
    printf("session %ld\n", ring);
    say("search", syscall(SYS_keyctl, 10, -3, "user", "rl-secret", 0));
    say("read", syscall(SYS_keyctl, 11, atol(a[0]), data, sizeof data));
    return 0;
}

/* secret: make the caller's key, print its serial, become what follows. */
static int secret(char **a) {
    syscall(SYS_keyctl, 1, 0);
    long key = syscall(SYS_add_key, "user", "rl-secret", "s3cret", 6L, -3);
    if (key < 0) { perror("add_key"); return 1; }
    char serial[32];
    snprintf(serial, sizeof serial, "%ld", key);
    for (int i = 0; a[i]; i++)
        if (!strcmp(a[i], "SERIAL")) a[i] = serial;
    execvp(a[0], a);
    return 127;
}

/* abstract NAME: connect to an abstract socket. */
static int abstract(char **a) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path + 1, a[0]);
    say("connect", connect(fd, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a[0])));
    return 0;
}

/* grab PID: everything one process can do to another. */
static int grab(char **a) {
    int pid = atoi(a[0]);
    char path[64], buffer[8];
    const char *files[] = {"mem", "environ", "maps", "root/etc/shadow", "root/etc/passwd", "cwd", "exe", "fd/0"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        say(files[i], open(path, O_RDONLY | O_NONBLOCK));
    }
    unsigned long address = 0x400000;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    if (maps && fscanf(maps, "%lx", &address) != 1) address = 0;
    struct iovec here = {buffer, 8}, there = {(void *)address, 8};
    say("process_vm_readv", process_vm_readv(pid, &here, 1, &there, 1, 0));
    say("ptrace", ptrace(PTRACE_SEIZE, pid, 0, 0));
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    say("pidfd_open", pidfd);
    say("pidfd_getfd", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    say("setns", setns(pidfd, CLONE_NEWNS));
    say("signal", kill(pid, 0));
    return 0;
}

static void ask(const char *name, long number, long x, long y, long z) {
    pid_t child = fork();                       /* a filter may kill */
    if (child == 0) { say(name, syscall(number, x, y, z, 0, 0)); _exit(0); }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) printf("%s signal%d\n", name, WTERMSIG(status)), fflush(stdout);
}

#ifdef __x86_64__
static void ask32(const char *name, int number, int x, int y) {
    pid_t child = fork();
    if (child == 0) {
        int result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(x), "c"(y), "d"(0), "S"(0), "D"(0) : "memory");
        errno = -result;
        say(name, result);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) printf("%s signal%d\n", name, WTERMSIG(status)), fflush(stdout);
}
#endif

/* syscalls: calls that only the host's administrator, or nobody, should make. Harmless arguments. */
static int syscalls(char **a) {
    static char zeros[256];
    ask("io_uring_setup", SYS_io_uring_setup, 1, (long)zeros, 0);
    ask("userfaultfd", SYS_userfaultfd, 0, 0, 0);
    ask("bpf", SYS_bpf, 0, (long)zeros, 0);
    ask("perf_event_open", SYS_perf_event_open, (long)zeros, 0, -1);
    ask("keyctl", SYS_keyctl, 0, -3, 0);
    ask("add_key", SYS_add_key, (long)"user", (long)"x", (long)"y");
    ask("request_key", SYS_request_key, (long)"user", (long)"x", 0);
    ask("kexec_load", SYS_kexec_load, 0, 0, 0);
    ask("init_module", SYS_init_module, (long)zeros, 0, (long)zeros);
    ask("finit_module", SYS_finit_module, -1, (long)zeros, 0);
    ask("delete_module", SYS_delete_module, (long)"no-such-module", 0, 0);
    ask("open_by_handle_at", SYS_open_by_handle_at, -1, (long)zeros, 0);
    ask("settimeofday", SYS_settimeofday, (long)zeros, 0, 0);
    ask("swapon", SYS_swapon, (long)"/dev/zero", 0, 0);
    ask("acct", SYS_acct, 0, 0, 0);
    ask("syslog", SYS_syslog, 3, (long)zeros, 10);
    ask("quotactl", SYS_quotactl, 0x800001 << 8, (long)"/dev/zero", 0);
    ask("move_pages", SYS_move_pages, 1, 0, 0);
    ask("nfsservctl", 180, 0, 0, 0);
    ask("lookup_dcookie", 212, 0, 0, 0);
#ifdef __x86_64__
    ask("iopl", SYS_iopl, 3, 0, 0);
    ask("ioperm", SYS_ioperm, 0, 1, 1);
    ask32("bpf-32bit", 357, 0, (int)0);
    ask32("keyctl-32bit", 288, 0, -3);
    ask32("perf_event_open-32bit", 336, 0, 0);
    ask32("getpid-32bit", 20, 0, 0);
    ask("bpf-x32", 0x40000000 | 321, 0, 0, 0);
    ask("keyctl-x32", 0x40000000 | 250, 0, -3, 0);
#endif
    return 0;
}

/* mounts: undo or go round what hides and protects. In a directory of its own. */
static int mounts(char **a) {
    int fd;
    mkdir("/tmp/m", 0755);
    say("mount tmpfs", mount("x", "/tmp/m", "tmpfs", 0, 0));
    say("mount proc", mount("proc", "/tmp/m", "proc", 0, 0));
    say("mount sysfs", mount("sysfs", "/tmp/m", "sysfs", 0, 0));
    say("mount cgroup", mount("cgroup2", "/tmp/m", "cgroup2", 0, 0));
    say("mount devtmpfs", mount("devtmpfs", "/tmp/m", "devtmpfs", 0, 0));
    say("mount debugfs", mount("debugfs", "/tmp/m", "debugfs", 0, 0));
    say("mount binfmt_misc", mount("binfmt_misc", "/tmp/m", "binfmt_misc", 0, 0));
    say("mount block", mount("/dev/vda", "/tmp/m", "ext4", 0, 0));
    say("remount /proc/sys", mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0));
    say("remount /sys", mount(0, "/sys", 0, MS_REMOUNT | MS_BIND, 0));
    say("remount read-only", mount(0, "/ro", 0, MS_REMOUNT | MS_BIND, 0));
    say("umount /proc/kcore", umount2("/proc/kcore", MNT_DETACH));
    say("umount /proc/sys", umount2("/proc/sys", MNT_DETACH));
    say("umount /sys/firmware", umount2("/sys/firmware", MNT_DETACH));
    say("umount /proc", umount2("/proc", MNT_DETACH));
    say("bind /proc", mount("/proc", "/tmp/m", 0, MS_BIND, 0));
    say("read kcore below", open("/tmp/m/kcore", O_RDONLY));
    say("rbind /proc", mount("/proc", "/tmp/m", 0, MS_BIND | MS_REC, 0));
    fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);
    say("write core_pattern", fd);
    fd = open("/proc/sysrq-trigger", O_WRONLY);
    say("write sysrq-trigger", fd < 0 ? fd : write(fd, "?", 0));
    struct stat info;
    say("sysrq-trigger is real", stat("/proc/sysrq-trigger", &info) == 0 && !S_ISCHR(info.st_mode) && !access("/proc/sysrq-trigger", W_OK) ? 0 : (errno = EPERM, -1));
    fd = open("/ro/file", O_WRONLY | O_CREAT, 0644);
    say("write read-only", fd);
    say("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
    say("chroot", chroot("/"));
    return 0;
}

/* nested WHAT ARGUMENT…: in a user and mount namespace of its own, as its root. */
static int enter(char **a) {
    char line[64];
    int uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) { say("unshare", -1); return 0; }
    int fd = open("/proc/self/setgroups", O_WRONLY);
    (void)!write(fd, "deny", 4);
    fd = open("/proc/self/uid_map", O_WRONLY);
    (void)!write(fd, line, sprintf(line, "0 %d 1", uid));
    fd = open("/proc/self/gid_map", O_WRONLY);
    (void)!write(fd, line, sprintf(line, "0 %d 1", gid));
    printf("uid %d\n", getuid());
    fflush(stdout);
    execv("/proc/self/exe", a - 1);
    return 127;
}

/* inject: characters into the terminal on fd 0 and into the controlling one. */
static int inject(char **a) {
    char c = 'x', linux_paste[2] = {3, 0};
    say("TIOCSTI", ioctl(0, TIOCSTI, &c));
    say("TIOCSCTTY", ioctl(0, TIOCSCTTY, 1));
    say("TIOCLINUX", ioctl(0, TIOCLINUX, linux_paste));
    int fd = open("/dev/tty", O_RDWR);
    say("open /dev/tty", fd);
    if (fd >= 0) say("TIOCSTI /dev/tty", ioctl(fd, TIOCSTI, &c));
    return 0;
}

/* ids: real and effective user. */
static int ids(char **a) {
    printf("%d %d\n", getuid(), geteuid());
    return 0;
}

/* reset: the machine. */
static int reset(char **a) {
    say("reboot", reboot(RB_AUTOBOOT));
    return 0;
}

/* clocks: the host's time and name. */
static int clocks(char **a) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    say("clock_settime", clock_settime(CLOCK_REALTIME, &t));
    struct timeval v = {t.tv_sec, t.tv_nsec / 1000};
    say("settimeofday", settimeofday(&v, 0));
    say("sethostname", sethostname("escaped", 7));
    return 0;
}

int main(int argc, char **argv) {
    struct { const char *name; int (*run)(char **); int arguments; } table[] = {
        {"flip", flip, 3}, {"peek", peek, 2}, {"devices", devices, 0}, {"keys", keys, 1}, {"secret", secret, 1},
        {"abstract", abstract, 1}, {"grab", grab, 1}, {"syscalls", syscalls, 0}, {"mounts", mounts, 0},
        {"nested", enter, 1}, {"inject", inject, 0}, {"reset", reset, 0}, {"clocks", clocks, 0},
        {"ids", ids, 0},
    };
    for (unsigned i = 0; argc > 1 && i < sizeof table / sizeof *table; i++)
        if (!strcmp(argv[1], table[i].name) && argc - 2 >= table[i].arguments) return table[i].run(argv + 2);
    fprintf(stderr, "usage: attack WHAT ARGUMENT…\n");
    return 2;
}
