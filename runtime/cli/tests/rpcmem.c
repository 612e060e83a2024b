/* Memory by the interface of libcdsprpc.so, for trying out what is done with it: from memfd_create, as there is no
 * chip. Notes in the file RPCMEM_LOG what is taken and given back; has no more than RPCMEM_MOST bytes in all. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PIECES = 4096 };

static struct {
    void *memory;
    size_t bytes;
    int fd;
} pieces[PIECES];
static size_t taken;

static void note(const char *what, size_t bytes) {
    const char *path = getenv("RPCMEM_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%s %zu\n", what, bytes);
        fclose(log);
    }
}

void *rpcmem_alloc(int heap, uint32_t flags, int bytes) {
    const char *most = getenv("RPCMEM_MOST");
    if (heap != 25 || flags != 1 || bytes <= 0) return NULL;
    if (most && taken + (size_t)bytes > strtoull(most, NULL, 10)) return NULL;
    for (int i = 0; i < PIECES; i++) {
        if (pieces[i].memory) continue;
        int fd = memfd_create("rpcmem", 0);
        if (fd < 0 || ftruncate(fd, bytes) != 0) return NULL;
        void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) return NULL;
        pieces[i].memory = memory;
        pieces[i].bytes = (size_t)bytes;
        pieces[i].fd = fd;
        taken += (size_t)bytes;
        note("taken", (size_t)bytes);
        return memory;
    }
    return NULL;
}

int rpcmem_to_fd(void *memory) {
    for (int i = 0; i < PIECES; i++)
        if (memory && pieces[i].memory == memory) return pieces[i].fd;
    return -1;
}

void rpcmem_free(void *memory) {
    for (int i = 0; i < PIECES; i++) {
        if (!memory || pieces[i].memory != memory) continue;
        note("given back", pieces[i].bytes);
        munmap(memory, pieces[i].bytes);
        close(pieces[i].fd);
        taken -= pieces[i].bytes;
        pieces[i].memory = NULL;
        return;
    }
    note("unknown", 0);
}
