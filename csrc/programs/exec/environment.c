/* Building the environment of the command that a launch file starts, from variables in the launch
 * file and from the caller's environment. */
#include "base/base.h"
#include "programs/exec/exec.h"

struct variable {
    const char *entry;
    /* hash of the variable's name, which makes most comparisons of names unnecessary */
    uint64_t hash;
    unsigned round; /* number of the record in the launch file that set the variable */
};

/* A set of environment variables, with each name at most once. */
struct variables {
    struct variable *variable;
    size_t count;
    unsigned round;
};

static size_t name_length(const char *entry)
{
    return strcspn(entry, "=");
}

static uint64_t hash_of(const char *name, size_t length)
{
    uint64_t hash = 14695981039346656037U;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 1099511628211U;
    return hash;
}

/* Adds the variable `entry`, "NAME=VALUE", to the set. Replaces a variable of the same name if an
 * earlier record of the launch file has set it, but not if the current record has. */
static void set_variable(struct variables *variables, const char *entry)
{
    size_t length = name_length(entry), at = 0;
    uint64_t hash = hash_of(entry, length);
    const struct variable *known = variables->variable;
    while (at < variables->count &&
           (known[at].hash != hash || strncmp(known[at].entry, entry, length + 1)))
        at++;
    if (at < variables->count && known[at].round == variables->round)
        return;
    variables->variable[at] = (struct variable){entry, hash, variables->round};
    variables->count += at == variables->count;
}

/* Adds all variables of the caller's environment to the set. If several variables have the same
 * name, adds only the first, which getenv(3) would return. Ignores entries without a name. */
static void set_all(struct variables *variables, char **environment)
{
    for (; *environment; environment++)
        if (**environment != '=' && strchr(*environment, '='))
            set_variable(variables, *environment);
}

static const char *find_variable(char **environment, const char *name)
{
    size_t length = strlen(name);
    for (; *environment; environment++)
        if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
            return *environment;
    return NULL;
}

const char *un_environment_value(char **environment, const char *name)
{
    const char *found = find_variable(environment, name);
    return found ? found + strlen(name) + 1 : NULL;
}

static int apply_record(struct variables *variables, const struct un_record *record,
                        char **environment, struct un_error *err)
{
    const char *found;
    variables->round++;
    switch (record->verb) {
    case UN_VERB_ENV_ALL:
        set_all(variables, environment);
        return 0;
    case UN_VERB_ENV_SET:
        set_variable(variables, record->arguments);
        return 0;
    case UN_VERB_ENV_NAME:
    case UN_VERB_ENV_NEED:
        found = find_variable(environment, record->arguments);
        if (found)
            set_variable(variables, found);
        else if (record->verb == UN_VERB_ENV_NEED)
            return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                           "the launch needs the variable %.200s, which is not set",
                           record->arguments);
        return 0;
    default:
        return 0;
    }
}

/* Returns a NULL-terminated array of the variables, each "NAME=VALUE", or NULL if memory allocation
 * fails. The caller must free the array, but not the variables. */
static const char **list_variables(const struct variables *variables)
{
    const char **entries = calloc(variables->count + 1, sizeof *entries);
    for (size_t i = 0; entries && i < variables->count; i++)
        entries[i] = variables->variable[i].entry;
    return entries;
}

int un_environment_make(const struct un_launch *launch, char **environment, const char ***envp,
                        struct un_error *err)
{
    struct variables variables = {.count = 0};
    *envp = NULL;
    size_t most = launch->record_count + 1;
    for (char **entry = environment; *entry; entry++)
        most++;
    variables.variable = calloc(most, sizeof *variables.variable);
    if (!variables.variable)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    int failed = 0;
    for (size_t i = 0; !failed && i < launch->record_count; i++)
        failed = apply_record(&variables, &launch->record[i], environment, err);
    *envp = failed ? NULL : list_variables(&variables);
    if (!failed && !*envp)
        failed = un_fail_errno(err, UN_STEP_LAUNCH, "");
    free(variables.variable);
    return failed;
}
