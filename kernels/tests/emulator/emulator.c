// Runs the kernels of src/cuda on a CPU, from their own text, so that a machine without a GPU
// still tests their index arithmetic, their barriers and their bounds.
//
//   emulator KERNEL BLOCKS SEED < arguments > results
//
// A block's threads are contexts of one thread of the machine. Each runs until it has to wait for
// others: for its block at a barrier, for its warp wherever lanes exchange values. Who goes on is
// drawn from SEED, so what lacks a barrier gives other results for other seeds. Blocks follow each
// other in an order drawn as well. Built with the address and undefined-behaviour sanitizers, it
// stops at the first access outside a buffer, misaligned access or signed overflow.
//
// An argument is its length in bytes (64 bits, little-endian) and its bytes, buffers and numbers
// alike; the results are those of the kernel's output buffers, in the same form.

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "warp.cuh"

#include "candidates.cu"
#include "rescore.cu"

#define STACK_BYTES (64 << 10)

dim3 threadIdx, blockIdx, gridDim;

typedef enum { NEW, READY, AT_WARP, AT_BLOCK, DONE } state;

// A context starts a thread; from then on it is left and entered by jumps, which cost no system
// call.
static ucontext_t contexts[THREADS];
static jmp_buf scheduler, places[THREADS];
static char *stacks[THREADS];
static state states[THREADS];
// What lanes exchange, for two exchanges in turn: a lane can be in the next while another still
// reads from this one, but not further.
static uint64_t words[2][THREADS];
static uint32_t fragments[2][THREADS][6];
static uint32_t exchanges[THREADS];
static uint64_t seed;
static void (*kernel)(void);

static void die(const char *what) {
    fprintf(stderr, "emulator: %s\n", what);
    exit(1);
}

// xorshift64*, Vigna 2016.
static uint32_t below(uint32_t n) {
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return (uint32_t)((seed * 0x2545f4914f6cdd1dull) >> 33) % n;
}

static void wait_for(state others) {
    uint32_t me = threadIdx.x;
    states[me] = others;
    if (!_setjmp(places[me])) _longjmp(scheduler, 1);
}

void __syncthreads(void) { wait_for(AT_BLOCK); }

uint64_t shuffle(uint64_t value, uint32_t from) {
    uint32_t me = threadIdx.x, turn = exchanges[me]++ % 2;
    words[turn][me] = value;
    wait_for(AT_WARP);
    return words[turn][me / WARP * WARP + from];
}

static int byte_of(uint32_t word, uint32_t i) { return (signed char)(word >> (8 * i)); }

void multiply_add_tile(int sum[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t me = threadIdx.x, first = me / WARP * WARP, lane = me % WARP;
    uint32_t(*there)[6] = fragments[exchanges[me]++ % 2];
    memcpy(there[me], a, 16);
    memcpy(there[me] + 4, b, 8);
    wait_for(AT_WARP);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        for (uint32_t k = 0; k < 32; k++) {
            uint32_t of_row = first + row % 8 * 4 + k % 16 / 4;
            uint32_t of_column = first + column * 4 + k % 16 / 4;
            uint32_t x = there[of_row][row / 8 + k / 16 * 2];
            uint32_t y = there[of_column][4 + k / 16];
            sum[i] += byte_of(x, k % 4) * byte_of(y, k % 4);
        }
    }
}

static void thread(void) {
    kernel();
    states[threadIdx.x] = DONE;
    _longjmp(scheduler, 1);
}

// Lets threads go on whose warp, or whose block, has arrived in full.
static int release(void) {
    int freed = 0;
    for (uint32_t first = 0; first < THREADS; first += WARP) {
        int all = 1;
        for (uint32_t i = first; i < first + WARP; i++) all &= states[i] == AT_WARP;
        for (uint32_t i = first; all && i < first + WARP; i++) states[i] = READY;
        freed |= all;
    }
    int all = 1;
    for (uint32_t i = 0; i < THREADS; i++) all &= states[i] == AT_BLOCK;
    for (uint32_t i = 0; all && i < THREADS; i++) states[i] = READY;
    return freed | all;
}

// Runs thread `next` until it waits or ends.
static void enter(uint32_t next) {
    int begins = states[next] == NEW;
    threadIdx.x = next;
    states[next] = READY;
    if (_setjmp(scheduler)) return;
    if (begins) setcontext(&contexts[next]);
    _longjmp(places[next], 1);
}

static void run_block(void) {
    for (uint32_t i = 0; i < THREADS; i++) {
        getcontext(&contexts[i]);
        if (!stacks[i]) stacks[i] = malloc(STACK_BYTES);
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = STACK_BYTES;
        contexts[i].uc_link = NULL;
        makecontext(&contexts[i], thread, 0);
        states[i] = NEW;
        exchanges[i] = 0;
    }
    for (;;) {
        uint32_t ready[THREADS], n = 0, done = 0;
        for (uint32_t i = 0; i < THREADS; i++) {
            if (states[i] == NEW || states[i] == READY) ready[n++] = i;
            done += states[i] == DONE;
        }
        if (done == THREADS) return;
        if (n == 0 && !release())
            die("threads wait for others that have ended or wait elsewhere");
        while (n > 0) {
            uint32_t pick = below(n), next = ready[pick];
            ready[pick] = ready[--n];
            enter(next);
        }
    }
}

static void run(void (*body)(void), uint32_t blocks) {
    kernel = body;
    gridDim.x = blocks;
    uint32_t *order = malloc((blocks + 1) * sizeof *order);
    for (uint32_t i = 0; i < blocks; i++) order[i] = i;
    for (uint32_t n = blocks; n > 0; n--) {
        uint32_t pick = below(n);
        blockIdx.x = order[pick];
        order[pick] = order[n - 1];
        run_block();
    }
    free(order);
}

#ifndef EMULATOR_WITHOUT_MAIN
typedef struct {
    uint64_t length;
    void *bytes;
} argument;

static argument arguments[16];

// Each buffer is an allocation of exactly its length, which the sanitizer guards on both sides.
static void read_arguments(int n) {
    for (int i = 0; i < n; i++) {
        if (fread(&arguments[i].length, 8, 1, stdin) != 1) die("too few arguments");
        arguments[i].bytes = malloc(arguments[i].length);
        uint64_t got = fread(arguments[i].bytes, 1, arguments[i].length, stdin);
        if (got != arguments[i].length) die("an argument is cut off");
    }
}

static void write_result(int i) {
    fwrite(&arguments[i].length, 8, 1, stdout);
    fwrite(arguments[i].bytes, 1, arguments[i].length, stdout);
}

#define BUFFER(i) arguments[i].bytes
#define NUMBER(type, i) (*(type *)arguments[i].bytes)

static void run_candidates(void) {
    candidates(BUFFER(0), BUFFER(1), NUMBER(uint32, 2), BUFFER(3), BUFFER(4), NUMBER(uint32, 5),
               NUMBER(uint32, 6), NUMBER(int, 7), NUMBER(int, 8), NUMBER(uint32, 9), BUFFER(10),
               NUMBER(uint64, 11), BUFFER(12));
}

static void run_rescore(void) {
    rescore(BUFFER(0), BUFFER(1), NUMBER(uint32, 2), BUFFER(3), NUMBER(uint64, 4), NUMBER(int, 5),
            NUMBER(int, 6), BUFFER(7), BUFFER(8));
}

int main(int argc, char **argv) {
    if (argc != 4) die("emulator KERNEL BLOCKS SEED < arguments > results");
    uint32_t blocks = (uint32_t)strtoul(argv[2], NULL, 10);
    seed = strtoull(argv[3], NULL, 10) | 1;
    if (!strcmp(argv[1], "candidates")) {
        read_arguments(13);
        run(run_candidates, blocks);
        write_result(10), write_result(12);
    } else if (!strcmp(argv[1], "rescore")) {
        read_arguments(9);
        run(run_rescore, blocks);
        write_result(7), write_result(8);
    } else {
        die("no such kernel");
    }
    return 0;
}
#endif
