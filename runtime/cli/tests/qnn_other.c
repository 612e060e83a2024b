/* A library like Qualcomm's of another version: the functions of the one that QNN_REAL names, with the minor number
   QNN_MINOR of the core API, and a word on standard output when a graph is compiled, as versions before 2.40 have. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

struct interface {
    unsigned backend;
    const char *name;
    unsigned core[3], version[3];
    void *table[72];
};
typedef unsigned long long (*providers)(const struct interface ***, unsigned *);
typedef unsigned long long (*finalize)(void *, void *, void *);

static struct interface other;
static const struct interface *list = &other;
static finalize compile;

static unsigned long long loudly(void *graph, void *profile, void *signal) {
    puts("Starting stage");
    return compile(graph, profile, signal);
}

unsigned long long QnnInterface_getProviders(const struct interface ***found, unsigned *count) {
    void *real = dlopen(getenv("QNN_REAL"), RTLD_NOW | RTLD_LOCAL);
    providers get = real ? (providers)dlsym(real, "QnnInterface_getProviders") : 0;
    const struct interface **all;
    unsigned n;
    if (!get || get(&all, &n) || !n) return 1;
    other = *all[0];
    other.core[1] = (unsigned)atoi(getenv("QNN_MINOR"));
    compile = (finalize)other.table[19];
    if (other.core[1] < 40) other.table[19] = (void *)loudly;
    *found = &list;
    *count = 1;
    return 0;
}
