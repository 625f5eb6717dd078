// What two threads of this machine can do at most: prints `GFLOP/s GB/s`, of multiply-adds of f32 in registers and of
// reading memory. run.sh compiles it for the processor at hand.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS = 2, ROUNDS = 5, CHAINS = 12, STEPS = 20 * 1000 * 1000 };
static const size_t FLOATS = 64u << 20;

#ifdef __AVX512F__
enum { BYTES = 64 };
#else
enum { BYTES = 32 };
#endif
typedef float vector __attribute__((vector_size(BYTES)));
enum { LANES = BYTES / sizeof(float) };

static pthread_barrier_t barrier;
static float *memory[THREADS];
static volatile float sink[THREADS];

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

static float first(vector v) { return v[0]; }

static void multiply_add(int thread) {
  // More chains than a multiply-add takes cycles, and each another one, or the compiler would compute one for all.
  vector sum[CHAINS];
  for (int chain = 0; chain < CHAINS; chain++) sum[chain] = (vector){0} + (sink[thread] + (float)chain);
  vector factor = (vector){0} + 0.999f, term = (vector){0} + 1e-3f;
  for (int step = 0; step < STEPS; step++)
    for (int chain = 0; chain < CHAINS; chain++) sum[chain] = sum[chain] * factor + term;
  for (int chain = 1; chain < CHAINS; chain++) sum[0] += sum[chain];
  sink[thread] = first(sum[0]);
}

static void read_memory(int thread) {
  vector sum[8] = {{0}};
  const vector *from = (const vector *)memory[thread];
  for (size_t at = 0; at < FLOATS / LANES; at += 8)
    for (int part = 0; part < 8; part++) sum[part] += from[at + part];
  for (int part = 1; part < 8; part++) sum[0] += sum[part];
  sink[thread] = first(sum[0]);
}

static double taken[2][ROUNDS];

static void *run(void *argument) {
  int thread = (int)(size_t)argument;
  memory[thread] = aligned_alloc(BYTES, FLOATS * sizeof(float));
  if (!memory[thread]) exit(1);
  for (size_t at = 0; at < FLOATS; at++) memory[thread][at] = 1;
  void (*work[2])(int) = {multiply_add, read_memory};
  for (int round = 0; round < ROUNDS; round++)
    for (int kind = 0; kind < 2; kind++) {
      pthread_barrier_wait(&barrier);
      double start = seconds();
      work[kind](thread);
      pthread_barrier_wait(&barrier);
      if (thread == 0) taken[kind][round] = seconds() - start;
    }
  return NULL;
}

static double least(const double *values) {
  double least = values[0];
  for (int round = 1; round < ROUNDS; round++)
    if (values[round] < least) least = values[round];
  return least;
}

int main(void) {
  pthread_t threads[THREADS];
  pthread_barrier_init(&barrier, NULL, THREADS);
  for (int thread = 0; thread < THREADS; thread++) pthread_create(&threads[thread], NULL, run, (void *)(size_t)thread);
  for (int thread = 0; thread < THREADS; thread++) pthread_join(threads[thread], NULL);
  double flops = 2.0 * LANES * CHAINS * (double)STEPS * THREADS;
  double bytes = (double)FLOATS * sizeof(float) * THREADS;
  printf("%.0f %.0f\n", flops / least(taken[0]) / 1e9, bytes / least(taken[1]) / 1e9);
  return 0;
}
