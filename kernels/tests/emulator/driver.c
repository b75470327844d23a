// NVIDIA's driver, as far as Everpair calls it, for a machine that has none: device memory is the
// heap, and a launch runs the kernel in emulator.c. With it the whole of `kernels::cuda` (memory,
// copies, the order and the widths of arguments, counts, passes) is tested from end to end:
//
//   cc -shared -fPIC -I src/cuda -I tests/emulator tests/emulator/driver.c -o DIR/libcuda.so
//   LD_LIBRARY_PATH=DIR:... gpu check --small
//
// Work is done when it is issued, so what it cannot show is a missing wait. Whoever loads it for
// anything but tests gets a very slow device, and it says what it is in its name.

#define EMULATOR_WITHOUT_MAIN
#include "emulator.c"

typedef int result;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };
typedef uint64_t pointer;

#define MEMORY ((size_t)4 << 30)
static size_t used;

// An allocation is preceded by its length, and followed by bytes that must stay as they are.
#define FENCE 64
static const char fence = 0x5a;

static void check_fence(char *at) {
    size_t length = *(size_t *)(at - FENCE);
    for (size_t i = 0; i < FENCE; i++)
        if (at[length + i] != fence) die("a kernel or a copy wrote behind the end of a buffer");
}

result cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
result cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
result cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
result cuDeviceGet(int *device, int number) { return *device = number, SUCCESS; }
result cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = MEMORY, SUCCESS; }
result cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &used, SUCCESS; }
result cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
result cuCtxSetCurrent(void *context) { return SUCCESS; }
result cuCtxGetCurrent(void **context) { return *context = &used, SUCCESS; }
result cuCtxSynchronize(void) { return SUCCESS; }

result cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "Everpair's emulator");
    return SUCCESS;
}

result cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 16: return *value = 2, SUCCESS;   // multiprocessors
    case 75: return *value = 9, SUCCESS;   // compute capability, major
    case 76: return *value = 0, SUCCESS;   // minor
    case 115: return *value = 0, SUCCESS;  // memory pools
    default: return fprintf(stderr, "attribute %d\n", attribute), INVALID_VALUE;
    }
}

result cuGetErrorName(result error, const char **text) {
    return *text = error == OUT_OF_MEMORY ? "out of memory" : "an error", SUCCESS;
}
result cuGetErrorString(result error, const char **text) { return cuGetErrorName(error, text); }

result cuMemGetInfo_v2(size_t *left, size_t *all) {
    return *left = MEMORY - used, *all = MEMORY, SUCCESS;
}

// What is allocated holds garbage, as on a device.
result cuMemAlloc_v2(pointer *to, size_t length) {
    if (length == 0) return INVALID_VALUE;
    if (length > MEMORY - used) return OUT_OF_MEMORY;
    char *at = aligned_alloc(FENCE, (length + 3 * FENCE - 1) / FENCE * FENCE);
    if (!at) return OUT_OF_MEMORY;
    memset(at + FENCE, 0xcd, length < 4096 ? length : 4096);
    memset(at + FENCE + length, fence, FENCE);
    *(size_t *)at = length;
    used += length;
    *to = (pointer)(at + FENCE);
    return SUCCESS;
}

result cuMemFree_v2(pointer from) {
    char *at = (char *)from;
    check_fence(at);
    used -= *(size_t *)(at - FENCE);
    free(at - FENCE);
    return SUCCESS;
}

result cuMemHostAlloc(void **to, size_t length, unsigned flags) {
    return (*to = malloc(length)) ? SUCCESS : OUT_OF_MEMORY;
}
result cuMemFreeHost(void *at) { return free(at), SUCCESS; }

result cuMemsetD8Async(pointer to, unsigned char value, size_t length, void *stream) {
    return memset((void *)to, value, length), SUCCESS;
}
result cuMemcpyHtoDAsync_v2(pointer to, const void *from, size_t length, void *stream) {
    return memcpy((void *)to, from, length), SUCCESS;
}
result cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t length, void *stream) {
    return memcpy(to, (void *)from, length), SUCCESS;
}

result cuMemcpyDtoDAsync_v2(pointer to, pointer from, size_t length, void *stream) {
    return memcpy((void *)to, (void *)from, length), SUCCESS;
}

result cuStreamCreate(void **stream, unsigned flags) { return *stream = &used, SUCCESS; }
result cuStreamDestroy_v2(void *stream) { return SUCCESS; }
result cuStreamSynchronize(void *stream) { return SUCCESS; }
result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return SUCCESS; }
result cuEventCreate(void **event, unsigned flags) { return *event = &used, SUCCESS; }
result cuEventDestroy_v2(void *event) { return SUCCESS; }
result cuEventRecord(void *event, void *stream) { return SUCCESS; }
result cuEventSynchronize(void *event) { return SUCCESS; }
result cuEventElapsedTime_v2(float *milliseconds, void *begin, void *end) {
    return *milliseconds = 1, SUCCESS;
}

// The code is what NVRTC made for a real device: looked at, not run.
result cuModuleLoadData(void **module, const void *image) {
    if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_VALUE;
    return *module = &used, SUCCESS;
}
result cuModuleUnload(void *module) { return SUCCESS; }

static void **given;

#define GIVEN_BUFFER(i) (*(void **)given[i])
#define GIVEN(type, i) (*(type *)given[i])

static void launched_candidates(void) {
    candidates(GIVEN_BUFFER(0), GIVEN_BUFFER(1), GIVEN(uint32, 2), GIVEN_BUFFER(3), GIVEN_BUFFER(4),
               GIVEN(uint32, 5), GIVEN(uint32, 6), GIVEN(int, 7), GIVEN(int, 8), GIVEN(uint32, 9),
               GIVEN_BUFFER(10), GIVEN(uint64, 11), GIVEN_BUFFER(12));
}

static void launched_rescore(void) {
    rescore(GIVEN_BUFFER(0), GIVEN_BUFFER(1), GIVEN(uint32, 2), GIVEN_BUFFER(3), GIVEN(uint64, 4),
            GIVEN(int, 5), GIVEN(int, 6), GIVEN_BUFFER(7), GIVEN_BUFFER(8));
}

result cuModuleGetFunction(void **function, void *module, const char *name) {
    if (!strcmp(name, "candidates")) return *function = launched_candidates, SUCCESS;
    if (!strcmp(name, "rescore")) return *function = launched_rescore, SUCCESS;
    return NOT_FOUND;
}

result cuLaunchKernel(void (*function)(void), unsigned x, unsigned y, unsigned z,
                      unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared,
                      void *stream, void **arguments, void **extra) {
    int one_dimension = y == 1 && z == 1 && threads_y == 1 && threads_z == 1;
    if (x == 0 || !one_dimension || threads_x != THREADS || shared || extra) return INVALID_VALUE;
    given = arguments;
    seed = (seed * 6364136223846793005u + 1442695040888963407u) | 1;
    run(function, x);
    return SUCCESS;
}
