// The words of CUDA that the kernels use, for a C compiler: see emulator.c.

#include <stdint.h>

#define KERNEL void
#define DEVICE static inline
#define __launch_bounds__(threads)
#define __shared__ static
#define __align__(bytes) _Alignas(bytes)

typedef struct { uint32_t x, y; } uint2;
typedef struct { _Alignas(16) int32_t x; int32_t y, z, w; } int4;
typedef struct { uint32_t x, y, z; } dim3;

// Those of the thread that is running.
extern dim3 threadIdx, blockIdx, gridDim;

void __syncthreads(void);
uint64_t shuffle(uint64_t value, uint32_t from);
void multiply_add_tile(int sum[4], const uint32_t a[4], const uint32_t b[2]);

#define LANE (threadIdx.x % 32)
#define __shfl_sync(lanes, value, from) ((__typeof__(value))shuffle(value, from))
#define __shfl_xor_sync(lanes, value, with) ((__typeof__(value))shuffle(value, LANE ^ (with)))
#define __shfl_up_sync(lanes, value, by) \
    ((__typeof__(value))shuffle(value, LANE < (by) ? LANE : LANE - (by)))
#define __popcll(x) ((uint32_t)__builtin_popcountll(x))
#define __ffsll(x) ((uint32_t)__builtin_ffsll((long long)(x)))

static inline uint64_t atomicAdd(unsigned long long *to, uint64_t by) {
    uint64_t before = *to;
    *to += by;
    return before;
}
