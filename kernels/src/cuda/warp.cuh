// What every kernel here begins with: names of types, and what the lanes of a warp do together.
//
// The kernels are C that CUDA's compiler and a C compiler both take. `tests/emulator` runs them on a
// CPU, unchanged: it brings its own forms of what stands between #ifdef and #else.

typedef signed char int8;
typedef unsigned int uint32;
typedef unsigned long long uint64;

#define WARP 32
#define ALL_LANES 0xffffffffu

#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

// Adds the product of a 16 × 32 and a 32 × 8 tile of 8-bit integers to a 16 × 8 tile of sums, a
// warp's worth. Fragments as PTX ISA 7.0 gives them for mma.m16n8k32 with .s8: with g = lane / 4 and
// t = lane % 4, `a` holds rows g, g + 8, g, g + 8 at bytes 4t, 4t, 16 + 4t, 16 + 4t; `b` holds column
// g at bytes 4t and 16 + 4t; `sum` holds row g at columns 2t, 2t + 1, then row g + 8 at the same.
DEVICE void multiply_add_tile(int sum[4], const uint32 a[4], const uint32 b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
#include "emulator.h"
#endif

// Reserves `mine` places behind `*count` for this lane and returns the first of them; lanes lie in
// order, and one addition to memory serves the warp. `*count` goes on past the end of what it
// counts: whoever writes checks, and the count tells how much room there should have been.
DEVICE uint64 append(uint64 *count, uint32 mine) {
    uint32 lane = threadIdx.x % WARP;
    uint32 upto = mine;
    for (uint32 step = 1; step < WARP; step *= 2) {
        uint32 before = __shfl_up_sync(ALL_LANES, upto, step);
        if (lane >= step) upto += before;
    }
    uint32 all = __shfl_sync(ALL_LANES, upto, WARP - 1);
    if (all == 0) return 0;
    uint64 first = 0;
    if (lane == WARP - 1) first = atomicAdd(count, (uint64)all);
    first = __shfl_sync(ALL_LANES, first, WARP - 1);
    return first + upto - mine;
}
