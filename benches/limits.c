// What this machine can do at best: memory read bandwidth, and the peak rates of 8-bit products, of
// those with a scale every 32 columns, of bfloat16 and 32-bit products, for 1 to N threads. x86-64 with AVX2 at the least; rates need what they name.
//
//   cc -O3 -march=native -pthread benches/limits.c -o target/limits && target/limits [THREADS [LIMIT]]
//
// Prints one JSON object a line: {"limit", "threads", "unit", "median", "least", "most"}. A
// multiply-add is two operations.
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 5, MOST_THREADS = 64, CHAINS = 12, STEPS = 20 * 1000 * 1000 };

static size_t share_bytes;  // what a thread reads in a round
static volatile unsigned long long sink;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Reads a thread's share once, in four streams.
static double read_streams(const char *from) {
  const __m256i *p = (const __m256i *)from;
  size_t n = share_bytes / 32, part = n / 4;
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i < part; i++) {
    a = _mm256_add_epi64(a, p[i]);
    b = _mm256_add_epi64(b, p[part + i]);
    c = _mm256_add_epi64(c, p[2 * part + i]);
    d = _mm256_add_epi64(d, p[3 * part + i]);
  }
  a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
  sink += _mm256_extract_epi64(a, 0);
  return share_bytes;
}

// Reads a thread's share once from front to back, asking for lines two kilobytes ahead.
static double read_ahead(const char *from) {
  const __m256i *p = (const __m256i *)from;
  __m256i a = _mm256_setzero_si256(), b = a;
  for (size_t i = 0; i < share_bytes / 32; i += 2) {
    _mm_prefetch((const char *)(p + i) + 2048, _MM_HINT_NTA);
    a = _mm256_add_epi64(a, p[i]);
    b = _mm256_add_epi64(b, p[i + 1]);
  }
  sink += _mm256_extract_epi64(_mm256_add_epi64(a, b), 0);
  return share_bytes;
}

// Twelve chains of one instruction, as many as its latency needs.
#define CHAINS_OF(TYPE, INSTRUCTION, OPERATIONS)                                                     \
  TYPE sums[CHAINS] = {0}, x = {0}, y = {0};                                                         \
  (void)unused;                                                                                      \
  for (long i = 0; i < STEPS; i++)                                                                   \
    _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) __asm__ volatile(INSTRUCTION : "+v"(sums[c]) : "v"(x), "v"(y)); \
  return (double)STEPS * CHAINS * (OPERATIONS);

#ifdef __AVX512F__
static double products_f32(const char *unused) { CHAINS_OF(__m512, "vfmadd231ps %2, %1, %0", 32) }
#else
static double products_f32(const char *unused) { CHAINS_OF(__m256, "vfmadd231ps %2, %1, %0", 16) }
#endif
#ifdef __AVX512VNNI__
static double products_int8(const char *unused) { CHAINS_OF(__m512i, "vpdpbusd %2, %1, %0", 128) }
#endif
#ifdef __AVX512VNNI__
// Products of 8 tokens by 32 rows with a scale every 32 columns, times a power of two of the token's, from the
// first-level cache: what a quantised matrix product could do if nothing else had to be done.
enum { TOKENS = 8, GROUPS = 2, BLOCKS = 8 };
struct weights {
  signed char codes[8][64];
  float scale[16];
};
struct activations {
  int codes[8][TOKENS];
  float power[TOKENS];
};
static double products_scaled(const char *unused) {
  _Alignas(64) struct weights w[GROUPS][BLOCKS] = {0};
  struct activations x[BLOCKS] = {0};
  (void)unused;
  __m512 sums[TOKENS * GROUPS] = {0};
  for (long i = 0; i < STEPS / 200; i++) {
    __asm__ volatile("" : : "r"(w), "r"(x) : "memory");  // they may have changed
    for (int b = 0; b < BLOCKS; b++) {
      __m512i whole[TOKENS * GROUPS] = {0};
      _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++)
      _Pragma("GCC unroll 8") for (int t = 0; t < TOKENS; t++)
      _Pragma("GCC unroll 2") for (int g = 0; g < GROUPS; g++)
        whole[2 * t + g] = _mm512_dpbusd_epi32(whole[2 * t + g], _mm512_loadu_si512(w[g][b].codes[j]),
                                               _mm512_set1_epi32(x[b].codes[j][t]));
      _Pragma("GCC unroll 8") for (int t = 0; t < TOKENS; t++)
      _Pragma("GCC unroll 2") for (int g = 0; g < GROUPS; g++) {
        __m512 scale = _mm512_scalef_ps(_mm512_loadu_ps(w[g][b].scale), _mm512_set1_ps(x[b].power[t]));
        sums[2 * t + g] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(whole[2 * t + g]), sums[2 * t + g]);
      }
    }
  }
  for (int i = 0; i < TOKENS * GROUPS; i++) sink += _mm512_reduce_add_ps(sums[i]);
  return (double)(STEPS / 200) * BLOCKS * TOKENS * GROUPS * 16 * 32 * 2;
}
#endif
#ifdef __AVX512BF16__
static double products_bf16(const char *unused) { CHAINS_OF(__m512i, "vdpbf16ps %2, %1, %0", 64) }
#endif

struct work {
  double (*run)(const char *);
  const char *memory;
  pthread_barrier_t *start;
  double done, seconds;
};

static void *thread(void *of) {
  struct work *w = of;
  w->run(w->memory);  // warm
  pthread_barrier_wait(w->start);
  double started = now();
  w->done = w->run(w->memory);
  w->seconds = now() - started;
  return 0;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef double (*way)(const char *);

// Rates of a way, in ascending order.
static void measure(way run, const char *memory, int threads, double rates[ROUNDS]) {
  for (int r = 0; r < ROUNDS; r++) {
    pthread_t ids[MOST_THREADS];
    struct work work[MOST_THREADS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, 0, threads);
    for (int i = 0; i < threads; i++) {
      work[i] = (struct work){run, memory + i * share_bytes, &start, 0, 0};
      if (pthread_create(&ids[i], 0, thread, &work[i])) exit(1);
    }
    double done = 0, longest = 0;
    for (int i = 0; i < threads; i++) {
      pthread_join(ids[i], 0);
      done += work[i].done;
      if (work[i].seconds > longest) longest = work[i].seconds;
    }
    pthread_barrier_destroy(&start);
    rates[r] = 1e-9 * done / longest;
  }
  qsort(rates, ROUNDS, sizeof *rates, ascending);
}

static const char *wanted;  // the name of a limit; all, if null

// Prints the rates of the better of two ways; the second may be absent.
static void limit(const char *name, const char *unit, way first, way second, const char *memory, int threads) {
  if (wanted && strcmp(wanted, name)) return;
  double rates[ROUNDS], others[ROUNDS], *best = rates;
  measure(first, memory, threads, rates);
  if (second) {
    measure(second, memory, threads, others);
    if (others[ROUNDS / 2] > rates[ROUNDS / 2]) best = others;
  }
  printf("{\"limit\": \"%s\", \"threads\": %d, \"unit\": \"%s\", \"median\": %.1f, \"least\": %.1f, \"most\": %.1f}\n",
         name, threads, unit, best[ROUNDS / 2], best[0], best[ROUNDS - 1]);
  fflush(stdout);
}

int main(int argc, char **argv) {
  int most = argc > 1 ? atoi(argv[1]) : 2;
  if (most < 1 || most > MOST_THREADS) {
    fprintf(stderr, "limits: %s threads; choose 1 to %d\n", argv[1], MOST_THREADS);
    return 2;
  }
  wanted = argc > 2 ? argv[2] : 0;
  share_bytes = ((size_t)1 << 30) / most & ~(size_t)4095;
  size_t all = share_bytes * most;
  char *memory = mmap(0, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    perror("limits: memory");
    return 1;
  }
  madvise(memory, all, MADV_HUGEPAGE);
  memset(memory, 1, all);
  for (int threads = 1; threads <= most; threads *= 2) {
    limit("memory", "GB/s", read_streams, read_ahead, memory, threads);
#ifdef __AVX512VNNI__
    limit("int8", "GOP/s", products_int8, 0, memory, threads);
    limit("int8, scaled", "GOP/s", products_scaled, 0, memory, threads);
#endif
#ifdef __AVX512BF16__
    limit("bf16", "GOP/s", products_bf16, 0, memory, threads);
#endif
    limit("f32", "GOP/s", products_f32, 0, memory, threads);
  }
  return 0;
}
