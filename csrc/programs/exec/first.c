#include "programs/exec/first.h"
#include "child/enter.h"
#include "map/plan.h"
#include "programs/exec/failure.h"
#include "programs/exec/identity.h"
#include "programs/exec/options.h"
#include "sys/map_files.h"
#include "sys/self.h"

#include <elf.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>

#ifdef UN_MOVABLE
/* The program may be anywhere in memory, and libc has not yet put the addresses into the data that
 * depend on where: we do so in our own (first.ld), and libc will once more. False: they are packed
 * in a way that can be done but once. */
static bool relocate(void)
{
    extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
    extern const Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));
    extern const char un_first_data[] __attribute__((visibility("hidden")));
    extern const char un_first_data_end[] __attribute__((visibility("hidden")));
#if defined(__x86_64__)
    const unsigned relative = R_X86_64_RELATIVE;
    const uintptr_t *const guard = NULL;
#else
    extern uintptr_t __stack_chk_guard;
    const unsigned relative = R_AARCH64_RELATIVE;
    /* gcc has each function look up in libc's table where that is. */
    const uintptr_t *const guard = &__stack_chk_guard;
#endif
    const Elf64_Addr base = (Elf64_Addr)&__ehdr_start;
    const Elf64_Rela *at = NULL;
    size_t size = 0;
    for (const Elf64_Dyn *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_RELA)
            at = (const Elf64_Rela *)(base + entry->d_un.d_ptr);
        else if (entry->d_tag == DT_RELASZ)
            size = entry->d_un.d_val;
        else if (entry->d_tag == 36) /* DT_RELR */
            return false;
    }
    for (size_t i = 0; i < size / sizeof *at; i++) {
        Elf64_Addr to = base + at[i].r_offset;
        bool is_ours = to >= (Elf64_Addr)un_first_data && to < (Elf64_Addr)un_first_data_end;
        if (guard && base + (Elf64_Addr)at[i].r_addend == (Elf64_Addr)guard)
            is_ours = true;
        if (is_ours && ELF64_R_TYPE(at[i].r_info) == relative)
            *(Elf64_Addr *)to = base + (Elf64_Addr)at[i].r_addend;
    }
    return true;
}
#else
static bool relocate(void)
{
    return true;
}
#endif

static const char *path_in(char **environment)
{
    for (; *environment; environment++)
        if (!strncmp(*environment, "PATH=", strlen("PATH=")))
            return *environment + strlen("PATH=");
    return NULL;
}

/* False: that is main()'s. */
static bool plan(struct un_options *options, struct un_facts *facts, struct un_plan *plan)
{
    struct un_error ignored;
    const struct un_request *request = &options->request;
    return !un_facts_read(facts, &ignored) && !un_plan_needs_parents(request, facts) &&
           !un_plan_needs_ranges(request, facts) && !un_plan_make(request, facts, plan, &ignored) &&
           un_plan_writes_itself(plan);
}

static void become_command(struct un_options *options, char **environment, struct un_error *err)
{
    const struct un_command command = {
        .file = options->command[0],
        .path = path_in(environment),
        .argv = options->command,
        .envp = (const char *const *)environment,
    };
    if (!un_setup_apply(&options->setup, err))
        un_exec(&command, err);
}

/* Not a part of un_first(): to protect its stack takes relocate(). */
__attribute__((noinline)) static void begin(int argc, char **argv, char **environment)
{
    /* More than a small stack holds. */
    static struct un_options options;
    static struct un_facts facts;
    static struct un_plan planned;
    static char text[2][UN_MAP_TEXT_MAX];
    struct un_own_maps maps;
    struct un_error err;
    if (!strcmp(argv[0], UN_CHILD_NAME))
        un_child_main(argv, environment);
    if (un_options_parse(argc, argv, &options, &err) || options.needs_libc || options.fork ||
        options.hold >= 0 || options.action != UN_RUN || !plan(&options, &facts, &planned))
        return;
    un_own_maps_of(&planned, text, &maps);
    if (un_close_fds(options.keep, options.keep_count, &err))
        return;
    un_hide_process();
    if (un_make_and_map(options.flags | CLONE_NEWUSER, &maps, &err)) {
        /* Then nothing was made, and main() fails as well, and finds out why. */
        if (err.step == UN_STEP_UNSHARE)
            return;
    } else {
        un_take_identity(&planned, &facts, true, &options.setup);
        become_command(&options, environment, &err);
    }
    un_first_failure = err;
}

void un_first(int argc, char **argv, char **environment)
{
    if (argc && !getauxval(AT_SECURE) && relocate())
        begin(argc, argv, environment);
}
