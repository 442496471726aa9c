/* What first.c needs of a libc, beside what usernsctl-child does (child/libc.c). Where it knows
 * less than libc does, it says that something is wrong: then main() is asked. */
#include "base/freestanding.h"
#include "programs/exec/first.h"

#include <elf.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

/* What -fstack-protector compares: the kernel draws it by lot. */
uintptr_t __stack_chk_guard;

void __stack_chk_fail(void)
{
    _exit(127);
}

static const Elf64_auxv_t *auxiliary;

unsigned long getauxval(unsigned long type)
{
    for (const Elf64_auxv_t *at = auxiliary; at->a_type != AT_NULL; at++)
        if (at->a_type == type)
            return at->a_un.a_val;
    return 0;
}

static void start(long *stack)
{
    char **words = (char **)(stack + 1), **environment = words + stack[0] + 1, **end = environment;
    while (*end)
        end++;
    auxiliary = (const void *)(end + 1);
    const uintptr_t *random = (const uintptr_t *)getauxval(AT_RANDOM);
    __stack_chk_guard = random ? *random & ~(uintptr_t)0xff : 0;
    un_first((int)stack[0], words, environment);
}

static int result_of(long result)
{
    if (result >= 0)
        return (int)result;
    errno = (int)-result;
    return -1;
}

uid_t geteuid(void)
{
    return (uid_t)un_raw_call(__NR_geteuid, 0, 0, 0, 0, 0, 0);
}

gid_t getegid(void)
{
    return (gid_t)un_raw_call(__NR_getegid, 0, 0, 0, 0, 0, 0);
}

int fstatfs(int fd, struct statfs *status)
{
    return result_of(un_raw_call(__NR_fstatfs, fd, (long)status, 0, 0, 0, 0));
}

int getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
    return result_of(un_raw_call(__NR_prlimit64, 0, resource, 0, (long)limit, 0, 0));
}

/* To check that a map takes less than a page: what is planned here is a line. */
long sysconf(int name)
{
    (void)name;
    return 4096;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

int strncmp(const char *a, const char *b, size_t most)
{
    for (; most && *a && *a == *b; most--)
        a++, b++;
    return most ? (unsigned char)*a - (unsigned char)*b : 0;
}

char *strchr(const char *text, int letter)
{
    while (*text && *text != (char)letter)
        text++;
    return *text == (char)letter ? (char *)text : NULL;
}

void *memmove(void *to, const void *from, size_t size)
{
    char *at = to;
    const char *source = from;
    if (at <= source)
        return memcpy(to, from, size);
    while (size--)
        at[size] = source[size];
    return to;
}

/* The words of a failure are main()'s. */
int vsnprintf(char *text, size_t size, const char *format, va_list arguments)
{
    (void)format, (void)arguments;
    if (size)
        *text = '\0';
    return 0;
}

int __libc_current_sigrtmax(void)
{
    return 64;
}

char *optarg;
int optind = 1, opterr, optopt;
/* What of a word like -rm was taken. */
static int at_letter;

static int take_value(int argc, char **argv, const char *rest, int needed, int found)
{
    optarg = NULL;
    if (needed == no_argument)
        return rest ? '?' : found;
    if (rest || needed == optional_argument) {
        optarg = (char *)rest;
        return found;
    }
    if (optind == argc)
        return ':';
    optarg = argv[optind++];
    return found;
}

static int take_long(int argc, char **argv, const char *name, const struct option *options)
{
    for (; options->name; options++) {
        size_t length = strlen(options->name);
        if (strncmp(name, options->name, length) || (name[length] && name[length] != '='))
            continue;
        return take_value(argc, argv, name[length] ? name + length + 1 : NULL, options->has_arg,
                          options->val);
    }
    /* Or one that is shortened. */
    return '?';
}

int getopt_long(int argc, char *const words[], const char *letters, const struct option *options,
                int *which)
{
    char **argv = (char **)words;
    (void)which;
    if (optind == 0) {
        optind = 1;
        at_letter = 0;
    }
    if (at_letter == 0) {
        if (optind >= argc || argv[optind][0] != '-' || !argv[optind][1])
            return -1;
        const char *word = argv[optind] + 1;
        if (*word == '-') {
            optind++;
            return word[1] ? take_long(argc, argv, word + 1, options) : -1;
        }
        at_letter = 1;
    }
    const char *rest = argv[optind] + at_letter;
    const char *known = *rest == ':' || *rest == '+' ? NULL : strchr(letters, *rest);
    if (!known)
        return '?';
    if (known[1] == ':') {
        at_letter = 0;
        optind++;
        return take_value(argc, argv, rest[1] ? rest + 1 : NULL, required_argument, *rest);
    }
    at_letter++;
    if (!rest[1]) {
        at_letter = 0;
        optind++;
    }
    return *rest;
}
