// A plugin for qemu's user emulation: counts executed instructions, all of them and those of each
// kind, and prints them at exit. The prototypes are those of qemu's plugin interface, version 1.
//
//   cc -O2 -shared -fPIC count.c -o libcount.so
//   qemu-aarch64 -cpu max -plugin ./libcount.so,out=FILE PROGRAM …
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

// By the main encoding table of the Arm architecture reference manual: bits 28..25.
enum { VECTOR, MEMORY, BRANCH, SCALAR, KINDS };
static const char *const names[KINDS] = {"vector", "memory", "branch", "scalar"};
static uint64_t counts[KINDS];
static char out[4096];

static int kind_of(uint32_t word) {
  uint32_t op0 = word >> 25 & 15;
  if ((op0 & 7) == 7) return VECTOR;
  if ((op0 & 5) == 4) return MEMORY;
  if ((op0 & 14) == 10) return BRANCH;
  return SCALAR;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
  (void)id;
  size_t n = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < n; i++) {
    struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
    // 0: add to a number of 64 bits.
    qemu_plugin_register_vcpu_insn_exec_inline(insn, 0, &counts[kind_of(word)], 1);
  }
}

static void ended(plugin_id id, void *data) {
  (void)id, (void)data;
  FILE *to = out[0] ? fopen(out, "w") : stderr;
  if (!to) return;
  uint64_t all = 0;
  for (int k = 0; k < KINDS; k++) all += counts[k];
  fprintf(to, "all %llu", (unsigned long long)all);
  for (int k = 0; k < KINDS; k++) fprintf(to, " %s %llu", names[k], (unsigned long long)counts[k]);
  fprintf(to, "\n");
  if (to != stderr) fclose(to);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; i++)
    if (!strncmp(argv[i], "out=", 4)) snprintf(out, sizeof out, "%s", argv[i] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
